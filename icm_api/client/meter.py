"""What is spent, and hard limits on it: the worst case is reserved before a request is sent.

How attempts are counted: every attempt that may reach the host is one request. `Metered` reserves the first; each
further one is reserved by `Tally.retried`, which `Retrying` calls before it waits for another attempt. An attempt holds
an upper bound of its prompt tokens until the reply says the true number. One whose cost was never said (no usage in the
reply, a failure on the way, a cancellation) holds its bound for good; one refused for its rate was not read and gives
it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from icm_api.client.wrapper import Wrapper
from icm_api.errors import BudgetError, CapabilityError, ProviderError, RateLimitError
from icm_api.providers.base import Provider
from icm_api.types import ChoiceRequest, NextTokenRequest, Request, SequenceRequest, Usage

R = TypeVar("R")

TOKENS_PER_REQUEST = 64
"""Allowance for what a host adds to a prompt: special tokens and a chat template's opening."""
TOKENS_PER_CHOICE = 512
"""Allowance for what asks for one of the labels: the instruction, and a tool or schema with the host's own words."""
TOKENS_PER_PART = 16
"""Allowance for the turn markers that a chat route puts around each part of the prompt."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be spent at most. None: no limit."""

    max_requests: int | None = None
    """Paid attempts, retries included."""
    max_prompt_tokens: int | None = None
    """Never passed by an adapter that has the prompt read once for a request. One that has it read again (llama.cpp,
    for labels of several tokens) may report more than was held, and pass it by what is then in the air."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counts so far. Token counts add up what replies said; None: no reply has said."""

    requests: int
    """Paid attempts sent or about to be sent, retries included."""
    retries: int
    cache_hits: int
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    unknown_usage: int
    """Replies that did not say their prompt tokens."""


class _Billed(Protocol):
    usage: Usage


def prompt_token_bound(request: Request[Any]) -> int:
    """Upper bound on the prompt tokens of one attempt: no tokeniser makes more tokens than there are UTF-8 bytes."""
    if isinstance(request, NextTokenRequest):
        parts = (*request.prompt.chunks, request.continuation)
    elif isinstance(request, SequenceRequest):
        parts = request.prompt.chunks
    elif isinstance(request, ChoiceRequest):  # labels: offered in the question, and again in what constrains the answer
        parts = (*request.prompt.chunks, *request.labels, *request.labels)
    else:
        raise CapabilityError(f"no bound is known for the price of a request of kind {request.kind!r}")
    size_bytes = len("".join(parts).encode("utf-8", "surrogatepass"))
    around = TOKENS_PER_CHOICE if isinstance(request, ChoiceRequest) else TOKENS_PER_REQUEST
    return size_bytes + TOKENS_PER_PART * len(parts) + around


def _sum(total: int | None, said: int | None) -> int | None:
    return total if said is None else (total or 0) + said


class Tally:
    """Counts of paid requests, and the limits they must not pass."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._requests = self._retries = self._unknown_usage = 0
        self._held_tokens = 0
        self._prompt_tokens: int | None = None
        self._cached_tokens: int | None = None
        self._output_tokens: int | None = None

    def reserve(self, request: Request[Any]) -> None:
        """Make room for one attempt, or raise `BudgetError` and change nothing."""
        bound = prompt_token_bound(request)
        used_tokens = (self._prompt_tokens or 0) + self._held_tokens
        _check("max_requests", self._requests, 1, self._limits.max_requests)
        _check("max_prompt_tokens", used_tokens, bound, self._limits.max_prompt_tokens)
        self._requests += 1
        self._held_tokens += bound

    def settle(self, request: Request[Any], usage: Usage) -> None:
        """The attempt was answered: what the reply says takes the place of what was held."""
        if usage.prompt_tokens is None:
            self._unknown_usage += 1
        else:
            self._held_tokens -= prompt_token_bound(request)
        self._prompt_tokens = _sum(self._prompt_tokens, usage.prompt_tokens)
        self._cached_tokens = _sum(self._cached_tokens, usage.cached_tokens)
        self._output_tokens = _sum(self._output_tokens, usage.output_tokens)

    def failed(self, request: Request[Any], error: ProviderError) -> None:
        """The attempt failed: only a host that refused it for its rate surely read none of its prompt."""
        if isinstance(error, RateLimitError):
            self._held_tokens -= prompt_token_bound(request)

    def retried(self, request: Request[Any], error: ProviderError, wait_s: float) -> None:
        """An attempt failed and another will follow: make room for it, or raise `BudgetError`."""
        del wait_s
        if not request.paid:
            return
        self.failed(request, error)
        self.reserve(request)
        self._retries += 1

    def _said(self, count: int | None) -> int | None:
        return count if self._requests else 0

    def snapshot(self, cache_hits: int) -> Snapshot:
        return Snapshot(
            requests=self._requests,
            retries=self._retries,
            cache_hits=cache_hits,
            prompt_tokens=self._said(self._prompt_tokens),
            cached_tokens=self._said(self._cached_tokens),
            output_tokens=self._said(self._output_tokens),
            unknown_usage=self._unknown_usage,
        )


def _check(limit: str, used: int, wanted: int, allowed: int | None) -> None:
    if allowed is not None and used + wanted > allowed:
        raise BudgetError(limit, used, allowed)


class Metered(Wrapper):
    """Counts every paid request in `tally` and sends none that could pass a limit. Unpaid ones pass uncounted."""

    def __init__(self, inner: Provider, tally: Tally) -> None:
        super().__init__(inner)
        self._tally = tally

    async def send(self, request: Request[R]) -> R:
        if not request.paid:
            return await self.inner.send(request)
        self._tally.reserve(request)
        try:
            reply = await self.inner.send(request)
        except ProviderError as error:
            self._tally.failed(request, error)
            raise
        self._tally.settle(request, cast(_Billed, reply).usage)
        return reply
