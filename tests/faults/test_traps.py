"""The fifteen ways in which hosts mislead an adapter, each on a server that behaves that way.

What is held at length elsewhere: echoes in tests/unit/providers/test_echo.py, lists in test_listed.py, tokens
in test_llama_cpp.py, the one retry loop in tests/unit/client/test_retry.py, the probe in tests/unit/run/test_probe.py.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from icm_api.client.cache import open_cache
from icm_api.client.codec import request_key
from icm_api.client.meter import Limits
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import build_client
from icm_api.core.context import Query
from icm_api.errors import (
    AuthError,
    CapabilityError,
    OutOfReachError,
    ProviderError,
    RateLimitError,
    RequestError,
    TransientError,
)
from icm_api.providers.base import Provider
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.run.probe import probe
from icm_api.run.scorer import PromptScorer
from icm_api.tasks.labels import labels_from_names
from icm_api.types import Label, LabelScore, NextTokenRequest, Prompt, SequenceReply, SequenceRequest
from tests.conftest import Answer, ScriptedServer
from tests.unit.providers.test_llama_cpp import MODELS, PIECES, PROMPT_IDS, PROPS, TinyModel
from tests.unit.providers.test_llama_cpp import PROMPT as TINY_PROMPT
from tests.unit.testing import toy

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
WANTED = (" True", " False")
PROMPT = Prompt("Text: c\nLabel:", (("Text: a\nLabel:", " True"), ("Text: b\nLabel:", " False")))
SEQUENCE = SequenceRequest(PROMPT, WANTED)
QUESTION = NextTokenRequest(PROMPT, WANTED)

Open: TypeAlias = Callable[..., OpenAICompatible]


@pytest.fixture
async def adapter(server: ScriptedServer) -> AsyncIterator[Open]:
    """The OpenAI-shaped adapter on the scripted server, with echo unless told otherwise."""
    opened = []

    def build(**changes: Any) -> OpenAICompatible:
        settings: dict[str, Any] = {"base_url": f"{server.url}/v1", "model": "m", "api_key": None, "echo": True}
        opened.append(OpenAICompatible(**(settings | changes)))
        return opened[-1]

    yield build
    for each in opened:
        await each.aclose()


@pytest.fixture
async def tiny(server: ScriptedServer) -> AsyncIterator[Callable[..., Awaitable[LlamaCpp]]]:
    """llama.cpp's adapter on a server whose model can be checked by hand."""
    opened = []

    async def connect(model: TinyModel | None = None, **answers: Any) -> LlamaCpp:
        model = model or TinyModel()
        routes = {"/props": PROPS, "/v1/models": MODELS, "/tokenize": model.tokenise, "/completion": model.complete}
        for path, reply in {**routes, **answers}.items():
            server.answer(path, reply)
        opened.append(await LlamaCpp.connect(base_url=server.url))
        return opened[-1]

    yield connect
    for each in opened:
        await each.aclose()


def echoed() -> dict[str, Any]:
    """A right echo of PROMPT; the tests spoil it."""
    return toy.legacy(toy.tokens(PROMPT.text), PROMPT.text, echo=True)


def generated(tops: dict[str, float]) -> dict[str, Any]:
    """A list of candidates for one generated token."""
    return toy.reply({"tokens": [next(iter(tops))], "token_logprobs": [-1.0], "top_logprobs": [tops]})


def places(reply: SequenceReply) -> list[dict[str, float]]:
    return [{c.text: c.logprob_nats for c in position.candidates if c.text in WANTED} for position in reply.positions]


def expected_places() -> list[dict[str, float]]:
    """What the toy host expects at each label of PROMPT, and after it."""
    chunks = PROMPT.chunks
    texts = ["".join(chunks[:k]) for k in (1, 3, 5)]
    return [{word: toy.expected(text)[word] for word in WANTED} for text in texts]


async def score(provider: Provider, labels: tuple[Label, ...] = labels_from_names(("False", "True"))) -> LabelScore:
    scorer = PromptScorer(provider, labels, ["Text: a\nLabel:"], min_mass=1e-4)
    return (await scorer.score([Query(0, ())]))[0]


