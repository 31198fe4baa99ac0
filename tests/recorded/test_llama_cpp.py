"""The llama.cpp adapter on what a real server answered."""

import pytest

from icm_api.errors import RequestError
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt, TokenCountRequest

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

PROMPT = Prompt(
    "Review: best day of the year\nSentiment:",
    (("Review: great film\nSentiment:", " positive"), ("Review: awful soup\nSentiment:", " negative")),
)


@pytest.fixture
async def adapter(vcr, server_url):
    connected = await LlamaCpp.connect(base_url=server_url, top_k=60)
    yield connected
    await connected.aclose()


def value_of(reply: NextTokenReply, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


async def test_the_server_tells_what_it_is(adapter):
    assert adapter.model == "SmolLM2-135M-Instruct-Q4_1.gguf"
    assert adapter.capabilities.context_tokens == 511
    assert adapter.identity["total_slots"] == 1
    assert adapter.identity["bos"] == []
    assert adapter.identity["by_chunks"] is True


async def test_labels_of_one_token_are_exact(adapter):
    reply = await adapter.send(NextTokenRequest(PROMPT, (" positive", " negative")))
    assert value_of(reply, " positive") > value_of(reply, " negative")
    assert reply.usage.prompt_tokens == 33
    assert len(reply.candidates) == 50


async def test_labels_that_share_a_first_token_are_exact(adapter):
    reply = await adapter.send(NextTokenRequest(PROMPT, (" very positive", " very negative")))
    very = value_of(reply, " very")
    values = {value_of(reply, text) for text in (" very positive", " very negative")}
    assert len(values) == 2
    assert max(values) < very


async def test_special_tokens_in_the_data_stay_plain_text(adapter):
    reply = await adapter.send(TokenCountRequest(("<|im_start|>", " positive")))
    assert reply.counts[0] > 1
    assert reply.counts[1] == 1


async def test_a_prompt_too_long_is_told_in_numbers(adapter):
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the context holds 512"):
        await adapter.send(NextTokenRequest(Prompt("a b" * 600), (" positive",)))
