"""Turns the search's queries into prompts, and the provider's replies into label scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from icm_api.core.context import Query
from icm_api.core.labels import Reading, label_score, longest_beginning, read_listed, read_split, read_unlisted
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
    ) -> None:
        self._provider = provider
        self._labels = tuple(labels)
        self.wanted = tuple(label.text for label in labels)
        self._texts = texts
        self._preamble = preamble
        self._min_mass = min_mass
        self.bounded = 0
        """Scores in which a label was only bounded."""

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        """One score a query, in order, asked side by side. Raises the first ProviderError or BudgetError."""
        return await gather([self._score(query) for query in queries])

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
        if not self._provider.capabilities.continues_label:
            raise CapabilityError(
                f"the label {spelling!r} starts with the token {begun.text!r}, and this route cannot score the rest: "
                "use labels of one token (such as A and B), or a completions route",
                provider=self._provider.name,
                model=self._provider.model,
            )
        said, rest = said + begun.text, spelling[len(begun.text) :]
        further = await self._provider.send(NextTokenRequest(prompt, (rest,), said))
        return read_split(begun, await self._read(prompt, further, said, rest), reply)


async def gather(jobs: Sequence[Awaitable[T]]) -> list[T]:
    """Results in order; the first error cancels the rest and is raised as it is (not in a group)."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_run(job)) for job in jobs]
    except* IcmError as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


async def _run(job: Awaitable[T]) -> T:
    return await job


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
