"""The client: an adapter inside its wrappers. Their order is the design.

Cached -> Retrying -> Breaker -> Metered -> Limited -> adapter. A hit is free, so the cache is outermost. All else sees
single attempts, so it stands inside the retry loop: the breaker first, because what waits for a host that is down must
hold no budget; then the meter, which reserves each attempt before it is sent; then the limit, so that one asleep before
a retry holds no place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from icm_api.client.breaker import Breaker
from icm_api.client.cache import Cached, open_cache
from icm_api.client.limit import Limited
from icm_api.client.meter import Limits, Metered, Snapshot, Tally
from icm_api.client.prices import Price
from icm_api.client.retry import Retrying, RetryPolicy, Sleep
from icm_api.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Client:
    """A provider that caches, counts, retries and limits; `provider` is the outermost wrapper."""

    provider: Provider
    tally: Tally
    retrying: Retrying
    retries_before: int
    """Of an earlier part of the run."""

    def snapshot(self) -> Snapshot:
        """Counts of the whole run, but cache hits of this part only."""
        hits = self.provider.hits if isinstance(self.provider, Cached) else 0
        return self.tally.snapshot(retries=self.retries_before + self.retrying.retries, cache_hits=hits)

    async def aclose(self) -> None:
        """Close the adapter's connections and the cache. Safe to call twice."""
        await self.provider.aclose()


def build_client(
    adapter: Provider,
    *,
    cache: Path | None,
    limits: Limits,
    retry_policy: RetryPolicy,
    max_concurrency: int,
    price: Price | None = None,
    spent: Snapshot | None = None,
    sleep: Sleep = asyncio.sleep,
    say: Callable[[str], None] | None = None,
) -> Client:
    """Wrap `adapter`. `cache` is the folder of the replies (None: keep none); `price`: of the model, None: unknown;
    `spent`: the counts of an earlier part of the same run, which the limits include; `sleep` waits between attempts;
    `say` is told when the host does not answer at first.

    Raises ConfigError for a limit in dollars where the price is unknown.
    """
    tally = Tally(limits, price=price, spent=spent)
    metered = Metered(Limited(adapter, max_concurrency), tally)
    retrying = Retrying(Breaker(metered, retry_policy, sleep=sleep), retry_policy, sleep=sleep, say=say)
    outermost = retrying if cache is None else Cached(retrying, open_cache(cache))
    return Client(outermost, tally, retrying, spent.retries if spent else 0)
