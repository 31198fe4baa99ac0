"""Offsets that give label probabilities assumed shares, and the information between labels and texts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.core.calibrate import Floats, calibrated, information, log_softmax, offsets


@st.composite
def clouds(draw: st.DrawFn) -> tuple[Floats, Floats, Floats]:
    """Log-probabilities from flat to saturated, shares down to a millionth, weights."""
    n_labels, n = draw(st.integers(2, 6)), draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    nats = rng.standard_normal((n, n_labels)) * draw(st.sampled_from([0.0, 1.0, 10.0, 100.0]))
    shares = rng.dirichlet(np.full(n_labels, draw(st.sampled_from([0.1, 1.0, 10.0])))) + 1e-6
    return log_softmax(np.clip(nats, -50, 50)), shares / shares.sum(), rng.uniform(1e-3, 1.0, n)


@given(clouds())
def test_the_mean_probability_of_each_label_becomes_its_share(case: tuple[Floats, Floats, Floats]):
    logprobs, shares, weights = case
    found = np.exp(calibrated(logprobs, shares, weights))
    assert weights @ found / weights.sum() == pytest.approx(shares, abs=1e-6)
    assert found.sum(axis=1) == pytest.approx(np.ones(len(logprobs)))


@given(clouds())
def test_offsets_are_finite_and_the_first_is_0(case: tuple[Floats, Floats, Floats]):
    logprobs, shares, _ = case
    found = offsets(logprobs, shares)
    assert np.isfinite(found).all()
    assert found[0] == 0


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.1, 0.9), (0.999, 0.001)])
def test_rows_that_are_all_sure_of_the_same_label_still_get_the_shares(shares: tuple[float, float]):
    sure = log_softmax(np.tile([0.0, -50.0], (8, 1)))
    assert np.exp(calibrated(sure, np.array(shares))).mean(axis=0) == pytest.approx(shares, abs=1e-6)


def test_a_bias_common_to_all_examples_is_taken_out_whole():
    rng = np.random.default_rng(0)
    fair = log_softmax(rng.standard_normal((40, 3)))
    even = np.full(3, 1 / 3)
    biased = log_softmax(fair + np.array([4.0, 0.0, -7.0]))
    assert calibrated(biased, even) == pytest.approx(calibrated(fair, even), abs=1e-5)


def test_rows_count_by_their_weight_and_even_weights_change_nothing():
    logprobs = log_softmax(np.array([[2.0, 0.0], [0.0, 1.0], [0.0, 9.0]]))
    shares = np.array([0.5, 0.5])
    assert offsets(logprobs, shares, np.full(3, 0.2)) == pytest.approx(offsets(logprobs, shares))
    assert offsets(logprobs, shares, np.array([1.0, 1.0, 0.0])) == pytest.approx(offsets(logprobs[:2], shares))


@given(clouds())
def test_information_is_at_most_the_entropy_of_the_labels(case: tuple[Floats, Floats, Floats]):
    logprobs, shares, weights = case
    labels = np.random.default_rng(len(logprobs)).choice(len(shares), size=len(logprobs), p=shares)
    counts = np.bincount(labels, weights=weights, minlength=len(shares)) / weights.sum()
    entropy = -sum(share * math.log(share) for share in counts if share > 0)
    assert information(logprobs, labels, weights) <= entropy + 1e-9


@given(clouds(), st.integers(0, 1))
def test_one_label_for_all_never_has_information_above_0(case: tuple[Floats, Floats, Floats], label: int):
    logprobs, _, weights = case
    assert information(logprobs, [label] * len(logprobs), weights) <= 1e-9


def test_information_is_0_where_every_text_gives_the_same_probabilities():
    same = log_softmax(np.tile([3.0, 0.0], (6, 1)))
    assert information(same, [0, 1, 0, 0, 1, 1]) == pytest.approx(0.0)


def test_labels_that_sure_texts_tell_have_their_whole_entropy_as_information():
    sure = log_softmax(50.0 * np.eye(4)[[0, 1, 2, 3] * 3])
    assert information(sure, [0, 1, 2, 3] * 3) == pytest.approx(math.log(4))


def test_information_is_finite_where_a_label_is_out_of_the_range_of_probabilities():
    never = np.array([[0.0, -800.0], [0.0, -801.0]])
    assert math.isfinite(information(never, [1, 1]))
