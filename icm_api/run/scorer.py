"""Turns the search's queries into prompts, and the provider's replies into label scores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from icm_api.core.context import Chain, Query
from icm_api.core.labels import (
    Reading,
    label_score,
    logsumexp,
    longest_beginning,
    read_listed,
    read_split,
    read_unlisted,
)
from icm_api.core.passes import ScoreKind
from icm_api.core.replies import share_faults
from icm_api.core.votes import largest_log_odds, offered_order, smoothed, stated, wilson_interval
from icm_api.errors import CapabilityError, IcmError, OutOfReachError
from icm_api.providers.base import Provider
from icm_api.types import (
    ChoiceRequest,
    Label,
    LabelScore,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    SequenceRequest,
    Usage,
)

T = TypeVar("T")
GOOD_CACHED_SHARE = 0.5
"""Of what the steps of walks have in common; it is about 1 where the host's cache holds."""
ENOUGH_PLACES = 8
"""In shorter chains all places may say nothing: nothing stands before them."""


class PromptScorer:
    """A `core.context.Scorer` over a provider. `texts`: one per example, each ending where its label starts. `votes`:
    answers that are counted for each question where the provider tells no probabilities."""

    def __init__(
        self,
        provider: Provider,
        labels: Sequence[Label],
        texts: Sequence[str],
        *,
        preamble: str = "",
        min_mass: float,
        concurrency: int = 8,
        votes: int = 8,
    ) -> None:
        self._provider = provider
        self._labels = tuple(labels)
        self.wanted = tuple(label.text for label in labels)
        self._texts = texts
        self._preamble = preamble
        self._min_mass = min_mass
        self._concurrency = concurrency
        self.bounded = 0
        """Scores in which a label was only bounded."""
        self._slots = _slots(min(concurrency, provider.capabilities.prefix_slots or concurrency))
        self._repeated_tokens = self._cached_tokens = self._silent = 0
        self._poll = _Poll(provider, self.wanted, votes, concurrency) if provider.capabilities.choices else None

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        """One score a query, in order, asked side by side. Raises the first ProviderError or BudgetError."""
        return await gather([partial(self._score, query) for query in queries], self._concurrency)

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore | None]]:
        """For each chain one score for each of its scored examples; None where the labels hold less than `min_mass`.

        One request a chain where the provider gives prompt log-probs. Elsewhere a walk: one next-token request after
        another, each prompt the last one with its label and one more example, so that the host's prefix cache holds
        all but that. No more walks go side by side than the host keeps prompts: they would push each other out.
        Where the provider tells no log-probabilities, a walk of choices. Raises as `score` does.
        """
        if self.echoes:
            return await gather([partial(self._score_sequence, chain) for chain in chains], self.chains_at_once)
        walk = self._walk if self._poll is None else partial(self._choices, self._poll)
        return await gather([partial(walk, chain) for chain in chains], self.chains_at_once)

    @property
    def chains_at_once(self) -> int:
        """How many chains go side by side."""
        return self._concurrency if self.echoes else self._slots.maxsize

    @property
    def echoes(self) -> bool:
        """Whether a whole chain is one request."""
        return self._provider.capabilities.prompt_logprobs

    @property
    def walk_cached_share(self) -> float | None:
        """How much of what the steps of walks had in common with the step before them came from the host's cache.

        About 1 where its prefix cache holds, whatever the walks' length; None: no reply has said. A reply from this
        program's own cache counts as the host once gave it.
        """
        return self._cached_tokens / self._repeated_tokens if self._repeated_tokens else None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know about the host's answers."""
        share, notes = self.walk_cached_share, list(self._poll.notes if self._poll else ())
        if share is not None and share < GOOD_CACHED_SHARE:
            notes.append(
                f"the host's prompt cache kept only {share:.0%} of what it could have: each example was read many "
                "times over (a llama.cpp model with a sliding window needs --swa-full; a hosted one may not cache "
                "short prompts); with prompt log-probs (--echo) a pass is one request"
            )
        if self._silent:
            notes.append(
                f"{self._silent} answers said nothing about the labels, as happens before a model has seen how they "
                "are written; they were left out"
            )
        return tuple(notes)

    @property
    def kind(self) -> ScoreKind:
        """What the scores rest on, as `LabelScore.kind`."""
        return self._poll.kind if self._poll else "logprob"

    def prompt(self, query: Query) -> Prompt:
        """What is sent for a query."""
        demonstrations = tuple((self._texts[i], self._labels[k].text) for i, k in query.demonstrations)
        return Prompt(self._texts[query.example], demonstrations, self._preamble)

    async def _score(self, query: Query) -> LabelScore:
        if self._poll:
            return await self._choose(self._poll, query)
        question = NextTokenRequest(self.prompt(query), self.wanted)
        return await self._judge(question, await self._provider.send(question))

    async def _choose(self, poll: _Poll, query: Query) -> LabelScore:
        score = await poll.ask(self.prompt(query))
        self.bounded += any(score.bounded)
        return score

    async def _choices(self, poll: _Poll, chain: Chain) -> list[LabelScore | None]:
        queries = _queries(chain)
        reading = _Reading(len(queries))
        for query in queries:
            reading.scores.append(await self._place(self._choose(poll, query), reading))
        return reading.scores

    async def _score_sequence(self, chain: Chain) -> list[LabelScore | None]:
        queries = _queries(chain)
        if not queries:
            return []
        reply = await self._provider.send(SequenceRequest(self.prompt(queries[-1]), self.wanted, chain.first))
        if len(reply.positions) != len(queries):
            raise self._incapable(f"the reply has {len(reply.positions)} positions for {len(queries)} examples")
        questions = [NextTokenRequest(self.prompt(query), self.wanted) for query in queries]
        reading = _Reading(len(queries))
        for k, question in enumerate(questions):
            reading.scores.append(await self._place(self._judge(question, reply.at(k)), reading))
        return reading.scores

    async def _walk(self, chain: Chain) -> list[LabelScore | None]:
        slot = await self._slots.get()
        try:
            return await self._steps(chain, slot)
        finally:
            self._slots.put_nowait(slot)

    async def _steps(self, chain: Chain, slot: int) -> list[LabelScore | None]:
        queries, before = _queries(chain), Usage()
        reading = _Reading(len(queries))
        for query in queries:
            question = NextTokenRequest(self.prompt(query), self.wanted, affinity=slot)
            reply = await self._provider.send(question)
            reading.scores.append(await self._place(self._judge(question, reply), reading))
            self._count_walked(before, reply.usage)
            before = reply.usage
        return reading.scores

    def _count_walked(self, before: Usage, usage: Usage) -> None:
        if before.prompt_tokens is not None and usage.cached_tokens is not None:
            self._repeated_tokens += before.prompt_tokens
            self._cached_tokens += min(usage.cached_tokens, before.prompt_tokens)

    async def _place(self, judged: Awaitable[LabelScore], reading: _Reading) -> LabelScore | None:
        """A place of a chain may say nothing; most of them may not."""
        try:
            score = await judged
            if not _undecided(score):
                return score
            error = OutOfReachError("the labels are below what the host lists here, and only bounded")
        except OutOfReachError as caught:
            error = caught
        reading.silent += 1
        self._silent += 1
        if reading.length >= ENOUGH_PLACES and 2 * reading.silent > reading.length:
            raise error
        return None

    async def _judge(self, question: NextTokenRequest, reply: NextTokenReply) -> LabelScore:
        readings = [await self._read(question, reply, label.text) for label in self._labels]
        score = label_score(self._labels, readings, reply.candidates, min_mass=self._min_mass)
        self.bounded += any(score.bounded)
        return score

    async def _read(self, question: NextTokenRequest, reply: NextTokenReply, spelling: str) -> Reading:
        """Log-probability of the whole spelling (of what is left of it, when the question goes on inside a label):
        listed, read on from a listed beginning, or bounded."""
        if listed := read_listed(spelling, reply.candidates):
            return listed
        begun = longest_beginning(spelling, reply.candidates)
        if begun is None:
            return read_unlisted(reply)
        said = question.continuation + begun.text
        if said in self.wanted:
            raise self._incapable(
                f"the model writes the label {question.continuation + spelling!r} as {said!r} and more, so the shorter "
                "label's probability holds the longer one's: use labels that begin differently"
            )
        if not self._provider.capabilities.continues_label:
            return Reading(logsumexp((begun.logprob_nats, read_unlisted(reply).logprob_nats)), bounded=True)
        rest = spelling[len(begun.text) :]
        further = replace(question, wanted=(rest,), continuation=said)
        return read_split(begun, await self._read(further, await self._provider.send(further), rest), reply)

    def _incapable(self, message: str) -> CapabilityError:
        return CapabilityError(message, provider=self._provider.name, model=self._provider.model)


