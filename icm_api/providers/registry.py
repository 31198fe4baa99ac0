"""From a provider's name to an open provider. Knows every built-in by a row; imports an adapter only to open it."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from importlib.metadata import entry_points
from typing import Literal, TypeAlias

from icm_api.errors import ConfigError
from icm_api.providers.base import Provider
from icm_api.providers.profiles import PROFILES, Profile
from icm_api.spelling import did_you_mean
from icm_api.types import Json

ENTRY_POINT_GROUP = "icm_api.providers"
MOST_NAMED = 3
"""Providers that a message names as ones that would do."""


Route: TypeAlias = Literal["completions", "chat", "responses", "decisions", "votes"]
"""How a host is asked. `votes`: counted answers, for hosts or models without log-probabilities."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What a user can say about a provider. None: the adapter's own default."""

    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself is never a setting."""
    route: Route | None = None
    top_k: int | None = None
    timeout_s: float | None = None
    context_tokens: int | None = None
    """The model's context, for hosts that do not tell it themselves."""
    echo: bool | None = None
    """Whether to rely on prompt log-probs, which a host gives that is asked to echo the prompt."""
    extra_body: Mapping[str, Json] = field(default_factory=dict)
    """Further members of every request's JSON body, for hosts that want more than others."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What only one provider knows, such as the synthetic learner's noise."""


Gives: TypeAlias = Literal["sequences", "exact", "top-k", "probabilities", "votes"]
"""How a host's answers carry what it expects: log-probs of whole sequences of labels in one request; of every label;
of the likeliest tokens; the host's own probabilities; counted answers only."""

_NOTHING_SAID = ProviderSettings()

Opener: TypeAlias = "Callable[[ProviderSettings, str | None], Provider | Awaitable[Provider]]"
"""Settings and API key (None without one) to a provider. A third party's class or function has this shape."""


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """Facts about a built-in provider."""

    name: str
    summary: str
    needs: tuple[str, ...]
    """Settings that must be given: `model`, `base_url`, `api_key_env`; `key`: the variable `key_env` must hold one."""
    logprobs: str
    """How the labels' log-probabilities come."""
    checked: str
    """Day the facts were last checked, ISO 8601."""
    open: Opener | None
    """None: not opened here."""
    takes: tuple[str, ...]
    """Settings that have a meaning for it; giving another is an error, never ignored."""
    key_env: str | None = None
    """Default environment variable of the key, used for the default host only."""
    base_url: str | None = None
    """Default host."""
    gives: tuple[Gives, ...] = ()
    """What it can answer with, best first."""
    note: str = ""
    """What it is known to do wrong or otherwise, and what is done about it."""
    source: str = ""
    """Public page that the facts come from."""


def check_settings(name: str, settings: ProviderSettings) -> None:
    """Raise ConfigError for a setting that the built-in provider `name` would not use."""
    entry = _BY_NAME.get(name)
    if entry is None:
        return
    given = [f.name for f in fields(settings) if getattr(settings, f.name) != getattr(_NOTHING_SAID, f.name)]
    strange = [name for name in given if name not in entry.takes]
    if strange:
        flags = {"options": "provider_option"}
        names = " and ".join(f"--{flags.get(each, each).replace('_', '-')}" for each in strange)
        others = [each.name for each in ENTRIES if set(given) <= set(each.takes)]
        named = " and ".join(others if len(others) <= MOST_NAMED else [*others[:MOST_NAMED], "others"])
        hint = f"; {named} would (choose with --provider)" if others else ""
        raise ConfigError(f"provider {name!r} does not take {names}{hint}")


def check_name(name: str, also: Iterable[str] = ()) -> None:
    """Raise ConfigError, with the closest name, for a name that is no built-in, no installed plug-in and no
    `module:Class`. `also`: further names to guess from."""
    if name in _BY_NAME or ":" in name:
        return
    plug_ins = [point.name for point in entry_points(group=ENTRY_POINT_GROUP)]
    if name not in plug_ins:
        known = sorted({*_BY_NAME, *plug_ins, *also})
        guess = did_you_mean(name, known)
        raise ConfigError(f"unknown provider {name!r}.{guess} Known: {', '.join(known)}, or module:Class of your own")


