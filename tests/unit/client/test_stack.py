from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icm_api.client import Client, Limits, RetryPolicy, build_client
from icm_api.client.breaker import Breaker
from icm_api.client.cache import Cached
from icm_api.client.limit import Limited
from icm_api.client.meter import Metered
from icm_api.client.retry import Retrying
from icm_api.errors import BudgetError
from tests.unit.client.scripted import FakeTime, Scripted, answer, ask, broken


def build(host: Scripted, cache: Path | None = None, limits: Limits | None = None) -> Client:
    return build_client(
        host,
        cache=cache,
        limits=limits or Limits(),
        retry_policy=RetryPolicy(),
        max_concurrency=8,
        sleep=FakeTime().sleep,
    )


def layers(provider: Any) -> Iterator[type]:
    while not isinstance(provider, Scripted):
        yield type(provider)
        provider = provider.inner


async def test_the_order_of_the_wrappers_is_the_design(tmp_path):
    client = build(Scripted(), tmp_path)
    assert list(layers(client.provider)) == [Cached, Retrying, Breaker, Metered, Limited]
    assert list(layers(build(Scripted()).provider)) == [Retrying, Breaker, Metered, Limited]
    await client.aclose()


async def test_the_stack_looks_like_the_adapter(tmp_path):
    host = Scripted()
    client = build(host, tmp_path)
    provider = client.provider
    assert (provider.name, provider.model, provider.identity) == (host.name, host.model, host.identity)
    assert provider.capabilities is host.capabilities
    await client.aclose()
    assert host.closed == 1


async def test_a_hit_is_free_even_when_the_budget_is_spent(tmp_path):
    client = build(Scripted(), tmp_path, Limits(max_requests=1))
    await client.provider.send(ask())
    assert await client.provider.send(ask()) == answer()
    with pytest.raises(BudgetError):
        await client.provider.send(ask("another"))
    counts = client.snapshot()
    assert (counts.requests, counts.cache_hits) == (1, 1)
    await client.aclose()


async def test_a_reply_that_took_retries_is_stored_once_and_then_free(tmp_path):
    host = Scripted([broken(), broken()])
    client = build(host, tmp_path)
    await client.provider.send(ask())
    await client.provider.send(ask())
    counts = client.snapshot()
    assert (len(host.sent), counts.requests, counts.retries, counts.cache_hits) == (3, 3, 2, 1)
    await client.aclose()


async def test_without_a_cache_every_question_is_asked():
    host = Scripted()
    client = build(host)
    await client.provider.send(ask())
    await client.provider.send(ask())
    assert (len(host.sent), client.snapshot().cache_hits) == (2, 0)
    await client.aclose()
