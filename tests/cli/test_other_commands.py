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


def test_the_probe_wants_two_labels(icm):
    assert icm("probe", "--provider", "synthetic", "--labels", "a,b,c").code == 2


@pytest.mark.parametrize(
    ("command", "name"), [("providers", "openai-compatible"), ("providers", "local"), ("tasks", "gsm8k")]
)
def test_lists_come_as_a_table_or_as_json(icm, command, name):
    assert name in icm(command).out
    assert name in {row["name"] for row in json.loads(icm(command, "--json").out)}
