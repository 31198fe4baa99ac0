import asyncio
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icm_api.client.limit import FIRST_LIMIT, Limited
from tests.unit.client.scripted import Gated, Scripted, answer, ask, broken, busy, settle
from tests.unit.client.virtual import virtually

LONG_S = 60.0


async def start(limited: Limited, count: int) -> list[asyncio.Task[Any]]:
    tasks = [asyncio.create_task(limited.send(ask(str(number)))) for number in range(count)]
    await settle()
    return tasks


async def finish(gates: list[asyncio.Future[Any]], outcome: Any) -> None:
    for gate in gates:
        if isinstance(outcome, Exception):
            gate.set_exception(outcome)
        else:
            gate.set_result(outcome)
    await settle()


def open_gates(host: Gated) -> list[asyncio.Future[Any]]:
    return [gate for gate in host.gates if not gate.done()]


async def drain(host: Gated, tasks: list[asyncio.Task[Any]]) -> None:
    while not all(task.done() for task in tasks):
        await finish(open_gates(host), answer())
        await asyncio.sleep(LONG_S)
    await asyncio.gather(*tasks, return_exceptions=True)


@virtually
async def test_it_starts_small():
    host = Gated()
    tasks = await start(Limited(host, max_concurrency=64), 20)
    assert host.waiting == FIRST_LIMIT
    await drain(host, tasks)


@pytest.mark.parametrize("max_concurrency", [1, 2, 9])
@virtually
async def test_it_never_lets_more_through_than_the_maximum(max_concurrency):
    host = Gated()
    await drain(host, await start(Limited(host, max_concurrency), 100))
    assert host.most_at_once == max_concurrency


@virtually
async def test_each_success_while_all_places_are_taken_adds_one():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 50)
    await finish(open_gates(host), answer())
    assert limited.limit == 8
    await finish(open_gates(host), answer())
    assert limited.limit == 16
    await drain(host, tasks)


@virtually
async def test_a_refusal_while_places_are_free_takes_none_away():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 3)
    await finish(open_gates(host)[:1], busy())
    assert limited.limit == FIRST_LIMIT
    await drain(host, tasks)


@virtually
async def test_it_does_not_grow_while_places_stay_empty():
    limited = Limited(Scripted(), max_concurrency=64)
    for _ in range(100):
        await limited.send(ask())
    assert limited.limit == FIRST_LIMIT


@virtually
async def test_a_burst_of_refusals_halves_once():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 60)
    await finish(open_gates(host), answer())
    await finish(open_gates(host), answer())
    assert limited.limit == 16
    before = open_gates(host)
    await finish(before, busy())
    assert limited.limit == 8
    await asyncio.sleep(LONG_S)
    await finish(open_gates(host), busy())
    assert limited.limit == 4
    await drain(host, tasks)


@virtually
async def test_successes_of_requests_sent_before_a_refusal_do_not_undo_it():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 60)
    before = open_gates(host)
    await finish(before[:1], busy())
    assert limited.limit == 2
    await finish(before[1:], answer())
    assert limited.limit == 2
    await drain(host, tasks)


@virtually
async def test_a_host_that_always_refuses_still_gets_one_at_a_time():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 30)
    while not all(task.done() for task in tasks):
        await finish(open_gates(host), busy())
        await asyncio.sleep(LONG_S)
    assert limited.limit == 1
    assert len(host.sent) == len(tasks)
    await asyncio.gather(*tasks, return_exceptions=True)


@virtually
async def test_a_transient_failure_leaves_the_limit_alone():
    host = Gated()
    limited = Limited(host, max_concurrency=64)
    tasks = await start(limited, 30)
    await finish(open_gates(host), broken())
    assert limited.limit == FIRST_LIMIT
    await drain(host, tasks)


@virtually
async def test_first_come_first_served():
    host = Gated()
    await drain(host, await start(Limited(host, 3), 30))
    assert [int(request.prompt.query) for request in host.sent] == list(range(30))


@virtually
async def test_a_cancelled_request_gives_its_place_back():
    host = Gated()
    tasks = await start(Limited(host, 2), 4)
    tasks[0].cancel()
    await settle()
    assert [request.prompt.query for request in host.sent] == ["0", "1", "2"]
    await drain(host, tasks)


@virtually
async def test_a_request_cancelled_in_the_queue_takes_no_place():
    host = Gated()
    tasks = await start(Limited(host, 1), 3)
    tasks[1].cancel()
    await settle()
    await finish(open_gates(host), answer())
    assert [request.prompt.query for request in host.sent] == ["0", "2"]
    await drain(host, tasks)


@virtually
async def test_a_queue_of_cancelled_requests_stops_nobody():
    host = Gated()
    limited = Limited(host, 1)
    tasks = await start(limited, 3)
    for task in tasks:
        task.cancel()
    await settle()
    later = await start(limited, 1)
    assert len(host.sent) == 2
    await drain(host, later)


@virtually
async def test_a_place_given_to_a_request_as_it_is_cancelled_is_handed_on():
    host = Gated()
    tasks = await start(Limited(host, 1), 3)
    host.gates[0].set_result(answer())
    await tasks[0]  # the second now holds a place but has not run yet
    tasks[1].cancel()
    await settle()
    assert host.sent[-1].prompt.query == "2"
    await drain(host, tasks)


def test_a_maximum_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        Limited(Scripted(), 0)


class Chaotic(Scripted):
    """Answers, fails or refuses at random after a random number of turns of the loop."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random, self.inside, self.most = random, 0, 0

    async def send(self, request):
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await settle(self.random.randrange(4))
            step = self.random.choice([answer(), answer(), answer(), busy(), broken()])
            if isinstance(step, Exception):
                raise step
            return step
        finally:
            self.inside -= 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 60))
@virtually
async def test_on_any_schedule_no_place_is_lost_and_none_is_given_twice(seed, max_concurrency, count):
    random = Random(seed)
    host = Chaotic(random)
    limited = Limited(host, max_concurrency)
    tasks = []
    for _ in range(count):
        tasks.append(asyncio.create_task(limited.send(ask())))
        await settle(random.randrange(3))
        if random.random() < 0.3:
            random.choice(tasks).cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert host.most <= max_concurrency
    assert 1 <= limited.limit <= max_concurrency
    assert (host.inside, limited._active) == (0, 0)
