"""The OpenAI-shaped adapter on what a real llama.cpp server answered."""

import math

import pytest

from icm_api.errors import CapabilityError, RequestError
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import ChoiceRequest, NextTokenRequest, Prompt

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

PROMPT = Prompt(
    "Review: best day of the year\nSentiment:",
    (("Review: great film\nSentiment:", " positive"), ("Review: awful soup\nSentiment:", " negative")),
)
WANTED = (" positive", " negative")


@pytest.fixture
async def open_adapter(server_url):
    opened = []

    def build(route, top_k=5):
        opened.append(
            OpenAICompatible(base_url=f"{server_url}/v1", model="SmolLM2", api_key="sk-test", route=route, top_k=top_k)
        )
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


async def test_completions_lists_both_labels_with_their_spaces(open_adapter):
    reply = await open_adapter("completions").send(NextTokenRequest(PROMPT, WANTED))
    assert [c.text for c in reply.candidates[:2]] == [" positive", " negative"]
    assert len(reply.candidates) == 5
    assert reply.floor_nats == reply.candidates[-1].logprob_nats
    assert sum(math.exp(c.logprob_nats) for c in reply.candidates) < 1
    assert reply.usage.output_tokens == 1
    assert reply.usage.prompt_tokens == 33


async def test_completions_goes_on_inside_a_label(open_adapter):
    reply = await open_adapter("completions").send(NextTokenRequest(PROMPT, (" very positive",), continuation=" very"))
    assert " positive" in {c.text for c in reply.candidates}


async def test_chat_answers_are_read_as_continuations_with_a_space(open_adapter):
    reply = await open_adapter("chat").send(NextTokenRequest(PROMPT, WANTED))
    assert {" positive", " negative"} <= {c.text for c in reply.candidates}


async def test_a_prompt_too_long_is_told_in_numbers(open_adapter):
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the context holds 512"):
        await open_adapter("completions").send(NextTokenRequest(Prompt("a b" * 600), WANTED))


async def test_responses_has_no_log_probs_there_and_says_what_to_use(open_adapter):
    with pytest.raises(CapabilityError, match=r"requires logprobs to be set.*--route votes"):
        await open_adapter("responses").send(NextTokenRequest(PROMPT, WANTED))


async def test_a_vote_is_one_of_the_labels(open_adapter):
    reply = await open_adapter("votes", None).send(ChoiceRequest(PROMPT, WANTED))
    assert sorted(reply.shares) == [0.0, 1.0]
    assert reply.usage.output_tokens > 1


async def test_decisions_are_not_served_there(open_adapter):
    with pytest.raises(RequestError, match="no such route"):
        await open_adapter("decisions", None).send(ChoiceRequest(PROMPT, WANTED))
