"""From the name of a model to something that answers: a provider for a run, or a server for other programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from icm_api.errors import ConfigError
from icm_api.local.models import DEFAULT_MODEL, fetch_model
from icm_api.local.server import ServerSettings, start_server
from icm_api.providers.base import Provider
from icm_api.providers.llama_cpp import LlamaCpp

Say = Callable[[str], None]


def model_file(model: str | None, *, cache_dir: Path, progress: Say | None = None) -> Path:
    """The file of a pinned model (None: the default), fetched when missing, or the user's own `.gguf` file."""
    if model is not None and model.endswith(".gguf"):
        return Path(model).expanduser()
    return fetch_model(model or DEFAULT_MODEL, cache_dir=cache_dir, progress=progress)


@asynccontextmanager
async def open_local(
    model: str | None,
    *,
    cache_dir: Path,
    context_tokens: int | None = None,
    slots: int = 1,
    progress: Say | None = None,
) -> AsyncIterator[Provider]:
    """A provider over a server that lives as long as the context. Arguments as in `ServerSettings`."""
    path = await asyncio.to_thread(model_file, model, cache_dir=cache_dir, progress=progress)
    settings = ServerSettings(path, context_tokens=context_tokens, slots=slots)
    async with start_server(settings) as server:
        provider = await LlamaCpp.connect(base_url=server.base_url, server=server.identity)
        try:
            yield provider
        finally:
            await provider.aclose()


def serve_until_stopped(
    model: str | None,
    *,
    cache_dir: Path,
    announce: Say,
    port: int = 0,
    context_tokens: int | None = None,
    slots: int = 1,
) -> None:
    """Serve a model until KeyboardInterrupt; `announce` gets the address once it answers.

    Raises ConfigError for a port that is out of range and ProviderError when the server ends by itself.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"port must be 0 (any free one) to 65535, not {port}")
    path = model_file(model, cache_dir=cache_dir)
    try:
        with start_server(ServerSettings(path, context_tokens=context_tokens, slots=slots, port=port)) as server:
            announce(server.base_url)
            server.wait()
    except KeyboardInterrupt:
        return
