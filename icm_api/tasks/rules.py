"""Rules that derive relations from the inputs of examples. None of them can see a gold label."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Protocol

from icm_api.tasks.answers import final_answer
from icm_api.types import Example, Relation

KEY_RULES: Mapping[str, Callable[[str], str | None]] = {"final_answer": final_answer}
"""Ways to make a key from a field's text, by the name they have in a task file. None: the text has no key."""


class Rule(Protocol):
    """Derives relations from inputs. To write one, give a class these two members."""

    @property
    def fields(self) -> Sequence[str]:
        """The template fields that the rule reads."""

    def relations(self, examples: Sequence[Example]) -> tuple[Relation, ...]:
        """Relations over indices of `examples`."""


@dataclass(frozen=True, slots=True)
class GroupKey:
    """Different keys of one group cannot both hold, equal keys have equal labels.

    The first example of each key stands for it in the group's `at_most_one`; the others are tied to it, one after the
    other, as `equivalent`. An example without a group or a key takes part in nothing.
    """

    name: ClassVar[str] = "group_key"
    positive: int = 1
    """Index of the label that counts as holding."""

    @property
    def fields(self) -> tuple[str, ...]:
        return ()

    def relations(self, examples: Sequence[Example]) -> tuple[Relation, ...]:
        groups: dict[str, dict[str, list[int]]] = {}
        for index, example in enumerate(examples):
            if example.group is not None and example.key is not None:
                groups.setdefault(example.group, {}).setdefault(example.key, []).append(index)
        return tuple(relation for keys in groups.values() for relation in self._of_group(keys))

    def _of_group(self, keys: Mapping[str, list[int]]) -> Iterable[Relation]:
        for members in keys.values():
            yield from _chained(members, self.positive, self.name)
        if len(keys) > 1:
            firsts = tuple(members[0] for members in keys.values())
            yield Relation("at_most_one", firsts, self.positive, source=self.name)


@dataclass(frozen=True, slots=True)
class Swapped:
    """Examples that are each other's mirror image, two fields exchanged and the others equal: exactly one holds.

    Examples with the same inputs are tied as `equivalent`, and the first of them is mirrored. One whose two fields are
    the same is its own mirror image, of which nothing can be said.
    """

    first: str
    second: str
    name: ClassVar[str] = "swapped"
    positive: int = 1
    """Index of the label that counts as holding."""

    @property
    def fields(self) -> tuple[str, str]:
        return (self.first, self.second)

    def relations(self, examples: Sequence[Example]) -> tuple[Relation, ...]:
        others = sorted({*examples[0].fields} - {*self.fields}) if examples else []
        same: dict[tuple[str, ...], list[int]] = {}
        for index, example in enumerate(examples):
            same.setdefault(tuple(example.fields[name] for name in (*self.fields, *others)), []).append(index)
        relations: list[Relation] = []
        for (first, second, *rest), members in same.items():
            relations += _chained(members, self.positive, self.name)
            mirrored = same.get((second, first, *rest), members)
            if members[0] < mirrored[0]:  # each pair once
                relations.append(Relation("asymmetric", (members[0], mirrored[0]), self.positive, source=self.name))
        return tuple(relations)


def _chained(members: Sequence[int], positive: int, source: str) -> list[Relation]:
    return [Relation("equivalent", pair, positive, source=source) for pair in pairwise(members)]
