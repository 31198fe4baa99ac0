"""The Ollama adapter against a scripted server: what it asks, what it reads, what it refuses."""

import asyncio
import json
from typing import Any

import pytest

from icm_api.errors import CapabilityError, ConfigError, ProviderError, RequestError, TransientError
from icm_api.providers.ollama import DEFAULT_CONTEXT_TOKENS, Ollama
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt, SequenceRequest, Usage
from tests.servers import ollama as stand_in
from tests.servers.learner import Learner

PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),), preamble="Judge.")
OVERFLOW = {
    "error": {
        "code": 400,
        "message": "request (2622 tokens) exceeds the available context size (512 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_prompt_tokens": 2622,
        "n_ctx": 512,
    }
}


@pytest.fixture
def ollama() -> stand_in.Ollama:
    return stand_in.Ollama(Learner((" True", " False")))


@pytest.fixture
async def connect(server, ollama):
    opened = []

    async def build(**changes: Any) -> Ollama:
        ollama.serve(server)
        opened.append(await Ollama.connect(**{"base_url": server.url, "model": "tiny"} | changes))
        server.asked.clear()
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


async def ask(adapter: Ollama, prompt: Prompt = PROMPT, **changes: Any) -> NextTokenReply:
    return await adapter.send(NextTokenRequest(prompt, (" True", " False"), **changes))


async def test_one_raw_token_is_asked_for_and_nothing_may_be_cut(server, connect):
    await ask(await connect(), continuation=" Tr")
    (asked,) = server.asked
    assert asked.path == "/api/generate"
    assert asked.body == {
        "model": "tiny",
        "prompt": PROMPT.text + " Tr",
        "raw": True,
        "stream": False,
        "think": False,
        "truncate": False,
        "shift": False,
        "logprobs": True,
        "top_logprobs": 20,
        "options": {"num_predict": 1, "temperature": 0, "num_ctx": DEFAULT_CONTEXT_TOKENS},
    }


async def test_the_listed_tokens_are_read_with_a_bound_for_the_others(connect, ollama):
    reply = await ask(await connect())
    assert reply.candidates == await asyncio.to_thread(ollama.learner.next, PROMPT, 20)
    assert reply.floor_nats is not None
    assert reply.floor_nats <= reply.candidates[-1].logprob_nats
    assert reply.usage == Usage(len(PROMPT.text) // 4 + 1, None, 1)


async def test_the_identity_tells_models_of_one_name_apart(connect, ollama):
    adapter = await connect()
    assert adapter.identity["digest"] == stand_in.DIGEST
    assert adapter.identity["server"] == "0.40.2"
    json.dumps(adapter.identity)


@pytest.mark.parametrize("models", [None, [], [{"name": "other", "digest": "d"}], [{"name": "tiny", "digest": ""}]])
async def test_weights_that_could_not_be_told_from_others_of_the_name_are_refused(server, ollama, models):
    ollama.serve(server)
    server.answer("/api/tags", {"models": models})
    with pytest.raises(RequestError, match="no digest of this model"):
        await Ollama.connect(base_url=server.url, model="tiny")


async def test_the_context_is_the_users_or_the_models_where_that_is_shorter(connect, ollama):
    assert (await connect()).capabilities.context_tokens == DEFAULT_CONTEXT_TOKENS - 1
    assert (await connect(context_tokens=32_768)).capabilities.context_tokens == 32_767
    ollama.shown = {"model_info": {"general.architecture": "bert", "bert.context_length": 512}}
    assert (await connect()).capabilities.context_tokens == 511
    ollama.shown = {"model_info": None}
    assert (await connect()).capabilities.context_tokens == DEFAULT_CONTEXT_TOKENS - 1


async def test_a_longer_context_than_the_models_is_refused(connect):
    with pytest.raises(ConfigError, match="holds 131072 tokens"):
        await connect(context_tokens=131_073)


@pytest.mark.parametrize("shown", [{"remote_host": "https://ollama.com:443"}, {"remote_model": "big"}])
async def test_a_cloud_model_is_refused_before_anything_is_asked(server, connect, ollama, shown):
    ollama.shown = shown
    with pytest.raises(CapabilityError, match="a cloud model gives no log-probabilities"):
        await connect()
    assert server.requests("/api/generate") == []


async def test_a_model_that_was_not_pulled_is_named(connect):
    with pytest.raises(RequestError, match="has no model 'huge'"):
        await connect(model="huge")


@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        ({"response": " True", "logprobs": None}, CapabilityError, "0.12.11"),
        ({"response": " True", "logprobs": []}, CapabilityError, "no list"),
        ({"logprobs": [{"token": "a", "logprob": 0.0, "top_logprobs": []}]}, CapabilityError, "all 0 or stand-ins"),
        ({"error": "llama runner process has terminated"}, RequestError, "terminated"),
    ],
)
async def test_replies_without_usable_numbers_are_refused(server, connect, reply, kind, message):
    adapter = await connect()
    server.answer("/api/generate", reply)
    with pytest.raises(kind, match=message):
        await ask(adapter)


@pytest.mark.parametrize("said", ["the input length exceeds the context length", json.dumps(OVERFLOW)])
async def test_both_ways_to_say_that_a_prompt_is_too_long_are_understood(server, connect, answer, said):
    adapter = await connect()
    server.answer("/api/generate", answer({"error": said}, 400))
    with pytest.raises(RequestError, match=r"the prompt has (2622|too many) tokens"):
        await ask(adapter)


@pytest.mark.parametrize("status", [500, 503])
async def test_a_busy_or_broken_server_may_be_asked_again_and_was_asked_once(server, connect, answer, status):
    adapter = await connect()
    server.answer("/api/generate", answer({"error": "server busy"}, status))
    with pytest.raises(TransientError):
        await ask(adapter)
    assert len(server.asked) == 1


async def test_a_server_that_is_down_is_named():
    with pytest.raises(TransientError, match="ollama serve"):
        await Ollama.connect(base_url="http://127.0.0.1:9", model="tiny")


async def test_the_key_is_sent_and_never_shown(server, connect, answer):
    adapter = await connect(api_key="planted-key")
    server.answer("/api/generate", answer({"error": "planted-key is wrong"}, 401))
    with pytest.raises(ProviderError) as caught:
        await ask(adapter)
    assert server.asked[0].headers["authorization"] == "Bearer planted-key"
    assert "planted-key" not in f"{caught.value} {adapter.identity}"


async def test_other_questions_and_settings_are_refused(connect):
    adapter = await connect()
    with pytest.raises(CapabilityError, match="'sequence'"):
        await adapter.send(SequenceRequest(PROMPT, (" True",)))
    with pytest.raises(ValueError, match="empty prompt"):
        await ask(adapter, Prompt(""))
    with pytest.raises(ConfigError, match="1 to 20"):
        await connect(top_k=21)