# --- 1: echo ignored ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["legacy", "chat", "empty", "missing"])
async def test_01_an_echo_that_is_ignored_is_refused_and_never_sums_to_nought(server, adapter, shape):
    only_generated: Any = {
        "legacy": toy.legacy([], PROMPT.text, echo=False),
        "chat": {"content": [{"token": " True", "logprob": -0.1, "top_logprobs": []}]},
        "empty": {"tokens": [], "token_logprobs": [], "top_logprobs": []},
        "missing": None,
    }[shape]
    server.answer(COMPLETIONS, toy.reply(only_generated))
    with pytest.raises(CapabilityError):
        await adapter().send(SEQUENCE)


# --- 2: prompt values in another place --------------------------------------------------------------------


async def test_02_prompt_values_in_another_place_are_refused_and_not_read_as_something_else(server, adapter):
    """vLLM's own field, Together's top level, SGLang's meta_info: read by adapters of their own."""
    elsewhere = toy.reply(toy.legacy([], PROMPT.text, echo=False)) | {
        "prompt": [{"text": PROMPT.text, "logprobs": echoed()}],
        "meta_info": {"input_token_logprobs": [[-0.1, 7, " True"]]},
    }
    elsewhere["choices"][0]["prompt_logprobs"] = [None, {"7": {"logprob": -0.1, "decoded_token": " True"}}]
    server.answer(COMPLETIONS, elsewhere)
    with pytest.raises(CapabilityError, match="echo"):
        await adapter().send(SEQUENCE)


async def test_02_the_chat_shape_on_the_completions_route_is_read_all_the_same(server, adapter):
    tops = [{"token": " True", "logprob": -0.5}, {"token": " False", "logprob": -1.5}]
    server.answer(COMPLETIONS, toy.reply({"content": [{"token": " True", "logprob": -0.5, "top_logprobs": tops}]}))
    reply = await adapter().send(QUESTION)
    assert {c.text: c.logprob_nats for c in reply.candidates} == {" True": -0.5, " False": -1.5}


# --- 3: the first token -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 0.0, math.nan, -9999.0])
async def test_03_whatever_stands_at_the_first_token_counts_for_nothing(server, adapter, value):
    echo = echoed()
    echo["token_logprobs"][0] = value
    echo["top_logprobs"][0] = None if value is None else {echo["tokens"][0]: value}
    server.answer(COMPLETIONS, toy.reply(echo))
    assert places(await adapter().send(SEQUENCE)) == expected_places()


# --- 4: off by one ----------------------------------------------------------------------------------------


def late_by_one(body: Any) -> Any:
    """Numbers of the next place, as from llama-cpp-python for models without BOS."""
    told = toy.complete(body)
    if body.get("echo"):
        lists = told["choices"][0]["logprobs"]
        for name in ("token_logprobs", "top_logprobs"):
            lists[name] = [None, *lists[name][2:], lists[name][-1]]
    return told


async def test_04_an_echo_off_by_one_is_found_by_the_probe(server, adapter):
    server.answer(COMPLETIONS, late_by_one)
    record = await probe(adapter(), labels_from_names(("False", "True")), price=None)
    assert [check.name for check in record.failed] == ["prompt log-probs"]


async def test_04_an_echo_without_its_last_token_is_refused_and_no_label_token_dropped(server, adapter):
    echo = {name: column[:-1] for name, column in echoed().items()}
    server.answer(COMPLETIONS, toy.reply(echo))
    with pytest.raises(CapabilityError, match="after it are missing"):
        await adapter().send(SEQUENCE)


# --- 5: tokens over the boundary --------------------------------------------------------------------------


async def test_05_a_token_over_the_edge_of_a_label_is_refused_in_an_echo(server, adapter):
    merged = re.findall(r"\n\n|\n|: ?True| ?\w+|.", PROMPT.text)
    assert ": True" in merged
    server.answer(COMPLETIONS, toy.reply(toy.legacy(merged, PROMPT.text, echo=True)))
    with pytest.raises(CapabilityError, match="no probability of its own"):
        await adapter().send(SEQUENCE)


