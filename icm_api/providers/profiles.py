"""Hosts that speak OpenAI's routes, as rows of facts: `registry` opens each by the one OpenAI-shaped adapter.

A row says how a host differs from the next, and the day and page of its facts. To add a host, add a row; a host of your
own needs none: a table `[providers.NAME]` in the configuration file says the same (see `config.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icm_api.errors import ConfigError
from icm_api.types import Json

if TYPE_CHECKING:
    from icm_api.providers.registry import Route


@dataclass(frozen=True, slots=True)
class Profile:
    """Facts about one host."""

    name: str
    summary: str
    routes: tuple[Route, ...]
    """What it can be asked by; the first unless the user names another."""
    checked: str
    """Day the facts were last checked, ISO 8601."""
    source: str
    """Public page that they come from."""
    note: str
    """What it is known to do wrong or otherwise, and what is done about it."""
    base_url: str | None = None
    """None: each user has an address of their own."""
    key_env: str | None = None
    """Default environment variable of the key. None: no key is needed, or there is no default."""
    needs_key: bool = True
    max_top_k: int | None = None
    """Most candidates that it lists. None: it gives no list."""
    echo: bool = False
    """Its completions route gives prompt log-probs, and they are asked for unless the user says otherwise."""
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    """Members of every request's body."""
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """`--provider-option` NAME=A,B -> where in the body the list of its values goes."""
    needed_options: tuple[str, ...] = ()
    """Those that must be given, with one value each."""

    def body(self, extra_body: Mapping[str, Json], options: Mapping[str, str]) -> dict[str, Json]:
        """Members of every request's body: the row's, then the user's options, then the user's own. Raises ConfigError
        for an unknown or missing option."""
        strange = sorted(set(options) - set(self.options))
        if strange:
            known = ", ".join(self.options) or "none"
            raise ConfigError(f"provider {self.name!r} has no option {strange[0]!r}; it has: {known}")
        missing = [name for name in self.needed_options if not options.get(name) or "," in options[name]]
        if missing:
            raise ConfigError(f"provider {self.name!r} needs --provider-option {missing[0]}=ONE: {self.note}")
        body = dict(self.extra_body)
        for name, text in options.items():
            body = merged(body, _nested(self.options[name], [part.strip() for part in text.split(",")]))
        return merged(body, extra_body)


