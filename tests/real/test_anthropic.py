"""Counted answers over the Messages route of a real server, through the SDK.

llama.cpp's route holds no answer to a schema, so this shows the way through the tool and the strict reading, not what
such labels are worth: the model is tiny.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import icm_api
from icm_api.local.server import LocalServer
from icm_api.run.runner import Result
from tests.real.test_labelling import LABELS, ROWS

pytestmark = pytest.mark.real

VOTES = 2


async def labelled(server: LocalServer, folder: Path, **settings: Any) -> Result:
    return await icm_api.alabel(
        ROWS,
        task="classify",
        labels=LABELS,
        provider="anthropic",
        base_url=server.base_url,
        model="any",
        votes=VOTES,
        method="anneal",  # whose questions all show examples: without any, the model answers at length
        seeds=8,
        max_steps=3,
        max_demonstrations=4,
        cache_dir=folder / "cache",
        run_dir=folder / "run",
        **settings,
    )


async def test_a_run_by_votes_labels_the_examples_and_says_what_its_scores_are(
    local_server: LocalServer, tmp_path: Path
):
    result = await labelled(local_server, tmp_path)
    summary = result.summary
    assert (summary.score_kind, summary.provider) == ("sampled", "anthropic")
    assert (summary.requests + summary.cache_hits) % VOTES == 0
    assert summary.retries == 0
    assert summary.prompt_tokens is not None
    assert 0 < (summary.cached_tokens or 0) < summary.prompt_tokens
    assert {row.kind for row in result.rows} == {"sampled"}
    assert {row.label for row in result.rows} <= set(LABELS)
    assert any("2 counted answers" in warning for warning in summary.warnings)
