"""Ctrl-C and SIGTERM end a run with what it found; nothing that was paid for is lost."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from icm_api.run.interrupt import Interrupt, InterruptedRunError, Interruptible
from tests.unit.client.scripted import Gated, answer, ask, settle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals work differently on Windows")


@contextmanager
def running(folder: Path, method: str, latency_s: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    """A run of 200 examples."""
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(200)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "icm_api.cli", "run", "d.jsonl", "--task", "classify", "--labels", "no,yes"]
    command += ["--provider", "synthetic", "--provider-option", f"latency_s={latency_s}", "--run-dir", "run"]
    command += ["--method", method, *more]
    with subprocess.Popen(command, cwd=folder, env=environ(folder), stderr=subprocess.PIPE, text=True) as process:
        yield process


def environ(folder: Path) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if not name.startswith("ICM_API_")}
    return {**clean, "ICM_API_CACHE_DIR": str(folder / "cache")}


def wait_until_it_says(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    assert any(text in line for line in process.stderr)


def the_rest(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def state(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/state.json").read_text())
    return found


@pytest.mark.parametrize(
    ("method", "latency_s", "first", "sent"),
    [
        ("anneal", "0.02", "8/200 labelled", signal.SIGINT),
        ("anneal", "0.02", "8/200 labelled", signal.SIGTERM),
        ("sweep", "0.3", "warm-up", signal.SIGINT),
    ],
)
def test_an_interrupted_run_lets_what_is_in_the_air_arrive_and_says_how_to_go_on(
    tmp_path, method, latency_s, first, sent
):
    with running(tmp_path, method, latency_s) as process:
        wait_until_it_says(process, first)
        process.send_signal(sent)
        said = the_rest(process)
    assert process.returncode == 130
    assert "stopping when what is in the air has arrived" in said
    assert "the labels found so far are in run/labels.jsonl" in said
    assert "go on with: icm-api resume run" in said
    assert "Traceback" not in said
    assert len((tmp_path / "run/labels.jsonl").read_text().splitlines()) == 200
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["stop_reason"] == state(tmp_path)["stop_reason"] == "interrupted"
    assert state(tmp_path)["status"] == "stopped"

    command = [sys.executable, "-m", "icm_api.cli", "run", "d.jsonl", "--task", "classify", "--labels", "no,yes"]
    command += ["--provider", "synthetic", "--method", method, "--max-requests", str(summary["requests"]), "--json"]
    again = subprocess.run(command, cwd=tmp_path, env=environ(tmp_path), capture_output=True, text=True, check=False)
    assert json.loads(again.stdout)["cache_hits"] == summary["requests"], "every reply was kept"


def test_a_second_signal_stops_at_once_and_saves_too(tmp_path):
    with running(tmp_path, "sweep", "20", "--provider-option", "echo=0") as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "run/state.json").exists() or state(tmp_path)["spent"]["requests"] == 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        wait_until_it_says(process, "stopping when what is in the air has arrived")
        started_s = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = the_rest(process)
    assert process.returncode == 130
    assert time.monotonic() - started_s < 15, "without waiting for replies that take 20 s"
    assert "Traceback" not in said
    assert state(tmp_path)["status"] == "stopped"


async def test_what_is_in_the_air_arrives_and_nothing_more_is_sent():
    host, interrupt = Gated(), Interrupt()
    provider = Interruptible(host, interrupt)
    flight = asyncio.create_task(provider.send(ask("a")))
    await settle()
    interrupt.ask()
    with pytest.raises(InterruptedRunError):
        await provider.send(ask("b"))
    host.gates[0].set_result(answer())
    assert await flight == answer()
    assert len(host.sent) == 1


async def test_a_wait_for_another_attempt_ends_when_the_run_is_to_stop():
    interrupt = Interrupt()
    await interrupt.sleep(0)
    waiting = asyncio.create_task(interrupt.sleep(3600))
    await settle()
    interrupt.ask()
    with pytest.raises(InterruptedRunError):
        await waiting
