from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.client.codec import canonical_json, decode_reply, encode_reply, request_key
from icm_api.errors import CapabilityError, ProviderError
from icm_api.types import (
    Candidate,
    Json,
    NextTokenReply,
    Position,
    Prompt,
    SequenceReply,
    SequenceRequest,
    TokenCountReply,
    Usage,
)
from tests.unit.client.scripted import answer, ask, count_tokens

IDENTITY: dict[str, Json] = {
    "host": "http://127.0.0.1:8080",
    "model": "m",
    "settings": {"top_k": 20, "route": "completions"},
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
finite = st.floats(max_value=0.0, allow_nan=False, allow_infinity=False)
counts = st.none() | st.integers(0, 10**9)
replies = st.builds(
    NextTokenReply,
    st.lists(st.builds(Candidate, texts, finite, counts), max_size=4).map(tuple),
    st.none() | finite,
    st.builds(Usage, counts, counts, counts),
    texts,
)


@given(replies)
def test_every_reply_reads_back_equal_to_the_last_bit(reply):
    assert decode_reply(ask(), encode_reply(ask(), reply)) == reply


@given(st.lists(replies, max_size=3))
def test_the_positions_of_a_sequence_read_back_too(places):
    request = SequenceRequest(ask().prompt, ask().wanted)
    positions = tuple(Position(place.candidates, place.floor_nats) for place in places)
    reply = SequenceReply(positions, Usage(9, 0, 1), "scripted-1")
    assert decode_reply(request, encode_reply(request, reply)) == reply


def test_a_token_count_reads_back_too():
    reply = TokenCountReply((3, 0, 12))
    assert decode_reply(count_tokens("a"), encode_reply(count_tokens("a"), reply)) == reply


def test_the_order_of_keys_in_the_identity_does_not_change_the_key():
    turned: dict[str, Json] = {
        "settings": {"route": "completions", "top_k": 20},
        "model": "m",
        "host": "http://127.0.0.1:8080",
    }
    assert request_key(turned, ask()) == request_key(IDENTITY, ask())


def test_everything_that_can_change_the_answer_changes_the_key():
    request = ask(demonstrations=(("a", " True"),), preamble="p")
    others = [
        replace(request, wanted=(" False", " True")),
        replace(request, continuation=" Tr"),
        *(replace(request, prompt=prompt) for prompt in _changed(request.prompt)),
        count_tokens("Is water wet?"),
        SequenceRequest(request.prompt, request.wanted),
        SequenceRequest(request.prompt, request.wanted, first=1),
    ]
    keys = [request_key(IDENTITY, other) for other in (request, *others)]
    keys += [request_key({**IDENTITY, "model": "n"}, request), request_key({**IDENTITY, "extra": None}, request)]
    assert len(set(keys)) == len(keys)


def _changed(prompt: Prompt):
    yield replace(prompt, query="Is water dry?")
    yield replace(prompt, demonstrations=(("a", " False"),))
    yield replace(prompt, preamble="")
    yield replace(prompt, separator="\n")
    # The same text cut elsewhere may be tokenised or sent as turns in another way.
    yield Prompt(query=prompt.text, separator="\n\n")


def test_where_a_request_is_answered_does_not_change_the_key():
    assert request_key(IDENTITY, replace(ask(), affinity=3)) == request_key(IDENTITY, ask())


def test_the_key_is_stable_from_one_version_of_the_program_to_the_next():
    assert request_key({"host": "h"}, ask("q")) == "e4c142a7978b9812ca829cfacf545a74cc959f9ca9a1cf58225772817bd112e0"


@given(st.text())
def test_any_string_has_a_key_even_one_with_half_a_surrogate_pair(text):
    assert len(request_key(IDENTITY, ask(text))) == 64


def test_a_set_in_an_identity_has_no_canonical_form_and_is_refused():
    with pytest.raises(TypeError):
        canonical_json({"host": {1, 2}})


@pytest.mark.parametrize(
    "reply",
    [
        replace(answer(), floor_nats=float("nan")),
        replace(answer(), candidates=(Candidate(" True", float("-inf")),)),
        replace(answer(), model="\ud800"),
        replace(answer(), candidates=[Candidate(" True", -1.0)]),  # type: ignore[arg-type]
        replace(answer(), candidates=(Candidate(" True", "-1.0"),)),  # type: ignore[arg-type]
    ],
    ids=["nan", "infinite", "half a surrogate pair", "list for tuple", "text for number"],
)
def test_a_reply_that_would_not_read_back_the_same_is_never_written(reply):
    with pytest.raises(ProviderError, match="cannot be stored"):
        encode_reply(ask(), reply)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"schema":1', '"schema":2'),
        ('"kind":"next_token"', '"kind":"token_count"'),
        ("-0.1", "NaN"),
        ("-0.1", '"-0.1"'),
        ("-0.1", "null"),
        ("-9.25", "-1e999"),
        ('"model"', '"modell"'),
        ('"model":', '"surprise":1,"model":'),
        ('"prompt_tokens":7', '"prompt_tokens":7.5'),
        ("}", ""),
    ],
)
def test_a_row_that_differs_from_what_is_written_is_refused(old, new):
    text = encode_reply(ask(), answer())
    assert old in text
    with pytest.raises(ValueError):  # noqa: PT011  # the cache gives it its meaning
        decode_reply(ask(), text.replace(old, new))


def test_a_kind_of_request_nobody_declared_is_refused():
    class Unknown:
        kind = "haiku"

    with pytest.raises(CapabilityError, match="'haiku'"):
        decode_reply(Unknown(), "{}")  # type: ignore[arg-type]
