"""The newer routes of an OpenAI-shaped host, and what a host's row can say: what is asked, read and refused."""

import json
from typing import Any

import pytest

from icm_api.errors import CapabilityError, ConfigError, OutOfReachError, RequestError, TransientError
from icm_api.providers.choices import one_word
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import ChoiceReply, ChoiceRequest, NextTokenReply, NextTokenRequest, Prompt, SequenceRequest, Usage

RESPONSES, DECISIONS, CHAT = "/v1/responses", "/v1/decisions", "/v1/chat/completions"
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),), preamble="Judge.")
LABELS = (" True", " False")
TURNS = [
    {"role": "system", "content": one_word(PROMPT, LABELS)},
    {"role": "user", "content": "Text: a\nLabel:"},
    {"role": "assistant", "content": "True"},
    {"role": "user", "content": "Text: b\nLabel:"},
]
TOP = [{"token": "True", "logprob": -0.5}, {"token": " False", "logprob": -1.5}, {"token": "\n", "logprob": -3.0}]
USAGE = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}
STATED = {"True": 0.7, "False": 0.3}


def a_response(*parts: Any) -> Any:
    message = {"type": "message", "role": "assistant", "content": list(parts)}
    return {"model": "served", "output": [{"type": "reasoning", "summary": []}, message], "usage": USAGE, "error": None}


def a_text(logprobs: Any) -> Any:
    return {"type": "output_text", "text": "True", "logprobs": logprobs}


def a_decision(stated: dict[Any, Any], **extra: Any) -> Any:
    probabilities = [{"value": value, "probability": p} for value, p in stated.items()]
    answer = {"type": "choice", "choice": "True", "confidence": 0.7, "probabilities": probabilities}
    return {"model": "served", "answers": [answer | extra], "usage": USAGE}


def a_vote(content: Any, ended: str = "stop", **message: Any) -> Any:
    choice = {"index": 0, "finish_reason": ended, "message": {"role": "assistant", "content": content, **message}}
    return {"model": "served", "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 6}}


@pytest.fixture
async def open_adapter(server):
    opened = []

    def build(**changes):
        settings = {"base_url": f"{server.url}/v1", "model": "asked", "api_key": None}
        opened.append(OpenAICompatible(**(settings | changes)))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


async def expect(adapter: OpenAICompatible, prompt: Prompt = PROMPT) -> NextTokenReply:
    return await adapter.send(NextTokenRequest(prompt, LABELS))


async def choose(adapter: OpenAICompatible, labels: tuple[str, ...] = LABELS, draw: int = 0) -> ChoiceReply:
    return await adapter.send(ChoiceRequest(PROMPT, labels, draw))


# --- responses --------------------------------------------------------------------------------------------


async def test_responses_asks_for_log_probs_of_a_short_answer_that_is_not_stored(server, open_adapter):
    server.answer(RESPONSES, a_response(a_text([{"token": "True", "logprob": -0.5, "top_logprobs": TOP}])))
    await expect(open_adapter(route="responses", top_k=5))
    assert server.asked[0].body == {
        "model": "asked",
        "input": [{"type": "message", **turn} for turn in TURNS],
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 5,
        "max_output_tokens": 16,
        "temperature": 0,
        "store": False,
    }


async def test_responses_reads_the_first_token_of_the_first_text_after_any_reasoning(server, open_adapter):
    later = {"token": "!", "logprob": -0.1, "top_logprobs": [{"token": "!", "logprob": -0.1}]}
    server.answer(RESPONSES, a_response(a_text([{"token": "True", "logprob": -0.5, "top_logprobs": TOP}, later])))
    reply = await expect(open_adapter(route="responses"))
    assert [(c.text, c.logprob_nats) for c in reply.candidates] == [(" True", -0.5), (" False", -1.5), ("\n", -3.0)]
    assert reply.floor_nats == -3.0
    assert (reply.model, reply.usage) == ("served", Usage(9, 4, 2))


@pytest.mark.parametrize("logprobs", [None, [], "none"])
async def test_a_model_without_log_probs_is_told_with_the_routes_that_do_without(server, open_adapter, logprobs):
    server.answer(RESPONSES, a_response(a_text(logprobs)))
    with pytest.raises(CapabilityError, match=r"no log-probabilities.*--route votes.*--route decisions"):
        await expect(open_adapter(route="responses"))
    choices = [{"index": 0, "logprobs": logprobs or None, "message": {"content": "True"}}]
    server.answer(CHAT, {"choices": choices if logprobs != "none" else []})
    with pytest.raises(CapabilityError):
        await expect(open_adapter(route="chat"))


@pytest.mark.parametrize("status", [400, 403])
async def test_a_host_that_refuses_to_be_asked_for_log_probs_is_told_the_same_way(server, open_adapter, answer, status):
    error = {"message": "'logprobs' is not supported with this model", "code": "unsupported_parameter"}
    for path, route in ((RESPONSES, "responses"), (CHAT, "chat")):
        server.answer(path, answer({"error": error}, status))
        with pytest.raises(CapabilityError, match=r"not supported with this model.*--route votes"):
            await expect(open_adapter(route=route))


async def test_another_refusal_stays_what_it_is(server, open_adapter, answer):
    server.answer(RESPONSES, answer({"error": {"message": "unknown parameter: 'store'"}}, 400))
    with pytest.raises(RequestError, match="unknown parameter"):
        await expect(open_adapter(route="responses"))


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (a_response({"type": "refusal", "refusal": "I cannot"}), "refuses to answer.*I cannot"),
        (a_response(), "no answer"),
        ({"output": [{"type": "reasoning", "summary": []}]}, "no answer"),
        ({"output": None}, "no answer"),
        ({}, "no answer"),
        (a_response(a_text([{"token": "True", "logprob": -0.5}])), "no list of candidates"),
        (a_response(a_text([None])), "no list of candidates"),
    ],
)
async def test_a_response_without_usable_numbers_is_refused(server, open_adapter, document, problem):
    server.answer(RESPONSES, document)
    with pytest.raises(CapabilityError, match=problem):
        await expect(open_adapter(route="responses"))


