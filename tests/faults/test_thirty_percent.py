"""Thirty requests in a hundred fail at random, and a whole run does not notice but for its bill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from icm_api.client import RetryPolicy
from icm_api.config import RunConfig
from icm_api.run.runner import Result, run
from tests.faults.server import Fault, FaultServer, Reply, good, refusal

FAILING = 0.3
ROWS = [{"id": str(number), "text": f"sentence number {number}"} for number in range(48)]
FAULTS: tuple[Fault, ...] = (
    refusal(500),
    refusal(503, "overloaded"),
    refusal(429, "slow down"),
    Reply(silent=True, end="reset"),
    Reply(b'{"choices": ['),
    lambda body: Reply(good(body), sent_bytes=60, end="reset"),
)


@pytest.fixture
def host() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


@pytest.fixture
def label(host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`await label("name", method)`: a run of its own, with waits of milliseconds."""
    quick = RetryPolicy(first_wait_s=1e-3, max_backoff_s=2e-3)
    monkeypatch.setattr("icm_api.run.compose.RetryPolicy", lambda: quick)

    async def to_end(name: str, method: str) -> Result:
        config = RunConfig.model_validate(
            {
                "data": "<rows>",
                "task": "classify",
                "labels": ("True", "False"),
                "min_mass": 0.0,
                "provider": "openai-compatible",
                "model": "m",
                "base_url": host.url,
                "route": "completions",
                "method": method,
                "context_tokens": 400,
                "run_dir": tmp_path / name,
                "cache_dir": tmp_path / f"cache-{name}",
            }
        )
        return await run(config, {}, rows=ROWS)

    return to_end


@pytest.mark.parametrize("method", ["zero-shot", "random-few-shot"])
async def test_the_labels_are_the_same_and_the_extra_requests_are_the_unavoidable_ones(host, label, method):
    calm = await label("calm", method)
    asked = len(host.prompts)
    random = Random(5)
    host.fault = lambda _: random.choice(FAULTS) if random.random() < FAILING else None
    stormy = await label("stormy", method)
    assert calm.error is stormy.error is None
    assert [(row.id, row.label, row.confidence) for row in stormy.rows] == [
        (row.id, row.label, row.confidence) for row in calm.rows
    ]
    assert stormy.summary.label_shares == calm.summary.label_shares
    extra, unavoidable = len(host.prompts) - 2 * asked, asked * FAILING / (1 - FAILING)
    assert abs(extra - unavoidable) < 4 * (asked * FAILING) ** 0.5 / (1 - FAILING), "as many as failed, give or take"
    assert len(host.answered) == 2 * asked, "no question is answered twice in a run"
    assert stormy.summary.retries == extra
