"""The search of the paper, over a scorer that is a table."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from icm_api.core import step as contract
from icm_api.core.anneal import AnnealSettings, Best, SearchState, Step, _accepts, anneal, temperature
from icm_api.core.context import Chain, ContextBuilder, ContextPolicy, Query
from icm_api.core.problem import Problem
from icm_api.core.relations import broken
from icm_api.types import LabelScore, Relation


class Learner:
    """Follows the majority of its demonstrations, pulled by a fixed leaning of each example."""

    def __init__(self, leanings: Sequence[float], copying: float = 0.3) -> None:
        self.leanings, self.copying, self.asked = leanings, copying, 0

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        self.asked += len(queries)
        return [self._score(query) for query in queries]

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        raise NotImplementedError("the search asks one example at a time")

    def _score(self, query: Query) -> LabelScore:
        pull = sum(1 if label else -1 for _, label in query.demonstrations) / (1 + len(query.demonstrations))
        p = 1 / (1 + math.exp(-self.leanings[query.example] - self.copying * pull))
        return LabelScore((math.log(1 - p), math.log(p)), 1.0, (False, False))


def learner(n: int, seed: int = 0) -> Learner:
    return Learner(np.random.default_rng(seed).normal(0, 2, n).tolist())


async def search(
    n: int = 16,
    *,
    relations: Sequence[Relation] = (),
    settings: AnnealSettings | None = None,
    scorer: Learner | None = None,
    seed: int = 0,
    state: SearchState | None = None,
    policy: ContextPolicy | None = None,
    most: int | None = None,
) -> list[Step]:
    problem = Problem.build(2, [None] * n, relations)
    context = ContextBuilder(problem.siblings, [1] * n, policy or ContextPolicy(), seed=seed)
    steps = []
    found = anneal(problem, scorer or learner(n), context, settings or AnnealSettings(), seed=seed, state=state)
    async for step in found:
        steps.append(step)
        if most is not None and len(steps) == most:
            break
    return steps


def at_most_one(*members: int) -> Relation:
    return Relation("at_most_one", members)


def test_the_temperature_starts_at_t0_falls_with_the_logarithm_and_stops_at_t_min():
    settings = AnnealSettings()
    assert temperature(1, settings) == 10.0
    assert temperature(100, settings) == pytest.approx(10 / (1 + 0.99 * math.log(100)))
    assert temperature(10**9, replace(settings, t_min=2.0)) == 2.0


def test_a_rise_is_always_accepted_however_large():
    assert _accepts(1e9, 0.01, np.random.default_rng(0))


def test_a_fall_is_accepted_as_often_as_the_exponential_says():
    rng = np.random.default_rng(0)
    share = sum(_accepts(-1.0, 2.0, rng) for _ in range(20_000)) / 20_000
    assert share == pytest.approx(math.exp(-0.5), abs=0.015)


async def test_it_ends_when_every_example_has_a_label_that_a_visit_does_not_change():
    last = (await search())[-1]
    assert last.stop == "stable"
    assert None not in last.state.labels
    assert last.state.settled == frozenset(range(16))


async def test_at_rest_every_stored_score_is_what_the_model_says_now():
    scorer = learner(16)
    state = (await search(scorer=scorer))[-1].state
    builder = ContextBuilder((frozenset(),) * 16, [1] * 16, ContextPolicy(), seed=0)
    fresh = await scorer.score([builder.query(i, state.labels) for i in range(16)])
    assert list(state.scores) == fresh


async def test_the_same_seed_gives_the_same_steps_and_another_seed_others():
    first, again, other = await search(seed=3), await search(seed=3), await search(seed=4)
    assert first == again
    assert [s.example for s in first] != [s.example for s in other]


@pytest.mark.parametrize("fidelity", ["reuse", "paper"])
async def test_seventeen_steps_and_twenty_three_more_equal_forty(fidelity):
    settings = AnnealSettings(fidelity=fidelity)
    whole = await search(32, settings=settings, most=41)
    first = await search(32, settings=settings, most=18)
    saved = replace(first[-1].state, rng=json.loads(json.dumps(first[-1].state.rng)))
    rest = await search(32, settings=settings, state=saved, most=23)
    assert [*first, *rest] == whole


async def test_a_finished_state_is_not_searched_further():
    last = (await search())[-1]
    assert await search(state=last.state) == []


async def test_reuse_asks_at_most_one_score_a_step_after_the_seeds():
    scorer = learner(32)
    steps = await search(32, scorer=scorer)
    assert scorer.asked == sum(step.asked for step in steps) <= 8 + len(steps) - 1
    assert sum(step.paper_asks for step in steps) > 4 * scorer.asked


async def test_paper_fidelity_asks_one_score_a_visit_and_the_whole_pool_for_a_change():
    scorer = learner(64)
    steps = await search(64, scorer=scorer, settings=AnnealSettings(fidelity="paper", stop="full"))
    assert steps[0].asked == 8
    for before, step in itertools.pairwise(steps):
        newcomer = before.state.labels[step.example or 0] is None
        pool = before.state.n_labelled + newcomer
        assert step.asked == step.paper_asks == (1 + pool if step.changed else 1)
        assert newcomer <= bool(step.changed), "the first label of an example is always a change"
    assert scorer.asked == sum(step.asked for step in steps)


async def test_no_hard_relation_is_ever_broken_in_reuse():
    relations = [at_most_one(*range(k, k + 4)) for k in range(0, 16, 4)]
    for seed in range(5):
        steps = await search(relations=relations, seed=seed, scorer=Learner([2.0] * 16))
        assert all(step.utility.violations == 0 for step in steps)
        assert all(not broken(relations, step.state.labels) for step in steps)


async def test_a_confident_newcomer_takes_the_place_of_a_wrong_old_label():
    relations = [Relation("exactly_one", (0, 1))]
    settings = AnnealSettings(n_seeds=1)
    for seed in range(4):
        last = (await search(2, relations=relations, scorer=Learner([-3.0, 3.0]), settings=settings, seed=seed))[-1]
        assert last.state.labels == (0, 1)


async def test_paper_repairs_try_every_consistent_choice_and_keep_the_best():
    relations = [at_most_one(0, 1)]
    settings = AnnealSettings(fidelity="paper", n_seeds=2, alpha=1.0)
    last = (await search(2, relations=relations, scorer=Learner([1.0, 3.0], copying=0), settings=settings))[-1]
    assert last.utility.violations == 0
    assert last.state.labels == (0, 1)


async def test_unlabelled_siblings_of_labelled_examples_are_visited_first():
    relations = [at_most_one(0, 1, 2, 3)]
    settings = AnnealSettings(n_seeds=0, sibling_weight=1e9, t_start=1e9)
    steps = await search(16, relations=relations, settings=settings)
    visited = [s.example for s in steps[1:]]
    first = next(k for k, example in enumerate(visited) if example in (0, 1, 2, 3))
    assert set(visited[first : first + 4]) == {0, 1, 2, 3}


async def test_the_step_limit_ends_the_search_and_says_so():
    steps = await search(settings=AnnealSettings(max_steps=5))
    assert steps[-1].stop == "max_steps"
    assert len(steps) == 6


async def test_with_capped_contexts_an_unchanged_question_is_not_asked_again():
    scorer = learner(32)
    steps = await search(32, scorer=scorer, policy=ContextPolicy(max_demonstrations=4))
    assert scorer.asked < 8 + len(steps) - 1
    assert scorer.asked == sum(step.asked for step in steps)


async def test_the_best_complete_labelling_is_kept():
    steps = await search(32, settings=AnnealSettings(fidelity="paper"))
    complete = [s.utility.value for s in steps if s.state.n_labelled == 32]
    best = steps[-1].state.best
    assert best is not None
    assert best.utility.value == pytest.approx(max(complete))


async def test_more_than_two_labels_work():
    class ThreeWay:
        async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
            return [
                LabelScore(tuple(math.log(0.8 if k == q.example % 3 else 0.1) for k in range(3)), 1.0, (False,) * 3)
                for q in queries
            ]

        async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
            raise NotImplementedError

    problem = Problem.build(3, [None] * 9)
    context = ContextBuilder(problem.siblings, [1] * 9, ContextPolicy(), seed=0)
    steps = [s async for s in anneal(problem, ThreeWay(), context, AnnealSettings())]
    assert steps[-1].state.labels == (0, 1, 2) * 3


async def test_with_a_cap_the_examples_that_are_shown_settle_first_and_the_others_cost_about_one_question_each():
    scorer = learner(300)
    steps = await search(300, scorer=scorer, policy=ContextPolicy(max_demonstrations=16))
    assert steps[-1].stop == "stable"
    assert scorer.asked < 300 + 16 * 20
    builder = ContextBuilder((frozenset(),) * 300, [1] * 300, ContextPolicy(max_demonstrations=16), seed=0)
    state = steps[-1].state
    assert list(state.scores) == await scorer.score([builder.query(i, state.labels) for i in range(300)])


async def test_an_example_that_lowers_the_mean_gets_its_label_when_all_others_rest():
    scorer = Learner([4.0] * 15 + [0.001], copying=0.0)
    cold = AnnealSettings(alpha=1e6, t_start=1e-6, t_min=1e-6)
    last = (await search(16, scorer=scorer, settings=cold))[-1]
    assert last.stop == "stable"
    assert None not in last.state.labels


async def test_it_tells_what_runner_and_display_need_to_know_of_any_method():
    steps: list[contract.Step] = [*await search()]
    assert [step.done <= step.total == 32 for step in steps] == [True] * len(steps)
    assert steps[-1].done == 32
    assert steps[-1].status == "16/16 labelled, 16 settled"
    assert steps[-1].notes == ()
    assert (await search(settings=AnnealSettings(stop="full")))[-1].total == 16


async def test_at_rest_it_finds_where_it_rests_and_when_stopped_the_best_complete_labelling():
    resting = (await search())[-1]
    better = Best((1,) * 16, resting.state.scores, replace(resting.utility, value=0.0))
    resting = replace(resting, state=replace(resting.state, best=better))
    assert resting.found.labels == resting.labels == resting.state.labels
    assert resting.found.information_nats is not None
    stopped = replace(resting, stop="max_steps")
    assert (stopped.found.labels, stopped.found.utility) == (better.labels, better.utility)


async def test_stopped_before_all_rest_it_says_how_many_scores_are_old():
    steps = await search()
    first_full = next(s for s in steps if s.state.n_labelled == 16 and len(s.state.settled) < 16)
    assert f"{16 - len(first_full.state.settled)} scores were taken with older labels" in first_full.notes[0]
    assert steps[0].notes == (), "labels are missing: that is said elsewhere"


async def test_only_reuse_spares_scores():
    assert sum(step.spared for step in await search(32)) > 0
    assert all(step.spared == 0 for step in await search(32, settings=AnnealSettings(fidelity="paper")))


async def test_the_record_of_a_step_names_the_example_visited():
    ids = [f"id{i}" for i in range(16)]
    step = (await search())[3]
    assert step.record(ids)["example"] == f"id{step.example}"
    assert json.loads(json.dumps(dict(step.record(ids)))) == step.record(ids)
