"""How fast and how exact the consistency solver is: `python -m benchmarks.consistency`. No model, no data, one core."""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar
from unittest.mock import patch

import numpy as np

from icm_api.core import solvers
from icm_api.core.consistency import Consistency, ContradictionError, Solution
from icm_api.core.relations import is_broken
from icm_api.core.solvers import Floats
from icm_api.types import Relation, RelationKind

N_INSTANCES = 3000
TIME_LIMIT_S = 20.0
FIXED_SIZES: dict[RelationKind, int] = {"asymmetric": 2, "implies": 2, "transitive": 3}
KINDS: tuple[RelationKind, ...] = ("exactly_one", "at_most_one", "equivalent", "and", "or", *FIXED_SIZES)

Row = tuple[str, str]
T = TypeVar("T")


def main() -> None:
    """Print one table; every figure in it comes from this run."""
    print("| what | measured |\n| --- | --- |")
    for what, measured in itertools.chain(groups(), tournaments(), table_or_milp(), brute_force()):
        print(f"| {what} | {measured} |", flush=True)


# --- many small components --------------------------------------------------------------------------------


def groups() -> Iterator[Row]:
    few, many = 2_500, 25_000
    seconds = {
        n: [min(tries) for tries in zip(*(_groups_seconds(n) for _ in range(3)), strict=True)] for n in (few, many)
    }
    for name, i in (("construct", 0), ("check for contradictions", 1), ("solve", 2), ("solve one group of them", 3)):
        ratio = seconds[many][i] / seconds[few][i]
        yield f"{many:,} at-most-one groups of 4: {name}", f"{seconds[many][i]:.4f} s ({ratio:.1f}x that of {few:,})"