def merged(under: Mapping[str, Json], over: Mapping[str, Json]) -> dict[str, Json]:
    """`under` with the members of `over`; objects of both are merged, anything else is replaced."""
    result = dict(under)
    for name, value in over.items():
        below = result.get(name)
        result[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return result


def _nested(path: Sequence[str], values: Sequence[str]) -> dict[str, Json]:
    """`("a", "b"), ["x"]` -> `{"a": {"b": ["x"]}}`."""
    first, *rest = path
    return {first: _nested(rest, values) if rest else [*values]}


PROFILES: tuple[Profile, ...] = (
    Profile(
        name="fireworks",
        summary="Fireworks AI: open models, base and chat",
        base_url="https://api.fireworks.ai/inference/v1",
        key_env="FIREWORKS_API_KEY",
        routes=("completions", "chat", "votes"),
        max_top_k=5,
        # Not echo_last, which is counted in tokens: a chain reads all labels but its overlap's (a fifth), and what is
        # known here of that many tokens, a bound by bytes, is mostly more than the whole prompt has.
        echo=True,
        extra_body={"context_length_exceeded_behavior": "error"},
        checked="2026-11-22",
        source="https://docs.fireworks.ai/api-reference/post-completions",
        note="shortens a too long request in silence unless told to fail, so it is told; lists 5 tokens, so rare "
        "labels are often only bounded; a text gets its begin token by itself",
    ),
    Profile(
        name="hyperbolic",
        summary="Hyperbolic: open models, among them a base Llama 3.1 405B",
        base_url="https://api.hyperbolic.xyz/v1",
        key_env="HYPERBOLIC_API_KEY",
        routes=("completions", "chat"),
        max_top_k=20,
        checked="2026-11-22",
        source="https://docs.hyperbolic.xyz/docs/rest-api",
        note="its older pages list log-probs and its newer ones do not, and none speaks of echo: probe each model",
    ),
    Profile(
        name="openrouter",
        summary="OpenRouter: a gateway to many hosts",
        base_url="https://openrouter.ai/api/v1",
        key_env="OPENROUTER_API_KEY",
        routes=("chat", "votes"),
        max_top_k=20,
        extra_body={"provider": {"require_parameters": True, "allow_fallbacks": False}},
        options={"order": ("provider", "order"), "quantizations": ("provider", "quantizations")},
        needed_options=("order",),
        checked="2026-11-22",
        source="https://openrouter.ai/docs/features/provider-routing",
        note="it spreads requests over hosts of other quantisations and leaves out log-probs in silence where a host "
        "has none: name the one host to ask (order=NAME)",
    ),
    Profile(
        name="deepinfra",
        summary="DeepInfra: open models",
        base_url="https://api.deepinfra.com/v1/openai",
        key_env="DEEPINFRA_API_KEY",
        routes=("chat", "completions", "votes"),
        max_top_k=20,
        checked="2026-11-22",
        source="https://docs.deepinfra.com/chat/log-probs",
        note="an older page says that this route gives no log-probs: probe each model",
    ),
    Profile(
        name="deepseek",
        summary="DeepSeek's own models",
        base_url="https://api.deepseek.com",
        key_env="DEEPSEEK_API_KEY",
        routes=("chat",),
        max_top_k=20,
        extra_body={"thinking": {"type": "disabled"}},
        checked="2026-11-22",
        source="https://api-docs.deepseek.com/api/create-chat-completion",
        note="thinks unless told not to, so it is told; some models list only 0 and -9999, which is refused; holds no "
        "answer to a JSON schema, so there are no votes",
    ),
    Profile(
        name="mistral",
        summary="Mistral's own models",
        base_url="https://api.mistral.ai/v1",
        key_env="MISTRAL_API_KEY",
        routes=("chat", "votes"),
        max_top_k=20,
        checked="2026-11-22",
        source="https://docs.mistral.ai/api",
        note="log-probs stand in its SDK's types and on no page of its documentation: probe, else --route votes",
    ),
    Profile(
        name="xai",
        summary="xAI's Grok models",
        base_url="https://api.x.ai/v1",
        key_env="XAI_API_KEY",
        routes=("chat", "votes"),
        max_top_k=8,
        checked="2026-11-22",
        source="https://docs.x.ai/docs/api-reference",
        note="lists 8 tokens, and reasoning models none: probe each model, else --route votes",
    ),
    Profile(
        name="groq",
        summary="Groq: open models",
        base_url="https://api.groq.com/openai/v1",
        key_env="GROQ_API_KEY",
        routes=("votes",),
        checked="2026-11-22",
        source="https://console.groq.com/docs/api-reference",
        note="takes the parameters for log-probs and supports them for no model",
    ),
    Profile(
        name="azure",
        summary="Azure OpenAI, by its v1 address: https://RESOURCE.openai.azure.com/openai/v1",
        routes=("chat", "responses", "votes"),
        max_top_k=20,
        checked="2026-11-22",
        source="https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle",
        note="--model is the deployment's name, --api-key-env must be given; older deployments refuse log-probs; its "
        "content filter refuses some texts",
    ),
    Profile(
        name="lm-studio",
        summary="LM Studio's server on this machine",
        base_url="http://127.0.0.1:1234/v1",
        needs_key=False,
        routes=("votes",),
        checked="2026-11-22",
        source="https://github.com/lmstudio-ai/lms/issues/60",
        note="takes the parameters for log-probs and returns none: serve the same file with llama.cpp for exact ones",
    ),
)
