"""The vLLM adapter on what a real server answered."""

import pytest

from icm_api.errors import RequestError
from icm_api.providers.vllm import Vllm
from icm_api.types import NextTokenReply, NextTokenRequest, Position, Prompt, SequenceRequest, TokenCountRequest

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

PROMPT = Prompt(
    "Review: best day of the year\nSentiment:",
    (("Review: great film\nSentiment:", " positive"), ("Review: awful soup\nSentiment:", " negative")),
)
LABELS = (" positive", " negative")
UNLIKELY = " zebra"
FEW = 4
"""Candidates: the text of each is asked for by itself."""
SAME_NATS = 1e-4
"""Within one server, which evaluates a sequence in other batches than its last token (32-bit floats)."""


@pytest.fixture
async def adapter(vcr, server_url):
    connected = await Vllm.connect(base_url=server_url, top_k=FEW)
    yield connected
    await connected.aclose()


def value_of(reply: NextTokenReply | Position, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


async def test_the_server_tells_what_it_is(adapter):
    assert adapter.model == "SmolLM2-135M-Instruct-Q4_1"
    assert adapter.identity["version"] == "0.32.0"
    assert adapter.identity["exact"] == "forced"
    assert adapter.identity["bos"] == []
    assert adapter.identity["by_chunks"] is True
    assert adapter.capabilities.context_tokens == 2047
    assert adapter.capabilities.prompt_logprobs


async def test_a_label_outside_the_list_is_forced_and_keeps_its_own_probability(adapter):
    reply = await adapter.send(NextTokenRequest(PROMPT, (*LABELS, UNLIKELY)))
    assert value_of(reply, UNLIKELY) < reply.floor_nats < value_of(reply, " negative") < value_of(reply, " positive")
    assert len(reply.candidates) == FEW + 1
    assert reply.usage.prompt_tokens == 2 * 33
    assert reply.usage.output_tokens == 2


async def test_labels_that_share_a_first_token_are_exact(adapter):
    reply = await adapter.send(NextTokenRequest(PROMPT, (" very positive", " very negative")))
    values = {value_of(reply, text) for text in (" very positive", " very negative")}
    assert len(values) == 2
    assert max(values) < value_of(reply, " positive")


async def test_a_sequence_gives_what_a_request_for_each_place_gives(adapter):
    reply = await adapter.send(SequenceRequest(PROMPT, LABELS))
    second = await adapter.send(
        NextTokenRequest(Prompt(PROMPT.demonstrations[1][0], PROMPT.demonstrations[:1]), LABELS)
    )
    last = await adapter.send(NextTokenRequest(PROMPT, LABELS))
    for position, alone in zip(reply.positions[1:], (second, last), strict=True):
        shared = {c.text for c in position.candidates} & {c.text for c in alone.candidates}
        assert set(LABELS) <= shared
        for text in LABELS:
            assert value_of(position, text) == pytest.approx(value_of(alone, text), abs=SAME_NATS)


async def test_special_tokens_in_the_data_are_read_as_such(adapter):
    reply = await adapter.send(TokenCountRequest(("<|im_start|>", " positive")))
    assert reply.counts == (1, 1)
    assert not adapter.capabilities.plain_text_tokens


async def test_a_prompt_too_long_is_told_in_numbers(adapter):
    with pytest.raises(RequestError, match=r"the context holds 2048"):
        await adapter.send(NextTokenRequest(Prompt("a b" * 2100), LABELS))


async def test_more_candidates_than_the_server_allows_are_its_error(vcr, server_url):
    adapter = await Vllm.connect(base_url=server_url, top_k=21)
    with pytest.raises(RequestError, match=r"logprobs of 21, which is greater than max allowed: 20"):
        await adapter.send(NextTokenRequest(PROMPT, LABELS))
    await adapter.aclose()


async def test_a_model_that_is_not_served_is_refused(vcr, server_url):
    with pytest.raises(RequestError, match="has loaded 'SmolLM2-135M-Instruct-Q4_1', not 'another'"):
        await Vllm.connect(base_url=server_url, model="another")
