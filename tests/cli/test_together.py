"""`icm-api --provider together` from a file to labels, against a host that speaks Together's wire format."""

import json
from pathlib import Path

import pytest

from icm_api.client.retry import RetryPolicy
from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from tests.servers.together import Together, limited

LEARNER = SyntheticOptions(signal=4.0)
N = 24
WARM_UP = N
"""Requests before the first pass: so few examples are all asked alone."""


@pytest.fixture
def together(server, monkeypatch):
    """A model that has learnt the concept; its key is no one's business on this machine."""
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    host = Together((" negative", " positive"), Synthetic(LEARNER))
    host.serve(server)
    return host


@pytest.fixture
def labelling(write, server) -> tuple[str, ...]:
    """Arguments that label a file whose gold is what the model knows."""
    learner = Synthetic(LEARNER)
    texts = [f"review number {i}" for i in range(N)]
    rows = [{"text": text, "gold": bool(learner.truth(f"Text: {text}\nLabel:", 2))} for text in texts]
    task = ("--task", "classify", "--labels", "negative,positive", "--gold-column", "gold")
    host = ("--provider", "together", "--model", "meta-llama/a-base-model", "--base-url", f"{server.url}/v1")
    return (write("reviews.jsonl", rows), *task, *host, "--context-tokens", "8000")


def test_a_file_is_labelled_correctly_with_one_request_a_pass(icm, server, together, labelling):
    summary = icm("run", *labelling, "--run-dir", "run", "--restarts", "1", "--passes", "3", "--json").json
    assert summary["accuracy"] == 1.0
    assert summary["provider"] == "together"
    assert summary["labelled"] == len(Path("run/labels.jsonl").read_text().splitlines()) == N
    assert len(server.asked) == summary["requests"] <= WARM_UP + 3
    for asked in server.asked:
        assert asked.path == "/v1/completions"
        assert asked.body["echo"] is True
    assert sorted(asked.body["prompt"].count("Text: ") for asked in server.asked[WARM_UP:]) == [N] * 3


def test_the_same_command_again_asks_nothing(icm, server, together, labelling):
    icm("run", *labelling, "--run-dir", "one")
    asked = len(server.asked)
    again = icm("run", *labelling, "--run-dir", "two", "--json").json
    assert len(server.asked) == asked > 0
    assert again["requests"] == 0


@pytest.mark.parametrize("flags", [("--no-echo",), ("--route", "chat")])
def test_without_echo_every_label_of_a_pass_is_a_request(icm, server, together, labelling, flags):
    together.content_shape = True
    summary = icm("run", *labelling, *flags, "--run-dir", "run", "--restarts", "1", "--passes", "3", "--json").json
    assert summary["accuracy"] == 1.0
    assert len(server.asked) >= N
    assert not any(asked.body.get("echo") for asked in server.asked)


def test_a_dynamic_limit_is_waited_for_and_changes_no_label(icm, server, together, labelling, monkeypatch):
    monkeypatch.setattr("icm_api.run.compose.RetryPolicy", lambda: RetryPolicy(first_wait_s=0))
    icm("run", *labelling, "--run-dir", "calm")
    asked = len(server.asked)
    together.serve(server, limited(0.01), limited(0.01, "dynamic_token_limited"))
    summary = icm("run", *labelling, "--no-cache", "--run-dir", "limited", "--json").json
    assert summary["retries"] == 2
    assert len(server.asked) == 2 * asked + 2
    assert Path("limited/labels.jsonl").read_text() == Path("calm/labels.jsonl").read_text()


def test_the_plan_counts_one_request_a_pass_and_asks_nothing(icm, server, together, labelling):
    plan = icm("plan", *labelling, "--restarts", "1", "--passes", "3", "--price", "1/1", "--json").json["plan"]
    (sweep,) = [row for row in plan if row["method"] == "sweep"]
    assert sweep["requests"] == WARM_UP + 3
    assert server.asked == []


def test_the_probe_finds_it_usable(icm, server, together):
    together.labels = (" False", " True")
    arguments = ("--provider", "together", "--model", "m", "--base-url", f"{server.url}/v1", "--context-tokens", "8000")
    done = icm("probe", *arguments, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["verdict"] == "usable"
    assert "prompt log-probs" in done.out


def test_a_missing_key_is_named_before_anything_is_sent(icm, write, monkeypatch):
    monkeypatch.delenv("TOGETHER_API_KEY", raising=False)
    data = write("one.jsonl", [{"text": "a"}, {"text": "b"}])
    task = ("--task", "classify", "--labels", "negative,positive")
    done = icm("run", data, *task, "--provider", "together", "--model", "m")
    assert done.code == 2
    assert "TOGETHER_API_KEY" in done.err
