"""What a run is asked to do. Flags beat environment variables (ICM_API_*) beat the TOML file.

Validation stops here: inner layers get plain values.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from icm_api.errors import ConfigError
from icm_api.providers.registry import ENTRIES, Route, check_name
from icm_api.spelling import did_you_mean

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


def _read_json(value: Any) -> Any:
    """`'{"a": 1}'`, as a flag or an environment variable gives it, to a mapping."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise ValueError('write it as a JSON object such as {"thinking": {"type": "disabled"}}') from None


def _checked_body(body: dict[str, Any]) -> dict[str, Any]:
    own = sorted(_OUR_MEMBERS & body.keys())
    if own:
        raise ValueError(
            f"{' and '.join(map(repr, own))} cannot be given: this program sets what replies are read by and what "
            "limits on spending rest on"
        )
    secret = sorted(name for name in _names_in(body) if _SECRET.fullmatch(name))
    if secret:
        raise ValueError(f"{secret[0]!r} may hold a key, and this is stored: give the key's variable by api_key_env")
    return body


def _names_in(value: Any) -> Iterator[str]:
    """Names of all members, at any depth."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _names_in(inner)


_OUR_MEMBERS = frozenset(
    {
        *("model", "messages", "prompt", "input", "questions", "stream", "echo", "logprobs", "top_logprobs"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"),
        *("temperature", "top_p", "logit_bias", "response_format"),
    }
)
"""What every reply is read by, what bounds its price, and what would bend its probabilities."""
_SECRET = re.compile(
    r"(?!prompt_cache_key)((.*[-_])?(api|access|private|secret)?key|.*(authorization|secret|password|credentials?|cookie))"
    r"|((.*[-_])?(access|auth|api|bearer|id|refresh|session|secret))?[-_]?token",
    re.IGNORECASE,
)
"""Names of members that hold keys; `prompt_cache_key` is none."""

_UNSHOWN = frozenset({"api_key_env", "extra_body", "provider_options"})
"""Settings in whose place a key is given by mistake."""
_SHOWN_CHARACTERS = 60

Names = Annotated[tuple[str, ...], BeforeValidator(_split_commas)]
Pairs = Annotated[dict[str, str], BeforeValidator(_split_pairs)]
Body = Annotated[dict[str, JsonValue], BeforeValidator(_read_json), AfterValidator(_checked_body)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""
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


def unused_by(method: Method) -> frozenset[str]:
    """Settings that only other methods have."""
    return frozenset().union(*TAKES.values()) - TAKES[method]


class ProviderConfig(BaseModel):
    """Whom to ask, and how politely. Every field is a flag, a variable ICM_API_<FIELD> and a key of the TOML file."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    provider: str = "local"
    model: str | None = None
    base_url: str | None = None
    api_key_env: Variable | None = None
    route: Route | None = None
    votes: int = Field(8, ge=1, le=1000)
    top_k: int | None = Field(None, ge=2)
    context_tokens: int | None = Field(None, ge=64)
    echo: bool | None = None
    extra_body: Body = Field(default_factory=dict)
    provider_options: Pairs = Field(default_factory=dict)
    timeout_s: float | None = Field(None, gt=0)
    max_requests: int | None = Field(None, ge=0)
    max_prompt_tokens: int | None = Field(None, ge=0)
    max_usd: Decimal | None = Field(None, ge=0)
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
    pin: Path | None = None
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
    abstain_below: float | None = Field(None, gt=0, le=1)
    report: bool = True
    fail_on: Literal["doubtful", "failed"] | None = None


Layers = Sequence[tuple[str, Mapping[str, Any]]]
"""Where settings stand, and what they are; later ones win."""
DIALECT = "openai-compatible"
"""How a host of the user's own speaks, unless its table says otherwise."""
HOST_KEYS = (
    *("dialect", "base_url", "api_key_env", "model", "route", "votes", "top_k", "echo", "context_tokens"),
    *("extra_body", "provider_options", "timeout_s", "concurrency", "price"),
)
"""What a table `[providers.NAME]` of the file may say: a dialect (the name of the provider that speaks to such a host)
and settings of this module."""

C = TypeVar("C", bound=ProviderConfig)


def load_config(kind: type[C], flags: Mapping[str, Any], environ: Mapping[str, str], file: Path | None = None) -> C:
    """Merge the three sources and check. Raises ConfigError that names every wrong value and where it stands.

    A provider that the file describes in a table `[providers.NAME]` is replaced by its dialect, with the table's other
    settings over the rest of the file, so that what comes out stands without the file.
    A setting that only another kind of configuration knows (a task in the file, for a probe) is passed over.
    """
    document = _read_toml(file) if file else {}
    hosts = _own_hosts(document.pop("providers", {}), file)
    layers: Layers = (
        (f"file {file}", document),
        ("environment variable", _from_environ(environ, str(flags.get("api_key_env")))),
        ("flag", {name: value for name, value in flags.items() if value is not None}),
    )
    foreign = set(RunConfig.model_fields) - set(kind.model_fields)
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for source, values in _with_own_host(layers, hosts, file):
        merged |= {name: value for name, value in values.items() if name not in foreign}
        origin |= dict.fromkeys(values, source)
    try:
        config = kind(**merged)
    except ValidationError as error:
        known = kind.model_fields
        raise ConfigError("\n".join(_describe(problem, origin, known) for problem in error.errors())) from None
    check_name(config.provider, hosts)
    if isinstance(config, RunConfig):
        _refuse_unused(config, origin)
    return config


