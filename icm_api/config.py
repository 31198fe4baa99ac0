"""What a run is asked to do. Flags beat environment variables (ICM_API_*) beat the TOML file.

Validation stops here: inner layers get plain values.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from icm_api.errors import ConfigError

ENV_PREFIX = "ICM_API_"
_OWN_VARIABLES = frozenset({"ICM_API_CACHE_DIR", "ICM_API_CONFIG", "ICM_API_DISPLAY"})
"""Variables that do not set a field of RunConfig."""


def _split_commas(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _split_pairs(value: Any) -> Any:
    """`"a=1,b=2"`, as an environment variable gives it, to a mapping."""
    if not isinstance(value, str):
        return value
    parts = [part.partition("=") for part in value.split(",")]
    if not all(equals for _, equals, _ in parts):
        raise ValueError("write it as name=value,name=value")
    return {name.strip(): text.strip() for name, _, text in parts}


Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Pairs = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
Share = Annotated[float, Field(gt=0, lt=1)]
Shares = Annotated[dict[str, Share], BeforeValidator(_split_pairs), Field(min_length=1)]

Method = Literal["sweep", "anneal", "zero-shot", "random-few-shot", "bootstrap", "gold-few-shot"]
GOLD_METHOD: Method = "gold-few-shot"
"""The only method that sees gold labels."""

_ABOUT_CHAINS = frozenset({"class_prior", "keep_siblings", "max_demonstrations"})
TAKES: Mapping[Method, frozenset[str]] = {
    "sweep": _ABOUT_CHAINS | {"alpha", "passes", "restarts", "pool"},
    "anneal": frozenset(
        {
            *("alpha", "seeds", "fidelity", "objective", "stop", "max_steps"),
            *("order", "keep_siblings", "max_demonstrations"),
        }
    ),
    "zero-shot": frozenset({"class_prior"}),
    "random-few-shot": _ABOUT_CHAINS,
    "bootstrap": frozenset({"class_prior", "max_demonstrations"}),
    GOLD_METHOD: _ABOUT_CHAINS,
}
"""The settings that not every method has: which method takes which. Giving another is an error, never ignored."""


class ProviderConfig(BaseModel):
    """Whom to ask, and how politely. Every field is a flag, a variable ICM_API_<FIELD> and a key of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    provider: str = "local"
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    route: Literal["completions", "chat", "responses", "decisions", "votes"] | None = None
    votes: int = Field(8, ge=1, le=1000)
    top_k: int | None = Field(None, ge=2)
    context_tokens: int | None = Field(None, ge=64)
    echo: bool = False
    provider_options: Pairs = Field(default_factory=dict)
    timeout_s: float | None = Field(None, gt=0)
    max_requests: int | None = Field(None, ge=0)
    max_prompt_tokens: int | None = Field(None, ge=0)
    price: str | None = None
    concurrency: int = Field(8, ge=1, le=1024)
    cache: bool = True
    cache_dir: Path | None = None


class RunConfig(ProviderConfig):
    """One labelling job."""

    # what to label
    data: str
    format: Literal["jsonl", "csv", "parquet"] | None = None
    task: str
    labels: Names | None = None
    id_column: str | None = None
    text_column: str | None = None
    columns: Pairs = Field(default_factory=dict)
    gold_column: str | None = None
    group_column: str | None = None
    key_column: str | None = None
    relations: Path | None = None
    limit: int | None = Field(None, ge=2)

    # how to search
    min_mass: float = Field(1e-4, ge=0, lt=1)
    method: Method = "sweep"
    seed: int = Field(0, ge=0)
    class_prior: Shares | None = None
    passes: int | None = Field(None, ge=1)
    restarts: int | None = Field(None, ge=1)
    pool: int | None = Field(None, ge=8)
    alpha: float = Field(50.0, gt=0)
    seeds: int = Field(8, ge=1)
    fidelity: Literal["reuse", "paper"] = "reuse"
    objective: Literal["mean", "paper-sum"] = "mean"
    stop: Literal["stable", "full"] = "stable"
    max_steps: int | None = Field(None, ge=1)
    order: Literal["shared", "per-example"] = "shared"
    keep_siblings: bool = False
    max_demonstrations: int | None = Field(None, ge=1)

    # where results go
    run_dir: Path | None = None
    out: Path | None = None


C = TypeVar("C", bound=ProviderConfig)


def load_config(kind: type[C], flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> C:
    """Merge the three sources and check. Raises ConfigError that names every wrong value and where it stands.

    A setting that only another kind of configuration knows (a task in the file, for a probe) is passed over.
    """
    layers = {
        f"file {file}": _read_toml(file) if file else {},
        "environment variable": _from_environ(environ, str(flags.get("api_key_env"))),
        "flag": {name: value for name, value in flags.items() if value is not None},
    }
    foreign = set(RunConfig.model_fields) - set(kind.model_fields)
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, values in layers.items():
        merged |= {name: value for name, value in values.items() if name not in foreign}
        origin |= dict.fromkeys(values, source)
    try:
        config = kind(**merged)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(problem, origin) for problem in error.errors())) from None
    if isinstance(config, RunConfig):
        _refuse_unused(config, origin)
    return config


def _refuse_unused(config: RunConfig, origin: Mapping[str, str]) -> None:
    """A setting that the method would not use is an error, wherever it was given."""
    unused = sorted((frozenset().union(*TAKES.values()) & config.model_fields_set) - TAKES[config.method])
    if unused:
        raise ConfigError(
            "\n".join(
                f"{_shown(name, origin)}: method {config.method} does not use it; "
                f"{' and '.join(method for method in TAKES if name in TAKES[method])} would (choose with --method)"
                for name in unused
            )
        )


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _from_environ(environ: Mapping[str, str], key_variable: str) -> dict[str, str]:
    """Only names of fields: a misspelt ICM_API_* variable is an error rather than a setting without effect."""
    passed_over = {*_OWN_VARIABLES, key_variable, environ.get(f"{ENV_PREFIX}API_KEY_ENV")}
    own = [name for name in environ if name.startswith(ENV_PREFIX) and name not in passed_over]
    return {name.removeprefix(ENV_PREFIX).lower(): environ[name] for name in own}


def _describe(problem: Any, origin: Mapping[str, str]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "?"
    if name not in origin:
        return f"{_flag(name)}: {problem['msg'].lower()}"
    message = "no such setting" if problem["type"] == "extra_forbidden" else problem["msg"]
    if "key" in name and message == "no such setting":
        message += " (the name of a variable that holds an API key is given by --api-key-env)"
    return f"{_shown(name, origin)}: {message}"


def _shown(name: str, origin: Mapping[str, str]) -> str:
    """Where a setting stands, for people."""
    source = origin[name]
    return {
        "flag": _flag(name),
        "environment variable": f"environment variable {ENV_PREFIX}{name.upper()}",
    }.get(source, f"{source}, key {name}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
