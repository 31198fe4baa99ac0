"""From queries to prompts to label scores, over a provider that is a table of tokens."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from icm_api.client.cache import Cached, open_cache
from icm_api.core.context import Chain, Query
from icm_api.errors import CapabilityError, OutOfReachError, RequestError, TransientError
from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from icm_api.run.scorer import PromptScorer, gather
from icm_api.types import (
    Candidate,
    Capabilities,
    ChoiceReply,
    ChoiceRequest,
    Label,
    NextTokenReply,
    NextTokenRequest,
    Position,
    SequenceReply,
    SequenceRequest,
    Usage,
)

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


# --- chains -----------------------------------------------------------------------------------------------

MANY = tuple(f"Text: number {k}\nLabel:" for k in range(12))


class Host(Synthetic):
    """The offline learner, keeping what it was asked and how much of it at a time."""

    def __init__(self, slots: int | None = None, **options: Any) -> None:
        super().__init__(SyntheticOptions(**options))
        self.slots = slots
        self.asked: list[Any] = []
        self.walking: Counter[int | None] = Counter()
        self.most_in_a_slot = self.most_at_once = 0

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, prefix_slots=self.slots)

    async def send(self, request: Any) -> Any:
        self.asked.append(request)
        affinity = getattr(request, "affinity", None)
        self.walking[affinity] += 1
        self.most_in_a_slot = max(self.most_in_a_slot, self.walking[affinity])
        self.most_at_once = max(self.most_at_once, self.walking.total())
        await asyncio.sleep(0)
        self.walking[affinity] -= 1
        return await super().send(request)


def judge(provider: Any, concurrency: int = 8) -> PromptScorer:
    return PromptScorer(provider, LABELS, MANY, preamble="Judge.", min_mass=0.0, concurrency=concurrency)


def chain(*examples: int, first: int = 0) -> Chain:
    return Chain(tuple((example, example % 2) for example in examples), first)


async def test_a_walk_asks_one_prompt_after_another_each_the_last_with_its_label_and_one_more_example():
    host = Host(echo=0)
    await judge(host).score_chains([chain(3, 1, 2, 0, first=1)])
    prompts = [request.prompt for request in host.asked]
    assert [prompt.query for prompt in prompts] == [MANY[1], MANY[2], MANY[0]]
    for before, after in itertools.pairwise(prompts):
        grown = before.text + after.demonstrations[-1][1]
        assert after.text.startswith(grown)
        assert after.text != grown
    assert {request.affinity for request in host.asked} == {0}


async def test_a_walk_asks_what_single_queries_ask():
    walked = (await judge(Host(echo=0)).score_chains([chain(3, 1, 2)]))[0]
    queries = [Query(3, ()), Query(1, ((3, 1),)), Query(2, ((3, 1), (1, 1)))]
    assert walked == await judge(Host(echo=0)).score(queries)


@pytest.mark.parametrize(("slots", "concurrency", "side_by_side"), [(2, 8, 2), (8, 3, 3), (None, 4, 4), (1, 8, 1)])
async def test_never_two_walks_share_a_slot_and_no_more_go_than_there_are(slots, concurrency, side_by_side):
    host = Host(slots, echo=0)
    scorer = judge(host, concurrency)
    walks = [chain(k, (k + 1) % 12, (k + 2) % 12) for k in range(6)]
    both = await asyncio.gather(scorer.score_chains(walks), scorer.score_chains(walks[::-1]))
    assert both[0] == both[1][::-1]
    assert host.most_in_a_slot == 1
    assert host.most_at_once == side_by_side
    assert {request.affinity for request in host.asked} == set(range(side_by_side))


async def test_a_slot_is_free_again_after_a_walk_that_failed():
    class Failing(Host):
        failing = True

        async def send(self, request: Any) -> Any:
            if self.failing:
                raise TransientError("down")
            return await super().send(request)

    host = Failing(slots=1, echo=0)
    scorer = judge(host)
    with pytest.raises(TransientError):
        await scorer.score_chains([chain(0, 1), chain(2, 3)])
    host.failing = False
    assert len((await scorer.score_chains([chain(0, 1)]))[0]) == 2


async def test_the_clients_cache_keeps_every_step_of_a_walk(tmp_path):
    host = Host(echo=0)
    provider = Cached(host, open_cache(tmp_path))
    await judge(provider).score_chains([chain(0, 1, 2)])
    await judge(provider).score_chains([chain(5, 6), chain(0, 1, 2, 3)])
    await provider.aclose()
    assert host.requests == 3 + 2 + 1, "another slot asks the same question"


async def test_prompt_logprobs_take_one_request_a_chain_and_give_what_a_walk_gives():
    chains = [chain(3, 1, 2, 0), chain(5, 4, 6, 7, first=2)]
    host = Host(noise=0.5)
    echoed = await judge(host).score_chains(chains)
    assert [type(request) for request in host.asked] == [SequenceRequest, SequenceRequest]
    assert [len(scores) for scores in echoed] == [4, 2]
    assert echoed == await judge(Host(noise=0.5, echo=0)).score_chains(chains)


@pytest.mark.parametrize("echo", [0, 1])
async def test_a_chain_without_scored_examples_asks_nothing(echo):
    host = Host(echo=echo)
    assert await judge(host).score_chains([Chain(()), chain(1, 2, first=2)]) == [[], []]
    assert host.asked == []


class Echoing(Scripted):
    """Answers sequences with the same table at every position."""

    def __init__(self, tokens: dict[str, dict[str, float]], positions: int) -> None:
        super().__init__(tokens)
        self.positions = positions
        self.capabilities = replace(self.capabilities, prompt_logprobs=True)

    async def send(self, request: Any) -> Any:
        if not isinstance(request, SequenceRequest):
            return await super().send(request)
        listed = tuple(Candidate(text, math.log(p)) for text, p in self.tokens[""].items())
        return SequenceReply((Position(listed, math.log(0.001)),) * self.positions, Usage(), self.model)


async def test_a_label_of_several_tokens_within_a_sequence_is_completed_by_a_next_token_request():
    provider = Echoing({"": {" negative": 0.2, " pos": 0.6}, " pos": {"itive": 0.5, "h": 0.5}}, positions=2)
    (scores,) = await judge(provider).score_chains([chain(3, 1)])
    assert scores[1] is not None
    assert [math.exp(p) for p in scores[1].logprobs_nats] == pytest.approx([0.4, 0.6])
    assert [(r.prompt.query, len(r.prompt.demonstrations), r.continuation) for r in provider.asked] == [
        (MANY[3], 0, " pos"),
        (MANY[1], 1, " pos"),
    ]


async def test_a_label_out_of_reach_within_a_sequence_is_a_bound():
    scorer = judge(Echoing({"": {" negative": 0.5}}, positions=2))
    (scores,) = await scorer.score_chains([chain(3, 1)])
    assert [score and score.bounded for score in scores] == [(False, True)] * 2
    assert scorer.bounded == 2


async def test_a_reply_with_too_few_positions_is_refused():
    with pytest.raises(CapabilityError, match="1 positions for 2 examples"):
        await judge(Echoing({"": {" negative": 0.5}}, positions=1)).score_chains([chain(3, 1)])


async def test_whether_the_hosts_prefix_cache_holds_is_measured_on_walks():
    holds, forgets, says_nothing = Host(echo=0), Host(echo=0, prefix_cache=0), Scripted({"": {" negative": 0.5}})
    says_nothing.capabilities = replace(says_nothing.capabilities, prompt_logprobs=False)
    shares: list[float | None] = []
    for host in (holds, forgets, says_nothing):
        scorer = judge(host)
        assert scorer.walk_cached_share is None
        await scorer.score_chains([chain(*range(8)), chain(*range(4, 12))])
        shares.append(scorer.walk_cached_share)
    assert shares == [pytest.approx(1, abs=0.05), 0.0, None]


class Walked(Scripted):
    """A table for each number of demonstrations."""

    def __init__(self, tables: list[dict[str, float]]) -> None:
        super().__init__({})
        self.tables = tables
        self.capabilities = replace(self.capabilities, prompt_logprobs=False)

    async def send(self, request: Any) -> Any:
        self.tokens = {"": self.tables[len(request.prompt.demonstrations)]}
        return await super().send(request)


async def test_a_place_that_says_nothing_of_the_labels_has_no_score():
    """At first a model has not seen how labels are written; later it has."""
    scorer = judge(
        Walked([{" other": 0.9}, {" negative": 0.5, " positive": 0.4}, {" negative": 0.7, " positive": 0.2}])
    )
    (scores,) = await scorer.score_chains([chain(3, 1, 2)])
    assert [score is None for score in scores] == [True, False, False]
    assert any("1 answers said nothing" in note for note in scorer.notes)


async def test_a_chain_that_says_nothing_of_the_labels_at_most_places_is_refused():
    scorer = judge(Walked([{" other": 0.9}] * 12))
    with pytest.raises(OutOfReachError, match="none of the labels"):
        await scorer.score_chains([chain(*range(10))])


async def test_an_echoed_label_below_the_list_with_only_bounds_on_the_others_says_nothing():
    """Its log-prob is exact and tiny, the bound on the other is not: taken for a value it would win every time."""
    shown = Echoing({"": {" positive": 1e-6, " filler": 0.9}}, positions=2)
    (scores,) = await judge(shown).score_chains([chain(3, 1)])
    assert scores == [None, None]


async def test_a_host_whose_prompt_cache_does_not_hold_is_told():
    for cached, told in ((1, False), (0, True)):
        scorer = judge(Host(echo=0, prefix_cache=cached))
        await scorer.score_chains([chain(*range(8))])
        assert any("prompt cache" in note for note in scorer.notes) is told


async def test_a_place_with_only_bounds_on_all_labels_says_nothing():
    """A label may be listed in another spelling, and its own only bounded."""
    labels = (Label("negative", " negative", (" Negative",)), Label("positive", " positive", (" Positive",)))
    heard = Walked([{" Negative": 0.002, " Positive": 0.0015, " other": 0.99}] * 3)
    scorer = PromptScorer(heard, labels, MANY, min_mass=0.0)
    assert await scorer.score_chains([chain(3, 1, 2)]) == [[None, None, None]]


# --- where no log-probabilities are told ----------------------------------------------------------------------


class Chooser:
    """Answers choices from a list, in turn; None refuses."""

    name = "chooser"
    model = "list"
    identity: Mapping[str, Any] = {}

    def __init__(self, *answers: str | tuple[float, ...] | None, choices: Any = "votes") -> None:
        self.answers = itertools.cycle(answers)
        self.asked: list[ChoiceRequest] = []
        self.capabilities = replace(Synthetic().capabilities, choices=choices, prompt_logprobs=False)

    async def send(self, request: Any) -> Any:
        self.asked.append(request)
        answer = next(self.answers)
        if answer is None:
            return ChoiceReply((), Usage(), self.model, "the model refuses")
        if isinstance(answer, str):
            answer = tuple(float(label == answer) for label in request.labels)
        return ChoiceReply(answer, Usage(), self.model)

    async def aclose(self) -> None: ...


def voting(provider: Any, votes: int = 8, labels: tuple[Label, ...] = LABELS) -> PromptScorer:
    return PromptScorer(provider, labels, MANY, preamble="Judge.", min_mass=1e-4, votes=votes)


async def test_votes_are_smoothed_shares_of_counted_answers_and_say_what_they_are():
    provider = Chooser(" positive", " positive", " positive", " negative")
    judge = voting(provider)
    (score,) = await judge.score([Query(2, ((0, 1),))])
    assert [math.exp(p) for p in score.logprobs_nats] == pytest.approx([2.5 / 9, 6.5 / 9])
    assert (score.kind, score.mass, score.bounded) == ("sampled", 1.0, (False, False))
    assert judge.kind == "sampled"
    assert len(judge.notes) == 1
    assert "8 counted answers" in judge.notes[0]
    assert "not log-probabilities" in judge.notes[0]
    assert "2.8 nats" in judge.notes[0]


async def test_each_draw_is_a_request_of_its_own_and_each_label_is_offered_first_equally_often():
    provider = Chooser(" positive")
    await voting(provider).score([Query(2, ())])
    assert sorted(request.draw for request in provider.asked) == list(range(8))
    assert Counter(request.labels[0] for request in provider.asked) == {" negative": 4, " positive": 4}
    assert {request.prompt for request in provider.asked} == {provider.asked[0].prompt}


async def test_the_first_answer_comes_before_the_others_are_asked():
    """So that the host's prompt cache can serve them."""
    provider = Chooser(" positive")
    under_way: list[int] = []
    most = {}
    inner = provider.send

    async def send(request: Any) -> Any:
        under_way.append(request.draw)
        await asyncio.sleep(0)
        most[request.draw] = len(under_way)
        reply = await inner(request)
        under_way.remove(request.draw)
        return reply

    provider.send = send  # type: ignore[method-assign]
    await voting(provider).score([Query(2, ())])
    assert most[0] == 1
    assert max(most.values()) == 7


