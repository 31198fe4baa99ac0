"""What the client costs: `python -m benchmarks.client_overhead`.

Three questions, each a markdown table:

1. What do the wrappers add to a request, in microseconds, over a provider in memory that answers at once?
2. How many requests a second go through the `openai-compatible` adapter and the wrappers to a loopback HTTP server that
   answers at once (in a process of its own), as a share of what a bare httpx2 loop with the same bodies and the same
   concurrency reaches in the same run? The worst case: a real host's own time hides most of it.
3. The same with a real server: `--local` starts the embedded one, `--base-url http://127.0.0.1:8080/v1 --model NAME`
   takes yours.

Every route of every adapter beside its bare loop: `python -m benchmarks.route_overhead`.

The ways take turns, round by round, and the median round counts, so that another load on the machine falls on all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, TypeAlias

import httpx2

from icm_api.client import Limits, RetryPolicy, build_client
from icm_api.local.models import default_cache_dir
from icm_api.local.server import ServerSettings, start_server
from icm_api.local.session import model_file
from icm_api.providers.base import Provider
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import Candidate, Capabilities, Json, NextTokenReply, NextTokenRequest, Prompt, Usage

TOP_K = 20
ROUNDS = 5
CANDIDATES = tuple(Candidate(f" token{rank}", -0.5 - rank, rank) for rank in range(TOP_K))
DEMONSTRATIONS = tuple((f"Review {n}: the soup was warm and the staff were kind.\nGood:", " True") for n in range(16))

Ask: TypeAlias = Callable[[Any], Awaitable[object]]
"""Takes a request."""


def new_requests(numbers: Iterator[int], amount: int) -> list[NextTokenRequest]:
    """Requests with a prompt of about 1 kB. No two begin alike, so no server can reuse a prefix for either way."""
    return [
        NextTokenRequest(Prompt(f"Review {n}: fine.\nGood:", DEMONSTRATIONS, f"List {n:07}."), (" True", " False"))
        for n in (next(numbers) for _ in range(amount))
    ]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request took on average, in microseconds: of the clock on the wall, and of this process's CPU time."""

    wall_us: float
    cpu_us: float


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(median(cost.wall_us for cost in costs), median(cost.cpu_us for cost in costs))


async def cost(ask: Ask, requests: Sequence[object], concurrency: int) -> Cost:
    """Ask them all with `concurrency` workers."""
    queue = iter(requests)

    async def work() -> None:
        for request in queue:
            await ask(request)

    wall_s, cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as workers:
        for _ in range(concurrency):
            workers.create_task(work())
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return Cost(wall_s / len(requests) * 1e6, cpu_s / len(requests) * 1e6)


@asynccontextmanager
async def stack(adapter: Provider, concurrency: int, *, cached: bool) -> AsyncIterator[Ask]:
    """The client's `send` around `adapter`, with an empty cache on disk or with none."""
    with tempfile.TemporaryDirectory() as folder:
        client = build_client(
            adapter,
            cache=Path(folder) / "replies" if cached else None,
            limits=Limits(max_requests=10**9, max_prompt_tokens=10**12),
            retry_policy=RetryPolicy(),
            max_concurrency=concurrency,
        )
        try:
            yield client.provider.send
        finally:
            await client.aclose()


# --- 1: in memory -------------------------------------------------------------------------------------------------


class Instant:
    """A provider that answers at once."""

    name = "instant"
    model = "none"
    identity: dict[str, Json] = {  # noqa: RUF012  # the protocol's attribute; never changed
        "adapter": "instant",
        "adapter_version": 1,
        "base_url": "http://127.0.0.1/v1",
        "model": "none",
        "route": "completions",
        "top_k": TOP_K,
    }
    capabilities = Capabilities(
        exact_labels=False,
        max_top_k=TOP_K,
        continues_label=True,
        counts_tokens=False,
        plain_text_tokens=False,
        context_tokens=None,
    )
    reply = NextTokenReply(CANDIDATES, floor_nats=-21.0, usage=Usage(300, 0, 1), model="none")

    async def send(self, request: Any) -> Any:  # noqa: ARG002
        return self.reply

    async def aclose(self) -> None:
        pass


