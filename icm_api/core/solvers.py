"""Three exact ways to find the best consistent labelling of one component of related examples.

- `LoneGroup`: one "(at most) one of these" rule and nothing else: closed form, any size.
- `Table`: every consistent labelling listed once, then compared by a sum each: small components.
- `Program`: a mixed integer linear program for HiGHS: everything else, with a time limit and a proven gap.

A component arrives as `Rules` over *slots* (examples that must agree share a slot) and *values* (labels, or "any label
no rule names"). Solvers work on batches: many components with the same rules and different scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from icm_api.core.relations import Row
from icm_api.errors import IcmError

if TYPE_CHECKING:
    import highspy

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.intp]

MOST_SLOTS = 64
MOST_LABELLINGS = 2**14
"""Beyond either, a component goes to the MILP solver; a table of this size still answers in a few milliseconds."""
BATCH_CELLS = 2**21


class Unsatisfiable(Exception):
    """The hard rules leave no labelling at all."""


@dataclass(frozen=True)
class Rules:
    """The rules of one component. In every `Row`, `member` is a slot and `label` a value."""

    n_slots: int
    n_values: int
    hard: tuple[Row, ...]
    soft: tuple[tuple[float, tuple[Row, ...]], ...]
    """(price in nats, rows): the price is paid once when any of the rows is broken."""


class Solver(Protocol):
    """Finds the values with the highest total score, less the prices of the broken soft rules."""

    def solve(self, scores_nats: Floats, changes: Ints, time_limit_s: float) -> tuple[Ints, float]:
        """The best values, (components, slots), and the proven gap in nats summed over the components.

        `scores_nats` and `changes` are (components, slots, values): what a value adds (at most 0), and how many
        examples it takes away from their own best label, which decides ties. Raises `Unsatisfiable`.
        """


# --- closed form ------------------------------------------------------------------------------------------


class LoneGroup:
    """At most one of the slots, or exactly one, holds; there are two values and no other rule."""

    def __init__(self, positive: int, at_least_one: bool) -> None:
        self.positive, self.at_least_one = positive, at_least_one

    def solve(self, scores_nats: Floats, changes: Ints, time_limit_s: float) -> tuple[Ints, float]:  # noqa: ARG002
        gain = scores_nats[..., self.positive] - scores_nats[..., 1 - self.positive]
        kept = changes[..., 1 - self.positive] - changes[..., self.positive]
        holder = np.lexsort((-kept, -gain))[:, :1]  # the greatest gain; of equals, the one that changes fewer examples
        gain, kept = np.take_along_axis(gain, holder, 1), np.take_along_axis(kept, holder, 1)
        holds = self.at_least_one | (gain > 0) | ((gain == 0) & (kept > 0))
        values = np.full(scores_nats.shape[:2], 1 - self.positive, dtype=np.intp)
        np.put_along_axis(values, holder, np.where(holds, self.positive, 1 - self.positive), 1)
        return values, 0.0


# --- every consistent labelling ---------------------------------------------------------------------------


class Table:
    """All labellings that break no hard rule, in lexical order, each with the price of the soft rules it breaks."""

    def __init__(self, labellings: Ints, rules: Rules) -> None:
        self.labellings = labellings
        self.prices_nats = np.zeros(len(labellings))
        everywhere = range(rules.n_slots)
        for price_nats, rows in rules.soft:
            kept = np.logical_and.reduce([_can_hold(row, labellings, everywhere) for row in rows])
            self.prices_nats += price_nats * ~kept

    @classmethod
    def build(cls, rules: Rules) -> Table | None:
        """None when there are more than `MOST_SLOTS` slots or (on the way) `MOST_LABELLINGS` labellings."""
        labellings = np.zeros((1, rules.n_slots), dtype=np.intp)
        placed: set[int] = set()
        while len(placed) < rules.n_slots <= MOST_SLOTS:
            slot = _next_slot(rules, placed)
            placed.add(slot)
            labellings = np.repeat(labellings, rules.n_values, axis=0)
            labellings[:, slot] = np.tile(np.arange(rules.n_values), len(labellings) // rules.n_values)
            for row in rules.hard:
                if any(member == slot for member, _, _ in row.terms):
                    labellings = labellings[_can_hold(row, labellings, placed)]
            if len(labellings) > MOST_LABELLINGS:
                return None
        if len(placed) < rules.n_slots:
            return None
        return cls(labellings[np.lexsort(labellings.T[::-1])], rules)

    def solve(self, scores_nats: Floats, changes: Ints, time_limit_s: float) -> tuple[Ints, float]:  # noqa: ARG002
        if not len(self.labellings):
            raise Unsatisfiable
        size = max(1, BATCH_CELLS // len(self.labellings))
        starts = range(0, len(scores_nats), size)
        batches = [self._best(scores_nats[start : start + size], changes[start : start + size]) for start in starts]
        return self.labellings[np.concatenate(batches)], 0.0

    def _best(self, scores_nats: Floats, changes: Ints) -> Ints:
        """Index of the best labelling of each component; of equals the one with the fewest changes, then the first.

        Sums run in slot order: a value that scores 0 more never makes a float total smaller, so ties are real ties.
        """
        totals = self._sum(scores_nats) - self.prices_nats
        tied = totals == totals.max(axis=1, keepdims=True)
        best: Ints = tied.argmax(axis=1)
        contested = np.flatnonzero(tied.sum(axis=1) > 1)
        if len(contested):
            n_changed = self._sum(changes[contested].astype(np.float64))
            best[contested] = np.where(tied[contested], n_changed, np.inf).argmin(axis=1)
        return best

    def _sum(self, per_value: Floats) -> Floats:
        totals = np.zeros((len(per_value), len(self.labellings)))
        for slot, values in enumerate(self.labellings.T):
            totals += per_value[:, slot, values]
        return totals


def _next_slot(rules: Rules, placed: set[int]) -> int:
    """The slot that brings a hard rule nearest to being decided, so that bad labellings die early."""
    waiting = ([member for member, _, _ in row.terms if member not in placed] for row in rules.hard)
    nearest = min(filter(None, waiting), key=len, default=None)
    return nearest[0] if nearest else next(slot for slot in range(rules.n_slots) if slot not in placed)


def _can_hold(row: Row, labellings: Ints, placed: set[int] | range) -> NDArray[np.bool_]:
    """Which labellings can still satisfy the row, whatever comes to stand in the slots that are not placed."""
    least = np.zeros(len(labellings), dtype=np.intp)
    slack = 0
    for slot, value, weight in row.terms:
        if slot in placed:
            least += weight * (labellings[:, slot] == value)
        else:
            least += min(weight, 0)
            slack += abs(weight)
    return np.asarray((least <= row.high) & (least + slack >= row.low))


# --- mixed integer linear program -------------------------------------------------------------------------


class Program:
    """The rules as a 0/1 linear program. Two values share one column (1 = the second value), more have one each."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def solve(self, scores_nats: Floats, changes: Ints, time_limit_s: float) -> tuple[Ints, float]:  # noqa: ARG002
        solved = [self._solve_one(scores, time_limit_s) for scores in scores_nats]
        return np.array([values for values, _ in solved]), math.fsum(gap for _, gap in solved)

    def _solve_one(self, scores_nats: Floats, time_limit_s: float) -> tuple[Ints, float]:
        import highspy

        solver = highspy.Highs()
        solver.silent()
        # exact: only a proof ends the search early
        for option, setting in {"mip_rel_gap": 0.0, "mip_abs_gap": 0.0, "time_limit": float(time_limit_s)}.items():
            solver.setOptionValue(option, setting)
        solver.passModel(self._model)
        costs = self._costs(scores_nats)
        solver.changeColsCost(len(costs), np.arange(len(costs), dtype=np.int32), costs)
        solver.run()
        return self._read(solver, scores_nats)

    def _costs(self, scores_nats: Floats) -> Floats:
        """What each column costs when it is 1; HiGHS minimises."""
        binary = self.rules.n_values == 2
        gains = scores_nats[:, 1] - scores_nats[:, 0] if binary else scores_nats.ravel()
        return np.concatenate([-gains, [price_nats for price_nats, _ in self.rules.soft]])

    def _read(self, solver: highspy.Highs, scores_nats: Floats) -> tuple[Ints, float]:
        import highspy

        status, found = solver.getModelStatus(), solver.getInfo()
        if status in (highspy.HighsModelStatus.kInfeasible, highspy.HighsModelStatus.kUnboundedOrInfeasible):
            raise Unsatisfiable  # every column has bounds, so it cannot be unbounded
        if found.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            raise IcmError(
                f"no consistent labelling of {len(scores_nats)} related examples was found in time"
                f" ({solver.modelStatusToString(status)}); allow more time or relate fewer examples to each other"
            )
        values = self._values(solver.getSolution().col_value)
        if not all(_holds(row, values.tolist()) for row in self.rules.hard):
            raise IcmError("the solver returned a labelling that breaks a hard relation; please report this data")
        if status == highspy.HighsModelStatus.kOptimal:
            return values, 0.0
        cost, bound = found.objective_function_value, found.mip_dual_bound
        return values, max(0.0, cost - max(bound, self._least_cost(scores_nats)))

    def _least_cost(self, scores_nats: Floats) -> float:
        """Cost of the best values without any rule: a bound before the solver has one."""
        free = scores_nats.max(axis=1).sum()
        return float(scores_nats[:, 0].sum() - free) if self.rules.n_values == 2 else -float(free)

    def _values(self, columns: Sequence[float]) -> Ints:
        chosen = np.rint(columns[: self._n_value_columns]).astype(np.intp)
        if self.rules.n_values != 2:
            chosen = chosen.reshape(self.rules.n_slots, self.rules.n_values).argmax(axis=1)
        return chosen

    @property
    def _n_value_columns(self) -> int:
        return self.rules.n_slots * (1 if self.rules.n_values == 2 else self.rules.n_values)

    @cached_property
    def _model(self) -> highspy.HighsLp:
        import highspy

        rows = list(self._rows())
        n_columns = self._n_value_columns + len(self.rules.soft)
        model = highspy.HighsLp()
        model.num_col_, model.num_row_ = n_columns, len(rows)
        model.col_cost_, model.col_lower_, model.col_upper_ = (
            np.zeros(n_columns),
            np.zeros(n_columns),
            np.ones(n_columns),
        )
        model.integrality_ = [highspy.HighsVarType.kInteger] * n_columns
        model.row_lower_ = np.array([low for _, low, _ in rows], dtype=np.float64)
        model.row_upper_ = np.array([high for _, _, high in rows], dtype=np.float64)
        model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        model.a_matrix_.start_ = np.cumsum([0, *(len(weights) for weights, _, _ in rows)])
        model.a_matrix_.index_ = np.array([column for weights, _, _ in rows for column in weights])
        model.a_matrix_.value_ = np.array([w for weights, _, _ in rows for w in weights.values()], dtype=np.float64)
        return model

    def _rows(self) -> Iterator[tuple[dict[int, int], float, float]]:
        """(weight of each column, low, high) of every row."""
        if self.rules.n_values != 2:
            for slot in range(self.rules.n_slots):
                yield dict.fromkeys(range(slot * self.rules.n_values, (slot + 1) * self.rules.n_values), 1), 1, 1
        for row in self.rules.hard:
            yield self._over_columns(row)
        for slack, (_, soft_rows) in enumerate(self.rules.soft, start=self._n_value_columns):
            for row in soft_rows:
                yield from _relaxed(*self._over_columns(row), slack)

    def _over_columns(self, row: Row) -> tuple[dict[int, int], float, float]:
        weights: Counter[int] = Counter()
        constant = 0
        for slot, value, weight in row.terms:
            if self.rules.n_values != 2:
                weights[slot * self.rules.n_values + value] += weight
            elif value == 1:
                weights[slot] += weight
            else:  # 1 - column
                weights[slot] -= weight
                constant += weight
        return {column: weight for column, weight in weights.items() if weight}, row.low - constant, row.high - constant


def _holds(row: Row, values: Sequence[int]) -> bool:
    return row.low <= sum(weight for slot, value, weight in row.terms if values[slot] == value) <= row.high


def _relaxed(
    weights: dict[int, int], low: float, high: float, slack: int
) -> Iterator[tuple[dict[int, int], float, float]]:
    """The row, kept only while the slack column is 0."""
    least, most = sum(min(w, 0) for w in weights.values()), sum(max(w, 0) for w in weights.values())
    if most > high:
        yield {**weights, slack: int(high) - most}, -math.inf, high
    if least < low:
        yield {**weights, slack: int(low) - least}, low, math.inf
