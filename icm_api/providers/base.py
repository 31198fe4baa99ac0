"""The one seam between the search and the world: a provider takes a request and gives its reply."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from icm_api.types import Capabilities, Json, Request

R = TypeVar("R")


class Provider(Protocol):
    """A host and model that can be asked. Adapters and the client's wrappers both have this shape.

    `send` raises `ProviderError`s only; it never retries, caches or waits for a turn: that is the wrappers' work.
    """

    @property
    def name(self) -> str:
        """Short name for messages, such as `llama-cpp`."""

    @property
    def model(self) -> str: ...

    @property
    def identity(self) -> Mapping[str, Json]:
        """Everything beside the request that can change an answer: host, route, model, server settings, adapter
        version. Part of the cache key, so it never holds a secret."""

    @property
    def capabilities(self) -> Capabilities: ...

    async def send(self, request: Request[R]) -> R:
        """Ask. A request type that the provider does not know raises `CapabilityError`."""

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
