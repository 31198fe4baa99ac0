"""What may happen to a run between its parts, and what must then hold."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from icm_api.client.cache import Store
from icm_api.providers.synthetic import Synthetic
from icm_api.run import journal
from icm_api.run.journal import existing_folder

ANNEAL = ("--method", "anneal")
SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")


@pytest.fixture
def whole(icm, reviews) -> Path:
    """The same run, never cut short, with replies of its own."""
    assert icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "whole", "--no-cache").code == 0
    return Path("whole")


@pytest.fixture
def cut(icm, reviews) -> Path:
    """A run that a limit has stopped."""
    assert icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run", "--max-requests", "15").code == 3
    return Path("run")


def resumed(icm: Callable[..., Any], *arguments: str) -> Any:
    return icm("resume", "run", "--max-requests", "1000", "--json", *arguments)


def same(whole: Path, run: Path = Path("run")) -> None:
    for name in ("journal.jsonl", "labels.jsonl"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert summary(run)["utility"] == summary(whole)["utility"]


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return found


def test_a_resumed_run_ends_as_one_that_was_never_cut_short_and_pays_the_same(icm, whole, cut):
    done = resumed(icm)
    assert done.code == 0, done.err
    same(whole)
    assert done.json["requests"] == summary(whole)["requests"]
    assert done.json["cache_hits"] == 0
    assert "asked again" in done.err


@pytest.mark.parametrize("torn", [b'{"step": 99', b"{", b'{"step": 99, "changed": ["r'])
def test_a_torn_last_line_is_dropped(icm, whole, cut, torn):
    with (cut / "journal.jsonl").open("ab") as file:
        file.write(torn)
    assert resumed(icm).code == 0
    same(whole)


def test_a_journal_that_lost_its_last_lines_gets_them_again(icm, whole, cut):
    lines = (cut / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (cut / "journal.jsonl").write_bytes(b"".join(lines[:-3]) + lines[-3][:10])
    assert resumed(icm).code == 0
    same(whole)


def test_an_edited_journal_is_refused_and_left_alone(icm, cut):
    lines = (cut / "journal.jsonl").read_text().splitlines(keepends=True)
    edited = "".join([lines[0], lines[1].replace('"step": 1', '"step": 7'), *lines[2:]])
    (cut / "journal.jsonl").write_text(edited)
    done = resumed(icm)
    assert done.code == 2
    assert "step 1 does not come out as it was" in done.err
    assert (cut / "journal.jsonl").read_text() == edited


def test_a_second_process_is_refused_by_the_number_of_the_first(icm, cut):
    with existing_folder(cut):
        done = resumed(icm)
    assert done.code == 2
    assert f"process {os.getpid()} is working on this run" in done.err
    assert resumed(icm).code == 0


HOLDER = """
import sys, time
from pathlib import Path
from icm_api.run.journal import existing_folder
with existing_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_process_that_was_killed_is_gone(icm, cut):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(cut)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "is working on this run" in resumed(icm).err
        holder.kill()
    assert resumed(icm).code == 0


def test_a_moved_run_folder_goes_on(icm, whole, cut):
    Path("elsewhere").mkdir()
    moved = cut.rename("elsewhere/other")
    done = icm("resume", str(moved), "--max-requests", "1000")
    assert done.code == 0, done.err
    same(whole, moved)


def test_a_project_moved_as_a_whole_goes_on_from_anywhere(icm, reviews, tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    Path(reviews).rename("project/reviews.jsonl")
    monkeypatch.chdir("project")
    arguments = (*SETTINGS, *ANNEAL, "--max-requests", "15", "--cache-dir", "own")
    assert icm("run", "reviews.jsonl", *arguments, "--run-dir", "runs/a").code == 3
    monkeypatch.chdir(tmp_path)
    Path("project").rename("moved")
    done = icm("resume", "moved/runs/a", "--max-requests", "1000", "--cache-dir", "moved/own", "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "moved/runs/a/labels.jsonl"


def test_a_run_without_the_shared_cache_carries_its_replies_along(icm, reviews, whole, tmp_path, monkeypatch):
    assert icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run", "--no-cache", "--max-requests", "15").code == 3
    assert not (tmp_path / "cache" / "replies").exists()
    (tmp_path / "another").mkdir()
    (tmp_path / "cache" / "secret").rename(tmp_path / "another" / "secret")
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "another"))
    done = resumed(icm)
    assert (done.code, done.json["requests"]) == (0, summary(whole)["requests"])
    same(whole)


