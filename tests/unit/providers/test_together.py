"""The Together adapter against a scripted host: what it asks, what it reads, what it refuses."""

import math
import socket
import subprocess
import sys
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
from icm_api.providers import http
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.providers.synthetic import Synthetic
from icm_api.providers.together import Together
from icm_api.types import (
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    SequenceReply,
    SequenceRequest,
    TokenCountRequest,
    Usage,
)
from tests.servers.together import Together as Host
from tests.servers.together import limited, refused

KEY = "tgp_very-secret-0123456789"
ROUTES = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
LABELS = (" True", " False")
SHOWN = (("Text: a\nLabel:", " True"), ("Text: b\nLabel:", " False"))
PROMPT = Prompt("Text: c\nLabel:", SHOWN, preamble="Judge.")
TOP = {" True": -0.5, " False": -1.5}
FLAT = {"tokens": [" True"], "token_logprobs": [-0.5], "top_logprobs": [TOP]}
LISTED = [{"token": " True", "logprob": -0.5}, {"token": " False", "logprob": -1.5}]
CONTENT = {"content": [{**LISTED[0], "top_logprobs": LISTED}]}


def a_reply(logprobs: Any, prompt: Any = (), **choice: Any) -> Any:
    return {"model": "served", "prompt": [*prompt], "choices": [{"text": " True", "logprobs": logprobs, **choice}]}


def echoed(**changes: Any) -> Any:
    """A whole reply to a sequence, with the `logprobs` of its prompt changed."""
    body = {"model": "m", "prompt": PROMPT.text, "max_tokens": 1, "temperature": 0, "logprobs": 20, "echo": True}
    reply = Host(LABELS).completion(body)
    reply["prompt"][0]["logprobs"] |= changes
    return reply


def echo_of(name: str) -> list[Any]:
    column: list[Any] = echoed()["prompt"][0]["logprobs"][name]
    return column


@pytest.fixture
async def open_adapter(server):
    opened = []

    def build(**changes):
        settings = {"base_url": f"{server.url}/v1", "model": "asked", "api_key": None}
        opened.append(Together(**(settings | changes)))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def ask(adapter: Together, prompt: Prompt = PROMPT, **changes: Any) -> Awaitable[NextTokenReply]:
    return adapter.send(NextTokenRequest(prompt, LABELS, **changes))


def ask_all(adapter: Together, first: int = 0) -> Awaitable[SequenceReply]:
    return adapter.send(SequenceRequest(PROMPT, LABELS, first))


# --- one token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    "reply",
    [
        a_reply(FLAT),
        a_reply(CONTENT),
        a_reply({**FLAT, "top_logprobs": TOP}),
        a_reply({"tokens": [" True"], "token_logprobs": [-0.5]}, top_logprobs=TOP),
    ],
    ids=["flat", "content", "one list for the one token", "the list beside the logprobs"],
)
async def test_every_documented_shape_is_read_on_both_routes(server, open_adapter, route, reply):
    server.answer(ROUTES[route], reply)
    found = await ask(open_adapter(route=route))
    assert [(c.text, c.logprob_nats) for c in found.candidates] == [(" True", -0.5), (" False", -1.5)]
    assert found.floor_nats == pytest.approx(math.log(1 - math.exp(-0.5) - math.exp(-1.5)), abs=1e-4)
    assert found.model == "served"


async def test_completions_asks_for_one_token_and_sends_no_sampling_parameter_but_temperature(server, open_adapter):
    server.answer(ROUTES["completions"], a_reply(FLAT))
    await ask(open_adapter(top_k=5), continuation=" Tr")
    assert server.asked[0].body == {
        "model": "asked",
        "prompt": PROMPT.text + " Tr",
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 5,
    }


async def test_chat_asks_with_demonstrations_as_turns_and_a_number_of_logprobs(server, open_adapter):
    server.answer(ROUTES["chat"], a_reply(CONTENT))
    await ask(open_adapter(route="chat"))
    body = server.asked[0].body
    assert [m["role"] for m in body["messages"]] == ["system", *2 * ("user", "assistant"), "user"]
    assert (body["logprobs"], body["max_tokens"], body["temperature"]) == (20, 1, 0)
    assert set(body) <= {"model", "messages", "logprobs", "max_tokens", "temperature"}


async def test_answers_on_the_chat_route_are_read_with_the_space_that_a_turn_leaves_out(server, open_adapter):
    Host(LABELS).serve(server)
    found = await ask(open_adapter(route="chat"))
    assert {c.text for c in found.candidates} >= set(LABELS)


