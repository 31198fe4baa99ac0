"""From a name to an open provider."""

import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from icm_api.errors import ConfigError
from icm_api.providers import registry
from icm_api.providers.registry import ENTRIES, ProviderSettings, open_provider, opens_unasked
from icm_api.types import NextTokenRequest, Prompt

KEY = "sk-very-secret-0123456789"


class OfAThirdParty:
    """A plug-in's provider, as far as the registry cares."""

    def __init__(self, settings: ProviderSettings, api_key: str | None) -> None:
        self.settings, self.api_key = settings, api_key


@pytest.fixture
def third_party(monkeypatch):
    """`module:Class` of the class above."""
    monkeypatch.setitem(sys.modules, "third_party_module", sys.modules[__name__])
    return "third_party_module:OfAThirdParty"


def test_looking_up_providers_loads_no_vendor_sdk():
    code = (
        "import sys, icm_api, icm_api.providers.registry;"
        "print(sorted({'openai', 'anthropic', 'together', 'httpx2', 'httpx'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_row_has_a_date_and_a_summary():
    assert all(len(entry.checked) == 10 and entry.summary and entry.logprobs for entry in ENTRIES)
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)


async def test_an_unknown_name_gets_the_closest_and_all_known_ones():
    with pytest.raises(ConfigError, match="Did you mean 'llama-cpp'") as caught:
        await open_provider("lama-cpp", ProviderSettings(), {})
    assert all(entry.name in str(caught.value) for entry in ENTRIES)


