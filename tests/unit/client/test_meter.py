import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_api.client.meter import OUTPUT_TOKENS, Limits, Metered, Snapshot, Tally, bound_of
from icm_api.client.prices import parse_price
from icm_api.client.retry import RetryPolicy
from icm_api.client.stack import Client, build_client
from icm_api.errors import BudgetError, CapabilityError, ConfigError, IcmError, RateLimitError, TransientError
from icm_api.types import ChoiceRequest, Prompt, SequenceReply, SequenceRequest, Usage
from tests.unit.client.scripted import FakeTime, Gated, Scripted, answer, ask, broken, busy, count_tokens, settle
from tests.unit.client.virtual import virtually

BOUND = bound_of(ask()).prompt_tokens
PRICE = parse_price("1/0.1/10")
MORNING = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
MOST_USD = PRICE.most_usd(BOUND, OUTPUT_TOKENS)


def metered(host: Scripted, limits: Limits | None = None) -> tuple[Metered, Tally]:
    tally = Tally(limits or Limits())
    return Metered(host, tally), tally


def count(tally: Tally) -> Snapshot:
    return tally.snapshot(retries=0, cache_hits=0)


def stack(host: Scripted, limits: Limits, **options: Any) -> Client:
    options = {"retry_policy": RetryPolicy(), "max_concurrency": 8, "sleep": FakeTime().sleep, **options}
    return build_client(host, cache=None, limits=limits, **options)


# --- counting -----------------------------------------------------------------------------------------------------


async def test_what_replies_say_is_added_up():
    provider, tally = metered(Scripted([answer(Usage(10, 4, 1)), answer(Usage(20, 0, 2))]))
    await provider.send(ask())
    await provider.send(ask())
    assert tally.snapshot(retries=1, cache_hits=3) == Snapshot(
        requests=2,
        retries=1,
        cache_hits=3,
        prompt_tokens=30,
        cached_tokens=4,
        output_tokens=3,
        unknown_usage=0,
        prompt_tokens_at_most=30,
        cost_usd=None,
        cost_usd_at_most=None,
    )


async def test_what_replies_do_not_say_is_unknown_and_never_nought():
    provider, tally = metered(Scripted([answer(Usage()), answer(Usage(prompt_tokens=5))]))
    await provider.send(ask())
    counts = count(tally)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.output_tokens) == (None, None, None)
    assert counts.unknown_usage == 1
    await provider.send(ask())
    counts = count(tally)
    assert (counts.prompt_tokens, counts.cached_tokens, counts.unknown_usage) == (5, None, 1)


async def test_unpaid_requests_pass_uncounted_even_when_nothing_may_be_spent():
    host = Scripted()
    provider, tally = metered(host, Limits(max_requests=0, max_prompt_tokens=0))
    await provider.send(count_tokens("one two"))
    assert (len(host.sent), count(tally).requests) == (1, 0)


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
    assert bound_of(request).prompt_tokens >= size_bytes + 16 * len(prompt.chunks)


def test_a_sequence_is_bounded_as_its_prompt_is():
    request = ask("a query", demonstrations=(("a text", " True"),))
    sequence = SequenceRequest(request.prompt, request.wanted)
    assert bound_of(sequence).prompt_tokens >= bound_of(request).prompt_tokens - 16


async def test_a_sequence_is_one_paid_request():
    reply = SequenceReply((), Usage(30, 0, 1), "scripted-1")
    provider, tally = metered(Scripted([reply]))
    assert await provider.send(SequenceRequest(Prompt("a query"), (" True",))) == reply
    counts = count(tally)
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
    assert (len(host.sent), count(tally).requests) == (2, 2)


async def test_requests_in_the_air_hold_their_worst_case():
    host = Gated()
    provider, _ = metered(host, Limits(max_prompt_tokens=2 * BOUND))
    tasks = [asyncio.create_task(provider.send(ask())) for _ in range(2)]
    await settle()
    waiting = asyncio.create_task(provider.send(ask()))
    await settle()
    assert len(host.sent) == 2
    host.gates[0].set_result(answer())  # of BOUND tokens it took 7: that leaves too few
    await settle()
    assert (len(host.sent), waiting.done()) == (2, False)
    host.gates[1].set_result(answer(Usage(prompt_tokens=0)))
    await settle()
    assert len(host.sent) == 3
    host.gates[2].set_result(answer())
    await asyncio.gather(*tasks, waiting)


async def test_what_does_not_fit_when_nobody_is_in_the_air_ends_the_run():
    host = Gated()
    provider, _ = metered(host, Limits(max_prompt_tokens=2 * BOUND - 1))
    first, second = (asyncio.create_task(provider.send(ask())) for _ in range(2))
    await settle()
    assert (len(host.sent), second.done()) == (1, False)
    host.gates[0].set_result(answer(Usage(BOUND, 0, 1)))
    with pytest.raises(BudgetError, match=f"{BOUND} is spent .* must reserve {BOUND}, its worst case"):
        await second
    await first


