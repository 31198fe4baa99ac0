"""Signs, without gold, that a labelling is wrong."""

import math
from typing import get_args

import numpy as np
import pytest

from icm_api.core.diagnose import (
    NOT_ALONE,
    Evidence,
    SignName,
    against_gold,
    changed_from_alone,
    collapsed,
    diagnose,
    information_share,
    label_shares,
    times_told,
)
from icm_api.core.step import Alone
from icm_api.types import Example, LabelScore

NAMES = ("no", "yes")


def score(p=0.9, mass=0.8, kind="logprob"):
    return LabelScore((math.log(1 - p), math.log(p)), mass, (False, False), kind)


def single(texts):
    return [Example(str(i), {"text": text}) for i, text in enumerate(texts)]


def evidence(**changes):
    n = 60
    labels = np.random.default_rng(0).permutation([0, 1] * (n // 2)).tolist()
    words = np.random.default_rng(1)
    sound = {
        "labels": labels,
        "label_names": NAMES,
        "examples": single(" ".join(words.choice(["red", "blue", "green", "grey", "pink"], size=5)) for _ in range(n)),
        "scores": [score()] * n,
        "information_nats": 0.4,
        "agreement": 0.95,
        "own_meaning": labels,
        "alone": Alone((*(1 - label for label in labels[:6]), *labels[6:]), told=0.5),
    }
    return Evidence(**(sound | changes))


def names(diagnosis):
    return [sign.name for sign in diagnosis.signs]


def check(name, diagnosis):
    """(level, figure)"""
    ((level, figure),) = [(check.level, check.figure) for check in diagnosis.checks if check.name == name]
    return level, figure


def test_a_labelling_without_signs_is_healthy():
    assert diagnose(evidence()).verdict == "healthy"


def test_one_label_for_all_has_failed_and_nothing_else_is_said():
    found = diagnose(evidence(labels=[1] * 60, information_nats=0.0, agreement=0.1))
    assert (found.verdict, names(found)) == ("failed", ["collapse"])
    assert "100% of the examples are 'yes'" in found.signs[0].evidence


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"information_nats": 0.03}, "doubtful"),
        ({"information_nats": 0.03, "agreement": 0.5}, "failed"),
        ({"information_nats": -0.01}, "failed"),
        ({"information_nats": None, "agreement": None}, "healthy"),
    ],
)
def test_texts_that_tell_nothing_about_the_labels_mean_no_concept(changes, verdict):
    found = diagnose(evidence(**changes))
    assert found.verdict == verdict
    assert ("no concept" in names(found)) == (verdict != "healthy")


def test_restarts_that_disagree_are_a_sign():
    assert names(diagnose(evidence(agreement=0.6))) == ["instability"]


def test_labels_against_the_words_own_meaning_look_turned_round():
    sound = evidence()
    turned = diagnose(evidence(own_meaning=[1 - label for label in sound.labels]))
    assert names(turned) == ["polarity"]
    assert "support only 0%" in turned.signs[0].evidence


def test_labels_that_the_model_tells_far_better_without_demonstrations_are_a_sign():
    found = diagnose(evidence(alone=Alone((0,) * 60, told=2.5)))
    assert (found.verdict, names(found)) == ("doubtful", ["spoilt"])
    assert "2.5 times as much" in found.signs[0].evidence
    assert "--method zero-shot" in found.signs[0].evidence
    assert times_told(0.5, 0.2) == pytest.approx(2.5)
    assert times_told(0.5, -0.2) == pytest.approx(50), "as much as nothing would say nothing"
    assert times_told(0.05, 0.01) is None, "next to nothing is no more than next to nothing"


def test_one_of_several_labels_that_nobody_got_is_a_sign_unless_chance_may_have_left_it_out():
    three = {"label_names": ("sport", "food", "science"), "own_meaning": None}
    found = diagnose(evidence(**three))
    assert names(found) == ["collapse"]
    assert "none of the examples is 'science'" in found.signs[0].evidence
    few = [0, 1] * 6 + [None] * 48
    assert diagnose(evidence(labels=few, **three)).verdict == "healthy"


def test_labels_that_the_model_gives_by_itself_are_healthy_and_the_gain_says_so():
    sound = evidence()
    found = diagnose(evidence(alone=Alone(tuple(sound.labels))))
    assert found.verdict == "healthy"
    assert check("gain", found)[1].startswith("0% of 60 labels differ")
    assert changed_from_alone([0] * 20, [0] * 8 + [1] * 2 + [None] * 10) == (0.2, 10)


