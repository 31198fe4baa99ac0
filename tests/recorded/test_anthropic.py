"""The Anthropic adapter, by its SDK, on what a real llama.cpp server answered at /v1/messages."""

import re

import pytest

from icm_api.errors import RequestError
from icm_api.providers.anthropic import Anthropic
from icm_api.types import ChoiceRequest, Prompt

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

PROMPT = Prompt(
    "Review: best day of the year\nSentiment:",
    (("Review: great film\nSentiment:", " positive"), ("Review: awful soup\nSentiment:", " negative")),
)
LABELS = (" positive", " negative")


@pytest.fixture
async def adapter(server_url):
    opened = Anthropic(base_url=server_url, model="SmolLM2", api_key="sk-ant-test")
    yield opened
    await opened.aclose()


async def test_a_vote_is_one_of_the_labels(adapter):
    reply = await adapter.send(ChoiceRequest(PROMPT, LABELS))
    assert sorted(reply.shares) == [0.0, 1.0]
    assert reply.model
    assert reply.usage.output_tokens > 1


async def test_a_prompt_counts_with_what_came_from_the_cache(adapter):
    first, again = [await adapter.send(ChoiceRequest(PROMPT, LABELS, draw)) for draw in (0, 1)]
    assert first.usage.prompt_tokens == again.usage.prompt_tokens
    assert again.usage.cached_tokens > 0


async def test_an_answer_that_no_schema_holds_is_a_label_or_says_that_it_is_none(adapter):
    """Shown no example, the model sometimes writes more than a label; in a recording, chance says which draws do."""
    for draw in range(3):
        reply = await adapter.send(ChoiceRequest(Prompt(PROMPT.query), LABELS, draw))
        assert sorted(reply.shares) == [0.0, 1.0] or re.search("none of the labels|cut off", reply.said)
        assert reply.usage.prompt_tokens > 0


async def test_a_prompt_too_long_is_told_in_numbers(adapter):
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the context holds 512"):
        await adapter.send(ChoiceRequest(Prompt("a b" * 600), LABELS))
