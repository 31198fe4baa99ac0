"""The best labelling that breaks no rule, exactly, one component of related examples at a time.

The paper's ConsistencyFix tries inconsistent pairs one by one and scores each try with the model. Here the label scores
are given and the whole component is solved at once: the labelling returned is the best one there is (or comes with a
proven bound on what a better one could add), and every option counts, such as "none of these claims is true".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icm_api.core.relations import Row, check_relations, describe, is_broken, rows
from icm_api.core.solvers import Floats, Ints, LoneGroup, Program, Rules, Solver, Table, Unsatisfiable
from icm_api.errors import DataError
from icm_api.types import Relation, RelationKind

UNRELATED = -1
MOST_ALIKE = 1 << 14
_Number = TypeVar("_Number", np.float64, np.intp)
_ShapeKey: TypeAlias = tuple[tuple[RelationKind, tuple[int, ...], int, float | None], ...]


class Labels(Mapping[int, int]):
    """Label index by example, in two arrays."""

    def __init__(self, examples: Ints, labels: Ints) -> None:
        """`examples`: ascending."""
        self._examples, self._labels = examples, labels

    def of(self, examples: Ints) -> Ints:
        """The labels of some that are in it."""
        found: Ints = self._labels[np.searchsorted(self._examples, examples)]
        return found

    def __getitem__(self, example: int) -> int:
        place = int(np.searchsorted(self._examples, example))
        if place == len(self._examples) or self._examples[place] != example:
            raise KeyError(example)
        return int(self._labels[place])

    def __iter__(self) -> Iterator[int]:
        return iter(self._examples.tolist())

    def __len__(self) -> int:
        return len(self._examples)


@dataclass(frozen=True, slots=True)
class Solution:
    """A labelling that breaks no hard relation."""

    labels: Labels
    """Label index of every example that was solved for, ascending by example."""
    total_nats: float
    """Sum of the log-probabilities of these labels, less the prices of the broken soft relations."""
    forced: Mapping[int, Relation]
    """Per example whose label is not its own best (its highest log-probability; the first of equals): a relation that
    would break if this example alone went back to it. Hard relations are named before soft ones."""
    broken: tuple[Relation, ...]
    """Soft relations that are broken."""
    gap_nats: float
    """0.0: no consistent labelling is better. Otherwise the search ran out of time: no other can add more than this."""


class ContradictionError(DataError):
    """Hard relations that cannot all hold. Each conflict is minimal: without any one of its relations the rest can."""

    def __init__(self, conflicts: Sequence[tuple[Relation, ...]]) -> None:
        self.conflicts = tuple(conflicts)
        self.relations = self.conflicts[0]
        super().__init__(
            [
                f"these {len(conflict)} relations cannot hold together, remove or correct one of them: "
                + "; ".join(map(describe, conflict))
                for conflict in self.conflicts
            ]
        )


class Consistency:
    """Relations over `n_examples` examples with `n_labels` labels, split once into components of related examples.

    Raises `DataError` when a relation is malformed (see `icm_api.core.relations.check_relations`).
    """

    def __init__(self, n_examples: int, n_labels: int, relations: Iterable[Relation]) -> None:
        relations = tuple(relations)
        if problems := check_relations(relations, n_examples, n_labels):
            raise DataError(problems)
        self.n_examples, self.n_labels = n_examples, n_labels
        self._relations = sorted(relations, key=lambda relation: relation.price is not None)  # hard ones first
        components, examples = _flattened(_components(relations))
        n_components = int(components[-1]) + 1 if len(components) else 0
        self._members = _Lists(components, examples, n_components)
        self._component_of = np.full(n_examples, UNRELATED)
        self._component_of[examples] = components
        numbers, members = _flattened([relation.members for relation in self._relations])
        self._relations_at = _Lists(members, numbers, n_examples)
        firsts = np.array([relation.members[0] for relation in self._relations], dtype=np.intp)
        self._relations_in = _Lists(self._component_of[firsts], np.arange(len(firsts)), n_components)
        self._soft: defaultdict[int, list[Relation]] = defaultdict(list)
        for index, relation in zip(self._component_of[firsts].tolist(), self._relations, strict=True):
            if relation.price is not None:
                self._soft[index].append(relation)
        shapes: dict[_ShapeKey, _Shape] = {}
        self._shape_of = np.array([self._shape(index, shapes) for index in range(n_components)], dtype=np.intp)
        self._shapes = tuple(shapes.values())

    @property
    def components(self) -> tuple[tuple[int, ...], ...]:
        """Examples that relations tie together, directly or through others; ascending. Unrelated ones are in none."""
        return tuple(tuple(self._members[index]) for index in range(len(self._shape_of)))

    def component(self, example: int) -> tuple[int, ...]:
        """The examples whose labels depend on this one's, itself included; ascending."""
        index = int(self._component_of[example])
        return (example,) if index == UNRELATED else tuple(self._members[index])

    def check(self, *, time_limit_s: float = 10.0) -> None:
        """Raise `ContradictionError` unless some labelling satisfies every hard relation.

        `time_limit_s` is for each large component; `IcmError` when that is too short to tell.
        """
        conflicts = [
            conflict
            for shape, indices in self._by_shape(np.arange(len(self._shape_of)))
            if not shape.is_satisfiable(time_limit_s)
            for conflict in self._conflicts(shape, indices, time_limit_s)
        ]
        if conflicts:
            raise ContradictionError(conflicts)

    def solve(
        self, logprobs_nats: ArrayLike, *, examples: Iterable[int] | None = None, time_limit_s: float = 10.0
    ) -> Solution:
        """The labelling with the highest total log-probability, less broken prices, that breaks no hard relation.

        `logprobs_nats` is (n_examples, n_labels), finite where it is looked at (else `ValueError`). With `examples`,
        only the components that contain them are solved and looked at; given an array, the others cost nothing.
        The choice among equally good labellings is always the same and changes no example needlessly (see `forced`).
        `time_limit_s` is for each component too large to enumerate: once it is reached `gap_nats` is above 0 and the
        choice may vary, and `IcmError` is raised when nothing consistent was found. Raises `ContradictionError`.
        """
        logprobs = np.asarray(logprobs_nats, dtype=np.float64)
        if logprobs.shape != (self.n_examples, self.n_labels):
            raise ValueError(f"logprobs_nats must be {(self.n_examples, self.n_labels)}, not {logprobs.shape}")
        related, solved = self._wanted(examples)
        own = _finite_rows(logprobs, solved).argmax(axis=-1)
        labels, gap_nats = own.copy(), 0.0
        for shape, indices in self._by_shape(related):
            members, best, gap = self._solve_alike(shape, indices, logprobs, time_limit_s)
            labels[np.searchsorted(solved, members)] = best
            gap_nats += gap
        found_nats = float(logprobs[solved, labels].sum())
        forced = self._settle(solved, labels, own)
        settled_nats = float(logprobs[solved, labels].sum())
        found = Labels(solved, labels)
        broken = tuple(self._broken(related, found))
        return Solution(
            found,
            settled_nats - math.fsum(relation.price or 0.0 for relation in broken),
            forced,
            broken,
            max(0.0, gap_nats - (settled_nats - found_nats)),
        )

    def _solve_alike(
        self, shape: _Shape, indices: Ints, logprobs: Floats, time_limit_s: float
    ) -> tuple[Ints, Ints, float]:
        """The examples and best labels (components, members) of components of one shape, and the proven gap in nats."""
        members = self._members.together(indices).reshape(len(indices), -1)
        try:
            labels, gap_nats = shape.solve(logprobs[members], time_limit_s)
        except Unsatisfiable:
            raise ContradictionError(self._conflicts(shape, indices, time_limit_s)) from None
        return members, labels, gap_nats

    def _conflicts(self, shape: _Shape, indices: Ints, time_limit_s: float) -> list[tuple[Relation, ...]]:
        conflict = shape.conflict(time_limit_s)
        rules = (self._relations_in[index] for index in indices.tolist())
        return [tuple(self._relations[numbers[i]] for i in conflict) for numbers in rules]

    def _wanted(self, examples: Iterable[int] | None) -> tuple[Ints, Ints]:
        """Indices of the components to solve, and all examples to solve for; both ascending."""
        wanted = np.arange(self.n_examples) if examples is None else _distinct(np.fromiter(examples, dtype=np.intp))
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < self.n_examples:
            raise ValueError(f"examples must be from 0 to {self.n_examples - 1}, not {wanted[0]} to {wanted[-1]}")
        related = _distinct(self._component_of[wanted])
        related = related[related != UNRELATED]
        return related, _distinct(np.concatenate([wanted, self._members.together(related)]))

    def _settle(self, solved: Ints, labels: Ints, own: Ints) -> dict[int, Relation]:
        """The relation that forces each changed example; where none does, put its own best label back into `labels`.

        The latter takes an exact tie, or a large component whose search stopped before the optimum.
        """
        changed = np.flatnonzero(labels != own)
        best = dict(zip(solved[changed].tolist(), own[changed].tolist(), strict=True))
        near = self._near(solved, labels, solved[changed])
        while True:
            forced = {}
            others = [example for example, label in best.items() if near[example] != label]
            for example in others:
                if relation := self._forcing(example, best[example], near):
                    forced[example] = relation
                else:
                    near[example] = best[example]
            if len(forced) == len(others):
                labels[changed] = [near[example] for example in best]
                return forced

    def _near(self, solved: Ints, labels: Ints, examples: Ints) -> dict[int, int]:
        """The labels of all members of the relations that these examples are in."""
        relations = _distinct(self._relations_at.together(examples)).tolist()
        _, members = _flattened([self._relations[number].members for number in relations])
        return dict(zip(members.tolist(), labels[np.searchsorted(solved, members)].tolist(), strict=True))

    def _forcing(self, example: int, own: int, labels: dict[int, int]) -> Relation | None:
        label, labels[example] = labels[example], own
        relations = (self._relations[number] for number in self._relations_at[example])
        breaking = [relation for relation in relations if is_broken(relation, labels)]
        labels[example] = label
        return next((r for r in breaking if r.price is None or not is_broken(r, labels)), None)

    def _broken(self, related: Ints, labels: Mapping[int, int]) -> Iterator[Relation]:
        for index in sorted(self._soft.keys() & related.tolist()):
            yield from (relation for relation in self._soft[index] if is_broken(relation, labels))

    def _by_shape(self, indices: Ints) -> Iterator[tuple[_Shape, Ints]]:
        """Components grouped so that those with the same rules are solved together, `MOST_ALIKE` at most."""
        numbers = self._shape_of[indices]
        order = np.argsort(numbers, kind="stable")
        for alike in np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1):
            for first in range(0, len(alike), MOST_ALIKE):
                yield self._shapes[numbers[alike[0]]], indices[alike[first : first + MOST_ALIKE]]

    def _shape(self, index: int, known: dict[_ShapeKey, _Shape]) -> int:
        """Its number among the `known`, to which it is added."""
        members, relations = self._members[index], [self._relations[number] for number in self._relations_in[index]]
        local = {example: i for i, example in enumerate(members)}
        key = tuple((r.kind, tuple([local[m] for m in r.members]), r.positive, r.price) for r in relations)
        if key not in known:
            known[key] = _Shape(len(members), self.n_labels, [Relation(*rule) for rule in key], number=len(known))
        return known[key].number


