"""Counted answers: the order in which labels are offered, smoothed shares, what they can and cannot show."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from icm_api.core.votes import largest_log_odds, offered_order, sign_test, smoothed, stated, wilson_interval


@pytest.mark.parametrize("n_labels", [2, 3, 5])
def test_every_label_stands_once_in_every_place_over_as_many_draws_as_there_are_labels(n_labels):
    for start in (0, n_labels, 7 * n_labels):
        orders = [offered_order(n_labels, draw, "a text") for draw in range(start, start + n_labels)]
        for place in zip(*orders, strict=True):
            assert sorted(place) == list(range(n_labels))


def test_an_odd_number_of_draws_favours_no_label_over_a_dataset():
    first = Counter(offered_order(2, 0, f"text {i}")[0] for i in range(400))
    assert first[0] == pytest.approx(200, abs=40)


def test_the_same_draw_of_the_same_text_has_the_same_order():
    assert [offered_order(4, draw, "é\ud800") for draw in range(9)] == [
        offered_order(4, draw, "é\ud800") for draw in range(9)
    ]


def test_shares_are_smoothed_by_jeffreys_prior_and_sum_to_1():
    assert smoothed([8, 0]) == pytest.approx((8.5 / 9, 0.5 / 9))
    assert smoothed([1, 2, 0]) == pytest.approx((1.5 / 4.5, 2.5 / 4.5, 0.5 / 4.5))
    assert math.fsum(smoothed([3, 4, 0, 1])) == pytest.approx(1)


@pytest.mark.parametrize("k", [1, 8, 32])
def test_no_votes_show_larger_log_odds_than_a_unanimous_vote(k):
    sure, never = smoothed([k, 0])
    assert math.log(sure / never) == pytest.approx(largest_log_odds(k))
    assert largest_log_odds(8) == pytest.approx(2.83, abs=0.01)


def test_the_wilson_interval_is_the_textbook_one():
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(0, 8)[0] == 0.0
    assert wilson_interval(8, 8)[0] == pytest.approx(0.676, abs=5e-4)


def test_a_share_stated_as_0_becomes_a_bound_and_the_rest_stays_in_proportion():
    shares, bounded = stated((0.75, 0.25, 0.0))
    assert bounded == (False, False, True)
    assert shares[2] == pytest.approx(0.005 / 1.005)
    assert shares[0] / shares[1] == pytest.approx(3)
    assert math.fsum(shares) == pytest.approx(1)


def test_a_bound_is_no_larger_than_the_smallest_share_that_is_stated():
    shares, _ = stated((0.999, 0.001, 0.0))
    assert shares[2] == shares[1]


def test_the_sign_test_counts_coins():
    assert sign_test(0, 0) == 1.0
    assert sign_test(5, 5) == 1.0
    assert sign_test(10, 0) == sign_test(0, 10) == pytest.approx(2 / 1024)
    assert sign_test(6, 1) == pytest.approx(2 * 8 / 128)
    assert sign_test(3000, 2000) < 1e-40