def test_replies_that_are_gone_are_not_paid_for_again_in_silence(icm, cut, tmp_path):
    (tmp_path / "cache").rename(tmp_path / "put-away")
    before = json.loads((cut / "state.json").read_text())["spent"]["requests"]
    assert "cache/secret, by which your runs are known, is gone" in resumed(icm).err
    done = resumed(icm, "--trust")
    assert done.code == 2
    assert "the replies that this run has paid for are not in" in done.err
    assert "--cache-dir" in done.err
    assert json.loads((cut / "state.json").read_text())["spent"]["requests"] <= before + 8
    assert resumed(icm, "--trust", "--cache-dir", str(tmp_path / "put-away")).code == 0


def test_some_replies_lost_in_a_power_cut_are_asked_again(icm, whole, cut, tmp_path):
    store = Store(tmp_path / "cache" / "replies")
    for key in list(store._rows)[-5:]:
        del store._rows[key]
    store.close()
    assert resumed(icm).code == 0
    same(whole)


# --- what has changed ---------------------------------------------------------------------------------------------


def change(rows: list[dict[str, Any]], name: str = "reviews.jsonl") -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows[3].update(text="something else"), "example 'r3' is another (reviews.jsonl:4)"),
        (lambda rows: rows.append({"id": "r12", "text": "one more"}), "example 'r12' is new (reviews.jsonl:13)"),
        (lambda rows: rows.pop(5), "example 'r5' is gone"),
        (lambda rows: rows.reverse(), "the rows are in another order"),
    ],
)
def test_changed_data_are_refused_with_the_difference_until_they_are_put_back(icm, cut, edit, message):
    before = Path("reviews.jsonl").read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    edit(rows)
    change(rows)
    done = resumed(icm)
    assert done.code == 2
    assert "data and prompts changed since the run began" in done.err
    assert message in done.err
    Path("reviews.jsonl").write_text(before)
    assert resumed(icm).code == 0


def test_the_same_rows_in_another_file_are_the_same_data(icm, cut):
    Path("reviews.jsonl").rename("renamed.jsonl")
    assert "reviews.jsonl" in resumed(icm).err
    assert resumed(icm, "--data", "renamed.jsonl").code == 0


def test_a_changed_task_file_is_refused(icm, write):
    task = 'name = "mood"\ntemplate = "Note: {note}\\nMood:"\nlabels = ["sad", "glad"]\n'
    write("task.toml", task)
    data = write("n.jsonl", [{"id": str(i), "note": f"note {i}"} for i in range(10)])
    arguments = ("--task", "task.toml", "--provider", "synthetic", *ANNEAL, "--run-dir", "run", "--max-requests", "10")
    assert icm("run", data, *arguments).code == 3
    write("task.toml", task.replace("Note: ", "Remark: "))
    assert "prompts changed since the run began: the prompt of example '0' is another" in resumed(icm).err
    write("task.toml", task.replace('"glad"', '"merry"'))
    assert "labels of the task: [' sad', ' glad'] -> [' sad', ' merry']" in resumed(icm).err


def test_changed_relations_are_refused(icm, reviews, write):
    rules = write("rules.jsonl", [{"kind": "exactly_one", "ids": ["r0", "r1"]}])
    arguments = (*SETTINGS, *ANNEAL, "--run-dir", "run", "--max-requests", "10", "--relations", rules)
    assert icm("run", reviews, *arguments).code == 3
    write("rules.jsonl", [{"kind": "exactly_one", "ids": ["r0", "r2"]}])
    said = resumed(icm).err
    assert "relation 'exactly_one(r0, r2)' is new; relation 'exactly_one(r0, r1)' is gone" in said


