"""Time that only waiting moves: what sleeps for hours is tested in milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

T = TypeVar("T")


class _Clock(selectors.DefaultSelector):
    """Where a loop would sleep until its next timer, the clock jumps there."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no timer either, and nobody else could wake this loop
            raise RuntimeError("nothing is left to wait for")
        self.now_s += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """An async test whose sleeps take no time. Not for one that talks to sockets or threads."""

    @wraps(test)
    def run(*args: Any, **options: Any) -> None:
        run_virtually(test(*args, **options))

    return run


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