def _groups_seconds(n_groups: int) -> tuple[float, float, float, float]:
    relations = [Relation("at_most_one", tuple(range(4 * i, 4 * i + 4))) for i in range(n_groups)]
    logprobs = _logprobs(np.random.default_rng(0).normal(0.0, 2.0, 4 * n_groups))
    construct, solver = _timed(lambda: Consistency(4 * n_groups, 2, relations))
    check, _ = _timed(solver.check)
    solve, _ = _timed(lambda: solver.solve(logprobs))
    some = range(0, 4 * n_groups, 4 * n_groups // 500)
    each, _ = _timed(lambda: [solver.solve(logprobs, examples=[example]) for example in some])
    return construct, check, solve, each / len(some)


# --- one large component ----------------------------------------------------------------------------------


def tournaments() -> Iterator[Row]:
    for n_items, signal, noise in ((20, 1.0, 1.0), (30, 1.0, 2.0), (30, 0.0, 1.0)):
        for name, (pairs, relations) in {
            "ordered pairs, asymmetric + transitive": ordered_tournament(n_items),
            "unordered pairs, transitive both ways": unordered_tournament(n_items),
        }.items():
            margins = np.random.default_rng(0).normal([signal if a < b else -signal for a, b in pairs], noise)
            seconds, solution = _timed(lambda: _solve(pairs, relations, margins))  # noqa: B023
            what = (
                f"tournament of {n_items}, signal {signal:g}, noise {noise:g}, {len(pairs)} {name} ({len(relations):,})"
            )
            yield what, f"{seconds:.2f} s, gap {solution.gap_nats:g} nats, {len(solution.forced)} forced"


def _solve(pairs: Sequence[tuple[int, int]], relations: Sequence[Relation], margins: Floats) -> Solution:
    return Consistency(len(pairs), 2, relations).solve(_logprobs(margins), time_limit_s=TIME_LIMIT_S)


def ordered_tournament(n_items: int) -> tuple[list[tuple[int, int]], list[Relation]]:
    """An example "a beats b" for each ordered pair."""
    pairs = list(itertools.permutations(range(n_items), 2))
    at = {pair: index for index, pair in enumerate(pairs)}
    relations = [Relation("asymmetric", (at[a, b], at[b, a])) for a, b in itertools.combinations(range(n_items), 2)]
    triples = itertools.permutations(range(n_items), 3)
    return pairs, relations + [Relation("transitive", (at[a, b], at[b, c], at[a, c])) for a, b, c in triples]


def unordered_tournament(n_items: int) -> tuple[list[tuple[int, int]], list[Relation]]:
    """An example "a beats b" for each a < b; its other label means that b beats a, which is as transitive."""
    pairs = list(itertools.combinations(range(n_items), 2))
    at = {pair: index for index, pair in enumerate(pairs)}
    triples = itertools.product(itertools.combinations(range(n_items), 3), (0, 1))
    return pairs, [Relation("transitive", (at[a, b], at[b, c], at[a, c]), positive) for (a, b, c), positive in triples]


# --- where the table ends ---------------------------------------------------------------------------------


def table_or_milp() -> Iterator[Row]:
    """A component just small enough for a table, solved both ways (building excluded)."""
    soft = [Relation("implies", (i, (i + 5) % 14), price=0.5) for i in range(14)]
    pairs, relations = ordered_tournament(7)
    for name, n_examples, rules in (
        ("7 items, 5,040 labellings", len(pairs), relations),
        ("14 soft rules, 16,384", 14, soft),
    ):
        logprobs = _logprobs(np.random.default_rng(0).normal(0.0, 2.0, n_examples))
        table_s, table = _warm(Consistency(n_examples, 2, rules), logprobs)
        with patch.object(solvers, "MOST_LABELLINGS", 0):
            milp_s, milp = _warm(Consistency(n_examples, 2, rules), logprobs)
        same = "equal" if abs(table.total_nats - milp.total_nats) < 1e-6 else "DIFFERENT"
        yield f"table or MILP: {name}", f"{table_s * 1e3:.1f} ms or {milp_s * 1e3:.1f} ms, {same} totals"


def _warm(solver: Consistency, logprobs: Floats) -> tuple[float, Solution]:
    solver.solve(logprobs)
    return min((_timed(lambda: solver.solve(logprobs)) for _ in range(3)), key=lambda timed: timed[0])


# --- equality with brute force ----------------------------------------------------------------------------


def brute_force() -> Iterator[Row]:
    everything = f"{N_INSTANCES:,} random instances (all kinds, hard and soft, 2 and 3 labels)"
    yield f"equal to brute force: {everything}", _agreement()
    with patch.object(solvers, "MOST_LABELLINGS", 0):
        yield f"equal to brute force by MILP alone, save lone groups: {everything}", _agreement()


def _agreement() -> str:
    rng = np.random.default_rng(0)
    verdicts = [_is_equal(*_instance(rng)) for _ in range(N_INSTANCES)]
    feasible = [equal for equal in verdicts if equal is not None]
    return f"{sum(feasible):,} of {len(feasible):,} equal; {N_INSTANCES - len(feasible):,} contradictory, all refused"


def _instance(rng: np.random.Generator) -> tuple[list[Relation], Floats]:
    n_labels = int(rng.choice([2, 2, 3]))
    n_examples = int(rng.integers(3, 8 if n_labels == 2 else 6))
    relations = []
    for _ in range(rng.integers(1, 7)):
        kind = KINDS[rng.integers(len(KINDS))]
        size = FIXED_SIZES.get(kind) or int(rng.integers(2, n_examples + 1))
        members = tuple(rng.permutation(n_examples)[:size].tolist())
        price = float(rng.exponential()) if rng.random() < 0.4 else None
        relations.append(Relation(kind, members, int(rng.integers(n_labels)), price))
    return relations, rng.normal(-2.0, 1.0, (n_examples, n_labels))


def _is_equal(relations: Sequence[Relation], logprobs: Floats) -> bool | None:
    """Whether the solver's total is the brute-force optimum; None when both find a contradiction."""
    n_examples, n_labels = logprobs.shape
    best = -np.inf
    for labels in itertools.product(range(n_labels), repeat=n_examples):
        prices = [np.inf if r.price is None else r.price for r in relations if is_broken(r, labels)]
        best = max(best, logprobs[range(n_examples), labels].sum() - sum(prices))
    try:
        solution = Consistency(n_examples, n_labels, relations).solve(logprobs)
    except ContradictionError:
        return None if best == -np.inf else False
    return abs(solution.total_nats - best) < 1e-6


# --- shared -----------------------------------------------------------------------------------------------


def _logprobs(margins: Floats) -> Floats:
    """Two labels whose log-odds are `margins`: (examples, 2)."""
    return -np.logaddexp(0.0, np.stack([margins, -margins], axis=1))


def _timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()  # nothing to choose: `--help` runs nothing
    main()
