from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.data.split import families, validation_part
from icm_api.errors import DataError


def test_what_is_tied_through_others_is_one_family():
    assert families(6, [(4, 2), (0,), (2, 1), (5, 3)]) == (0, 1, 1, 3, 1, 3)


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=60),
    st.floats(0.01, 0.99),
    st.integers(0, 5),
)
def test_no_family_is_ever_on_both_sides(family_of, share, seed):
    room = min(max(round(share * len(family_of)), 1), len(family_of) - 1)
    if min(Counter(family_of).values()) > room:
        with pytest.raises(DataError, match="take a larger share"):
            validation_part(family_of, share, seed)
        return
    held = validation_part(family_of, share, seed)
    sides: dict[int, set[bool]] = {}
    for family, apart in zip(family_of, held, strict=True):
        sides.setdefault(family, set()).add(apart)
    assert all(len(both) == 1 for both in sides.values())
    assert 1 <= sum(held) <= room
    assert held == validation_part(family_of, share, seed)


def test_the_seed_draws_another_part():
    assert len({validation_part(range(40), 0.2, seed) for seed in range(5)}) == 5


def test_one_family_cannot_be_split_and_the_message_says_so():
    with pytest.raises(DataError, match=r"from these 4 \(the smallest has 4\)"):
        validation_part([0, 0, 0, 0], 0.5, 0)