async def test_chat_cannot_go_on_inside_a_label(server, open_adapter):
    with pytest.raises(CapabilityError, match="inside a label"):
        await ask(open_adapter(route="chat"), continuation=" Tr")
    assert server.asked == []


@pytest.mark.parametrize("route", ROUTES)
async def test_an_empty_prompt_is_never_sent(server, open_adapter, route):
    with pytest.raises(ValueError, match="empty prompt"):
        await ask(open_adapter(route=route), Prompt(""))
    assert server.asked == []


@pytest.mark.parametrize(
    "reply",
    [
        a_reply(None),
        a_reply({"tokens": [" True"], "token_logprobs": [-0.5]}),
        a_reply({**FLAT, "top_logprobs": [{" True": 0.0}]}),
        a_reply({"tokens": [], "token_logprobs": [], "top_logprobs": []}),
        {"choices": []},
        {},
    ],
    ids=["no log-probs", "no list", "zeros, as with top_p", "no token", "no choice", "nothing"],
)
async def test_a_reply_without_usable_numbers_is_refused(server, open_adapter, reply):
    server.answer(ROUTES["completions"], reply)
    with pytest.raises(CapabilityError):
        await ask(open_adapter())


# --- sequences --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_shape", [False, True])
@pytest.mark.parametrize("starts", [False, True])
async def test_a_sequence_is_one_request_and_gives_what_next_token_requests_give(
    server, open_adapter, content_shape, starts
):
    Host(LABELS, content_shape=content_shape, starts=starts).serve(server)
    adapter = open_adapter()
    reply = await ask_all(adapter)
    assert len(server.asked) == 1
    assert server.asked[0].body["echo"] is True
    alone = [Prompt(text, SHOWN[:k], "Judge.") for k, (text, _) in enumerate((*SHOWN, (PROMPT.query, "")))]
    for position, prompt in zip(reply.positions, alone, strict=True):
        expected = (await ask(adapter, prompt)).candidates
        assert {c.text: c.logprob_nats for c in position.candidates if c.text in LABELS} == pytest.approx(
            {c.text: c.logprob_nats for c in expected if c.text in LABELS}
        )


async def test_labels_before_the_first_scored_one_are_context_only(server, open_adapter):
    Host(LABELS).serve(server)
    adapter = open_adapter()
    assert (await ask_all(adapter, first=1)).positions == (await ask_all(adapter)).positions[1:]


async def test_a_label_outside_the_list_has_its_own_log_prob_and_the_other_one_a_bound(server, open_adapter):
    tops = echo_of("top_logprobs")
    place = echo_of("tokens").index(" True")
    values = echo_of("token_logprobs")
    values[place], tops[place] = -9.0, {" maybe": -0.2, " other": -2.0}
    server.answer(ROUTES["completions"], echoed(token_logprobs=values, top_logprobs=tops))
    position = (await ask_all(open_adapter())).positions[0]
    assert {c.text: c.logprob_nats for c in position.candidates}[" True"] == -9.0
    assert position.floor_nats == pytest.approx(math.log(1 - math.exp(-0.2) - math.exp(-2.0)), abs=0.01)


@pytest.mark.parametrize(
    "prompt",
    [[], None, [{}], [{"text": PROMPT.text, "logprobs": None}], [{}, {}]],
    ids=["empty", "missing", "no log-probs", "null", "two"],
)
async def test_a_host_that_ignores_echo_is_refused_with_what_to_do(server, open_adapter, prompt):
    server.answer(ROUTES["completions"], {**echoed(), "prompt": prompt})
    with pytest.raises(CapabilityError, match=r"ignored echo.*--no-echo"):
        await ask_all(open_adapter())


@pytest.mark.parametrize(
    "changes",
    [{"top_logprobs": None}, {"top_logprobs": TOP}, {"token_logprobs": None}],
    ids=["shown tokens only", "one list for all tokens", "no numbers"],
)
async def test_an_echo_without_a_list_for_each_token_is_refused(server, open_adapter, changes):
    server.answer(ROUTES["completions"], echoed(**changes))
    with pytest.raises(CapabilityError, match=r"a list of top_logprobs for each token.*--no-echo"):
        await ask_all(open_adapter())


@pytest.mark.parametrize("names", [("token_logprobs",), ("token_logprobs", "top_logprobs")])
@pytest.mark.parametrize("shift", [1, -1])
async def test_an_echo_that_is_off_by_one_is_caught(server, open_adapter, names, shift):
    moved = {name: echo_of(name)[shift:] + echo_of(name)[:shift] for name in names}
    server.answer(ROUTES["completions"], echoed(**moved))
    with pytest.raises(CapabilityError):
        await ask_all(open_adapter())


