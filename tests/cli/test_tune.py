"""`icm-api tune` through the vendors' SDKs, against hosts on loopback that speak their wire formats."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from icm_api.client.retry import RetryPolicy
from icm_api.errors import BudgetError
from icm_api.providers.tuning import HOSTS, Estimate
from icm_api.run.tune import refuse_dearer
from tests.servers.tuning import DROP, Asked, OpenAITuning, Said, TogetherTuning, TuningServer

KEY = "secret-key-of-a-test"
LAUNCH = {"together": "POST /v1/fine-tunes", "openai": "POST /v1/fine_tuning/jobs"}
JOBS = {"together": "GET /v1/fine-tunes", "openai": "GET /v1/fine_tuning/jobs"}
CLASSIFY = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--display", "none")
PREFERENCE = ("--task", "preference", "--provider", "synthetic", "--display", "none")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No waiting, and no key of this machine."""
    monkeypatch.setattr("icm_api.run.tune.RetryPolicy", lambda: RetryPolicy(attempts=3, first_wait_s=0))
    for name in ("TOGETHER_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TUNING_KEY", KEY)


@pytest.fixture
def together():
    server = TogetherTuning()
    yield server
    server.close()


@pytest.fixture
def openai():
    server = OpenAITuning()
    yield server
    server.close()


@pytest.fixture(params=["together", "openai"])
def provider(request):
    return request.param


@pytest.fixture
def host(provider, request) -> TuningServer:
    server: TuningServer = request.getfixturevalue(provider)
    return server


@pytest.fixture
def run(icm, reviews) -> str:
    """A finished run over twelve reviews."""
    assert icm("run", reviews, *CLASSIFY, "--gold-column", "gold", "--run-dir", "run").code == 0
    return "run"


@pytest.fixture
def pairs(icm, write) -> str:
    """A finished run over twelve pairs of responses."""
    rows = [
        {"id": f"p{i}", "prompt": f"Question {i}?", "response_a": f"good {i}", "response_b": f"bad {i}"}
        for i in range(12)
    ]
    assert icm("run", write("pairs.jsonl", rows), *PREFERENCE, "--restarts", "1", "--run-dir", "pairs").code == 0
    return "pairs"


