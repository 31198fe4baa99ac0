"""A rule of your own between examples, found in their inputs: what is compared has an order.

Each example compares two animals. If A is heavier than B, then B is not heavier than A; and if B is heavier than C too,
then A is heavier than C. No label may break this, so that labels of single comparisons make a ranking together.

- `python examples/custom_relation.py` ranks five animals with the small model on this machine.
- `PYTHONPATH=examples icm-api run DATA --task custom_relation:Heavier ...` uses the task from the command line.

Rules that no program finds come as rows: `icm_api.label(..., relations=[{"kind": "implies", "ids": ["a", "b"]}])`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import icm_api
from icm_api.tasks.base import Task
from icm_api.tasks.labels import labels_from_names
from icm_api.tasks.template import Template
from icm_api.types import Example, Relation

ANIMALS = ["mouse", "whale", "cat", "horse", "sheep"]


@dataclass(frozen=True)
class Ordered:
    """A rule has the two members `fields` and `relations`. `relations` sees inputs only, never a gold label."""

    first: str
    second: str

    @property
    def fields(self) -> Sequence[str]:
        return (self.first, self.second)

    def relations(self, examples: Sequence[Example]) -> tuple[Relation, ...]:
        place = {(each.fields[self.first], each.fields[self.second]): i for i, each in enumerate(examples)}
        found = [Relation("asymmetric", (i, place[b, a])) for (a, b), i in place.items() if a < b and (b, a) in place]
        for a, b in place:
            for c in {name for pair in place for name in pair} - {a, b}:
                if (b, c) in place and (a, c) in place:
                    found.append(Relation("transitive", (place[a, b], place[b, c], place[a, c])))
        return tuple(found)


class Heavier(Task):
    """Which of two animals is heavier?"""

    def __init__(self) -> None:
        super().__init__(
            name="heavier",
            template=Template("Claim: a {first} is heavier than a {second}.\nI think this claim is"),
            labels=labels_from_names(["False", "True"]),
            rules=(Ordered("first", "second"),),
        )


def main() -> None:
    pairs = list(permutations(ANIMALS, 2))
    rows = [{"first": first, "second": second} for first, second in pairs]
    result = icm_api.label(rows, task="custom_relation:Heavier", restarts=1)
    wins = Counter(first for (first, _), row in zip(pairs, result.rows, strict=True) if row.label == "True")
    for animal in sorted(ANIMALS, key=lambda animal: -wins[animal]):
        print(f"{animal:6} is heavier than {wins[animal]} of the others")
    print(f"{result.summary.forced} labels were decided by a rule, {result.summary.violations} rules are broken")


if __name__ == "__main__":
    main()
