"""How many requests may be with the host at once: grows while all goes well, halves when the host asks for less."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

from icm_api.client.wrapper import Wrapper
from icm_api.errors import RateLimitError
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")

FIRST_LIMIT = 4


class Limited(Wrapper):
    """Lets at most `limit` requests through at a time, first come first served; 1 <= `limit` <= `max_concurrency`.

    Additive increase, multiplicative decrease (as TCP does): one more after a full window of successes that used every
    place, half as many after a `RateLimitError`. Until the first such error each success adds a place (slow start).
    Other failures say nothing about the rate and change nothing.
    """

    def __init__(self, inner: Provider, max_concurrency: int) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        super().__init__(inner)
        self.limit = min(FIRST_LIMIT, max_concurrency)
        self._max = max_concurrency
        self._active = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._shrinks = 0
        self._successes = 0

    async def send(self, request: Request[R]) -> R:
        await self._enter()
        shrinks = self._shrinks
        try:
            reply = await self.inner.send(request)
            self._succeeded(shrinks)
            return reply
        except RateLimitError:
            self._refused(shrinks)
            raise
        finally:
            self._leave()

    async def _enter(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the place was given in the same moment: hand it on
                self._leave()
            raise

    def _leave(self) -> None:
        self._active -= 1
        self._admit()

    def _admit(self) -> None:
        while self._queue and self._active < self.limit:
            turn = self._queue.popleft()
            if not turn.cancelled():
                self._active += 1
                turn.set_result(None)

    # Requests sent before the last shrink (`shrinks` is what they saw) tell of a rate that is no longer used, so they
    # count for nothing: one burst of refusals halves once.

    def _succeeded(self, shrinks: int) -> None:
        if shrinks != self._shrinks or self._active < self.limit:
            return
        self._successes += 1
        window = self.limit if self._shrinks else 1
        if self._successes >= window and self.limit < self._max:
            self.limit += 1
            self._successes = 0

    def _refused(self, shrinks: int) -> None:
        if shrinks == self._shrinks:
            self._shrinks += 1
            self._successes = 0
            self.limit = max(1, self.limit // 2)