async def test_05_a_label_that_merges_with_the_prompt_is_refused_where_the_server_tokenises(tiny):
    class Merging(TinyModel):
        def tokenise(self, body: Any) -> Any:
            told = super().tokenise(body)["tokens"]
            if told[-2:] == [4, 5]:  # "\nLabel:" and " True" become one token
                told = [*told[:-2], 11]
            return {"tokens": told}

    provider = await tiny(Merging(dummy_prefix=True))
    with pytest.raises(CapabilityError, match="merges with the end of the prompt"):
        await provider.send(NextTokenRequest(TINY_PROMPT, WANTED))


# --- 6: text offsets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-1, 0, 99_999, None])
async def test_06_text_offsets_are_not_trusted(server, adapter, offset):
    echo = echoed()
    echo["text_offset"] = [offset] * len(echo["tokens"])
    server.answer(COMPLETIONS, toy.reply(echo))
    assert places(await adapter().send(SEQUENCE)) == expected_places()


async def test_06_places_are_counted_in_characters_whatever_bytes_they_take(server, adapter):
    prompt = Prompt("Text: c\nLabel:", (("Text: čaj 茶 🍵\nLabel:", " True"),))
    echo = toy.legacy(toy.tokens(prompt.text), prompt.text, echo=True)
    server.answer(COMPLETIONS, toy.reply(echo))
    found = places(await adapter().send(SequenceRequest(prompt, WANTED)))
    assert found[0] == pytest.approx({word: toy.expected(prompt.chunks[0])[word] for word in WANTED})


# --- 7: BOS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [[], [0]])
async def test_07_a_prompt_begins_with_the_models_bos_once_or_with_none(server, tiny, bos):
    provider = await tiny(TinyModel(bos=bos))
    await provider.send(NextTokenRequest(TINY_PROMPT, WANTED))
    (asked,) = server.requests("/completion")
    assert asked.body["prompt"][0] == bos + PROMPT_IDS


async def test_07_a_bos_before_an_echo_is_passed_over(server, adapter):
    echo = echoed()
    for name, first in (("tokens", "<s>"), ("token_logprobs", None), ("top_logprobs", None)):
        echo[name] = [first, *echo[name]]
    echo["token_logprobs"][1], echo["top_logprobs"][1] = -3.0, {echo["tokens"][1]: -3.0}
    server.answer(COMPLETIONS, toy.reply(echo))
    assert places(await adapter().send(SEQUENCE)) == expected_places()


# --- 8: lists keyed by text -------------------------------------------------------------------------------


async def test_08_spellings_of_a_label_are_added_up_once(server, adapter):
    server.answer(
        COMPLETIONS, generated({" True": math.log(0.3), "True": math.log(0.1), " true": math.log(0.1), " False": -1.0})
    )
    found = await score(adapter())
    assert found.mass == pytest.approx(0.5 + math.exp(-1.0))
    assert math.exp(found.logprobs_nats[1]) == pytest.approx(0.5 / found.mass)


async def test_08_candidates_of_one_text_and_other_tokens_are_all_kept(server, adapter):
    tops = [{"token": text, "logprob": math.log(p)} for text, p in ((" True", 0.3), (" True", 0.2), (" False", 0.4))]
    server.answer(COMPLETIONS, toy.reply({"content": [{"token": " True", "logprob": -1.0, "top_logprobs": tops}]}))
    assert (await score(adapter())).mass == pytest.approx(0.9)


async def test_08_a_token_without_text_next_to_a_label_is_refused(server, adapter):
    parts = toy.tokens(PROMPT.text)
    parts.insert(parts.index(" True"), "")  # one byte of a character: nobody knows which
    server.answer(COMPLETIONS, toy.reply(toy.legacy(parts, PROMPT.text, echo=True)))
    with pytest.raises(CapabilityError, match="without text"):
        await adapter().send(SEQUENCE)


# --- 9: a label outside the list --------------------------------------------------------------------------


