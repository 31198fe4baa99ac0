"""From queries to prompts to label scores, over a provider that is a table of tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from icm_api.core.context import Query
from icm_api.errors import CapabilityError, RequestError, TransientError
from icm_api.providers.synthetic import Synthetic
from icm_api.run.scorer import PromptScorer, gather
from icm_api.types import Candidate, Capabilities, Label, NextTokenReply, NextTokenRequest, Usage

LABELS = (Label("negative", " negative"), Label("positive", " positive"))
TEXTS = ("Text: a\nLabel:", "Text: b\nLabel:", "Text: c\nLabel:")


class Scripted:
    """Lists, for each continuation already said, the tokens of a table."""

    name = "scripted"
    model = "table"
    identity: Mapping[str, Any] = {}

    def __init__(self, tokens: dict[str, dict[str, float]], continues: bool = True) -> None:
        self.tokens = tokens
        self.asked: list[NextTokenRequest] = []
        self.capabilities = replace(Synthetic().capabilities, continues_label=continues)

    capabilities: Capabilities

    async def send(self, request: Any) -> Any:
        self.asked.append(request)
        listed = self.tokens[request.continuation].items()
        return NextTokenReply(tuple(Candidate(t, math.log(p)) for t, p in listed), math.log(0.001), Usage(), self.model)

    async def aclose(self) -> None: ...


def scorer(provider: Scripted, labels: tuple[Label, ...] = LABELS, min_mass: float = 0.0) -> PromptScorer:
    return PromptScorer(provider, labels, TEXTS, preamble="Judge.", min_mass=min_mass)


async def probabilities(provider: Scripted, labels: tuple[Label, ...] = LABELS) -> list[float]:
    (score,) = await scorer(provider, labels).score([Query(2, ())])
    return [math.exp(p) for p in score.logprobs_nats]


async def test_the_prompt_shows_the_demonstrations_then_the_query_and_ends_without_a_space():
    provider = Scripted({"": {" negative": 0.5, " positive": 0.5}})
    await scorer(provider).score([Query(2, ((0, 1), (1, 0)))])
    assert provider.asked[0].prompt.text == (
        "Judge.\n\nText: a\nLabel: positive\n\nText: b\nLabel: negative\n\nText: c\nLabel:"
    )
    assert provider.asked[0].wanted == (" negative", " positive")


async def test_labels_of_one_token_take_one_request():
    provider = Scripted({"": {" negative": 0.2, " positive": 0.6}})
    assert await probabilities(provider) == pytest.approx([0.25, 0.75])
    assert len(provider.asked) == 1


async def test_a_label_of_several_tokens_is_scored_whole():
    provider = Scripted({"": {" negative": 0.2, " pos": 0.6}, " pos": {"itive": 0.5, "h": 0.5}})
    assert await probabilities(provider) == pytest.approx([0.4, 0.6])
    assert provider.asked[1].continuation == " pos"


async def test_labels_that_share_their_first_token_are_told_apart():
    labels = (Label("negative", " negative"), Label("negligible", " negligible"))
    provider = Scripted({"": {" neg": 0.9}, " neg": {"ative": 0.75, "ligible": 0.25}})
    assert await probabilities(provider, labels) == pytest.approx([0.75, 0.25])


async def test_a_route_that_cannot_go_on_inside_a_label_only_bounds_it():
    provider = Scripted({"": {" negative": 0.2, " pos": 0.6}}, continues=False)
    (score,) = await scorer(provider).score([Query(0, ())])
    assert score.bounded == (False, True)
    with pytest.raises(CapabilityError, match="of one token"):
        await probabilities(Scripted({"": {" neg": 0.2, " pos": 0.6}}, continues=False))


async def test_a_label_whose_tokens_begin_with_another_label_is_refused():
    labels = (Label("1", " 1"), Label("10", " 10"))
    with pytest.raises(CapabilityError, match="begin differently"):
        await probabilities(Scripted({"": {" 1": 0.5}, " 1": {"0": 0.95}}), labels)
    apart = Scripted({"": {" 1": 0.25, " 10": 0.75}})
    assert await probabilities(apart, labels) == pytest.approx([0.25, 0.75]), "tokens of their own are no problem"


async def test_a_label_out_of_reach_is_marked_and_counted():
    provider = Scripted({"": {" negative": 0.5}})
    judge = scorer(provider)
    (score,) = await judge.score([Query(0, ())])
    assert score.bounded == (False, True)
    assert judge.bounded == 1


async def test_both_labels_out_of_reach_is_an_error():
    with pytest.raises(CapabilityError, match="none of the labels"):
        await probabilities(Scripted({"": {" banana": 0.5}}))


async def test_scores_come_in_the_order_of_the_queries():
    provider = Synthetic()
    judge = PromptScorer(provider, LABELS, TEXTS, min_mass=0)
    together = await judge.score([Query(i, ()) for i in range(3)])
    assert together == [(await judge.score([Query(i, ())]))[0] for i in range(3)]


async def test_after_an_error_what_is_under_way_finishes_and_nothing_more_starts():
    started: list[int] = []
    finished: list[int] = []
    failed = asyncio.Event()

    async def job(number: int) -> None:
        started.append(number)
        await asyncio.sleep(0)
        if number == 1:
            failed.set()
            raise RequestError("no such model")
        await failed.wait()
        finished.append(number)

    with pytest.raises(RequestError, match="no such model"):
        await gather([partial(job, number) for number in range(10)], workers=3)
    assert started == [0, 1, 2]
    assert set(finished) == {0, 2}, "paid for, so not thrown away"


async def test_a_failing_provider_raises_through_the_scorer():
    class Failing(Scripted):
        async def send(self, request: Any) -> Any:
            raise TransientError("down")

    with pytest.raises(TransientError):
        await probabilities(Failing({}))
