"""The question as chat turns, what holds the answer to a label, and the strict reading of answers."""

from __future__ import annotations

import json

import pytest

from icm_api.errors import CapabilityError, OutOfReachError, TransientError
from icm_api.providers import choices
from icm_api.providers.http import Host
from icm_api.types import ChoiceRequest, Prompt

HOST = Host("scripted", "table", "http://127.0.0.1:1", "start it")
PROMPT = Prompt("Text: c\nLabel:", (("Text: a\nLabel:", " yes"), ("Text: b\nLabel:", " no")), preamble="Judge.")
ASKED = ChoiceRequest(PROMPT, (" yes", " no"))


def test_demonstrations_are_answered_in_the_form_the_model_must_answer_in():
    asked = choices.question(ASKED)
    assert asked.shown == (("Text: a\nLabel:", '{"label": "yes"}'), ("Text: b\nLabel:", '{"label": "no"}'))
    assert asked.system.startswith("Judge.\n\n")
    assert asked.asked == 'Text: c\nLabel:\n\nAnswer with one of:\n{"label": "yes"}\n{"label": "no"}'
    assert [turn["role"] for turn in asked.messages] == ["system", *["user", "assistant"] * 2, "user"]


def test_all_orders_of_the_labels_begin_alike_and_share_one_schema():
    other = ChoiceRequest(PROMPT, (" no", " yes"), draw=1)
    assert choices.question(ASKED).messages[:-1] == choices.question(other).messages[:-1]
    assert choices.question(ASKED).asked != choices.question(other).asked
    assert json.dumps(choices.answer_schema(ASKED.labels)) == json.dumps(choices.answer_schema(other.labels))


def test_the_schema_allows_nothing_but_one_of_the_labels():
    assert choices.answer_schema((" yes", " no")) == {
        "type": "object",
        "properties": {"label": {"type": "string", "enum": ["no", "yes"]}},
        "required": ["label"],
        "additionalProperties": False,
    }


def test_a_question_without_a_preamble_has_the_instruction_alone_before_it():
    system = choices.question(ChoiceRequest(Prompt("q"), (" a", " b"))).system
    assert system.startswith("Each message")


@pytest.mark.parametrize("request_", [ChoiceRequest(Prompt(""), (" a", " b")), ChoiceRequest(Prompt("q"), (" a",))])
def test_a_choice_without_a_query_or_without_alternatives_is_a_mistake(request_):
    with pytest.raises(ValueError, match="at least two labels"):
        choices.question(request_)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ('{"label": "yes"}', (1.0, 0.0)),
        (' {"label":"no"}\n', (0.0, 1.0)),
    ],
)
def test_an_answer_is_the_share_1_of_its_label_in_the_order_offered(text, shares):
    assert choices.read_text(text, ASKED, HOST) == shares
    assert choices.read_text(text, ChoiceRequest(PROMPT, (" no", " yes")), HOST) == shares[::-1]


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        '"yes"',
        '{"label": "Yes"}',
        '{"label": " yes"}',
        '{"label": "maybe"}',
        '{"label": true}',
        '{"label": ["yes"]}',
        '{"label": "yes", "sure": 1}',
        '{"label": "yes"} {"label": "no"}',
        '{"answer": "yes"}',
        "{}",
        "[" * 100_000,
    ],
)
def test_anything_but_one_offered_label_names_none_and_is_not_asked_again(text):
    with pytest.raises(OutOfReachError, match="none of the labels offered") as caught:
        choices.read_text(text, ASKED, HOST)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", " \n", None])
def test_an_empty_answer_is_asked_again(text):
    with pytest.raises(TransientError, match="empty"):
        choices.read_text(text, ASKED, HOST)


def test_a_refusal_names_the_text_it_is_about():
    error = choices.refused(ChoiceRequest(Prompt("x" * 500), (" a", " b")), HOST, "stop_reason refusal")
    assert isinstance(error, CapabilityError)
    assert "x" * 60 in str(error)
    assert "x" * 61 not in str(error)
    assert "stop_reason refusal" in str(error)


def test_labels_of_other_scripts_are_written_as_they_are_and_fit_the_bound():
    labels = (" 肯定", ' "quoted"')
    assert choices.written(labels[0]) == '{"label": "肯定"}'
    assert choices.answer_tokens(labels) > len('{"label": "\\"quoted\\""}')
    request = ChoiceRequest(Prompt("q"), labels)
    for label, shares in zip(labels, [(1.0, 0.0), (0.0, 1.0)], strict=True):
        assert choices.read_text(choices.written(label), request, HOST) == shares