@pytest.mark.parametrize("value", [None, 0.0, 0.69970703])
async def test_what_stands_at_the_first_token_is_never_read(server, open_adapter, value):
    values = [value, *echo_of("token_logprobs")[1:]]
    server.answer(ROUTES["completions"], echoed(), echoed(token_logprobs=values))
    adapter = open_adapter()
    assert await ask_all(adapter) == await ask_all(adapter)


async def test_a_cut_echo_is_refused(server, open_adapter):
    columns = ("tokens", "token_logprobs", "top_logprobs")
    server.answer(ROUTES["completions"], echoed(**{name: echo_of(name)[4:] for name in columns}))
    with pytest.raises(CapabilityError, match="do not spell the prompt"):
        await ask_all(open_adapter())


@pytest.mark.parametrize("settings", [{"echo": False}, {"route": "chat"}])
async def test_without_echo_no_sequence_is_answered(server, open_adapter, settings):
    adapter = open_adapter(**settings)
    assert not adapter.capabilities.prompt_logprobs
    with pytest.raises(CapabilityError, match="sequence"):
        await ask_all(adapter)
    assert server.asked == []


# --- what goes wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 402, 404, 408, 409, 429, 500, 503])
async def test_one_failure_is_one_request(server, open_adapter, answer, status):
    headers = {"Retry-After": "0", "x-should-retry": "true"}
    server.answer(ROUTES["completions"], answer({"error": {"message": "no"}}, status, headers))
    with pytest.raises(ProviderError):
        await ask(open_adapter())
    assert len(server.asked) == 1


@pytest.mark.parametrize("kind", ["dynamic_request_limited", "dynamic_token_limited"])
async def test_a_dynamic_limit_says_how_long_to_wait(server, open_adapter, kind):
    server.answer(ROUTES["completions"], limited(2.5, kind))
    with pytest.raises(RateLimitError) as caught:
        await ask(open_adapter())
    assert caught.value.retry_after_s == 2.5