class _Poll:
    """Asks which label it is where no log-probabilities are told: by counted answers (votes), or for the host's own
    probabilities."""

    def __init__(self, provider: Provider, labels: tuple[str, ...], votes: int, concurrency: int) -> None:
        self._provider, self._labels, self._concurrency = provider, labels, concurrency
        self._votes = votes if provider.capabilities.choices == "votes" else None
        self._asked = self._lost = 0

    @property
    def kind(self) -> ScoreKind:
        return "sampled" if self._votes else "stated"

    @property
    def notes(self) -> list[str]:
        """What such scores are worth."""
        if self._votes is None:
            return [
                "the scores are probabilities that the host states as its own (kind: stated), not log-probabilities of "
                "a language model"
            ]
        reach, low = largest_log_odds(self._votes), wilson_interval(self._votes, self._votes)[0]
        notes = [
            f"the scores are shares of {self._votes} counted answers a question (kind: sampled), not "
            f"log-probabilities: they show log-odds up to {reach:.1f} nats, and where all answers agree the label's "
            f"share may be as low as {low:.2f} (95 % interval); --votes asks for more"
        ]
        if self._lost:
            notes.append(
                f"{self._lost} of {self._asked} answers named none of the labels (the model refused, or the host does "
                "not hold answers to a JSON schema): they were not counted"
            )
        return notes

    async def ask(self, prompt: Prompt) -> LabelScore:
        """The labels' score. Raises OutOfReachError when no answer names a label, else as the provider does."""
        return await (self._stated(prompt) if self._votes is None else self._counted(prompt, self._votes))

    async def _stated(self, prompt: Prompt) -> LabelScore:
        shares, bounded = stated(await self._shares(prompt, 0))
        return LabelScore(tuple(map(math.log, shares)), 1.0, bounded, self.kind)

    async def _counted(self, prompt: Prompt, votes: int) -> LabelScore:
        """The first answer alone, so that the host's prompt cache holds what the others begin with."""
        answers = [await self._vote(prompt, 0)]
        answers += await gather([partial(self._vote, prompt, draw) for draw in range(1, votes)], self._concurrency)
        counted = [answer for answer in answers if not isinstance(answer, OutOfReachError)]
        lost = [answer for answer in answers if isinstance(answer, OutOfReachError)]
        self._asked, self._lost = self._asked + votes, self._lost + len(lost)
        if not counted:
            raise lost[-1]
        shares = smoothed([counted.count(label) for label in range(len(self._labels))])
        mass = len(counted) / votes
        return LabelScore(tuple(map(math.log, shares)), mass, (False,) * len(shares), self.kind)

    async def _vote(self, prompt: Prompt, draw: int) -> int | OutOfReachError:
        """The label that an answer names; the error of one that names none."""
        try:
            return (await self._shares(prompt, draw)).index(1.0)
        except OutOfReachError as error:
            return error

    async def _shares(self, prompt: Prompt, draw: int) -> list[float]:
        """The reply's shares, in the order of the labels."""
        order = offered_order(len(self._labels), draw, prompt.query)
        reply = await self._provider.send(ChoiceRequest(prompt, tuple(self._labels[k] for k in order), draw))
        if not reply.shares:
            raise OutOfReachError(reply.said)
        if faults := share_faults(reply.shares, len(order), votes=self._votes is not None):
            raise CapabilityError("; ".join(faults), provider=self._provider.name, model=self._provider.model)
        return [reply.shares[order.index(label)] for label in range(len(order))]