async def memory_costs(amount: int) -> dict[str, Cost]:
    """Way -> cost of a request in the median round, asked one at a time."""
    provider, numbers = Instant(), count()
    async with stack(provider, 8, cached=False) as without, stack(provider, 8, cached=True) as cached:
        ways: dict[str, Ask] = {
            "provider alone": provider.send,
            "meter, retry and limit (no cache)": without,
            "whole stack, cache miss": cached,
            "whole stack, cache hit": cached,
        }
        rounds: dict[str, list[Cost]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            requests = new_requests(numbers, amount)
            for way, ask in ways.items():
                rounds[way].append(await cost(ask, requests, concurrency=1))
    return {way: middle(costs) for way, costs in rounds.items()}


# --- 2 and 3: over HTTP -------------------------------------------------------------------------------------------


def completion_body(request: NextTokenRequest, model: str) -> dict[str, Json]:
    """What the adapter sends for it on the completions route."""
    return {
        "model": model,
        "prompt": request.prompt.text,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": TOP_K,
    }


@asynccontextmanager
async def bare_loop(base_url: str, model: str, concurrency: int) -> AsyncIterator[Ask]:
    """httpx2 and nothing else: post the body, decode the reply."""
    limits = httpx2.Limits(max_connections=concurrency)
    async with httpx2.AsyncClient(base_url=base_url, timeout=600, limits=limits, trust_env=False) as http:

        async def ask(request: NextTokenRequest) -> object:
            response = await http.post("/completions", json=completion_body(request, model))
            return response.raise_for_status().json()

        yield ask


@asynccontextmanager
async def adapter_alone(base_url: str, model: str) -> AsyncIterator[Ask]:
    adapter = new_adapter(base_url, model)
    try:
        yield adapter.send
    finally:
        await adapter.aclose()


def new_adapter(base_url: str, model: str) -> OpenAICompatible:
    return OpenAICompatible(
        base_url=base_url, model=model, api_key=None, route="completions", top_k=TOP_K, timeout_s=600
    )


async def http_costs(base_url: str, model: str, amount: int, concurrency: int) -> dict[str, Cost]:
    """Way -> cost of a request (median round) to the server at `base_url`; the first way is the bare loop."""
    async with AsyncExitStack() as opened:
        enter = opened.enter_async_context
        ways: dict[str, Ask] = {
            "bare httpx2 loop": await enter(bare_loop(base_url, model, concurrency)),
            "adapter alone": await enter(adapter_alone(base_url, model)),
            "adapter in the stack, no cache": await enter(
                stack(new_adapter(base_url, model), concurrency, cached=False)
            ),
            "adapter in the stack, cache misses": await enter(
                stack(new_adapter(base_url, model), concurrency, cached=True)
            ),
        }
        return await _take_turns(ways, amount, concurrency)


async def _take_turns(ways: dict[str, Ask], amount: int, concurrency: int) -> dict[str, Cost]:
    numbers = count()
    rounds: dict[str, list[Cost]] = {way: [] for way in ways}
    for ask in ways.values():  # connections open, limits grown
        await cost(ask, new_requests(numbers, min(amount, 8 * concurrency)), concurrency)
    for _ in range(ROUNDS):
        for way, ask in ways.items():
            rounds[way].append(await cost(ask, new_requests(numbers, amount), concurrency))
    return {way: middle(costs) for way, costs in rounds.items()}


# --- the loopback server ------------------------------------------------------------------------------------------


def http_reply(body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """A whole reply with status 200."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 200 OK\r\n{''.join(lines)}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode("latin-1") + body


def asked(path: str, document: Json) -> str:
    """What tells one request from another, however its JSON is spaced."""
    return f"{path} {json.dumps(document, sort_keys=True)}"


COMPLETION: Json = {
    "object": "text_completion",
    "model": "loopback",
    "usage": {"prompt_tokens": 300, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}},
    "choices": [
        {
            "index": 0,
            "text": CANDIDATES[0].text,
            "logprobs": {
                "tokens": [CANDIDATES[0].text],
                "token_logprobs": [CANDIDATES[0].logprob_nats],
                "top_logprobs": [{c.text: c.logprob_nats for c in CANDIDATES}],
            },
        }
    ],
}


ANYTHING = ""
"""Stands for every request of a server with one reply."""


class AnswerAtOnce(asyncio.Protocol):
    """As little HTTP as a client notices: reads a request by its content-length, answers with the reply made ready for
    it (see `asked`)."""

    def __init__(self, replies: Mapping[str, bytes]) -> None:
        self._replies = replies
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._unread += data
        head, blank, rest = self._unread.partition(b"\r\n\r\n")
        stated = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        length = int(stated or 0)
        if blank and len(rest) >= length:
            self._unread = rest[length:]
            self._transport.write(self._reply(head, rest[:length]))

    def _reply(self, head: bytes, body: bytes) -> bytes:
        if ANYTHING in self._replies:
            return self._replies[ANYTHING]
        return self._replies[asked(head.split(b" ")[1].decode(), json.loads(body or b"null"))]


def _serve(port: Connection, replies: Mapping[str, bytes]) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(lambda: AnswerAtOnce(replies), "127.0.0.1", 0)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def loopback_server(replies: Mapping[str, bytes]) -> Iterator[str]:
    """Address of a server in another process that answers at once."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs, replies), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


# --- tables -------------------------------------------------------------------------------------------------------


def overhead_table(costs: dict[str, Cost]) -> str:
    """What each way takes beyond the first."""
    alone, *others = costs.items()
    rows = [f"| {way} | {c.wall_us - alone[1].wall_us:.0f} | {c.cpu_us - alone[1].cpu_us:.0f} |" for way, c in others]
    return "\n".join(["| way | added, µs a request | of it CPU |", "|---|---:|---:|", *rows])


def throughput_table(costs: dict[str, Cost]) -> str:
    """Requests a second of each way, and their share of the first's."""
    bare = next(iter(costs.values()))
    rows = [
        f"| {way} | {1e6 / c.wall_us:.3g} | {bare.wall_us / c.wall_us:.2f} | {c.cpu_us:.0f} |"
        for way, c in costs.items()
    ]
    return "\n".join(
        ["| way | requests/s | of the bare loop | client's CPU, µs a request |", "|---|---:|---:|---:|", *rows]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.client_overhead")
    parser.add_argument("--requests", type=int, help="requests a round (default 400; 4 with --local)")
    parser.add_argument("--concurrency", type=int, help="default 16; 2 with --local")
    parser.add_argument("--local", action="store_true", help="the embedded llama.cpp server and its small model")
    parser.add_argument("--base-url", help="a real server instead, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default="loopback")
    chosen = parser.parse_args()
    if chosen.local:
        measure_local(chosen.requests or 4, chosen.concurrency or 2)
    elif chosen.base_url:
        show_http("Real server", chosen.base_url, chosen.model, chosen.requests or 400, chosen.concurrency or 16)
    else:
        measure_overhead(chosen.requests or 400, chosen.concurrency or 16)


def measure_overhead(amount: int = 400, concurrency: int = 16) -> None:
    """Print questions 1 and 2."""
    print(f"In memory, 1 kB prompts\n\n{overhead_table(asyncio.run(memory_costs(amount)))}\n")
    with loopback_server({ANYTHING: http_reply(json.dumps(COMPLETION).encode())}) as url:
        show_http("Loopback server that answers at once", f"{url}/v1", "loopback", amount, concurrency)


def measure_local(amount: int = 4, concurrency: int = 2) -> None:
    """Print question 3 for the embedded server."""
    path = model_file(None, cache_dir=default_cache_dir(os.environ))
    with start_server(ServerSettings(path)) as server:
        show_http("Embedded llama.cpp server", f"{server.base_url}/v1", path.name, amount, concurrency)


def show_http(title: str, base_url: str, model: str, amount: int, concurrency: int) -> None:
    costs = asyncio.run(http_costs(base_url, model, amount, concurrency))
    print(f"{title}, concurrency {concurrency}\n\n{throughput_table(costs)}\n")


if __name__ == "__main__":
    main()
