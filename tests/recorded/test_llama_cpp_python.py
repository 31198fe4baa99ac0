"""The row of llama-cpp-python on what its own server answered, which echoes prompts."""

import pytest

from icm_api.errors import CapabilityError, RequestError
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.types import NextTokenReply, NextTokenRequest, Position, Prompt, SequenceRequest

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

MODEL = "SmolLM2-135M-Instruct-Q4_1"
WITH_BOS = f"{MODEL}-with-bos"
"""The same weights, told to begin every text with the token that they call BOS."""
PROMPT = Prompt(
    "Review: best day of the year\nSentiment:",
    (("Review: great film\nSentiment:", " positive"), ("Review: awful soup\nSentiment:", " negative")),
)
LABELS = (" positive", " negative")
FEW = 5
"""Candidates."""
SAME_NATS = 1e-4
"""Within one server, which evaluates a sequence in other batches than its last token. They were equal when recorded;
the kernels of another build may round by the batch (`tests/real/test_llama_cpp_python.py` allows for it)."""


@pytest.fixture
async def open_model(vcr, server_url):
    opened = []

    async def build(model):
        settings = ProviderSettings(model=model, base_url=f"{server_url}/v1", top_k=FEW, echo=True)
        opened.append(await open_provider("llama-cpp-python", settings, {}))
        return opened[-1]

    yield build
    for adapter in opened:
        await adapter.aclose()


def value_of(reply: NextTokenReply | Position, text: str) -> float:
    (found,) = [c.logprob_nats for c in reply.candidates if c.text == text]
    return found


async def test_labels_are_among_the_likeliest_tokens(open_model):
    reply = await (await open_model(MODEL)).send(NextTokenRequest(PROMPT, LABELS))
    assert min(value_of(reply, text) for text in LABELS) > reply.floor_nats
    assert len(reply.candidates) == FEW
    assert reply.usage.prompt_tokens == 33
    assert reply.usage.output_tokens == 1
    assert reply.model == MODEL


async def test_an_echo_gives_what_a_request_for_each_place_gives(open_model):
    adapter = await open_model(WITH_BOS)
    reply = await adapter.send(SequenceRequest(PROMPT, LABELS))
    await adapter.send(NextTokenRequest(Prompt("Another text:"), LABELS))  # the echo leaves the server's cache
    second = await adapter.send(
        NextTokenRequest(Prompt(PROMPT.demonstrations[1][0], PROMPT.demonstrations[:1]), LABELS)
    )
    last = await adapter.send(NextTokenRequest(PROMPT, LABELS))
    assert len(reply.positions) == 3
    for position, alone in zip(reply.positions[1:], (second, last), strict=True):
        for text in LABELS:
            assert value_of(position, text) == pytest.approx(value_of(alone, text), abs=SAME_NATS)


async def test_the_echo_of_a_model_without_bos_is_one_place_off_and_refused(open_model):
    with pytest.raises(CapabilityError, match="the echo ends with the prompt"):
        await (await open_model(MODEL)).send(SequenceRequest(PROMPT, LABELS))


async def test_a_prompt_too_long_is_told_in_numbers(open_model):
    with pytest.raises(RequestError, match=r"the prompt has \d+ tokens, the context holds 2048"):
        await (await open_model(MODEL)).send(NextTokenRequest(Prompt("a b" * 2100), LABELS))
