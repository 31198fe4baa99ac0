"""What a request costs: list prices of known hosts, or a price the user states. An unknown price is None, never 0."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from icm_api.client.meter import Snapshot
from icm_api.errors import ConfigError
from icm_api.providers.http import checked_base_url, is_loopback
from icm_api.providers.registry import ENTRIES

if TYPE_CHECKING:
    from genai_prices.types import ModelPrice, TieredPrices

Rates: TypeAlias = tuple[Decimal, Decimal, Decimal]
"""Input, cached and output, in USD per million tokens."""

_ON_THIS_MACHINE = ("local", "synthetic")
"""Providers that have no address and never leave this machine."""
_SAME_HOST = {"api.together.ai": "api.together.xyz"}
"""Other names of hosts that the price list knows by one. Checked 2026-11-21."""
_RATE = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?")
"""A price as a user writes it: so few digits that costs stay exact in a Decimal of 28."""


@dataclass(frozen=True, slots=True)
class Price:
    """List price of a model, in USD per million tokens."""

    input_usd_per_mtok: Decimal
    cached_usd_per_mtok: Decimal
    """A prompt token served from the host's prefix cache; the input price where no discount is known."""
    output_usd_per_mtok: Decimal
    source: str
    """Where it came from, for people."""

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
    now: datetime | None = None,
) -> Price | None:
    """The list price of `model` at the host that `provider` (a name of the registry) reaches at `base_url` (None: its
    default). None: unknown. A server on this machine costs nothing.

    Never too low for what the list knows: where a price depends on the time of day, or on the length of the prompt, it
    is the dearest of the 24 hours from `now` (None: this moment) and of the tiers that a prompt of
    `longest_prompt_tokens` (None: any length) can reach; `source` says so. Raises ConfigError for an unusable address.
    """
    if provider in _ON_THIS_MACHINE:
        return _FREE
    address = base_url or next((entry.base_url for entry in ENTRIES if entry.name == provider), None)
    if address is None:
        return None
    if is_loopback(checked_base_url(address)):
        return _FREE
    return _list_price(model, _listed_address(address), longest_prompt_tokens, now or datetime.now(UTC))


def spent_usd(price: Price | None, counts: Snapshot) -> Decimal | None:
    """What the replies so far cost. None: the price is unknown, or replies did not say (or contradict) what they took.

    Tokens that no reply called cached cost the full price. Attempts that failed are not in it: what a host may have
    charged for them, it did not say.
    """
    prompt, cached, output = counts.prompt_tokens, counts.cached_tokens or 0, counts.output_tokens
    if price is None:
        return None
    if price.is_free:
        return Decimal(0)
    if counts.unknown_usage or prompt is None or output is None or cached > prompt:
        return None
    return price.cost_usd(prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)


def plain_usd(cost: Decimal | None) -> str | None:
    """A cost as plain digits, for JSON: no exponent, no trailing zeros."""
    return None if cost is None else f"{cost.normalize():f}"


def _listed_address(address: str) -> str:
    """The address as the price list's patterns want it: host in lower case and by its listed name, no port."""
    parts = urlsplit(address)
    host = parts.hostname or ""
    return f"{parts.scheme}://{_SAME_HOST.get(host, host)}{parts.path}"


def _list_price(model: str, address: str, longest_prompt_tokens: int | None, now: datetime) -> Price | None:
    from genai_prices import Usage, __version__, calc_price  # 0.4 s, and only hosted models need it

    try:
        found = calc_price(Usage(), model, provider_api_url=address, genai_request_timestamp=now)
    except LookupError:
        return None
    day = [found.model.get_prices(now + timedelta(hours=hour)) for hour in range(24)]
    hours = [rates for price in day if (rates := _rates(price, longest_prompt_tokens))]
    if len(hours) < len(day):
        return None
    input_rate, cached_rate, output_rate = (max(column) for column in zip(*hours, strict=True))
    notes = [
        f"genai-prices {__version__}: {found.provider.id} {found.model.id}",
        *(["at its dearest time of day"] if len(set(hours)) > 1 else []),
        *(["as for its longest prompts"] if hours != [_rates(price, 0) for price in day] else []),
        *(["writing to the host's cache costs more"] if _writing_is_dearer(found.model_price) else []),
    ]
    return Price(input_rate, cached_rate, output_rate, ", ".join(notes))


def _rates(price: ModelPrice, longest_prompt_tokens: int | None) -> Rates | None:
    """None unless both prompt and output are priced by the token and nothing is charged for the request itself."""
    if price.input_mtok is None or price.output_mtok is None or price.requests_kcount is not None:
        return None
    cached = price.input_mtok if price.cache_read_mtok is None else price.cache_read_mtok
    return (
        _dearest_tier(price.input_mtok, longest_prompt_tokens),
        _dearest_tier(cached, longest_prompt_tokens),
        _dearest_tier(price.output_mtok, longest_prompt_tokens),
    )


def _dearest_tier(rate: Decimal | TieredPrices, longest_prompt_tokens: int | None) -> Decimal:
    """A tier begins above its start and then holds for all tokens of the request."""
    if isinstance(rate, Decimal):
        return rate
    reached = [tier.price for tier in rate.tiers if longest_prompt_tokens is None or longest_prompt_tokens > tier.start]
    return max([rate.base, *reached])


def _writing_is_dearer(price: ModelPrice) -> bool:
    """Whether the host asks a premium for prompt tokens that it puts into its cache; usage does not tell how many."""
    if price.cache_write_mtok is None or price.input_mtok is None:
        return False
    return _dearest_tier(price.cache_write_mtok, 0) > _dearest_tier(price.input_mtok, 0)
