"""What a few answers of a person tell about a labelling."""

import itertools

import numpy as np
import pytest

from icm_api.core.audit import audit, choose, strata_of


def population(n=400, *, overconfident=0.0, seed=0):
    """(labels, confidences, truth): labels as right as their confidences say, or less."""
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.5, 1.0, n)
    right = rng.random(n) < confidences - overconfident
    labels = rng.integers(0, 2, n)
    truth = np.where(right, labels, 1 - labels)
    return labels.tolist(), confidences.tolist(), truth.tolist()


def answered(asked, truth):
    return {i: truth[i] for i in asked}


def test_strata_are_of_about_the_same_size_and_ordered_by_confidence():
    _, confidences, _ = population(100)
    strata = strata_of(confidences)
    assert [len(part) for part in strata] == pytest.approx([20] * 5, abs=1)
    assert sorted(i for part in strata for i in part) == list(range(100))
    for low, high in itertools.pairwise(strata):
        assert max(confidences[i] for i in low) < min(confidences[i] for i in high)


def test_equal_confidences_stay_together():
    strata = strata_of([1.0] * 50 + [0.6] * 50 + [None] * 5)
    assert [sorted(part) for part in strata] == [list(range(50, 100)), list(range(50))]


def test_an_example_without_a_label_is_never_asked_about():
    assert set(choose([0.9, None, 0.8, None], 10, seed=0)) == {0, 2}
    assert choose([None, None], 3, seed=0) == []


def test_doubtful_examples_are_asked_about_more_often():
    _, confidences, _ = population(400)
    asked = choose(confidences, 60, seed=0)
    assert len(asked) == len(set(asked)) == 60
    per_stratum = [sum(i in part for i in asked) for part in strata_of(confidences)]
    assert per_stratum == sorted(per_stratum, reverse=True)
    assert min(per_stratum) >= 2
    assert choose(confidences, 60, seed=0) == asked


def test_who_stops_early_has_answered_a_mixed_sample():
    _, confidences, _ = population(400)
    first = choose(confidences, 60, seed=0)[:20]
    assert all(any(i in part for i in first) for part in strata_of(confidences))


def test_the_accuracy_is_unbiased_though_doubtful_ones_are_asked_more():
    labels, confidences, truth = population(400, overconfident=0.1)
    true = np.mean(np.array(labels) == truth)
    found, plain = [], []
    for seed in range(300):
        asked = choose(confidences, 30, seed=seed)
        found.append(audit(labels, confidences, answered(asked, truth), n_labels=2).whole.accuracy)
        plain.append(np.mean([labels[i] == truth[i] for i in asked]))
    assert np.mean(found) == pytest.approx(true, abs=0.015)
    assert np.mean(plain) < true - 0.02, "the plain mean would not be"


@pytest.mark.parametrize("overconfident", [0.0, 0.2, -0.15, -0.2])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(overconfident):
    labels, confidences, truth = population(400, overconfident=overconfident)
    true = np.mean(np.array(labels) == truth)
    held = []
    for seed in range(200):
        asked = choose(confidences, 30, seed=seed)
        whole = audit(labels, confidences, answered(asked, truth), n_labels=2).whole
        held.append(whole.low <= true <= whole.high)
    assert np.mean(held) > 0.92


def test_a_second_sample_is_of_the_rest_and_evens_out_the_first():
    _, confidences, _ = population(400)
    first = choose(confidences, 30, seed=0)
    second = choose(confidences, 30, seed=0, answered=first)
    assert len(second) == len(set(second) - set(first)) == 30
    assert {*first, *second} == set(choose(confidences, 60, seed=0))
    surest = [part[-15:] for part in strata_of(confidences)][-1]
    more = choose(confidences, 40, seed=0, answered=surest)
    assert not set(more) & set(strata_of(confidences)[-1]), "it has more answers than its share already"
    assert choose(confidences, 30, seed=0, answered=range(390)) != []
    assert choose(confidences, 30, seed=0, answered=range(400)) == []


