"""How far two labellings of the same examples agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreement:
    """Over the examples that both have labelled."""

    n: int
    equal: int
    kappa: float | None
    """Cohen's kappa (Cohen 1960): agreement beyond that of two labellings with the same shares by chance, 1 at most.
    None where chance alone makes them agree wholly, or where nothing is shared."""


def agreement(one: Sequence[int | None], other: Sequence[int | None], n_labels: int) -> Agreement:
    """Raises ValueError for labellings of different length."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    n, equal = len(pairs), sum(a == b for a, b in pairs)
    if not n:
        return Agreement(0, 0, None)
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    chance = sum(first.count(k) * second.count(k) for k in range(n_labels)) / n**2
    return Agreement(n, equal, None if chance == 1 else (equal / n - chance) / (1 - chance))
