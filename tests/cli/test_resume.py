"""`icm-api resume`, `runs` and `show`."""

import json
from pathlib import Path

import pytest

from icm_api.run.journal import existing_folder

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")


@pytest.mark.parametrize("method", ["sweep", "anneal", "zero-shot", "random-few-shot", "bootstrap", "gold-few-shot"])
def test_each_method_goes_on_to_the_same_end(icm, reviews, method):
    arguments = ("run", reviews, *SETTINGS, "--method", method, "--gold-column", "gold")
    assert icm(*arguments, "--run-dir", "whole", "--no-cache").code == 0
    asked = json.loads(Path("whole/summary.json").read_text())["requests"]
    code = icm(*arguments, "--run-dir", "run", "--max-requests", str(max(1, asked // 3))).code
    paid = asked // 3
    while code == 3:
        paid += 5
        code = icm("resume", "run", "--max-requests", str(paid)).code
    assert code == 0
    assert Path("run/journal.jsonl").read_bytes() == Path("whole/journal.jsonl").read_bytes()
    assert Path("run/labels.jsonl").read_bytes() == Path("whole/labels.jsonl").read_bytes()
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["requests"] == asked


def test_what_was_spent_before_counts_towards_a_limit(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--method", "anneal", "--run-dir", "run", "--max-requests", "12").code == 3
    done = icm("resume", "run", "--max-requests", "20", "--json")
    assert (done.code, done.json["requests"]) == (3, 20)
    assert "go on with: icm-api resume run --max-requests N" in done.err
    again = icm("resume", "run", "--json")
    assert (again.code, again.json["requests"]) == (3, 20), "the larger limit still holds"


def test_a_limit_too_small_for_the_first_labels_is_raised_on_resuming(icm, reviews):
    arguments = ("run", reviews, *SETTINGS, "--method", "anneal", "--run-dir", "run")
    first = icm(*arguments, "--max-requests", "3")
    assert (first.code, "go on with: icm-api resume run --max-requests N" in first.err) == (3, True)
    done = icm("resume", "run", "--max-requests", "1000", "--json")
    assert (done.code, done.json["labelled"]) == (0, 12)


def test_a_run_folder_is_not_written_over(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--run-dir", "run").code == 0
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    done = icm("run", reviews, *SETTINGS, "--run-dir", "run", "--seed", "1")
    assert done.code == 2
    assert "run holds a run already: go on with it (`icm-api resume run`), or name another folder" in done.err
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_finished_run_is_left_as_it_is(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--run-dir", "run").code == 0
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    done = icm("resume", "run", "--json")
    assert (done.code, done.json["labelled"]) == (0, 12)
    assert "run is finished; its labels are in run/labels.jsonl" in done.err
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before


def test_a_run_is_found_by_its_name_under_runs(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--method", "anneal", "--max-requests", "12").code == 3
    (path,) = Path("runs").iterdir()
    assert icm("resume", path.name, "--max-requests", "1000").code == 0
    missing = icm("resume", "nothing")
    assert (missing.code, f"the latest in runs: {path.name}" in missing.err) == (2, True)


def test_labels_named_by_out_go_there_when_the_run_goes_on(icm, reviews):
    arguments = ("--method", "anneal", "--run-dir", "run", "--max-requests", "12", "--out", "deep/labels.jsonl")
    assert icm("run", reviews, *SETTINGS, *arguments).code == 3
    assert icm("resume", "run", "--max-requests", "1000").code == 0
    assert len(Path("deep/labels.jsonl").read_text().splitlines()) == 12


def test_standard_input_is_piped_in_again(icm, reviews, monkeypatch):
    import sys

    for command in (("run", "-", *SETTINGS, "--method", "anneal", "--max-requests", "12"), ("resume", "run")):
        with Path(reviews).open("rb") as file:
            monkeypatch.setattr(sys, "stdin", type("Stdin", (), {"buffer": file}))
            where = ("--run-dir", "run") if command[0] == "run" else ("--max-requests", "1000")
            code = icm(*command, *where).code
    assert code == 0


def test_rows_in_memory_must_be_given_as_a_file(icm, reviews):
    import icm_api
    from icm_api.errors import BudgetError

    rows = [json.loads(line) for line in Path(reviews).read_text().splitlines()]
    with pytest.raises(BudgetError):
        icm_api.label(
            rows, task="classify", labels="a,b", provider="synthetic", method="anneal", max_requests=12, run_dir="run"
        )
    assert "give them as a file with --data" in icm("resume", "run").err
    assert icm("resume", "run", "--data", reviews, "--max-requests", "1000").code == 0


def test_a_wrong_limit_is_refused_by_its_flag(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--method", "anneal", "--run-dir", "run", "--max-requests", "12").code == 3
    assert "--max-requests: " in icm("resume", "run", "--max-requests", "-1").err


# --- runs and show ------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_how_far_they_are(icm, reviews):
    assert icm("runs").out == "no runs here\n"
    assert icm("runs", "--json").json == []
    icm("run", reviews, *SETTINGS, "--run-dir", "runs/a")
    icm("run", reviews, *SETTINGS, "--run-dir", "runs/b", "--method", "anneal", "--max-requests", "5", "--seed", "3")
    rows = {row["run"]: row for row in icm("runs", "--json").json}
    assert {name: row["status"] for name, row in rows.items()} == {"runs/a": "finished", "runs/b": "stopped"}
    assert rows["runs/a"]["labelled"] == 12
    assert rows["runs/b"]["stop_reason"] == "max_requests"
    assert [line.split()[:2] for line in icm("runs").out.splitlines()[1:]] == [
        ["runs/a", "finished"],
        ["runs/b", "stopped"],
    ]


def test_a_run_that_says_it_runs_is_running_only_while_a_process_works_on_it(icm, reviews):
    icm("run", reviews, *SETTINGS, "--run-dir", "runs/a", "--method", "anneal", "--max-requests", "12")
    state = json.loads(Path("runs/a/state.json").read_text())
    Path("runs/a/state.json").write_text(json.dumps(state | {"status": "running"}))
    assert icm("runs", "--json").json[0]["status"] == "killed"
    with existing_folder(Path("runs/a")):
        assert icm("runs", "--json").json[0]["status"] == "running"
    assert icm("resume", "a", "--max-requests", "1000").code == 0


def test_a_folder_that_cannot_be_read_is_named_beside_the_others(icm, reviews):
    icm("run", reviews, *SETTINGS, "--run-dir", "runs/a")
    Path("runs/b").mkdir()
    Path("runs/b/manifest.json").write_text("{")
    done = icm("runs", "--json")
    assert [row["run"] for row in done.json] == ["runs/a"]
    assert "warning: runs/b/manifest.json: is damaged" in done.err


def test_a_run_is_shown_with_settings_spending_and_how_to_go_on(icm, reviews):
    icm("run", reviews, *SETTINGS, "--run-dir", "run", "--method", "anneal", "--max-requests", "12")
    said = icm("show", "run").out
    for part in (
        "run: stopped (max_requests)",
        "spent: 12 requests",
        "method=anneal",
        "go on with: icm-api resume run",
    ):
        assert part in said
    for another_s in ("passes=", "restarts=", "pool="):
        assert another_s not in said
    found = icm("show", "run", "--json").json
    assert found["manifest"]["config"]["seed"] == 0
    assert set(found["manifest"]["hashes"]) == {"data", "prompts", "relations"}
    assert found["summary"]["requests"] == 12


def test_settings_of_other_methods_are_not_shown(icm, reviews):
    icm("run", reviews, *SETTINGS, "--run-dir", "run", "--method", "zero-shot")
    said = icm("show", "run").out
    assert "method=zero-shot" in said
    for another_s in ("alpha=", "seeds=", "fidelity=", "objective=", "stop=", "order="):
        assert another_s not in said