async def test_09_a_label_outside_the_list_is_bounded_and_marked(server, adapter):
    server.answer(COMPLETIONS, generated({" True": math.log(0.6), " so": math.log(0.3), " well": math.log(0.05)}))
    found = await score(adapter())
    assert found.bounded == (True, False)
    odds = found.logprobs_nats[0] - found.logprobs_nats[1]
    assert odds == pytest.approx(math.log(0.05 / 0.6), abs=1e-4), "at most the smallest that is listed"


@pytest.mark.parametrize("sentinel", [-9999.0, -1000.0, -3.4028234663852886e38, -math.inf])
async def test_09_a_stand_in_for_not_listed_never_enters_a_sum(server, adapter, sentinel):
    server.answer(COMPLETIONS, generated({" True": math.log(0.6), " so": math.log(0.3), " False": sentinel}))
    found = await score(adapter())
    assert found.bounded == (True, False)
    assert min(found.logprobs_nats) > -10


async def test_09_no_label_in_the_list_is_an_error_and_no_guess(server, adapter):
    server.answer(COMPLETIONS, generated({" so": math.log(0.6), " well": math.log(0.39999)}))
    with pytest.raises(OutOfReachError):
        await score(adapter())


# --- 10: which distribution -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tops", [{" True": 0.0}, {" True": 0.0, " False": 0.0}, {" True": 0.0, " False": -9999.0}, {" True": 0.2}]
)
async def test_10_a_list_made_after_sampling_is_refused(server, adapter, tops):
    server.answer(COMPLETIONS, generated(tops))
    with pytest.raises(CapabilityError):
        await adapter().send(QUESTION)


@pytest.mark.parametrize("route", ["completions", "chat"])
async def test_10_one_temperature_is_asked_for_and_nothing_else_that_bends_the_numbers(server, adapter, route):
    server.answer(COMPLETIONS, toy.complete)
    server.answer(CHAT, toy.chat)
    provider = adapter(route=route, echo=False)
    await provider.send(QUESTION)
    body = server.asked[0].body
    assert body["temperature"] == provider.identity["temperature"] == 0
    assert not body.keys() & {"top_p", "top_k", "logit_bias", "grammar", "response_format", "min_p"}


async def test_10_a_label_is_forced_by_its_id_and_a_server_that_generates_another_is_refused(tiny):
    model = TinyModel()
    model.obeys = False
    provider = await tiny(model)
    provider._top_k = 1
    with pytest.raises(CapabilityError, match="did not generate the label token"):
        await provider.send(NextTokenRequest(TINY_PROMPT, (" True", " False", " odd")))


# --- 11: labels of several tokens -------------------------------------------------------------------------


async def test_11_a_label_of_several_tokens_is_the_sum_of_all_of_them(server, adapter):
    def reply(body: Any) -> Any:
        if body["prompt"].endswith(" Tr"):
            return generated({"ue": math.log(0.5), "ack": math.log(0.5 - 1e-9)})
        return generated({" Tr": math.log(0.8), " False": math.log(0.1)})

    server.answer(COMPLETIONS, reply)
    found = await score(adapter())
    assert found.mass == pytest.approx(0.5)
    assert math.exp(found.logprobs_nats[1]) == pytest.approx(0.8)


async def test_11_labels_of_which_one_begins_the_other_are_refused(tiny):
    provider = await tiny()
    with pytest.raises(CapabilityError, match="begins with all of"):
        await provider.send(NextTokenRequest(TINY_PROMPT, (" Ye", " Yesterday")))


async def test_11_labels_that_share_their_first_token_get_numbers_of_their_own(tiny):
    provider = await tiny()
    reply = await provider.send(NextTokenRequest(TINY_PROMPT, (" Yes", " Yesterday")))
    values = {c.text: c.logprob_nats for c in reply.candidates if c.text in (" Yes", " Yesterday")}
    assert len(set(values.values())) == 2


# --- 12: several prompts in one call ----------------------------------------------------------------------


async def test_12_replies_to_several_prompts_are_told_apart_by_index(tiny):
    """TinyModel answers last prompt first."""
    model = TinyModel()
    provider = await tiny(model)
    reply = await provider.send(NextTokenRequest(TINY_PROMPT, (" Yes", " odd")))
    first = model.logprobs(PROMPT_IDS)
    then = model.logprobs([*PROMPT_IDS, PIECES.index(" Ye")])
    found = {c.text: c.logprob_nats for c in reply.candidates}
    assert found[" Yes"] == pytest.approx(first[PIECES.index(" Ye")] + then[PIECES.index("s")])


