"""A run that is asked to stop lets what is in the air arrive, for it is paid for, and sends nothing more."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from icm_api.client.wrapper import Wrapper
from icm_api.errors import IcmError
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")


class InterruptedRunError(IcmError):
    """The user asked the run to stop."""

    exit_code = 130

    def __init__(self) -> None:
        super().__init__("interrupted; what was in the air has arrived and is kept")


class Interrupt:
    """The wish to stop. `heeded` while there is a run that acts on it."""

    def __init__(self) -> None:
        self.heeded = False
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """To be called in the event loop's thread."""
        self._asked.set()

    @property
    def asked(self) -> bool:
        return self._asked.is_set()

    async def sleep(self, seconds: float) -> None:
        """A wait before another attempt: nothing is in the air meanwhile, so it ends at once when asked to stop."""
        try:
            await asyncio.wait_for(self._asked.wait(), seconds)
        except TimeoutError:
            return
        raise InterruptedRunError


class Interruptible(Wrapper):
    """Sends nothing once the run was asked to stop; the outermost of the wrappers."""

    def __init__(self, inner: Provider, interrupt: Interrupt) -> None:
        super().__init__(inner)
        self._interrupt = interrupt

    async def send(self, request: Request[R]) -> R:
        if self._interrupt.asked:
            raise InterruptedRunError
        return await self.inner.send(request)
