"""How many requests may be with the host at once, and how many a second it gets: less whenever it asks for less."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TypeVar

from icm_api.client.pace import Pace
from icm_api.client.wrapper import Wrapper
from icm_api.errors import ProviderError, RateLimitError
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")

FIRST_LIMIT = 4


class Limited(Wrapper):
    """Lets at most `limit` requests through at a time, first come first served; 1 <= `limit` <= `max_concurrency`.

    Two things may be too much for a host, and a `RateLimitError` does not say which: too many requests at once, or too
    many a second. So each is found by itself. The rate: see `Pace`. The places: one more after each success while all
    were taken, half as many after a refusal while all were taken; as the rate falls with each refusal too, they may
    grow that fast. Other failures say nothing about either and change nothing.
    """

    def __init__(self, inner: Provider, max_concurrency: int) -> None:
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        super().__init__(inner)
        self.limit = min(FIRST_LIMIT, max_concurrency)
        self._max = max_concurrency
        self._active = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._pace: Pace | None = None
        """None until the first request: the clock is the event loop's."""
        self._timer: asyncio.TimerHandle | None = None
        self._refusals = 0

    async def send(self, request: Request[R]) -> R:
        await self._enter()
        refusals, epoch = self._refusals, self._paced.epoch
        try:
            reply = await self.inner.send(request)
        except RateLimitError:
            self._paced.refused(_now_s(), epoch)
            self._refused(refusals)
            raise
        except ProviderError:
            self._paced.passed(_now_s(), epoch)
            raise
        else:
            self._paced.passed(_now_s(), epoch)
            self._succeeded(refusals)
            return reply
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
            if self._queue[0].cancelled():
                self._queue.popleft()
            elif (wait_s := self._paced.wait_s(_now_s())) > 0:
                self._come_back_in(wait_s)
                return
            else:
                self._active += 1
                self._paced.sent(_now_s())
                self._queue.popleft().set_result(None)

    def _come_back_in(self, wait_s: float) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._come_back)

    def _come_back(self) -> None:
        self._timer = None
        self._admit()

    @property
    def _paced(self) -> Pace:
        if self._pace is None:
            self._pace = Pace(_now_s())
        return self._pace

    # Requests sent before the last refusal that counted (`refusals` is how many there were then) tell of a rate that is
    # no longer used: a burst of refusals counts once.

    def _succeeded(self, refusals: int) -> None:
        if refusals != self._refusals or self._active < self.limit:
            return
        if self.limit < self._max:
            self.limit += 1

    def _refused(self, refusals: int) -> None:
        if refusals != self._refusals:
            return
        if self._active >= self.limit:
            self.limit = max(1, self.limit // 2)
        self._refusals += 1


def _now_s() -> float:
    return asyncio.get_running_loop().time()
