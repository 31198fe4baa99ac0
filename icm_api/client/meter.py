"""What is spent, and hard limits on it: the worst case is reserved before an attempt is sent.

How attempts are counted: `Metered` stands inside the retry loop, so every attempt that may reach the host is one
request. It holds an upper bound of its prompt tokens, and what these and its output would cost at the dearest rates,
until the reply says the true numbers. An attempt whose cost was never said (no usage in the reply, a failure on the
way, a cancellation) holds its bound for good; one refused for its rate was not read and gives it back.

A bound is several times what a prompt takes, since the host's tokeniser is not known here. So an attempt that does not
fit beside what others in the air hold waits for them to be settled; only what does not fit when nobody is in the air
ends the run. What a limit leaves unused is then less than the bound of one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar, cast

from icm_api.client.prices import Price
from icm_api.client.wrapper import Wrapper
from icm_api.errors import BudgetError, CapabilityError, ConfigError, RateLimitError
from icm_api.providers.base import Provider
from icm_api.providers.choices import answer_tokens
from icm_api.types import ChoiceRequest, NextTokenRequest, Request, SequenceRequest, Usage

R = TypeVar("R")

TOKENS_PER_REQUEST = 64
"""Allowance for what a host adds to a prompt: special tokens and a chat template's opening."""
TOKENS_PER_CHOICE = 512
"""Allowance for what asks for one of the labels: the instruction, and a tool or schema with the host's own words."""
TOKENS_PER_PART = 16
"""Allowance for the turn markers that a chat route puts around each part of the prompt."""
OUTPUT_TOKENS = 16
"""Most that an adapter lets a host generate for log-probabilities: 1 on most routes, on some the least they accept."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be spent at most. None: no limit."""

    max_requests: int | None = None
    """Paid attempts, retries included."""
    max_prompt_tokens: int | None = None
    """Never passed by an adapter that has the prompt read once for a request. One that has it read again (llama.cpp,
    for labels of several tokens) may report more than was held, and pass it by what is then in the air."""
    max_usd: Decimal | None = None
    """At the price that is known here, and as long as a host generates no more than it was allowed."""


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
    prompt_tokens_at_most: int = 0
    """What replies said, and the bounds of attempts that are in the air or whose cost was never said."""
    cost_usd: Decimal | None = None
    """What the replies cost, each at its own price. None: the price is unknown, or a reply did not say (or
    contradicted) what it took. What a host may charge for attempts that failed, it does not say: it is not in here."""
    cost_usd_at_most: Decimal | None = None
    """With the worst case of all attempts whose cost was never said or which are in the air. None: no price."""


NOTHING = Snapshot(0, 0, 0, None, None, None, 0, 0, Decimal(0), Decimal(0))
"""Before the first attempt."""


