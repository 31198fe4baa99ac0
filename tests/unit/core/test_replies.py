"""What must hold of every reply, and the words for what does not."""

import math

import pytest

from icm_api.core.replies import list_faults, share_faults
from icm_api.types import Candidate


def listed(**tokens: float) -> list[Candidate]:
    return [Candidate(text, nats) for text, nats in tokens.items()]


def test_a_sound_list_has_no_fault():
    assert list_faults(listed(a=-0.5, b=-1.5), -1.5) == []
    assert list_faults(listed(a=-0.5, b=-1.5), None) == []
    assert list_faults(listed(a=0.0, b=-25.0), -25.0) == []


@pytest.mark.parametrize(
    ("candidates", "floor_nats", "fault"),
    [
        ([], -1.0, "no candidate"),
        (listed(a=math.nan), -1.0, "NaN"),
        (listed(a=0.1, b=-3.0), -3.0, "above 0"),
        (listed(a=-0.1, b=-9999.0), -3.0, "stand-in"),
        (listed(a=0.0), -3.0, "every log-probability is 0"),
        (listed(a=-2.0, b=-1.0), -3.0, "best first"),
        (listed(a=-0.1, b=-0.2), -3.0, "more than all of it"),
        (listed(a=-0.5), 0.5, "bound"),
        (listed(a=-0.5), math.nan, "bound"),
    ],
)
def test_each_fault_is_named(candidates, floor_nats, fault):
    assert fault in "; ".join(list_faults(candidates, floor_nats))


def test_a_label_of_several_tokens_may_stand_beside_its_first():
    assert list_faults([Candidate(" Ye", -0.1), Candidate(" Yes", -0.3)], -3.0) == []


def test_shares_are_one_a_label_and_sum_to_one():
    assert share_faults((0.25, 0.75), 2, votes=False) == []
    assert share_faults((1.0, 0.0), 2, votes=True) == []
    assert "2 shares for 3 labels" in share_faults((0.5, 0.5), 3, votes=False)[0]
    for shares in ((0.5, 0.6), (1.5, -0.5), (math.nan, 1.0)):
        assert "no probabilities" in share_faults(shares, 2, votes=False)[0]
    assert "names one label" in share_faults((0.5, 0.5), 2, votes=True)[0]
