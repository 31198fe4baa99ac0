"""What a search is given: how many examples and labels, the rules between them, and who is whose sibling."""

from __future__ import annotations

from collections import defaultdict
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
    """Per example: those of its group and those tied to it by a relation, itself among them. Examples that have the
    same siblings share one set, so that large groups stay cheap."""

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
    members_of: defaultdict[str, list[int]] = defaultdict(list)
    for i, group in enumerate(groups):
        if group is not None:
            members_of[group].append(i)
    group_sets = {group: frozenset(members) for group, members in members_of.items()}
    alone: frozenset[int] = frozenset()
    siblings = [alone if group is None else group_sets[group] for group in groups]
    for relation in relations:
        for member in relation.members:
            if not siblings[member].issuperset(relation.members):
                siblings[member] = siblings[member].union(relation.members)
    shared: dict[frozenset[int], frozenset[int]] = {}
    return tuple(shared.setdefault(kin, kin) for kin in siblings)