async def test_a_missing_key_names_its_variable():
    with pytest.raises(ConfigError, match="OPENAI_API_KEY"):
        await open_provider("openai", ProviderSettings(model="m"), {})
    settings = ProviderSettings(model="m", base_url="https://far.example/v1", api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY"):
        await open_provider("openai-compatible", settings, {"MY_KEY": "  "})


@pytest.mark.parametrize("environ", [{}, {"OPENAI_API_KEY": KEY}])
async def test_a_compatible_host_is_never_guessed(environ):
    with pytest.raises(ConfigError, match="'openai-compatible' needs --base-url"):
        await open_provider("openai-compatible", ProviderSettings(model="m"), environ)


async def test_a_key_may_be_missing_where_nothing_will_be_asked():
    provider = await open_provider("openai", ProviderSettings(model="m"), {}, keyless=True)
    await provider.aclose()
    settings = ProviderSettings(base_url="http://127.0.0.1:9", api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="MY_KEY"):
        await open_provider("vllm", settings, {}, keyless=True)


def test_what_opens_unasked_is_known_of_every_provider():
    asked = {"local", "synthetic", "llama-cpp", "vllm", "sglang", "tgi", "ollama"}
    assert {entry.name for entry in ENTRIES if not opens_unasked(entry.name)} == asked
    assert not opens_unasked("module:Class")


async def test_a_host_on_this_machine_needs_no_key():
    settings = ProviderSettings(model="m", base_url="http://127.0.0.1:9/v1", top_k=5, context_tokens=99)
    provider = await open_provider("openai-compatible", settings, {})
    assert provider.name == "openai-compatible"
    assert provider.capabilities.max_top_k == 5
    assert provider.capabilities.context_tokens == 99
    await provider.aclose()


@pytest.mark.parametrize(("name", "route"), [("openai-compatible", "completions"), ("openai", "chat")])
async def test_the_default_key_goes_to_the_default_host_only(server, name, route):
    reply = {"choices": [{"logprobs": {"top_logprobs": [{"a": -0.5, "b": -2.0}]}}]}
    server.answer("/v1/completions", reply)
    server.answer("/v1/chat/completions", reply)
    settings = ProviderSettings(model="m", base_url=f"{server.url}/v1", route=route)
    provider = await open_provider(name, settings, {"OPENAI_API_KEY": KEY})
    await provider.send(NextTokenRequest(Prompt("q"), ()))
    await provider.aclose()
    assert KEY not in str(server.asked[0].headers)


async def test_a_named_key_is_sent(server):
    server.answer("/v1/completions", {"choices": [{"logprobs": {"top_logprobs": [{"a": -0.5, "b": -2.0}]}}]})
    settings = ProviderSettings(model="m", base_url=f"{server.url}/v1", api_key_env="MY_KEY")
    provider = await open_provider("openai-compatible", settings, {"MY_KEY": KEY})
    await provider.send(NextTokenRequest(Prompt("q"), ()))
    await provider.aclose()
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


async def test_a_key_in_clear_text_is_refused_without_showing_it():
    settings = ProviderSettings(model="m", base_url="http://far.example/v1", api_key_env="MY_KEY")
    with pytest.raises(ConfigError, match="https") as caught:
        await open_provider("openai-compatible", settings, {"MY_KEY": KEY})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("base_url", ["ftp://host", "localhost:8080", "https://me:pw@host/v1"])
async def test_a_bad_address_is_refused(base_url):
    for name in ("openai-compatible", "llama-cpp"):
        with pytest.raises(ConfigError, match="base_url"):
            await open_provider(name, ProviderSettings(model="m", base_url=base_url), {})


async def test_a_missing_model_is_asked_for():
    with pytest.raises(ConfigError, match="needs --model"):
        await open_provider("openai-compatible", ProviderSettings(base_url="http://127.0.0.1:9/v1"), {})


@pytest.mark.parametrize("name", ["openai-compatible", "llama-cpp"])
async def test_a_setting_that_a_provider_would_not_use_is_refused(name):
    settings = ProviderSettings(model="m", base_url="http://127.0.0.1:9", options={"nosie": "1"})
    with pytest.raises(ConfigError, match="does not take --provider-option"):
        await open_provider(name, settings, {})


async def test_echo_is_for_hosts_with_openais_completions_route():
    here: dict[str, Any] = {"model": "m", "base_url": "http://127.0.0.1:9/v1", "echo": True}
    provider = await open_provider("openai-compatible", ProviderSettings(**here), {})
    assert provider.capabilities.prompt_logprobs
    await provider.aclose()
    with pytest.raises(ConfigError, match="needs route completions"):
        await open_provider("openai-compatible", ProviderSettings(**here, route="chat"), {})
    with pytest.raises(ConfigError, match="does not take --echo"):
        await open_provider("llama-cpp", ProviderSettings(**here), {})


async def test_the_local_row_is_opened_by_a_run():
    with pytest.raises(ConfigError, match="a run starts its server"):
        await open_provider("local", ProviderSettings(), {})


async def test_the_synthetic_learner_opens_without_key_or_host():
    provider = await open_provider("synthetic", ProviderSettings(), {})
    assert provider.name == "synthetic"
    await provider.aclose()


async def test_a_third_partys_class_is_opened_with_settings_and_key(third_party):
    settings = ProviderSettings(api_key_env="MY_KEY")
    provider = await open_provider(third_party, settings, {"MY_KEY": KEY})
    assert isinstance(provider, OfAThirdParty)
    assert provider.settings == settings
    assert provider.api_key == KEY


async def test_a_plug_in_is_found_by_its_entry_point(monkeypatch, third_party):
    def installed(**wanted):
        points = EntryPoints([EntryPoint("extra", third_party, "icm_api.providers")])
        return points.select(**wanted)

    monkeypatch.setattr(registry, "entry_points", installed)
    assert isinstance(await open_provider("extra", ProviderSettings(), {}), OfAThirdParty)
    with pytest.raises(ConfigError, match="extra"):
        await open_provider("extr", ProviderSettings(), {})


@pytest.mark.parametrize("path", ["no_such_module_anywhere:Thing", "icm_api.errors:Nothing", ":x", "icm_api.errors:"])
async def test_a_third_partys_class_that_cannot_be_imported_is_a_config_error(path):
    with pytest.raises(ConfigError, match="cannot be imported"):
        await open_provider(path, ProviderSettings(), {})


async def test_a_third_party_object_that_cannot_be_called_is_refused():
    with pytest.raises(ConfigError, match="no class or function"):
        await open_provider("icm_api.providers.registry:ENTRIES", ProviderSettings(), {})
