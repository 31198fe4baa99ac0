"""Turns the search's queries into prompts, and the provider's replies into label scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from icm_api.core.context import Query
from icm_api.core.labels import (
    Reading,
    label_score,
    logsumexp,
    longest_beginning,
    read_listed,
    read_split,
    read_unlisted,
)
from icm_api.errors import CapabilityError, IcmError
from icm_api.providers.base import Provider
from icm_api.types import Label, LabelScore, NextTokenReply, NextTokenRequest, Prompt

T = TypeVar("T")


class PromptScorer:
    """A `core.context.Scorer` over a provider. `texts`: one per example, each ending where its label starts."""

    def __init__(
        self,
        provider: Provider,
        labels: Sequence[Label],
        texts: Sequence[str],
        *,
        preamble: str = "",
        min_mass: float,
        concurrency: int = 8,
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

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        """One score a query, in order, asked side by side. Raises the first ProviderError or BudgetError."""
        return await gather([partial(self._score, query) for query in queries], self._concurrency)

    def prompt(self, query: Query) -> Prompt:
        """What is sent for a query."""
        demonstrations = tuple((self._texts[i], self._labels[k].text) for i, k in query.demonstrations)
        return Prompt(self._texts[query.example], demonstrations, self._preamble)

    async def _score(self, query: Query) -> LabelScore:
        prompt = self.prompt(query)
        reply = await self._provider.send(NextTokenRequest(prompt, self.wanted))
        readings = [await self._read(prompt, reply, "", label.text) for label in self._labels]
        score = label_score(self._labels, readings, reply.candidates, min_mass=self._min_mass)
        self.bounded += any(score.bounded)
        return score

    async def _read(self, prompt: Prompt, reply: NextTokenReply, said: str, spelling: str) -> Reading:
        """Log-probability of the whole spelling after `said`: listed, read on from a listed beginning, or bounded."""
        if listed := read_listed(spelling, reply.candidates):
            return listed
        begun = longest_beginning(spelling, reply.candidates)
        if begun is None:
            return read_unlisted(reply)
        if said + begun.text in self.wanted:
            raise self._incapable(
                f"the model writes the label {said + spelling!r} as {said + begun.text!r} and more, so the shorter "
                "label's probability holds the longer one's: use labels that begin differently"
            )
        if not self._provider.capabilities.continues_label:
            return Reading(logsumexp((begun.logprob_nats, read_unlisted(reply).logprob_nats)), bounded=True)
        said, rest = said + begun.text, spelling[len(begun.text) :]
        further = await self._provider.send(NextTokenRequest(prompt, (rest,), said))
        return read_split(begun, await self._read(prompt, further, said, rest), reply)

    def _incapable(self, message: str) -> CapabilityError:
        return CapabilityError(message, provider=self._provider.name, model=self._provider.model)


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
