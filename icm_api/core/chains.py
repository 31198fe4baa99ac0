"""One pass over labelled examples as chains: each example is scored once, given the labelled examples before it."""

from __future__ import annotations

import heapq
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from icm_api.core.context import Chain, Query

OVERLAP_SHARE = 0.25
MOST_LOOKED_AT = 256
"""Examples of other chains among which an overlap is sought: where nearly all are siblings or too long, looking on
would cost more than it finds."""


@dataclass(frozen=True, slots=True)
class ChainPolicy:
    """How long a chain may be.

    max_tokens: room for a chain; None: unknown, no limit.
    max_examples: of a chain, its overlap included.
    leave_out_siblings: an example's siblings (same group, or tied to it by a relation) would nearly give its label
        away, so they go to different chains.
    """

    max_tokens: int | None = None
    max_examples: int = 256
    leave_out_siblings: bool = True


class ChainBuilder:
    """Cuts orders of examples into chains that fit; nothing is dropped."""

    def __init__(self, siblings: Sequence[frozenset[int]], sizes: Sequence[int], policy: ChainPolicy) -> None:
        """`siblings`: as in `icm_api.core.problem.Problem`. `sizes`: tokens of each example with its label and
        separator; used only with `policy.max_tokens`."""
        alone: frozenset[int] = frozenset()
        self._siblings = siblings if policy.leave_out_siblings else [alone] * len(siblings)
        self._sizes = sizes
        self._policy = policy

    def cut(self, order: Sequence[int], labels: Mapping[int, int] | Sequence[int]) -> list[Chain]:
        """Chains that score every example of `order` once, each example given labelled ones of the same order.

        A chain that is not the whole order begins with an overlap: examples of other chains with their labels, so
        that its first examples are not scored with nothing before them; it is short or missing where room is short or
        the others are siblings. An example that alone has more tokens than there is room for is a chain of its own.
        """
        blocks = self._blocks(order)
        chains = []
        for k, block in enumerate(blocks):
            others = (blocks[(k + shift) % len(blocks)] for shift in range(1, len(blocks)))
            shown = self._overlap(block, chain.from_iterable(others))
            chains.append(Chain(tuple((i, labels[i]) for i in (*shown, *block)), len(shown)))
        return chains

    def shown(self, order: Sequence[int], asked: Sequence[int], *, most: int) -> list[int]:
        """Of `order` the first `most` examples that leave room for any one of `asked`."""
        policy = self._policy
        room = None if policy.max_tokens is None else policy.max_tokens - max(self._sizes[i] for i in asked)
        return self._that_fit(order, min(most, policy.max_examples), room)

    def queries(
        self, order: Sequence[int], labels: Mapping[int, int] | Sequence[int], asked: Sequence[int], *, most: int
    ) -> list[Query]:
        """A question about each of `asked`, after the same examples of `order` (see `shown`) with their labels, but for
        its own siblings."""
        shown = tuple((i, labels[i]) for i in self.shown(order, asked, most=most))
        return [self._question(i, shown) for i in asked]

    def _question(self, example: int, shown: tuple[tuple[int, int], ...]) -> Query:
        hidden = self._siblings[example]
        if all(i not in hidden for i, _ in shown):
            return Query(example, shown)  # one object for all: they begin alike
        return Query(example, tuple((i, label) for i, label in shown if i not in hidden))

    def _blocks(self, order: Sequence[int]) -> list[list[int]]:
        """Few, filled evenly, siblings in different ones; each in the sequence of `order`."""
        large_first = sorted(order, key=self._magnitude)
        needed = len(self._pack(large_first, self._fewest(order)))
        # Packed again into as many as it took: those that were opened last would else stay the shortest.
        blocks = self._pack(large_first, needed)
        place = {i: k for k, i in enumerate(order)}
        return [sorted(block, key=place.__getitem__) for block in blocks if block]

    def _magnitude(self, i: int) -> int:
        """The less, the larger. Large examples are packed first, since they fit least. Only powers of two count, so
        that chance and not size says which examples meet in a chain."""
        return -self._fills(i).bit_length()

    def _fewest(self, order: Sequence[int]) -> int:
        policy = self._policy
        fewest = -(-len(order) // policy.max_examples)
        if policy.max_tokens is not None:
            fewest = max(fewest, -(-sum(self._sizes[i] for i in order) // policy.max_tokens))
        return fewest

    def _pack(self, order: Sequence[int], n_blocks: int) -> list[list[int]]:
        """Each example in the emptiest of `n_blocks` blocks that can take it, or in a new one when none can."""
        blocks: list[list[int]] = [[] for _ in range(n_blocks)]
        emptiest = [(0, k) for k in range(n_blocks)]  # a heap of (filled, block)
        sets_with = _sets_with_each(self._siblings[i] for i in order)
        refused: defaultdict[frozenset[int], set[int]] = defaultdict(set)  # by siblings: the blocks that hold any
        for i in order:
            filled, k = self._room_for(i, blocks, emptiest, refused[self._siblings[i]])
            blocks[k].append(i)
            if len(blocks[k]) < self._policy.max_examples:
                heapq.heappush(emptiest, (filled + self._fills(i), k))
            for siblings in sets_with[i]:
                refused[siblings].add(k)
        return blocks

    def _room_for(
        self, i: int, blocks: list[list[int]], emptiest: list[tuple[int, int]], refused: set[int]
    ) -> tuple[int, int]:
        """Take from the heap the emptiest block that can take example i, or open one."""
        passed = []
        found = None
        while found is None and emptiest and len(refused) < len(blocks):
            filled, k = emptiest[0]
            if blocks[k] and not self._fits(filled + self._fills(i)):
                break  # nor does any fuller one
            if k in refused:
                passed.append(heapq.heappop(emptiest))
            else:
                found = heapq.heappop(emptiest)
        for entry in passed:
            heapq.heappush(emptiest, entry)
        if found is None:
            found = (0, len(blocks))
            blocks.append([])
        return found

    def _fills(self, i: int) -> int:
        """Tokens where room is counted in them, else 1."""
        return 1 if self._policy.max_tokens is None else self._sizes[i]

    def _fits(self, filled: int) -> bool:
        return self._policy.max_tokens is None or filled <= self._policy.max_tokens

    def _overlap(self, block: Sequence[int], others: Iterable[int]) -> list[int]:
        """Examples of other chains to begin with: a quarter of the chain, as far as room is left."""
        policy, own = self._policy, frozenset(block)
        room = None if policy.max_tokens is None else policy.max_tokens - sum(self._sizes[i] for i in block)
        most = min(math.ceil(OVERLAP_SHARE * len(block)), policy.max_examples - len(block))
        strangers = (i for i in islice(others, MOST_LOOKED_AT) if self._siblings[i].isdisjoint(own))
        return self._that_fit(strangers, most, room)

    def _that_fit(self, examples: Iterable[int], most: int, room: int | None) -> list[int]:
        """The first `most` of the examples for which there is room; without a `room` it is unlimited."""
        fit: list[int] = []
        for i in examples:
            if len(fit) >= most:
                break
            if room is None:
                fit.append(i)
            elif self._sizes[i] <= room:
                fit.append(i)
                room -= self._sizes[i]
        return fit


def _sets_with_each(siblings: Iterable[frozenset[int]]) -> defaultdict[int, list[frozenset[int]]]:
    """For each example those of the different sets that it is in."""
    sets_with: defaultdict[int, list[frozenset[int]]] = defaultdict(list)
    for kin in set(siblings):
        for i in kin:
            sets_with[i].append(kin)
    return sets_with