async def test_answers_that_name_no_label_are_left_out_and_told():
    judge = voting(Chooser(" positive", None, " negative", " positive"), votes=4)
    (score,) = await judge.score([Query(2, ())])
    assert [math.exp(p) for p in score.logprobs_nats] == pytest.approx([1.5 / 4, 2.5 / 4])
    assert score.mass == 0.75
    assert "1 of 4 answers named none" in judge.notes[1]


async def test_a_question_that_no_answer_of_which_names_a_label_is_out_of_reach():
    with pytest.raises(OutOfReachError, match="refuses"):
        await voting(Chooser(None)).score([Query(2, ())])
    chain = Chain(tuple((i, i % 2) for i in range(8)))
    some = Chooser(*[None] * 3, *[" positive"] * 21)
    (scores,) = await voting(some, votes=3).score_chains([chain])
    assert [score is None for score in scores] == [True] + [False] * 7
    with pytest.raises(OutOfReachError):
        await voting(Chooser(None), votes=3).score_chains([chain])


async def test_a_chain_is_a_walk_in_which_each_example_sees_those_before_it():
    provider = Chooser(" positive")
    chain = Chain(((0, 1), (1, 0), (2, 1), (3, 0)), first=1)
    (scores,) = await voting(provider, votes=2).score_chains([chain])
    assert [len(request.prompt.demonstrations) for request in provider.asked] == [1, 1, 2, 2, 3, 3]
    assert [score.kind for score in scores if score is not None] == ["sampled"] * 3


