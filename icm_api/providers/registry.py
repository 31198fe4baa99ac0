"""From a provider's name to an open provider. Knows every built-in by a row; imports an adapter only to open it."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import entry_points
from typing import Literal, TypeAlias

from icm_api.errors import ConfigError
from icm_api.providers.base import Provider

ENTRY_POINT_GROUP = "icm_api.providers"


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
    echo: bool = False
    """The host gives prompt log-probs where it is asked to echo the prompt."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What only one provider knows, such as the synthetic learner's noise."""


Opener: TypeAlias = "Callable[[ProviderSettings, str | None], Provider | Awaitable[Provider]]"
"""Settings and API key (None without one) to a provider. A third party's class or function has this shape."""


@dataclass(frozen=True, slots=True)
class ProviderEntry:
    """Facts about a built-in provider."""

    name: str
    summary: str
    needs: tuple[str, ...]
    """Settings that must be given: `model`, `base_url`, `key`."""
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


def check_settings(name: str, settings: ProviderSettings) -> None:
    """Raise ConfigError for a setting that the built-in provider `name` would not use."""
    entry = _BY_NAME.get(name)
    if entry is None:
        return
    given = [f.name for f in fields(ProviderSettings) if getattr(settings, f.name) != f.default and f.name != "options"]
    given += ["options"] if settings.options else []
    strange = [name for name in given if name not in entry.takes]
    if strange:
        flags = {"options": "provider_option"}
        names = " and ".join(f"--{flags.get(each, each).replace('_', '-')}" for each in strange)
        others = [each.name for each in ENTRIES if set(given) <= set(each.takes)]
        hint = f"; {' and '.join(others)} would (choose with --provider)" if others else ""
        raise ConfigError(f"provider {name!r} does not take {names}{hint}")


async def open_provider(name: str, settings: ProviderSettings, environ: Mapping[str, str]) -> Provider:
    """Open the provider of that name: a built-in, an installed plug-in (entry points of `icm_api.providers`), or
    `module:Class` of a third party. `environ`: where keys are looked up.

    Raises ConfigError for an unknown name or an unusable setting, ProviderError when the host must be asked and fails.
    """
    entry = _BY_NAME.get(name)
    opener = _opener(name, entry)
    check_settings(name, settings)
    if entry is not None:
        settings = _with_defaults(entry, settings)
    opened = opener(settings, _api_key(entry, settings, environ))
    return await opened if inspect.isawaitable(opened) else opened


def _opener(name: str, entry: ProviderEntry | None) -> Opener:
    if entry is not None:
        if entry.open is None:
            raise ConfigError(f"provider {name!r} cannot be opened by itself: a run starts its server and opens it")
        return entry.open
    if ":" in name:
        return _third_party(name)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return _third_party(point.value)
    raise ConfigError(_unknown(name))


def _third_party(path: str) -> Opener:
    module_name, _, attribute = path.partition(":")
    try:
        opener = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, AttributeError, SyntaxError) as error:
        raise ConfigError(f"provider {path!r} cannot be imported: {error}") from error
    if not callable(opener):
        raise ConfigError(f"provider {path!r} is no class or function of (settings, api_key)")
    found: Opener = opener
    return found


def _unknown(name: str) -> str:
    known = sorted({*_BY_NAME, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})
    near = difflib.get_close_matches(name, known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown provider {name!r}.{guess} Known: {', '.join(known)}, or module:Class of your own"


def _with_defaults(entry: ProviderEntry, settings: ProviderSettings) -> ProviderSettings:
    stated = {"model": settings.model, "base_url": settings.base_url or entry.base_url}
    missing = [need for need in entry.needs if need in stated and not stated[need]]
    if missing:
        raise ConfigError(f"provider {entry.name!r} needs {' and '.join(missing)}")
    return replace(
        settings,
        base_url=stated["base_url"],
        api_key_env=settings.api_key_env or _default_key_env(entry, stated["base_url"]),
    )


def _default_key_env(entry: ProviderEntry, base_url: str | None) -> str | None:
    """A row's key belongs to the row's host: it is never sent to another address unless the user names it."""
    return entry.key_env if base_url and base_url.rstrip("/") == entry.base_url else None


def _api_key(entry: ProviderEntry | None, settings: ProviderSettings, environ: Mapping[str, str]) -> str | None:
    if settings.api_key_env is None:
        return None
    key = environ.get(settings.api_key_env, "").strip()
    if not key:
        who = f"provider {entry.name!r}" if entry else "the provider"
        raise ConfigError(f"{who} needs its key in the environment variable {settings.api_key_env}, which is not set")
    return key


def _given(**settings: object) -> dict[str, object]:
    return {name: value for name, value in settings.items() if value is not None}


# --- openers ----------------------------------------------------------------------------------------------


def _open_openai_compatible(settings: ProviderSettings, api_key: str | None) -> Provider:
    from icm_api.providers.openai_compat import OpenAICompatible

    return OpenAICompatible(
        base_url=settings.base_url or "",
        model=settings.model or "",
        api_key=api_key,
        echo=settings.echo,
        **_given(  # type: ignore[arg-type]
            route=settings.route,
            top_k=settings.top_k,
            timeout_s=settings.timeout_s,
            context_tokens=settings.context_tokens,
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


def _open_synthetic(settings: ProviderSettings, _api_key: str | None) -> Provider:
    from icm_api.providers.synthetic import Synthetic

    return Synthetic.from_options(settings.options)


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
    ),
    ProviderEntry(
        name="openai-compatible",
        summary="any host with OpenAI's completions or chat route: OpenAI, vLLM, SGLang, Ollama, gateways",
        needs=("model", "key"),
        logprobs="top_k likeliest tokens; a label outside them gets a bound (no key is needed on this machine); "
        "all labels of a sequence at once from hosts that can echo (--echo)",
        checked="2026-11-21",
        open=_open_openai_compatible,
        takes=("model", "base_url", "api_key_env", "route", "top_k", "timeout_s", "context_tokens", "echo"),
        key_env="OPENAI_API_KEY",
        base_url="https://api.openai.com/v1",
    ),
    ProviderEntry(
        name="synthetic",
        summary="an offline learner with a known truth, for tests and research",
        needs=(),
        logprobs="top_k, computed",
        checked="2026-11-21",
        open=_open_synthetic,
        takes=("options", "context_tokens"),
    ),
)
"""One row a built-in provider, for `icm-api providers`."""

_BY_NAME: Mapping[str, ProviderEntry] = {entry.name: entry for entry in ENTRIES}
