"""Label shares read off scores."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_api.core.calibrate import Floats, calibrated, log_softmax
from icm_api.core.mixture import COLDEST, cluster_temperature, fit_mixture, share_ranges


def cloud(counts: list[int], *, gap: float = 4.0, seed: int = 0) -> tuple[Floats, list[int]]:
    """Log-probabilities (n, labels) of examples with so many of each label, under a bias; and their labels."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(counts)), counts)
    logits = rng.standard_normal((len(truth), len(counts))) * 0.5
    logits[np.arange(len(truth)), truth] += gap
    return log_softmax(logits + rng.standard_normal(len(counts))), truth.tolist()


def shares_of(logprobs: Floats) -> list[float]:
    return list(map(float, fit_mixture(logprobs, np.ones(len(logprobs))).shares))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "counts", [[50, 50], [75, 25], [25, 75], [90, 10], [10, 90], [40] * 4, [100, 20, 20, 20], [52, 52, 52, 4]]
)
def test_the_shares_of_clear_clusters_are_found(counts: list[int], seed: int):
    logprobs, truth = cloud(counts, seed=seed)
    fit = fit_mixture(logprobs, np.ones(len(truth)))
    assert fit.shares == pytest.approx(np.array(counts) / len(truth), abs=0.04)
    assert np.mean(fit.posteriors.argmax(axis=1) == truth) > 0.97


def test_a_fit_is_made_of_probabilities():
    fit = fit_mixture(cloud([30, 20, 10])[0], np.linspace(0.01, 1.0, 60))
    assert fit.shares.sum() == pytest.approx(1.0)
    assert (fit.shares > 0).all()
    assert fit.posteriors.sum(axis=1) == pytest.approx(np.ones(60))


@pytest.mark.parametrize("counts", [[60, 20], [40, 40], [45, 15, 15, 15]])
def test_a_few_outliers_of_low_weight_change_little(counts: list[int]):
    logprobs, truth = cloud(counts)
    far = log_softmax(60.0 * np.eye(len(counts))[[0, 0, 0, 1]])
    weights = np.array([1.0] * len(truth) + [1e-3] * 4)
    fit = fit_mixture(np.vstack([logprobs, far]), weights)
    assert fit.shares == pytest.approx(np.array(counts) / len(truth), abs=0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n_labels", [2, 6, 10])
def test_one_blob_gives_even_shares(n_labels: int, seed: int):
    blob = log_softmax(np.random.default_rng(seed).standard_normal((40 * n_labels, n_labels)))
    assert shares_of(blob) == pytest.approx([1 / n_labels] * n_labels)


def test_examples_that_are_all_alike_give_even_shares():
    assert shares_of(log_softmax(np.tile([2.0, 0.0, 1.0], (40, 1)))) == pytest.approx([1 / 3] * 3)


def test_the_same_scores_give_the_same_fit():
    logprobs, _ = cloud([70, 30], gap=2.0)
    assert shares_of(logprobs) == shares_of(logprobs)


@pytest.mark.parametrize("counts", [[70, 20], [40, 20, 12]])
def test_renaming_the_labels_renames_the_shares(counts: list[int]):
    logprobs, _ = cloud(counts)
    for names in map(list, permutations(range(len(counts)))):
        assert shares_of(logprobs[:, names]) == pytest.approx(np.array(shares_of(logprobs))[names], abs=1e-3)


def test_a_label_bias_common_to_all_does_not_change_the_shares():
    logprobs, _ = cloud([70, 30])
    biased = log_softmax(logprobs + np.array([0.0, 3.0]))
    assert shares_of(biased) == pytest.approx(shares_of(logprobs), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([0.0, 1.0, 50.0]))
def test_any_cloud_has_a_fit(n_labels: int, seed: int, spread: float):
    rng = np.random.default_rng(seed)
    logprobs = log_softmax(rng.standard_normal((int(rng.integers(2, 40)), n_labels)) * spread)
    fit = fit_mixture(logprobs, rng.uniform(1e-3, 1.0, len(logprobs)))
    assert np.isfinite(fit.posteriors).all()
    assert fit.shares.sum() == pytest.approx(1.0)


def test_a_rare_label_is_found_in_a_faint_cloud_where_a_fit_from_even_shares_stays_even():
    rng = np.random.default_rng(3)
    margins = np.concatenate([rng.normal(0.0, 0.3, 90), rng.normal(2.0, 0.3, 6)])
    logprobs = log_softmax(np.stack([np.zeros(96), margins], axis=1))
    assert shares_of(logprobs)[1] == pytest.approx(6 / 96, abs=0.04)


# --- which shares are possible ----------------------------------------------------------------------------


def ranges_of(logprobs: Floats) -> list[tuple[float, float]]:
    found = share_ranges(logprobs, np.ones(len(logprobs)))
    assert found is not None
    return list(found)


@pytest.mark.parametrize("counts", [[50, 50], [75, 25], [10, 90], [40] * 4])
def test_clear_clusters_leave_a_narrow_range_that_holds_the_true_shares(counts: list[int]):
    logprobs, truth = cloud(counts)
    for (least, most), count in zip(ranges_of(logprobs), counts, strict=True):
        assert least <= count / len(truth) <= most
        assert most - least < 0.35


@pytest.mark.parametrize("seed", range(3))
def test_one_blob_leaves_all_shares_possible(seed: int):
    blob = log_softmax(np.random.default_rng(seed).standard_normal((80, 2)))
    for least, most in ranges_of(blob):
        assert least < 0.1
        assert most > 0.9


@pytest.mark.parametrize("seed", range(6))
def test_the_shares_that_are_read_lie_in_their_range(seed: int):
    logprobs, _ = cloud([64, 16], gap=2.0, seed=seed)
    for share, (least, most) in zip(shares_of(logprobs), ranges_of(logprobs), strict=True):
        assert least <= share <= most


def test_the_ranges_of_two_labels_mirror_each_other():
    (least, most), (other_least, other_most) = ranges_of(cloud([70, 30])[0])
    assert (least, most) == pytest.approx((1 - other_most, 1 - other_least))


def test_shares_of_many_labels_are_not_ranged():
    assert share_ranges(cloud([10] * 6)[0], np.ones(60)) is None


# --- how sure a label is ----------------------------------------------------------------------------------


def test_labels_of_clusters_that_stand_clear_are_surer_than_their_faint_scores():
    logprobs, truth = cloud([50, 50], gap=8.0)
    faint = log_softmax(logprobs / 10)
    weights = np.ones(len(truth))
    centred = calibrated(faint, np.array([0.5, 0.5]))
    temperature = cluster_temperature(faint, centred, weights)
    assert np.exp(centred).max(axis=1).mean() < 0.75
    assert np.exp(log_softmax(centred / temperature)).max(axis=1).mean() > 0.95


def test_one_cloud_makes_no_label_surer():
    logprobs = log_softmax(np.random.default_rng(0).standard_normal((100, 2)))
    centred = calibrated(logprobs, np.array([0.5, 0.5]))
    assert cluster_temperature(logprobs, centred, np.ones(100)) == 1.0


def test_a_temperature_changes_no_likeliest_label_and_is_within_its_bounds():
    for seed in range(5):
        logprobs, truth = cloud([30, 20, 10], gap=3.0, seed=seed)
        temperature = cluster_temperature(logprobs, logprobs, np.ones(len(truth)))
        assert COLDEST <= temperature <= 1.0
        assert ((logprobs / temperature).argmax(axis=1) == logprobs.argmax(axis=1)).all()