@pytest.mark.parametrize("spoil", ["missing", "twice the same index"])
async def test_12_replies_that_do_not_match_their_prompts_are_refused(tiny, spoil):
    model = TinyModel()

    def complete(body: Any) -> Any:
        replies = model.complete(body)
        if not isinstance(replies, list):
            return replies
        return replies[1:] if spoil == "missing" else [reply | {"index": 0} for reply in replies]

    provider = await tiny(model, **{"/completion": complete})
    with pytest.raises(CapabilityError, match="do not match"):
        await provider.send(NextTokenRequest(TINY_PROMPT, (" Yes", " odd")))


# --- 13: no token to generate -----------------------------------------------------------------------------


async def test_13_one_token_is_asked_for_and_never_none(server, adapter, tiny):
    server.answer(COMPLETIONS, toy.complete)
    server.answer(CHAT, toy.chat)
    await adapter().send(SEQUENCE)
    await adapter().send(QUESTION)
    await adapter(route="chat", echo=False).send(QUESTION)
    await (await tiny()).send(NextTokenRequest(TINY_PROMPT, WANTED))
    bounds = [asked.body.get("max_tokens", asked.body.get("n_predict")) for asked in server.asked if asked.body]
    assert [bound for bound in bounds if bound is not None] == [1, 1, 1, 1]


# --- 14: caches move numbers and counts -------------------------------------------------------------------


def jittering() -> Callable[[Any], Any]:
    """Two nearly equal answers by turns: a fresh prompt, and one from the host's cache."""
    turns = [0]

    def reply(body: Any) -> Any:
        turns[0] += 1
        moved = 0.005 * (turns[0] % 2)
        told = toy.complete(body)
        tops = told["choices"][0]["logprobs"]["top_logprobs"][-1]
        tops[" True"] -= moved
        told["usage"]["prompt_tokens_details"]["cached_tokens"] = 3
        return told

    return reply


async def test_14_the_numbers_of_a_cached_prompt_may_move_a_little(server, adapter):
    server.answer(COMPLETIONS, jittering())
    record = await probe(adapter(echo=False), labels_from_names(("False", "True")), price=None)
    found = {check.name: check for check in record.checks}
    assert found["repeated call"].status == "ok"
    assert "3 of them cached" in found["usage reported"].detail


async def test_14_a_question_has_one_answer_in_a_run_whatever_the_host_would_say_again(server, adapter, tmp_path):
    server.answer(COMPLETIONS, jittering())
    client = build_client(
        adapter(),
        cache=tmp_path,
        limits=Limits(),
        retry_policy=RetryPolicy(),
        max_concurrency=1,
    )
    assert await client.provider.send(QUESTION) == await client.provider.send(QUESTION)
    assert len(server.asked) == 1
    await client.aclose()


async def test_14_another_number_of_candidates_or_route_is_another_question(adapter):
    providers = [adapter(top_k=5), adapter(top_k=20), adapter(route="chat", echo=False)]
    assert len({request_key(provider.identity, QUESTION) for provider in providers}) == 3


async def test_14_cached_tokens_are_part_of_the_prompt_tokens(server, tiny):
    usage = (await (await tiny()).send(NextTokenRequest(TINY_PROMPT, WANTED))).usage
    assert usage.prompt_tokens == len(PROMPT_IDS)
    assert usage.cached_tokens == len(PROMPT_IDS) - 1


# --- 15: retries and quiet failures -----------------------------------------------------------------------


