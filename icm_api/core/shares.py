"""How often each label occurs: what the relations say about it, and what to assume where nobody knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icm_api.types import Relation

Floats = NDArray[np.float64]


def share_bounds(n_examples: int, n_labels: int, relations: Sequence[Relation]) -> tuple[Floats, Floats]:
    """Least and greatest share of each label that the hard relations allow, as far as counting tells.

    Counts relations that share no example: one of each `exactly_one` or `asymmetric` holds, of an `at_most_one` one or
    none. Pairs that contradict each other give exactly one half, groups with one right answer of four exactly a
    quarter.
    """
    least = np.zeros(n_labels)
    surely_not = np.zeros(n_labels)
    taken: set[int] = set()
    for relation in sorted(relations, key=_strength):
        if not _counts(relation) or not taken.isdisjoint(relation.members):
            continue
        taken.update(relation.members)
        least[relation.positive] += relation.kind != "at_most_one"
        surely_not[relation.positive] += len(relation.members) - 1
    low, high = least / n_examples, 1 - surely_not / n_examples
    # A label is what the others leave: of two labels, the one's bounds are the other's turned round.
    others_low, others_high = low.sum() - low, high.sum() - high
    return np.maximum(low, 1 - others_high), np.minimum(high, 1 - others_low)


def _strength(relation: Relation) -> tuple[bool, int]:
    return relation.kind == "at_most_one", len(relation.members)


def _counts(relation: Relation) -> bool:
    return relation.price is None and relation.kind in ("exactly_one", "asymmetric", "at_most_one")
