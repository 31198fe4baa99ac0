"""Each row of facts, opened against a scripted host: what it asks there, and which settings it refuses."""

from typing import Any

import pytest

from icm_api.errors import CapabilityError, ConfigError
from icm_api.providers.profiles import PROFILES, Profile, merged
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.types import ChoiceRequest, NextTokenRequest, Prompt, SequenceRequest

KEY = "planted-key-0123456789"
LABELS = (" True", " False")
BY_NAME = {profile.name: profile for profile in PROFILES}
OPTIONS = {"openrouter": {"order": "one"}}
TOP = [{"token": "True", "logprob": -0.5}, {"token": "False", "logprob": -1.5}]
CHAT = {"choices": [{"logprobs": {"content": [{**TOP[0], "top_logprobs": TOP}]}}]}
COMPLETION = {"choices": [{"logprobs": {"top_logprobs": [{" True": -0.5, " False": -1.5}]}}]}
VOTE = {"choices": [{"message": {"content": '{"label": "True"}'}, "finish_reason": "stop"}]}


@pytest.fixture
async def opened(server):
    """Opens a row's provider at the scripted host."""
    server.answer("/v1/completions", COMPLETION)
    server.answer("/v1/chat/completions", lambda body: VOTE if "response_format" in body else CHAT)
    providers = []

    async def build(profile: Profile, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "model": "m",
            "base_url": f"{server.url}/v1",
            "api_key_env": "MY_KEY",
            "options": OPTIONS.get(profile.name, {}),
        }
        providers.append(await open_provider(profile.name, ProviderSettings(**settings | changes), {"MY_KEY": KEY}))
        return providers[-1]

    yield build
    for provider in providers:
        await provider.aclose()


async def asked(server: Any, provider: Any) -> Any:
    """The body of its first request, whatever kind it answers."""
    if provider.capabilities.choices:
        await provider.send(ChoiceRequest(Prompt("q"), LABELS))
    else:
        await provider.send(NextTokenRequest(Prompt("q"), LABELS))
    return server.asked[0]


def test_every_row_says_what_it_rests_on():
    for profile in PROFILES:
        assert profile.routes
        assert profile.note
        assert profile.source.startswith("https://")
        assert len(profile.checked) == len("2026-11-22")
        assert profile.key_env is None or profile.key_env.endswith("_API_KEY")
        assert profile.echo <= ("completions" in profile.routes)
        assert (profile.max_top_k is None) == (set(profile.routes) <= {"votes", "decisions"})
        assert set(profile.needed_options) <= set(profile.options)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
async def test_a_row_asks_by_its_route_for_as_many_tokens_as_the_host_lists(server, opened, profile):
    provider = await opened(profile)
    request = await asked(server, provider)
    assert provider.name == profile.name
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.path == ("/v1/completions" if profile.routes[0] == "completions" else "/v1/chat/completions")
    assert request.body.items() >= profile.extra_body.items() or profile.name == "openrouter"
    listed = request.body.get("top_logprobs", request.body.get("logprobs"))
    assert listed == profile.max_top_k == provider.capabilities.max_top_k
    assert provider.capabilities.prompt_logprobs == profile.echo
    assert provider.capabilities.choices == ("votes" if profile.routes[0] == "votes" else None)


@pytest.mark.parametrize("profile", [p for p in PROFILES if "votes" in p.routes], ids=lambda profile: profile.name)
async def test_a_row_with_votes_asks_for_an_answer_held_to_a_schema(server, opened, profile):
    request = await asked(server, await opened(profile, route="votes"))
    assert request.body["response_format"]["type"] == "json_schema"
    assert "logprobs" not in request.body


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
async def test_a_route_that_the_host_lacks_is_refused_with_those_it_has(server, opened, profile):
    route = next(r for r in ("decisions", "completions", "chat") if r not in profile.routes)
    with pytest.raises(ConfigError, match=rf"{profile.name}' has no route {route}; it has: {profile.routes[0]}"):
        await opened(profile, route=route)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
async def test_more_candidates_than_the_host_lists_are_refused(opened, profile):
    with pytest.raises(ConfigError, match=r"top_k|--top-k"):
        await opened(profile, top_k=21)


@pytest.mark.parametrize("profile", [p for p in PROFILES if not p.options], ids=lambda profile: profile.name)
async def test_an_option_that_a_host_does_not_have_is_refused(opened, profile):
    with pytest.raises(ConfigError, match="--provider-option"):
        await opened(profile, options={"order": "one"})


async def test_fireworks_is_asked_for_the_echo_and_told_never_to_shorten(server, opened):
    provider = await opened(BY_NAME["fireworks"])
    with pytest.raises(CapabilityError, match="echo lacks tokens"):
        await provider.send(SequenceRequest(Prompt("q"), LABELS))
    body = server.asked[0].body
    assert (body["echo"], body["logprobs"], body["context_length_exceeded_behavior"]) == (True, 5, "error")


async def test_fireworks_does_without_the_echo_when_told_and_on_its_chat_route(opened):
    assert not (await opened(BY_NAME["fireworks"], echo=False)).capabilities.prompt_logprobs
    assert not (await opened(BY_NAME["fireworks"], route="chat")).capabilities.prompt_logprobs


async def test_openrouter_is_pinned_to_one_host_that_takes_every_parameter(server, opened):
    provider = await opened(BY_NAME["openrouter"], options={"order": "one", "quantizations": "fp8, bf16"})
    routing = {
        "require_parameters": True,
        "allow_fallbacks": False,
        "order": ["one"],
        "quantizations": ["fp8", "bf16"],
    }
    assert (await asked(server, provider)).body["provider"] == routing
    assert provider.identity["extra_body"] == {"provider": routing}


@pytest.mark.parametrize("order", [None, "", "one,two"])
async def test_openrouter_wants_the_one_host_that_is_to_answer(opened, order):
    with pytest.raises(ConfigError, match="order"):
        await opened(BY_NAME["openrouter"], options={} if order is None else {"order": order})


async def test_an_unknown_option_gets_the_known_ones(opened):
    with pytest.raises(ConfigError, match="no option 'ordr'; it has: order, quantizations"):
        await opened(BY_NAME["openrouter"], options={"ordr": "one", "order": "one"})


async def test_azure_wants_the_address_and_the_variable_of_the_key():
    with pytest.raises(ConfigError, match="needs --base-url and --api-key-env"):
        await open_provider("azure", ProviderSettings(model="m"), {"AZURE_OPENAI_API_KEY": KEY})


async def test_the_users_own_members_go_beside_the_rows_and_change_the_identity(server, opened):
    mine = {"thinking": {"budget": 1}, "seed": 3}
    provider = await opened(BY_NAME["deepseek"], extra_body=mine)
    body = (await asked(server, provider)).body
    assert (body["thinking"], body["seed"]) == ({"type": "disabled", "budget": 1}, 3)
    assert provider.identity != (await opened(BY_NAME["deepseek"])).identity


def test_objects_are_merged_and_anything_else_is_replaced():
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}
