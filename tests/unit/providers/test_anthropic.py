"""The Messages adapter against a scripted host, through the real SDK: what it asks, what it reads, what it refuses."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import pytest

from icm_api.errors import (
    AuthError,
    CapabilityError,
    ConfigError,
    ProviderError,
    RateLimitError,
    RequestError,
    TransientError,
)
from icm_api.providers.anthropic import API_VERSION, Anthropic
from icm_api.providers.choices import answer_schema
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.types import ChoiceReply, ChoiceRequest, NextTokenRequest, Prompt, Usage

ROUTE = "/v1/messages"
KEY = "sk-ant-very-secret-0123456789"
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " yes"),), preamble="Judge.")
LABELS = (" yes", " no")


def message(text: str = '{"label": "no"}', stop_reason: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "served",
        "content": [{"type": "text", "text": text}],
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 6},
        **more,
    }


def refusal(kind: str, text: str = "no") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": text}, "request_id": "req_1"}


@pytest.fixture
async def open_adapter(server):
    opened = []

    def build(**changes):
        opened.append(Anthropic(**({"base_url": server.url, "model": "asked", "api_key": None} | changes)))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def ask(adapter: Anthropic, prompt: Prompt = PROMPT, labels: tuple[str, ...] = LABELS) -> Awaitable[ChoiceReply]:
    return adapter.send(ChoiceRequest(prompt, labels))


def block(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": text, **more}]


async def test_an_answer_is_asked_for_under_a_schema_without_thinking_or_temperature(server, open_adapter):
    server.answer(ROUTE, message())
    reply = await ask(open_adapter())
    assert reply == ChoiceReply((0.0, 1.0), Usage(7, None, 6), "served")
    (asked,) = server.asked
    assert asked.headers["anthropic-version"] == API_VERSION
    assert asked.body["model"] == "asked"
    assert asked.body["thinking"] == {"type": "disabled"}
    assert asked.body["output_config"] == {"format": {"type": "json_schema", "schema": answer_schema(LABELS)}}
    assert set(asked.body) == {"model", "max_tokens", "system", "messages", "thinking", "output_config"}


async def test_one_cache_breakpoint_stands_after_the_last_demonstration(server, open_adapter):
    server.answer(ROUTE, message())
    await ask(open_adapter())
    marked = {"cache_control": {"type": "ephemeral"}}
    body = server.asked[0].body
    assert "cache_control" not in body["system"][0]
    assert body["messages"][:2] == [
        {"role": "user", "content": block("Text: a\nLabel:")},
        {"role": "assistant", "content": block('{"label": "yes"}', **marked)},
    ]
    assert body["messages"][2]["role"] == "user"
    assert str(body).count("cache_control") == 1


async def test_without_demonstrations_the_system_text_is_what_questions_share(server, open_adapter):
    server.answer(ROUTE, message())
    await ask(open_adapter(), Prompt("Text: b\nLabel:"))
    body = server.asked[0].body
    assert body["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert [turn["role"] for turn in body["messages"]] == ["user"]


async def test_draws_of_a_question_differ_in_their_last_turn_only(server, open_adapter):
    server.answer(ROUTE, message())
    adapter = open_adapter()
    await ask(adapter)
    assert (await ask(adapter, labels=LABELS[::-1])).shares == (1.0, 0.0)
    one, other = (asked.body for asked in server.asked)
    assert one["messages"].pop() != other["messages"].pop()
    assert one == other


async def test_prompt_tokens_are_those_read_written_and_taken_from_the_cache(server, open_adapter):
    usage = {"input_tokens": 5, "cache_read_input_tokens": 900, "cache_creation_input_tokens": 30, "output_tokens": 6}
    server.answer(ROUTE, message(usage=usage))
    assert (await ask(open_adapter())).usage == Usage(935, 900, 6)


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": None, "cache_read_input_tokens": 3}])
async def test_what_the_host_does_not_say_is_unknown(server, open_adapter, usage):
    server.answer(ROUTE, message(usage=usage))
    assert (await ask(open_adapter())).usage.prompt_tokens is None


async def test_blocks_that_are_no_text_are_passed_over(server, open_adapter):
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    server.answer(ROUTE, message(content=[thought, *block('{"label": '), *block('"yes"}')]))
    assert (await ask(open_adapter())).shares == (1.0, 0.0)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (message("I cannot", "refusal"), "refuses to label the text that begins"),
        (message("", "refusal", stop_details={"type": "refusal", "category": "bio"}), "category bio"),
        (message('{"label', "max_tokens"), "cut off"),
        (message("maybe"), "none of the labels offered"),
    ],
)
async def test_an_answer_that_names_no_label_is_a_reply_with_its_cost_and_without_shares(
    server, open_adapter, body, told
):
    server.answer(ROUTE, body)
    reply = await ask(open_adapter())
    assert (reply.shares, reply.usage) == ((), Usage(7, None, 6))
    assert told in reply.said


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (message("", "model_context_window_exceeded"), RequestError, "fills the model's context"),
        (message("", "tool_use"), CapabilityError, "tool_use"),
        (message(stop_reason=None), CapabilityError, "None"),  # type: ignore[arg-type]
        (message(content=[]), TransientError, "empty"),
        (message(content="yes"), TransientError, "empty"),
        ([], TransientError, "instead of an object"),
        (b"{", TransientError, "not complete JSON"),
    ],
)
async def test_a_reply_without_an_answer_is_told_apart_and_costs_one_request(server, open_adapter, body, kind, told):
    server.answer(ROUTE, body)
    with pytest.raises(kind, match=told):
        await ask(open_adapter())
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, refusal("invalid_request_error", '"thinking.type.disabled" is not supported'), RequestError),
        (400, refusal("invalid_request_error", "Your credit balance is too low"), RequestError),
        (401, refusal("authentication_error"), AuthError),
        (403, refusal("permission_error"), AuthError),
        (404, refusal("not_found_error", "model: asked"), RequestError),
        (413, refusal("request_too_large"), RequestError),
        (429, refusal("rate_limit_error"), RateLimitError),
        (500, refusal("api_error"), TransientError),
        (529, refusal("overloaded_error", "Overloaded"), TransientError),
        (200, refusal("overloaded_error", "Overloaded"), TransientError),
    ],
)
async def test_each_failure_has_its_type_its_request_id_and_one_request(
    server, open_adapter, answer, status, body, kind
):
    server.answer(ROUTE, answer(body, status, {"request-id": "req_7", "retry-after": "3"}))
    with pytest.raises(ProviderError) as caught:
        await ask(open_adapter(api_key=KEY))
    assert type(caught.value) is kind
    assert caught.value.request_id == "req_7"
    assert getattr(caught.value, "retry_after_s", 3.0) == 3.0
    assert KEY not in str(caught.value)
    assert len(server.asked) == 1


async def test_a_host_that_says_nothing_fails_in_time(server, open_adapter, answer):
    server.answer(ROUTE, answer(hold=True))
    with pytest.raises(TransientError, match="did not answer in time"):
        await ask(open_adapter(timeout_s=0.2))


async def test_nothing_of_the_environment_is_sent(server, open_adapter, monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", f"x-secret: {KEY}")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:9")
    server.answer(ROUTE, message())
    await ask(open_adapter())
    assert KEY not in str(server.asked[0].headers)


async def test_headers_that_another_release_of_the_sdk_adds_are_not_sent(server, open_adapter, monkeypatch):
    added = {"X-Custom": "from-the-environment", "X-Api-Key": "from-the-environment"}
    monkeypatch.setattr("anthropic.AsyncAnthropic.default_headers", property(lambda _: added))
    server.answer(ROUTE, message())
    await ask(open_adapter(api_key=KEY))
    own = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}
    assert set(server.asked[0].headers) - own == {"x-api-key", "anthropic-version"}
    assert server.asked[0].headers["x-api-key"] == KEY


async def test_the_key_goes_into_a_header_and_into_nothing_else(server, open_adapter):
    server.answer(ROUTE, message())
    adapter = open_adapter(api_key=KEY)
    await ask(adapter)
    assert KEY in str(server.asked[0].headers)
    assert KEY not in str(server.asked[0].body)
    assert KEY not in str(adapter.identity)


@pytest.mark.parametrize(
    ("base_url", "plain"),
    [("https://api.anthropic.com/", True), ("https://api.anthropic.com.evil.example", False), (None, False)],
)
async def test_special_tokens_are_plain_text_at_the_vendors_own_address_only(open_adapter, server, base_url, plain):
    assert open_adapter(base_url=base_url or server.url).capabilities.plain_text_tokens is plain


async def test_it_answers_choices_only(open_adapter):
    adapter = open_adapter()
    assert adapter.capabilities.choices == "votes"
    with pytest.raises(CapabilityError, match="no log-probabilities"):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))


async def test_it_opens_by_name_with_the_key_of_its_own_variable_and_sends_that_to_no_other_host():
    environ = {"ANTHROPIC_API_KEY": KEY}
    own = await open_provider("anthropic", ProviderSettings(model="m"), environ)
    assert own.identity["base_url"] == "https://api.anthropic.com"
    await own.aclose()
    with pytest.raises(ConfigError, match="ANTHROPIC_API_KEY"):
        await open_provider("anthropic", ProviderSettings(model="m"), {})
    elsewhere = ProviderSettings(model="m", base_url="http://127.0.0.1:9")
    await (await open_provider("anthropic", elsewhere, {})).aclose()
