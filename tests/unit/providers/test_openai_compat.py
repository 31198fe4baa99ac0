"""The OpenAI-shaped adapter against a scripted host: what it asks, what it reads, what it refuses."""

import asyncio
import math
import socket
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
from icm_api.providers.choices import one_word
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.providers.openai_routes import chat_messages
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt, SequenceRequest, TokenCountRequest, Usage
from tests.unit.providers.test_echo import an_echo

KEY = "sk-very-secret-0123456789"
ROUTES = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
INSTRUCTION = (
    "Each message is a text that ends where its label is missing. Answer with the label that belongs there and nothing "
    "else: True or False."
)
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),), preamble="Judge.")
LEGACY = {"tokens": [" True"], "token_logprobs": [-0.5], "top_logprobs": [{" True": -0.5, " False": -1.5}]}
CHAT = {
    "content": [
        {
            "token": " True",
            "logprob": -0.5,
            "top_logprobs": [{"token": " True", "logprob": -0.5}, {"token": " False", "logprob": -1.5}],
        }
    ]
}


def a_reply(logprobs: Any, **extra: Any) -> Any:
    return {"model": "served", "choices": [{"index": 0, "logprobs": logprobs}], **extra}


@pytest.fixture
async def open_adapter(server):
    opened = []

    def build(**changes):
        settings = {"base_url": f"{server.url}/v1", "model": "asked", "api_key": None, "route": "completions"}
        opened.append(OpenAICompatible(**(settings | changes)))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def ask(adapter: OpenAICompatible, prompt: Prompt = PROMPT, **changes: Any) -> Awaitable[NextTokenReply]:
    return adapter.send(NextTokenRequest(prompt, (" True", " False"), **changes))


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("logprobs", [LEGACY, CHAT])
async def test_both_shapes_are_read_on_both_routes(server, open_adapter, route, logprobs):
    server.answer(ROUTES[route], a_reply(logprobs))
    reply = await ask(open_adapter(route=route))
    assert [(c.text, c.logprob_nats) for c in reply.candidates] == [(" True", -0.5), (" False", -1.5)]
    assert reply.floor_nats == pytest.approx(math.log(1 - math.exp(-0.5) - math.exp(-1.5)), abs=1e-4)
    assert reply.model == "served"


async def test_completions_asks_for_one_token_of_the_whole_text_at_temperature_zero(server, open_adapter):
    server.answer(ROUTES["completions"], a_reply(LEGACY))
    await ask(open_adapter(top_k=5), continuation=" Tr")
    assert server.asked[0].body == {
        "model": "asked",
        "prompt": PROMPT.text + " Tr",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 5,
    }


async def test_chat_asks_with_demonstrations_as_turns(server, open_adapter):
    server.answer(ROUTES["chat"], a_reply(CHAT))
    await ask(open_adapter(route="chat", top_k=5))
    assert server.asked[0].body == {
        "model": "asked",
        "messages": [
            {"role": "system", "content": f"Judge.\n\n{INSTRUCTION}"},
            {"role": "user", "content": "Text: a\nLabel:"},
            {"role": "assistant", "content": "True"},
            {"role": "user", "content": "Text: b\nLabel:"},
        ],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 5,
    }


async def test_chat_cannot_go_on_inside_a_label(server, open_adapter):
    with pytest.raises(CapabilityError, match="inside a label"):
        await ask(open_adapter(route="chat"), continuation=" Tr")
    assert server.asked == []


@pytest.mark.parametrize("route", ROUTES)
async def test_an_empty_prompt_is_never_sent(server, open_adapter, route):
    with pytest.raises(ValueError, match="empty prompt"):
        await ask(open_adapter(route=route), Prompt(""))
    assert server.asked == []


async def test_usage_is_read_and_unknown_stays_unknown(server, open_adapter):
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}
    server.answer(ROUTES["completions"], a_reply(LEGACY, usage=usage), a_reply(LEGACY), a_reply(LEGACY, usage=None))
    adapter = open_adapter()
    assert (await ask(adapter)).usage == Usage(9, 4, 1)
    assert (await ask(adapter)).usage == Usage(None, None, None)
    assert (await ask(adapter)).usage == Usage(None, None, None)


