"""How often each label occurs: what the relations say about it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icm_api.core.calibrate import Floats
from icm_api.core.relations import is_pin
from icm_api.types import Relation

BISECTIONS = 100


def share_bounds(n_examples: int, n_labels: int, relations: Sequence[Relation]) -> tuple[Floats, Floats]:
    """Least and greatest share (labels,) of each label that the hard relations allow, as far as counting tells.

    Counts relations that share no example, and is exact when these are all: one member of each `exactly_one` or
    `asymmetric` holds, of an `at_most_one` one or none. Pairs that contradict each other give exactly one half, groups
    with one right answer of four exactly a quarter.
    """
    least, most = np.zeros(n_labels), np.full(n_labels, float(n_examples))
    taken: set[int] = set()
    for relation in sorted(relations, key=_weakness):
        if not _counts(relation) or not taken.isdisjoint(relation.members):
            continue
        taken.update(relation.members)
        holding, others = relation.positive, np.arange(n_labels) != relation.positive
        surely = relation.kind != "at_most_one"
        least[holding] += surely
        most[others] -= surely
        most[holding] -= len(relation.members) - 1
        if n_labels == 2:
            least[others] += len(relation.members) - 1
    return least / n_examples, most / n_examples


def within_bounds(shares: Floats, least: Floats, most: Floats) -> Floats:
    """The shares scaled by one factor and cut off at the bounds, so that they sum to 1.

    Needs shares above 0, and bounds that leave room: `least` sums to at most 1, `most` to at least 1.
    """
    low, high = 0.0, float((most / shares).max())
    for _ in range(BISECTIONS):
        factor = (low + high) / 2
        if np.clip(factor * shares, least, most).sum() < 1:
            low = factor
        else:
            high = factor
    return np.clip(high * shares, least, most)


def _weakness(relation: Relation) -> tuple[bool, bool, int]:
    """Those that tell more come first; a pin tells of one example only."""
    return is_pin(relation), relation.kind == "at_most_one", len(relation.members)


def _counts(relation: Relation) -> bool:
    return relation.price is None and relation.kind in ("exactly_one", "asymmetric", "at_most_one")
