"""From listed continuations to label scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.core.labels import (
    Reading,
    argmax_label,
    label_score,
    logsumexp,
    longest_beginning,
    read_listed,
    read_split,
    read_unlisted,
)
from icm_api.errors import CapabilityError
from icm_api.types import Candidate, Label, NextTokenReply, Usage

TRUE = Label("True", " True", ("True", "true", " true"))
FALSE = Label("False", " False", ("False", "false", " false"))


def candidates(**probabilities: float) -> tuple[Candidate, ...]:
    listed = [Candidate(text.replace("_", " "), math.log(p)) for text, p in probabilities.items()]
    return tuple(sorted(listed, key=lambda c: -c.logprob_nats))


def reply(*listed: Candidate, floor: float | None = -5.0) -> NextTokenReply:
    return NextTokenReply(listed, floor, Usage(), "m")


def score(readings: tuple[Reading, Reading], listed: tuple[Candidate, ...] = (), min_mass: float = 0.0):
    return label_score((FALSE, TRUE), readings, listed, min_mass=min_mass)


def test_spellings_of_a_label_are_pooled_and_renormalised_over_the_labels():
    listed = candidates(_True=0.3, true=0.1, _False=0.2, banana=0.4)
    result = score((Reading(math.log(0.2)), Reading(math.log(0.3))), listed)
    assert result.mass == pytest.approx(0.6)
    assert [math.exp(p) for p in result.logprobs_nats] == pytest.approx([0.2 / 0.6, 0.4 / 0.6])
    assert result.bounded == (False, False)


def test_two_tokens_with_the_same_text_count_together():
    listed = (Candidate(" True", math.log(0.2), 5), Candidate(" True", math.log(0.1), 6))
    found = read_listed(" True", listed)
    assert found is not None
    assert math.exp(found.logprob_nats) == pytest.approx(0.3)


def test_a_label_that_only_contains_another_word_does_not_count():
    assert read_listed(" True", candidates(_untrue=0.5, _Truely=0.2)) is None


def test_a_missing_label_is_a_bound_not_a_number_and_adds_no_mass():
    result = score((read_unlisted(reply(floor=math.log(0.01))), Reading(math.log(0.5))))
    assert result.bounded == (True, False)
    assert result.mass == pytest.approx(0.5)
    assert math.exp(result.logprobs_nats[0]) == pytest.approx(0.01 / 0.51)


def test_a_listed_variant_counts_though_the_canonical_spelling_is_not_listed():
    listed = candidates(true=0.6, _False=0.3)
    result = score((Reading(math.log(0.3)), Reading(math.log(1e-4), bounded=True)), listed)
    assert result.mass == pytest.approx(0.9)
    assert result.bounded == (False, False), "what is hidden is too little to matter"
    hidden = score((Reading(math.log(0.3)), Reading(math.log(0.05), bounded=True)), listed)
    assert hidden.bounded == (False, True)


def test_a_label_that_was_seen_beats_an_equal_bound():
    result = score((Reading(math.log(0.2), bounded=True), Reading(math.log(0.2))))
    assert argmax_label(result) == 1


def test_no_label_in_reach_is_an_error():
    bound = Reading(-3.0, bounded=True)
    with pytest.raises(CapabilityError, match="none of the labels 'False', 'True'"):
        score((bound, bound))


def test_too_little_mass_is_an_error_that_names_the_labels():
    with pytest.raises(CapabilityError, match=r"'False', 'True' hold only 2e-06"):
        score((Reading(math.log(1e-6)), Reading(math.log(1e-6))), min_mass=1e-4)


def test_more_probability_than_there_is_is_an_error():
    with pytest.raises(CapabilityError, match="more than all of it"):
        score((Reading(math.log(0.7)), Reading(math.log(0.7))))


def test_a_complete_list_without_the_label_is_an_error():
    with pytest.raises(CapabilityError, match="complete"):
        read_unlisted(reply(floor=None))


def test_the_longest_listed_beginning_of_a_label_is_read_on_and_blanks_are_not_one():
    listed = candidates(_pos=0.1, _p=0.3, _=0.2, _neg=0.1)
    begun = longest_beginning(" positive", listed)
    assert begun is not None
    assert begun.text == " pos"
    assert longest_beginning(" zebra", listed) is None


def test_a_label_of_two_tokens_is_the_product_of_both():
    begun = Candidate(" pos", math.log(0.5))
    whole = read_split(begun, Reading(math.log(0.8)), reply(floor=math.log(0.01)))
    assert math.exp(whole.logprob_nats) == pytest.approx(0.4)
    assert not whole.bounded


def test_a_split_reading_below_what_may_be_hidden_is_only_a_bound():
    begun = Candidate(" p", math.log(0.02))
    whole = read_split(begun, Reading(math.log(0.001)), reply(floor=math.log(0.01)))
    assert whole.bounded
    assert math.exp(whole.logprob_nats) == pytest.approx(0.01 + 0.02 * 0.001)


def test_equal_labels_go_to_the_first():
    assert argmax_label(score((Reading(-1.0), Reading(-1.0)))) == 0


@given(st.lists(st.floats(-700, 0), min_size=1, max_size=6))
def test_logsumexp_equals_the_sum_of_exponentials(values: list[float]):
    assert math.exp(logsumexp(values)) == pytest.approx(sum(map(math.exp, values)), rel=1e-9, abs=1e-300)


@given(st.floats(-30, -0.8), st.floats(-30, -0.8))
def test_renormalised_scores_sum_to_one_and_keep_their_order(a: float, b: float):
    result = score((Reading(a), Reading(b)))
    assert sum(map(math.exp, result.logprobs_nats)) == pytest.approx(1.0)
    assert (result.logprobs_nats[0] > result.logprobs_nats[1]) == (a > b)
