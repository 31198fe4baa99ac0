import asyncio
from random import Random

import pytest

from icm_api.client.retry import UP_S, Retrying, RetryPolicy
from icm_api.errors import AuthError, BudgetError, CapabilityError, RateLimitError, RequestError, TransientError
from tests.unit.client.scripted import FakeTime, Gated, Scripted, answer, ask, broken, busy, count_tokens, settle


def retrying(host: Scripted, time: FakeTime, policy: RetryPolicy | None = None) -> Retrying:
    policy = policy or RetryPolicy()
    return Retrying(host, policy, sleep=time.sleep, clock=time.clock, jitter=Random(0))


async def test_a_failure_that_passes_is_retried_until_it_is_answered():
    host, time = Scripted([broken(), busy(), broken()]), FakeTime()
    assert await retrying(host, time).send(ask()) == answer()
    assert (len(host.sent), len(time.sleeps)) == (4, 3)


@pytest.mark.parametrize("error", [AuthError("no key"), RequestError("unknown model"), CapabilityError("no log-probs")])
async def test_a_failure_for_good_is_raised_at_once(error):
    host, time = Scripted([error]), FakeTime()
    with pytest.raises(type(error)) as caught:
        await retrying(host, time).send(ask())
    assert caught.value is error
    assert (len(host.sent), time.sleeps) == (1, [])


async def test_a_failure_for_good_ends_the_retrying():
    host, time = Scripted([broken(), AuthError("the key was revoked")]), FakeTime()
    with pytest.raises(AuthError):
        await retrying(host, time).send(ask())
    assert len(host.sent) == 2


async def test_attempts_are_bounded_and_the_message_counts_them():
    host, time = Scripted([broken() for _ in range(99)]), FakeTime()
    with pytest.raises(TransientError, match="gave up after 6 attempts: no more are allowed"):
        await retrying(host, time).send(ask())
    assert (len(host.sent), len(time.sleeps)) == (6, 5)


async def test_a_host_that_answered_lately_is_asked_more_often_than_one_that_did_not():
    host, time = Scripted([answer(), *[broken() for _ in range(99)]]), FakeTime()
    provider = retrying(host, time, RetryPolicy(attempts=3, attempts_while_up=10, max_backoff_s=1.0))
    await provider.send(ask())
    with pytest.raises(TransientError, match="after 10 attempts"):
        await provider.send(ask())
    time.now_s += UP_S
    with pytest.raises(TransientError, match="after 3 attempts"):
        await provider.send(ask())


async def test_the_last_error_keeps_its_type_and_facts():
    host, time = Scripted([broken(), busy(1.5)]), FakeTime()
    with pytest.raises(RateLimitError) as caught:
        await retrying(host, time, RetryPolicy(attempts=2)).send(ask())
    assert (caught.value.retry_after_s, caught.value.provider, caught.value.model) == (1.5, "scripted", "m")


async def test_the_first_wait_for_a_host_that_never_answered_is_told_once():
    host, time = Scripted([broken(), broken(), broken(), answer(), broken()]), FakeTime()
    said: list[str] = []
    provider = Retrying(host, RetryPolicy(), sleep=time.sleep, clock=time.clock, jitter=Random(0), say=said.append)
    await provider.send(ask())
    await provider.send(ask())
    assert said == ["scripted/m: bad gateway; trying again, 5 times at most"]


async def test_nothing_is_told_of_failures_once_the_host_has_answered():
    host, time = Scripted([answer(), broken()]), FakeTime()
    said: list[str] = []
    provider = Retrying(host, RetryPolicy(), sleep=time.sleep, clock=time.clock, jitter=Random(0), say=said.append)
    await provider.send(ask())
    await provider.send(ask())
    assert said == []


async def test_one_attempt_means_no_retry():
    host, time = Scripted([broken()]), FakeTime()
    with pytest.raises(TransientError, match="after 1 attempts"):
        await retrying(host, time, RetryPolicy(attempts=1)).send(ask())
    assert len(host.sent) == 1


