"""The client: an adapter inside its wrappers. Their order is the design.

Cached -> Metered -> Retrying -> Limited -> adapter: a hit is free, so the cache is outermost; the budget is reserved
before a request is sent; a request asleep before a retry holds no place, so the limit is innermost.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from icm_api.client.cache import Cached, open_cache
from icm_api.client.limit import Limited
from icm_api.client.meter import Limits, Metered, Snapshot, Tally
from icm_api.client.retry import Retrying, RetryPolicy, Sleep
from icm_api.providers.base import Provider


@dataclass(frozen=True, slots=True)
class Client:
    """A provider that caches, counts, retries and limits; `provider` is the outermost wrapper."""

    provider: Provider
    tally: Tally

    def snapshot(self) -> Snapshot:
        hits = self.provider.hits if isinstance(self.provider, Cached) else 0
        return self.tally.snapshot(cache_hits=hits)

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
    sleep: Sleep = asyncio.sleep,
) -> Client:
    """Wrap `adapter`. `cache` is the folder of the replies (None: keep none); `sleep` waits between attempts."""
    tally = Tally(limits)
    limited = Limited(adapter, max_concurrency)
    retrying = Retrying(limited, retry_policy, on_retry=tally.retried, sleep=sleep)
    metered = Metered(retrying, tally)
    return Client(metered if cache is None else Cached(metered, open_cache(cache)), tally)