async def test_a_request_cancelled_while_it_waits_for_room_leaves_nothing_behind():
    host = Gated()
    provider, tally = metered(host, Limits(max_prompt_tokens=BOUND))
    first, second = (asyncio.create_task(provider.send(ask())) for _ in range(2))
    await settle()
    second.cancel()
    await settle()
    host.gates[0].set_result(answer(Usage(0, 0, 0)))
    await first
    assert count(tally).prompt_tokens_at_most == 0
    host.gates.append(asyncio.get_running_loop().create_future())
    third = asyncio.create_task(provider.send(ask()))
    await settle()
    host.gates[-1].set_result(answer())
    await third


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
    assert count(tally).requests == 1
    with pytest.raises(BudgetError):
        await provider.send(ask())


async def test_a_retry_that_would_pass_the_limit_is_not_sent():
    host = Scripted([broken() for _ in range(9)])
    client = stack(host, Limits(max_requests=3))
    with pytest.raises(BudgetError, match="max_requests = 3"):
        await client.provider.send(ask())
    assert (len(host.sent), client.snapshot().requests) == (3, 3)


async def test_a_storm_of_refusals_uses_up_requests_but_no_tokens():
    host = Scripted([busy() for _ in range(40)])
    client = stack(host, Limits(max_prompt_tokens=BOUND), retry_policy=RetryPolicy(attempts=50, total_s=1e9))
    await client.provider.send(ask())
    assert client.snapshot().requests == 41
    assert client.snapshot().prompt_tokens == 7


# --- dollars ------------------------------------------------------------------------------------------------------


async def test_each_reply_costs_its_own_price_and_the_bill_is_their_sum():
    tally = Tally(Limits(), price=PRICE)
    provider = Metered(Scripted([answer(Usage(100, 40, 1)), answer(Usage(10, None, 2))]), tally)
    await provider.send(ask())
    await provider.send(ask())
    assert count(tally).cost_usd == count(tally).cost_usd_at_most == Decimal("0.000104")


async def test_before_the_first_request_nothing_is_spent():
    counts = count(Tally(Limits(), price=PRICE))
    assert (counts.cost_usd, counts.cost_usd_at_most, counts.prompt_tokens) == (Decimal(0), Decimal(0), 0)


async def test_a_bill_without_a_price_is_unknown_and_never_nought():
    tally = Tally(Limits())
    await Metered(Scripted(), tally).send(ask())
    assert (count(tally).cost_usd, count(tally).cost_usd_at_most) == (None, None)


async def test_a_reply_that_does_not_say_makes_the_bill_unknown_and_counts_at_its_worst_case():
    tally = Tally(Limits(), price=PRICE)
    provider = Metered(Scripted([answer(Usage()), answer(Usage(10, 0, 1))]), tally)
    await provider.send(ask())
    await provider.send(ask())
    assert (count(tally).cost_usd, count(tally).cost_usd_at_most) == (None, MOST_USD + Decimal("0.00002"))


async def test_a_failed_attempt_is_not_in_the_bill_but_in_what_was_spent_at_most():
    tally = Tally(Limits(), price=PRICE)
    provider = Metered(Scripted([broken(), busy()]), tally)
    for error in (TransientError, RateLimitError):
        with pytest.raises(error):
            await provider.send(ask())
    assert (count(tally).cost_usd, count(tally).cost_usd_at_most) == (Decimal(0), MOST_USD)


async def test_a_request_whose_worst_case_would_pass_the_limit_in_dollars_is_not_sent():
    host = Scripted([answer(Usage(10, 0, 1))])
    tally = Tally(Limits(max_usd=MOST_USD), price=PRICE)
    provider = Metered(host, tally)
    await provider.send(ask())
    with pytest.raises(BudgetError, match=f"max_usd = {MOST_USD.normalize():f}: 0.00002 is spent") as caught:
        await provider.send(ask())
    assert (caught.value.limit, caught.value.exit_code, len(host.sent)) == ("max_usd", 3, 1)
    assert (caught.value.spent, caught.value.allowed) == (Decimal("0.00002"), MOST_USD)


async def test_what_a_model_may_think_is_held_too():
    host = Scripted([broken()])
    host.capabilities = replace(host.capabilities, thought_tokens=1000)
    tally = Tally(Limits(), price=PRICE)
    request = ChoiceRequest(Prompt("q"), (" a", " b"))
    with pytest.raises(TransientError):
        await Metered(host, tally).send(request)
    bare = bound_of(request)
    assert count(tally).cost_usd_at_most == PRICE.most_usd(bare.prompt_tokens, bare.output_tokens + 1000)


def test_a_limit_in_dollars_without_a_price_is_refused():
    with pytest.raises(ConfigError, match=r"--max-usd: no price is known .* state one with --price"):
        Tally(Limits(max_usd=Decimal(1)))


