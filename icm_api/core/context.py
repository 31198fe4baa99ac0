"""Which labelled examples stand before a query, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from icm_api.types import LabelScore

Order = Literal["per-example", "shared"]


@dataclass(frozen=True, slots=True)
class Query:
    """Score `example` after these (example, label) demonstrations."""

    example: int
    demonstrations: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Chain:
    """Labelled examples one after another; each is scored given those before it (the chain rule of probability)."""

    examples: tuple[tuple[int, int], ...]
    """(example, label) pairs. The last label is not shown to anyone."""
    first: int = 0
    """Examples before this place are context only."""

    @property
    def scored(self) -> tuple[int, ...]:
        """The examples that get a score, in order."""
        return tuple(example for example, _ in self.examples[self.first :])


class Scorer(Protocol):
    """All that a search knows of the world: questions in, label scores out, in the same order.

    Raises ProviderError or BudgetError; a score is never made up.
    """

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]: ...

    async def score_chains(self, chains: Sequence[Chain]) -> Sequence[Sequence[LabelScore | None]]:
        """For each chain one score for each of its `scored` examples.

        None where the labels hold too little of the probability to tell, as happens before a model has seen how the
        labels are written. Raises OutOfReachError when that is so at most places of a chain.
        """


@dataclass(frozen=True, slots=True)
class ContextPolicy:
    """How demonstrations are chosen.

    order: `shared` keeps one random order for all queries, so that prompts share beginnings, which a host's prefix
        cache need not read (or bill) again; `per-example` gives each query a fixed random order of its own, which
        averages out the pull of the last demonstrations. Either way the same labels give the same prompts.
    leave_out_siblings: an example's siblings (same group, or tied to it by a relation) would nearly give its label
        away, so they are left out.
    max_demonstrations: at most so many; None: as many as fit. With the `shared` order a cap shows the same examples to
        all queries (see `ContextBuilder.core`); the rest are labelled but never shown.
    max_tokens: room for demonstrations and query; None: unknown, no limit.
    """

    order: Order = "shared"
    leave_out_siblings: bool = True
    max_demonstrations: int | None = None
    max_tokens: int | None = None


class ContextBuilder:
    """Builds the query of an example from the labels of the others, the same way every time."""

    def __init__(
        self, siblings: Sequence[frozenset[int]], sizes: Sequence[int], policy: ContextPolicy, *, seed: int
    ) -> None:
        """`sizes`: tokens of each example with its label and separator; used only with `policy.max_tokens`."""
        self._siblings = siblings
        self._sizes = sizes
        self._policy = policy
        self._seed = seed
        self._shared = np.random.default_rng([seed]).permutation(len(siblings))
        self._place = np.argsort(self._shared)
        self._shown = self._most_shown()
        self.capped = 0
        """How many queries could not carry every labelled example."""
        self.bare = 0
        """How many had no demonstration although others were labelled: all of those were siblings or too long."""

    def query(self, example: int, labels: Sequence[int | None]) -> Query:
        """The query for `example`; `labels` has one entry per example, None where there is no label yet."""
        chosen: list[tuple[int, int]] = []
        room = None if self._policy.max_tokens is None else self._policy.max_tokens - self._sizes[example]
        left_out = self._siblings[example] if self._policy.leave_out_siblings else frozenset()
        labelled = ((other, label) for other in self._order(example).tolist() if (label := labels[other]) is not None)
        capped = False
        for place, (other, label) in enumerate(labelled):
            if other == example or other in left_out:
                continue
            if place >= self._shown or not self._fits(other, len(chosen), room):
                capped = True
                continue
            chosen.append((other, label))
            room = None if room is None else room - self._sizes[other]
        self.capped += capped
        self.bare += not chosen and any(label is not None for i, label in enumerate(labels) if i != example)
        return Query(example, tuple(chosen))

    @property
    def core(self) -> frozenset[int]:
        """Examples that demonstrations are taken from once these have labels; all of them unless a cap says otherwise.

        With a cap on a shared order that is its beginning. The search visits these first: once they rest, each other
        example is one question about an unchanging context.
        """
        return frozenset(self._shared[: self._shown].tolist())

    def reaches(self, example: int, labels: Sequence[int | None]) -> bool:
        """Whether the label of `example` may stand in the context of another."""
        before = self._shared[: self._place[example]].tolist()
        return sum(labels[i] is not None for i in before) < self._shown

    def _most_shown(self) -> int:
        """How many labelled examples, first in the shared order, queries can take their demonstrations from."""
        most, n = self._policy.max_demonstrations, len(self._siblings)
        if most is None or self._policy.order != "shared":
            return n
        left_out = max(map(len, self._siblings), default=0) if self._policy.leave_out_siblings else 0
        return min(n, most + left_out + 1)  # one more: the query's own place is skipped

    def _order(self, example: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        if self._policy.order == "shared":
            return self._shared
        return np.random.default_rng([self._seed, example]).permutation(len(self._siblings))

    def _fits(self, other: int, n_chosen: int, room: int | None) -> bool:
        most = self._policy.max_demonstrations
        return (most is None or n_chosen < most) and (room is None or self._sizes[other] <= room)
