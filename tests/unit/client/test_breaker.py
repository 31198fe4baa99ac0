import asyncio
from contextlib import suppress

import pytest

from icm_api.client.breaker import OPENS_AT, Breaker
from icm_api.client.meter import Limits
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import build_client
from icm_api.errors import ProviderError, RequestError, RetryableError, TransientError
from tests.unit.client.scripted import FakeTime, Scripted, answer, ask, broken, busy

POLICY = RetryPolicy(attempts=4, first_wait_s=1.0, max_wait_s=8.0)


class Down(Scripted):
    """Fails while `down`; takes a second each time."""

    def __init__(self, time: FakeTime) -> None:
        super().__init__()
        self.down, self.time = True, time

    async def send(self, request):
        self.sent.append(request)
        await asyncio.sleep(0)
        if self.down:
            raise broken()
        return answer()


def breaker(host: Scripted, time: FakeTime, policy: RetryPolicy = POLICY) -> Breaker:
    return Breaker(host, policy, sleep=time.sleep, clock=time.clock)


async def fail(provider: Breaker, number: int) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await provider.send(ask(str(number)))
    return caught.value


async def open_it(provider: Breaker) -> None:
    await asyncio.gather(*(fail(provider, number) for number in range(OPENS_AT)))


async def test_when_different_requests_fail_one_at_a_time_goes_later_and_later():
    time = FakeTime()
    host = Down(time)
    provider = breaker(host, time)
    await open_it(provider)
    assert time.sleeps == []
    for number in range(3):
        await fail(provider, number)
    assert (len(host.sent), time.sleeps) == (OPENS_AT + 3, [1.0, 2.0, 4.0])


async def test_a_host_that_stays_down_ends_the_run_with_one_error_that_is_not_retried():
    time = FakeTime()
    host = Down(time)
    provider = breaker(host, time)
    await open_it(provider)
    errors = await asyncio.gather(*(fail(provider, number) for number in range(50)))
    assert len(host.sent) == OPENS_AT + POLICY.attempts
    assert [isinstance(error, RetryableError) for error in errors].count(True) == POLICY.attempts - 1
    assert "the host is down or not reachable; the last failure: scripted/m: bad gateway" in str(errors[-1])
    assert errors[-1].exit_code == 4


async def test_an_answer_closes_it_and_everything_waiting_goes_at_once():
    time = FakeTime()
    host = Down(time)
    provider = breaker(host, time)
    await open_it(provider)
    host.down = False
    replies = await asyncio.gather(*(provider.send(ask(str(number))) for number in range(20)))
    assert replies == [answer()] * 20
    assert time.sleeps == [1.0]


async def test_attempts_of_one_request_do_not_open_it():
    time = FakeTime()
    host, request = Down(time), ask()
    provider = breaker(host, time)
    for _ in range(5 * OPENS_AT):
        with pytest.raises(TransientError):
            await provider.send(request)
    assert time.sleeps == []


@pytest.mark.parametrize("word", [answer(), busy(), RequestError("too long")])
async def test_a_host_that_answers_now_and_then_does_not_open_it(word):
    script = [*[broken()] * (OPENS_AT - 1), word] * 5
    time = FakeTime()
    provider = breaker(Scripted(script), time)
    for number in range(len(script)):
        with suppress(ProviderError):
            await provider.send(ask(str(number)))
    assert time.sleeps == []


async def test_a_host_that_hangs_is_given_up_when_the_time_allowed_is_over():
    time = FakeTime()

    class Hanging(Down):
        async def send(self, request):
            self.time.now_s += 120.0
            return await super().send(request)

    host = Hanging(time)
    provider = breaker(host, time, RetryPolicy(attempts=99, total_s=300.0))
    await open_it(provider)
    error = [await fail(provider, 1) for _ in range(6)][-1]
    assert not isinstance(error, RetryableError)
    assert len(host.sent) <= OPENS_AT + 3


async def test_a_run_against_a_host_that_is_down_does_not_burn_every_requests_retries():
    time = FakeTime()
    host = Down(time)
    client = build_client(
        host, cache=None, limits=Limits(), retry_policy=RetryPolicy(), max_concurrency=64, sleep=time.sleep
    )
    outcomes = await asyncio.gather(*(client.provider.send(ask(str(n))) for n in range(64)), return_exceptions=True)
    assert all(isinstance(outcome, ProviderError) for outcome in outcomes)
    assert len(host.sent) < 2 * 64
