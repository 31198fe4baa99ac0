"""Replays recorded HTTP. The network is shut, a changed request body fails, and so does a reply nobody asked for."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recorded.recording import CASSETTES, VCR_CONFIG


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    return dict(VCR_CONFIG)


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """`tests/recorded/test_llama_cpp.py` plays from `cassettes/llama-cpp/`. While they are recorded anew, `CASSETTES`
    names another folder than `cassettes/`."""
    module = Path(str(request.path)).stem.removeprefix("test_")
    return str(Path(os.environ.get("CASSETTES", CASSETTES)) / module.replace("_", "-"))


@pytest.fixture(autouse=True)
def every_recorded_reply_is_asked_for(vcr: Any, record_mode: str) -> Iterator[None]:
    yield
    if record_mode == "none" and vcr is not None:
        assert vcr.all_played, f"{vcr.play_count} of {len(vcr)} recorded replies were asked for"


@pytest.fixture
def server_url() -> str:
    """Where the recorded server listened."""
    return "http://127.0.0.1:8124"