# --- a run in parts -----------------------------------------------------------------------------------------------


async def test_a_later_part_of_a_run_goes_on_from_the_counts_of_the_earlier():
    earlier = Tally(Limits(), price=PRICE)
    await Metered(Scripted([answer(Usage(100, 40, 1))]), earlier).send(ask())
    with pytest.raises(TransientError):
        await Metered(Scripted([broken()]), earlier).send(ask())
    spent = earlier.snapshot(retries=1, cache_hits=0)
    later = Tally(Limits(max_requests=3), price=PRICE, spent=spent)
    assert count(later) == replace(spent, retries=0)
    provider = Metered(Scripted([answer(Usage(10, 0, 1))]), later)
    await provider.send(ask())
    assert count(later).cost_usd == Decimal("0.000094")
    with pytest.raises(BudgetError):
        await provider.send(ask())


async def test_what_was_in_the_air_when_a_run_was_killed_counts_at_its_worst_case():
    earlier, host = Tally(Limits(), price=PRICE), Gated()
    task = asyncio.create_task(Metered(host, earlier).send(ask()))
    await settle()
    later = Tally(Limits(max_usd=2 * MOST_USD - Decimal("1e-9")), price=PRICE, spent=count(earlier))
    with pytest.raises(BudgetError):
        await Metered(Scripted(), later).send(ask())
    host.gates[0].set_result(answer())
    await task


async def test_an_earlier_part_at_an_unknown_price_allows_no_limit_in_dollars():
    earlier = Tally(Limits())
    await Metered(Scripted(), earlier).send(ask())
    with pytest.raises(ConfigError, match="what the run spent before is unknown"):
        Tally(Limits(max_usd=Decimal(1)), price=PRICE, spent=count(earlier))
    assert count(Tally(Limits(), price=PRICE, spent=count(earlier))).cost_usd is None


async def test_a_client_goes_on_from_the_counts_of_the_earlier_part():
    client = stack(Scripted([broken()]), Limits(), price=PRICE)
    await client.provider.send(ask())
    later = stack(Scripted([broken()]), Limits(), price=PRICE, spent=client.snapshot())
    await later.provider.send(ask())
    counts = later.snapshot()
    assert (counts.requests, counts.retries, counts.prompt_tokens) == (4, 2, 14)


# --- on any schedule ----------------------------------------------------------------------------------------------


class Ledger(Scripted):
    """A host that answers, fails and charges at random, and keeps the true account of what it was sent and charged."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.requests = self.prompt_tokens = 0
        self.usd = Decimal(0)

    async def send(self, request):
        bound = bound_of(request)
        used = Usage(tokens := self.random.randint(0, bound.prompt_tokens), 0, self.random.randint(0, 16))
        refused = self.random.random() < 0.2
        self.requests += 1
        self.prompt_tokens += 0 if refused else tokens
        self.usd += 0 if refused else PRICE.request_usd(used, MORNING) or 0
        await settle(self.random.randrange(4))
        if refused:
            raise busy(self.random.choice([None, 0.0, 1.0, 1e6]))
        if self.random.random() < 0.2:
            raise self.random.choice([broken(), CapabilityError("no log-probs"), TransientError("timeout")])
        return answer(self.random.choice([used, used, Usage()]))


@settings(max_examples=2500, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_requests=st.none() | st.integers(0, 20),
    max_prompt_tokens=st.none() | st.integers(0, 3000),
    max_usd=st.none() | st.integers(0, 3000).map(lambda millionths: Decimal(millionths).scaleb(-6)),
    max_concurrency=st.integers(1, 8),
)
@virtually
async def test_on_any_schedule_the_host_never_gets_more_than_the_limits(
    seed, max_requests, max_prompt_tokens, max_usd, max_concurrency
):
    random = Random(seed)
    host = Ledger(random)
    limits = Limits(max_requests, max_prompt_tokens, max_usd)
    policy = RetryPolicy(attempts=3)
    client = stack(host, limits, retry_policy=policy, max_concurrency=max_concurrency, price=PRICE)
    tasks = []
    for _ in range(random.randint(1, 15)):
        tasks.append(asyncio.create_task(client.provider.send(ask("x" * random.randrange(400)))))
        await settle(random.randrange(3))
        if random.random() < 0.1:
            random.choice(tasks).cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert max_requests is None or host.requests <= max_requests
    assert max_prompt_tokens is None or host.prompt_tokens <= max_prompt_tokens
    assert max_usd is None or host.usd <= max_usd
    counts = client.snapshot()
    assert host.requests <= counts.requests
    assert host.prompt_tokens <= counts.prompt_tokens_at_most
    assert counts.cost_usd_at_most is not None
    assert host.usd <= counts.cost_usd_at_most
    assert all(isinstance(outcome, IcmError | asyncio.CancelledError | type(answer())) for outcome in outcomes)
    if limits == Limits():
        assert not any(isinstance(outcome, BudgetError) for outcome in outcomes)
