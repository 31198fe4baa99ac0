"""The Gemini adapter against a scripted API: what it asks, what it reads, what it refuses."""

import math
from typing import Any

import pytest

from icm_api.client.meter import bound_of
from icm_api.errors import (
    AuthError,
    CapabilityError,
    ConfigError,
    OutOfReachError,
    ProviderError,
    RateLimitError,
    RequestError,
    TransientError,
)
from icm_api.providers.choices import answer_tokens, one_word
from icm_api.providers.gemini import ROOM_BESIDE_BUDGET, Gemini
from icm_api.types import ChoiceRequest, NextTokenRequest, Prompt, SequenceRequest, Usage
from tests.servers.gemini import NO_LOGPROBS

KEY = "planted-key-0123456789"
PATH = "/v1beta/models/gemini-2.5-flash:generateContent"
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),), preamble="Judge.")
LABELS = (" True", " False")
TOP = [
    {"token": "True", "tokenId": 5, "logProbability": -0.5},
    {"token": " False", "tokenId": 6, "logProbability": -1.5},
]
USAGE = {"promptTokenCount": 40, "cachedContentTokenCount": 30, "candidatesTokenCount": 1, "thoughtsTokenCount": 2}


def a_reply(text: str = "True", **more: Any) -> dict[str, Any]:
    answer = {"content": {"parts": [{"text": "hm", "thought": True}, {"text": text}]}, "finishReason": "STOP"}
    return {"candidates": [{**answer, **more}], "usageMetadata": USAGE, "modelVersion": "gemini-2.5-flash-002"}


def listed(top: Any) -> dict[str, Any]:
    return a_reply(logprobsResult={"topCandidates": [{"candidates": top}]})


def refusal(status: str, message: str, *details: Any) -> Any:
    return {"error": {"code": 0, "status": status, "message": message, "details": [*details]}}


@pytest.fixture
async def gemini(server):
    opened = []

    def build(**changes: Any) -> Gemini:
        settings = {"base_url": f"{server.url}/v1beta", "model": "gemini-2.5-flash", "api_key": KEY}
        opened.append(Gemini(**(settings | changes)))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


async def ask(adapter: Gemini, prompt: Prompt = PROMPT, **changes: Any) -> Any:
    return await adapter.send(NextTokenRequest(prompt, LABELS, **changes))


async def test_chat_asks_for_one_token_with_demonstrations_as_turns_and_no_thoughts(server, gemini):
    server.answer(PATH, listed(TOP))
    await ask(gemini(top_k=5))
    (asked,) = server.asked
    assert asked.headers["x-goog-api-key"] == KEY
    assert asked.body == {
        "systemInstruction": {"parts": [{"text": one_word(PROMPT, LABELS)}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Text: a\nLabel:"}]},
            {"role": "model", "parts": [{"text": "True"}]},
            {"role": "user", "parts": [{"text": "Text: b\nLabel:"}]},
        ],
        "generationConfig": {
            "maxOutputTokens": 1,
            "temperature": 0,
            "responseLogprobs": True,
            "logprobs": 5,
            "thinkingConfig": {"thinkingBudget": 0},
        },
    }


async def test_the_listed_tokens_are_read_as_continuations(server, gemini):
    server.answer(PATH, listed(TOP))
    reply = await ask(gemini())
    assert [(c.text, c.logprob_nats, c.token_id) for c in reply.candidates] == [(" True", -0.5, 5), (" False", -1.5, 6)]
    assert reply.floor_nats == pytest.approx(math.log(1 - math.exp(-0.5) - math.exp(-1.5)), abs=1e-4)
    assert reply.usage == Usage(40, 30, 3)
    assert reply.model == "gemini-2.5-flash-002"


@pytest.mark.parametrize(
    ("model", "chosen", "sent"),
    [
        ("gemini-2.5-flash-lite", None, {"thinkingBudget": 0}),
        ("gemini-2.5-pro", None, {"thinkingBudget": 128}),
        ("gemini-3-flash", None, {"thinkingLevel": "minimal"}),
        ("gemini-3-pro-preview", None, {"thinkingLevel": "low"}),
        ("gemini-2.0-flash", None, None),
        ("gemini-2.5-pro", "omit", None),
        ("gemini-2.5-pro", "256", {"thinkingBudget": 256}),
        ("gemini-9", "low", {"thinkingLevel": "low"}),
    ],
)
async def test_a_model_thinks_as_little_as_it_can_or_as_the_user_says(server, gemini, model, chosen, sent):
    server.answer(f"/v1beta/models/{model}:generateContent", a_reply('{"label": "True"}'))
    adapter = gemini(model=f"models/{model}", thinking=chosen, route="votes")
    await adapter.send(ChoiceRequest(PROMPT, LABELS))
    assert server.asked[0].body["generationConfig"].get("thinkingConfig") == sent
    assert adapter.identity["thinking"] == (sent or {})


@pytest.mark.parametrize(
    ("model", "chosen", "room"),
    [
        ("gemini-2.5-flash", None, 0),
        ("gemini-2.0-flash", "omit", 0),
        ("gemini-2.5-pro", None, 128 + ROOM_BESIDE_BUDGET),
        ("gemini-2.5-flash", "1000", 1000 + ROOM_BESIDE_BUDGET),
        ("gemini-3-flash", None, 512),
        ("gemini-3-pro", None, 2048),
        ("gemini-2.5-pro", "omit", 32_768),
    ],
)
async def test_an_answer_has_room_for_the_thoughts_before_it_and_the_meter_knows(server, gemini, model, chosen, room):
    server.answer(f"/v1beta/models/{model}:generateContent", a_reply('{"label": "True"}'))
    adapter, request = gemini(model=model, thinking=chosen, route="votes"), ChoiceRequest(PROMPT, LABELS)
    await adapter.send(request)
    most = server.asked[0].body["generationConfig"]["maxOutputTokens"]
    assert most == answer_tokens(LABELS) + room
    assert bound_of(request, adapter.capabilities.thought_tokens).output_tokens == most


@pytest.mark.parametrize(
    ("model", "chosen"), [("gemini-2.5-pro", None), ("gemini-3-pro", None), ("gemini-2.5-flash", "64"), ("m", "high")]
)
def test_the_first_token_of_a_model_that_thinks_is_not_asked_for(gemini, model, chosen):
    with pytest.raises(ConfigError, match="--route votes"):
        gemini(model=model, thinking=chosen)


async def test_votes_are_held_to_a_schema_and_read_without_the_thoughts(server, gemini):
    server.answer(PATH, a_reply('{"label": "False"}'))
    adapter = gemini(route="votes")
    reply = await adapter.send(ChoiceRequest(PROMPT, LABELS, draw=3))
    assert reply.shares == (0.0, 1.0)
    config = server.asked[0].body["generationConfig"]
    assert config["responseMimeType"] == "application/json"
    assert config["responseJsonSchema"]["properties"]["label"]["enum"] == ["False", "True"]
    assert "responseLogprobs" not in config
    assert adapter.capabilities.choices == "votes"


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (a_reply('{"label": "Maybe"}'), "none of the labels"),
        (a_reply('{"lab', finishReason="MAX_TOKENS"), "cut off"),
        (a_reply("", finishReason="SAFETY"), "SAFETY"),
        ({"promptFeedback": {"blockReason": "OTHER"}}, "OTHER"),
    ],
)
async def test_an_answer_that_is_no_vote_is_a_reply_without_shares(server, gemini, reply, message):
    server.answer(PATH, reply)
    found = await gemini(route="votes").send(ChoiceRequest(PROMPT, LABELS))
    assert found.shares == ()
    assert message in found.said


