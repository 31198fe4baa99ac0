"""The limiter against simulated hosts, in time that only waiting moves."""

import asyncio
from random import Random

import pytest

from icm_api.client.limit import Limited
from icm_api.client.pace import LEAST_PER_S, Pace
from icm_api.client.retry import Retrying, RetryPolicy
from tests.unit.client.scripted import Scripted, answer, ask, broken, busy
from tests.unit.client.virtual import run_virtually


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Bucket(Scripted):
    """A host that lets `rate_per_s` through and `burst` at once, as most hosts count requests."""

    def __init__(self, rate_per_s: float, burst: float, latency_s: float) -> None:
        super().__init__()
        self.rate_per_s, self.burst, self.latency_s = rate_per_s, burst, latency_s
        self.answered = self.refused = 0
        self.most_at_once = self.inside = 0
        self._tokens, self._at_s, self._random = burst, 0.0, Random(1)

    async def send(self, request):
        self._tokens = min(self.burst, self._tokens + (now_s() - self._at_s) * self.rate_per_s)
        self._at_s = now_s()
        if self._tokens < 1:
            await asyncio.sleep(0.01)
            self.refused += 1
            raise busy()
        self._tokens -= 1
        await asyncio.sleep(self.latency_s * self._random.uniform(0.7, 1.6))
        self.answered += 1
        return answer()


class Load:
    """Workers that ask one question after another through the limiter and the retry loop."""

    def __init__(self, host: Bucket, workers: int) -> None:
        self.host = host
        self.limited = Limited(host, workers)
        policy = RetryPolicy(attempts=100, total_s=1e9)
        self._client = Retrying(self.limited, policy, clock=now_s, jitter=Random(2))
        self._tasks = [asyncio.create_task(self._work()) for _ in range(workers)]

    async def _work(self) -> None:
        while True:
            await self._client.send(ask())

    async def measure(self, seconds: float) -> tuple[float, float]:
        """(replies a second, share of refusals) over the next seconds."""
        answered, refused = self.host.answered, self.host.refused
        await asyncio.sleep(seconds)
        answered, refused = self.host.answered - answered, self.host.refused - refused
        return answered / seconds, refused / max(1, answered + refused)

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.mark.parametrize(
    ("rate_per_s", "burst", "latency_s", "workers"),
    [(50, 10, 0.1, 64), (50, 50, 0.1, 64), (50, 10, 1.0, 64), (200, 20, 0.05, 64), (5, 5, 0.1, 8), (2, 2, 0.5, 8)],
)
def test_a_hidden_rate_limit_is_found_and_nearly_all_of_it_used(rate_per_s, burst, latency_s, workers):
    async def run() -> tuple[float, float]:
        load = Load(Bucket(rate_per_s, burst, latency_s), workers)
        await load.measure(30)
        measured = await load.measure(120)
        await load.end()
        return measured

    goodput, refusals = run_virtually(run())
    assert goodput >= 0.9 * rate_per_s
    assert refusals < (0.02 if rate_per_s >= 50 else 0.1), "a slow host refuses one in so many that are few"


def test_it_finds_the_new_rate_when_a_limit_is_lifted_and_when_it_falls():
    async def run() -> list[tuple[float, float]]:
        host = Bucket(20, 10, 0.1)
        load = Load(host, 64)
        measured = [await load.measure(60)]
        for rate_per_s in (200, 20):
            host.rate_per_s = rate_per_s
            await load.measure(40)
            measured.append(await load.measure(60))
        await load.end()
        return measured

    (first, _), (lifted, few), (fallen, _) = run_virtually(run())
    assert 18 <= first <= 21
    assert 180 <= lifted <= 201
    assert 18 <= fallen <= 21
    assert few < 0.05


def test_without_a_refusal_nothing_is_paced():
    async def run() -> float:
        load = Load(Bucket(1e9, 1e9, 0.1), 64)
        await load.measure(5)
        goodput, _ = await load.measure(10)
        await load.end()
        return goodput

    assert run_virtually(run()) == pytest.approx(64 / 0.115, rel=0.05)


def test_after_a_drought_the_rate_that_was_known_is_back_within_seconds():
    async def run() -> float:
        host = Bucket(50, 10, 0.1)
        load = Load(host, 64)
        await load.measure(30)
        host.rate_per_s = 1e-9
        await load.measure(60)
        host.rate_per_s = 50
        await load.measure(60)
        goodput, _ = await load.measure(30)
        await load.end()
        return goodput

    assert run_virtually(run()) >= 45


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_host_that_refuses_at_random_is_not_slowed_down_to_nothing(share):
    class Moody(Bucket):
        async def send(self, request):
            if self._random.random() < share:
                self.refused += 1
                raise busy()
            return await super().send(request)

    async def run() -> float:
        load = Load(Moody(1e9, 1e9, 0.1), 8)
        goodput, _ = await load.measure(300)
        await load.end()
        return goodput

    assert run_virtually(run()) > 1


def test_other_failures_are_no_sign_that_the_rate_is_too_high():
    class Flaky(Bucket):
        async def send(self, request):
            reply = await super().send(request)
            if self._random.random() < 0.3:
                raise broken()
            return reply

    async def run() -> tuple[float, float]:
        load = Load(Flaky(50, 10, 0.1), 64)
        await load.measure(60)
        measured = await load.measure(60)
        await load.end()
        return measured

    let_through, refusals = run_virtually(run())
    assert let_through >= 45
    assert refusals < 0.05


def test_the_rate_never_falls_to_nothing_and_never_overflows():
    pace = Pace(0.0)
    for second in range(1, 1000):
        pace.sent(second)
        pace.refused(second, pace.epoch)
    assert pace.rate_per_s(1000) == pytest.approx(LEAST_PER_S, rel=1)
    assert (pace.rate_per_s(1e9) or 0) > 1
