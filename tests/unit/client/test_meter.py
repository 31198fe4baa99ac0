import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_api.client.meter import Limits, Metered, Snapshot, Tally, prompt_token_bound
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import Client, build_client
from icm_api.errors import BudgetError, CapabilityError, IcmError, TransientError
from icm_api.types import Prompt, SequenceReply, SequenceRequest, Usage
from tests.unit.client.scripted import FakeTime, Gated, Scripted, answer, ask, broken, busy, count_tokens, settle

BOUND = prompt_token_bound(ask())


def metered(host: Scripted, limits: Limits | None = None) -> tuple[Metered, Tally]:
    tally = Tally(limits or Limits())
    return Metered(host, tally), tally


def stack(host: Scripted, limits: Limits, **options: Any) -> Client:
    options = {"retry_policy": RetryPolicy(), "max_concurrency": 8, "sleep": FakeTime().sleep, **options}
    return build_client(host, cache=None, limits=limits, **options)


# --- counting -----------------------------------------------------------------------------------------------------


async def test_what_replies_say_is_added_up():
    provider, tally = metered(Scripted([answer(Usage(10, 4, 1)), answer(Usage(20, 0, 2))]))
    await provider.send(ask())
    await provider.send(ask())
    assert tally.snapshot(cache_hits=3) == Snapshot(
        requests=2,
        retries=0,
        cache_hits=3,
        prompt_tokens=30,
        cached_tokens=4,
        output_tokens=3,
        unknown_usage=0,
    )


async def test_what_replies_do_not_say_is_unknown_and_never_nought():
    provider, tally = metered(Scripted([answer(Usage()), answer(Usage(prompt_tokens=5))]))
    await provider.send(ask())
    counts = tally.snapshot(0)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.output_tokens) == (None, None, None)
    assert counts.unknown_usage == 1
    await provider.send(ask())
    counts = tally.snapshot(0)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.unknown_usage) == (5, None, 1)


async def test_unpaid_requests_pass_uncounted_even_when_nothing_may_be_spent():
    host = Scripted()
    provider, tally = metered(host, Limits(max_requests=0, max_prompt_tokens=0))
    await provider.send(count_tokens("one two"))
    assert (len(host.sent), tally.snapshot(0).requests) == (1, 0)


async def test_every_attempt_is_a_request():
    client = stack(Scripted([broken(), busy(), answer()]), Limits())
    await client.provider.send(ask())
    counts = client.snapshot()
    assert (counts.requests, counts.retries, counts.prompt_tokens) == (3, 2, 7)


async def test_a_retry_of_an_unpaid_request_is_not_counted():
    class Flaky(Scripted):
        async def send(self, request):
            if not self.sent:
                self.sent.append(request)
                raise broken()
            return await super().send(request)

    client = stack(Flaky(), Limits(max_requests=0))
    await client.provider.send(count_tokens("a"))
    assert client.snapshot().retries == 0


# --- the bound ----------------------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=3))
def test_the_bound_covers_a_token_for_each_byte_and_markers_around_each_part(query, preamble, demonstrations):
    prompt = Prompt(query, tuple(demonstrations), preamble)
    size_bytes = len(prompt.text.encode("utf-8", "surrogatepass"))
    request = ask(query, preamble=preamble, demonstrations=tuple(demonstrations))
    assert prompt_token_bound(request) >= size_bytes + 16 * len(prompt.chunks)


def test_a_sequence_is_bounded_as_its_prompt_is():
    request = ask("a query", demonstrations=(("a text", " True"),))
    assert prompt_token_bound(SequenceRequest(request.prompt, request.wanted)) >= prompt_token_bound(request) - 16


async def test_a_sequence_is_one_paid_request():
    reply = SequenceReply((), Usage(30, 0, 1), "scripted-1")
    provider, tally = metered(Scripted([reply]))
    assert await provider.send(SequenceRequest(Prompt("a query"), (" True",))) == reply
    counts = tally.snapshot(0)
    assert (counts.requests, counts.prompt_tokens) == (1, 30)


async def test_a_paid_request_whose_price_has_no_bound_is_not_sent():
    class Unknown:
        kind, paid = "haiku", True

    host = Scripted()
    with pytest.raises(CapabilityError, match="'haiku'"):
        await metered(host)[0].send(Unknown())  # type: ignore[arg-type]
    assert host.sent == []


# --- limits -------------------------------------------------------------------------------------------------------


async def test_the_request_that_would_pass_the_limit_is_not_sent():
    host = Scripted()
    provider, tally = metered(host, Limits(max_requests=2))
    await provider.send(ask())
    await provider.send(ask())
    with pytest.raises(BudgetError) as caught:
        await provider.send(ask())
    assert (caught.value.limit, caught.value.spent, caught.value.allowed) == ("max_requests", 2, 2)
    assert (len(host.sent), tally.snapshot(0).requests) == (2, 2)


