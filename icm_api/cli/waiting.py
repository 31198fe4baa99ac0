"""Waiting for a job while signals may come, and what is said meanwhile."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

T = TypeVar("T")


def talk(text: str) -> None:
    """A line on standard error. What it quotes of data, files and hosts must not drive the terminal."""
    click.echo(printable(text), err=True)


def printable(text: str) -> str:
    """Without control characters."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def until_done(job: Coroutine[Any, Any, T], interrupt: Any = None) -> T:
    """Run to the end. The first Ctrl-C or SIGTERM asks a job that heeds `interrupt` to let what is in the air arrive;
    the next one cancels the job, which saves what it has, and a third does not wait for that."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        with _signals_to(_Stopper(loop, task, interrupt), loop):
            return await job

    return asyncio.run(guarded())


class _Stopper:
    """What a signal does. It comes at any moment, so all is left to the loop's next turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any], interrupt: Any) -> None:
        self._loop, self._task, self._interrupt = loop, task, interrupt
        self._asked = self._cancelled = False

    def __call__(self, *_: object) -> None:
        if self._cancelled:
            raise KeyboardInterrupt
        if self._interrupt is not None and self._interrupt.heeded and not self._asked:
            self._asked = True
            self._loop.call_soon_threadsafe(self._interrupt.ask)
            self._loop.call_soon_threadsafe(talk, "stopping when what is in the air has arrived; Ctrl-C: at once")
        else:
            self._cancelled = True
            self._loop.call_soon_threadsafe(self._task.cancel)


@contextmanager
def _signals_to(handler: Callable[..., None], loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    with _waking(loop, tuple(before), handler):
        try:
            yield
        finally:
            for number, old in before.items():
                signal.signal(number, old)


@contextmanager
def _waking(
    loop: asyncio.AbstractEventLoop, numbers: Iterable[signal.Signals], handler: Callable[..., None]
) -> Iterator[None]:
    """While signals wake the loop, too. One that comes just before the loop begins to wait cuts no wait short: its
    handler would run when the next reply arrives, which may be minutes later. Windows' loops cannot do this."""
    try:
        for number in numbers:
            loop.add_signal_handler(number, _nothing)  # the loop listens for the signal...
            signal.signal(number, handler)  # ...but the handler is ours, which also runs while the loop is busy
    except NotImplementedError:
        yield
        return
    try:
        yield
    finally:
        for number in numbers:
            kept = signal.getsignal(number)
            loop.remove_signal_handler(number)
            signal.signal(number, kept)


def _nothing() -> None:
    """The loop's part of a signal: to wake."""
