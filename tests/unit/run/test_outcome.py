"""What a run reports."""

from __future__ import annotations

import math

import pytest

from icm_api.core.anneal import Best, SearchState
from icm_api.core.objective import Utility
from icm_api.core.problem import Problem
from icm_api.run.outcome import accuracy, final_labelling, wilson_interval
from icm_api.types import LabelScore, Relation


def score(p: float) -> LabelScore:
    return LabelScore((math.log(1 - p), math.log(p)), 1.0, (False, False))


def state(*labelled: tuple[int | None, float], best: Best | None = None) -> SearchState:
    labels = tuple(label for label, _ in labelled)
    scores = tuple(score(p) for _, p in labelled)
    return SearchState(9, labels, scores, (None,) * len(labels), frozenset(), {}, best)


def test_a_label_that_a_rule_changed_names_the_rule():
    rule = Relation("at_most_one", (0, 1), source="rules:1")
    found = final_labelling(Problem.build(2, [None] * 3, [rule]), state((1, 0.9), (0, 0.8), (0, 0.2)), stable=True)
    assert found.labels == (1, 0, 0)
    assert found.forced == {1: rule}


def test_a_search_that_was_stopped_with_a_broken_rule_ends_consistent():
    rule = Relation("exactly_one", (0, 1))
    found = final_labelling(Problem.build(2, [None] * 2, [rule]), state((1, 0.9), (1, 0.6)), stable=False)
    assert found.labels == (1, 0)


def test_an_unlabelled_example_stays_unlabelled_when_rules_are_repaired():
    rule = Relation("at_most_one", (0, 1, 2))
    found = final_labelling(Problem.build(2, [None] * 3, [rule]), state((1, 0.9), (1, 0.6), (None, 0.99)), stable=False)
    assert found.labels == (1, 0, None)


def test_a_stopped_search_gives_its_best_complete_labelling_and_a_stable_one_its_last():
    best = Best((0, 0), (score(0.1), score(0.1)), Utility(-1.0, -0.02, 0))
    stopped = state((1, 0.6), (0, 0.4), best=best)
    problem = Problem.build(2, [None] * 2)
    assert final_labelling(problem, stopped, stable=False).labels == (0, 0)
    assert final_labelling(problem, stopped, stable=True).labels == (1, 0)


def test_accuracy_compares_only_examples_with_gold_and_label():
    assert accuracy((0, 1, None, 1), (0, 0, 1, None)) == (1, 2)
    assert accuracy(None, (0, 1)) == (0, 0)


def test_the_wilson_interval_is_the_textbook_one():
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson_interval(10, 10)[1] == 1.0
