"""A provider in memory that answers as a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from icm_api.errors import RateLimitError, TransientError
from icm_api.types import (
    Candidate,
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    TokenCountReply,
    TokenCountRequest,
    Usage,
)

USAGE = Usage(prompt_tokens=7, cached_tokens=2, output_tokens=1)


def ask(query: str = "Is water wet?", **prompt: Any) -> NextTokenRequest:
    return NextTokenRequest(Prompt(query, **prompt), (" True", " False"))


def count_tokens(*texts: str) -> TokenCountRequest:
    return TokenCountRequest(texts)


def answer(usage: Usage = USAGE) -> NextTokenReply:
    candidates = (Candidate(" True", -0.1, 17), Candidate(" False", -2.5))
    return NextTokenReply(candidates, floor_nats=-9.25, usage=usage, model="scripted-1")


def busy(retry_after_s: float | None = None) -> RateLimitError:
    return RateLimitError("too many requests", retry_after_s=retry_after_s, provider="scripted", model="m")


def broken(retry_after_s: float | None = None) -> TransientError:
    return TransientError("bad gateway", retry_after_s=retry_after_s, provider="scripted", model="m")


class Scripted:
    """Plays `script` (replies, errors or functions of the request), then repeats `answer()`."""

    name = "scripted"
    model = "m"
    capabilities = Capabilities(
        exact_labels=True,
        max_top_k=20,
        continues_label=True,
        counts_tokens=True,
        plain_text_tokens=True,
        context_tokens=None,
    )

    def __init__(self, script: Iterable[Any] = (), identity: Mapping[str, Json] | None = None) -> None:
        self.identity: Mapping[str, Json] = identity or {"host": "memory", "model": "m"}
        self.sent: list[Any] = []
        self.closed = 0
        self._script = iter(script)

    async def send(self, request: Any) -> Any:
        self.sent.append(request)
        if isinstance(request, TokenCountRequest):
            return TokenCountReply(tuple(len(text.split()) for text in request.texts))
        step = next(self._script, answer())
        if isinstance(step, BaseException):
            raise step
        return step

    async def aclose(self) -> None:
        self.closed += 1


class Gated(Scripted):
    """Holds every request until the test opens its gate: `gates[i]` belongs to `sent[i]`."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: list[asyncio.Future[Any]] = []
        self.most_at_once = 0
        self._inside = 0

    async def send(self, request: Any) -> Any:
        self.sent.append(request)
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        try:
            return await gate
        finally:
            self._inside -= 1

    @property
    def waiting(self) -> int:
        return self._inside


async def settle(turns: int = 20) -> None:
    """Let every task run until it waits for something that a test controls."""
    for _ in range(turns):
        await asyncio.sleep(0)


class FakeTime:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)
