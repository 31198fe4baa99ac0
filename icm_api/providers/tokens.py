"""Token ids for adapters that send prompts as ids: where labels stand, and which numbers a reply must hold.

Text is cut at label boundaries and each part is tokenised alone, so that a label's tokens are known by their ids and
nothing is found by counting. Where a vocabulary marks the start of a text, that cannot be done; then the whole is
tokenised, and every boundary must be one of it, else the prompt is refused.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeAlias

from icm_api.providers.http import Host
from icm_api.providers.listed import SENTINEL_NATS, checked, floor_nats
from icm_api.types import Candidate, Position, Prompt, Usage

Ids: TypeAlias = tuple[int, ...]
Logprobs: TypeAlias = Mapping[int, float]
"""Token id -> log-probability in nats."""

REMEMBERED = 16_384
"""Distinct texts (and tokens) whose ids (and texts) are kept; the oldest are forgotten."""
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""Text of a token that has none of its own, such as a part of a character."""


# --- which numbers a reply must hold ----------------------------------------------------------------------


def needed(wanted: Iterable[Ids]) -> dict[Ids, set[int]]:
    """For every proper beginning of the wanted id sequences (the empty one first): the ids that must follow it."""
    following: dict[Ids, set[int]] = {(): set()}
    for ids in wanted:
        for k, token_id in enumerate(ids):
            following.setdefault(ids[:k], set()).add(token_id)
    return following


def whole(text: str, ids: Ids, tables: Mapping[Ids, Logprobs]) -> Candidate | None:
    """A continuation with the log-probabilities of all its tokens summed; None where the host gave no number for one.

    `tables`: for each beginning (see `needed`), what may follow it.
    """
    parts = [tables[ids[:k]].get(token_id) for k, token_id in enumerate(ids)]
    known = [part for part in parts if part is not None]
    return Candidate(text, sum(known), ids[0] if len(ids) == 1 else None) if len(known) == len(ids) else None


