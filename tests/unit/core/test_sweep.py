"""The sweep, on a scorer that learns in context as a model does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from icm_api.core.chains import ChainBuilder, ChainPolicy
from icm_api.core.context import Chain, Query
from icm_api.core.diagnose import ALONE_TELLS, LITTLE_INFORMATION, POOR_AGREEMENT
from icm_api.core.problem import Problem
from icm_api.core.relations import broken
from icm_api.core.sweep import SweepSettings, SweepStep, sweep
from icm_api.errors import TransientError
from icm_api.types import LabelScore, Relation
from tests.unit.core.learner import Learner, accuracy


def truth_of(*counts: int, seed: int = 0) -> list[int]:
    """So many examples of each label, mixed."""
    ordered = np.repeat(np.arange(len(counts)), counts)
    return list(map(int, np.random.default_rng(seed).permutation(ordered)))


def learner(truth: Sequence[int], n_labels: int = 2, *, bias: float = 0.0, seed: int = 0) -> Learner:
    return Learner(truth, n_labels, meaning=2.0, bias=bias, seed=seed)


async def run(
    problem: Problem,
    scorer: Learner,
    settings: SweepSettings | None = None,
    *,
    seed: int = 0,
    policy: ChainPolicy | None = None,
) -> list[SweepStep]:
    chains = ChainBuilder(problem.siblings, [10] * problem.n_examples, policy or ChainPolicy())
    return [step async for step in sweep(problem, scorer, chains, settings or SweepSettings(), seed=seed)]


async def labels_for(
    truth: Sequence[int], n_labels: int, settings: SweepSettings, *, bias: float = 0.0, seed: int = 0
) -> tuple[int | None, ...]:
    problem = Problem.build(n_labels, [None] * len(truth))
    steps = await run(problem, learner(truth, n_labels, bias=bias, seed=seed), settings, seed=seed)
    return steps[-1].found.labels


# --- what it finds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [0.0, 2.0], ids=["unbiased", "biased by 2 nats"])
@pytest.mark.parametrize("counts", [(32, 32), (48, 16), (16, 48), (58, 6), (24, 24, 24, 24)], ids=str)
async def test_it_finds_the_truth_without_being_told_the_shares(counts: tuple[int, ...], bias: float):
    truth = truth_of(*counts)
    found = await labels_for(truth, len(counts), SweepSettings(restarts=2), bias=bias)
    assert accuracy(found, truth) >= 0.9
    assert set(found) == set(truth)  # no collapse


@pytest.mark.parametrize("seed", range(4))
async def test_it_never_collapses_on_what_can_be_learned(seed: int):
    truth = truth_of(24, 24, seed=seed)
    found = await labels_for(truth, 2, SweepSettings(restarts=1), seed=seed, bias=3.0)
    assert 0.25 < sum(label == 1 for label in found) / len(truth) < 0.75


async def test_given_shares_are_kept():
    truth = truth_of(36, 12)
    steps = await run(Problem.build(2, [None] * 48), learner(truth), SweepSettings(shares=(0.75, 0.25)))
    assert {step.restart.shares for step in steps} == {(0.75, 0.25)}
    assert accuracy(steps[-1].found.labels, truth) >= 0.9


async def test_ten_labels_are_told_apart():
    truth = truth_of(*[10] * 10)
    found = await labels_for(truth, 10, SweepSettings(restarts=1, shares=(0.1,) * 10))
    assert accuracy(found, truth) >= 0.8


# --- relations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "relations",
    [
        [Relation("exactly_one", tuple(range(k, k + 4))) for k in range(0, 24, 4)],
        [Relation("at_most_one", tuple(range(k, k + 3))) for k in range(0, 24, 3)],
        [Relation("equivalent", (k, k + 1)) for k in range(0, 24, 2)],
        [Relation("asymmetric", (k, k + 12)) for k in range(12)],
    ],
    ids=lambda relations: relations[0].kind,
)
async def test_no_step_breaks_a_hard_relation(relations: list[Relation]):
    problem = Problem.build(2, [None] * 24, relations)
    for step in await run(problem, learner(truth_of(12, 12)), SweepSettings(restarts=2)):
        assert broken(relations, step.labels) == ()
        assert broken(relations, step.found.labels) == ()
        assert step.gap_nats == 0.0


async def test_shares_that_relations_imply_are_known_from_the_start():
    truth = [0, 0, 0, 1] * 12
    relations = [Relation("exactly_one", tuple(range(k, k + 4))) for k in range(0, 48, 4)]
    steps = await run(Problem.build(2, [None] * 48, relations), learner(truth), SweepSettings(restarts=1))
    assert all(step.restart.shares == pytest.approx((0.75, 0.25)) for step in steps)
    assert accuracy(steps[-1].found.labels, truth) >= 0.9


async def test_shares_stay_within_what_relations_allow():
    relations = [Relation("at_most_one", tuple(range(k, k + 8)), positive=2) for k in range(0, 48, 8)]
    problem = Problem.build(3, [None] * 48, relations)
    for step in await run(problem, learner(truth_of(16, 16, 16), 3), SweepSettings(restarts=1)):
        assert sum(step.restart.shares) == pytest.approx(1.0)
        assert step.restart.shares[2] <= 1 / 8 + 1e-9


async def test_siblings_never_see_each_other():
    problem = Problem.build(2, [str(k // 3) for k in range(24)])
    scorer = learner(truth_of(12, 12))
    await run(problem, scorer, SweepSettings(restarts=1))
    for chain in scorer.chains:
        for i in chain.scored:
            assert problem.siblings[i] & {j for j, _ in chain.examples} == {i}


# --- the same seed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [None, 24])
async def test_the_same_seed_gives_the_same_labels_however_many_restarts_run_side_by_side(pool: int | None):
    truth = truth_of(24, 12)
    problem = Problem.build(2, [None] * 36)
    found = []
    for parallel in (1, 2, 3):
        steps = await run(problem, learner(truth), SweepSettings(parallel=parallel, pool=pool), seed=5)
        found.append((steps[-1].found, len(steps)))
    assert found[0] == found[1] == found[2]


async def test_another_seed_asks_in_other_orders():
    asked = []
    for seed in (0, 1):
        scorer = learner(truth_of(8, 8))
        await run(Problem.build(2, [None] * 16), scorer, SweepSettings(restarts=1, passes=1), seed=seed)
        asked.append(scorer.chains)
    assert asked[0] != asked[1]


# --- the pool ---------------------------------------------------------------------------------------------


async def test_the_rest_is_labelled_with_one_question_each_and_the_pool_is_never_asked_about_again():
    truth = truth_of(100, 100)
    scorer = learner(truth)
    steps = await run(Problem.build(2, [None] * 200), scorer, SweepSettings(pool=40, restarts=1))
    pool = {i for chain in scorer.chains for i in chain.scored}
    assert len(pool) == 40
    assert sorted(query.example for query in scorer.queries) == sorted(set(range(200)) - pool)
    assert all(i in pool for query in scorer.queries for i, _ in query.demonstrations)
    assert accuracy(steps[-1].found.labels, truth) >= 0.9


async def test_the_rest_has_no_labels_until_it_has_been_asked_about():
    steps = await run(Problem.build(2, [None] * 30), learner(truth_of(15, 15)), SweepSettings(pool=20, restarts=1))
    for step in steps[:-1]:
        assert step.found.labels.count(None) == step.found.scores.count(None) == 10
    assert None not in steps[-1].found.labels


async def test_siblings_are_all_in_the_pool_or_all_in_the_rest_and_relations_hold_there_too():
    relations = [Relation("exactly_one", (k, k + 1)) for k in range(0, 40, 2)]
    groups: list[str | None] = [str(k // 4) for k in range(40)]
    problem = Problem.build(2, groups, relations)
    scorer = learner([0, 1] * 20)
    steps = await run(problem, scorer, SweepSettings(pool=10, restarts=1))
    pool = {i for chain in scorer.chains for i in chain.scored}
    assert all(problem.siblings[i] <= pool for i in pool)
    assert 10 <= len(pool) < 40
    assert broken(relations, steps[-1].found.labels) == ()


async def test_a_pool_as_large_as_the_data_is_a_search_on_all():
    scorer = learner(truth_of(8, 8))
    await run(Problem.build(2, [None] * 16), scorer, SweepSettings(pool=16, restarts=1))
    assert scorer.queries == []


# --- what its steps tell ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 20])
@pytest.mark.parametrize("n_labels", [2, 3, 4])
@pytest.mark.parametrize("siblings", [False, True], ids=["strangers", "all siblings"])
@pytest.mark.parametrize("pool", [None, 3])
async def test_the_last_step_and_no_other_says_stop_and_the_work_adds_up(
    n: int, n_labels: int, siblings: bool, pool: int | None
):
    truth = [i % n_labels for i in range(n)]
    scorer = learner(truth, n_labels)
    problem = Problem.build(n_labels, ["a" if siblings else None] * n)
    steps = await run(problem, scorer, SweepSettings(pool=pool, restarts=2, passes=3))
    assert [step.step for step in steps] == list(range(len(steps)))
    assert [step.stop is not None for step in steps] == [False] * (len(steps) - 1) + [True]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert {step.total for step in steps} == {steps[-1].done}
    assert sum(step.asked for step in steps) == scorer.asked
    assert all(label in range(n_labels) for label in steps[-1].found.labels)


@pytest.mark.parametrize("parallel", [2, 3])
async def test_the_work_adds_up_with_restarts_side_by_side_too(parallel: int):
    scorer = learner(truth_of(10, 10))
    steps = await run(Problem.build(2, [None] * 20), scorer, SweepSettings(parallel=parallel, pool=12))
    assert [step.stop is not None for step in steps].count(True) == 1
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total
    assert sum(step.asked for step in steps) == scorer.asked


async def test_changed_names_the_examples_whose_label_is_another_than_before():
    steps = await run(Problem.build(2, [None] * 20), learner(truth_of(10, 10)), SweepSettings(restarts=1))
    for before, after in pairwise(steps):
        moved = [i for i, (a, b) in enumerate(zip(before.labels, after.labels, strict=True)) if a != b]
        assert list(after.changed) == moved


async def test_the_best_of_the_finished_restarts_is_the_most_informative():
    unclear = Learner(truth_of(30, 10), signal=0.7, meaning=0.0)
    steps = await run(Problem.build(2, [None] * 40), unclear, SweepSettings(restarts=4, shares=(0.7, 0.3)))
    last_of = {step.restart.number: step.restart for step in steps if step.stage == "restart"}
    assert len(last_of) > 2
    best = max(restart.information_nats for restart in last_of.values())
    assert steps[-1].best.information_nats == best
    assert steps[-1].found.information_nats == best


async def test_shares_that_the_scores_show_are_ranged_narrowly_and_those_they_do_not_widely():
    problem = Problem.build(2, [None] * 60)
    clear = (await run(problem, learner(truth_of(45, 15)), SweepSettings()))[-1].found
    assert clear.share_ranges is not None
    least, most = clear.share_ranges[1]
    assert 0.1 < least < 0.25 < most < 0.45
    faint = (await run(problem, Learner(truth_of(45, 15), signal=0.1), SweepSettings()))[-1].found
    assert faint.share_ranges is not None
    assert faint.share_ranges[1][1] - faint.share_ranges[1][0] > 0.5
    told = (await run(problem, learner(truth_of(45, 15)), SweepSettings(shares=(0.75, 0.25))))[-1].found
    assert told.share_ranges is None


async def test_shares_are_read_off_examples_from_all_over_a_file_whose_rows_take_turns(monkeypatch):
    monkeypatch.setattr("icm_api.core.judge.MOST_IN_CLUSTERS", 40)
    steps = await run(Problem.build(2, [None] * 79), learner([0, 1] * 39 + [0]), SweepSettings(restarts=1))
    assert steps[-1].best.shares == pytest.approx((0.5, 0.5), abs=0.1)


async def test_shares_that_would_fit_are_within_what_the_rules_allow():
    rules = [Relation("at_most_one", tuple(range(i, i + 4)), 1) for i in range(0, 40, 4)]
    faint = Learner([1, 0, 0, 0] * 10, signal=0.1)
    found = (await run(Problem.build(2, [None] * 40, rules), faint, SweepSettings()))[-1].found
    assert found.share_ranges is not None
    assert found.share_ranges[1][1] <= 0.25


async def test_a_single_pass_reads_shares_too():
    found = (await run(Problem.build(2, [None] * 60), learner(truth_of(45, 15)), SweepSettings(passes=1)))[-1].found
    assert found.share_ranges is not None


async def test_all_restarts_end_under_the_shares_of_the_clearest():
    problem, rng = Problem.build(2, [None] * 60), np.random.default_rng(5)
    for seed in range(3):
        faint = Learner(truth_of(48, 12), signal=1.0, meaning=1.0, seed=seed)
        steps = await run(problem, faint, SweepSettings(restarts=3), seed=int(rng.integers(100)))
        read = {step.restart.number: step.restart for step in steps if step.restart.read_shares is not None}
        clearest = max(read.values(), key=lambda restart: restart.clear_nats)
        assert steps[-1].best.shares == clearest.read_shares


async def test_the_scores_of_what_is_found_are_the_calibrated_ones():
    steps = await run(
        Problem.build(2, [None] * 48), learner(truth_of(24, 24), bias=3.0), SweepSettings(shares=(0.5, 0.5))
    )
    found = steps[-1].found
    chances = [math.exp(score.logprobs_nats[1]) for score in found.scores if score is not None]
    assert len(chances) == 48
    assert sum(chance > 0.5 for chance in chances) == pytest.approx(24, abs=2), "under a bias of 3 nats"
    for label, score in zip(found.labels, found.scores, strict=True):
        assert score is not None
        assert label == int(np.argmax(score.logprobs_nats))


async def test_restarts_end_once_two_have_come_to_the_same_labels():
    truth = truth_of(30, 30)
    for parallel in (1, 3):
        steps = await run(Problem.build(2, [None] * 60), learner(truth), SweepSettings(restarts=5, parallel=parallel))
        assert {step.restart.number for step in steps if step.stage == "restart"} == {1, 2}
        assert steps[-1].stop is not None
        assert steps[-1].done == steps[-1].total
        assert accuracy(steps[-1].found.labels, truth) == 1.0


class Distracted(Learner):
    """Tells the classes well, but among demonstrations it only guesses."""

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        told = await super().score_chains(chains)
        return [scores if len(scores) == 1 else [self._guess(score) for score in scores] for scores in told]

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        told = await super().score(queries)
        return [
            self._guess(score) if query.demonstrations else score for query, score in zip(queries, told, strict=True)
        ]

    def _guess(self, score: LabelScore) -> LabelScore:
        odds = float(np.random.default_rng(self.asked).standard_normal())
        total = math.log(1 + math.exp(odds))
        return replace(score, logprobs_nats=(-total, odds - total))


@pytest.mark.parametrize("pool", [None, 40])
async def test_labels_that_demonstrations_spoil_are_those_of_examples_asked_alone(pool: int | None):
    truth = truth_of(40, 40)
    scorer = Distracted(truth, signal=6.0, meaning=20.0)
    steps = await run(Problem.build(2, [None] * 80), scorer, SweepSettings(pool=pool))
    assert steps[-1].best.alone
    assert accuracy(steps[-1].found.labels, truth) >= 0.95
    assert steps[-1].found.agreement is None, "how far restarts agree says nothing about other labels"
    assert any("asked alone" in note for note in steps[-1].notes)
    assert steps[-1].stop is not None
    assert steps[-1].done == steps[-1].total
    assert sum(step.asked for step in steps) == scorer.asked


async def test_the_labels_of_examples_asked_alone_are_the_same_however_many_restarts_run_side_by_side():
    truth, found = truth_of(40, 40), []
    for parallel in (1, 2, 3):
        scorer = Distracted(truth, signal=6.0, meaning=20.0)
        steps = await run(Problem.build(2, [None] * 80), scorer, SweepSettings(parallel=parallel, pool=40))
        found.append(steps[-1].found.labels)
    assert found[0] == found[1] == found[2]


class Hushed(Distracted):
    """Says nothing about some examples that are asked alone."""

    hushed = frozenset(range(0, 80, 7))

    async def score_chains(self, chains: Sequence[Chain]) -> Sequence[Sequence[LabelScore | None]]:  # type: ignore[override]
        told = await super().score_chains(chains)
        silent = [len(chain.examples) == 1 and chain.examples[0][0] in self.hushed for chain in chains]
        return [[None] if mute else scores for mute, scores in zip(silent, told, strict=True)]


async def test_an_example_of_the_rest_that_is_silent_alone_gets_no_label_and_stops_nobody():
    truth = truth_of(40, 40)
    steps = await run(Problem.build(2, [None] * 80), Hushed(truth, signal=6.0, meaning=20.0), SweepSettings(pool=40))
    assert steps[-1].best.alone
    rest = set(range(80)) - {i for i, label in enumerate(steps[-2].labels) if label is not None}
    unlabelled = {i for i, label in enumerate(steps[-1].labels) if label is None}
    assert rest & Hushed.hushed
    assert unlabelled == Hushed.hushed


class Deceptive(Distracted):
    """Clear about the first examples that are asked alone, and about no other."""

    clear = 32

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        before = sum(len(chain.examples) == 1 for chain in self.chains)
        told = await super().score_chains(chains)
        return told if before < self.clear else [[self._even(score) for score in scores] for scores in told]

    def _even(self, score: LabelScore) -> LabelScore:
        return replace(score, logprobs_nats=(-math.log(2), -math.log(2)))

    def _guess(self, score: LabelScore) -> LabelScore:
        return score


async def test_asking_alone_is_not_said_to_be_kept_where_the_labels_of_a_restart_are():
    scorer = Deceptive(truth_of(100, 100), signal=2.0, meaning=50.0)
    steps = await run(Problem.build(2, [None] * 200), scorer, SweepSettings())
    for step in steps:
        assert step.best.alone == any("asked alone" in note for note in step.notes)


async def test_a_search_that_goes_on_has_not_settled():
    steps = await run(Problem.build(2, [None] * 48), learner(truth_of(24, 24)), SweepSettings())
    assert [step.found.settled for step in steps] == [False] * (len(steps) - 1) + [steps[-1].best.settled]
    assert steps[-1].found.settled


async def test_where_a_pass_is_one_request_it_is_only_said_that_asking_alone_would_tell_more():
    scorer = Distracted(truth_of(40, 40), signal=6.0, meaning=20.0)
    steps = await run(Problem.build(2, [None] * 80), scorer, SweepSettings(may_ask_alone=False))
    assert all(step.stage != "alone" for step in steps)
    alone = steps[-1].found.alone
    assert alone is not None
    assert (alone.told or 0.0) > ALONE_TELLS, "which the diagnosis makes a sign of"


async def test_nobody_is_asked_alone_again_where_demonstrations_help():
    steps = await run(Problem.build(2, [None] * 48), learner(truth_of(24, 24)), SweepSettings())
    assert all(step.stage != "alone" and not step.best.alone for step in steps)


class Breaking(Learner):
    """A learner whose host fails after some passes."""

    asks_left = 6

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        if not self.asks_left:
            raise TransientError("the host is gone")
        self.asks_left -= 1
        return await super().score_chains(chains)


async def test_what_was_found_before_the_scorer_failed_can_be_used():
    truth = truth_of(24, 24)
    problem = Problem.build(2, [None] * 48)
    chains = ChainBuilder(problem.siblings, [1] * 48, ChainPolicy())
    steps: list[SweepStep] = []

    async def collect() -> None:
        async for step in sweep(problem, Breaking(truth, meaning=2.0), chains, SweepSettings()):
            steps.append(step)

    with pytest.raises(TransientError):
        await collect()
    assert len(steps) == Breaking.asks_left - 1, "the anchors are asked in two halves"
    assert steps[-1].stop is None
    assert accuracy(steps[-1].found.labels, truth) >= 0.8


async def test_long_data_is_searched_in_several_chains_a_pass():
    truth = truth_of(40, 40)
    scorer = learner(truth)
    steps = await run(
        Problem.build(2, [None] * 80), scorer, SweepSettings(restarts=1), policy=ChainPolicy(max_tokens=300)
    )
    assert max(len(chain.examples) for chain in scorer.chains) <= 30
    assert accuracy(steps[-1].found.labels, truth) >= 0.9


async def test_each_step_says_where_it_stands_and_has_a_record():
    step = (await run(Problem.build(2, [None] * 12), learner(truth_of(6, 6)), SweepSettings(restarts=1)))[-1]
    assert "restart 1" in step.status
    record = step.record([str(i) for i in range(12)])
    assert (record["restart"], record["stage"]) == (1, "restart")
    assert record["shares"] == list(step.restart.shares)


class Guessing(Learner):
    """Answers that have nothing to do with the texts."""

    def __init__(self, truth: Sequence[int], *, spread: float = 0.3) -> None:
        super().__init__(truth)
        self.spread, self.draws = spread, np.random.default_rng(0)

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        return [[self._guess() for _ in chain.scored] for chain in chains]

    def _guess(self) -> LabelScore:
        odds = self.spread * float(self.draws.standard_normal())
        total = math.log(1 + math.exp(odds))
        return LabelScore((-total, odds - total), 0.9, (False, False))


async def test_labels_that_the_texts_tell_nothing_about_are_told_by_information_and_agreement():
    guessed = (await run(Problem.build(2, [None] * 48), Guessing(truth_of(24, 24)), SweepSettings()))[-1]
    assert guessed.best.rank < 0.15
    assert (guessed.found.agreement or 0.0) < POOR_AGREEMENT
    silent = (await run(Problem.build(2, [None] * 48), Guessing(truth_of(24, 24), spread=0.0), SweepSettings()))[-1]
    assert silent.best.rank < LITTLE_INFORMATION
    learned = (await run(Problem.build(2, [None] * 48), learner(truth_of(24, 24)), SweepSettings()))[-1]
    assert (learned.found.agreement or 0.0) > POOR_AGREEMENT
    assert learned.best.rank > LITTLE_INFORMATION


async def test_what_the_model_says_alone_is_kept_as_it_came_for_the_examples_that_were_asked_so():
    truth = truth_of(100, 100)
    steps = await run(Problem.build(2, [None] * 200), learner(truth, bias=-9.0), SweepSettings(restarts=1))
    alone = steps[-1].found.alone
    assert alone is not None
    heard = [label for label in alone.favourites if label is not None]
    assert (len(heard), set(heard)) == (32, {0}), "a pull towards one label is not taken out"


async def test_the_words_own_meaning_is_what_random_demonstrations_gave():
    steps = await run(Problem.build(2, [None] * 48), learner(truth_of(24, 24)), SweepSettings(restarts=1))
    warmed = [step for step in steps if step.stage == "warm-up"][-1]
    assert steps[-1].found.own_meaning == warmed.labels


class Mute(Learner):
    """Says nothing about the labels until it has seen eight of them."""

    async def score_chains(self, chains: Sequence[Chain]) -> Sequence[Sequence[LabelScore | None]]:  # type: ignore[override]
        heard = await super().score_chains(chains)
        return [[score if k >= 8 else None for k, score in enumerate(scores)] for scores in heard]


async def test_places_without_a_score_do_not_stop_it_and_no_label_comes_from_one():
    truth = truth_of(24, 24)
    for step in await run(Problem.build(2, [None] * 48), Mute(truth, meaning=2.0), SweepSettings()):
        known = step.restart.average.known
        assert [label is not None for label in step.labels] == known.tolist()
    assert accuracy(step.found.labels, truth) >= 0.9


async def test_given_shares_of_a_rare_label_do_not_drive_it_out():
    truth = truth_of(58, 6)
    for seed in range(3):
        scorer = learner(truth, bias=0.0, seed=seed)
        steps = await run(Problem.build(2, [None] * 64), scorer, SweepSettings(shares=(0.9, 0.1)), seed=seed)
        assert 3 <= sum(label == 1 for label in steps[-1].found.labels) <= 10
        assert accuracy(steps[-1].found.labels, truth) >= 0.93


class Pulled(Learner):
    """A host that leans to the first label in single questions, as a fixed context may make it."""

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        scores = await super().score(queries)
        leaning = [np.add(score.logprobs_nats, (2.0, 0.0)) for score in scores]
        return [LabelScore(tuple((row - np.logaddexp.reduce(row)).tolist()), 0.9, (False, False)) for row in leaning]


async def test_the_pull_of_the_context_of_the_rest_moves_no_label_of_the_pool_and_is_taken_out_of_the_rest():
    truth = truth_of(150, 150)
    steps = await run(Problem.build(2, [None] * 300), Pulled(truth, meaning=2.0), SweepSettings(pool=64))
    before = next(step for step in reversed(steps) if step.stage == "restart").best.labels
    after = steps[-1].found.labels
    pool = [i for i, label in enumerate(before.tolist()) if label >= 0]
    assert [after[i] for i in pool] == before[pool].tolist()
    assert accuracy(after, truth) >= 0.9


async def test_answers_about_the_rest_are_kept_as_they_come():
    class Limited(Learner):
        async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
            if len(self.queries) >= 128:
                raise TransientError("the host is gone")
            return await super().score(queries)

    truth = truth_of(150, 150)
    problem = Problem.build(2, [None] * 300)
    chains = ChainBuilder(problem.siblings, [1] * 300, ChainPolicy())
    steps: list[SweepStep] = []

    async def collect() -> None:
        async for step in sweep(problem, Limited(truth, meaning=2.0), chains, SweepSettings(pool=64)):
            steps.append(step)

    with pytest.raises(TransientError):
        await collect()
    assert sum(label is not None for label in steps[-1].found.labels) == 64 + 128


async def test_too_few_examples_to_estimate_shares_are_said_to_be_so():
    steps = await run(Problem.build(2, [None] * 10), learner(truth_of(8, 2)), SweepSettings())
    assert "too few to tell how often" in steps[-1].notes[0]


async def test_an_example_without_a_score_shows_its_label_to_nobody_who_has_one():
    scorer = Mute(truth_of(24, 24), meaning=2.0)
    steps = await run(Problem.build(2, [None] * 48), scorer, SweepSettings(restarts=1))
    for step, chain in zip(steps[1:], scorer.chains[2:], strict=False):
        known = step.restart.average.known
        places = [known[i] for i, _ in chain.examples]
        assert places == sorted(places, reverse=True)


async def test_a_model_that_is_silent_without_demonstrations_begins_with_random_labels_turned_round():
    scorer = Mute(truth_of(24, 24), meaning=2.0)
    steps = await run(Problem.build(2, [None] * 48), scorer, SweepSettings(restarts=1))
    assert [step.stage for step in steps[:3]] == ["warm-up", "warm-up", "restart"]
    first, second = (dict(chain.examples) for chain in scorer.chains[-len(steps) :][:2])
    assert all(first[i] != second[i] for i in first)
    assert all(step.done <= step.total for step in steps)


async def test_examples_that_are_all_siblings_are_said_to_be_asked_alone():
    steps = await run(Problem.build(2, ["one"] * 20), learner(truth_of(10, 10)), SweepSettings(restarts=1))
    assert "20 of 20 examples were asked without demonstrations" in steps[-1].notes[0]