def opens_unasked(name: str) -> bool:
    """Whether nothing is asked of the host of this built-in provider while it is opened."""
    entry = _BY_NAME.get(name)
    return (
        entry is not None
        and entry.open is not None
        and "base_url" in entry.takes
        and not inspect.iscoroutinefunction(entry.open)
    )


async def open_provider(
    name: str, settings: ProviderSettings, environ: Mapping[str, str], *, keyless: bool = False
) -> Provider:
    """Open the provider of that name: a built-in, an installed plug-in (entry points of `icm_api.providers`), or
    `module:Class` of a third party. `environ`: where keys are looked up. `keyless`: nothing will be asked of the host,
    so a key that is not set may be missing where `opens_unasked`.

    Raises ConfigError for an unknown name or an unusable setting, ProviderError when the host must be asked and fails.
    """
    check_name(name)
    entry = _BY_NAME.get(name)
    opener = _opener(name, entry)
    check_settings(name, settings)
    if entry is not None:
        settings = _with_defaults(entry, settings)
    needs_key = not (keyless and opens_unasked(name))
    opened = opener(settings, _api_key(entry, settings, environ, needs_key))
    return await opened if inspect.isawaitable(opened) else opened


def _opener(name: str, entry: ProviderEntry | None) -> Opener:
    if entry is not None:
        if entry.open is None:
            raise ConfigError(f"provider {name!r} cannot be opened by itself: a run starts its server and opens it")
        return entry.open
    if ":" in name:
        return _third_party(name)
    (plug_in, *_) = entry_points(group=ENTRY_POINT_GROUP, name=name)
    return _third_party(plug_in.value)


def _third_party(path: str) -> Opener:
    module_name, _, attribute = path.partition(":")
    try:
        opener = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"provider {path!r} cannot be imported: {error}") from error
    if not callable(opener):
        raise ConfigError(f"provider {path!r} is no class or function of (settings, api_key)")
    found: Opener = opener
    return found


def _with_defaults(entry: ProviderEntry, settings: ProviderSettings) -> ProviderSettings:
    stated = {
        "model": settings.model,
        "base_url": settings.base_url or entry.base_url,
        "api_key_env": settings.api_key_env,
    }
    missing = [need for need in entry.needs if need in stated and not stated[need]]
    if missing:
        flags = " and ".join(f"--{need.replace('_', '-')}" for need in missing)
        raise ConfigError(f"provider {entry.name!r} needs {flags}")
    return replace(
        settings,
        base_url=stated["base_url"],
        api_key_env=settings.api_key_env or _default_key_env(entry, stated["base_url"]),
    )


def _default_key_env(entry: ProviderEntry, base_url: str | None) -> str | None:
    """A row's key belongs to the row's host: it is never sent to another address unless the user names it."""
    return entry.key_env if base_url and base_url.rstrip("/") == entry.base_url else None


def _api_key(
    entry: ProviderEntry | None, settings: ProviderSettings, environ: Mapping[str, str], needs_key: bool
) -> str | None:
    if settings.api_key_env is None:
        return None
    key = environ.get(settings.api_key_env, "").strip()
    if not key and needs_key:
        who = f"provider {entry.name!r}" if entry else "the provider"
        raise ConfigError(f"{who} needs its key in the environment variable {settings.api_key_env}, which is not set")
    return key or None


def _given(**settings: object) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


# --- openers ----------------------------------------------------------------------------------------------


