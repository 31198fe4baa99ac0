"""Shares of labels as a user gives them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from icm_api.errors import ConfigError
from icm_api.run.job import label_shares


def test_the_share_that_is_left_out_is_what_the_others_leave():
    assert label_shares({"spam": 0.25}, ("ham", "spam")) == (0.75, 0.25)
    assert label_shares({"c": 0.5, "a": 0.2}, ("a", "b", "c")) == pytest.approx((0.2, 0.3, 0.5))


def test_rounded_shares_are_made_to_sum_to_one():
    assert sum(label_shares({"a": 0.33, "b": 0.33, "c": 0.33}, ("a", "b", "c"))) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"d": 0.5}, "'d' is no label of the task; it has a, b, c"),
        ({"a": 0.5}, "b, c have none"),
        ({"a": 0.5, "b": 0.5}, "leave nothing to 'c'"),
        ({"a": 0.5, "b": 0.5, "c": 0.1}, "sum to 1.1, not to 1"),
    ],
)
def test_shares_that_cannot_be_are_refused(given: Mapping[str, float], message: str):
    with pytest.raises(ConfigError, match=message):
        label_shares(given, ("a", "b", "c"))
