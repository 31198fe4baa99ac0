"""The one retry loop: bounded in attempts and in time, and it obeys the host's own wish to wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import NoReturn, TypeAlias, TypeVar, cast

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from icm_api.client.wrapper import Wrapper
from icm_api.errors import RetryableError
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")

Sleep: TypeAlias = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to keep trying one request."""

    attempts: int = 6
    """All attempts, the first included, where the host has answered nobody lately."""
    attempts_while_up: int = 20
    """Where it has: what fails then is bad luck. At 30 % of failures, one request in 10^10 has so much of it."""
    total_s: float = 300.0
    """No wait may end later than this after the first attempt began."""
    first_wait_s: float = 1.0
    """Longest wait before the second attempt; it doubles with each further one (full jitter: uniform from 0)."""
    max_backoff_s: float = 15.0
    """Longest wait that the host did not ask for."""
    max_wait_s: float = 120.0
    """Longest that it may ask for. More ends the retrying at once."""


UP_S = 60.0
"""A host that answered anybody so lately is up."""


class Retrying(Wrapper):
    """Asks again after a `RetryableError`; the last one is raised with the reason for giving up in its message."""

    def __init__(
        self,
        inner: Provider,
        policy: RetryPolicy,
        *,
        sleep: Sleep = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        jitter: Random | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """`say` gets one line when the client first waits for a host that has not answered yet."""
        super().__init__(inner)
        self._policy = policy
        self._answered_s: float | None = None
        """When the host last answered."""
        self.retries = 0
        """Attempts of paid requests beyond their first."""
        self._sleep = sleep
        self._clock = clock
        self._jitter = jitter or Random()
        self._say = say

    async def send(self, request: Request[R]) -> R:
        started_s = self._clock()
        try:
            return await self._attempt(request)
        except RetryableError as error:
            first = error
        # tenacity's loop costs more than all the other wrappers, so only a request that failed enters it.
        return await self._send_again(request, first, started_s)

    async def _send_again(self, request: Request[R], first: RetryableError, started_s: float) -> R:
        failed = [first]

        async def attempt() -> R:
            if failed:
                raise failed.pop()
            self.retries += request.paid
            return await self._attempt(request)

        def reason(state: RetryCallState) -> str | None:
            return self._reason_to_stop(state, self._clock() - started_s)

        def give_up(state: RetryCallState) -> NoReturn:
            error = _failure(state)
            error.args = (f"{error}; gave up after {state.attempt_number} attempts: {reason(state)}",)
            raise error

        loop = AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception_type(RetryableError),
            wait=self._wait_s,
            stop=lambda state: reason(state) is not None,
            retry_error_callback=give_up,
            before_sleep=self._tell_first_wait,
        )
        return cast(R, await loop(attempt))

    async def _attempt(self, request: Request[R]) -> R:
        reply = await self.inner.send(request)
        self._answered_s = self._clock()
        return reply

    def _tell_first_wait(self, state: RetryCallState) -> None:
        if self._say is None or self._answered_s is not None:
            return
        self._say(f"{_failure(state)}; trying again, {self._policy.attempts - 1} times at most")
        self._say = None

    def _wait_s(self, state: RetryCallState) -> float:
        longest_s = self._policy.first_wait_s * 2.0 ** (state.attempt_number - 1)
        backoff_s = self._jitter.uniform(0.0, min(longest_s, self._policy.max_backoff_s))
        return max(backoff_s, _failure(state).retry_after_s or 0.0)  # a host that asks for 0 s still gets a back-off

    def _is_up(self) -> bool:
        return self._answered_s is not None and self._clock() - self._answered_s < UP_S

    def _reason_to_stop(self, state: RetryCallState, elapsed_s: float) -> str | None:
        """Why there will be no further attempt; None: there will be one."""
        policy, wait_s = self._policy, state.upcoming_sleep
        if state.attempt_number >= (policy.attempts_while_up if self._is_up() else policy.attempts):
            return "no more are allowed"
        if wait_s > policy.max_wait_s:
            return f"the host asks to wait {wait_s:.0f} s, more than the {policy.max_wait_s:.0f} s allowed"
        if elapsed_s + wait_s > policy.total_s:
            return f"the next would begin later than the {policy.total_s:.0f} s allowed"
        return None


def _failure(state: RetryCallState) -> RetryableError:
    """The error of the attempt that just failed."""
    assert state.outcome is not None
    return cast(RetryableError, state.outcome.exception())