async def test_the_host_is_obeyed_when_it_says_how_long_to_wait():
    host, time = Scripted([busy(17.0), broken(30.0)]), FakeTime()
    await retrying(host, time).send(ask())
    assert time.sleeps == [17.0, 30.0]


async def test_a_host_that_asks_for_no_wait_still_gets_a_back_off():
    host, time = Scripted([busy(0.0)]), FakeTime()
    await retrying(host, time).send(ask())
    assert time.sleeps[0] > 0.0


async def test_a_host_that_asks_for_too_long_a_wait_ends_the_retrying_at_once():
    host, time = Scripted([busy(3600.0)]), FakeTime()
    with pytest.raises(RateLimitError, match="the host asks to wait 3600 s, more than the 120 s allowed"):
        await retrying(host, time).send(ask())
    assert (len(host.sent), time.sleeps) == (1, [])


async def test_no_wait_ends_later_than_the_total_time():
    host, time = Scripted([busy(100.0) for _ in range(99)]), FakeTime()
    with pytest.raises(RateLimitError, match="after 4 attempts: the next would begin later than the 300 s allowed"):
        await retrying(host, time).send(ask())
    assert time.sleeps == [100.0, 100.0, 100.0]


async def test_time_spent_in_slow_requests_counts_too():
    time = FakeTime()

    class Slow(Scripted):
        async def send(self, request):
            time.now_s += 200.0
            return await super().send(request)

    host = Slow([broken() for _ in range(99)])
    with pytest.raises(TransientError, match="after 2 attempts"):
        await retrying(host, time).send(ask())
    assert len(host.sent) == 2


async def test_waits_are_jittered_in_full_below_a_bound_that_doubles():
    policy = RetryPolicy(attempts=8, total_s=1e9, first_wait_s=1.0, max_backoff_s=20.0)
    waits = []
    for seed in range(300):
        time = FakeTime()
        host = Scripted([broken() for _ in range(7)])
        await Retrying(host, policy, sleep=time.sleep, clock=time.clock, jitter=Random(seed)).send(ask())
        waits.append(time.sleeps)
    bounds = [1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0]
    for bound, column in zip(bounds, zip(*waits, strict=True), strict=True):
        assert min(column) >= 0.0
        assert 0.9 * bound < max(column) <= bound
        assert sum(column) / len(column) == pytest.approx(bound / 2, rel=0.15)


async def test_attempts_beyond_the_first_are_counted_where_the_request_is_paid():
    host, time = Scripted([busy(3.0), broken(4.0)]), FakeTime()
    provider = retrying(host, time)
    await provider.send(ask())
    await provider.send(count_tokens("a"))
    assert provider.retries == 2


async def test_a_limit_that_forbids_an_attempt_ends_the_retrying():
    host, time = Scripted([broken(), BudgetError("max_requests", 1, 1)]), FakeTime()
    with pytest.raises(BudgetError):
        await retrying(host, time).send(ask())
    assert len(host.sent) == 2


async def test_cancellation_passes_through_a_request_and_is_not_retried():
    host = Gated()
    task = asyncio.create_task(retrying(host, FakeTime()).send(ask()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(host.sent) == 1


async def test_cancellation_passes_through_a_wait_and_a_second_attempt():
    async def forever(seconds):
        await asyncio.get_running_loop().create_future()

    host = Scripted([broken()])
    task = asyncio.create_task(Retrying(host, RetryPolicy(), sleep=forever).send(ask()))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    gated = Gated()
    task = asyncio.create_task(retrying(gated, FakeTime()).send(ask()))
    await settle()
    gated.gates[0].set_exception(broken())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (len(host.sent), len(gated.sent)) == (1, 2)


async def test_requests_that_retry_at_the_same_time_do_not_mix_their_counts():
    time, host = FakeTime(), Scripted([broken() for _ in range(60)])
    provider = retrying(host, time, RetryPolicy(attempts=3, total_s=1e9))
    errors = await asyncio.gather(*(provider.send(ask(str(n))) for n in range(20)), return_exceptions=True)
    assert all("after 3 attempts" in str(error) for error in errors)
    assert len(host.sent) == 60
