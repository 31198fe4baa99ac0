"""A language model small enough to check by hand, behind the wire formats of the servers beside this file.

Where a prompt ends at a label it expects what `icm_api.providers.synthetic` expects there, so that whole runs mean
something; elsewhere it expects fillers. Its vocabulary grows as texts come.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from icm_api.providers.synthetic import Synthetic
from icm_api.types import NextTokenRequest, Prompt

BOS = "<s>"
FILLERS = [f" other{k}" for k in range(20)]
UNLIKELY_NATS = -20.0
"""Log-probability of everything else."""


@dataclass
class TokenModel:
    """`labels`: the texts of the labels that stand in prompts. `split`: words of several tokens."""

    labels: tuple[str, ...] = (" True", " False")
    split: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bos: bool = False
    marks_start: bool = False
    """A blank is put before every text, and decoding takes it off again, as SentencePiece vocabularies do."""
    learner: Synthetic = field(default_factory=Synthetic)

    def __post_init__(self) -> None:
        self.pieces: list[str] = [BOS]
        self._ids = {BOS: 0}
        self.next = lru_cache(maxsize=10_000)(self._next)
        self._elsewhere = self._spread({})

    # --- tokens

    def tokenise(self, text: str, add_special: bool = False) -> list[int]:
        lead = " " if self.marks_start and text else ""
        return [0] * (self.bos and add_special) + [self.id(piece) for piece in self._cut(lead + text)]

    def decode(self, ids: Sequence[int]) -> str:
        text = "".join(self.pieces[k] for k in ids)
        return text.removeprefix(" ") if self.marks_start else text

    def id(self, piece: str) -> int:
        if piece not in self._ids:
            self._ids[piece] = len(self.pieces)
            self.pieces.append(piece)
        return self._ids[piece]

    def _cut(self, text: str) -> list[str]:
        words = re.findall(r"<s>|\n\n|\n| ?\w+|.", text)
        return [piece for word in words for piece in self.split.get(word, (word,))]

    # --- what it expects

    def logprob(self, before: Sequence[int], token: int) -> float:
        """Of any token."""
        return self.next(tuple(before)).get(token, UNLIKELY_NATS)

    def top(self, before: Sequence[int], k: int) -> list[tuple[int, float]]:
        """The likeliest tokens, best first."""
        return sorted(self.next(tuple(before)).items(), key=lambda pair: -pair[1])[:k]

    def shown(self, ids: Sequence[int], place: int, k: int) -> list[tuple[int, float]]:
        """The likeliest tokens at a place within a prompt; away from labels, fillers."""
        if self.pieces[ids[place]] in self._firsts():
            return self.top(ids[:place], k)
        return self._elsewhere[:k]

    def _next(self, before: tuple[int, ...]) -> dict[int, float]:
        text = "".join(self.pieces[k] for k in before if k or not self.bos)
        text = text.removeprefix(" ") if self.marks_start else text
        begun = next((b for b in self._beginnings() if text.endswith(b)), "")
        shares = self._labels(text.removesuffix(begun))
        following: dict[str, float] = {}
        for label, share in shares.items():
            if label.startswith(begun):
                piece = self._cut(label)[len(self._cut(begun)) if begun else 0]
                following[piece] = following.get(piece, 0.0) + share
        scale = 0.9 / sum(following.values()) if begun else 1.0
        return dict(self._spread({piece: share * scale for piece, share in following.items()}))

    def _labels(self, text: str) -> dict[str, float]:
        reply = asyncio.run(self.learner.send(NextTokenRequest(self._parsed(text), self.labels)))
        return {c.text: math.exp(c.logprob_nats) for c in reply.candidates if c.text in self.labels}

    def _spread(self, shares: dict[str, float]) -> list[tuple[int, float]]:
        """With fillers that hold the rest in halves."""
        rest = 1.0 - sum(shares.values())
        known = {**shares, **{filler: rest / 2 ** (k + 1) for k, filler in enumerate(FILLERS)}}
        return [(self.id(piece), math.log(share)) for piece, share in known.items()]

    def _beginnings(self) -> list[str]:
        """Texts that begin a label of several tokens."""
        cut = [self._cut(label) for label in self.labels]
        return sorted({"".join(parts[:k]) for parts in cut for k in range(1, len(parts))}, key=len, reverse=True)

    def _firsts(self) -> set[str]:
        return {self._cut(label)[0] for label in self.labels}

    def _parsed(self, text: str) -> Prompt:
        """The prompt that reads so: blocks that end with a label, the query last, perhaps a preamble first."""
        *blocks, query = text.split("\n\n")
        preamble = blocks.pop(0) if blocks and not blocks[0].endswith(self.labels) else ""
        shown = [(b.removesuffix(label), label) for b in blocks for label in self.labels if b.endswith(label)]
        return Prompt(query, tuple(shown), preamble)