async def test_probabilities_that_the_host_states_take_one_request_and_keep_their_kind():
    provider = Chooser((0.25, 0.75), choices="probabilities")
    judge = voting(provider)
    (score,) = await judge.score([Query(2, ())])
    (request,) = provider.asked
    expected = [0.25, 0.75] if request.labels[0] == " negative" else [0.75, 0.25]
    assert [math.exp(p) for p in score.logprobs_nats] == pytest.approx(expected)
    assert (score.kind, judge.kind) == ("stated", "stated")
    assert "states as its own" in judge.notes[0]


async def test_a_probability_stated_as_0_is_a_bound_and_counted():
    judge = voting(Chooser((1.0, 0.0), choices="probabilities"))
    (score,) = await judge.score([Query(2, ())])
    assert sorted(score.bounded) == [False, True]
    assert min(score.logprobs_nats) == pytest.approx(math.log(0.005 / 1.005))
    assert judge.bounded == 1


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.4, 0.4), (math.nan, 1.0), (1.0, 1.0)])
async def test_shares_that_are_no_vote_are_refused(shares):
    with pytest.raises(CapabilityError):
        await voting(Chooser(shares)).score([Query(2, ())])


async def test_a_second_run_of_votes_is_answered_from_the_cache(tmp_path):
    provider = Chooser(" positive", " negative")
    scores = []
    for _ in range(2):
        cached = Cached(provider, open_cache(tmp_path))
        scores += await voting(cached).score([Query(2, ())])
    assert scores[0] == scores[1]
    assert len(provider.asked) == 8
