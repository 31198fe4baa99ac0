"""What any search must beat, over a learner with a known truth."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np
import pytest

from icm_api.core.baselines import GOLD_NOTE, BaselineStep, bootstrap, gold_few_shot, random_few_shot, zero_shot
from icm_api.core.chains import ChainBuilder, ChainPolicy
from icm_api.core.context import ContextBuilder, ContextPolicy
from icm_api.core.problem import Problem
from icm_api.core.relations import broken
from icm_api.core.step import Step
from icm_api.types import Relation
from tests.unit.core.learner import Learner, accuracy

N = 48
TRUTH = [i % 2 for i in range(N)]


class Bench:
    """A problem, a learner, and each method over them."""

    def __init__(
        self,
        truth: Sequence[int] = TRUTH,
        *,
        n_labels: int = 2,
        relations: Sequence[Relation] = (),
        groups: Sequence[str | None] | None = None,
        **learner: float,
    ) -> None:
        n = len(truth)
        self.truth = truth
        self.problem = Problem.build(n_labels, groups or [None] * n, relations)
        self.learner = Learner(truth, n_labels, **learner)  # type: ignore[arg-type]
        siblings = self.problem.siblings
        self.chains = ChainBuilder(siblings, [1] * n, ChainPolicy())
        self.context = ContextBuilder(siblings, [1] * n, ContextPolicy(), seed=0)

    def zero_shot(self, shares: tuple[float, ...] | None = None) -> AsyncGenerator[BaselineStep, None]:
        return zero_shot(self.problem, self.learner, shares=shares)

    def random(self, shares: tuple[float, ...] | None = None, seed: int = 0) -> AsyncGenerator[BaselineStep, None]:
        return random_few_shot(self.problem, self.learner, self.chains, shares=shares, seed=seed)

    def bootstrap(
        self, shares: tuple[float, ...] | None = None, seed: int = 0, most: int = 64
    ) -> AsyncGenerator[BaselineStep, None]:
        return bootstrap(self.problem, self.learner, self.context, most=most, shares=shares, seed=seed)

    def gold(
        self, gold: Sequence[int | None] | None = None, shares: tuple[float, ...] | None = None
    ) -> AsyncGenerator[BaselineStep, None]:
        shown = self.truth if gold is None else gold
        return gold_few_shot(self.problem, self.learner, self.context, self.chains, shown, shares=shares, seed=0)


Method = Callable[[Bench], AsyncGenerator[BaselineStep, None]]
METHODS: tuple[Method, ...] = (Bench.zero_shot, Bench.random, Bench.bootstrap, Bench.gold)


async def steps_of(steps: AsyncGenerator[BaselineStep, None]) -> list[BaselineStep]:
    return [step async for step in steps]


async def last_of(steps: AsyncGenerator[BaselineStep, None]) -> BaselineStep:
    return (await steps_of(steps))[-1]


# --- what holds for all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
async def test_each_ends_once_with_every_example_labelled_and_counts_what_it_asked(method: Method):
    bench = Bench(TRUTH * 3)
    steps: list[Step] = [*await steps_of(method(bench))]
    assert [step.stop for step in steps] == [None] * (len(steps) - 1) + ["done"]
    assert [step.step for step in steps] == list(range(len(steps)))
    assert sum(step.asked for step in steps) == bench.learner.asked == steps[-1].done == steps[-1].total
    assert None not in steps[-1].labels
    assert all(step.done < step.total for step in steps[:-1])


@pytest.mark.parametrize("method", METHODS)
async def test_the_labels_told_as_changed_add_up_to_the_labels_found(method: Method):
    labels: list[int | None] = [None] * N
    for step in await steps_of(method(Bench())):
        for i in step.changed:
            labels[i] = step.labels[i]
        assert tuple(labels) == step.labels


@pytest.mark.parametrize("method", METHODS)
async def test_no_hard_relation_is_broken_at_the_end(method: Method):
    relations = [Relation("exactly_one", (i, i + 1, i + 2)) for i in range(0, N, 3)]
    bench = Bench(relations=relations, bias=4.0)
    last = await last_of(method(bench))
    assert not broken(relations, last.labels)
    assert last.found.utility.violations == 0
    assert last.labels.count(1) == N / 3


@pytest.mark.parametrize("method", METHODS)
async def test_the_same_seed_gives_the_same_steps(method: Method):
    assert await steps_of(method(Bench())) == await steps_of(method(Bench()))


@pytest.mark.parametrize("method", METHODS)
async def test_more_than_two_labels_work(method: Method):
    truth = [i % 3 for i in range(N)]
    last = await last_of(method(Bench(truth, n_labels=3)))
    assert {label for label in last.labels if label is not None} <= {0, 1, 2}
    assert last.found.information_nats is not None


@pytest.mark.parametrize("method", METHODS)
async def test_what_it_records_is_plain(method: Method):
    step = await last_of(method(Bench()))
    record = step.record([str(i) for i in range(N)])
    assert json.loads(json.dumps(dict(record))) == record
    assert {"phase", "utility", "information_nats"} <= set(record)


@pytest.mark.parametrize("method", [Bench.zero_shot, Bench.random, Bench.gold])
async def test_given_shares_take_out_the_bias_of_the_model(method: Callable[..., AsyncGenerator[BaselineStep, None]]):
    bias = 8.0
    raw = await last_of(method(Bench(bias=bias)))
    calibrated = await last_of(method(Bench(bias=bias), shares=(0.5, 0.5)))
    assert raw.labels.count(1) == N
    assert 0.4 * N <= calibrated.labels.count(1) <= 0.6 * N
    p = np.exp([score.logprobs_nats for score in calibrated.found.scores if score is not None])
    assert p[:, 1].mean() == pytest.approx(0.5)


# --- zero-shot --------------------------------------------------------------------------------------------


async def test_zero_shot_shows_nothing_and_takes_what_the_model_prefers():
    bench = Bench(meaning=20.0)
    last = await last_of(bench.zero_shot())
    assert all(query.demonstrations == () for query in bench.learner.queries)
    assert accuracy(last.labels, TRUTH) > 0.95


async def test_zero_shot_goes_in_batches_and_has_labels_for_what_was_asked():
    steps = await steps_of(Bench(TRUTH * 3).zero_shot())
    assert [sum(label is not None for label in step.labels) for step in steps] == [64, 128, 144]
    assert steps[0].status == "zero-shot: 64/144 scores"


# --- random labels ----------------------------------------------------------------------------------------


async def test_random_labels_are_drawn_evenly_and_anew_for_each_order():
    bench = Bench()
    await last_of(bench.random())
    drawn = [dict(chain.examples) for chain in bench.learner.chains]
    assert [sum(labels.values()) for labels in drawn] == [N // 2] * 4
    assert len({tuple(labels[i] for i in range(N)) for labels in drawn}) == 4
    assert len({tuple(labels) for labels in drawn}) == 4, "and the orders differ"


async def test_random_labels_are_drawn_in_the_given_shares():
    bench = Bench()
    await last_of(bench.random(shares=(0.75, 0.25)))
    assert [sum(dict(chain.examples).values()) for chain in bench.learner.chains] == [N // 4] * 4


# --- bootstrap --------------------------------------------------------------------------------------------


async def test_bootstrap_begins_with_calibrated_labels_and_keeps_them_good_where_the_rounds_are_calibrated_too():
    assert accuracy((await last_of(Bench(bias=3.0, signal=2.5).zero_shot())).labels, TRUTH) == 0.5
    steps = await steps_of(Bench(bias=3.0, signal=2.5).bootstrap(shares=(0.5, 0.5)))
    assert [accuracy(step.labels, TRUTH) > 0.85 for step in steps] == [True] * len(steps)


async def test_each_round_shows_twice_as_many_evenly_over_the_predicted_labels():
    bench = Bench()
    steps = await steps_of(bench.bootstrap(most=16))
    assert [step.phase for step in steps] == ["zero-shot", *(f"{k} demonstrations" for k in (2, 4, 8, 16))]
    for k, size in enumerate((2, 4, 8, 16), start=1):
        before = steps[k - 1].labels
        for query in bench.learner.queries[k * N : (k + 1) * N]:
            assert len(query.demonstrations) == size
            assert sum(label for _, label in query.demonstrations) == size / 2
            assert all(before[i] == label for i, label in query.demonstrations), "labels of the round before"


async def test_an_example_is_shown_neither_itself_nor_its_siblings():
    bench = Bench(groups=[f"g{i // 4}" for i in range(N)])
    await last_of(bench.bootstrap())
    for query in bench.learner.queries:
        assert all(i // 4 != query.example // 4 for i, _ in query.demonstrations)


async def test_where_all_are_siblings_bootstrap_says_that_it_showed_nothing():
    last = await last_of(Bench(groups=["g"] * N).bootstrap())
    assert f"{N} examples were asked without demonstrations" in last.notes[0]


async def test_labels_stand_while_a_round_is_under_way():
    steps = await steps_of(Bench(TRUTH * 3).bootstrap())
    assert all(None not in step.labels for step in steps[2:])
    assert all(not step.changed for step in steps[3:] if step.done % (3 * N))


# --- gold -------------------------------------------------------------------------------------------------


async def test_gold_labels_are_shown_and_the_result_says_so():
    bench = Bench(meaning=0.0)
    last = await last_of(bench.gold())
    assert all(label == TRUTH[i] for chain in bench.learner.chains for i, label in chain.examples)
    assert accuracy(last.labels, TRUTH) > 0.9
    assert last.notes == (GOLD_NOTE,)


async def test_examples_without_gold_are_never_shown_and_still_labelled():
    bench = Bench()
    gold = [None if i % 4 == 0 else label for i, label in enumerate(TRUTH)]
    steps = await steps_of(bench.gold(gold))
    shown = {i for chain in bench.learner.chains for i, _ in chain.examples}
    shown |= {i for query in bench.learner.queries for i, _ in query.demonstrations}
    assert shown == {i for i, label in enumerate(gold) if label is not None}
    assert [query.example for query in bench.learner.queries] == list(range(0, N, 4))
    assert None not in steps[-1].labels
    assert steps[-1].stop == "done"


async def test_bootstrap_says_what_the_model_answered_before_it_saw_demonstrations():
    bench = Bench(meaning=2.0, bias=-9.0)
    steps = [step async for step in bench.bootstrap()]
    first = next(step for step in reversed(steps) if step.phase == "zero-shot").found
    found = steps[-1].found
    assert found.own_meaning == first.labels
    assert found.alone is not None
    assert found.alone.favourites == (0,) * N, "a pull towards one label is not taken out"
    assert found.alone.told is not None
    assert first.alone is None
