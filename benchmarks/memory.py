"""Memory and time of large runs: `python -m benchmarks.memory` (no model, no network).

Preference pairs, both orders of each question, labelled by the offline learner with `--pool`: what grows with the data
is this program. Each size runs in a process of its own, whose peak of resident memory the system tells. What a pair
costs is counted in the processor's time, which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

SIZES = (25_000, 100_000, 400_000)
POOL = 64
BUCKETS = 1000
"""Answers repeat, as those of a few models to many questions do not: what counts here is the number of rows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One run. Times in seconds of the processor."""

    pairs: int
    resident_mb: float
    """Its peak, the data and the result included."""
    total_s: float
    provider_s: float
    """Of it inside the learner, in place of a host."""
    requests: int
    labelled: int
    cache_mb: float

    @property
    def client_us(self) -> float:
        """Microseconds a pair outside the learner."""
        return 1e6 * (self.total_s - self.provider_s) / self.pairs


def pairs(n: int) -> Iterator[str]:
    """JSON lines: each question twice, with its answers in either order."""
    for row in range(n):
        question, order = divmod(row, 2)
        answers = [f"The answer is {(7 * question + k) % BUCKETS}, as anybody can check." for k in (0, 1)]
        first, second = answers if order == 0 else reversed(answers)
        fields = {"prompt": f"Which is question {question}?", "response_a": first, "response_b": second}
        yield json.dumps({"id": f"{question}{'ab'[order]}", **fields}) + "\n"


def write(n: int, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(pairs(n))


def run_once(n: int, *, cache: bool) -> Measured:
    """In this process: its peak of memory is that of everything it has done."""
    from icm_api import label
    from icm_api.cli.display import describe
    from icm_api.providers.synthetic import Synthetic

    send, spent = Synthetic.send, [0.0]

    async def timed(self, request):  # type: ignore[no-untyped-def]
        started = time.process_time()
        try:
            return await send(self, request)
        finally:
            spent[0] += time.process_time() - started

    Synthetic.send = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        write(n, data := Path(folder) / "pairs.jsonl")
        started = time.process_time()
        result = label(
            data,
            task="preference",
            provider="synthetic",
            pool=POOL,
            restarts=1,
            cache=cache,
            cache_dir=Path(folder) / "cache",
            run_dir=Path(folder) / "run",
        )
        total_s = time.process_time() - started
        describe(result.summary)
        kept = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.suffix in (".db", ".db-wal"))
    peak_mb = _peak_mb()
    summary = result.summary
    return Measured(n, peak_mb, total_s, spent[0], summary.requests, summary.labelled, kept / 2**20)


def _peak_mb() -> float:
    """Of this program. What `getrusage` tells may be the peak of the process that started it, as long as that was a
    copy of it."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n: int, *, cache: bool) -> Measured:
    """In a process of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--one", str(n), *([] if cache else ["--no-cache"])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--one", type=int, help="one size, in this process, as JSON")
    parser.add_argument("--no-cache", action="store_true")
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(asdict(run_once(options.one, cache=not options.no_cache))))
        return
    print("| pairs | resident MB | processor s | of it the learner | client us a pair | requests | replies, MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for n in options.sizes:
        m = measure(n, cache=not options.no_cache)
        cells = f"{m.total_s:.0f} | {m.provider_s:.0f} | {m.client_us:.0f} | {m.requests:,} | {m.cache_mb:.0f}"
        print(f"| {n:,} | {m.resident_mb:.0f} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