class _Lists:
    """Lists of numbers, end to end in one array: with objects of their own a large job would take many times the
    room."""

    def __init__(self, keys: Ints, values: Ints, n: int) -> None:
        """Value k goes into the list `keys[k]`, one of `n`; each list keeps the order of the values."""
        self._values = values[np.argsort(keys, kind="stable")]
        self._bounds = np.concatenate([[0], np.cumsum(np.bincount(keys, minlength=n))])

    def __getitem__(self, key: int) -> list[int]:
        found: list[int] = self._values[self._bounds[key] : self._bounds[key + 1]].tolist()
        return found

    def together(self, keys: Ints) -> Ints:
        """Some of the lists, one after another."""
        starts, lengths = self._bounds[keys], self._bounds[keys + 1] - self._bounds[keys]
        before = np.cumsum(lengths) - lengths
        found: Ints = self._values[np.repeat(starts - before, lengths) + np.arange(lengths.sum())]
        return found


class _Shape:
    """The rules of a component apart from which examples they are about; `relations` count its members from 0.

    Members that must agree share a *slot*. Labels that no rule names are one *value* ("any other", of which the
    best counts), so that most components are two-valued however many labels there are.
    """

    def __init__(self, n_members: int, n_labels: int, relations: Sequence[Relation], *, number: int) -> None:
        self.n_members, self.n_labels, self.relations, self.number = n_members, n_labels, relations, number
        merged = [r for r in relations if r.kind == "equivalent" and r.price is None]
        self.rules_left = [r for r in relations if r.kind != "equivalent" or r.price is not None]
        self.slots = _slots(n_members, merged)
        self.n_slots = int(self.slots.max()) + 1
        named = set(range(n_labels))
        if all(r.kind != "equivalent" for r in self.rules_left):
            named = {r.positive for r in self.rules_left}
        unnamed = set(range(n_labels)) - named
        if len(unnamed) < 2:
            named, unnamed = named | unnamed, set()
        self.named, self.unnamed = sorted(named), sorted(unnamed)

    def solve(self, logprobs: Floats, time_limit_s: float) -> tuple[Ints, float]:
        """The best labels (components, members), and the proven gap in nats, of (components, members, labels)."""
        scores = logprobs - logprobs.max(axis=-1, keepdims=True)
        changes = np.arange(self.n_labels) != logprobs.argmax(axis=-1)[..., None]
        scores, changes = self._by_slot(scores), self._by_slot(changes.astype(np.intp))
        labels = np.broadcast_to(np.arange(self.n_labels), scores.shape)
        if self.unnamed:
            best = scores[..., self.unnamed].argmax(axis=-1)
            scores, changes, labels = (self._by_value(array, best) for array in (scores, changes, labels))
        values, gap_nats = self._solver.solve(scores, changes, time_limit_s)
        return np.take_along_axis(labels, values[..., None], -1)[..., 0][:, self.slots], gap_nats

    def is_satisfiable(self, time_limit_s: float) -> bool:
        try:
            self.solve(np.zeros((1, self.n_members, self.n_labels)), time_limit_s)
        except Unsatisfiable:
            return False
        return True

    def conflict(self, time_limit_s: float) -> tuple[int, ...]:
        """Indices of a minimal set of hard relations that cannot all hold (there must be one); ascending."""

        def satisfiable(chosen: Sequence[int]) -> bool:
            parts = Consistency(self.n_members, self.n_labels, [self.relations[i] for i in chosen])
            return all(shape.is_satisfiable(time_limit_s) for shape in parts._shapes)

        hard = [i for i, relation in enumerate(self.relations) if relation.price is None]
        return tuple(sorted(_minimal_conflict([], hard, satisfiable)))

    def _by_slot(self, per_member: NDArray[_Number]) -> NDArray[_Number]:
        if self.n_slots == self.n_members:
            return per_member
        per_slot = np.zeros((len(per_member), self.n_slots, self.n_labels), dtype=per_member.dtype)
        for member, slot in enumerate(self.slots):
            per_slot[:, slot] += per_member[:, member]
        return per_slot

    def _by_value(self, per_label: NDArray[_Number], best_unnamed: Ints) -> NDArray[_Number]:
        other = np.take_along_axis(per_label[..., self.unnamed], best_unnamed[..., None], -1)
        return np.concatenate([per_label[..., self.named], other], axis=-1)

    @cached_property
    def _solver(self) -> Solver:
        if group := self._lone_group():
            return group
        rules = Rules(
            self.n_slots,
            len(self.named) + bool(self.unnamed),
            tuple(row for r in self.rules_left if r.price is None for row in self._rows(r)),
            tuple((r.price, tuple(self._rows(r))) for r in self.rules_left if r.price is not None),
        )
        return Table.build(rules) or Program(rules)

    def _lone_group(self) -> LoneGroup | None:
        if len(self.rules_left) != 1:
            return None
        (rule,) = self.rules_left
        counts = rule.kind in ("at_most_one", "exactly_one", "asymmetric") and rule.price is None
        if not counts or self.n_slots != len(rule.members) or self.n_labels < 2:
            return None
        return LoneGroup(self.named.index(rule.positive), at_least_one=rule.kind != "at_most_one")

    def _rows(self, relation: Relation) -> Iterable[Row]:
        for row in rows(relation, self.n_labels):
            terms = [(int(self.slots[m]), self.named.index(label), weight) for m, label, weight in row.terms]
            yield replace(row, terms=tuple(terms))


