"""Lists of candidates: both shapes are read, and useless ones refused."""

import math
from typing import Any

import pytest

from icm_api.errors import CapabilityError
from icm_api.providers.http import Host
from icm_api.providers.listed import floor_nats, top_candidates
from icm_api.types import Candidate

HOST = Host(provider="p", model="m", base_url="http://127.0.0.1:9", hint="")


def chat(*pairs: tuple[Any, Any]) -> Any:
    entries = [{"token": text, "logprob": value} for text, value in pairs]
    return {"content": [{"token": "x", "logprob": -1.0, "top_logprobs": entries}]}


def legacy(**pairs: float) -> Any:
    return {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [pairs]}


def test_both_shapes_give_the_same_candidates():
    expected = (Candidate("a", -0.5), Candidate("b", -2.0))
    assert top_candidates(chat(("a", -0.5), ("b", -2.0)), HOST) == expected
    assert top_candidates(legacy(a=-0.5, b=-2.0), HOST) == expected


def test_candidates_are_sorted_best_first():
    assert [c.text for c in top_candidates(chat(("a", -2.0), ("b", -0.5)), HOST)] == ["b", "a"]


def test_candidates_of_the_same_text_are_all_kept():
    assert top_candidates(chat(("a", -1.0), ("a", -1.5)), HOST) == (Candidate("a", -1.0), Candidate("a", -1.5))


def test_token_ids_are_kept_where_given():
    content: Any = [{"top_logprobs": [{"token": "a", "id": 7, "logprob": -0.5}]}]
    assert top_candidates({"content": content}, HOST) == (Candidate("a", -0.5, 7),)


@pytest.mark.parametrize("sentinel", [-9999.0, -1000.0, -3.4028234663852886e38, -math.inf])
def test_stand_ins_for_not_listed_are_dropped(sentinel):
    assert top_candidates(chat(("a", -0.5), ("b", sentinel)), HOST) == (Candidate("a", -0.5),)


@pytest.mark.parametrize(
    "logprobs",
    [
        chat(("a", 0.0), ("b", 0.0)),
        chat(("a", 0.0), ("b", -9999.0)),
        chat(("a", -9999.0), ("b", -9999.0)),
        chat(("a", -1000.0), ("b", -3.4e38)),
        chat(("a", math.nan), ("b", -1.0)),
        chat(("a", 0.1), ("b", -1.0)),
        chat(("a", -0.1), ("b", -0.2)),
        chat(("a", None)),
        chat(("a", "-1.0")),
        chat((None, -1.0)),
        chat(),
        {"content": []},
        {"content": [{"token": "a", "logprob": -1.0}]},
        {"content": [None]},
        {"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None},
        {"tokens": [], "token_logprobs": [], "top_logprobs": []},
        legacy(),
        {},
        None,
        [],
    ],
)
def test_a_list_that_says_nothing_is_refused(logprobs):
    with pytest.raises(CapabilityError):
        top_candidates(logprobs, HOST)


def test_missing_log_probabilities_come_with_advice():
    with pytest.raises(CapabilityError, match="try the other route"):
        top_candidates(None, HOST)


def test_rounding_just_above_zero_is_zero():
    assert top_candidates(chat(("a", 1e-7), ("b", -20.0)), HOST)[0].logprob_nats == 0.0


def test_the_floor_is_the_lowest_listed_when_much_is_left_over():
    assert floor_nats([Candidate("a", -2.0), Candidate("b", -4.0)]) == -4.0


def test_the_floor_is_what_the_list_leaves_over_when_that_is_less():
    listed = [Candidate("a", math.log(0.6)), Candidate("b", math.log(0.399))]
    assert floor_nats(listed) == pytest.approx(math.log(0.001), abs=2e-3)


def test_the_floor_stays_finite_when_rounding_leaves_nothing_over():
    assert floor_nats([Candidate("a", math.log(0.7)), Candidate("b", math.log(0.3005))]) > -math.inf


def test_a_list_that_holds_more_than_all_shows_how_much_may_be_outside_it():
    listed = [Candidate("a", math.log(0.7)), Candidate("b", math.log(0.303))]
    assert floor_nats(listed) == pytest.approx(math.log(0.003), abs=1e-3)


def test_a_token_listed_out_of_turn_lowers_the_floor_only_by_what_it_holds():
    listed = [Candidate("a", math.log(0.5)), Candidate("b", math.log(0.2))]
    assert floor_nats(listed, beside=Candidate("c", -12.0)) == pytest.approx(math.log(0.2))
    assert floor_nats(listed, beside=Candidate("c", math.log(0.2))) == pytest.approx(math.log(0.1), abs=1e-4)
    assert floor_nats([], beside=Candidate("c", math.log(0.9))) == pytest.approx(math.log(0.1), abs=1e-4)
