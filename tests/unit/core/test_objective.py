"""The utility U = alpha x predictability - violations."""

from __future__ import annotations

import math

import pytest

from icm_api.core.diagnose import collapsed, label_shares
from icm_api.core.objective import utility
from icm_api.types import LabelScore, Relation


def score(p: float) -> LabelScore:
    return LabelScore((math.log(1 - p), math.log(p)), 1.0, (False, False))


def test_the_mean_does_not_change_when_the_data_double():
    once = utility([1, 0], [score(0.9), score(0.2)], [], alpha=50)
    twice = utility([1, 0] * 2, [score(0.9), score(0.2)] * 2, [], alpha=50)
    assert once.value == pytest.approx(twice.value) == pytest.approx(25 * (math.log(0.9) + math.log(0.8)))


def test_the_papers_sum_adds_up_over_examples():
    value = utility([1, 1], [score(0.5), score(0.5)], [], alpha=2, objective="paper-sum")
    assert value.value == pytest.approx(4 * math.log(0.5))
    assert value.predictability_nats == pytest.approx(math.log(0.5)), "the mean is reported whatever is maximised"


def test_a_broken_hard_relation_costs_one_and_a_soft_one_its_price_in_nats():
    hard, soft = Relation("at_most_one", (0, 1)), Relation("at_most_one", (0, 1), price=0.5)
    assert utility([1], [score(0.5)], [hard] * 3, alpha=1).value == pytest.approx(math.log(0.5) - 3)
    priced = utility([1, 1], [score(0.5)] * 2, [soft], alpha=10)
    assert priced.value == pytest.approx(10 * (math.log(0.5) - 0.5 / 2))
    assert priced.violations == 0


def test_an_example_without_a_label_counts_for_nothing():
    assert utility([1, None], [score(0.5), score(0.01)], [], alpha=1).predictability_nats == pytest.approx(
        math.log(0.5)
    )


def test_one_label_for_nearly_all_is_a_collapse():
    assert collapsed([1] * 39 + [0], 2)
    assert not collapsed([1] * 30 + [0] * 10, 2)
    assert not collapsed([1, None, None], 2), "one labelled example cannot collapse"
    assert label_shares([0, 1, 1, None], 2) == (1 / 3, 2 / 3)
