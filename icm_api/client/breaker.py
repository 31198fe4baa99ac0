"""When nothing gets through, one request at a time tries the host until it answers, or the run stops with one error."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from icm_api.client.retry import RetryPolicy, Sleep
from icm_api.client.wrapper import Wrapper
from icm_api.errors import ProviderError, TransientError
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")

OPENS_AT = 8
"""Different requests that failed one after another, none answered between them."""


class Breaker(Wrapper):
    """A circuit breaker around single attempts.

    After `TransientError`s of `OPENS_AT` different requests in a row it is open: attempts wait, and one at a time is
    sent, later and later as `policy` has it. Any answer closes it, a refusal too: the host is up again. When so many
    in a row fail as `policy` allows attempts, or its total time is over, every attempt raises one `ProviderError` that
    is not retried.
    """

    def __init__(
        self,
        inner: Provider,
        policy: RetryPolicy,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(inner)
        self._policy = policy
        self._sleep = sleep
        self._clock = clock
        self._failed: set[int] = set()
        """Requests in whose attempts the host failed since it last answered, by `id`: each outlives its retries."""
        self._opened_s: float | None = None
        self._tries = 0
        self._turn = asyncio.Lock()
        self._given_up: str | None = None

    async def send(self, request: Request[R]) -> R:
        if self._opened_s is not None:
            async with self._turn:
                if self._opened_s is not None:  # nobody was answered while this one waited
                    return await self._try(request)
        return await self._attempt(request)

    async def _try(self, request: Request[R]) -> R:
        """The one attempt that may go while the circuit is open."""
        self._raise_if_given_up()
        await self._sleep(min(self._policy.first_wait_s * 2.0**self._tries, self._policy.max_backoff_s))
        self._tries += 1
        return await self._attempt(request)

    async def _attempt(self, request: Request[R]) -> R:
        try:
            reply = await self.inner.send(request)
        except TransientError as error:
            self._count(request, error)
            raise
        except ProviderError:
            self._close()
            raise
        self._close()
        return reply

    def _close(self) -> None:
        self._failed.clear()
        self._opened_s, self._tries = None, 0

    def _count(self, request: Request[Any], error: TransientError) -> None:
        self._failed.add(id(request))
        if len(self._failed) < OPENS_AT:
            return
        if self._opened_s is None:
            self._opened_s = self._clock()
        open_s = self._clock() - self._opened_s
        if self._tries >= self._policy.attempts or open_s > self._policy.total_s:
            self._given_up = (
                f"{len(self._failed)} different requests failed one after another and {self._tries} more tries over "
                f"{open_s:.0f} s: the host is down or not reachable; the last failure: {error}"
            )
            self._raise_if_given_up()

    def _raise_if_given_up(self) -> None:
        if self._given_up is not None:
            raise ProviderError(self._given_up)