def merged(exact: Sequence[Candidate], listed: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Both, best first; a token that is among the exact ones counts once."""
    taken = {c.token_id for c in exact if c.token_id is not None}
    others = [c for c in listed if c.token_id not in taken]
    return tuple(sorted((*exact, *others), key=lambda c: -c.logprob_nats))


def summed(usages: Sequence[Usage]) -> Usage:
    """What several requests cost together; None for what one of them did not tell."""
    return Usage(
        _sum_known([u.prompt_tokens for u in usages]),
        _sum_known([u.cached_tokens for u in usages]),
        _sum_known([u.output_tokens for u in usages]),
    )


def _sum_known(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


# --- a label within a prompt ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a label stands in a prompt's ids."""

    start: int
    ids: Ids
    text: str

    def position(self, table: Table, parts: Sequence[float], wanted: Mapping[str, Ids]) -> Position:
        """What the model expected here. `table`: at the label's first token; `parts`: log-probability of each of its
        tokens. A label of one token comes from the table, the one that stands here also when it has several."""
        texts = [text for text in wanted if text != self.text]
        exact = [whole(text, wanted[text], {(): table.logprobs}) for text in texts if len(wanted[text]) == 1]
        found = [c for c in exact if c is not None]
        if min(parts) > SENTINEL_NATS:
            found.append(Candidate(self.text, sum(parts), self.ids[0] if len(self.ids) == 1 else None))
        return Position(merged(found, table.best), table.floor)


@dataclass(frozen=True, slots=True)
class Table:
    """One position: the listed tokens best first, and every known log-probability by id."""

    best: tuple[Candidate, ...]
    logprobs: Logprobs

    @property
    def floor(self) -> float:
        return floor_nats(self.best)

    @classmethod
    def of(cls, listed: Logprobs, named: Logprobs, host: Host) -> Table:
        """`listed`: the likeliest tokens. `named`: others, known whatever their rank. Stand-ins are left out; a list
        that says nothing of the model is refused."""
        best = checked([Candidate("", value, token_id) for token_id, value in listed.items()], host)
        both = {**named, **listed}
        return cls(best, {token_id: value for token_id, value in both.items() if value > SENTINEL_NATS})

    def worded(self, texts: Mapping[int, str]) -> Table:
        """With the tokens' texts."""
        best = tuple(Candidate(texts[c.token_id or 0], c.logprob_nats, c.token_id) for c in self.best)
        return Table(best, self.logprobs)


# --- text to ids ------------------------------------------------------------------------------------------


class TokenSource(Protocol):
    """A host that tokenises."""

    @property
    def host(self) -> Host: ...

    async def tokenise(self, text: str, *, add_special: bool = False) -> Ids:
        """Ids of a text; `add_special`: with what the model wants around every text, such as BOS."""


class Tokeniser:
    """Text to token ids by a host, each distinct text asked once (the oldest are forgotten)."""

    _TYPICAL = ("Text: a\nLabel:", " True", "\n\nText: b\nLabel:")

    def __init__(self, source: TokenSource) -> None:
        self._source = source
        self._memory: OrderedDict[str, Ids] = OrderedDict()
        self.bos: Ids = ()
        """Ids the model wants before every prompt; prompts sent as ids get none from the host."""
        self.by_chunks = True
        """Chunks tokenised alone give the ids of the whole; untrue for vocabularies that mark the start of a text."""

    @classmethod
    async def learn(cls, source: TokenSource) -> Self:
        """Ask a few texts, to see how the host tokenises."""
        tokeniser = cls(source)
        parts = [await tokeniser.ids(text) for text in cls._TYPICAL]
        plain = await source.tokenise("".join(cls._TYPICAL))
        tokeniser.by_chunks = sum(parts, ()) == plain
        tokeniser.bos = _before(plain, await source.tokenise("".join(cls._TYPICAL), add_special=True), source.host)
        return tokeniser

    async def ids(self, text: str) -> Ids:
        """The text's own ids."""
        if not text:
            return ()
        if text not in self._memory:
            self._memory[text] = await self._source.tokenise(text)
            if len(self._memory) > REMEMBERED:
                self._memory.popitem(last=False)
        return self._memory[text]

    async def split(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        """Ids of the prompt (with BOS), and of each wanted continuation after it."""
        if not any(chunks):
            raise ValueError("an empty prompt has no next token")
        if "" in wanted:
            raise ValueError("an empty continuation has no probability")
        split = self._by_chunks if self.by_chunks else self._by_difference
        prompt, continuations = await split(chunks, wanted)
        self._check_apart(continuations)
        return self.bos + prompt, continuations

    async def places(self, prompt: Prompt, first: int) -> list[Place]:
        """Where the labels of the demonstrations from `first` on stand in the ids that `split` gives."""
        chunks = prompt.chunks
        ends = await (self._ends_by_chunks(chunks) if self.by_chunks else self._ends_by_prefix(chunks, 2 * first))
        ids = (await self.split(chunks, ()))[0]
        spans = [(ends[2 * k], ends[2 * k + 1], chunks[2 * k + 1]) for k in range(first, len(prompt.demonstrations))]
        return [Place(start, ids[start:end], text) for start, end, text in spans]

    async def _ends_by_chunks(self, chunks: Sequence[str]) -> list[int]:
        lengths = [len(await self.ids(chunk)) for chunk in chunks]
        return [len(self.bos) + end for end in itertools.accumulate(lengths)]

    async def _ends_by_prefix(self, chunks: Sequence[str], first: int) -> list[int]:
        """Where each chunk from `first` on ends; the ends of others are not asked for."""
        ids = await self._source.tokenise("".join(chunks))
        ends = [0] * len(chunks)
        for k in range(first, len(chunks) - 1):
            prefix = await self._source.tokenise("".join(chunks[: k + 1]))
            if ids[: len(prefix)] != prefix:
                raise self._source.host.incapable(
                    f"a token reaches over the edge of {chunks[k]!r} in this model's tokens, so a label has no "
                    "probability of its own: end the template differently (no trailing blank) or change the label"
                )
            ends[k] = len(self.bos) + len(prefix)
        return ends

    def _check_apart(self, continuations: Mapping[str, Ids]) -> None:
        for (short, few), (long, many) in itertools.permutations(continuations.items(), 2):
            if many[: len(few)] == few:
                raise self._source.host.incapable(
                    f"in this model's tokens {long!r} begins with all of {short!r}, so the shorter label's probability "
                    "holds the longer one's: use labels that begin differently"
                )

    async def _by_chunks(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        prompt = [token_id for chunk in chunks for token_id in await self.ids(chunk)]
        return tuple(prompt), {text: await self.ids(text) for text in wanted}

    async def _by_difference(self, chunks: Sequence[str], wanted: Sequence[str]) -> tuple[Ids, dict[str, Ids]]:
        prompt_text = "".join(chunks)
        prompt = await self._source.tokenise(prompt_text)
        continuations = {}
        for text in wanted:
            ids = await self._source.tokenise(prompt_text + text)
            if ids[: len(prompt)] != prompt or len(ids) == len(prompt):
                raise self._source.host.incapable(
                    f"the label {text!r} merges with the end of the prompt in this model's tokens, so it has no "
                    "probability of its own: end the template differently (no trailing blank) or change the label"
                )
            continuations[text] = ids[len(prompt) :]
        return prompt, continuations


def _before(plain: Ids, special: Ids, host: Host) -> Ids:
    """The ids that precede the plain ones when special tokens are added (some models add others at the end)."""
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return special[:start]
    raise host.incapable("the server tokenises a text differently when it adds special tokens: BOS cannot be told")


# --- ids to text ------------------------------------------------------------------------------------------


class Pieces:
    """Texts of single tokens by a host, each asked once.

    A token is decoded after others: decoded alone, many vocabularies drop its leading blank, and `" True"` and `"True"`
    could not be told apart.
    """

    def __init__(self, anchor: Ids, decode: Callable[[Sequence[Ids]], Awaitable[Sequence[str]]]) -> None:
        self._anchor, self._decode = anchor, decode
        self._memory: OrderedDict[int, str] = OrderedDict()
        self._before: str | None = None

    async def texts(self, ids: Iterable[int]) -> dict[int, str]:
        """The text of each token."""
        wanted = set(ids)
        await self._learn(sorted(wanted - self._memory.keys()))
        texts = {token_id: self._memory[token_id] for token_id in wanted}
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)
        return texts

    async def worded(self, tables: Sequence[Table]) -> list[Table]:
        """The tables with their tokens' texts."""
        texts = await self.texts(c.token_id for table in tables for c in table.best if c.token_id is not None)
        return [table.worded(texts) for table in tables]

    async def _learn(self, unknown: Sequence[int]) -> None:
        if not unknown:
            return
        if self._before is None:
            (self._before,) = await self._decode([self._anchor])
        decoded = await self._decode([(*self._anchor, token_id) for token_id in unknown])
        for token_id, text in zip(unknown, decoded, strict=True):
            own = text.removeprefix(self._before) if text.startswith(self._before) else ""
            self._memory[token_id] = own or UNREADABLE