@pytest.mark.parametrize(
    ("status", "kind", "message", "said"),
    [
        (401, AuthError, "Invalid API key provided", "the host wants a key and was sent none"),
        (402, RequestError, "Payment required", "no credit left"),
        (404, RequestError, "Unable to access model asked", "has no model 'asked'"),
        (503, TransientError, "The server is overloaded", "the host failed for now"),
        (
            *(422, RequestError),
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` tokens "
            "and 1 `max_new_tokens`",
            "the prompt has 5000 tokens, the context holds 4097",
        ),
        (
            *(403, RequestError),
            "`inputs` tokens + `max_new_tokens` must be <= 4097",
            "too many tokens, the context holds 4097",
        ),
        (403, AuthError, "Forbidden", "the host wants a key and was sent none"),
    ],
)
async def test_a_failure_gets_its_type_and_the_hosts_words(server, open_adapter, status, kind, message, said):
    server.answer(ROUTES["completions"], refused(status, message))
    with pytest.raises(kind, match=said) as caught:
        await ask(open_adapter())
    assert message in str(caught.value)


async def test_the_key_is_sent_and_never_shown(server, open_adapter, caplog):
    caplog.set_level("DEBUG")
    server.answer(ROUTES["completions"], refused(401, f"bad key {KEY}"))
    adapter = open_adapter(api_key=KEY)
    with pytest.raises(AuthError) as caught:
        await ask(adapter)
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in f"{caught.value} {adapter.identity} {caplog.text}"


async def test_nothing_from_the_environment_is_sent_to_the_host(server, open_adapter, monkeypatch):
    secret = "from-the-environment"
    for name in ("TOGETHER_API_KEY", "TOGETHER_PROJECT_ID", "TOGETHER_BASE_URL"):
        monkeypatch.setenv(name, secret)
    monkeypatch.setenv("TOGETHER_CUSTOM_HEADERS", f"X-Custom: {secret}\nAuthorization: Bearer {secret}")
    server.answer(ROUTES["completions"], a_reply(FLAT))
    await ask(open_adapter())
    await ask(open_adapter(api_key=KEY))
    assert secret not in str([asked.headers for asked in server.asked])
    assert "authorization" not in server.asked[0].headers
    assert server.asked[1].headers["authorization"] == f"Bearer {KEY}"
    assert not [name for name in server.asked[0].headers if name.startswith("x-stainless")]


async def test_a_proxy_of_the_environment_is_not_asked_for_a_host_on_this_machine(server, open_adapter, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.answer(ROUTES["completions"], a_reply(FLAT))
    await ask(open_adapter())
    assert len(server.asked) == 1


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


async def test_a_host_that_does_not_answer_in_time_is_transient(server, open_adapter, answer):
    server.answer(ROUTES["completions"], answer(hold=True))
    with pytest.raises(TransientError, match="did not answer in time"):
        await ask(open_adapter(timeout_s=0.05))
    assert len(server.asked) == 1


async def test_a_reply_that_is_too_large_is_refused(server, open_adapter, monkeypatch):
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1000)
    server.answer(ROUTES["completions"], {**a_reply(FLAT), "id": "x" * 2000})
    with pytest.raises(RequestError, match="larger than"):
        await ask(open_adapter())


async def test_a_host_that_is_down_is_named_with_what_to_check(open_adapter):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(TransientError, match=r"no answer from http://127.*check base_url"):
        await ask(open_adapter(base_url=url))


async def test_an_error_inside_a_good_reply_is_an_error(server, open_adapter):
    server.answer(ROUTES["completions"], {"error": {"message": "overloaded", "type": "server_error"}})
    with pytest.raises(TransientError, match="overloaded"):
        await ask(open_adapter())


# --- the adapter ------------------------------------------------------------------------------------------


async def test_usage_is_read_with_its_cached_tokens_and_unknown_stays_unknown(server, open_adapter):
    usage = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
    replies = [{**a_reply(FLAT), "usage": said} for said in (usage | {"cached_tokens": 4}, usage, None)]
    server.answer(ROUTES["completions"], *replies)
    adapter = open_adapter()
    found = [(await ask(adapter)).usage for _ in replies]
    assert found == [Usage(9, 4, 1), Usage(9, None, 1), Usage(None, None, None)]


async def test_the_address_may_end_before_the_version(server, open_adapter):
    server.answer(ROUTES["completions"], a_reply(FLAT))
    ends_early = open_adapter(base_url=f"{server.url}/")
    await ask(ends_early)
    assert ends_early.identity == open_adapter().identity


def test_what_can_change_an_answer_is_part_of_the_identity(open_adapter):
    identities = [
        open_adapter(**changes).identity for changes in ({}, {"route": "chat"}, {"top_k": 5}, {"model": "other"})
    ]
    assert len({str(identity) for identity in identities}) == len(identities)


def test_capabilities_are_those_of_the_route(open_adapter):
    completions, chat = open_adapter(context_tokens=4096).capabilities, open_adapter(route="chat").capabilities
    assert (completions.prompt_logprobs, completions.continues_label, completions.max_top_k) == (True, True, 20)
    assert completions.context_tokens == 4096
    assert (chat.prompt_logprobs, chat.continues_label) == (False, False)


@pytest.mark.parametrize(
    "changes",
    [
        *({"route": "votes"}, {"route": "chat", "echo": True}, {"top_k": 0}, {"top_k": 21}),
        *({"base_url": "ftp://localhost"}, {"base_url": "http://far.example", "api_key": KEY}, {"api_key": "a b"}),
    ],
)
def test_unusable_settings_are_refused(open_adapter, changes):
    with pytest.raises(ConfigError):
        open_adapter(**changes)


async def test_an_unknown_request_is_refused(open_adapter):
    with pytest.raises(CapabilityError, match="token_count"):
        await open_adapter().send(TokenCountRequest(("a",)))


async def test_closing_twice_is_safe(open_adapter):
    adapter = open_adapter()
    await adapter.aclose()
    await adapter.aclose()


async def test_the_registry_opens_it_with_its_key_for_its_own_host_only(server):
    own = await open_provider("together", ProviderSettings(model="m"), {"TOGETHER_API_KEY": KEY})
    assert own.identity["base_url"] == "https://api.together.ai/v1"
    assert own.capabilities.prompt_logprobs
    await own.aclose()
    Host(LABELS, Synthetic()).serve(server)
    elsewhere = ProviderSettings(model="m", base_url=f"{server.url}/v1", echo=False)
    other = await open_provider("together", elsewhere, {"TOGETHER_API_KEY": KEY})
    assert not other.capabilities.prompt_logprobs
    await other.send(NextTokenRequest(PROMPT, LABELS))
    assert "authorization" not in server.asked[0].headers
    await other.aclose()


def test_the_module_loads_no_sdk_before_it_is_opened():
    code = "import sys, icm_api.providers.together; print('together' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