@pytest.fixture
def answers(monkeypatch):
    """`answers("y", "n")`: what the user types."""

    def typed(*words: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{word}\n" for word in words)))

    typed()
    return typed


def arguments(run: str, provider: str, host: TuningServer, *more: str) -> tuple[str, ...]:
    model = ("--base-model", "meta/base", "--base-url", f"{host.url}/v1", "--api-key-env", "TUNING_KEY")
    return ("tune", run, "--provider", provider, *model, "--poll-s", "0.01", *more)


def record(run: str = "run") -> dict[str, Any]:
    (path,) = Path(run).glob("tune/*/tune.json")
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def change_record(**members: Any) -> None:
    (path,) = Path("run").glob("tune/*/tune.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


# --- from labels to a model ---------------------------------------------------------------------------------------


def test_labels_are_uploaded_launched_and_followed_to_the_end(icm, run, provider, host):
    done = icm(*arguments(run, provider, host, "--yes", "--json", "--epochs", "2", "--suffix", "mine"))
    assert done.code == 0, done.err
    assert len(host.requests(LAUNCH[provider])) == 1
    (sent,) = host.files.values()
    assert sent == Path("run/tune/mine/train.jsonl").read_bytes()
    assert [set(json.loads(line)) for line in sent.splitlines()] == [{"messages"}] * 12
    assert (done.json["suffix"], done.json["stage"], done.json["job_id"]) == ("mine", "launched", host.jobs[0]["id"])
    assert done.json["tuned_model"] is not None
    assert done.json["tuned_model"] in done.err
    for line in ("the job begins", "epoch 1 complete", "running"):
        assert line in done.err
    assert done.err.count("the job begins") == 1


def test_together_is_sent_what_was_asked_for(icm, run, together):
    assert icm(*arguments(run, "together", together, "--yes", "--epochs", "2", "--validation", "0.25")).code == 0
    (launch,) = together.requests(LAUNCH["together"])
    body = launch.json
    assert (body["n_epochs"], body["n_evals"], body["training_method"]["method"]) == (2, 2, "sft")
    assert body["validation_file"] in together.files
    assert body["suffix"] == record()["order"]["suffix"]
    assert len(together.files) == 2
    estimate = together.requests("POST /v1/fine-tunes/estimate-price")[0].json
    assert {name: estimate[name] for name in ("n_epochs", "n_evals", "validation_file", "training_file")} == {
        name: body[name] for name in ("n_epochs", "n_evals", "validation_file", "training_file")
    }


def test_openai_is_sent_what_was_asked_for(icm, run, openai):
    assert icm(*arguments(run, "openai", openai, "--yes", "--epochs", "3")).code == 0
    (launch,) = openai.requests(LAUNCH["openai"])
    assert launch.json["method"] == {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    assert launch.json["metadata"] == {"icm_api_tuning": record()["order"]["mark"]}
    assert launch.headers["authorization"] == f"Bearer {KEY}"


def test_preferences_are_taught_by_dpo(icm, pairs, provider, host):
    done = icm(*arguments(pairs, provider, host, "--yes", "--method", "dpo"))
    assert done.code == 0, done.err
    (sent,) = host.files.values()
    wanted = {"input", "preferred_output", "non_preferred_output"}
    assert all(set(json.loads(line)) == wanted for line in sent.splitlines())
    body = host.requests(LAUNCH[provider])[0].json
    assert "dpo" in json.dumps(body["training_method" if provider == "together" else "method"])


def test_dpo_needs_a_task_that_compares(icm, run, together):
    done = icm(*arguments(run, "together", together, "--yes", "--method", "dpo"))
    assert (done.code, "--method dpo: it needs a task with two labels whose fields are prompt" in done.err) == (2, True)
    assert together.asked == []
    assert not Path("run/tune").exists()


# --- nothing without a yes ----------------------------------------------------------------------------------------


def test_a_dry_run_sends_nothing_and_needs_no_key(icm, run, provider, host, monkeypatch):
    monkeypatch.delenv("TUNING_KEY")
    done = icm(*arguments(run, provider, host, "--dry-run", "--json"))
    assert (done.code, host.asked) == (0, [])
    assert "dry run: nothing was sent" in done.err
    assert "wrote 12 train records" in done.err
    assert (done.json["stage"], done.json["job_id"]) == ("prepared", None)
    assert len(Path(done.json["folder"], "train.jsonl").read_text().splitlines()) == 12


def test_without_a_yes_nothing_is_sent(icm, run, provider, host, answers):
    answers("n")
    done = icm(*arguments(run, provider, host))
    assert (done.code, host.asked) == (3, [])
    assert "nothing was sent" in done.err


def test_nobody_there_to_answer_is_a_no(icm, run, provider, host, answers):
    done = icm(*arguments(run, provider, host))
    assert (done.code, host.asked) == (3, [])
    assert "--yes answers" in done.err


def test_the_help_lists_the_exit_code_of_a_no(icm):
    assert "3 stopped at a limit or by your no" in " ".join(icm("--help").out.split())
    assert "a no ends with exit code 3" in " ".join(icm("tune", "--help").out.split())


def test_a_price_that_is_refused_launches_nothing_and_may_be_accepted_later(icm, run, together, answers):
    answers("y", "n")
    done = icm(*arguments(run, "together", together))
    assert done.code == 3
    assert "The host estimates $1.25 for 4321 tokens" in done.err
    assert "no job was launched" in done.err
    assert together.jobs == []
    answers("y")
    done = icm(*arguments(run, "together", together))
    assert done.code == 0, done.err
    assert record()["price_usd"] == "1.25"
    assert len(together.requests("PUT " + next(iter(_stored(together))))) == 1


def _stored(host: TuningServer) -> set[str]:
    return {asked.path for asked in host.asked if asked.method == "PUT"}


def test_a_host_without_a_price_is_said_to_have_none(icm, run, openai, answers):
    answers("y", "n")
    done = icm(*arguments(run, "openai", openai))
    assert (done.code, "The host tells no price beforehand" in done.err) == (3, True)
    assert openai.jobs == []


def test_an_account_that_must_not_spend_so_much_launches_nothing(icm, run, together):
    together.estimate["allowed_to_proceed"] = False
    done = icm(*arguments(run, "together", together, "--yes"))
    assert (done.code, together.jobs) == (4, [])
    assert "must not spend the $1.25 that this would cost (its limit is $100)" in done.err


def test_too_many_epochs_are_refused_before_anything_is_uploaded(icm, run, together):
    done = icm(*arguments(run, "together", together, "--yes", "--epochs", "21"))
    assert (done.code, together.files) == (4, {})
    assert "at most 20 epochs are allowed, not 21" in done.err


def test_a_file_that_the_host_finds_unusable_is_said_with_its_reason(icm, run, together):
    def unusable(asked: Asked) -> Said:
        report = {"valid": False, "error": "row 3 has no assistant", "error_type": "INVALID_FORMAT"}
        id = asked.path.rsplit("/", 1)[-1]
        return Said(together._file(id, "INVALID_FORMAT") | {"validation_report": report})

    assert icm(*arguments(run, "together", together, "--dry-run")).code == 0
    together.faults = {f"GET /v1/files/file-{record()['hashes']['train'][:8]}": [unusable]}
    done = icm(*arguments(run, "together", together, "--yes"))
    assert (done.code, "row 3 has no assistant" in done.err, together.jobs) == (4, True, [])


def test_openai_takes_no_fewer_than_ten_records(icm, run, openai):
    labels = [json.loads(line) for line in Path("run/labels.jsonl").read_text().splitlines()]
    third = sorted(row["confidence"] for row in labels)[-3]
    done = icm(*arguments(run, "openai", openai, "--yes", "--min-confidence", str(third)))
    assert (done.code, openai.asked) == (2, [])
    assert "takes no fewer than 10" in done.err


# --- never twice --------------------------------------------------------------------------------------------------


def test_the_same_command_again_tells_the_outcome_and_asks_nothing(icm, run, provider, host, monkeypatch):
    first = icm(*arguments(run, provider, host, "--yes", "--json"))
    asked = len(host.asked)
    monkeypatch.delenv("TUNING_KEY")
    again = icm(*arguments(run, provider, host, "--yes", "--json"))
    assert (again.code, again.json, len(host.asked)) == (0, first.json, asked)


@pytest.mark.parametrize("lost", ["reply", "request"])
def test_a_launch_whose_reply_is_lost_is_looked_up_and_never_made_again_in_haste(icm, run, provider, host, lost):
    (host.after if lost == "reply" else host.faults)[LAUNCH[provider]] = [DROP]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert (done.code, "whether the job was launched is not known" in done.err) == (4, True)
    assert record()["stage"] == "launching"
    again = icm(*arguments(run, provider, host, "--yes"))
    assert len(host.requests(LAUNCH[provider])) == 1
    if lost == "reply":
        assert (again.code, record()["job_id"]) == (0, host.jobs[0]["id"])
    else:
        assert (again.code, "lists no job of it yet: repeat the command after" in again.err) == (4, True)


def test_a_launch_that_never_arrived_is_made_once_that_is_certain(icm, run, provider, host, answers):
    host.faults[LAUNCH[provider]] = [DROP]
    assert icm(*arguments(run, provider, host, "--yes")).code == 4
    change_record(launching_s=record()["launching_s"] - 601)
    answers("y")
    done = icm(*arguments(run, provider, host))
    assert (done.code, len(host.jobs)) == (0, 1), done.err
    assert "Launch the job?" in done.err


def test_killed_between_launch_and_record_the_next_command_finds_the_job(icm, run, provider, host):
    host.after[LAUNCH[provider]] = [Said(hold=True)]
    command = [sys.executable, "-m", "icm_api.cli", *arguments(run, provider, host, "--yes")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + 60
            while not host.jobs and time.monotonic() < deadline:
                time.sleep(0.02)
            assert host.jobs, "no launch came"
            assert "working on this run" in icm(*arguments(run, provider, host, "--yes")).err
        finally:
            process.kill()
    assert (record()["stage"], record()["job_id"]) == ("launching", None)
    done = icm(*arguments(run, provider, host, "--yes"))
    assert done.code == 0, done.err
    assert "looking for its job" in done.err
    assert (record()["job_id"], len(host.requests(LAUNCH[provider]))) == (host.jobs[0]["id"], 1)


@pytest.mark.parametrize(
    "other", [{"suffix": "other"}, {"model": "meta/other"}, {"created_at": "2020-01-01T00:00:00Z"}]
)
def test_the_job_of_another_tuning_is_not_taken_for_ours(icm, run, together, other):
    together.after[LAUNCH["together"]] = [DROP]
    icm(*arguments(run, "together", together, "--yes"))
    together.jobs[0] |= other
    assert icm(*arguments(run, "together", together, "--yes")).code == 4
    assert record()["job_id"] is None


def test_a_name_that_another_tuning_has_is_refused_with_the_difference(icm, run, together):
    assert icm(*arguments(run, "together", together, "--yes", "--suffix", "mine")).code == 0
    done = icm(*arguments(run, "together", together, "--yes", "--suffix", "mine", "--epochs", "2"))
    assert (done.code, "is a tuning with --epochs 1, not 2: name another suffix" in done.err) == (2, True)
    assert len(together.jobs) == 1


def test_other_settings_are_another_tuning(icm, run, together):
    for epochs in ("1", "2"):
        assert icm(*arguments(run, "together", together, "--yes", "--epochs", epochs)).code == 0
    assert len({job["suffix"] for job in together.jobs}) == 2


def test_labels_that_changed_before_the_launch_are_uploaded_anew(icm, run, together, answers):
    answers("y", "n")
    icm(*arguments(run, "together", together))
    lines = Path("run/labels.jsonl").read_text().splitlines()
    row = json.loads(lines[0])
    row["label"] = {"negative": "positive", "positive": "negative"}[row["label"]]
    Path("run/labels.jsonl").write_text("\n".join([json.dumps(row), *lines[1:]]) + "\n")
    assert icm(*arguments(run, "together", together, "--yes")).code == 0
    assert (
        together.files[together.jobs[0]["training_file"]] == next(Path("run").glob("tune/*/train.jsonl")).read_bytes()
    )


# --- following ----------------------------------------------------------------------------------------------------


def test_a_job_that_failed_tells_why_and_tells_it_again(icm, run, provider, host):
    host.course = ["running", "error" if provider == "together" else "failed"]
    if isinstance(host, OpenAITuning):
        host.error = {"code": "exceeded_quota", "message": "loss is not finite"}
    host.log = ["the job begins", "loss is not finite"]
    for _ in range(2):
        done = icm(*arguments(run, provider, host, "--yes"))
        assert (done.code, "loss is not finite" in done.err.splitlines()[-2]) == (4, True), done.err
        assert "another --suffix" in done.err
    assert len(host.jobs) == 1


def test_what_the_host_writes_does_not_drive_the_terminal(icm, run, provider, host):
    host.log = ["begins\x1b[2J\nerror: all is lost"]
    host.course = ["cancelled"]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert "\x1b" not in done.err
    assert "begins [2J error: all is lost" in done.err


def test_a_cancelled_job_is_told_as_cancelled(icm, run, provider, host):
    host.course = ["cancelled"]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert (done.code, "was cancelled" in done.err) == (4, True)


def test_ctrl_c_ends_the_following_only_and_the_same_command_follows_again(icm, run, provider, host):
    def interrupt(_: Asked) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    host.course = ["running"]
    place = "/v1/fine-tunes/ft-0" if provider == "together" else "/v1/fine_tuning/jobs/ftjob-0"
    host.faults[f"GET {place}"] = [lambda _: None, interrupt]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert (done.code, "goes on; the same command follows it again" in done.err) == (130, True), done.err
    host.course = ["completed" if provider == "together" else "succeeded"]
    assert icm(*arguments(run, provider, host, "--yes")).code == 0
    assert len(host.requests(LAUNCH[provider])) == 1


def test_a_host_that_fails_for_a_while_is_asked_again(icm, run, provider, host):
    place = "/v1/fine-tunes/ft-0" if provider == "together" else "/v1/fine_tuning/jobs/ftjob-0"
    host.faults[f"GET {place}"] = [DROP, Said({"error": {"message": "overloaded"}}, 503)]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert done.code == 0, done.err


def test_a_host_that_stays_away_ends_the_following_and_keeps_the_job(icm, run, provider, host):
    place = "/v1/fine-tunes/ft-0" if provider == "together" else "/v1/fine_tuning/jobs/ftjob-0"
    host.faults[f"GET {place}"] = [Said({"error": {"message": "overloaded"}}, 503)] * 3
    assert icm(*arguments(run, provider, host, "--yes")).code == 4
    assert record()["job_id"] == host.jobs[0]["id"]
    assert icm(*arguments(run, provider, host, "--yes")).code == 0
    assert len(host.jobs) == 1


# --- a limit in dollars -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "launched"), [("1.24", 0), ("0", 0), ("1.25", 1), ("100", 1)])
def test_a_yes_launches_nothing_above_the_limit(icm, run, together, limit, launched):
    done = icm(*arguments(run, "together", together, "--yes", "--max-usd", limit))
    assert (done.code, len(together.jobs)) == (0 if launched else 3, launched)
    if not launched:
        assert f"--max-usd {limit}: the host estimates $1.25, so no job was launched" in done.err
        assert icm(*arguments(run, "together", together, "--yes", "--max-usd", "2")).code == 0


def test_a_job_without_an_estimate_is_above_any_limit(icm, run, openai):
    done = icm(*arguments(run, "openai", openai, "--yes", "--max-usd", "1000"))
    assert (done.code, openai.jobs) == (3, [])
    assert "the host tells no price beforehand, so no job was launched" in done.err


def test_a_job_above_the_limit_makes_up_no_spending():
    with pytest.raises(BudgetError, match=r"--max-usd 1: the host estimates \$1.25") as caught:
        refuse_dearer(Estimate(Decimal("1.25")), Decimal(1))
    assert (caught.value.limit, caught.value.spent, caught.value.allowed) == ("max_usd", None, 1)


@pytest.mark.parametrize("limit", ["-1", "nan", "much"])
def test_a_limit_that_is_no_amount_is_refused(icm, run, together, limit):
    done = icm(*arguments(run, "together", together, "--yes", f"--max-usd={limit}"))
    assert (done.code, "is no amount of US dollars" in done.err, together.asked) == (2, True, [])


# --- refusals and keys --------------------------------------------------------------------------------------------


def test_a_plain_refusal_is_no_launch_and_may_be_tried_again(icm, run, provider, host):
    host.faults[LAUNCH[provider]] = [Said({"error": {"message": "model is not open to you", "code": "denied"}}, 403)]
    done = icm(*arguments(run, provider, host, "--yes"))
    assert (done.code, "model is not open to you" in done.err) == (4, True)
    assert record()["stage"] == "prepared"
    assert ("from 2027-01-06 nobody may" in done.err.splitlines()[-1]) == (provider == "openai")
    assert icm(*arguments(run, provider, host, "--yes")).code == 0
    assert len(host.jobs) == 1


def test_openai_s_closing_is_said_at_once_with_its_source_and_day(icm, run, openai):
    done = icm(*arguments(run, "openai", openai, "--dry-run"))
    assert "closing self-serve fine-tuning" in done.err.splitlines()[0]
    assert "third parties; read 2026-11-21" in done.err


def test_the_key_goes_to_the_host_alone_and_is_never_kept_or_shown(icm, run, write):
    store = TogetherTuning()
    host = TogetherTuning(store)
    try:
        host.faults["GET /v1/fine-tunes/models/limits"] = [Said({"error": {"message": f"bad key {KEY}"}}, 500)]
        done = icm(*arguments(run, "together", host, "--yes", "--json"))
        assert done.code == 0, done.err
        assert [asked.method for asked in store.asked] == ["PUT"]
        assert KEY not in str(store.asked)
        assert all(asked.headers["authorization"] == f"Bearer {KEY}" for asked in host.asked)
    finally:
        host.close()
        store.close()
    assert KEY not in done.out + done.err
    assert not [path for path in Path().rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_file_goes_nowhere_when_the_host_names_no_place_for_it(icm, run, together):
    together.faults["POST /v1/files"] = [Said({})] * 3
    done = icm(*arguments(run, "together", together, "--yes"))
    assert (done.code, "did not say where the file is to be put" in done.err) == (4, True)


def test_a_missing_key_is_named_before_anything_is_sent(icm, run, provider, host, monkeypatch):
    monkeypatch.delenv("TUNING_KEY")
    done = icm(*arguments(run, provider, host, "--yes"))
    assert (done.code, "TUNING_KEY, which is not set" in done.err, host.asked) == (2, True, [])


def test_the_usual_key_is_not_sent_to_another_address(icm, run, provider, host, monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    without = [word for word in arguments(run, provider, host, "--yes") if word not in ("--api-key-env", "TUNING_KEY")]
    assert icm(*without).code == 0
    assert KEY not in str(host.asked)


@pytest.mark.parametrize("suffix", ["../out", "a b", "x" * 65, ""])
def test_a_suffix_that_is_no_name_is_refused(icm, run, openai, suffix):
    done = icm(*arguments(run, "openai", openai, "--yes", f"--suffix={suffix}"))
    assert (done.code, openai.asked) == (2, [])


def test_a_damaged_record_is_refused_and_nothing_is_launched(icm, run, together):
    assert icm(*arguments(run, "together", together, "--yes")).code == 0
    (path,) = Path("run").glob("tune/*/tune.json")
    path.write_text(path.read_text()[:100])
    done = icm(*arguments(run, "together", together, "--yes"))
    assert (done.code, "tune.json: cannot be used" in done.err, len(together.jobs)) == (2, True, 1)


def test_the_command_knows_every_host(icm):
    from icm_api.cli.tune import tune

    (option,) = [option for option in tune.params if option.name == "provider"]
    assert set(option.type.choices) == set(HOSTS)  # type: ignore[attr-defined]
