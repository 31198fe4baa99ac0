"""Scores of several passes, averaged."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from icm_api.core.context import Chain
from icm_api.core.passes import LEAST_WEIGHT, MADE_AT_ONCE, Average, Pass, read_pass, read_scores
from icm_api.types import LabelScore


def score(p: float, mass: float = 1.0, bounded: bool = False) -> LabelScore:
    return LabelScore((math.log(1 - p), math.log(p)), mass, (bounded, False))


def chain(*examples: int, first: int = 0) -> Chain:
    return Chain(tuple((i, 0) for i in examples), first)


def read(*scores: LabelScore | None) -> Pass:
    return read_scores(range(len(scores)), scores, len(scores), 2)


def one_pass(*chances: float) -> Pass:
    return read(*[score(p) for p in chances])


def chances(average: Average) -> list[float]:
    return [float(p) for p in np.exp(average.logprobs)[:, 1]]


def test_the_weight_rises_from_next_to_nothing_at_the_start_of_a_chain_to_1_at_its_middle():
    read = read_pass([chain(3, 0, 2, 1)], [[score(0.5)] * 4], 4, 2)
    assert read.weights[[3, 0, 2, 1]].tolist() == [LEAST_WEIGHT, 0.5, 1.0, 1.0]


def test_the_overlap_counts_as_context_but_is_not_scored():
    read = read_pass([chain(0, 1, 2, 3, first=1)], [[score(0.9)] * 3], 4, 2)
    assert read.weights.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_each_score_stands_in_the_row_of_its_example():
    read = read_pass([chain(2, 0), chain(1)], [[score(0.7, 0.3), score(0.1)], [score(0.4, bounded=True)]], 3, 2)
    assert np.exp(read.logprobs[:, 1]) == pytest.approx([0.1, 0.4, 0.7])
    assert read.mass.tolist() == [1.0, 1.0, 0.3]
    assert read.bounded.tolist() == [[False, False], [True, False], [False, False]]


def test_log_odds_are_averaged_so_that_opposite_orders_cancel():
    average = Average.empty(1, 2).plus(one_pass(0.9)).plus(one_pass(0.1))
    assert chances(average) == pytest.approx([0.5])


def test_a_decay_lets_later_passes_count_for_more():
    kept = Average.empty(1, 2).plus(one_pass(0.9)).plus(one_pass(0.1), decay=0.5)
    assert kept.weights.tolist() == [1.5]
    log_odds = (0.5 * math.log(9) - math.log(9)) / 1.5
    assert chances(kept) == pytest.approx([1 / (1 + math.exp(-log_odds))])


def test_an_example_that_saw_nothing_hardly_counts():
    early = read_pass([chain(0, 1)], [[score(0.99), score(0.5)]], 2, 2)
    assert chances(Average.empty(2, 2).plus(early).plus(one_pass(0.2, 0.5)))[0] == pytest.approx(0.2, abs=2e-3)


def test_what_was_never_scored_is_even_and_has_no_score():
    average = Average.empty(2, 2).plus(read(score(0.9), None))
    assert chances(average) == pytest.approx([0.9, 0.5])
    assert average.known.tolist() == [True, False]
    assert average.as_scores()[1] is None


def test_scores_sum_to_one_and_carry_mass_and_bounds():
    first = read(score(0.9, 0.2, bounded=True))
    found = Average.empty(1, 2).plus(first).plus(read(score(0.8, 0.4))).as_scores()[0]
    assert found is not None
    assert sum(map(math.exp, found.logprobs_nats)) == pytest.approx(1.0)
    assert found.mass == pytest.approx(0.3)
    assert found.bounded == (True, False)


def test_calibrated_log_probs_take_the_place_of_the_averaged_ones():
    found = Average.empty(1, 2).plus(one_pass(0.9)).as_scores(np.log([[0.75, 0.25]]))[0]
    assert found is not None
    assert found.logprobs_nats == pytest.approx((math.log(0.75), math.log(0.25)))


def test_averaged_scores_keep_their_kind_and_kinds_are_never_mixed():
    voted = replace(score(0.8), kind="sampled")
    average = Average.empty(1, 2).plus(read(None)).plus(read(voted)).plus(read(None))
    assert [each.kind for each in average.as_scores() if each] == ["sampled"]
    with pytest.raises(ValueError, match="several kinds"):
        average.plus(one_pass(0.5))
    with pytest.raises(ValueError, match="several kinds"):
        read_pass([chain(0, 1)], [[score(0.5), voted]], 2, 2)


def test_scores_read_one_by_one_are_those_read_together():
    n = MADE_AT_ONCE + 2
    scores = (
        Average.empty(n, 2).plus(read(*[score((i + 1) / (n + 1)) if i % 3 else None for i in range(n)])).as_scores()
    )
    together = list(scores)
    assert len(scores) == len(together) == n
    assert together == [scores[i] for i in range(n)] == scores[:]
    assert scores[-1] == together[n - 1]
    assert together[0] is None
    with pytest.raises(IndexError):
        scores[n]