@pytest.mark.parametrize("status", [401, 404, 408, 409, 429, 500, 503])
async def test_one_failure_is_one_request(server, open_adapter, answer, status):
    server.answer(ROUTES["completions"], answer({"error": {"message": "no"}}, status, {"Retry-After": "0"}))
    with pytest.raises(ProviderError):
        await ask(open_adapter())
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthError), (404, RequestError), (429, RateLimitError), (503, TransientError)]
)
async def test_a_failure_gets_its_type_and_the_hosts_words(server, open_adapter, answer, status, kind):
    headers = {"x-request-id": "req-1", "retry-after": "3"}
    server.answer(ROUTES["completions"], answer({"error": {"message": "the reason"}}, status, headers))
    with pytest.raises(kind, match="the reason") as caught:
        await ask(open_adapter())
    assert caught.value.request_id == "req-1"
    assert getattr(caught.value, "retry_after_s", 3.0) == 3.0


async def test_the_key_is_sent_and_never_shown(server, open_adapter, answer):
    server.answer(ROUTES["completions"], answer({"error": {"message": f"bad key {KEY}"}}, 401))
    adapter = open_adapter(api_key=KEY)
    with pytest.raises(AuthError) as caught:
        await ask(adapter)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)
    assert KEY not in repr(adapter.identity)


