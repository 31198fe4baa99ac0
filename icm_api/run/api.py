"""Labelling from Python: one function, and the same for code that is already asynchronous."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from icm_api.config import RunConfig, load_config
from icm_api.run.runner import Observer, Result, run

Data = str | Path | Sequence[Mapping[str, object]]


def label(data: Data, *, task: str, observe: Observer = lambda _: None, **settings: Any) -> Result:
    """Label a dataset and return what was found; also works in a notebook, where an event loop already runs.

    `data`: a path, as on the command line, or rows as mappings; so is `relations`. `settings`: the fields of
    `icm_api.config.RunConfig` (the command line's flags); ICM_API_* variables fill in what is not given. `observe` is
    called after each step.

    Raises an IcmError as the command line would report it. When a run is cut short (a budget, a host that gave up),
    the labels found so far are on disk; a note on the error says where.
    """
    job = alabel(data, task=task, observe=observe, **settings)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    return _in_a_thread(job)


async def alabel(data: Data, *, task: str, observe: Observer = lambda _: None, **settings: Any) -> Result:
    """`label` for asynchronous code."""
    rows = None if isinstance(data, str | Path) else data
    source = "<rows>" if rows is not None else str(data)
    rules = settings.pop("relations") if isinstance(settings.get("relations"), list | tuple) else None
    config = load_config(RunConfig, {"data": source, "task": task, **settings}, os.environ)
    result = await run(config, os.environ, observe, rows=rows, rules=rules)
    if result.error is not None:
        raise result.error
    return result


def _in_a_thread(job: Coroutine[Any, Any, Result]) -> Result:
    """Run in a loop of its own. An interrupt (a notebook's stop button) cancels the run, which saves what it has."""
    loop, ended = asyncio.new_event_loop(), threading.Event()

    async def until_ended() -> Result:
        try:
            return await job
        finally:
            ended.set()

    thread = threading.Thread(target=loop.run_forever, name="icm-api")
    thread.start()
    future = asyncio.run_coroutine_threadsafe(until_ended(), loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        ended.wait()
        raise
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