def _open_openai_compatible(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.openai_compat import OpenAICompatible

    return OpenAICompatible(
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        echo=bool(settings.echo),
        extra_body=settings.extra_body,
        **_given(  # type: ignore[arg-type]
            route=settings.route,
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


def _open_openai(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.openai_compat import OpenAICompatible
    from icm_api.providers.openai_models import reasoning_effort

    if settings.route == "completions":
        raise ConfigError(
            "provider 'openai' has no completions route (OpenAI shut its last models there on 2026-09-28): use route "
            "chat, or --provider openai-compatible for another host"
        )
    return OpenAICompatible(
        name="openai",
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        route=settings.route or "chat",
        max_top_k=20,
        extra_body=settings.extra_body,
        tokens_field="max_completion_tokens",
        sends_cache_key=True,
        reasoning_effort=reasoning_effort(settings.model or "", settings.options),
        **_given(  # type: ignore[arg-type]
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


def _open_together(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.together import Together

    return Together(
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        **_given(  # type: ignore[arg-type]
            route=settings.route,
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
            echo=settings.echo,
        ),
    )


async def _open_llama_cpp(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.llama_cpp import LlamaCpp

    return await LlamaCpp.connect(
        base_url=settings.base_url or "",
        model=settings.model,
        api_key=api_key,
        **_given(top_k=settings.top_k, timeout_s=settings.timeout_s),  # type: ignore[arg-type]
    )


async def _open_vllm(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.vllm import Vllm

    return await Vllm.connect(**_server_settings(settings, api_key), **_given(echo=settings.echo))  # type: ignore[arg-type]


async def _open_sglang(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.sglang import Sglang

    return await Sglang.connect(**_server_settings(settings, api_key), **_given(echo=settings.echo))  # type: ignore[arg-type]


async def _open_tgi(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.tgi import Tgi

    return await Tgi.connect(**_server_settings(settings, api_key))  # type: ignore[arg-type]


def _server_settings(settings: ProviderSettings, api_key: str | None) -> dict[str, object]:
    """What all servers that tell about themselves are opened with."""
    given = _given(top_k=settings.top_k, timeout_s=settings.timeout_s)
    return {"base_url": settings.base_url or "", "model": settings.model, "api_key": api_key, **given}


def _open_llama_cpp_python(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.openai_compat import OpenAICompatible

    return OpenAICompatible(
        name="llama-cpp-python",
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        route="completions",
        echo=bool(settings.echo),
        **_given(  # type: ignore[arg-type]
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


def _open_profile(profile: Profile, settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.openai_compat import OpenAICompatible

    route = settings.route or profile.routes[0]
    if route not in profile.routes:
        raise ConfigError(f"provider {profile.name!r} has no route {route}; it has: {', '.join(profile.routes)}")
    return OpenAICompatible(
        name=profile.name,
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        route=route,
        echo=profile.echo and route == "completions" if settings.echo is None else settings.echo,
        max_top_k=profile.max_top_k,
        extra_body=profile.body(settings.extra_body, settings.options),
        headers=profile.headers,
        **_given(  # type: ignore[arg-type]
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


async def _open_ollama(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.ollama import Ollama

    return await Ollama.connect(
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        **_given(  # type: ignore[arg-type]
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


def _open_gemini(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.gemini import Gemini

    return Gemini.from_options(
        settings.options,
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        **_given(
            route=settings.route,
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
        ),
    )


def _open_anthropic(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.anthropic import Anthropic

    if settings.route not in (None, "votes"):
        raise ConfigError(f"provider 'anthropic' has no route {settings.route}; it has: votes")
    return Anthropic(
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        **_given(timeout_s=settings.timeout_s, context_tokens=settings.context_tokens),  # type: ignore[arg-type]
    )


def _open_synthetic(settings: ProviderSettings, _api_key: str | None) -> Provider:
    from icm_api.providers.synthetic import Synthetic

    return Synthetic.from_options(settings.options)


def _entry(profile: Profile) -> ProviderEntry:
    """A host's row among the providers."""
    lists = profile.max_top_k is not None
    key = (("key",) if profile.key_env else ("api_key_env",)) if profile.needs_key else ()
    takes = ["model", "base_url", "api_key_env", "route", "timeout_s", "context_tokens", "extra_body"]
    takes += ["top_k"] if lists else []
    takes += ["echo"] if "completions" in profile.routes else []
    takes += ["options"] if profile.options else []
    gives: list[Gives] = ["sequences"] if profile.echo else []
    gives += ["top-k"] if lists else []
    gives += ["votes"] if "votes" in profile.routes else []
    return ProviderEntry(
        name=profile.name,
        summary=profile.summary,
        needs=("model", *(() if profile.base_url else ("base_url",)), *key),
        logprobs=f"the {profile.max_top_k} likeliest tokens; a label outside them gets a bound" if lists else "none",
        checked=profile.checked,
        open=partial(_open_profile, profile),
        takes=tuple(takes),
        key_env=profile.key_env,
        base_url=profile.base_url,
        gives=tuple(gives),
        note=profile.note,
        source=profile.source,
    )


# --- rows -------------------------------------------------------------------------------------------------

ENTRIES: tuple[ProviderEntry, ...] = (
    ProviderEntry(
        name="local",
        summary="a small model on this machine, in llama.cpp's server that a run starts and stops",
        needs=(),
        logprobs="exact for every label, of any number of tokens",
        checked="2026-11-21",
        open=None,
        takes=("model", "context_tokens"),
        gives=("exact",),
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
    ProviderEntry(
        name="llama-cpp",
        summary="a running llama.cpp server, by its native routes",
        needs=(),
        logprobs="exact for every label, of any number of tokens",
        checked="2026-11-21",
        open=_open_llama_cpp,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s", "context_tokens"),
        base_url="http://127.0.0.1:8080",
        gives=("exact",),
        note="its OpenAI-shaped routes take echo and ignore it, so its native ones are asked",
        source="https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
    ProviderEntry(
        name="vllm",
        summary="a running vLLM server, by its own parameters",
        needs=(),
        logprobs="exact for every label; all labels of a sequence at once, those outside the top_k get a bound there",
        checked="2026-11-22",
        open=_open_vllm,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s", "echo"),
        base_url="http://127.0.0.1:8000",
        gives=("sequences", "exact"),
        note="Labels outside the list are forced by allowed_token_ids; a server that does not obey is noticed, and "
        "labels are then read from prompt_logprobs. Those do not read the prefix cache (they still fill it): --no-echo "
        "walks instead. At most --max-logprobs candidates (20).",
        source="https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html",
    ),
    ProviderEntry(
        name="sglang",
        summary="a running SGLang server, by its native /generate",
        needs=(),
        logprobs="exact for every label, also at every place of a sequence",
        checked="2026-11-22",
        open=_open_sglang,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s", "echo"),
        base_url="http://127.0.0.1:30000",
        gives=("sequences", "exact"),
        note="Asked at temperature 0: at other temperatures but 1 the server reports tempered log-probs. Of a sequence "
        "only the part from the first scored label on is evaluated anew.",
        source="https://docs.sglang.ai/basic_usage/native_api.html",
    ),
    ProviderEntry(
        name="tgi",
        summary="a running text-generation-inference server, by its own routes",
        needs=(),
        logprobs="the 5 likeliest tokens; a label outside them exact with --enable-prefill-logprobs, else bounded",
        checked="2026-11-22",
        open=_open_tgi,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s"),
        base_url="http://127.0.0.1:8080",
        gives=("exact", "top-k"),
        note="At most --max-top-n-tokens candidates (5). Since version 3 the server gives prompt log-probs only with "
        "--enable-prefill-logprobs; whether it does is measured. Whole sequences cannot be asked for.",
        source="https://huggingface.co/docs/text-generation-inference/reference/api_reference",
    ),
    ProviderEntry(
        name="llama-cpp-python",
        summary="the server of the llama-cpp-python package",
        needs=("model",),
        logprobs="the top_k likeliest tokens; all labels of a sequence at once (--echo)",
        checked="2026-11-22",
        open=_open_llama_cpp_python,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s", "context_tokens", "echo"),
        base_url="http://127.0.0.1:8000/v1",
        gives=("sequences", "top-k"),
        note="For models without a BOS token its echo gives each token the log-prob of the next place and leaves out "
        "the last: such a reply is refused. Run `icm-api probe --echo` before relying on it. One request at a time.",
        source="https://llama-cpp-python.readthedocs.io/en/latest/server/",
    ),
    ProviderEntry(
        name="openai",
        summary="OpenAI's models, by their chat (default), responses or decisions route, or by votes",
        needs=("model", "key"),
        logprobs="the 20 likeliest tokens (routes chat and responses); a label outside them gets a bound; "
        "the host's own probabilities (route decisions); counted answers (route votes)",
        checked="2026-11-22",
        open=_open_openai,
        takes=(
            "model",
            "base_url",
            "api_key_env",
            "route",
            "top_k",
            "timeout_s",
            "context_tokens",
            "extra_body",
            "options",
        ),
        key_env="OPENAI_API_KEY",
        base_url="https://api.openai.com/v1",
        gives=("top-k", "probabilities", "votes"),
        note="Models that reason give log-probabilities only where they are told not to (reasoning_effort none), which "
        "is done by the model's name; --provider-option reasoning_effort=none|omit says otherwise. Model names of "
        "families without that setting (gpt-5, o1, o3, o4) are refused. Stated probabilities are calibrated by the "
        "host, so they are no log-likelihoods.",
        source="https://github.com/openai/openai-openapi",
    ),
    ProviderEntry(
        name="openai-compatible",
        summary="any host with OpenAI's completions or chat route: vLLM, SGLang, Ollama, gateways",
        needs=("model", "base_url"),
        logprobs="top_k likeliest tokens; a label outside them gets a bound; "
        "all labels of a sequence at once from hosts that can echo (--echo)",
        checked="2026-11-21",
        open=_open_openai_compatible,
        takes=(
            "model",
            "base_url",
            "api_key_env",
            "route",
            "top_k",
            "timeout_s",
            "context_tokens",
            "echo",
            "extra_body",
        ),
        gives=("sequences", "top-k", "votes"),
        note="no key is sent but the one whose variable --api-key-env names; `probe` measures what a host really gives",
        source="https://github.com/openai/openai-openapi",
    ),
    ProviderEntry(
        name="together",
        summary="Together AI, through its SDK: base models and instruct models",
        needs=("model", "key"),
        logprobs="all labels of a sequence in one request by echo (completions route; --no-echo for a model that gives "
        "none); else the 20 likeliest tokens; a label outside them gets a bound",
        checked="2026-11-22",
        open=_open_together,
        takes=("model", "base_url", "api_key_env", "route", "top_k", "timeout_s", "context_tokens", "echo"),
        key_env="TOGETHER_API_KEY",
        base_url="https://api.together.ai/v1",
        gives=("sequences", "top-k"),
        note="echoed log-probs stand apart (top-level prompt); limits are dynamic; top_p is never sent, for with it "
        "the host has reported 0 for every token",
        source="https://docs.together.ai/docs/logprobs",
    ),
    *map(_entry, PROFILES),
    ProviderEntry(
        name="ollama",
        summary="a running Ollama server, by its native route",
        needs=("model",),
        logprobs="the 20 likeliest tokens; a label outside them gets a bound",
        checked="2026-11-22",
        open=_open_ollama,
        takes=("model", "base_url", "api_key_env", "top_k", "timeout_s", "context_tokens"),
        base_url="http://127.0.0.1:11434",
        gives=("top-k",),
        note="loads a model with a short context and cuts longer prompts in silence unless told otherwise, so it is "
        "told (--context-tokens, default 8192); cloud models give no log-probs and are refused",
        source="https://docs.ollama.com/api/generate",
    ),
    ProviderEntry(
        name="gemini",
        summary="Google's Gemini models, by generateContent",
        needs=("model", "key"),
        logprobs="the 20 likeliest tokens of the few models that give any; others by votes",
        checked="2026-11-22",
        open=_open_gemini,
        takes=("model", "base_url", "api_key_env", "route", "top_k", "timeout_s", "context_tokens", "options"),
        key_env="GEMINI_API_KEY",
        base_url="https://generativelanguage.googleapis.com/v1beta",
        gives=("top-k", "votes"),
        note="many models answer `Logprobs is not enabled`: use --route votes; thinking is kept as short as the model "
        "allows (--provider-option thinking=BUDGET, LEVEL or omit)",
        source="https://ai.google.dev/api/generate-content",
    ),
    ProviderEntry(
        name="anthropic",
        summary="Anthropic's models, by the Messages API",
        needs=("model", "key"),
        logprobs="none: counted answers (--votes), held to one of the labels",
        checked="2026-11-22",
        open=_open_anthropic,
        takes=("model", "base_url", "api_key_env", "route", "timeout_s", "context_tokens"),
        key_env="ANTHROPIC_API_KEY",
        base_url="https://api.anthropic.com",
        gives=("votes",),
        note="thinking is turned off; models that cannot do without it (claude-fable, claude-mythos) refuse that; a "
        "prompt shorter than the model's minimum (512 to 4096 tokens) is not cached; servers of this dialect that hold "
        "no answer to a schema (llama.cpp) give votes only as far as the model obeys",
        source="https://platform.claude.com/docs/en/api/messages",
    ),
    ProviderEntry(
        name="synthetic",
        summary="an offline learner with a known truth, for tests and research",
        needs=(),
        logprobs="top_k, computed",
        checked="2026-11-21",
        open=_open_synthetic,
        takes=("options", "context_tokens"),
        gives=("sequences", "top-k"),
        note="nothing in it says how good a real model is",
        source="icm_api/providers/synthetic.py",
    ),
)
"""One row a built-in provider, for `icm-api providers`."""

_BY_NAME: Mapping[str, ProviderEntry] = {entry.name: entry for entry in ENTRIES}