async def test_requests_in_the_air_hold_their_worst_case():
    host = Gated()
    provider, _ = metered(host, Limits(max_prompt_tokens=2 * BOUND))
    tasks = [asyncio.create_task(provider.send(ask())) for _ in range(2)]
    await settle()
    with pytest.raises(BudgetError, match="max_prompt_tokens"):
        await provider.send(ask())
    host.gates[0].set_result(answer())
    await settle()
    with pytest.raises(BudgetError):
        await provider.send(ask())
    host.gates[1].set_result(answer(Usage(prompt_tokens=0)))
    await asyncio.gather(*tasks)
    tasks = [asyncio.create_task(provider.send(ask()))]
    await settle()
    assert len(host.sent) == 3
    host.gates[2].set_result(answer())
    await asyncio.gather(*tasks)


async def test_the_worst_case_is_kept_when_the_reply_does_not_say():
    provider, _ = metered(Scripted([answer(Usage())]), Limits(max_prompt_tokens=2 * BOUND - 1))
    await provider.send(ask())
    with pytest.raises(BudgetError) as caught:
        await provider.send(ask())
    assert caught.value.spent == BOUND


@pytest.mark.parametrize(("error", "may_go_on"), [(busy(), True), (broken(), False)])
async def test_only_a_refusal_for_its_rate_gives_the_tokens_back(error, may_go_on):
    host = Scripted([error])
    provider, _ = metered(host, Limits(max_prompt_tokens=2 * BOUND - 1))
    with pytest.raises(type(error)):
        await provider.send(ask())
    if may_go_on:
        await provider.send(ask())
    else:
        with pytest.raises(BudgetError):
            await provider.send(ask())


async def test_a_cancelled_request_may_have_been_charged_so_it_stays_counted():
    host = Gated()
    provider, tally = metered(host, Limits(max_prompt_tokens=2 * BOUND - 1))
    task = asyncio.create_task(provider.send(ask()))
    await settle()
    task.cancel()
    await settle()
    assert tally.snapshot(0).requests == 1
    with pytest.raises(BudgetError):
        await provider.send(ask())


async def test_a_retry_that_would_pass_the_limit_is_not_sent_and_nobody_sleeps_for_it():
    host, time = Scripted([broken() for _ in range(9)]), FakeTime()
    client = stack(host, Limits(max_requests=3), sleep=time.sleep)
    with pytest.raises(BudgetError, match="max_requests = 3"):
        await client.provider.send(ask())
    assert (len(host.sent), len(time.sleeps), client.snapshot().requests) == (3, 2, 3)


async def test_a_storm_of_refusals_uses_up_requests_but_no_tokens():
    host = Scripted([busy() for _ in range(40)])
    client = stack(host, Limits(max_prompt_tokens=BOUND), retry_policy=RetryPolicy(attempts=50, total_s=1e9))
    await client.provider.send(ask())
    assert client.snapshot().requests == 41
    assert client.snapshot().prompt_tokens == 7


class Ledger(Scripted):
    """A host that answers, fails and charges at random, and keeps the true account of what it was sent and charged."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.requests = self.prompt_tokens = 0

    async def send(self, request):
        tokens = self.random.randint(0, prompt_token_bound(request))
        refused = self.random.random() < 0.2
        self.requests += 1
        self.prompt_tokens += 0 if refused else tokens
        await settle(self.random.randrange(4))
        if refused:
            raise busy(self.random.choice([None, 0.0, 1.0, 1e6]))
        if self.random.random() < 0.2:
            raise self.random.choice([broken(), CapabilityError("no log-probs"), TransientError("timeout")])
        return answer(self.random.choice([Usage(tokens, 0, 1), Usage()]))


@settings(max_examples=1500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_requests=st.none() | st.integers(0, 20),
    max_prompt_tokens=st.none() | st.integers(0, 3000),
    max_concurrency=st.integers(1, 8),
)
async def test_on_any_schedule_the_host_never_gets_more_than_the_limits(
    seed, max_requests, max_prompt_tokens, max_concurrency
):
    random = Random(seed)
    host = Ledger(random)
    limits = Limits(max_requests, max_prompt_tokens)
    client = stack(host, limits, retry_policy=RetryPolicy(attempts=3), max_concurrency=max_concurrency)
    tasks = []
    for _ in range(random.randint(1, 15)):
        tasks.append(asyncio.create_task(client.provider.send(ask("x" * random.randrange(400)))))
        await settle(random.randrange(3))
        if random.random() < 0.1:
            random.choice(tasks).cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert max_requests is None or host.requests <= max_requests
    assert max_prompt_tokens is None or host.prompt_tokens <= max_prompt_tokens
    assert host.requests <= client.snapshot().requests
    assert all(isinstance(outcome, IcmError | asyncio.CancelledError | type(answer())) for outcome in outcomes)
    if limits == Limits():
        assert not any(isinstance(outcome, BudgetError) for outcome in outcomes)
