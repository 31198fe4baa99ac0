"""What a request costs: list prices of known hosts, or a price the user states. An unknown price is None, never 0."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from icm_api.errors import ConfigError
from icm_api.providers.http import checked_base_url, is_loopback
from icm_api.providers.registry import ENTRIES
from icm_api.types import Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

Rates: TypeAlias = tuple[Decimal, Decimal, Decimal]
"""Input, cached and output, in USD per million tokens."""

_ON_THIS_MACHINE = ("local", "synthetic")
"""Providers that have no address and never leave this machine."""
_SAME_HOST = {"api.together.ai": "api.together.xyz"}
"""Other names of hosts that the price list knows by one. Checked 2026-11-21."""
STANDARD_TIERS = (None, "auto", "default")
"""What OpenAI calls the service that its list price is for; `auto` is what holds where nothing is said."""
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?")
"""A price as a user writes it: so few digits that costs stay exact in a Decimal of 28."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, in USD per million tokens: the dearest it can be where it depends on the time of day or on
    the length of the prompt."""

    input_usd_per_mtok: Decimal
    """A prompt token that was not cached. Where a host asks more for one that it puts into its cache, that price: usage
    does not tell how many it put there."""
    cached_usd_per_mtok: Decimal
    """A prompt token served from the host's prefix cache; the input price where no discount is known."""
    output_usd_per_mtok: Decimal
    source: str
    """Where it came from, for people."""
    listed: ModelInfo | None = field(default=None, repr=False, compare=False)
    """The list's own entry, for the price of one request."""
    service_tier: str | None = field(default=None, repr=False, compare=False)
    """What is asked for beside the standard one."""

    def cost_usd(self, *, prompt_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """Exact cost of that many tokens, in USD. `prompt_tokens` includes `cached_tokens`; else raises ValueError."""
        if not 0 <= cached_tokens <= prompt_tokens or output_tokens < 0:
            raise ValueError(
                f"no cost of {prompt_tokens} prompt tokens, {cached_tokens} of them cached, and {output_tokens} output"
            )
        usd_per_million = (
            (prompt_tokens - cached_tokens) * self.input_usd_per_mtok
            + cached_tokens * self.cached_usd_per_mtok
            + output_tokens * self.output_usd_per_mtok
        )
        return usd_per_million.scaleb(-6)

    def request_usd(self, usage: Usage, at: datetime) -> Decimal | None:
        """Exact cost of one request by what its reply says: at the tier of its own length and the hour of `at`. Prompt
        tokens that the reply does not call cached cost the full price. None: it does not say its tokens, or they
        contradict each other."""
        if self.is_free:
            return Decimal(0)
        prompt, cached, output = usage.prompt_tokens, usage.cached_tokens or 0, usage.output_tokens
        if prompt is None or output is None or cached > prompt:
            return None
        return self._at(prompt, at).cost_usd(prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)

    def most_usd(self, prompt_tokens: int, output_tokens: int) -> Decimal:
        """What so many tokens cost at most, whatever of the prompt is cached."""
        dearest = max(self.input_usd_per_mtok, self.cached_usd_per_mtok)
        return (prompt_tokens * dearest + output_tokens * self.output_usd_per_mtok).scaleb(-6)

    def _at(self, prompt_tokens: int, at: datetime) -> Price:
        if self.listed is None:
            return self
        listed = _price_at(self.listed, at, self.service_tier)
        rates = None if listed is None else _rates(listed, lambda rate: _tier(rate, prompt_tokens))
        return self if rates is None else Price(*rates, self.source)  # None: the list has none for that hour

    @property
    def is_free(self) -> bool:
        """Nothing costs anything, however many tokens it is."""
        return not (self.input_usd_per_mtok or self.cached_usd_per_mtok or self.output_usd_per_mtok)


_FREE = Price(Decimal(0), Decimal(0), Decimal(0), "a server of your own")


def parse_price(text: str) -> Price:
    """A price as a user writes it: `input/output` or `input/cached/output`, in USD per million tokens.

    Raises ConfigError for anything but two or three plain decimals, and for a cached price above the input price
    (the sign of another order).
    """
    parts = [part.strip() for part in text.split("/")]
    if len(parts) not in (2, 3) or not all(_RATE.fullmatch(part) for part in parts):
        raise ConfigError(
            f"--price: {text!r} cannot be read: write input/output or input/cached/output in USD per million tokens, "
            "as plain decimals such as 0.88/0.88 or 3/0.3/15"
        )
    rates = [Decimal(part) for part in parts]
    if len(rates) == 3 and rates[1] > rates[0]:
        raise ConfigError(
            f"--price: {text!r} makes a cached token dearer than an uncached one: the order is input/cached/output"
        )
    return Price(rates[0], rates[-2], rates[-1], "--price")


def find_price(
    provider: str,
    model: str,
    base_url: str | None = None,
    *,
    longest_prompt_tokens: int | None = None,
    service_tier: str | None = None,
    now: datetime | None = None,
) -> Price | None:
    """The list price of `model` at the host that `provider` (a name of the registry) reaches at `base_url` (None: its
    default). None: unknown. A server on this machine costs nothing.

    Never too low for what the list knows: where a price depends on the time of day, or on the length of the prompt, it
    is the dearest of the 24 hours from `now` (None: this moment) and of the tiers that a prompt of
    `longest_prompt_tokens` (None: any length) can reach; `source` says so. `service_tier`: what the host is asked to
    serve requests by (None: nothing is said of it); the price of a tier that the list does not have is unknown. Raises
    ConfigError for an unusable address.
    """
    if provider in _ON_THIS_MACHINE:
        return _FREE
    address = base_url or next((entry.base_url for entry in ENTRIES if entry.name == provider), None)
    if address is None:
        return None
    if is_loopback(checked_base_url(address)):
        return _FREE
    tier = None if service_tier in STANDARD_TIERS else service_tier
    return _list_price(model, _listed_address(address), longest_prompt_tokens, tier, now or datetime.now(UTC))


def plain_usd(cost: Decimal | None) -> str | None:
    """A cost as plain digits, for JSON: no exponent, no trailing zeros."""
    return None if cost is None else f"{cost.normalize():f}"


LEAST_DOLLARS = Decimal("0.0001")


def dollars(cost_usd: Decimal | None) -> str:
    """An amount for people: cents, and below a dollar their hundredths; never 0 for what costs something."""
    if cost_usd is None:
        return "unknown"
    if 0 < cost_usd < LEAST_DOLLARS:
        return f"under ${LEAST_DOLLARS}"
    return "$0" if not cost_usd else f"${cost_usd:,.2f}" if cost_usd >= 1 else f"${cost_usd:.4f}"


def _listed_address(address: str) -> str:
    """The address as the price list's patterns want it: host in lower case and by its listed name, no port."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return f"{parts.scheme}://{_SAME_HOST.get(host, host)}{parts.path}"


def _list_price(
    model: str, address: str, longest_prompt_tokens: int | None, service_tier: str | None, now: datetime
) -> Price | None:
    from genai_prices import Usage, __version__, calc_price  # 0.4 s, and only hosted models need it

    try:
        found = calc_price(Usage(), model, provider_api_url=address, genai_request_timestamp=now)
    except LookupError:
        return None
    day = [
        price
        for hour in range(24)
        if (price := _price_at(found.model, now + timedelta(hours=hour), service_tier)) is not None
    ]
    dearest = partial(_dearest_tier, longest_prompt_tokens=longest_prompt_tokens)
    hours = [rates for price in day if (rates := _rates(price, dearest))]
    if len(hours) < 24:
        return None
    input_rate, cached_rate, output_rate = (max(column) for column in zip(*hours, strict=True))
    notes = [
        f"genai-prices {__version__}: {found.provider.id} {found.model.id}",
        *([f"service tier {service_tier}"] if service_tier is not None else []),
        *(["at its dearest time of day"] if len(set(hours)) > 1 else []),
        *(["as for its longest prompts"] if hours != [_rates(price, _base) for price in day] else []),
        *(["prompt tokens as if written to the host's cache, which costs more"] if _writing_is_dearer(day) else []),
    ]
    return Price(input_rate, cached_rate, output_rate, ", ".join(notes), found.model, service_tier)


def _price_at(listed: ModelInfo, at: datetime, service_tier: str | None) -> ModelPrice | None:
    """None: the list does not have that tier then."""
    if service_tier is None:
        return listed.get_prices(at)
    known = any(
        variant.when == {"service_tier": service_tier} and (variant.constraint is None or variant.constraint.active(at))
        for variant in listed.price_variants or ()
    )
    return listed.get_prices(at, {"service_tier": service_tier}) if known else None


def _rates(price: ModelPrice, tier: Callable[[Decimal | TieredPrices], Decimal]) -> Rates | None:
    """None unless both prompt and output are priced by the token and nothing is charged for the request itself."""
    if price.input_mtok is None or price.output_mtok is None or price.requests_kcount is not None:
        return None
    cached = price.input_mtok if price.cache_read_mtok is None else price.cache_read_mtok
    written = price.input_mtok if price.cache_write_mtok is None else price.cache_write_mtok
    return max(tier(price.input_mtok), tier(written)), tier(cached), tier(price.output_mtok)


def _base(rate: Decimal | TieredPrices) -> Decimal:
    return _tier(rate, 0)


def _tier(rate: Decimal | TieredPrices, prompt_tokens: int) -> Decimal:
    """A tier begins above its start and then holds for all tokens of the request."""
    if isinstance(rate, Decimal):
        return rate
    return next((tier.price for tier in reversed(rate.tiers) if prompt_tokens > tier.start), rate.base)


def _dearest_tier(rate: Decimal | TieredPrices, longest_prompt_tokens: int | None) -> Decimal:
    """Of the tiers that a prompt of at most so many tokens (None: any number) can reach."""
    if isinstance(rate, Decimal):
        return rate
    reached = [tier.price for tier in rate.tiers if longest_prompt_tokens is None or longest_prompt_tokens > tier.start]
    return max([rate.base, *reached])


def _writing_is_dearer(day: Sequence[ModelPrice]) -> bool:
    """Whether the host asks a premium for prompt tokens that it puts into its cache."""
    return any(
        price.cache_write_mtok is not None
        and price.input_mtok is not None
        and _base(price.cache_write_mtok) > _base(price.input_mtok)
        for price in day
    )