def test_a_setting_in_the_environment_that_the_run_does_not_have_is_refused(icm, cut, monkeypatch):
    monkeypatch.setenv("ICM_API_SEED", "5")
    done = resumed(icm)
    assert done.code == 2
    assert "ICM_API_SEED asks for 5, and the run has 0" in done.err
    monkeypatch.setenv("ICM_API_SEED", "0")
    assert resumed(icm).code == 0


def test_an_edited_setting_leads_to_another_provider_or_other_steps_and_is_refused(icm, cut):
    manifest = json.loads((cut / "manifest.json").read_text())
    text = json.dumps(manifest)
    (cut / "manifest.json").write_text(text.replace('"provider_options": {}', '"provider_options": {"bias": "1"}'))
    done = resumed(icm, "--trust")
    assert (done.code, "bias: 0.0 -> 1.0" in done.err) == (2, True)
    (cut / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1', 1))
    assert resumed(icm, "--trust").code == 2
    (cut / "manifest.json").write_text(text.replace('"seed": 0', '"seed": -1', 1))
    assert "'seed': Input should be greater than or equal to 0, not -1; was it edited?" in resumed(icm).err


def test_a_folder_of_another_format_is_refused(icm, cut):
    text = (cut / "manifest.json").read_text()
    (cut / "manifest.json").write_text(text.replace('"format": 1', '"format": 2'))
    done = resumed(icm)
    assert done.code == 2
    assert "format 2 of run folders, and this one has 1" in done.err


@pytest.mark.parametrize("name", ["manifest.json", "state.json"])
def test_a_damaged_file_is_refused_by_name(icm, cut, name):
    (cut / name).write_text("{")
    done = resumed(icm)
    assert (done.code, f"run/{name}: is damaged" in done.err) == (2, True)


# --- another program ----------------------------------------------------------------------------------------------


@pytest.fixture
def changed_program(monkeypatch) -> None:
    monkeypatch.setattr("icm_api.run.program.fingerprint", lambda: "changed")


def test_a_changed_program_that_makes_the_same_steps_goes_on_and_says_so(icm, whole, cut, changed_program):
    was = json.loads((cut / "manifest.json").read_text())["program"]
    done = resumed(icm)
    assert done.code == 0, done.err
    same(whole)
    assert f"code {was} -> changed): it goes on if its steps come out as they were" in done.err
    assert any("its earlier steps came out as they were" in warning for warning in done.json["warnings"])


def test_a_changed_program_that_asks_otherwise_is_refused_before_it_pays(
    icm, cut, tmp_path, changed_program, monkeypatch
):
    store = Store(tmp_path / "cache" / "replies")
    for key, text in ((key, store.get(key)) for key in list(store._rows)):
        if '"kind":"next_token"' in str(text):
            del store._rows[key]
    store.close()
    sent: list[Any] = []
    monkeypatch.setattr(Synthetic, "send", lambda _, request: sent.append(request))
    done = resumed(icm)
    assert (done.code, sent) == (2, [])
    assert "the program changed since the run began" in done.err
    assert "it asks what has no reply in" in done.err
    assert "Go on with that program, or label anew" in done.err
    assert "lost from the cache" not in done.err


def test_a_changed_program_that_makes_another_step_is_named_as_the_reason(icm, cut, changed_program):
    lines = (cut / "journal.jsonl").read_text().splitlines(keepends=True)
    (cut / "journal.jsonl").write_text("".join([lines[0], lines[1].replace('"step": 1', '"step": 7'), *lines[2:]]))
    done = resumed(icm)
    assert (done.code, "code " in done.err, "step 1 does not come out as it was" in done.err) == (2, True, True)


# --- a run of somebody else's -------------------------------------------------------------------------------------


def changed_manifest(cut: Path, **settings: Any) -> None:
    manifest = json.loads((cut / "manifest.json").read_text())
    manifest["config"] |= settings
    (cut / "manifest.json").write_text(json.dumps(manifest))


AFTER_A_RUN = [
    ("resume", "run"),
    ("label", "reviews.jsonl", "--from", "run"),
    ("eval", "run", "--test", "reviews.jsonl"),
    ("report", "run"),
    ("export", "run", "--format", "csv", "--out", "labels.csv"),
    ("audit", "run", "--csv", "sheet.csv"),
    ("compare", "run", "run"),
    ("tune", "run", "--provider", "together", "--base-model", "m", "--dry-run"),
]


@pytest.mark.parametrize("command", AFTER_A_RUN, ids=lambda command: command[0])
def test_a_run_that_was_not_begun_here_asks_nobody_and_loads_nothing_until_it_is_trusted(
    icm, cut, write, server, tmp_path, monkeypatch, command
):
    write("theirs.py", "from pathlib import Path\n\nPath('loaded').touch()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    changed_manifest(
        cut, provider="openai-compatible", base_url=server.url, api_key_env="MY_KEY", model="m", task="theirs:Task"
    )
    done = icm(*command)
    assert done.code == 2
    for shown in (server.url, "api_key_env='MY_KEY'", "task='theirs:Task'", "give --trust"):
        assert shown in done.err
    assert (server.asked, Path("loaded").exists()) == ([], False)
    assert "trusting a run that was not begun here" in icm(*command, "--trust").err
    assert Path("loaded").exists()


def test_the_same_folder_is_trusted_when_it_is_said_and_goes_on(icm, whole, cut, tmp_path):
    (tmp_path / "cache" / "secret").write_bytes(b"s" * 32)
    assert "begun by somebody else" in resumed(icm).err
    assert resumed(icm, "--trust").code == 0
    same(whole)


def test_the_secret_that_runs_are_known_by_is_the_user_s_alone_and_in_no_run(icm, cut, tmp_path):
    secret = tmp_path / "cache" / "secret"
    assert (len(secret.read_bytes()), secret.stat().st_mode & 0o777) == (32, 0o600)
    assert not [path for path in cut.rglob("*") if path.is_file() and secret.read_bytes() in path.read_bytes()]


def test_a_run_that_could_get_no_mark_says_so_when_it_begins_and_is_told_from_a_changed_one(
    icm, reviews, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "file" / "cache"))
    own = ("--no-cache", "--cache-dir", "own", "--run-dir", "run", "--max-requests", "15")
    begun = icm("run", reviews, *SETTINGS, *ANNEAL, *own)
    assert (begun.code, "cache/secret, by which your runs are known, cannot be made" in begun.err) == (3, True)
    done = resumed(icm)
    assert (done.code, "this run has no mark of who began it" in done.err) == (2, True)
    assert "its manifest was changed" not in done.err
    assert resumed(icm, "--trust").code == 0


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "no-hard-links"])
@pytest.mark.parametrize("before", [None, b"", b"cut short"])
def test_a_secret_is_made_wherever_there_is_no_whole_one(icm, reviews, tmp_path, monkeypatch, links, before):
    def no_link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    secret = tmp_path / "cache" / "secret"
    if before is not None:
        secret.parent.mkdir()
        secret.write_bytes(before)
    arguments = (reviews, *SETTINGS, *ANNEAL, "--max-requests", "15")
    assert "by which your runs are known" not in icm("run", *arguments, "--run-dir", "run").err
    made = secret.read_bytes()
    assert (len(made), secret.stat().st_mode & 0o777, list(secret.parent.glob("*.tmp"))) == (32, 0o600, [])
    icm("run", *arguments, "--run-dir", "another")
    assert (secret.read_bytes(), resumed(icm).code) == (made, 0)


