"""What a search is given: how many examples and labels, the rules between them, and who is whose sibling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icm_api.core.consistency import Consistency
from icm_api.types import Relation


@dataclass(frozen=True, slots=True)
class Problem:
    n_examples: int
    n_labels: int
    relations: tuple[Relation, ...]
    consistency: Consistency
    siblings: tuple[frozenset[int], ...]
    """Per example: those of its group and those tied to it by a relation, without itself."""

    @classmethod
    def build(cls, n_labels: int, groups: Sequence[str | None], relations: Sequence[Relation] = ()) -> Problem:
        """`groups`: the group of each example, None for an example of no group."""
        return cls(
            len(groups),
            n_labels,
            tuple(relations),
            Consistency(len(groups), n_labels, relations),
            _siblings(groups, relations),
        )


def _siblings(groups: Sequence[str | None], relations: Sequence[Relation]) -> tuple[frozenset[int], ...]:
    by_group: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        if group is not None:
            by_group.setdefault(group, []).append(i)
    siblings: list[set[int]] = [set() for _ in groups]
    for members in (*by_group.values(), *(relation.members for relation in relations)):
        for member in members:
            siblings[member].update(members)
    return tuple(frozenset(others - {i}) for i, others in enumerate(siblings))