async def test_a_response_that_failed_at_the_host_is_transient(server, open_adapter):
    server.answer(RESPONSES, {"status": "failed", "error": {"code": "server_error", "message": "sorry"}, "output": []})
    with pytest.raises(TransientError, match="sorry"):
        await expect(open_adapter(route="responses"))


# --- decisions --------------------------------------------------------------------------------------------


async def test_decisions_asks_one_question_with_the_labels_in_the_order_offered(server, open_adapter):
    server.answer(DECISIONS, a_decision(STATED))
    adapter = open_adapter(route="decisions")
    await choose(adapter, (" False", " True"))
    body = server.asked[0].body
    (question,) = body.pop("questions")
    assert question.pop("instructions")
    assert question == {"type": "choice", "choices": [{"value": "False"}, {"value": "True"}]}
    assert body == {"model": "asked", "input": [{"role": "system", "content": "Judge."}, *TURNS[1:]]}
    assert adapter.capabilities.choices == "probabilities"


async def test_decisions_probabilities_are_matched_by_value_not_by_order(server, open_adapter):
    server.answer(DECISIONS, a_decision(dict(reversed(STATED.items()))))
    reply = await choose(open_adapter(route="decisions"))
    assert reply.shares == pytest.approx((0.7, 0.3))
    assert (reply.model, reply.usage) == ("served", Usage(9, 4, 2))


async def test_rounded_probabilities_are_made_to_sum_to_one(server, open_adapter):
    server.answer(DECISIONS, a_decision({"a": 0.33, "b": 0.33, "c": 0.33}))
    reply = await choose(open_adapter(route="decisions"), (" a", " b", " c"))
    assert sum(reply.shares) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        (a_decision({"True": 1.0}), "one probability for each"),
        (a_decision({"True": 0.5, "False": 0.3, "Maybe": 0.2}), "one probability for each"),
        (a_decision({True: 0.7, False: 0.3}), "one probability for each"),
        (a_decision({"true": 0.7, "false": 0.3}), "one probability for each"),
        (a_decision({}, probabilities=[{"value": "True", "probability": 0.5}] * 2), "one probability for each"),
        (a_decision({}, probabilities=None), "one probability for each"),
        (a_decision({"True": 0.7, "False": 0.2}), r"sum to 0\.9000"),
        (a_decision({"True": 0.0, "False": 0.0}), r"sum to 0\.0000"),
        (a_decision({"True": None, "False": 1.0}), "None as a probability"),
        (a_decision({"True": True, "False": 0.0}), "True as a probability"),
        (a_decision({"True": 1.2, "False": -0.2}), r"1\.2 as a probability"),
        (a_decision({"True": "0.7", "False": "0.3"}), "'0.7' as a probability"),
        ({"answers": []}, "0 answers"),
        ({"answers": [{"type": "refusal"}] * 2}, "2 answers"),
        ({}, "0 answers"),
        ({"answers": [{"type": "predicate", "probability": 0.7}]}, "one probability for each"),
    ],
)
async def test_a_decision_without_every_labels_probability_is_refused(server, open_adapter, document, problem):
    server.answer(DECISIONS, document)
    with pytest.raises(CapabilityError, match=problem) as caught:
        await choose(open_adapter(route="decisions"))
    assert not isinstance(caught.value, OutOfReachError)


