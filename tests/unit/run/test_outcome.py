"""What a run reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest

from icm_api.client.meter import NOTHING
from icm_api.config import RunConfig, load_config
from icm_api.core.diagnose import SignName
from icm_api.core.problem import Problem
from icm_api.core.step import Alone, Labelling
from icm_api.run.job import prepare
from icm_api.run.outcome import Finding, Summary, accuracy, calibration_error, final_finding, summarise
from icm_api.types import LabelScore, Relation

CONFIG = load_config(RunConfig, {"data": "d", "task": "claims"}, {})


def score(p: float) -> LabelScore:
    return LabelScore((math.log(1 - p), math.log(p)), 1.0, (False, False))


def ended(*labelled: tuple[int | None, float], rules: tuple[Relation, ...] = ()) -> Finding:
    problem = Problem.build(2, [None] * len(labelled), rules)
    found = Labelling.of(problem, [label for label, _ in labelled], [score(p) for _, p in labelled])
    return final_finding(problem, found, CONFIG)


def summary(
    rows: Sequence[dict[str, Any]], found_labels: Sequence[int], *, alone: Alone | None = None, **settings: Any
) -> Summary:
    """Of a run that found these labels."""
    config = load_config(RunConfig, {"data": "<rows>", **settings}, {})
    job = prepare(config, rows)
    found = Labelling.of(job.problem, found_labels, [score(0.9 if label else 0.1) for label in found_labels])
    found = replace(found, alone=alone)
    words = dict.fromkeys(("run_id", "out", "provider", "model", "planned_kind", "stop_reason"), "x")
    counts = dict.fromkeys(
        ("requests_saved", "planned_requests", "planned_prompt_tokens", "wall_s", "bounded_scores", "capped_contexts"),
        0,
    )
    prices = dict.fromkeys(("price_source", "planned_cost_usd", "cost_usd"))
    return summarise(job, final_finding(job.problem, found, config), NOTHING, about=words | counts | prices)


def comparisons() -> tuple[list[dict[str, Any]], list[int]]:
    """Answers of many lengths to one question, in both orders, and whether the first is the longer one."""
    sizes = [(5 + 7 * i % 31, 5 + 11 * i % 37) for i in range(1, 25)]
    sizes = [pair for a, b in sizes if a != b for pair in ((a, b), (b, a))]
    rows = [
        {"id": str(i), "prompt": f"Which of {i // 2}?", "response_a": "so " * a, "response_b": "so " * b}
        for i, (a, b) in enumerate(sizes)
    ]
    return rows, [int(a > b) for a, b in sizes]


def test_a_comparison_that_the_longer_answer_always_wins_is_doubtful():
    rows, labels = comparisons()
    found = summary(rows, labels, task="preference")
    assert [sign["name"] for sign in found.signs] == ["surface"]
    assert "between 'response_a' and 'response_b' alone tells 100%" in found.signs[0]["evidence"]
    assert found.signs[0]["evidence"] in found.warnings


@pytest.mark.parametrize(("text", "place"), [("not it is here", "first"), ("it is here not", "last")])
def test_how_an_example_itself_begins_and_ends_is_measured_not_how_its_prompt_does(text, place):
    found_labels = [i % 7 % 2 for i in range(60)]
    rows = [{"id": str(i), "text": text if label else "it is not here"} for i, label in enumerate(found_labels)]
    (sign,) = summary(rows, found_labels, task="classify", labels=["no", "yes"]).signs
    assert sign["evidence"].startswith(f"the {place} word ")


def test_a_summary_lists_every_check_also_those_that_were_not_measured():
    rows, labels = comparisons()
    found = summary(rows, labels, task="preference", method="zero-shot").as_json()["checks"]
    assert [check["name"] for check in found] == list(get_args(SignName))
    assert all(set(check) == {"name", "level", "figure"} for check in found)
    levels = {check["name"]: check["level"] for check in found}
    unmeasured = {name for name, level in levels.items() if level == "not measured"}
    assert unmeasured == {"spoilt", "instability", "polarity", "shares", "gain"}


@pytest.mark.parametrize(("changed", "said"), [(0, True), (3, False)])
def test_a_search_that_changed_hardly_a_label_says_that_asking_alone_would_do(changed, said):
    labels = [i * 7 % 5 % 2 for i in range(40)]
    alone = Alone(tuple(1 - label if i < changed else label for i, label in enumerate(labels)))
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(40)]
    found = summary(rows, labels, alone=alone, task="classify", labels=["no", "yes"])
    assert found.changed_from_alone == changed / 40
    assert any("zero-shot would do about as well" in warning for warning in found.warnings) == said
    assert not any(sign["name"] == "gain" for sign in found.signs)


def test_a_few_dozen_examples_asked_alone_are_too_few_to_say_that_asking_alone_would_do():
    labels = [i * 7 % 5 % 2 for i in range(40)]
    alone = Alone(tuple(label if i < 32 else None for i, label in enumerate(labels)))
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(40)]
    found = summary(rows, labels, alone=alone, task="classify", labels=["no", "yes"])
    assert found.changed_from_alone == 0.0
    assert not any("about as well" in warning for warning in found.warnings)


def test_one_label_for_all_is_not_recommended_to_be_had_cheaper():
    rows = [{"id": str(i), "text": f"text {i}"} for i in range(40)]
    found = summary(rows, [1] * 40, alone=Alone((1,) * 40), task="classify", labels=["no", "yes"])
    assert (found.changed_from_alone, found.verdict) == (0.0, "failed")
    assert not any("about as well" in warning for warning in found.warnings)


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
