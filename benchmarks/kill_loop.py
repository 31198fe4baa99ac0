"""Runs that are killed at random moments and resumed: `python -m benchmarks.kill_loop --kills 100`.

For each method: an uninterrupted run, then rounds of runs that are killed (SIGKILL) at a random moment and resumed,
killed again, until they are finished. A round must end with the journal, labels and utility of the uninterrupted run;
no request may be sent whose reply was kept already; and what the run says it spent must cover all that was sent.
Exit code: 1 where one of them does not hold. The children are forked, so that no kill waits for Python to start.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import icm_api.cli.display
import icm_api.run.runner  # noqa: F401  # loaded once, here, and not in each child
from icm_api.cli import main as icm
from icm_api.client.cache import Store
from icm_api.client.codec import request_key
from icm_api.providers.synthetic import Synthetic
from icm_api.types import Request

METHODS: Mapping[str, tuple[str, ...]] = {
    "sweep": ("--method", "sweep", "--restarts", "2", "--provider-option", "echo=0"),
    "anneal": ("--method", "anneal"),
}
EXAMPLES = 32
LATENCY_S = "0.0005"
LOG = "sent.log"
CONCURRENCY = 8


@dataclass(slots=True)
class Found:
    """What the rounds of one method showed."""

    method: str
    took_s: float
    """How long a run takes at the moment, uninterrupted."""
    kills: int = 0
    rounds: int = 0
    sent: int = 0
    """Paid requests that reached the host."""
    in_the_air: int = 0
    """Of these, those asked again because the kill came before their reply."""
    paid_twice: int = 0
    """Of these, those whose reply had been kept."""
    unlike: list[str] = field(default_factory=list)
    """What did not come out as in the uninterrupted run."""

    @property
    def good(self) -> bool:
        return not self.unlike and not self.paid_twice and self.in_the_air <= self.kills * CONCURRENCY


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Kill runs at random moments and resume them.")
    parser.add_argument("--kills", type=int, default=100, help="Of each method (default 100).")
    parser.add_argument("--method", choices=METHODS, action="append", help="Default: both.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    print("| method | kills | runs | paid requests | asked again (in the air when killed) | paid twice | unlike |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    good = True
    for method in given.method or METHODS:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(method, given.kills, random.Random(given.seed), Path(folder))
        print(
            f"| {method} | {found.kills} | {found.rounds} | {found.sent} | {found.in_the_air} | {found.paid_twice} | "
            f"{'; '.join(found.unlike) or 'nothing'} |",
            flush=True,
        )
        good &= found.good
    return 0 if good else 1


def measure(method: str, kills: int, draw: random.Random, folder: Path) -> Found:
    """Rounds until there were so many kills."""
    whole = folder / "whole"
    _prepare(whole)
    started_s = time.monotonic()
    if code := _wait(_start(whole, _run_arguments(method))):
        raise SystemExit(f"the uninterrupted run ended with {code}: {(whole / 'said').read_text()}")
    found = Found(method, time.monotonic() - started_s)
    while found.kills < kills:
        _round(folder / f"round-{found.rounds}", whole, kills, draw, found)
    return found


def _round(folder: Path, whole: Path, kills: int, draw: random.Random, found: Found) -> None:
    """One run, from its beginning to its end."""
    _prepare(folder)
    found.rounds += 1
    while True:
        begun = (folder / "run" / "manifest.json").exists()
        started_s = time.monotonic()
        child = _start(folder, ("resume", "run") if begun else _run_arguments(found.method))
        if found.kills < kills:
            _kill_at(child, started_s + draw.uniform(0, found.took_s))
        code = _wait(child)
        if code == -signal.SIGKILL:
            found.kills += 1
        elif code == 0:
            found.took_s = found.took_s if begun else time.monotonic() - started_s
            break
        else:
            found.unlike.append(f"exit code {code}: {(folder / 'said').read_text()[-300:]}")
            return
    _compare(folder, whole, found)


def _kill_at(child: int, moment_s: float) -> None:
    """Unless it ends before."""
    while time.monotonic() < moment_s:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)


def _compare(folder: Path, whole: Path, found: Found) -> None:
    for name in ("journal.jsonl", "labels.jsonl"):
        if (folder / "run" / name).read_bytes() != (whole / "run" / name).read_bytes():
            found.unlike.append(f"{folder.name}/{name}")
    ends = [json.loads((each / "run" / "summary.json").read_text()) for each in (folder, whole)]
    for name in ("utility", "information_nats", "label_shares", "stop_reason"):
        if ends[0][name] != ends[1][name]:
            found.unlike.append(f"{folder.name}/{name}: {ends[0][name]} instead of {ends[1][name]}")
    sent, twice, again = _sent(folder / LOG)
    found.sent += sent
    found.paid_twice += twice
    found.in_the_air += again
    if ends[0]["requests"] < sent:
        found.unlike.append(f"{folder.name}: {ends[0]['requests']} requests counted of {sent}")


def _sent(log: Path) -> tuple[int, int, int]:
    """(requests sent, of them again although the reply was kept, of them again because it was not)."""
    kept: set[str] = set()
    sent: Counter[str] = Counter()
    twice = 0
    for what, key in _lines(log):
        if what == "kept":
            kept.add(key)
        else:
            sent[key] += 1
            twice += key in kept
    return sent.total(), twice, sent.total() - len(sent) - twice


def _lines(log: Path) -> Iterator[tuple[str, str]]:
    for line in log.read_text().splitlines():
        what, key = line.split()
        yield what, key


# --- the child ----------------------------------------------------------------------------------------------------


def _prepare(folder: Path) -> None:
    folder.mkdir()
    rows = [{"id": f"r{i}", "text": f"review number {i}"} for i in range(EXAMPLES)]
    rules = [{"kind": "exactly_one", "ids": [f"r{i}", f"r{i + 1}"]} for i in range(0, EXAMPLES // 2, 2)]
    for name, lines in (("data.jsonl", rows), ("rules.jsonl", rules)):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / LOG).touch()


def _run_arguments(method: str) -> tuple[str, ...]:
    task = ("--task", "classify", "--labels", "no,yes", "--relations", "rules.jsonl")
    host = ("--provider", "synthetic", "--provider-option", f"latency_s={LATENCY_S}", "--concurrency", str(CONCURRENCY))
    return ("run", "data.jsonl", *task, *host, *METHODS[method], "--run-dir", "run")


def _start(folder: Path, arguments: Sequence[str]) -> int:
    """The command in a forked process; its id."""
    sys.stdout.flush()
    child = os.fork()
    return child or _child(folder, arguments)


def _child(folder: Path, arguments: Sequence[str]) -> NoReturn:
    code = 1
    try:
        os.chdir(folder)
        said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["ICM_API_CACHE_DIR"] = str(folder / "cache")
        _log_requests(os.open(LOG, os.O_WRONLY | os.O_APPEND))
        sys.argv = ["icm-api", *arguments]
        icm()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def _log_requests(log: int) -> None:
    """A line when a paid request reaches the host, and one when its reply has been kept."""
    send, put = Synthetic.send, Store.put
    paid: set[str] = set()

    async def logged_send(self: Synthetic, request: Request[Any]) -> Any:
        if request.paid:
            key = request_key(self.identity, request)
            paid.add(key)
            os.write(log, f"sent {key}\n".encode())
        return await send(self, request)

    def logged_put(self: Store, key: str, text: str) -> None:
        put(self, key, text)
        if key in paid:
            os.write(log, f"kept {key}\n".encode())

    Synthetic.send = logged_send  # type: ignore[method-assign]
    Store.put = logged_put  # type: ignore[method-assign]


def _wait(child: int) -> int:
    """Exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