async def test_not_a_number_is_no_probability(server, open_adapter, answer):
    body = json.dumps(a_decision({"True": float("nan"), "False": 1.0})).encode()
    server.answer(DECISIONS, answer(body))
    with pytest.raises(CapabilityError, match="nan as a probability"):
        await choose(open_adapter(route="decisions"))


async def test_a_refused_decision_says_nothing_of_this_example(server, open_adapter):
    server.answer(DECISIONS, {"answers": [{"type": "refusal", "name": None}]})
    reply = await choose(open_adapter(route="decisions"))
    assert reply.shares == ()
    assert "refuses to label the text that begins" in reply.said


@pytest.mark.parametrize("labels", [(" a",), (" a", " a"), (" a", "a"), tuple(f" {k}" for k in range(256))])
async def test_labels_that_decisions_cannot_take_are_never_sent(server, open_adapter, labels):
    with pytest.raises(CapabilityError, match="2 to 255 different labels"):
        await choose(open_adapter(route="decisions"), labels)
    assert server.asked == []


# --- votes ------------------------------------------------------------------------------------------------


async def test_votes_holds_one_drawn_answer_to_the_labels(server, open_adapter):
    server.answer(CHAT, a_vote('{"label": "False"}'))
    adapter = open_adapter(route="votes")
    reply = await choose(adapter)
    body = server.asked[0].body
    assert reply == ChoiceReply((0.0, 1.0), Usage(9, None, 6), "served")
    assert body["temperature"] == 1
    assert body["max_tokens"] >= 64
    assert body["response_format"]["type"] == "json_schema"
    assert body["response_format"]["json_schema"]["strict"] is True
    assert body["response_format"]["json_schema"]["schema"]["properties"]["label"]["enum"] == ["False", "True"]
    assert [turn["role"] for turn in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][2]["content"] == '{"label": "True"}'
    assert not {"logprobs", "top_logprobs", "n"} & set(body)
    assert adapter.capabilities.choices == "votes"


async def test_draws_differ_in_nothing_that_the_host_sees(server, open_adapter):
    server.answer(CHAT, a_vote('{"label": "True"}'))
    adapter = open_adapter(route="votes")
    for draw in range(2):
        await choose(adapter, draw=draw)
    assert server.asked[0].body == server.asked[1].body


@pytest.mark.parametrize(
    "document",
    [
        a_vote('{"label": "Maybe"}'),
        a_vote("True"),
        a_vote('{"label": "Fal', ended="length"),
        a_vote(None, refusal="I cannot"),
        a_vote("", ended="content_filter"),
    ],
)
async def test_an_answer_that_is_no_label_is_a_reply_with_its_cost_and_without_shares(server, open_adapter, document):
    server.answer(CHAT, document)
    reply = await choose(open_adapter(route="votes"))
    assert (reply.shares, reply.usage) == ((), Usage(9, None, 6))
    assert reply.said


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (a_vote(None), TransientError),
        (a_vote({"label": "True"}), TransientError),
        ({"choices": []}, CapabilityError),
        ({"choices": [{"message": None, "finish_reason": "stop"}]}, TransientError),
    ],
)
async def test_a_reply_without_an_answer_is_refused(server, open_adapter, document, kind):
    server.answer(CHAT, document)
    with pytest.raises(kind):
        await choose(open_adapter(route="votes"))
    assert len(server.asked) == 1


