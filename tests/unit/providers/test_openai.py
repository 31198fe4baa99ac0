"""The provider `openai`: what its models are asked, by their names."""

from typing import Any

import pytest

from icm_api.errors import ConfigError
from icm_api.providers.base import Provider
from icm_api.providers.choices import one_word
from icm_api.providers.openai_models import FAMILIES
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.types import ChoiceRequest, NextTokenRequest, Prompt, Usage

PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),))
LABELS = (" True", " False")
TOP = [{"token": "True", "logprob": -0.5}, {"token": "False", "logprob": -1.5}]
REPLY = {
    "model": "gpt-4.1-2025-04-14",
    "choices": [{"index": 0, "logprobs": {"content": [{"token": "True", "logprob": -0.5, "top_logprobs": TOP}]}}],
    "usage": {"prompt_tokens": 1200, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1024}},
}


@pytest.fixture
async def open_openai(server):
    opened: list[Provider] = []

    async def build(model: str = "gpt-4.1", **changes: Any) -> Provider:
        settings = ProviderSettings(model=model, base_url=f"{server.url}/v1", **changes)
        opened.append(await open_provider("openai", settings, {}))
        return opened[-1]

    yield build
    for provider in opened:
        await provider.aclose()


async def test_chat_is_the_default_and_asks_for_twenty_candidates(server, open_openai):
    server.answer("/v1/chat/completions", REPLY)
    provider = await open_openai()
    reply = await provider.send(NextTokenRequest(PROMPT, LABELS))
    body = server.asked[0].body
    assert body.pop("prompt_cache_key")
    assert body == {
        "model": "gpt-4.1",
        "messages": [
            {"role": "system", "content": one_word(PROMPT, LABELS)},
            {"role": "user", "content": "Text: a\nLabel:"},
            {"role": "assistant", "content": "True"},
            {"role": "user", "content": "Text: b\nLabel:"},
        ],
        "max_completion_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }
    assert provider.name == "openai"
    assert [c.text for c in reply.candidates] == [" True", " False"]
    assert (reply.model, reply.usage) == ("gpt-4.1-2025-04-14", Usage(1200, 1024, 1))


@pytest.mark.parametrize(
    ("model", "effort"),
    [
        ("gpt-5.1", "none"),
        ("gpt-5.4-mini-2026-03-17", "none"),
        ("gpt-6-luna", "none"),
        ("gpt-6.2-sol", "none"),
        ("ft:gpt-5.4-mini:mine::id", "none"),
        ("gpt-4.1-mini", None),
        ("gpt-4o", None),
        ("ft:gpt-4.1-mini:mine::id", None),
        ("chat-latest", None),
    ],
)
async def test_models_that_reason_are_told_not_to_and_others_are_told_nothing(server, open_openai, model, effort):
    server.answer("/v1/chat/completions", REPLY)
    await (await open_openai(model)).send(NextTokenRequest(PROMPT, LABELS))
    assert server.asked[0].body.get("reasoning_effort") == effort


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "o3", "o4-mini-2025-04-16", "o1"])
async def test_a_model_that_always_reasons_is_refused_unless_the_user_knows_better(server, open_openai, model):
    with pytest.raises(ConfigError, match=r"reasons before every answer.*gpt-4\.1.*reasoning_effort=none"):
        await open_openai(model)
    server.answer("/v1/chat/completions", REPLY)
    provider = await open_openai(model, options={"reasoning_effort": "omit"})
    await provider.send(NextTokenRequest(PROMPT, LABELS))
    assert "reasoning_effort" not in server.asked[0].body


async def test_the_option_beats_the_models_name(server, open_openai):
    server.answer("/v1/chat/completions", REPLY)
    for option, sent in (("none", "none"), ("omit", None)):
        for model in ("gpt-4.1", "gpt-5.4"):
            provider = await open_openai(model, options={"reasoning_effort": option})
            await provider.send(NextTokenRequest(PROMPT, LABELS))
            assert server.asked[-1].body.get("reasoning_effort") == sent


@pytest.mark.parametrize("options", [{"effort": "none"}, {"reasoning_effort": "high"}, {"reasoning_effort": ""}])
async def test_another_option_is_refused(open_openai, options):
    with pytest.raises(ConfigError, match="reasoning_effort"):
        await open_openai(options=options)


async def test_the_completions_route_is_refused_with_where_to_go(open_openai):
    with pytest.raises(ConfigError, match=r"no completions route.*openai-compatible"):
        await open_openai(route="completions")


async def test_more_candidates_than_openai_lists_are_refused(open_openai):
    with pytest.raises(ConfigError, match="at most 20, not 21"):
        await open_openai(top_k=21)


@pytest.mark.parametrize(("route", "kind"), [("decisions", "probabilities"), ("votes", "votes"), ("responses", None)])
async def test_the_other_routes_are_opened_by_name(open_openai, route, kind):
    provider = await open_openai(route=route)
    assert provider.capabilities.choices == kind
    assert provider.identity["route"] == route


async def test_a_decision_is_asked_without_reasoning_or_sampling(server, open_openai):
    stated = [{"value": "True", "probability": 0.25}, {"value": "False", "probability": 0.75}]
    answer = {"type": "choice", "choice": "False", "confidence": 0.75, "probabilities": stated}
    server.answer("/v1/decisions", {"model": "gpt-6-luna", "answers": [answer]})
    reply = await (await open_openai("gpt-6-luna", route="decisions")).send(ChoiceRequest(PROMPT, LABELS))
    assert reply.shares == (0.25, 0.75)
    assert set(server.asked[0].body) == {"model", "input", "questions", "prompt_cache_key"}


async def test_the_key_and_a_model_are_needed():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await open_provider("openai", ProviderSettings(model="gpt-4.1"), {})
    with pytest.raises(ConfigError, match="needs --model"):
        await open_provider("openai", ProviderSettings(), {"OPENAI_API_KEY": "sk-x"})


def test_every_family_has_a_day_and_a_source_and_no_row_hides_another():
    assert all(len(family.checked) == 10 and family.source.startswith("https://") for family in FAMILIES)
    begins = [family.begins for family in FAMILIES]
    assert not any(later.startswith(first) for k, first in enumerate(begins) for later in begins[k + 1 :])
