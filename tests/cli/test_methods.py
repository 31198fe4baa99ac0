"""Every method labels from the command line, through the same scorer, solver, cache and output."""

import json
from pathlib import Path
from typing import Any

import pytest

from icm_api.config import GOLD_METHOD, TAKES
from icm_api.run.methods import METHODS

CLASSIFY = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--run-dir", "run")
GOLD = ("--gold-column", "gold")
BLIND = [method for method in METHODS if method != GOLD_METHOD]


AGAIN = ("--run-dir", "again")


def labels(folder: str = "run") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(folder, "labels.jsonl").read_text().splitlines()]


def run(icm: Any, data: str, method: str, *more: str) -> Any:
    return icm("run", data, *CLASSIFY, "--method", method, "--json", *more)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_writes_the_same_files(icm, reviews, method):
    done = run(icm, reviews, method, *GOLD)
    assert done.code == 0, done.err
    summary, rows = done.json, labels()
    assert (summary["method"], summary["labelled"], summary["accuracy_n"]) == (method, 12, 12)
    assert summary["stop_reason"] in ("stable", "done", "settled", "passes")
    assert summary["information_nats"] is not None
    assert 0 <= summary["calibration_error"] <= 1
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(12)]
    assert all(0 < row["confidence"] <= 1 and 0 < row["mass"] <= 1 for row in rows)
    assert {path.name for path in Path("run").iterdir()} == {
        *("manifest.json", "inputs.jsonl", "journal.jsonl", "state.json", "labels.jsonl", "summary.json", "report.html")
    }


@pytest.mark.parametrize("method", METHODS)
def test_each_method_keeps_a_journal_with_the_same_first_columns(icm, reviews, method):
    run(icm, reviews, method, *GOLD)
    steps = [json.loads(line) for line in Path("run/journal.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert all({"changed", "labels", "labelled", "asked"} <= set(step) for step in steps)
    assert steps[-1]["labelled"] == 12


@pytest.mark.parametrize("method", METHODS)
def test_each_method_obeys_the_rules(icm, reviews, write, method):
    rules = write("rules.jsonl", [{"kind": "exactly_one", "ids": [f"r{i}", f"r{i + 1}"]} for i in range(0, 12, 2)])
    biased = ("--provider-option", "bias=3")
    summary = run(icm, reviews, method, *GOLD, "--relations", rules, *biased).json
    assert (summary["violations"], summary["label_shares"]) == (0, {"negative": 0.5, "positive": 0.5})


@pytest.mark.parametrize("method", BLIND)
def test_gold_changes_nothing_but_what_is_said_about_the_labels(icm, reviews, method):
    run(icm, reviews, method)
    blind = labels()
    summary = run(icm, reviews, method, *GOLD, *AGAIN).json
    assert labels("again") == blind
    assert summary["used_gold"] is False
    assert summary["requests"] == 0, "not one other question was asked"


@pytest.mark.parametrize("method", METHODS)
def test_the_same_command_again_makes_no_request(icm, reviews, method):
    assert run(icm, reviews, method, *GOLD).json["requests"] > 0
    found = labels()
    assert run(icm, reviews, method, *GOLD, *AGAIN).json["requests"] == 0
    assert labels("again") == found


def test_labels_made_with_gold_are_called_a_ceiling(icm, reviews):
    done = run(icm, reviews, GOLD_METHOD, *GOLD)
    assert done.json["used_gold"] is True
    assert "a ceiling for the other methods, not a labelling" in done.json["warnings"][0]
    assert "made with the gold labels: a ceiling" in done.err


@pytest.mark.parametrize("display", ["plain", "rich"])
def test_the_display_says_where_a_method_stands(icm, reviews, display):
    done = run(icm, reviews, "bootstrap", "--display", display)
    assert done.code == 0
    assert "12 of 12 examples labelled (done" in done.err
    assert display == "rich" or "8 demonstrations: 48/48 scores" in done.err


def test_a_request_limit_leaves_the_labels_found_so_far(icm, write):
    data = write("many.jsonl", [{"id": str(i), "text": f"text {i}"} for i in range(100)])
    done = run(icm, data, "zero-shot", "--max-requests", "80")
    assert done.code == 3
    assert (done.json["labelled"], done.json["stop_reason"]) == (64, "max_requests")
    assert "36 of 100 examples have no label" in done.json["warnings"][0]


def test_a_class_prior_takes_out_the_bias_of_the_model(icm, write):
    data = write("many.jsonl", [{"id": str(i), "text": f"text {i}"} for i in range(80)])
    biased = ("--provider-option", "bias=6")
    assert run(icm, data, "zero-shot", *biased).json["collapsed"] is True
    summary = run(icm, data, "zero-shot", *biased, "--class-prior", "positive=0.5", *AGAIN).json
    assert summary["collapsed"] is False
    assert 0.3 < summary["label_shares"]["positive"] < 0.7


def test_a_group_is_a_sibling_for_the_baselines_too(icm, write):
    rows = [{"id": str(i), "text": f"text {i}", "g": "all"} for i in range(12)]
    done = run(icm, write("d.jsonl", rows), "bootstrap", "--group-column", "g")
    assert "12 examples were asked without demonstrations" in done.json["warnings"][0]


def test_every_method_says_which_settings_it_takes():
    assert set(METHODS) == set(TAKES)
