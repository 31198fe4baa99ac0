"""Rules between labels: which are broken, which are malformed, and the same rules as linear rows for a solver.

`icm_api.types.Relation` says what each kind means; this file is the only place that acts on the kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

from icm_api.types import Relation, RelationKind

Labels: TypeAlias = Sequence[int | None] | Mapping[int, int | None]
"""Label index per example. None: not labelled yet."""
Holds: TypeAlias = Sequence[bool | None]
"""Per member: does it hold? None: not labelled yet."""


# --- which are broken -------------------------------------------------------------------------------------


def is_broken(relation: Relation, labels: Labels) -> bool:
    """Whether no labelling of the members that are still None could satisfy the relation."""
    members = [labels[member] for member in relation.members]
    if relation.kind == "equivalent":
        return len({label for label in members if label is not None}) > 1
    return _BROKEN[relation.kind]([None if label is None else label == relation.positive for label in members])


def broken(relations: Sequence[Relation], labels: Labels) -> tuple[int, ...]:
    """Indices of the relations that `is_broken`, ascending."""
    return tuple(index for index, relation in enumerate(relations) if is_broken(relation, labels))


def _at_most_one_broken(holds: Holds) -> bool:
    return holds.count(True) > 1


def _exactly_one_broken(holds: Holds) -> bool:
    return holds.count(True) > 1 or holds.count(False) == len(holds)


def _implication_broken(holds: Holds) -> bool:
    return holds[-1] is False and all(holds[:-1])


def _and_broken(holds: Holds) -> bool:
    *parts, whole = holds
    return False in parts if whole else whole is False and all(parts)


def _or_broken(holds: Holds) -> bool:
    return _and_broken([None if held is None else not held for held in holds])


_BROKEN: Mapping[RelationKind, Callable[[Holds], bool]] = {
    "exactly_one": _exactly_one_broken,
    "at_most_one": _at_most_one_broken,
    "asymmetric": _exactly_one_broken,
    "implies": _implication_broken,
    "transitive": _implication_broken,
    "and": _and_broken,
    "or": _or_broken,
}


# --- pins -------------------------------------------------------------------------------------------------


def pins(labels: Mapping[int, int], *, source: str = "") -> tuple[Relation, ...]:
    """Rules that fix the labels of single examples: of one member exactly one holds."""
    return tuple(Relation("exactly_one", (i,), label, source=source) for i, label in labels.items())


def is_pin(relation: Relation) -> bool:
    """Whether the relation fixes the label of a single example."""
    return relation.kind == "exactly_one" and len(relation.members) == 1 and relation.price is None


def pinned_labels(relations: Sequence[Relation]) -> dict[int, int]:
    """The labels that pins fix, by example."""
    return {relation.members[0]: relation.positive for relation in relations if is_pin(relation)}


# --- the same rules as linear rows ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """low <= sum of `weight` over the terms whose `member` has `label` <= high. A relation holds when its rows do."""

    terms: tuple[tuple[int, int, int], ...]
    """(member, label, weight)."""
    low: float
    high: float


def rows(relation: Relation, n_labels: int) -> tuple[Row, ...]:
    """The relation as linear rows over 0/1 indicators of "this example has this label"."""
    if relation.kind == "equivalent":
        return tuple(_equivalent_rows(relation.members, n_labels))
    return tuple(
        Row(tuple((member, relation.positive, weight) for member, weight in weights.items()), low, high)
        for weights, low, high in _ROWS[relation.kind](relation.members)
    )


_Weights = tuple[dict[int, int], float, float]


def _equivalent_rows(members: Sequence[int], n_labels: int) -> Iterator[Row]:
    for left, right in pairwise(members):
        for label in range(n_labels):
            yield Row(((left, label, 1), (right, label, -1)), 0, 0)


def _at_most_one_rows(members: Sequence[int]) -> Iterator[_Weights]:
    yield dict.fromkeys(members, 1), -math.inf, 1


def _exactly_one_rows(members: Sequence[int]) -> Iterator[_Weights]:
    yield dict.fromkeys(members, 1), 1, 1


def _implication_rows(members: Sequence[int]) -> Iterator[_Weights]:
    *premises, conclusion = members
    yield dict.fromkeys(premises, 1) | {conclusion: -1}, -math.inf, len(premises) - 1


def _and_rows(members: Sequence[int]) -> Iterator[_Weights]:
    *parts, whole = members
    yield from _implication_rows(members)
    for part in parts:
        yield {whole: 1, part: -1}, -math.inf, 0


def _or_rows(members: Sequence[int]) -> Iterator[_Weights]:
    *parts, whole = members
    yield dict.fromkeys(parts, -1) | {whole: 1}, -math.inf, 0
    for part in parts:
        yield {part: 1, whole: -1}, -math.inf, 0


_ROWS: Mapping[RelationKind, Callable[[Sequence[int]], Iterator[_Weights]]] = {
    "exactly_one": _exactly_one_rows,
    "at_most_one": _at_most_one_rows,
    "asymmetric": _exactly_one_rows,
    "implies": _implication_rows,
    "transitive": _implication_rows,
    "and": _and_rows,
    "or": _or_rows,
}


# --- which are malformed ----------------------------------------------------------------------------------

_ARITY: Mapping[RelationKind, int] = {"asymmetric": 2, "implies": 2, "transitive": 3}
"""Kinds with a fixed number of members; the others take two or more, `exactly_one` takes one too."""


def check_relations(relations: Sequence[Relation], n_examples: int, n_labels: int) -> list[str]:
    """Everything structurally wrong with the relations, one sentence each; empty when they are sound.

    Whether sound relations contradict each other is a question for `icm_api.core.consistency`.
    """
    return [
        f"{describe(relation)}: {problem}"
        for relation in relations
        for problem in _problems(relation, n_examples, n_labels)
    ]


def describe(relation: Relation) -> str:
    """Kind, members and source of a relation, for messages."""
    members = ", ".join(map(str, relation.members))
    return f"{relation.kind} over examples ({members})" + (f" from {relation.source}" if relation.source else "")


def _problems(relation: Relation, n_examples: int, n_labels: int) -> Iterator[str]:
    members, price = relation.members, relation.price
    if relation.kind not in _BROKEN and relation.kind != "equivalent":
        yield f"there is no such kind; use one of equivalent, {', '.join(_BROKEN)}"
    arity = _ARITY.get(relation.kind)
    if arity is not None and len(members) != arity:
        yield f"it needs exactly {arity} members, not {len(members)}"
    least = 1 if relation.kind == "exactly_one" else 2  # of one member: a pin, that member holds
    if arity is None and len(members) < least:
        yield f"it needs at least {least} member{'s' if least > 1 else ''}, not {len(members)}"
    if len(set(members)) < len(members):
        yield "the same example stands in it twice"
    if members and not 0 <= min(members) <= max(members) < n_examples:
        yield f"a member is outside the {n_examples} examples (0 to {n_examples - 1})"
    if not 0 <= relation.positive < n_labels:
        yield f"positive = {relation.positive} is outside the {n_labels} labels (0 to {n_labels - 1})"
    if price is not None and not 0 <= price < math.inf:
        yield f"price = {price} must be a finite number of nats, 0 or more (none: the rule may never be broken)"