def _finite_rows(logprobs: Floats, examples: Sequence[int] | Ints) -> Floats:
    """(..., labels) rows of these examples."""
    chosen = np.asarray(examples, dtype=np.intp)
    scores: Floats = logprobs[chosen]
    if not np.isfinite(scores).all():
        example = chosen[~np.isfinite(scores).all(axis=-1)][0]
        raise ValueError(f"logprobs_nats of example {example} must be finite: {logprobs[example].tolist()}")
    return scores


def _distinct(numbers: Ints) -> Ints:
    """Ascending. (`np.unique` takes several times as long.)"""
    ascending = np.sort(numbers)
    return ascending[np.diff(ascending, prepend=-2) > 0]


def _flattened(groups: Sequence[Sequence[int]]) -> tuple[Ints, Ints]:
    """(number of its group, member) of each member of each group, in order."""
    lengths = np.fromiter(map(len, groups), dtype=np.intp, count=len(groups))
    members = np.fromiter(chain.from_iterable(groups), dtype=np.intp, count=lengths.sum())
    return np.repeat(np.arange(len(groups)), lengths), members


def _components(relations: Iterable[Relation]) -> tuple[tuple[int, ...], ...]:
    """Sets of examples that the relations connect, ascending inside and by first example."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for example, root in sorted(_roots(relations).items()):
        members[root].append(example)
    return tuple(map(tuple, members.values()))


def _slots(n_members: int, merged: Iterable[Relation]) -> Ints:
    """Slot of each member: the same for members that the relations connect, numbered by first member."""
    roots = _roots(merged)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(roots.get(i, i), len(numbers)) for i in range(n_members)], dtype=np.intp)


def _roots(relations: Iterable[Relation]) -> dict[int, int]:
    """Union-find: for every member of a relation, the one that stands for all it is connected with."""
    parent: dict[int, int] = {}

    def root(example: int) -> int:
        parent.setdefault(example, example)
        while parent[example] != example:
            parent[example] = example = parent[parent[example]]
        return example

    for relation in relations:
        first = root(relation.members[0])
        for member in relation.members[1:]:
            parent[root(member)] = first
    return {example: root(example) for example in tuple(parent)}


def _minimal_conflict(
    kept: list[int], rules: list[int], satisfiable: Callable[[Sequence[int]], bool], *, news: bool = False
) -> list[int]:
    """The part of `rules` in a minimal contradiction with `kept`, by halving (Junker 2004, QuickXplain).

    `kept` and `rules` together are contradictory; `news`: `kept` has grown since it was last seen satisfiable.
    """
    if news and not satisfiable(kept):
        return []
    if len(rules) == 1:
        return rules
    half = len(rules) // 2
    left, right = rules[:half], rules[half:]
    from_right = _minimal_conflict(kept + left, right, satisfiable, news=True)
    return _minimal_conflict(kept + from_right, left, satisfiable, news=bool(from_right)) + from_right