async def test_nothing_from_the_environment_is_sent_to_the_host(server, open_adapter, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    stranger = "X-Custom: from-the-environment\nAuthorization: Bearer from-the-environment"
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", stranger)
    server.answer(ROUTES["completions"], a_reply(LEGACY))
    await ask(open_adapter())
    await ask(open_adapter(api_key=KEY))
    assert "from-the-environment" not in str([asked.headers for asked in server.asked])
    assert server.asked[1].headers["authorization"] == f"Bearer {KEY}"


async def test_headers_that_another_release_of_the_sdk_adds_are_not_sent(server, open_adapter, monkeypatch):
    added = {"X-Custom": "from-the-environment", "Authorization": "Bearer from-the-environment"}
    monkeypatch.setattr("openai.AsyncOpenAI.default_headers", property(lambda _: added))
    server.answer(ROUTES["completions"], a_reply(LEGACY))
    await ask(open_adapter(api_key=KEY, headers={"x-own": "ours"}))
    await ask(open_adapter())
    own = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"}
    assert [set(asked.headers) - own for asked in server.asked] == [{"authorization", "x-own"}, set()]
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_redirect_is_not_followed(server, open_adapter, answer):
    server.answer(ROUTES["completions"], answer({}, 307, {"Location": f"{server.url}/elsewhere"}))
    with pytest.raises(RequestError, match=r"redirects to .*/elsewhere"):
        await ask(open_adapter(api_key=KEY))
    assert server.requests("/elsewhere") == []


@pytest.mark.parametrize("body", [b"{", b"null", b"", b"<html>"])
async def test_a_broken_reply_is_transient(server, open_adapter, answer, body):
    server.answer(ROUTES["completions"], answer(body))
    with pytest.raises(TransientError):
        await ask(open_adapter())


async def test_a_reply_cut_off_on_the_way_is_transient(server, open_adapter, answer):
    server.answer(ROUTES["completions"], answer(b'{"choices": [', claimed_length=500))
    with pytest.raises(TransientError):
        await ask(open_adapter())
    assert len(server.asked) == 1


async def test_a_host_that_does_not_answer_in_time_is_transient(server, open_adapter, answer):
    server.answer(ROUTES["completions"], answer(hold=True))
    with pytest.raises(TransientError, match="did not answer in time"):
        await ask(open_adapter(timeout_s=0.05))
    assert len(server.asked) == 1


async def test_a_host_that_is_down_is_named_with_what_to_check(open_adapter):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
    with pytest.raises(TransientError, match=f"no answer from {url} .*curl {url}/models"):
        await ask(open_adapter(base_url=url))


@pytest.mark.parametrize(
    "document",
    [
        {"choices": []},
        {"choices": None},
        {"choices": [None]},
        {},
        a_reply(None),
        a_reply({"content": []}),
        a_reply({"tokens": [" True"], "token_logprobs": [-0.5], "top_logprobs": None}),
        a_reply({**LEGACY, "top_logprobs": [{" True": 0.0, " False": -9999.0}]}),
        {"choices": [{"index": 0, "text": " True"}]},
    ],
)
async def test_a_200_reply_without_usable_numbers_is_refused(server, open_adapter, document):
    server.answer(ROUTES["completions"], document)
    with pytest.raises(CapabilityError):
        await ask(open_adapter())


async def test_an_error_inside_a_200_reply_is_raised(server, open_adapter):
    server.answer(ROUTES["completions"], {"error": {"code": 502, "message": "upstream died"}})
    with pytest.raises(TransientError, match="upstream died"):
        await ask(open_adapter())


async def test_echo_asks_for_the_whole_text_back_and_reads_every_label(server, open_adapter):
    tokens = ["Judge", ".", "\n\n", "Text: a\nLabel:", " True", "\n\n", "Text: b\nLabel:"]
    server.answer(ROUTES["completions"], a_reply(an_echo(tokens), usage={"prompt_tokens": 9}))
    adapter = open_adapter(echo=True, top_k=5)
    assert adapter.capabilities.prompt_logprobs
    reply = await adapter.send(SequenceRequest(PROMPT, (" True", " False")))
    assert server.asked[0].body == {
        "model": "asked",
        "prompt": PROMPT.text,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 5,
        "echo": True,
    }
    assert [position.candidates[0].logprob_nats for position in reply.positions] == [-0.704, -0.707]
    assert (reply.model, reply.usage) == ("served", Usage(9))


async def test_a_host_that_ignores_echo_is_refused(server, open_adapter):
    for logprobs in (LEGACY, CHAT):
        server.answer(ROUTES["completions"], a_reply(logprobs))
        with pytest.raises(CapabilityError, match="ignored echo"):
            await open_adapter(echo=True).send(SequenceRequest(PROMPT, (" True",)))


async def test_sequences_are_offered_only_with_echo(server, open_adapter):
    assert not open_adapter().capabilities.prompt_logprobs
    with pytest.raises(CapabilityError, match="sequence"):
        await open_adapter().send(SequenceRequest(PROMPT, (" True",)))
    assert server.asked == []


async def test_echo_leaves_cached_answers_to_other_questions_valid(open_adapter):
    assert open_adapter(echo=True).identity == open_adapter().identity


async def test_token_counts_are_not_offered(open_adapter):
    adapter = open_adapter()
    assert not adapter.capabilities.counts_tokens
    with pytest.raises(CapabilityError, match="token_count"):
        await adapter.send(TokenCountRequest(("a",)))


async def test_concurrent_requests_keep_their_own_replies(server, open_adapter):
    def echoing(body):
        return a_reply({**LEGACY, "top_logprobs": [{body["prompt"]: -0.5, "other": -2.0}]})

    server.answer(ROUTES["completions"], echoing)
    adapter = open_adapter()
    replies = await asyncio.gather(*(ask(adapter, Prompt(f"q{k}")) for k in range(8)))
    assert [reply.candidates[0].text for reply in replies] == [f"q{k}" for k in range(8)]


async def test_identity_tells_route_and_list_length_apart(open_adapter):
    variants: list[dict[str, Any]] = [{}, {"route": "chat"}, {"top_k": 5}, {"model": "other"}]
    identities = {repr(open_adapter(**changes).identity) for changes in variants}
    assert len(identities) == len(variants)


async def test_closing_twice_is_fine(open_adapter):
    adapter = open_adapter()
    await adapter.aclose()
    await adapter.aclose()


@pytest.mark.parametrize(
    "changes", [{"route": "echo"}, {"top_k": 0}, {"base_url": "localhost"}, {"route": "chat", "echo": True}]
)
def test_unusable_settings_are_refused(open_adapter, changes):
    with pytest.raises(ConfigError):
        open_adapter(**changes)


def test_a_prompt_without_preamble_still_says_how_to_answer():
    assert one_word(Prompt("q"), (" True", " False")) == INSTRUCTION
    assert chat_messages(Prompt("q"), "") == [{"role": "user", "content": "q"}]
