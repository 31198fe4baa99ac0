"""Signals while a command waits for its job."""

import asyncio
import signal
import sys
import threading
import time

import pytest

from icm_api.cli.waiting import until_done

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work differently on Windows")

NEVER_S = 8.0


class Wish:
    """To stop; as `icm_api.run.interrupt.Interrupt`."""

    heeded = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def ask(self) -> None:
        self.asked.set()


def signal_that_interrupts_no_wait() -> None:
    """As one that comes when the loop has looked for signals and does not wait yet: the wait that follows is not cut
    short by it. Here another thread gets it while the loop waits."""

    def strike() -> None:
        time.sleep(0.1)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    threading.Thread(target=strike).start()


def test_a_signal_that_interrupts_no_wait_asks_the_job_to_stop_at_once(capsys):
    wish = Wish()

    async def job() -> str:
        signal_that_interrupts_no_wait()
        await asyncio.wait_for(wish.asked.wait(), NEVER_S)
        return "stopped"

    started_s = time.monotonic()
    assert until_done(job(), wish) == "stopped"
    assert time.monotonic() - started_s < NEVER_S / 2
    assert "stopping when what is in the air has arrived" in capsys.readouterr().err


def test_a_signal_that_interrupts_no_wait_cancels_a_job_that_was_asked_already(capsys):
    async def job() -> None:
        signal_that_interrupts_no_wait()
        await asyncio.wait_for(wish.asked.wait(), NEVER_S)
        signal_that_interrupts_no_wait()
        await asyncio.sleep(NEVER_S)

    wish, started_s = Wish(), time.monotonic()
    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        until_done(job(), wish)
    assert time.monotonic() - started_s < NEVER_S / 2


def test_handlers_are_as_they_were_once_the_job_has_ended():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    async def job() -> int:
        return 3

    assert until_done(job()) == 3
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