def test_a_handful_of_examples_is_too_few_to_look_turned_round():
    sound = evidence()
    own = [1 - label if i < 7 else None for i, label in enumerate(sound.labels)]
    assert diagnose(evidence(own_meaning=own)).verdict == "healthy"


def test_a_surface_feature_that_tells_the_labels_is_named():
    sound = evidence()
    texts = [each.fields["text"] for each in sound.examples]
    texts = [f"{text} not" if label else text for text, label in zip(texts, sound.labels, strict=True)]
    found = diagnose(evidence(examples=single(texts)))
    assert names(found) == ["surface"]
    assert "'not'" in found.signs[0].evidence


def test_labels_that_hold_little_probability_are_a_sign_where_probabilities_were_read():
    assert names(diagnose(evidence(scores=[score(mass=0.01)] * 60))) == ["thin mass"]
    assert names(diagnose(evidence(scores=[score(mass=0.01, kind="sampled")] * 60))) == []


def test_examples_without_label_or_score_are_passed_over():
    sound = evidence()
    labels = [None if i < 10 else label for i, label in enumerate(sound.labels)]
    assert diagnose(evidence(labels=labels, scores=[None] * 10 + [score()] * 50)).verdict == "healthy"


def test_shares_and_collapse_count_labelled_examples_only():
    assert label_shares([0, 0, 1, None], 2) == (2 / 3, 1 / 3)
    assert label_shares([None], 2) == (0.0, 0.0)
    assert collapsed([1] * 19 + [0], 2)
    assert not collapsed([1] * 18 + [0] * 2, 2)
    assert not collapsed([1, 1], 2)  # too few to tell


def test_information_share_is_zero_for_one_label_whatever_its_shares():
    assert information_share(0.0, (1.0, 0.0)) == 0.0
    assert information_share(0.3, (0.5, 0.5)) == pytest.approx(0.3 / (math.log(2) + 0.1))


def test_a_run_that_was_stopped_before_its_labels_settled_is_doubtful_at_best():
    found = diagnose(evidence(cut_short="max_requests"))
    assert (found.verdict, names(found)) == ("doubtful", ["unfinished"])
    assert "stopped early (max_requests), before its labels had settled" in found.signs[0].evidence
    assert names(diagnose(evidence(labels=[1] * 60, cut_short="interrupted"))) == ["collapse", "unfinished"]


def test_labels_that_had_settled_by_then_are_as_good_as_at_the_end():
    assert diagnose(evidence(cut_short="max_requests", settled=True)).verdict == "healthy"


def test_labels_that_are_missing_have_not_settled():
    labels = [None, *evidence().labels[1:]]
    found = diagnose(evidence(labels=labels, cut_short="max_requests", settled=True))
    assert names(found) == ["unfinished"]
    assert "1 of 60 examples have no label" in found.signs[0].evidence


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.3, 0.2, 0.4), "gold disagrees with these labels: 30.0% of the labels agree with it (95% interval 20.0% to"),
        ((0.5, 0.4, 0.6), "gold does not bear these labels out: 50.0%"),
        ((0.6, 0.4, 0.8), "gold is too little to tell: 60.0%"),
    ],
)
def test_gold_that_speaks_against_the_labels_is_quoted_with_its_interval_and_with_what_beats_them(interval, said):
    told = against_gold(*interval, rival="'yes' for all", rival_right=0.5)
    assert told is not None
    assert told.startswith(said)
    assert told.endswith("'yes' for all would agree with 50.0%")


def test_gold_that_bears_the_labels_out_is_not_quoted():
    assert against_gold(0.9, 0.8, 0.95, rival="'yes' for all", rival_right=0.5) is None


def test_scores_that_fit_any_shares_are_a_sign_and_say_which_share_was_taken():
    told = diagnose(evidence(share_ranges=((0.4, 0.6), (0.4, 0.6))))
    assert told.verdict == "healthy"
    untold = diagnose(evidence(share_ranges=((0.03, 0.97), (0.03, 0.97))))
    assert (untold.verdict, names(untold)) == ("doubtful", ["shares"])
    assert "'yes' as far apart as 3% and 97% would fit, and 50% got it" in untold.signs[0].evidence
    assert "--class-prior" in untold.signs[0].evidence


