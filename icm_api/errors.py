"""Everything that can go wrong, as types. A failure gets its type once, at the edge; inside, act on the type.

IcmError                                   exit code 1
├── ConfigError, DataError,                2   yours to fix; nothing was spent
│   JournalError, CacheError
├── BudgetError                            3   stopped at a limit; resumable
├── VerdictError                           5   labels were found and written, and are not to be trusted
└── ProviderError                          4
    ├── RetryableError
    │   ├── RateLimitError
    │   └── TransientError
    ├── AuthError
    ├── RequestError
    └── CapabilityError                        the host cannot give the numbers that were asked for
        └── OutOfReachError                    the labels hold too little of the probability in this place
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import ClassVar


class IcmError(Exception):
    """Base of every error this package raises on purpose. Its text is written for the user."""

    exit_code: ClassVar[int] = 1


class ConfigError(IcmError):
    """A flag, environment variable or configuration file is wrong."""

    exit_code = 2


class DataError(IcmError):
    """The data, task or relations are wrong. `problems` lists all that were found, each naming its place."""

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        super().__init__("\n".join(self.problems))


class JournalError(IcmError):
    """A run folder cannot be used."""

    exit_code = 2


class CacheError(IcmError):
    """The cache folder cannot be used or holds something that this program did not write."""

    exit_code = 2

    def __init__(self, folder: Path | str, problem: str) -> None:
        self.folder = Path(folder)
        super().__init__(f"cache folder {folder}: {problem}; if nothing mends it, delete the folder to start empty")


class BudgetError(IcmError):
    """A limit on requests, tokens or dollars would be passed by what comes next, so it was not sent. `spent` is None
    where nothing was counted; then `message` says what would have passed the limit."""

    exit_code = 3

    def __init__(
        self, limit: str, spent: int | Decimal | None, allowed: int | Decimal, message: str | None = None
    ) -> None:
        self.limit, self.spent, self.allowed = limit, spent, allowed
        super().__init__(message or f"stopped before passing {limit} = {allowed} (used so far: {spent})")


class VerdictError(IcmError):
    """The run came to its end, and its diagnosis is one that the user asked to fail on."""

    exit_code = 5


class ProviderError(IcmError):
    """The host failed or refused."""

    exit_code = 4

    def __init__(self, message: str, *, provider: str = "", model: str = "", request_id: str | None = None) -> None:
        self.provider, self.model, self.request_id = provider, model, request_id
        named = "/".join(part for part in (provider, model) if part)
        prefix = f"{named}: " if named else ""
        suffix = f" (request {request_id})" if request_id else ""
        super().__init__(f"{prefix}{message}{suffix}")


class RetryableError(ProviderError):
    """The same request may succeed later. `retry_after_s` is the host's own wish, in seconds."""

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: float | None = None,
        provider: str = "",
        model: str = "",
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, provider=provider, model=model, request_id=request_id)
        self.retry_after_s = retry_after_s


class RateLimitError(RetryableError):
    """The host asks for fewer requests: shrink concurrency, then retry."""


class TransientError(RetryableError):
    """The host or the way to it failed for now (5xx, timeout, connection): retry, keep the concurrency."""


class AuthError(ProviderError):
    """The key is missing, wrong or not allowed."""


class RequestError(ProviderError):
    """The host refuses this request for good: unknown model, prompt too long, bad parameter, no credit."""


class CapabilityError(ProviderError):
    """The host answered, but without numbers a label could rest on: no log-probs, or no label in reach."""


class OutOfReachError(CapabilityError):
    """The labels hold too little of the probability here, or none is listed: this answer says nothing about them."""
