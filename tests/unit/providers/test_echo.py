"""Echoed prompts: label positions are found by the tokens' texts, and whatever does not fit is refused."""

import math
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest

from icm_api.errors import CapabilityError
from icm_api.providers.echo import echoed_positions, label_positions
from icm_api.providers.http import Host
from icm_api.types import Position, Prompt, SequenceRequest

HOST = Host(provider="p", model="m", base_url="http://127.0.0.1:9", hint="")
WANTED = (" True", " False")
PROMPT = Prompt("Text: c\nLabel:", (("Text: a\nLabel:", " True"), ("Text: b\nLabel:", " False")), "Judge.")
TOKENS = re.findall(r"\n\n|\n| ?\w+|.", PROMPT.text)
SHOWN = [k for k, token in enumerate(TOKENS) if token in WANTED]


def top(k: int) -> dict[str, float]:
    """What was expected instead of token k."""
    return {" True": -0.7 - k / 1000, " maybe": -1.5, " other": -2.0}


def an_echo(tokens: Sequence[str] = TOKENS, generated: Sequence[str] = (" True",), **changes: Any) -> dict[str, Any]:
    """As vLLM writes it: the shown token is listed too, whatever its rank."""
    whole = [*tokens, *generated]
    values = [None, *(top(k).get(token, -6.0) for k, token in enumerate(whole) if k)]
    tops = [None, *({**top(k), token: values[k]} for k, token in enumerate(whole) if k)]
    offsets = [-1] * len(whole)
    return {"tokens": whole, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets, **changes}


def read(logprobs: Any, prompt: Prompt = PROMPT, first: int = 0) -> tuple[Position, ...]:
    return echoed_positions(logprobs, SequenceRequest(prompt, WANTED, first), HOST)


def listed(position: Position) -> dict[str, float]:
    assert len({c.text for c in position.candidates}) == len(position.candidates)
    values = [c.logprob_nats for c in position.candidates]
    assert values == sorted(values, reverse=True)
    return {c.text: c.logprob_nats for c in position.candidates}


def test_each_scored_label_and_the_query_get_what_was_listed_at_their_place():
    assert [listed(position)[" True"] for position in read(an_echo())] == [
        top(SHOWN[0])[" True"],
        top(SHOWN[1])[" True"],
        top(len(TOKENS))[" True"],
    ]
    assert read(an_echo(), first=1) == read(an_echo())[1:]


def test_a_shown_label_outside_the_top_list_is_exact_and_bounds_nothing():
    position = read(an_echo())[1]
    assert listed(position)[" False"] == -6.0
    assert position.floor_nats == pytest.approx(-2.0), "not -6: other tokens may be likelier than the shown one"


def test_a_shown_label_that_is_not_in_the_list_at_all_is_exact_too():
    echo = an_echo()
    echo["top_logprobs"][SHOWN[1]].pop(" False")
    assert read(echo) == read(an_echo())


def test_a_label_of_several_tokens_is_their_sum_and_its_beginning_stays_listed():
    tokens = [piece for token in TOKENS for piece in ((" Fal", "se") if token == " False" else (token,))]
    echo = an_echo(tokens)
    echo["token_logprobs"][SHOWN[1] + 1] = -0.25
    echo["top_logprobs"][SHOWN[1]][" False"] = -3.0
    found = listed(read(echo)[1])
    assert (found[" Fal"], found[" False"]) == (-6.0, -6.25)


def test_a_label_with_a_token_of_no_probability_is_not_listed():
    tokens = [piece for token in TOKENS for piece in ((" Fal", "se") if token == " False" else (token,))]
    echo = an_echo(tokens)
    echo["token_logprobs"][SHOWN[1] + 1] = -9999.0
    assert " False" not in listed(read(echo)[1])
    single = an_echo()
    single["token_logprobs"][SHOWN[1]] = single["top_logprobs"][SHOWN[1]][" False"] = -9999.0
    assert " False" not in listed(read(single)[1])


def test_a_prompt_kept_apart_from_what_was_generated_gives_the_same_label_positions():
    whole = an_echo()
    apart = {name: whole[name][: len(TOKENS)] for name in ("tokens", "token_logprobs", "top_logprobs")}
    request = SequenceRequest(PROMPT, WANTED)
    assert label_positions(apart, request, HOST) == read(whole)[:-1]


@pytest.mark.parametrize("value", [None, 0.0, 0.7, math.nan])
def test_what_stands_at_the_first_token_is_never_read(value):
    """Null at most hosts, 0 as a placeholder at some, and a positive number was seen."""
    odd = an_echo()
    odd["token_logprobs"][0] = value
    odd["top_logprobs"][0] = {TOKENS[0]: value}
    assert read(odd) == read(an_echo())


def test_a_label_at_the_very_beginning_has_no_log_prob():
    prompt = Prompt("\nb:", (("", " True"),), separator="")
    echo = an_echo(re.findall(r"\n| ?\w+|.", prompt.text))
    echo["token_logprobs"][0], echo["top_logprobs"][0] = -0.5, {" True": -0.5, " False": -1.0}
    with pytest.raises(CapabilityError, match="before the label"):
        read(echo, prompt)


@pytest.mark.parametrize("shift", [1, -1])
def test_an_echo_that_is_off_by_one_is_caught(shift):
    echo = an_echo()
    for name in ("token_logprobs", "top_logprobs"):
        echo[name] = echo[name][shift:] + echo[name][:shift]
    with pytest.raises(CapabilityError):
        read(echo)