def test_every_check_is_listed_in_the_same_order_whatever_was_found():
    order = list(get_args(SignName))
    for found in (evidence(), evidence(labels=[1] * 60), evidence(labels=[None] * 60, scores=[None] * 60)):
        assert [check.name for check in diagnose(found).checks] == order


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("collapse", "50% of the labels are 'no', the commonest one (less than 95% is fine)"),
        ("no concept", "the texts tell 50.4% of what there is to tell about the labels (10% or more is fine)"),
        ("instability", "restarts agree on 95% of the labels (75% or more is fine)"),
        ("polarity", "the label words by themselves support 100% of 60 labels (40% or more is fine)"),
        (
            "spoilt",
            "asked about examples alone, the model tells 0.5 times as much about their labels (up to 2 times is fine)",
        ),
        (
            "gain",
            "10% of 60 labels differ from those that the model gives when asked alone: against --method zero-shot, no "
            "more of them can have become right",
        ),
        ("thin mass", "the labels hold 80% of the model's probability, in the median (5% or more is fine)"),
        ("shares", "shares of 'yes' from 40% to 60.5% would fit the scores (less than 50 points apart is fine)"),
        ("unfinished", "nothing stopped the run before its end"),
    ],
)
def test_what_is_fine_says_what_was_measured_and_the_limit(name, figure):
    found = diagnose(evidence(share_ranges=((0.4, 0.6), (0.4, 0.605))))
    assert check(name, found) == ("fine", figure)


def test_the_most_telling_trait_is_named_also_where_it_is_fine():
    level, figure = check("surface", diagnose(evidence()))
    assert level == "fine"
    assert figure.startswith("the most telling trait, ")
    assert figure.endswith("% of these labels (less than 95% is fine)")


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("collapse", {"labels": [None] * 60}, "too few examples have a label"),
        ("no concept", {"information_nats": None}, "no example has both a label and a score"),
        ("instability", {"agreement": None}, "there are no two restarts to compare (method sweep makes them)"),
        (
            "polarity",
            {"own_meaning": None},
            NOT_ALONE,
        ),
        (
            "polarity",
            {"own_meaning": [0] * 3 + [None] * 57},
            "too few labelled examples were asked alone (3; it takes 8)",
        ),
        ("polarity", {"label_names": ("no", "yes", "maybe")}, "more than two labels have no single opposite"),
        (
            "spoilt",
            {"alone": None},
            NOT_ALONE,
        ),
        ("spoilt", {"alone": Alone((1,) * 60)}, "asked alone, the model tells too little to compare"),
        (
            "gain",
            {"alone": None},
            NOT_ALONE,
        ),
        ("gain", {"alone": Alone((1,) * 7 + (None,) * 53)}, "fewer than 8 labelled examples were asked alone"),
        ("surface", {"labels": [0, 1] * 7 + [None] * 46}, "fewer than two labels occur 8 times or more"),
        ("thin mass", {"scores": [score(kind="sampled")] * 60}, "no label was scored by the probabilities of tokens"),
        (
            "shares",
            {"share_ranges": None},
            "shares were known, or not read off the scores (only method sweep reads them)",
        ),
    ],
)
def test_what_was_not_measured_says_why_and_is_neither_fine_nor_a_sign(name, changes, reason):
    found = diagnose(evidence(**changes))
    assert check(name, found) == ("not measured", reason)
    assert name not in names(found)


def test_under_a_collapse_only_the_end_of_the_run_is_judged_besides():
    found = diagnose(evidence(labels=[1] * 60, cut_short="max_requests"))
    levels = {check.name: check.level for check in found.checks}
    assert levels.pop("collapse") == "failed"
    assert levels.pop("unfinished") == "doubtful"
    assert set(levels.values()) == {"not measured"}
    assert check("polarity", found)[1] == "one label for all explains all that the labels show"


def test_a_sign_is_a_check_with_its_level_its_figure_and_evidence():
    found = diagnose(evidence(agreement=0.6))
    assert check("instability", found) == ("doubtful", "restarts agree on 60% of the labels (75% or more is fine)")
    assert [(sign.level, sign.evidence is None) for sign in found.signs] == [("doubtful", False)]


def test_a_figure_below_its_limit_does_not_look_as_if_it_reached_it():
    assert "agree on 74.9% of" in check("instability", diagnose(evidence(agreement=0.7499)))[1]


def test_a_trait_that_tells_one_of_three_labels_names_the_label():
    marks, labels = ("sport", "food", "spam"), [0, 1, 2] * 20
    texts = [
        f"{each.fields['text']} {'buy' if label == 2 else 'the'}"
        for each, label in zip(evidence().examples, labels, strict=True)
    ]
    found = diagnose(evidence(labels=labels, label_names=marks, own_meaning=None, examples=single(texts)))
    assert names(found) == ["surface"]
    assert "tells 100% of 'spam' from the other labels: is 'spam' about that" in found.signs[0].evidence