async def no_wait(_: float) -> None:
    await asyncio.sleep(0)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_15_retries_do_not_multiply(server, adapter, status):
    server.answer(COMPLETIONS, Answer({"error": {"message": "no"}}, status))
    with pytest.raises((RateLimitError, TransientError)):
        await adapter().send(QUESTION)
    assert len(server.asked) == 1, "the SDK does not retry"
    client = build_client(
        adapter(),
        cache=None,
        limits=Limits(),
        retry_policy=RetryPolicy(attempts=3, first_wait_s=0),
        max_concurrency=1,
        sleep=no_wait,
    )
    with pytest.raises((RateLimitError, TransientError)):
        await client.provider.send(QUESTION)
    assert len(server.asked) == 1 + 3
    await client.aclose()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (
            Answer({"error": {"code": "insufficient_quota", "message": "exceeded your current quota"}}, 429),
            RequestError,
        ),
        (Answer({"error": {"message": "maximum context length is 10 tokens"}}, 400), RequestError),
        (Answer({"error": {"message": "bad key"}}, 401), AuthError),
        (Answer({"error": {"message": "prohibited"}}, 403), AuthError),
    ],
)
async def test_15_what_will_not_pass_is_not_retried(server, adapter, answer, error):
    server.answer(COMPLETIONS, answer)
    client = build_client(
        adapter(), cache=None, limits=Limits(), retry_policy=RetryPolicy(), max_concurrency=1, sleep=no_wait
    )
    with pytest.raises(error):
        await client.provider.send(QUESTION)
    assert len(server.asked) == 1
    await client.aclose()


async def test_15_a_prompt_that_the_server_cut_is_refused(tiny):
    model = TinyModel()

    def cutting(body: Any) -> Any:
        reply = model.complete(body)
        for each in reply if isinstance(reply, list) else [reply]:
            each["tokens_evaluated"] -= 1
        return reply

    provider = await tiny(model, **{"/completion": cutting})
    with pytest.raises(CapabilityError, match="cut"):
        await provider.send(NextTokenRequest(TINY_PROMPT, WANTED))


async def test_15_a_prompt_cut_in_silence_is_found_by_the_probe(server, adapter):
    def cutting(body: Any) -> Any:
        return toy.complete(body | {"prompt": body["prompt"][-120:]})

    server.answer(COMPLETIONS, cutting)
    record = await probe(adapter(echo=False), labels_from_names(("False", "True")), price=None)
    assert [check.name for check in record.failed] == ["answers to the first label of the prompt"]


async def test_15_a_prompt_cut_in_silence_shows_in_an_echo(server, adapter):
    server.answer(COMPLETIONS, lambda body: toy.complete(body | {"prompt": body["prompt"][10:]}))
    with pytest.raises(CapabilityError, match="do not spell the prompt"):
        await adapter().send(SEQUENCE)


@pytest.mark.parametrize("logprobs", [None, {"content": None}, {"content": []}])
async def test_15_a_reasoning_model_without_log_probs_is_refused(server, adapter, logprobs):
    server.answer(CHAT, toy.reply(logprobs))
    with pytest.raises(CapabilityError):
        await adapter(route="chat", echo=False).send(QUESTION)


async def test_15_a_model_that_begins_by_thinking_puts_the_labels_out_of_reach(server, adapter):
    tops = [{"token": "<think>", "logprob": math.log(0.99999)}, {"token": "\n", "logprob": math.log(0.000009)}]
    server.answer(CHAT, toy.reply({"content": [{"token": "<think>", "logprob": 0.0, "top_logprobs": tops}]}))
    with pytest.raises(OutOfReachError):
        await score(adapter(route="chat", echo=False))


async def test_15_an_error_inside_a_good_reply_is_an_error_and_is_not_kept(server, adapter, tmp_path):
    server.answer(COMPLETIONS, {"error": {"code": 502, "message": "the provider behind the gateway is gone"}})
    store = open_cache(tmp_path)
    client = build_client(
        adapter(),
        cache=tmp_path,
        limits=Limits(),
        retry_policy=RetryPolicy(attempts=1),
        max_concurrency=1,
    )
    with pytest.raises(ProviderError):
        await client.provider.send(QUESTION)
    assert store.get(request_key(client.provider.identity, QUESTION)) is None
    store.close()
    await client.aclose()


async def test_15_the_model_that_answered_is_told_when_a_gateway_falls_back(server, adapter):
    server.answer(COMPLETIONS, lambda body: toy.complete(body) | {"model": "another/model"})
    assert (await adapter().send(QUESTION)).model == "another/model"
