"""The main job on a real model: labels, the same by every route to the same server."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import icm_api
from icm_api.core.context import Query
from icm_api.local.server import LocalServer
from icm_api.providers.base import Provider
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.run.probe import probe
from icm_api.run.runner import Result
from icm_api.run.scorer import PromptScorer
from icm_api.tasks.labels import labels_from_names

pytestmark = pytest.mark.real

REVIEWS = [
    ("film-1", "We laughed and left with a smile.", True),
    ("film-2", "Wooden acting, and no plot.", False),
    ("soup-1", "The soup was cold and tasteless.", False),
    ("soup-2", "Fresh, warm and delicious.", True),
    ("hotel-1", "Spotless, quiet and friendly.", True),
    ("hotel-2", "Dirty sheets and a broken shower.", False),
    ("phone-1", "It broke twice in a week.", False),
    ("phone-2", "A gorgeous screen, I love it.", True),
]
ROWS = [{"id": name, "text": text, "gold": gold} for name, text, gold in REVIEWS]
LABELS = ["negative", "positive"]
TOLERANCE_NATS = 0.05
"""Between routes: equal tokens, but another split into cached and new ones (at most 0.063 was seen for a label)."""


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """Of each two reviews of one thing, exactly one is positive."""
    things = sorted({name.split("-")[0] for name, _, _ in REVIEWS})
    path = tmp_path / "rules.jsonl"
    path.write_text("".join(json.dumps({"kind": "exactly_one", "ids": [f"{t}-1", f"{t}-2"]}) + "\n" for t in things))
    return path


async def labelled(folder: Path, rules: Path, **settings: Any) -> Result:
    return await icm_api.alabel(
        ROWS,
        task="classify",
        labels=LABELS,
        gold_column="gold",
        relations=rules,
        cache_dir=folder / "cache",
        run_dir=folder / uuid4().hex,
        **settings,
    )


async def test_two_routes_to_one_server_find_the_same_labels_and_a_second_run_asks_nothing(
    local_server: LocalServer, tmp_path: Path, rules: Path
):
    native = await labelled(tmp_path / "a", rules, provider="llama-cpp", base_url=local_server.base_url)
    url, model = f"{local_server.base_url}/v1", native.summary.model
    sdk = {"provider": "openai-compatible", "base_url": url, "model": model, "top_k": 1000}
    through_sdk = await labelled(tmp_path / "b", rules, **sdk)

    assert [row.label for row in native.rows] == [row.label for row in through_sdk.rows]
    assert native.summary.violations == through_sdk.summary.violations == 0
    assert native.summary.label_shares == {"negative": 0.5, "positive": 0.5}
    assert native.summary.accuracy_n == 8

    again = await labelled(tmp_path / "b", rules, **sdk)
    assert again.summary.requests == 0
    assert [row.label for row in again.rows] == [row.label for row in through_sdk.rows]


async def scores(provider: Provider, words: list[str]) -> list[float]:
    texts = [f"Text: {text}\nLabel:" for _, text, _ in REVIEWS[:5]]
    scorer = PromptScorer(provider, labels_from_names(words), texts, min_mass=0.0)
    (score,) = await scorer.score([Query(0, ((1, 0), (2, 0), (3, 1), (4, 1)))])
    assert score.bounded == (False,) * len(words)
    return list(score.logprobs_nats)


@pytest.mark.parametrize(
    "words", [LABELS, ["negligible", "negative"], ["unsatisfactory", "wholly satisfactory", "mixed"]]
)
async def test_labels_of_one_token_or_many_score_alike_by_both_routes(local_server: LocalServer, words: list[str]):
    native = await LlamaCpp.connect(base_url=local_server.base_url)
    through_sdk = OpenAICompatible(
        base_url=f"{local_server.base_url}/v1", model=native.model, api_key=None, route="completions", top_k=5000
    )
    try:
        exact, listed = await scores(native, words), await scores(through_sdk, words)
    finally:
        await native.aclose()
        await through_sdk.aclose()
    assert exact == pytest.approx(listed, abs=TOLERANCE_NATS)
    assert math.fsum(map(math.exp, exact)) == pytest.approx(1)


async def test_the_probe_finds_the_server_usable_and_its_numbers_alive(local_server: LocalServer):
    native = await LlamaCpp.connect(base_url=local_server.base_url)
    try:
        report = await probe(native, labels_from_names(["False", "True"]), price=None)
    finally:
        await native.aclose()
    assert report.usable, report.checks
    assert {check.name for check in report.checks} >= {"log-probs", "labels in reach", "repeated call"}