def test_log_probs_that_are_off_by_one_beside_lists_that_are_not_contradict_themselves():
    echo = an_echo()
    echo["token_logprobs"] = [*echo["token_logprobs"][1:], -1.0]
    with pytest.raises(CapabilityError, match="contradicts itself"):
        read(echo)


def test_a_label_missing_from_a_list_that_goes_below_it_contradicts_itself():
    echo = an_echo()
    echo["top_logprobs"][SHOWN[0]] = {" maybe": -1.5, " other": -9.0}
    with pytest.raises(CapabilityError, match=r"goes down to -9\.000 without it"):
        read(echo)


def test_rounding_between_a_token_and_its_entry_is_no_contradiction():
    echo = an_echo()
    echo["token_logprobs"][SHOWN[0]] += 0.01
    assert len(read(echo)) == 3


def test_an_echo_that_lists_only_the_shown_label_cannot_compare_labels():
    """Counted as a bound, the others would nearly always lose to the label that happens to stand there."""
    echo = an_echo()
    echo["top_logprobs"][SHOWN[0]] = {" True": echo["token_logprobs"][SHOWN[0]], " x": -9999.0}
    with pytest.raises(CapabilityError, match=r"nothing beside ' True'.*--no-echo"):
        read(echo)


def test_a_token_before_every_text_is_skipped():
    assert [listed(p) for p in read(an_echo(["<s>", *TOKENS]))] != []
    moved = read(an_echo(["<s>", *TOKENS]))[0]
    assert listed(moved)[" True"] == top(SHOWN[0] + 1)[" True"]


@pytest.mark.parametrize(
    "logprobs",
    [
        {"tokens": [], "token_logprobs": [], "top_logprobs": []},
        an_echo((), (" True",)),
        {"content": [{"token": " True", "logprob": -0.5, "top_logprobs": [{"token": " True", "logprob": -0.5}]}]},
    ],
    ids=["nothing", "the generated token", "the chat shape"],
)
def test_a_host_that_ignores_echo_is_refused(logprobs):
    with pytest.raises(CapabilityError, match="ignored echo"):
        read(logprobs)


@pytest.mark.parametrize(
    "tokens",
    [
        [f"token_id:{k}" for k in range(len(TOKENS))],
        ["bytes:\\xf0\\x9f", *TOKENS[1:]],
        TOKENS[3:],
        [*TOKENS[:3], "\ufffd", *TOKENS[4:]],
        ["<s>", "<s>", *TOKENS],
    ],
    ids=["ids", "bytes", "cut at the start", "half a character", "two tokens before the text"],
)
def test_tokens_that_do_not_spell_the_prompt_are_refused(tokens):
    with pytest.raises(CapabilityError, match="do not spell the prompt: after"):
        read(an_echo(tokens))


def merged(left: str, right: str) -> list[str]:
    """The tokens with one pair of neighbours joined, wherever it stands."""
    joined: list[str] = []
    for token in TOKENS:
        if joined and (joined[-1], token) == (left, right):
            joined[-1] += token
        else:
            joined.append(token)
    return joined


@pytest.mark.parametrize(
    ("tokens", "edge"),
    [(merged(":", " False"), "before the label ' False'"), (merged(" False", "\n\n"), "after the label ' False'")],
)
def test_a_label_that_merges_with_its_surroundings_is_refused(tokens, edge):
    with pytest.raises(CapabilityError, match=f"over the edge {edge}"):
        read(an_echo(tokens))
    assert len(read(an_echo(tokens), first=2)) == 1, "a label that is context only may merge"


def test_a_token_without_text_at_the_edge_of_a_label_is_refused():
    tokens = [*TOKENS[: SHOWN[0]], "", *TOKENS[SHOWN[0] :]]
    with pytest.raises(CapabilityError, match="without text stands before the label"):
        read(an_echo(tokens))


@pytest.mark.parametrize("value", [None, math.nan, "-1", True, 0.5])
def test_a_shown_label_without_a_usable_number_is_refused(value):
    echo = an_echo()
    echo["token_logprobs"][SHOWN[1]] = value
    with pytest.raises(CapabilityError):
        read(echo)


def test_a_shown_label_that_is_certain_beside_others_is_refused():
    echo = an_echo()
    echo["token_logprobs"][SHOWN[1]] = echo["top_logprobs"][SHOWN[1]][" False"] = 0.0
    with pytest.raises(CapabilityError, match="more than all of it"):
        read(echo)


@pytest.mark.parametrize("place", [SHOWN[0], len(TOKENS)], ids=["a label", "the query"])
@pytest.mark.parametrize("value", [None, {" True": math.nan}, {" True": 0.0, "x": -9999.0}, {}, []])
def test_a_position_without_a_usable_list_is_refused(place, value):
    echo = an_echo()
    echo["token_logprobs"][SHOWN[0]] = 0.0
    echo["top_logprobs"][place] = value
    with pytest.raises(CapabilityError):
        read(echo)


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        an_echo(top_logprobs=None),
        {**an_echo(), "tokens": None},
        an_echo(token_logprobs=None),
        an_echo(top_logprobs=[None]),
        an_echo(generated=()),
    ],
)
def test_an_incomplete_echo_is_refused(logprobs):
    with pytest.raises(CapabilityError):
        read(logprobs)


def test_reading_a_long_echo_takes_milliseconds():
    prompt = Prompt(PROMPT.query, PROMPT.demonstrations * 400)
    echo = an_echo(re.findall(r"\n\n|\n| ?\w+|.", prompt.text))
    assert len(echo["tokens"]) > 5000
    start = time.process_time()
    assert len(read(echo, prompt)) == 801
    assert time.process_time() - start < 0.5
