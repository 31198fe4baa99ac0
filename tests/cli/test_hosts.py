"""`icm-api run` through every dialect, against stand-ins that answer from the offline learner: the same labels come out
as from the learner itself."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.servers.gemini import Gemini
from tests.servers.learner import Learner
from tests.servers.ollama import Ollama
from tests.servers.openai_shaped import OpenAIShaped

LABELS = ("negative", "positive")
TASK = ("--task", "classify", "--labels", ",".join(LABELS), "--display", "none", "--json")
SWEEP = ("--restarts", "1", "--passes", "2")
VOTES = ("--method", "zero-shot", "--votes", "3")
KEY = "planted-key-0123456789"

Label = Callable[..., dict[str, str]]


@pytest.fixture
def learner() -> Learner:
    return Learner(tuple(f" {label}" for label in LABELS))


@pytest.fixture
def label(icm, reviews) -> Label:
    """Runs with these flags; the labels by example."""

    def run(folder: str, *flags: str, method: tuple[str, ...] = SWEEP) -> dict[str, str]:
        done = icm("run", reviews, *TASK, "--run-dir", folder, *method, *flags)
        assert done.code == 0, done.err
        rows = map(json.loads, (Path(folder) / "labels.jsonl").read_text().splitlines())
        return {row["id"]: row["label"] for row in rows}

    return run


@pytest.fixture
def truth(label) -> dict[str, str]:
    labels: dict[str, str] = label("by-itself", "--provider", "synthetic")
    assert set(labels.values()) == set(LABELS)
    return labels


@pytest.mark.parametrize(
    ("flags", "max_top_k"),
    [
        (("--provider", "openai-compatible"), 20),
        (("--provider", "openai-compatible", "--route", "chat"), 20),
        (("--provider", "openai-compatible", "--echo"), 20),
        (("--provider", "fireworks"), 5),
        (("--provider", "hyperbolic"), 20),
        (("--provider", "openrouter", "--provider-option", "order=one"), 20),
        (("--provider", "deepinfra"), 20),
        (("--provider", "deepseek"), 20),
        (("--provider", "mistral"), 20),
        (("--provider", "xai"), 8),
        (("--provider", "azure", "--api-key-env", "MY_KEY"), 20),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_openai_shaped_host_labels(monkeypatch, server, learner, label, truth, flags, max_top_k):
    monkeypatch.setenv("MY_KEY", KEY)
    OpenAIShaped(learner, max_top_k).serve(server)
    assert label("run", "--base-url", f"{server.url}/v1", "--model", "m", *flags) == truth


@pytest.mark.parametrize("provider", ["groq", "lm-studio"])
def test_an_answer_that_names_no_label_is_paid_for_once(server, learner, label, monkeypatch, provider):
    OpenAIShaped(learner).serve(server)
    vote, asked = learner.vote, itertools.count()
    monkeypatch.setattr(learner, "vote", lambda turns: vote(turns) if next(asked) % 4 else "I cannot say")
    flags = ("--base-url", f"{server.url}/v1", "--model", "m", "--provider", provider)
    first = label("one", *flags, method=VOTES)
    assert label("two", *flags, method=VOTES) == first
    assert next(asked) == 3 * 12


@pytest.mark.parametrize("provider", ["groq", "lm-studio"])
def test_a_host_without_log_probs_labels_by_votes(server, learner, label, provider):
    OpenAIShaped(learner).serve(server)
    labels = label("run", "--base-url", f"{server.url}/v1", "--model", "m", "--provider", provider, method=VOTES)
    assert len(labels) == 12
    assert learner.votes == len(server.requests("/v1/chat/completions")) == 3 * 12


def test_ollama_labels(server, learner, label, truth):
    Ollama(learner).serve(server)
    assert label("run", "--base-url", server.url, "--model", "tiny", "--provider", "ollama") == truth


def test_gemini_labels(server, learner, label, truth):
    Gemini(learner).serve(server)
    assert label("run", "--base-url", f"{server.url}/v1beta", "--model", "m", "--provider", "gemini") == truth


def test_gemini_without_log_probs_ends_at_once_and_labels_by_votes(icm, reviews, server, learner, label):
    Gemini(learner, logprobs=False).serve(server)
    flags = ("--base-url", f"{server.url}/v1beta", "--model", "m", "--provider", "gemini")
    refused = icm("run", reviews, *TASK, *flags, "--run-dir", "refused")
    assert refused.code == 4
    assert "--route votes" in refused.err
    assert len(label("run", *flags, "--route", "votes", method=VOTES)) == 12


def test_a_host_of_the_users_own_is_a_table_of_the_file(monkeypatch, write, server, learner, label, truth):
    monkeypatch.setenv("MY_LAB_KEY", KEY)
    OpenAIShaped(learner).serve(server)
    table: dict[str, Any] = {
        "base_url": f"{server.url}/v1",
        "api_key_env": "MY_LAB_KEY",
        "model": "ours",
        "route": "chat",
        "top_k": 7,
        "price": "0/0",
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    write("lab.toml", "\n".join(["[providers.mylab]", *lines, "extra_body = {pool = {fast = true}}", ""]))
    assert label("run", "--provider", "mylab", "--config", "lab.toml") == truth
    asked = server.asked[0]
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert (asked.body["model"], asked.body["top_logprobs"], asked.body["pool"]) == ("ours", 7, {"fast": True})
    left = [path for path in Path("run").rglob("*") if path.is_file()]
    assert left
    assert all(KEY not in path.read_text() for path in left)


def test_a_host_of_the_users_own_can_speak_another_dialect(write, server, learner, label, truth):
    Ollama(learner).serve(server)
    write(
        "lab.toml",
        f'provider = "den"\n[providers.den]\ndialect = "ollama"\nbase_url = "{server.url}"\nmodel = "tiny"\n',
    )
    assert label("run", "--config", "lab.toml") == truth
