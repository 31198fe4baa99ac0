"""A training and a validation part that share nothing: what belongs together stays together."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from icm_api.errors import DataError


def families(n: int, ties: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """The family of each of `n` items, named by its first member. Items of one tie are of one family, directly or
    through others."""
    parent = list(range(n))

    def first(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for tie in ties:
        for other in tie[1:]:
            a, b = sorted((first(tie[0]), first(other)))
            parent[b] = a
    return tuple(map(first, range(n)))


def validation_part(family_of: Sequence[int], share: float, seed: int) -> tuple[bool, ...]:
    """Which items are for validation: whole families, drawn by the seed, of about `share` of the items and not more
    (one item at least). Raises DataError when every family is too large for that."""
    room = min(max(round(share * len(family_of)), 1), len(family_of) - 1)
    sizes: dict[int, int] = {}
    for family in family_of:
        sizes[family] = sizes.get(family, 0) + 1
    drawn = list(sizes)
    random.Random(seed).shuffle(drawn)
    chosen = set()
    for family in drawn:
        if sizes[family] <= room:
            chosen.add(family)
            room -= sizes[family]
    if not chosen:
        raise DataError(
            f"--validation {share:g}: no group of related examples is small enough to be set apart from these "
            f"{len(family_of)} (the smallest has {min(sizes.values(), default=0)}); take a larger share"
        )
    return tuple(family in chosen for family in family_of)
