"""What every wrapper of the client has in common: it is a provider around a provider."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from icm_api.providers.base import Provider
from icm_api.types import Capabilities, Json, Request

R = TypeVar("R")


class Wrapper:
    """A provider that passes everything on to `inner`; subclasses add their one concern to `send`."""

    def __init__(self, inner: Provider) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def model(self) -> str:
        return self.inner.model

    @property
    def identity(self) -> Mapping[str, Json]:
        return self.inner.identity

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    async def send(self, request: Request[R]) -> R:
        return await self.inner.send(request)

    async def aclose(self) -> None:
        await self.inner.aclose()
