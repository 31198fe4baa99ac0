"""llama.cpp's own HTTP server in a child process, on loopback, with settings under which numbers repeat."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NoReturn, Self
from urllib.parse import urlsplit

from icm_api.errors import ConfigError, ProviderError
from icm_api.local.models import file_sha256
from icm_api.types import Json

START_LIMIT_S = 180
"""A server that is not ready by then is ended. Two seconds are usual; a busy machine takes longer."""
CLOSE_LIMIT_S = 2
"""Patience at each step of ending a server: closed pipe, SIGTERM, SIGKILL."""
LOG_LINES = 20
USUAL_CONTEXT_TOKENS = 8192

# With these a prefix hit equals a cold run, and concurrent requests equal sequential ones, to the last bit; with
# llama.cpp's defaults a label's log-probability moves by up to 0.4 nats. The one exception is an evaluation of a
# single token (a prompt that is wholly cached, or all but its last token), as F32 products of one row take another
# kernel: one prompt in fifteen then differs, the margin between two labels by up to 0.06 nats. Two tokens suffice.
# Weights are not repacked into another layout because Gemma's prefix hits would then differ; for SmolLM2 (Q4_1)
# repacking changes neither numbers nor speed. No GPU: all this was measured on the CPU.
REPEATABLE: Mapping[str, Json] = MappingProxyType(
    {
        "flash_attn_type": "LLAMA_FLASH_ATTN_TYPE_DISABLED",
        "cache_type_k": "GGML_TYPE_F32",
        "cache_type_v": "GGML_TYPE_F32",
        "kv_unified": False,
        "swa_full": True,  # sliding-window models (Gemma) would lose the prefix
        "no_extra_bufts": True,
        "n_gpu_layers": 0,
        "n_batch": 2048,
        "n_ubatch": 512,
        "fit_params": False,  # never adapt settings to free memory in silence
    }
)
# These move no number. No page in a browser may read the server, which has no user interface either.
QUIET: Mapping[str, Json] = MappingProxyType(
    {"cache_ram_mib": 0, "cache_idle_slots": False, "ui": False, "cors_origins": "", "verbosity": 1}
)


def usable_cpus() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What may differ between two servers; everything else is fixed so that numbers repeat."""

    model: Path
    """A GGUF file."""
    context_tokens: int | None = None
    """Context of each slot; None: 8192, or what the model was trained for where that is less."""
    slots: int = 1
    """Requests evaluated at once, each with a context and a prefix cache of its own."""
    threads: int = field(default_factory=usable_cpus)
    port: int = 0
    """0: any free port."""

    def __post_init__(self) -> None:
        for name, value in (("slots", self.slots), ("threads", self.threads), ("context_tokens", self.context_tokens)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")

    @property
    def wanted_context_tokens(self) -> int:
        return USUAL_CONTEXT_TOKENS if self.context_tokens is None else self.context_tokens

    @property
    def deciding(self) -> Mapping[str, Json]:
        """The llama.cpp parameters that can change a number."""
        return {
            **REPEATABLE,
            "n_ctx": self.wanted_context_tokens * self.slots,  # llama.cpp shares it out among the slots
            "n_parallel": self.slots,
            "cpuparams.n_threads": self.threads,
            "cpuparams_batch.n_threads": self.threads,
        }

    @property
    def parameters(self) -> Mapping[str, Json]:
        """Every llama.cpp parameter that we set, by its name in `CommonParams`."""
        where: dict[str, Json] = {"model.path": str(self.model), "hostnames": ["127.0.0.1"], "port": self.port}
        return {**self.deciding, **QUIET, **where}


def start_server(settings: ServerSettings, *, time_limit_s: float = START_LIMIT_S) -> LocalServer:
    """A server that runs inside `with` or `async with`; see `LocalServer`."""
    return LocalServer(settings, time_limit_s=time_limit_s)


class LocalServer:
    """A server process that cannot outlive this one.

    Entering starts it and waits until it is ready; leaving ends it. The process holds the reading end of a pipe of
    ours and ends when that closes, so a crash, SIGTERM or SIGKILL of this process needs no handler here. (A process
    forked from this one without exec keeps the pipe open as long as it lives.)
    Entering raises ConfigError (no xllamacpp, no such file, more context than the model has) or ProviderError with
    the end of the server's log.
    """

    pid: int
    """Of the server process, from its start on."""
    base_url: str
    """`http://127.0.0.1:PORT`; like the next two, there once the server is ready."""
    context_tokens: int
    """Context of each slot, as the server says."""
    identity: Mapping[str, Json]
    """Everything about the server that can change a number, for the cache key; not the port."""

    def __init__(self, settings: ServerSettings, *, time_limit_s: float = START_LIMIT_S) -> None:
        self.settings, self._time_limit_s = settings, time_limit_s
        self._child: _Child | None = None

    def __enter__(self) -> Self:
        child = self._launch()
        try:
            self._await_ready(child)
        except BaseException:
            self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        child = self._launch()
        try:
            await asyncio.to_thread(self._await_ready, child)
        except BaseException:  # a cancelled start too: the closed pipe then frees the waiting thread
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        self.close()  # milliseconds, and no await that a second cancellation could cut short

    def wait(self) -> NoReturn:
        """Block until the server ends by itself, which is always a ProviderError, or until interrupted."""
        assert self._child is not None, "the server is not running"
        self._child.process.wait()
        raise self._child.failure()

    def close(self) -> None:
        """End the server. Safe to call twice."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def _launch(self) -> _Child:
        assert self._child is None, "the server is already running"
        if importlib.util.find_spec("xllamacpp") is None:
            raise ConfigError("a local model needs the embedded server: pip install 'icm-api[local]'")
        if not self.settings.model.is_file():
            raise ConfigError(f"there is no model file {self.settings.model}")
        self._child = child = _Child.start(self.settings.parameters)
        self.pid = child.process.pid
        return child

    def _await_ready(self, child: _Child) -> None:
        deadline = time.monotonic() + self._time_limit_s
        # Every wait below ends when the child does, so its end is the only time limit needed.
        alarm = threading.Timer(self._time_limit_s, child.process.kill)
        alarm.start()
        try:
            ready = child.read_answer()
            self.base_url = ready["base_url"]
            while _get(self.base_url, "/health")[0] != 200:
                time.sleep(0.05)
            self.context_tokens = self._checked_context()
        except (OSError, ValueError, HTTPException):  # no answer, or a connection that broke off
            late = f"was not ready within {self._time_limit_s:g} s" if time.monotonic() >= deadline else None
            raise child.failure(late) from None
        finally:
            alarm.cancel()
        self.identity = self._identity(ready["cpu"])

    def _checked_context(self) -> int:
        """llama.cpp cuts a slot's context to what the model was trained for, and only logs it."""
        _, props = _get(self.base_url, "/props")
        served = int(props["default_generation_settings"]["n_ctx"])
        asked = self.settings.context_tokens
        if asked is not None and served < asked:
            raise ConfigError(
                f"{self.settings.model.name} was trained for {served} tokens of context: "
                f"{asked} were asked for; ask for {served} at most"
            )
        return served

    def _identity(self, cpu: str) -> Mapping[str, Json]:
        return {
            "server": "xllamacpp",
            "version": version("xllamacpp"),
            "model_sha256": file_sha256(self.settings.model),
            "cpu": cpu,
            "parameters": dict(self.settings.deciding),
        }


@dataclass(frozen=True, slots=True)
class _Child:
    """The server process, its three pipes and the end of its log."""

    process: subprocess.Popen[str]
    log: deque[str]
    reader: threading.Thread

    @classmethod
    def start(cls, parameters: Mapping[str, Json]) -> Self:
        # OpenMP threads spin while they wait, which on a busy machine starves the very thread they wait for:
        # waiting passively made prompts two to four times faster there, and the numbers are the same.
        environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "icm_api.local.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=environment,
        )
        stdin, stderr = process.stdin, process.stderr
        assert stdin is not None
        assert stderr is not None
        log: deque[str] = deque(maxlen=LOG_LINES)
        reader = threading.Thread(target=log.extend, args=(stderr,), daemon=True)
        reader.start()
        with contextlib.suppress(BrokenPipeError):  # it died already; its silence tells
            stdin.write(json.dumps(parameters) + "\n")
            stdin.flush()
        return cls(process, log, reader)

    def read_answer(self) -> dict[str, str]:
        """Raises ValueError when the process ended without one."""
        assert self.process.stdout is not None
        answer: dict[str, str] = json.loads(self.process.stdout.readline())
        return answer

    def failure(self, what: str | None = None) -> ProviderError:
        """Why the process ended (or `what` it did), with the end of its log."""
        self._await_end()
        end = what or _end(self.process.returncode)
        words = "".join(self.log).strip()
        said = f"Its last words:\n{words}" if words else "It left no word."
        return ProviderError(f"the server {end}. {said}", provider="local")

    def end(self) -> None:
        self._close(self.process.stdin)
        self._await_end()
        self._close(self.process.stdout)
        self._close(self.process.stderr)

    def _await_end(self) -> None:
        for insist in (self.process.terminate, self.process.kill, None):
            try:
                self.process.wait(CLOSE_LIMIT_S)
                break
            except subprocess.TimeoutExpired:
                if insist is not None:
                    insist()
        self.reader.join(CLOSE_LIMIT_S)

    @staticmethod
    def _close(pipe: IO[str] | None) -> None:
        with contextlib.suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


def _end(returncode: int | None) -> str:
    if returncode is None:
        return "hangs"
    if returncode < 0:
        return f"was killed by {signal.Signals(-returncode).name}"
    return f"stopped with exit code {returncode}"


def _get(base_url: str, path: str) -> tuple[int, dict[str, Any]]:
    """Status and JSON body. Directly to loopback: a proxy set in the environment plays no part."""
    connection = HTTPConnection(urlsplit(base_url).netloc)
    with contextlib.closing(connection):
        connection.request("GET", path)
        reply = connection.getresponse()
        return reply.status, json.loads(reply.read())
