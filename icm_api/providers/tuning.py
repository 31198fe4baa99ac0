"""Fine-tuning at a host, as one seam: what is asked of it, what it answers, and who can be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Protocol

from icm_api.errors import ConfigError, ProviderError, TransientError
from icm_api.providers.http import Host, checked_api_key, checked_base_url
from icm_api.providers.registry import ENTRIES

Method = Literal["sft", "dpo"]
"""Supervised fine-tuning on conversations, or direct preference optimisation on pairs of answers."""

EXCHANGE_S = 60.0
"""Longest that an exchange may take, but for an upload."""
UPLOAD_S = 3600.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be trained. `mark` is drawn at random for each tuning, so that its job can be known again."""

    base_model: str
    method: Method
    epochs: int
    suffix: str
    """Becomes a part of the tuned model's name."""
    mark: str


@dataclass(frozen=True, slots=True)
class FileIds:
    """Uploaded files, as the host names them."""

    training: str
    validation: str | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the host says a job would cost. None: it does not say."""

    usd: Decimal | None
    tokens: int | None = None
    """Trained and evaluated on, over all epochs."""


Phase = Literal["going", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a job is."""

    phase: Phase
    status: str
    """In the host's own word. A word that is not known counts as `going`."""
    tuned_model: str | None = None
    failure: str | None = None
    left_s: float | None = None
    """The host's guess of the seconds until its next status."""


@dataclass(frozen=True, slots=True)
class Event:
    """A line of the host's log of a job; two with the same `key` are the same."""

    key: str
    text: str


class Tuner(Protocol):
    """A host that fine-tunes. Methods raise `ProviderError`s only and never retry: `launch` costs money."""

    @property
    def host(self) -> Host: ...

    async def check(self, order: Order) -> None:
        """Ask the host whether it can train this at all; raises RequestError."""

    async def upload(self, path: Path) -> str:
        """Send a file; its id. Costs nothing, and may be repeated."""

    async def is_ready(self, file_id: str) -> bool:
        """Whether the host has looked at the file. Raises RequestError when it finds it unusable."""

    async def estimate(self, order: Order, files: FileIds) -> Estimate:
        """Raises RequestError when the account must not spend that much."""

    async def launch(self, order: Order, files: FileIds) -> str:
        """Start the job; its id. After an AuthError, RequestError or RateLimitError there is none; after anything else
        there may be one."""

    async def find(self, order: Order, files: FileIds, since_s: float) -> str | None:
        """The job that a `launch` of the same arguments began at `since_s` (seconds since the epoch) or later."""

    async def standing(self, job_id: str) -> Standing: ...

    async def events(self, job_id: str) -> tuple[Event, ...]:
        """The newest lines of its log, the oldest of them first."""

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class TuningHost:
    """Facts about a host, as a row."""

    longest_suffix: int
    fewest_records: int
    check_file: Callable[[Path, Method], str | None]
    """What the vendor's own code has against a file; None: nothing. Sends nothing."""
    open: Callable[[Host], Tuner]
    checked: str
    """Day the facts were last checked, ISO 8601."""
    source: str
    """Where they are from."""
    notice: str | None = None
    """What a user must know before spending anything."""


def open_tuner(provider: str, base_url: str, base_model: str, api_key: str | None) -> Tuner:
    """Raises ConfigError for an address or a key that cannot be used."""
    url = checked_base_url(base_url)
    host = Host(
        provider=provider,
        model=base_model,
        base_url=url,
        hint="check --base-url and the host's status page",
        api_key=checked_api_key(api_key, url),
    )
    return HOSTS[provider].open(host)


def default_url(provider: str) -> str:
    """The host's own address."""
    url = next(entry.base_url for entry in ENTRIES if entry.name == provider)
    assert url is not None, "hosts that fine-tune have an address"
    return url


def find_key(provider: str, base_url: str, variable: str | None, environ: Mapping[str, str]) -> str | None:
    """The key from the environment. The host's usual variable counts for its own address only. None: no variable is
    named. Raises ConfigError when it is not set."""
    if variable is None and base_url == default_url(provider):
        variable = next(entry.key_env for entry in ENTRIES if entry.name == provider)
    if variable is None:
        return None
    key = environ.get(variable, "").strip()
    if not key:
        raise ConfigError(f"{provider} needs its key in the environment variable {variable}, which is not set")
    return key


# --- what the adapters share --------------------------------------------------------------------------------------


def id_of(named: Any, host: Host) -> str:
    """Of what an SDK has read. Raises TransientError when it has none."""
    found = getattr(named, "id", None)
    if not isinstance(found, str) or not found:
        raise host.error(TransientError, f"the reply of {host.base_url} is incomplete: it names no id")
    return found


def refusal(response: Any, host: Host) -> ProviderError:
    """The error that an error reply means. `response`: of httpx or httpx2."""
    try:
        document = response.json()
    except ValueError:
        document = response.text
    return host.refusal(response.status_code, response.headers, document)


# --- the hosts ----------------------------------------------------------------------------------------------------


def _check_together(path: Path, method: Method) -> str | None:
    from icm_api.providers.tuning_together import problem_with

    return problem_with(path, method)


def _open_together(host: Host) -> Tuner:
    from icm_api.providers.tuning_together import TogetherTuner

    return TogetherTuner(host)


def _check_openai(path: Path, method: Method) -> str | None:
    from icm_api.providers.tuning_openai import problem_with

    return problem_with(path, method)


def _open_openai(host: Host) -> Tuner:
    from icm_api.providers.tuning_openai import OpenAITuner

    return OpenAITuner(host)


HOSTS: Mapping[str, TuningHost] = {
    "together": TuningHost(
        longest_suffix=40,
        fewest_records=1,
        check_file=_check_together,
        open=_open_together,
        checked="2026-11-22",
        source="together SDK 3.1.1 (resources/fine_tuning, lib/constants)",
    ),
    "openai": TuningHost(
        longest_suffix=64,
        fewest_records=10,
        check_file=_check_openai,
        open=_open_openai,
        checked="2026-11-22",
        source="openai SDK 3.54.0 (resources/fine_tuning/jobs); developers.openai.com/api/docs/guides/"
        "supervised-fine-tuning",
        notice="OpenAI is closing self-serve fine-tuning: since 2026-07-02 only organisations that have lately used a "
        "fine-tuned model may start jobs, and from 2027-01-06 nobody may (reported by aihola.com and techscurrent.com, "
        "third parties; read 2026-11-21). --provider together takes the same labels",
    ),
}
