"""What a probe found is kept beside the replies, and a run that would rely on what it disproved is refused.

A record belongs to one host, model and way of asking. Another address, route, model or adapter version has another
identity, and so no record; `icm-api probe` with the same settings replaces a record when the host has been mended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from icm_api.client.codec import canonical_json
from icm_api.data.writers import write_json
from icm_api.errors import CacheError, CapabilityError, ConfigError
from icm_api.folders import make_private
from icm_api.providers.base import Provider

Status = Literal["ok", "warn", "fail"]

FORMAT: Literal[1] = 1
"""Part of a record's name: raise it when a record changes its shape, and old ones are never read again."""
FOLDER = "probes"
ABOUT_LABELS = "labels in reach"
"""The check that says nothing of the host: a run may have other labels."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was measured."""

    name: str
    status: Status
    detail: str
    instead: str = ""
    """What to use or do instead where it did not hold."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """What was measured of one host and model, and when."""

    provider: str
    model: str
    identity: Mapping[str, Any]
    """As the provider gives it; holds no key."""
    labels: tuple[str, ...]
    verdict: str
    """`usable`, `usable with care` or `not usable`."""
    checks: tuple[Check, ...]
    requests: int
    """What the probe asked."""
    day: str
    """ISO 8601."""
    tool_version: str
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    @property
    def usable(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.status == "fail")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


_RECORD = TypeAdapter(ProbeRecord)


def save_record(folder: Path, provider: Provider, record: ProbeRecord) -> Path:
    """Keep the record under the cache folder `folder`, in place of an older one; only its owner may read it.

    Raises CacheError where it cannot be written.
    """
    path = _path(folder, provider)
    try:
        make_private(path.parent)
        path.parent.chmod(0o700)
        write_json(path, record.as_json())
        path.chmod(0o600)
    except (OSError, ConfigError) as error:
        raise CacheError(path.parent, str(error)) from error
    return path


def find_record(folder: Path, provider: Provider) -> ProbeRecord | None:
    """The record of this provider, asked in this way; None: it was never probed. Raises CacheError for a bad file."""
    path = _path(folder, provider)
    try:
        return _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise CacheError(path.parent, f"{path.name} is no probe record ({type(error).__name__})") from error


def refuse_disproved(folder: Path, provider: Provider) -> None:
    """Raise CapabilityError when a probe has shown that this provider's answers cannot be relied on."""
    record = find_record(folder, provider)
    failed = [check for check in record.failed if check.name != ABOUT_LABELS] if record else []
    if record is None or not failed:
        return
    first = failed[0]
    advice = f"; {first.instead}" if first.instead else ""
    raise CapabilityError(
        f"the probe of {record.day} disproved {first.name!r}: {first.detail}{advice}. Nothing was asked; if the host "
        "has changed since, run `icm-api probe` with the same settings",
        provider=provider.name,
        model=provider.model,
    )


def _path(folder: Path, provider: Provider) -> Path:
    """By everything that can change an answer, and by the kinds of request that it is relied on to answer."""
    relied_on = {
        "format": FORMAT,
        "identity": dict(provider.identity),
        "prompt_logprobs": provider.capabilities.prompt_logprobs,
        "choices": provider.capabilities.choices,
    }
    return folder / FOLDER / f"{sha256(canonical_json(relied_on).encode('ascii')).hexdigest()}.json"