# --- what a route answers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["decisions", "votes"])
async def test_a_route_of_choices_gives_no_log_probs(server, open_adapter, route):
    adapter = open_adapter(route=route)
    assert adapter.capabilities.max_top_k is None
    for request in (NextTokenRequest(PROMPT, LABELS), SequenceRequest(PROMPT, LABELS)):
        with pytest.raises(CapabilityError, match=f"on route {route}"):
            await adapter.send(request)
    assert server.asked == []


@pytest.mark.parametrize("route", ["completions", "chat", "responses"])
async def test_a_route_of_log_probs_takes_no_choices(server, open_adapter, route):
    adapter = open_adapter(route=route)
    assert adapter.capabilities.choices is None
    with pytest.raises(CapabilityError, match=f"on route {route}"):
        await choose(adapter)
    assert server.asked == []


# --- facts about a host -----------------------------------------------------------------------------------


async def test_more_for_the_body_goes_over_our_own_and_belongs_to_the_identity(server, open_adapter):
    server.answer(CHAT, a_vote('{"label": "True"}'))
    adapter = open_adapter(route="votes", extra_body={"temperature": 0.5, "provider": {"order": ["one"]}})
    await choose(adapter)
    assert server.asked[0].body["temperature"] == 0.5
    assert server.asked[0].body["provider"] == {"order": ["one"]}
    assert adapter.identity["extra_body"] == {"temperature": 0.5, "provider": {"order": ["one"]}}
    assert adapter.identity != open_adapter(route="votes").identity


async def test_headers_are_sent_and_never_hold_a_key(server, open_adapter):
    server.answer(CHAT, a_vote('{"label": "True"}'))
    await choose(open_adapter(route="votes", headers={"X-Title": "icm-api"}))
    assert server.asked[0].headers["x-title"] == "icm-api"
    with pytest.raises(ConfigError, match="api_key_env"):
        open_adapter(headers={"Authorization": "Bearer sk-secret"})


async def test_the_hosts_limit_on_candidates_is_asked_for_and_never_passed(server, open_adapter):
    server.answer(RESPONSES, a_response(a_text([{"token": "True", "logprob": -0.5, "top_logprobs": TOP}])))
    await expect(open_adapter(route="responses", max_top_k=8))
    assert server.asked[0].body["top_logprobs"] == 8
    assert open_adapter(route="chat", max_top_k=50).capabilities.max_top_k == 20
    with pytest.raises(ConfigError, match="at least 1 and at most 8, not 9"):
        open_adapter(route="chat", max_top_k=8, top_k=9)


@pytest.mark.parametrize("route", ["decisions", "votes"])
def test_a_list_length_without_a_list_is_refused(open_adapter, route):
    with pytest.raises(ConfigError, match=f"top_k says nothing on route {route}"):
        open_adapter(route=route, top_k=5)


async def test_prompts_that_begin_alike_are_sent_to_one_cache(server, open_adapter):
    others = [Prompt("c", PROMPT.demonstrations, "Judge."), Prompt("b", (("other", " True"),), "Judge."), Prompt("b")]
    for route in ("chat", "responses", "decisions", "votes"):
        adapter = open_adapter(route=route, sends_cache_key=True)
        server.asked.clear()
        for prompt in (PROMPT, *others):
            ask = ChoiceRequest(prompt, LABELS) if adapter.capabilities.choices else NextTokenRequest(prompt, ())
            with pytest.raises((CapabilityError, RequestError)):  # nothing is scripted
                await adapter.send(ask)
        keys = [asked.body["prompt_cache_key"] for asked in server.asked]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3
        assert max(map(len, keys)) <= 64


async def test_reasoning_is_turned_off_where_a_route_has_a_word_for_it(server, open_adapter):
    for route in ("chat", "responses", "votes"):
        adapter = open_adapter(route=route, reasoning_effort="none", tokens_field="max_completion_tokens")
        request = ChoiceRequest(PROMPT, LABELS) if route == "votes" else NextTokenRequest(PROMPT, LABELS)
        with pytest.raises(RequestError):
            await adapter.send(request)
        body = server.asked[-1].body
        assert body.get("reasoning_effort", body.get("reasoning")) == (
            {"effort": "none"} if route == "responses" else "none"
        )
        assert "max_tokens" not in body
        assert adapter.identity["reasoning_effort"] == "none"
        assert adapter.identity != open_adapter(route=route).identity
