"""One pass over labelled examples as chains: each example is scored once, given the labelled examples before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icm_api.core.context import Chain

OVERLAP_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class ChainPolicy:
    """How long a chain may be.

    max_tokens: room for a chain; None: unknown, no limit.
    max_examples: the paper's pool.
    leave_out_siblings: an example's siblings (same group, or tied to it by a relation) would nearly give its label
        away, so they go to different chains.
    """

    max_tokens: int | None = None
    max_examples: int = 256
    leave_out_siblings: bool = True


class ChainBuilder:
    """Cuts orders of examples into chains that fit; nothing is dropped."""

    def __init__(self, siblings: Sequence[frozenset[int]], sizes: Sequence[int], policy: ChainPolicy) -> None:
        """`sizes`: tokens of each example with its label and separator; used only with `policy.max_tokens`."""
        self._siblings = siblings
        self._sizes = sizes
        self._policy = policy

    def cut(self, order: Sequence[int], labels: Mapping[int, int] | Sequence[int]) -> list[Chain]:
        """Chains that score every example of `order` once, each example given labelled ones of the same order.

        A chain that is not the whole order begins with an overlap: examples of other chains with their labels, so
        that its first examples are not scored with nothing before them.
        """
        blocks = self._blocks(order)
        if len(blocks) == 1:
            return [Chain(tuple((i, labels[i]) for i in blocks[0]))]
        chains = []
        for k, block in enumerate(blocks):
            others = [i for shift in range(1, len(blocks)) for i in blocks[(k + shift) % len(blocks)]]
            shown = self._overlap(block, others)
            chains.append(Chain(tuple((i, labels[i]) for i in (*shown, *block)), len(shown)))
        return chains

    def shown(self, order: Sequence[int], asked: Sequence[int], *, most: int) -> list[int]:
        """Of `order` the first `most` examples that leave room for any one of `asked`."""
        policy = self._policy
        room = None if policy.max_tokens is None else policy.max_tokens - max(self._sizes[i] for i in asked)
        shown: list[int] = []
        for i in order:
            if len(shown) < min(most, policy.max_examples) and (room is None or self._sizes[i] <= room):
                shown.append(i)
                room = None if room is None else room - self._sizes[i]
        return shown

    def _blocks(self, order: Sequence[int]) -> list[list[int]]:
        """As few as fit, filled evenly; siblings in different ones."""
        n_blocks = self._fewest(order)
        while True:
            blocks: list[_Block] = [_Block() for _ in range(n_blocks)]
            homeless = [i for i in order if not self._place(i, blocks)]
            if not homeless:
                return [block.examples for block in blocks if block.examples]
            n_blocks += max(1, len(homeless) // max(1, len(order) // n_blocks))

    def _fewest(self, order: Sequence[int]) -> int:
        policy = self._policy
        most = max(1, policy.max_examples)
        fewest = -(-len(order) // most)
        if policy.max_tokens is not None:
            fewest = max(fewest, -(-sum(self._sizes[i] for i in order) // policy.max_tokens))
        return max(1, fewest)

    def _place(self, i: int, blocks: Sequence[_Block]) -> bool:
        """Put example i into the shortest block that can take it."""
        for block in sorted(blocks, key=lambda block: len(block.examples)):
            if self._takes(block, i):
                block.add(i, self._sizes[i], self._siblings[i] if self._policy.leave_out_siblings else frozenset())
                return True
        return False

    def _takes(self, block: _Block, i: int) -> bool:
        policy = self._policy
        if i in block.kin or len(block.examples) >= policy.max_examples:
            return False
        return not block.examples or policy.max_tokens is None or block.size + self._sizes[i] <= policy.max_tokens

    def _overlap(self, block: Sequence[int], others: Sequence[int]) -> list[int]:
        """Examples of other chains to begin with: a quarter of the chain, as far as room is left."""
        policy = self._policy
        kin = {s for i in block for s in self._siblings[i]} if policy.leave_out_siblings else set()
        room = None if policy.max_tokens is None else policy.max_tokens - sum(self._sizes[i] for i in block)
        shown: list[int] = []
        for i in others:
            if len(shown) >= OVERLAP_SHARE * len(block) or len(shown) + len(block) >= policy.max_examples:
                break
            if i not in kin and (room is None or self._sizes[i] <= room):
                shown.append(i)
                room = None if room is None else room - self._sizes[i]
        return shown


class _Block:
    __slots__ = ("examples", "kin", "size")

    def __init__(self) -> None:
        self.examples: list[int] = []
        self.kin: set[int] = set()
        self.size = 0

    def add(self, i: int, size: int, siblings: frozenset[int]) -> None:
        self.examples.append(i)
        self.kin |= siblings
        self.size += size
