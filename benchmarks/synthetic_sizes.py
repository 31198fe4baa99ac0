"""Anneal against sweep at sizes that no local model affords: `python -m benchmarks.synthetic_sizes` (no model).

The offline learner (`icm_api.providers.synthetic`) echoes prompt log-probs and knows its truth, so accuracy and cost
can be counted; what a real model would know of a concept it does not say.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import icm_api
from benchmarks.label_tasks import Row
from icm_api.local.server import usable_cpus
from icm_api.providers.synthetic import TOKEN_CHARS, Synthetic
from icm_api.run.outcome import Summary

LABELS = ("negative", "positive")
SIZES = (256, 1024)
LARGE = 4096
POOL = 256
GROUP = 4
SEEDS = 8
"""Examples that the paper's search labels at random first."""
MEASURED, COMPUTED = 64, 256
"""Examples at which the paper's own search is run and counted, and at which it would take too long."""


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    share: float = 0.5
    """Of the last label."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the learner."""
    grouped: bool = False
    """Exactly one of `GROUP` examples has the last label."""
    large: bool = False
    """Run at `LARGE` too; each takes a minute, and anneal with rules several."""

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*SIZES, LARGE) if self.large else SIZES


CASES = (
    Case("plain", large=True),
    Case("label bias, 2 nats", options={"bias": "2"}),
    Case("75 / 25", share=0.25),
    Case("90 / 10", share=0.1, large=True),
    Case("weak concept, signal 1.5 instead of 3", options={"signal": "1.5"}),
    Case("exactly one of four", share=1 / GROUP, grouped=True),
)
ANNEAL = {"method": "anneal"}
SWEEP = {"method": "sweep"}
POOLED = {"method": "sweep", "pool": POOL}
PAPER = {"method": "anneal", "fidelity": "paper", "stop": "full"}


def prompt_text(text: str) -> str:
    """As the built-in task `classify` shows it, which is what the learner's truth depends on."""
    return f"Text: {text}\nLabel:"


def draw(case: Case, n: int, rng: np.random.Generator) -> list[Row]:
    """`n` examples, the exact share of each label; in groups, where the case has them, with one of the last label."""
    texts = _texts(case)
    counts = (n - round(n * case.share), round(n * case.share))
    if case.grouped:
        gold = [label for _ in range(n // GROUP) for label in rng.permutation([0] * (GROUP - 1) + [1]).tolist()]
    else:
        gold = rng.permutation(np.repeat([0, 1], counts)).tolist()
    return [
        {"id": str(i), "text": next(texts[label]), "label": LABELS[label], "group": str(i // GROUP)}
        for i, label in enumerate(gold)
    ]


def _texts(case: Case) -> tuple[Iterator[str], Iterator[str]]:
    """Endless texts of either truth."""
    learner = Synthetic.from_options(case.options)

    def of(truth: int) -> Iterator[str]:
        numbers = iter(range(10**9))
        return (text for i in numbers if learner.truth(prompt_text(text := f"item {i}"), 2) == truth)

    return of(0), of(1)


def label(case: Case, n: int, settings: Mapping[str, Any]) -> Summary:
    rows = draw(case, n, np.random.default_rng(0))
    groups = [[row["id"] for row in rows[first : first + GROUP]] for first in range(0, n, GROUP)]
    told: dict[str, Any] = {"provider_options": dict(case.options), **settings}
    if case.grouped:
        told |= {"group_column": "group", "relations": [{"kind": "exactly_one", "ids": ids} for ids in groups]}
    with tempfile.TemporaryDirectory() as folder:
        result = icm_api.label(
            rows,
            task="classify",
            labels=LABELS,
            gold_column="label",
            provider="synthetic",
            cache=False,
            run_dir=Path(folder),
            **told,
        )
    return result.summary


# --- anneal against sweep ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table."""

    case: Case
    n: int
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        started = time.monotonic()
        found = label(self.case, self.n, self.settings)
        way = found.method + (f" --pool {POOL}" if "pool" in self.settings else "")
        accuracy = f"{found.accuracy:.3f}" + (" (collapsed)" if found.collapsed else "")
        cost = f"{found.requests / self.n:.2f} | {tokens(found) / self.n:,.0f}"
        return f"| {self.case.name} | {self.n:,} | {way} | {accuracy} | {cost} | {time.monotonic() - started:.0f} |"


def entries() -> Iterator[Entry]:
    for case in CASES:
        for n in case.sizes:
            yield Entry(case, n, ANNEAL)
            if n < LARGE:
                yield Entry(case, n, SWEEP)
            if n > POOL:
                yield Entry(case, n, POOLED)


def tokens(found: Summary) -> int:
    assert found.prompt_tokens is not None
    return found.prompt_tokens


# --- what exact annealing makes ---------------------------------------------------------------------------


def exact_annealing(n: int, tokens_each: float) -> tuple[int, float]:
    """(requests, prompt tokens) of the paper's search until `n` examples have labels, at least: no example is visited
    twice and no label rejected. Each newcomer is asked once, then every example of the grown pool, with all others of
    the pool as context."""
    pools = range(SEEDS + 1, n + 1)
    requests = SEEDS + sum(1 + pool for pool in pools)
    return requests, tokens_each * (SEEDS * SEEDS + sum((1 + pool) * pool for pool in pools))


def own_tokens_each(n: int) -> float:
    """Of an example with its label and separator, as the learner counts them."""
    rows = draw(CASES[0], n, np.random.default_rng(0))
    return sum(len(f"{prompt_text(row['text'])} {row['label']}\n\n") for row in rows) / n / TOKEN_CHARS


def against_exact() -> Iterator[str]:
    """Lines of a table, for the plain case."""
    for n in (MEASURED, COMPUTED):
        each = own_tokens_each(n)
        swept = label(CASES[0], n, SWEEP)
        found = [("computed, at least", *exact_annealing(n, each))]
        if n == MEASURED:
            run = label(CASES[0], n, PAPER)
            found.append(("counted", run.requests, tokens(run)))
        for how, requests, spent in found:
            exact = f"{requests / n:,.1f} | {spent / n:,.0f}"
            sweep = f"{tokens(swept) / n:,.0f} | {tokens(swept) / n / each:.1f}"
            yield f"| {n} | {how} | {exact} | {sweep} | {spent / tokens(swept):,.0f}x |"


def main() -> None:
    print("| case | examples | method | accuracy | requests a label | prompt tokens a label | s |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: |", flush=True)
    with ProcessPoolExecutor(max_workers=usable_cpus()) as processes:
        for line in processes.map(str, entries()):
            print(line, flush=True)
    print("\n| examples | exact annealing | its requests a label | its prompt tokens a label ", end="")
    print("| of sweep | sweep, in times the data's own | exact / sweep |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for line in against_exact():
        print(line, flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # nothing to choose: `--help` runs nothing
    main()