async def test_an_empty_answer_may_be_asked_again(server, gemini):
    server.answer(PATH, a_reply(""))
    with pytest.raises(TransientError, match="empty"):
        await gemini(route="votes").send(ChoiceRequest(PROMPT, LABELS))


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (a_reply(), CapabilityError, "--route votes"),
        (listed([]), CapabilityError, "--route votes"),
        (listed([{"token": "True", "logProbability": None}]), CapabilityError, "None as a log-probability"),
        (listed([{"token": "True", "logProbability": 0.0}]), CapabilityError, "all 0 or stand-ins"),
        (listed([{"token": "a", "logProbability": -0.1}] * 2), CapabilityError, "more than all of it"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, OutOfReachError, "PROHIBITED_CONTENT"),
    ],
)
async def test_a_reply_without_usable_log_probs_is_refused(server, gemini, reply, kind, message):
    server.answer(PATH, reply)
    with pytest.raises(kind, match=message):
        await ask(gemini())


DELAY = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.07s"}
QUOTA = "You exceeded your current quota, please check your plan and billing details."


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, NO_LOGPROBS, CapabilityError),
        (400, refusal("INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}), AuthError),
        (400, refusal("INVALID_ARGUMENT", "Unknown name"), RequestError),
        (403, refusal("PERMISSION_DENIED", "blocked"), AuthError),
        (404, refusal("NOT_FOUND", "models/m is not found"), RequestError),
        (429, refusal("RESOURCE_EXHAUSTED", QUOTA, DELAY), RateLimitError),
        (429, refusal("RESOURCE_EXHAUSTED", QUOTA, {"quotaId": "RequestsPerDay"}, DELAY), RequestError),
        (503, refusal("UNAVAILABLE", "The model is overloaded."), TransientError),
        (500, b"<html>", TransientError),
    ],
)
async def test_errors_get_their_meaning_and_one_failure_is_one_request(server, gemini, answer, status, body, kind):
    server.answer(PATH, answer(body, status))
    with pytest.raises(ProviderError) as caught:
        await ask(gemini())
    assert type(caught.value) is kind
    assert len(server.asked) == 1


async def test_the_wish_to_wait_is_read_from_the_body(server, gemini, answer):
    server.answer(PATH, answer(refusal("RESOURCE_EXHAUSTED", QUOTA, DELAY), 429))
    with pytest.raises(RateLimitError) as caught:
        await ask(gemini())
    assert caught.value.retry_after_s == pytest.approx(34.07)


async def test_the_key_is_never_shown(server, gemini, answer):
    server.answer(PATH, answer(refusal("INVALID_ARGUMENT", f"bad {KEY}", {"reason": "API_KEY_INVALID"}), 400))
    adapter = gemini()
    with pytest.raises(AuthError) as caught:
        await ask(adapter)
    assert KEY not in f"{caught.value} {adapter.identity} {adapter._host}"


async def test_what_it_cannot_answer_is_refused_unsent(server, gemini):
    with pytest.raises(CapabilityError, match="inside a label"):
        await ask(gemini(), continuation=" Tr")
    with pytest.raises(CapabilityError, match="'sequence'"):
        await gemini().send(SequenceRequest(PROMPT, LABELS))
    with pytest.raises(CapabilityError, match="'choice'"):
        await gemini().send(ChoiceRequest(PROMPT, LABELS))
    with pytest.raises(ValueError, match="empty prompt"):
        await ask(gemini(), Prompt(""))
    assert server.asked == []


@pytest.mark.parametrize(
    "changes", [{"route": "completions"}, {"top_k": 21}, {"base_url": "ftp://x"}, {"thinking": "lots"}]
)
def test_unusable_settings_are_refused(gemini, changes):
    with pytest.raises(ConfigError, match=r"route|top_k|base_url|thinking must be"):
        gemini(**changes)
