"""Agreement of two labellings."""

import pytest

from icm_api.core.agreement import Agreement, agreement


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], Agreement(4, 4, 1.0)),
        ([0, 1, 0, 1], [1, 0, 1, 0], Agreement(4, 0, -1.0)),
        ([0, 0, 1, 1], [0, 1, 0, 1], Agreement(4, 2, 0.0)),
        ([0, None, 1], [0, 1, None], Agreement(1, 1, None)),
        ([0, 0], [0, 0], Agreement(2, 2, None)),
        ([None], [1], Agreement(0, 0, None)),
    ],
)
def test_kappa_is_agreement_beyond_chance(one, other, expected):
    assert agreement(one, other, 2) == expected


def test_labellings_of_other_lengths_are_not_compared():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        agreement([0], [0, 1], 2)
