"""The commands beside `run`."""

import json

import pytest


def test_the_demo_labels_reviews_and_prints_a_line_for_each(icm):
    done = icm("demo", "--provider", "synthetic")
    assert done.code == 0
    assert "We laughed from start to finish" in done.out
    assert "64 of 64 examples labelled" in done.err
    assert "accuracy" in done.err


def test_the_demo_as_json_is_a_summary(icm):
    summary = icm("demo", "--provider", "synthetic", "--json").json
    assert (summary["examples"], summary["labelled"], summary["violations"]) == (64, 64, 0)
    assert summary["collapsed"] is False


def test_the_demo_takes_another_method(icm, monkeypatch):
    assert icm("demo", "--provider", "synthetic", "--method", "zero-shot").code == 0
    monkeypatch.setenv("ICM_API_METHOD", "zero-shot")
    assert icm("demo", "--provider", "synthetic").code == 0


def test_the_probe_prints_its_checks_and_a_verdict(icm):
    done = icm("probe", "--provider", "synthetic")
    assert done.code == 0
    assert "log-probs: 20 candidates listed" in done.err
    assert done.err.splitlines()[-1].endswith(": usable")


def test_the_probe_as_json(icm):
    report = icm("probe", "--provider", "synthetic", "--json", "--display", "none").json
    assert report["verdict"] == "usable"
    assert {check["status"] for check in report["checks"]} == {"ok"}


def test_the_probe_of_a_host_without_log_probs_ends_with_exit_code_4(icm, server):
    server.answer("/v1/completions", {"choices": [{"index": 0, "text": " True", "logprobs": None}]})
    done = icm("probe", "--provider", "openai-compatible", "--base-url", f"{server.url}/v1", "--model", "m")
    assert done.code == 4
    assert "not usable" in done.err


@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_a_probe_disproved_is_refused_afterwards_before_anything_is_asked(icm, server, reviews, command):
    server.answer("/v1/completions", {"choices": [{"index": 0, "text": " True", "logprobs": None}]})
    host = ("--provider", "openai-compatible", "--base-url", f"{server.url}/v1", "--model", "m")
    icm("probe", *host)
    asked = len(server.asked)
    done = icm(command, reviews, "--task", "classify", "--labels", "a,b", *host)
    assert done.code == 4
    assert "disproved 'log-probs'" in done.err
    assert "--route votes" in done.err
    assert len(server.asked) == asked


def test_the_probe_wants_two_labels(icm):
    assert icm("probe", "--provider", "synthetic", "--labels", "a").code == 2


def test_the_probe_takes_the_labels_of_a_task(icm):
    words = icm("probe", "--provider", "synthetic", "--task", "classify", "--labels", "a,b,c", "--json").json["labels"]
    assert words == ["a", "b", "c"]
    assert icm("probe", "--provider", "synthetic", "--task", "claims", "--json").json["labels"] == ["False", "True"]


def test_providers_fit_a_terminal_of_a_hundred_columns_and_mark_those_whose_key_is_set(icm, monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "planted-key-0123456789")
    out = icm("providers").out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 100
    marked = [line.split()[1] for line in out.splitlines() if line.startswith("*  ")]
    assert "together" in marked
    assert "fireworks" not in marked
    assert "planted-key" not in out


def test_providers_as_json_have_every_fact_and_no_key(icm, monkeypatch):
    monkeypatch.setenv("TOGETHER_API_KEY", "planted-key-0123456789")
    done = icm("providers", "--json")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert rows["fireworks"]["source"].startswith("https://")
    assert rows["together"]["key_set"] is True
    assert rows["openrouter"]["gives"] == ["top-k", "votes"]
    assert all(row["gives"] and row["source"] and row["checked"] and row["summary"] for row in rows.values())
    assert "planted-key" not in done.out


@pytest.mark.parametrize(
    ("command", "name"), [("providers", "openai-compatible"), ("providers", "local"), ("tasks", "gsm8k")]
)
def test_lists_come_as_a_table_or_as_json(icm, command, name):
    assert name in icm(command).out
    assert name in {row["name"] for row in json.loads(icm(command, "--json").out)}
