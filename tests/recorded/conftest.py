"""Replays recorded HTTP. The network is shut, a changed request body fails, and so does a reply nobody asked for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CASSETTES = Path(__file__).parents[2] / "cassettes"
KEPT_HEADERS = {"content-type"}
"""Everything else (keys among it) never reaches a cassette."""


def _only_kept(headers: Any) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.lower() in KEPT_HEADERS}


def _clean_request(request: Any) -> Any:
    request.headers = _only_kept(request.headers)
    return request


def _clean_response(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "headers": _only_kept(response["headers"])}


@pytest.fixture(scope="module")
def vcr_config() -> dict[str, Any]:
    return {
        "match_on": ["method", "scheme", "host", "port", "path", "query", "body"],
        "before_record_request": _clean_request,
        "before_record_response": _clean_response,
    }


@pytest.fixture(scope="module")
def vcr_cassette_dir(request: pytest.FixtureRequest) -> str:
    """`tests/recorded/test_llama_cpp.py` plays from `cassettes/llama-cpp/`."""
    module = Path(str(request.path)).stem.removeprefix("test_")
    return str(CASSETTES / module.replace("_", "-"))


@pytest.fixture(autouse=True)
def every_recorded_reply_is_asked_for(vcr: Any, record_mode: str) -> Iterator[None]:
    yield
    if record_mode == "none" and vcr is not None:
        assert vcr.all_played, f"{vcr.play_count} of {len(vcr)} recorded replies were asked for"


@pytest.fixture
def server_url() -> str:
    """Where the recorded server listened; cassettes/README.md says how to start it again."""
    return "http://127.0.0.1:8124"