@pytest.mark.parametrize("same_seed", [True, False])
def test_a_second_sample_leaves_every_example_of_a_stratum_as_likely_as_another(same_seed):
    confidences = [0.6] * 12
    counts = np.zeros((12, 12))
    for seed in range(3000):
        first = choose(confidences, 4, seed=seed)[:3]  # one was skipped
        both = {*first, *choose(confidences, 3, seed=seed if same_seed else seed + 1, answered=first)}
        for pair in itertools.permutations(both, 2):
            counts[pair] += 1
    pairs = counts[~np.eye(12, dtype=bool)] / 3000
    assert pairs.mean() == pytest.approx(6 / 12 * 5 / 11)
    assert np.abs(pairs - pairs.mean()).max() < 4.5 * np.sqrt(0.23 * 0.77 / 3000), "each pair is as likely"


@pytest.mark.parametrize("overconfident", [0.0, 0.1, 0.25])
def test_a_second_sample_leaves_accuracy_and_interval_what_they_say(overconfident):
    labels, confidences, truth = population(400, overconfident=overconfident)
    true = np.mean(np.array(labels) == truth)
    found, held = [], []
    for seed in range(200):
        first = choose(confidences, 20, seed=seed)[:15]
        both = {*first, *choose(confidences, 25, seed=seed, answered=first)}
        whole = audit(labels, confidences, answered(both, truth), n_labels=2).whole
        found.append(whole.accuracy)
        held.append(whole.low <= true <= whole.high)
    assert np.mean(found) == pytest.approx(true, abs=0.015)
    assert np.mean(held) > 0.92


def test_asking_about_everything_leaves_nothing_to_guess():
    labels, confidences, truth = population(40)
    asked = choose(confidences, 40, seed=0)
    whole = audit(labels, confidences, answered(asked, truth), n_labels=2).whole
    assert whole.low == whole.accuracy == whole.high == pytest.approx(np.mean(np.array(labels) == truth))
    assert (whole.labels, whole.answered) == (40, 40)


def test_all_right_answers_leave_doubt():
    labels, confidences, _ = population(400)
    whole = audit(labels, confidences, answered(choose(confidences, 30, seed=0), labels), n_labels=2).whole
    assert whole.accuracy == pytest.approx(1.0)
    assert 0.8 < whole.low < 0.9


def test_the_cut_is_the_lowest_that_reaches_the_aim():
    labels, confidences, truth = population(2000)
    answers = answered(range(2000), truth)
    found = audit(labels, confidences, answers, n_labels=2, aim=0.85)
    assert found.recommended is not None
    kept = [i for i, c in enumerate(confidences) if c >= found.recommended.confidence]
    assert found.recommended.kept.labels == len(kept)
    assert found.recommended.kept.accuracy == pytest.approx(np.mean([labels[i] == truth[i] for i in kept]))
    assert found.recommended.kept.accuracy >= 0.85
    below = found.cuts[found.cuts.index(found.recommended) - 1]
    assert below.kept.accuracy < 0.85
    assert audit(labels, confidences, answers, n_labels=2, aim=0.99).recommended is None


def test_labels_that_are_the_wrong_way_round_are_told():
    labels, confidences, truth = population(400)
    asked = choose(confidences, 30, seed=0)
    turned = [1 - label for label in labels]
    assert audit(labels, confidences, answered(asked, labels), n_labels=2).polarity == "right"
    assert audit(turned, confidences, answered(asked, labels), n_labels=2).polarity == "turned round"
    assert audit(labels, confidences, answered(asked[:3], truth), n_labels=2).polarity == "unclear"
    assert audit(labels, confidences, answered(asked, labels), n_labels=3).polarity is None


def test_a_stratum_without_answers_is_judged_by_the_next():
    labels, confidences, truth = population(100)
    surest = strata_of(confidences)[-1]
    whole = audit(labels, confidences, answered(surest, truth), n_labels=2).whole
    assert whole.labels == 100
    assert whole.accuracy == pytest.approx(np.mean([labels[i] == truth[i] for i in surest]))


def test_no_answer_is_an_error():
    with pytest.raises(ValueError, match="no labelled example has an answer"):
        audit([0, 1], [0.9, 0.8], {}, n_labels=2)