def _refuse_unused(config: RunConfig, origin: Mapping[str, str]) -> None:
    """A setting that the method would not use is an error, wherever it was given."""
    unused = sorted(unused_by(config.method) & config.model_fields_set)
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
    except ValueError as error:  # broken TOML, not UTF-8, or a number of thousands of digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML: nested too deeply") from None


def _from_environ(environ: Mapping[str, str], key_variable: str) -> dict[str, str]:
    """Only names of fields: a misspelt ICM_API_* variable is an error rather than a setting without effect."""
    passed_over = {*_OWN_VARIABLES, key_variable, environ.get(f"{ENV_PREFIX}API_KEY_ENV")}
    own = [name for name in environ if name.startswith(ENV_PREFIX) and name not in passed_over]
    return {name.removeprefix(ENV_PREFIX).lower(): environ[name] for name in own}


def _own_hosts(tables: Any, file: Path | None) -> Mapping[str, Mapping[str, Any]]:
    """The tables `[providers.NAME]` of a file, by name. Raises ConfigError that names each wrong key."""
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise ConfigError(f"file {file}: write each host of your own as a table [providers.NAME]")
    problems = [
        f"file {file}, table providers.{name}, key {key}: no such setting{_hint(key, HOST_KEYS)}"
        for name, table in tables.items()
        for key in table
        if key not in HOST_KEYS
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    for name, table in tables.items():
        _check_own_host(name, table, f"file {file}, table providers.{name}")
    return tables


def _check_own_host(name: str, table: Mapping[str, Any], where: str) -> None:
    if name in {entry.name for entry in ENTRIES}:
        raise ConfigError(f"{where}: {name!r} is a built-in provider; choose another name")
    try:
        check_name(str(table.get("dialect", DIALECT)))
    except ConfigError as error:
        raise ConfigError(f"{where}, key dialect: {error}") from None


def _with_own_host(layers: Layers, hosts: Mapping[str, Mapping[str, Any]], file: Path | None) -> Layers:
    """The layers with the table of the provider that they choose, if it is one of the file's own."""
    chosen = next((str(values["provider"]) for _, values in reversed(layers) if "provider" in values), "")
    if chosen not in hosts:
        return layers
    source = f"file {file}, table providers.{chosen}"
    settings = {key: value for key, value in hosts[chosen].items() if key != "dialect"}
    dialect = {"provider": hosts[chosen].get("dialect", DIALECT)}
    return (layers[0], (source, settings), *layers[1:], (source, dialect))


def _describe(problem: Any, origin: Mapping[str, str], known: Iterable[str]) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "?"
    if name not in origin:
        return f"{_flag(name)}: {problem['msg'].lower()}"
    unknown = problem["type"] == "extra_forbidden"
    message = f"no such setting{_hint(name, known, origin[name])}" if unknown else in_words(problem)
    return f"{_shown(name, origin)}: {message}"


def in_words(problem: Any) -> str:
    """What pydantic found wrong with a setting, and the value that was given; never one that may be a key."""
    given, place = problem["input"], [str(part) for part in problem["loc"]]
    secret = any(part in _UNSHOWN or _SECRET.fullmatch(part) for part in place)
    if secret or not isinstance(given, str | int | float):
        return str(problem["msg"])
    shown = given[:_SHOWN_CHARACTERS] if isinstance(given, str) else given
    return f"{problem['msg']}, not {shown!r}"


def _hint(name: str, known: Iterable[str], source: str = "file") -> str:
    """What may have been meant by a setting that there is not."""
    if "key" in name.lower() and not name.startswith("key_"):
        return " (a key is never written down: --api-key-env or api_key_env names the variable that holds it)"
    guess = did_you_mean(_written(name, source), [_written(each, source) for each in known])
    return f".{guess}" if guess else ""


def _shown(name: str, origin: Mapping[str, str]) -> str:
    """Where a setting stands, for people."""
    source = origin[name]
    lead = {"flag": "", "environment variable": "environment variable "}.get(source, f"{source}, key ")
    return f"{lead}{_written(name, source)}"


def _written(name: str, source: str) -> str:
    """A setting's name as that source writes it."""
    return {"flag": _flag(name), "environment variable": f"{ENV_PREFIX}{name.upper()}"}.get(source, name)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
