"""What a run reports."""

from __future__ import annotations

import math

import pytest

from icm_api.config import RunConfig, load_config
from icm_api.core.problem import Problem
from icm_api.core.step import Labelling
from icm_api.run.outcome import Finding, accuracy, calibration_error, final_finding
from icm_api.types import LabelScore, Relation

CONFIG = load_config(RunConfig, {"data": "d", "task": "claims"}, {})


def score(p: float) -> LabelScore:
    return LabelScore((math.log(1 - p), math.log(p)), 1.0, (False, False))


def ended(*labelled: tuple[int | None, float], rules: tuple[Relation, ...] = ()) -> Finding:
    problem = Problem.build(2, [None] * len(labelled), rules)
    found = Labelling.of(problem, [label for label, _ in labelled], [score(p) for _, p in labelled])
    return final_finding(problem, found, CONFIG)


def test_a_label_that_a_rule_changed_names_the_rule():
    rule = Relation("at_most_one", (0, 1), source="rules:1")
    found = ended((1, 0.9), (0, 0.8), (0, 0.2), rules=(rule,))
    assert found.labelling.labels == (1, 0, 0)
    assert found.forced == {1: rule}


def test_a_hard_rule_is_named_before_a_soft_one():
    soft, hard = Relation("at_most_one", (0, 1), price=0.1), Relation("exactly_one", (0, 1))
    assert ended((1, 0.9), (0, 0.8), rules=(soft, hard)).forced == {1: hard}


def test_a_search_that_was_stopped_with_a_broken_rule_ends_consistent_and_is_measured_anew():
    found = ended((1, 0.9), (1, 0.6), rules=(Relation("exactly_one", (0, 1)),)).labelling
    assert found.labels == (1, 0)
    assert found.utility.violations == 0
    assert found.utility.predictability_nats == pytest.approx((math.log(0.9) + math.log(0.4)) / 2)


def test_an_unlabelled_example_stays_unlabelled_when_rules_are_repaired():
    found = ended((1, 0.9), (1, 0.6), (None, 0.99), rules=(Relation("at_most_one", (0, 1, 2)),))
    assert found.labelling.labels == (1, 0, None)


def test_the_calibration_error_is_the_weighted_gap_between_confidence_and_share_that_is_right():
    confidences = [0.95, 0.95, 0.95, 0.95, 0.65, 0.65]
    right = [True, True, True, False, True, False]
    assert calibration_error(confidences, right) == pytest.approx((4 * abs(0.95 - 0.75) + 2 * abs(0.65 - 0.5)) / 6)


def test_certainty_stands_in_the_last_bin_and_costs_nothing_when_it_is_right():
    assert calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert calibration_error([], []) is None


def test_accuracy_compares_only_examples_with_gold_and_label():
    assert accuracy((0, 1, None, 1), (0, 0, 1, None)) == (1, 2)
    assert accuracy(None, (0, 1)) == (0, 0)