def change_state(cut: Path, **fields: Any) -> None:
    state = json.loads((cut / "state.json").read_text())
    (cut / "state.json").write_text(json.dumps(state | fields))


def test_larger_limits_in_the_state_that_nobody_gave_here_do_not_count(icm, cut):
    change_state(cut, limits={"max_requests": 1000})
    done = icm("resume", "run", "--json")
    assert (done.code, done.json["requests"]) == (3, 15)
    assert "has max_requests = 1000, which was not given here, so that of the manifest holds (15)" in done.err
    assert resumed(icm).code == 0


def test_narrower_limits_in_the_state_hold_without_a_mark(icm, cut):
    change_state(cut, limits={"max_requests": 3})
    done = icm("resume", "run", "--json")
    assert (done.code, "which was not given here" in done.err) == (3, False)


def test_limits_given_at_the_last_resume_hold_at_the_next_and_for_that_run_alone(icm, reviews, cut):
    assert icm("resume", "run", "--max-requests", "18").code == 3
    given = json.loads((cut / "state.json").read_text())
    assert given["limits"] == {"max_requests": 18}
    again = icm("resume", "run", "--json")
    assert (again.code, again.json["requests"], "which was not given here" in again.err) == (3, 18, False)
    arguments = (*SETTINGS, *ANNEAL, "--run-dir", "other", "--max-requests", "15", "--seed", "1")
    assert icm("run", reviews, *arguments).code == 3
    change_state(Path("other"), limits=given["limits"], limits_mark=given["limits_mark"])
    assert "which was not given here" in icm("resume", "other").err