class _Billed(Protocol):
    usage: Usage


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bounds of what one attempt takes."""

    prompt_tokens: int
    output_tokens: int


def bound_of(request: Request[Any], thought_tokens: int = 0) -> Bound:
    """No tokeniser makes more tokens than there are UTF-8 bytes. `thought_tokens`: as the provider's capabilities have
    them. Raises CapabilityError for an unknown request."""
    if isinstance(request, NextTokenRequest):
        return Bound(_prompt_bound((*request.prompt.chunks, request.continuation), TOKENS_PER_REQUEST), OUTPUT_TOKENS)
    if isinstance(request, SequenceRequest):
        return Bound(_prompt_bound(request.prompt.chunks, TOKENS_PER_REQUEST), OUTPUT_TOKENS)
    if isinstance(request, ChoiceRequest):  # labels: offered in the question, and again in what constrains the answer
        parts = (*request.prompt.chunks, *request.labels, *request.labels)
        return Bound(_prompt_bound(parts, TOKENS_PER_CHOICE), answer_tokens(request.labels) + thought_tokens)
    raise CapabilityError(f"no bound is known for the price of a request of kind {request.kind!r}")


def _prompt_bound(parts: tuple[str, ...], around: int) -> int:
    return _bytes("".join(parts)) + TOKENS_PER_PART * len(parts) + around


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _sum(total: int | None, said: int | None) -> int | None:
    return total if said is None else (total or 0) + said


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Hold:
    """What one attempt in the air holds until its cost is known."""

    prompt_tokens: int
    usd: Decimal


class Tally:
    """Counts of paid requests, and the limits they must not pass.

    `spent`: the counts of an earlier part of the same run, which the limits include; what was in the air when they were
    taken counts as spent, at its bound. `now`: the moment whose price holds. Raises ConfigError for a limit in dollars
    where no price is known, here or for the earlier part.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        price: Price | None = None,
        spent: Snapshot | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        before = spent if spent and spent.requests else NOTHING
        if limits.max_usd is not None:
            _check_priced(price, before)
        self._limits, self._price, self._now = limits, price, now
        self._requests, self._unknown_usage = before.requests, before.unknown_usage
        self._said = _Said(before.prompt_tokens, before.cached_tokens, before.output_tokens)
        self._cost_usd = before.cost_usd or Decimal(0)
        self._all_priced = price is not None and before.cost_usd is not None
        self._worst_priced = price is not None and before.cost_usd_at_most is not None
        self._held_tokens = before.prompt_tokens_at_most - (before.prompt_tokens or 0)
        self._held_usd = (before.cost_usd_at_most or self._cost_usd) - self._cost_usd
        self._in_the_air: set[Hold] = set()
        self._landing = asyncio.Event()

    async def reserve(self, request: Request[Any], thought_tokens: int = 0) -> Hold:
        """Make room for one attempt; wait for it where only what is in the air stands in the way. `thought_tokens`: as
        `bound_of` takes them.

        Raises `BudgetError` when there will be none, and changes nothing then.
        """
        bound = bound_of(request, thought_tokens)
        hold = Hold(bound.prompt_tokens, self._most_usd(bound))
        while (error := self._shortage(hold)) is not None:
            if not self._in_the_air or error.limit == "max_requests":  # a request counts however it ends
                raise error
            self._landing.clear()
            await self._landing.wait()
        self._requests += 1
        self._held_tokens += hold.prompt_tokens
        self._held_usd += hold.usd
        self._in_the_air.add(hold)
        return hold

    def settle(self, hold: Hold, usage: Usage) -> None:
        """The attempt was answered: what the reply says takes the place of what was held."""
        cost_usd = self._price.request_usd(usage, self._now()) if self._price else None
        tokens_known, usd_known = usage.prompt_tokens is not None, cost_usd is not None
        self._unknown_usage += not tokens_known
        self._said = self._said.plus(usage)
        self._cost_usd += cost_usd or 0
        self._all_priced &= usd_known
        self._land(hold, hold.prompt_tokens if tokens_known else 0, hold.usd if usd_known else Decimal(0))

    def fail(self, hold: Hold, error: BaseException) -> None:
        """The attempt failed: only a host that refused it for its rate surely read none of its prompt."""
        unread = isinstance(error, RateLimitError)
        self._land(hold, hold.prompt_tokens if unread else 0, hold.usd if unread else Decimal(0))

    def snapshot(self, *, retries: int, cache_hits: int) -> Snapshot:
        said = self._said if self._requests else _Said(0, 0, 0)
        return Snapshot(
            requests=self._requests,
            retries=retries,
            cache_hits=cache_hits,
            prompt_tokens=said.prompt_tokens,
            cached_tokens=said.cached_tokens,
            output_tokens=said.output_tokens,
            unknown_usage=self._unknown_usage,
            prompt_tokens_at_most=(said.prompt_tokens or 0) + self._held_tokens,
            cost_usd=self._cost_usd if self._all_priced else None,
            cost_usd_at_most=self._cost_usd + self._held_usd if self._worst_priced else None,
        )

    def _most_usd(self, bound: Bound) -> Decimal:
        return self._price.most_usd(bound.prompt_tokens, bound.output_tokens) if self._price else Decimal(0)

    def _land(self, hold: Hold, free_tokens: int, free_usd: Decimal) -> None:
        self._in_the_air.discard(hold)
        self._held_tokens -= free_tokens
        self._held_usd -= free_usd
        self._landing.set()

    def _shortage(self, hold: Hold) -> BudgetError | None:
        limits = self._limits
        tokens = (self._said.prompt_tokens or 0) + self._held_tokens
        return (
            _over("max_requests", self._requests, 1, limits.max_requests)
            or _over("max_prompt_tokens", tokens, hold.prompt_tokens, limits.max_prompt_tokens)
            or _over("max_usd", self._cost_usd + self._held_usd, hold.usd, limits.max_usd)
        )


@dataclass(frozen=True, slots=True)
class _Said:
    """Sums of what replies said. None: none has."""

    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None

    def plus(self, usage: Usage) -> _Said:
        return _Said(
            _sum(self.prompt_tokens, usage.prompt_tokens),
            _sum(self.cached_tokens, usage.cached_tokens),
            _sum(self.output_tokens, usage.output_tokens),
        )


def _check_priced(price: Price | None, before: Snapshot) -> None:
    if price is None:
        raise ConfigError(
            "--max-usd: no price is known for this model at this host, so no limit in dollars can be kept: state one "
            "with --price (input/output in USD per million tokens), or limit --max-prompt-tokens instead"
        )
    if before.cost_usd_at_most is None:
        raise ConfigError(
            "--max-usd: what the run spent before is unknown, as no price was known then: limit --max-prompt-tokens "
            "instead, or start a new run (replies in the cache are not paid for again)"
        )


def _over(limit: str, used: int | Decimal, wanted: int | Decimal, allowed: int | Decimal | None) -> BudgetError | None:
    if allowed is None or used + wanted <= allowed:
        return None
    error = BudgetError(limit, used, allowed)
    if limit != "max_requests":
        error.args = (
            f"stopped before passing {limit} = {_plain(allowed)}: {_plain(used)} is spent (or held for attempts that "
            f"never said what they took), and the next request must reserve {_plain(wanted)}, its worst case, which is "
            "often several times what it takes; with a larger limit it goes on from here, and replies in the cache are "
            "not paid for again",
        )
    return error


def _plain(value: int | Decimal) -> str:
    return str(value) if isinstance(value, int) else f"{value.normalize():f}"


class Metered(Wrapper):
    """Counts every paid attempt in `tally` and sends none that could pass a limit. Unpaid ones pass uncounted."""

    def __init__(self, inner: Provider, tally: Tally) -> None:
        super().__init__(inner)
        self._tally = tally

    async def send(self, request: Request[R]) -> R:
        if not request.paid:
            return await self.inner.send(request)
        hold = await self._tally.reserve(request, self.capabilities.thought_tokens)
        try:
            reply = await self.inner.send(request)
        except BaseException as error:  # a cancelled request may have been charged too
            self._tally.fail(hold, error)
            raise
        self._tally.settle(hold, cast(_Billed, reply).usage)
        return reply