def _undecided(score: LabelScore) -> bool:
    """Whether a label that is only bounded could be the likeliest: as where an echo tells the log-prob of the label
    that stands there, far below its list, and only a bound on the others."""
    labels = list(zip(score.logprobs_nats, score.bounded, strict=True))
    best_known = max((nats for nats, bounded in labels if not bounded), default=-math.inf)
    return any(bounded and nats >= best_known for nats, bounded in labels)


@dataclass(slots=True)
class _Reading:
    """The scores of a chain as they come."""

    length: int
    silent: int = 0
    """Places at which the labels were out of reach."""
    scores: list[LabelScore | None] = field(default_factory=list)


def _queries(chain: Chain) -> list[Query]:
    """The questions that a chain asks one after another."""
    return [Query(chain.examples[k][0], chain.examples[:k]) for k in range(chain.first, len(chain.examples))]


def _slots(count: int) -> asyncio.PriorityQueue[int]:
    """Numbers of the walks that may go side by side, the lowest first: who takes one puts it back."""
    slots: asyncio.PriorityQueue[int] = asyncio.PriorityQueue(count)
    for number in range(count):
        slots.put_nowait(number)
    return slots


async def gather(jobs: Sequence[Callable[[], Awaitable[T]]], workers: int) -> list[T]:
    """Results in order, `workers` jobs at a time.

    After the first error no further job starts, but those under way finish: they are paid for, and the cache keeps
    their replies. Then that error is raised.
    """
    results: dict[int, T] = {}
    errors: list[IcmError] = []
    waiting = iter(enumerate(jobs))

    async def work() -> None:
        while not errors and (started := next(waiting, None)):
            number, job = started
            try:
                results[number] = await job()
            except IcmError as error:
                errors.append(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(workers, len(jobs))):
            group.create_task(work())
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(jobs))]
