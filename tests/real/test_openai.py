"""The provider `openai` on a real server that speaks its chat route: the embedded one."""

from __future__ import annotations

from pathlib import Path

import pytest

import icm_api
from icm_api.local.server import LocalServer
from icm_api.run.runner import Result

pytestmark = pytest.mark.real

REVIEWS = [
    ("We laughed and left with a smile.", True),
    ("Wooden acting, and no plot.", False),
    ("The soup was cold and tasteless.", False),
    ("Fresh, warm and delicious.", True),
    ("Spotless, quiet and friendly.", True),
    ("Dirty sheets and a broken shower.", False),
    ("It broke twice in a week.", False),
    ("A gorgeous screen, I love it.", True),
]
ROWS = [{"id": str(k), "text": text, "gold": gold} for k, (text, gold) in enumerate(REVIEWS)]


async def test_the_chat_route_labels_and_a_second_run_asks_nothing(local_server: LocalServer, tmp_path: Path):
    async def run(name: str) -> Result:
        return await icm_api.alabel(
            ROWS,
            task="classify",
            labels=["negative", "positive"],
            gold_column="gold",
            method="random-few-shot",
            max_demonstrations=3,
            provider="openai",
            base_url=f"{local_server.base_url}/v1",
            model="SmolLM2-135M-Instruct",
            cache_dir=tmp_path / "cache",
            run_dir=tmp_path / name,
        )

    first = await run("first")
    assert {row.label for row in first.rows} <= {"negative", "positive"}
    assert first.summary.accuracy_n == 8
    assert first.summary.requests >= 8
    again = await run("again")
    assert again.summary.requests == 0
    assert [row.label for row in again.rows] == [row.label for row in first.rows]