def test_nothing_but_limits_can_come_in_by_the_state(icm, cut):
    state = json.loads((cut / "state.json").read_text())
    (cut / "state.json").write_text(json.dumps(state | {"limits": {"base_url": "https://theirs.example"}}))
    done = resumed(icm)
    assert (done.code, "state.json: 'base_url' is no limit; was it edited?" in done.err) == (2, True)


# --- the machine --------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_changes_nothing(icm, whole, cut, monkeypatch):
    true = time.time
    jumps = iter([1e9, -1e9, 5e8] * 10_000)
    monkeypatch.setattr(time, "time", lambda: true() + next(jumps))
    done = resumed(icm)
    assert done.code == 0, done.err
    same(whole)
    assert 0 < done.json["wall_s"] < 600


class FullDisk:
    """Refuses to write after so many writes."""

    def __init__(self, left: int) -> None:
        self.left = left

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")


@pytest.mark.parametrize("left", [0, 1, 2, 5, 20, 40])
def test_a_full_disk_stops_the_run_by_name_and_loses_nothing(icm, reviews, whole, monkeypatch, left):
    full = FullDisk(left)
    with monkeypatch.context() as patched:
        append, replace = journal.Journal._append, os.replace

        def limited_append(self: journal.Journal, text: bytes) -> None:
            full()
            append(self, text)

        def limited_replace(source: Path, target: Path) -> None:
            full()
            replace(source, target)

        patched.setattr(journal.Journal, "_append", limited_append)
        patched.setattr(os, "replace", limited_replace)
        done = icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run")
    assert done.code not in (0, 3)
    assert "No space left on device" in done.err
    if (Path("run") / "manifest.json").exists():
        assert "go on with: icm-api resume run" in done.err
        again = resumed(icm)
        assert again.code == 0, again.err
        assert again.json["requests"] <= summary(whole)["requests"] + 1
    else:
        assert icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run").code == 0
    same(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_files_that_may_grow_no_further_stop_a_run_by_name(icm, reviews, whole):
    limited = "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
    limited += "sys.argv = ['icm-api', *sys.argv[1:]]; from icm_api.cli import main; main()"
    command = [sys.executable, "-c", limited, "run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "cache folder" in done.stderr
    assert icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "run").code == 0
    same(whole)


# --- the cache ----------------------------------------------------------------------------------------------------


def test_replies_of_an_older_version_are_refused_and_never_misread(icm, cut, tmp_path):
    with closing(sqlite3.connect(tmp_path / "cache" / "replies" / "cache.db")) as database, database:
        database.execute("""UPDATE Cache SET value = replace(value, '"schema":1', '"schema":0')""")
    done = resumed(icm)
    assert (done.code, "a stored reply is not valid" in done.err) == (2, True)
    assert len((cut / "journal.jsonl").read_text().splitlines()) > 1


# --- several runs at once -----------------------------------------------------------------------------------------


def test_four_processes_share_one_cache_and_find_the_same(icm, reviews, tmp_path):
    command = [sys.executable, "-m", "icm_api.cli", "run", reviews, *SETTINGS, *ANNEAL, "--display", "none"]
    runs = [subprocess.Popen([*command, "--run-dir", f"run-{k}"], stderr=subprocess.PIPE) for k in range(4)]
    said = [process.communicate()[1] for process in runs]
    assert [process.returncode for process in runs] == [0] * 4, said
    for k in range(1, 4):
        same(Path("run-0"), Path(f"run-{k}"))
    after = icm("run", reviews, *SETTINGS, *ANNEAL, "--run-dir", "after", "--json").json
    assert after["requests"] == 0
