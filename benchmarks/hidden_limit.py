"""The limiter against a host with a hidden rate limit: `python -m benchmarks.hidden_limit` (loopback only).

A real HTTP server on this machine lets so many requests a second through (a bucket of tokens, as most hosts count) and
refuses the rest with 429 and no word on how long to wait. The limit is never told; then it is lifted, then it falls.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from icm_api.client import Client, Limits, RetryPolicy, build_client
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import NextTokenRequest, Prompt

WORKERS = 32
LATENCY_S = 0.1
BURST_S = 0.2
"""What the bucket holds, in seconds of its rate."""
LIMITS_PER_S = (20.0, 60.0, 20.0)
WARM_UP_S = 15.0
MEASURED_S = 20.0
REPLY = {
    "choices": [{"index": 0, "text": " True", "logprobs": {"top_logprobs": [{" True": -0.4, " False": -1.2}]}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 1},
}


class Bucket:
    """The host. `allowed_per_s` may be changed at any time."""

    def __init__(self, allowed_per_s: float) -> None:
        self.allowed_per_s = allowed_per_s
        self.answered = self.refused = 0
        self._tokens = 0.0
        self._at_s = time.monotonic()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which the client keeps open."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has hung up
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
        if self._lets_through():
            await asyncio.sleep(LATENCY_S)
            self.answered += 1
            writer.write(_response("200 OK", json.dumps(REPLY)))
        else:
            self.refused += 1
            writer.write(_response("429 Too Many Requests", '{"error": {"message": "slow down"}}'))
        await writer.drain()
        return True

    def _lets_through(self) -> bool:
        now_s = time.monotonic()
        most = max(1.0, BURST_S * self.allowed_per_s)
        self._tokens = min(most, self._tokens + (now_s - self._at_s) * self.allowed_per_s)
        self._at_s = now_s
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _response(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@asynccontextmanager
async def served(bucket: Bucket) -> AsyncIterator[str]:
    server = await asyncio.start_server(bucket.talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


async def ask_for_ever(client: Client, worker: int) -> None:
    number = 0
    while True:
        await client.provider.send(NextTokenRequest(Prompt(f"{worker}: question {number}"), (" True", " False")))
        number += 1


@dataclass(frozen=True, slots=True)
class Measured:
    allowed_per_s: float
    goodput_per_s: float
    refused_share: float

    def __str__(self) -> str:
        used = self.goodput_per_s / self.allowed_per_s
        return f"| {self.allowed_per_s:.0f} | {self.goodput_per_s:.1f} | {used:.0%} | {self.refused_share:.1%} |"


async def count(bucket: Bucket, seconds: float) -> Measured:
    answered, refused = bucket.answered, bucket.refused
    await asyncio.sleep(seconds)
    answered, refused = bucket.answered - answered, bucket.refused - refused
    return Measured(bucket.allowed_per_s, answered / seconds, refused / max(1, answered + refused))


async def measure(warm_up_s: float, measured_s: float) -> list[Measured]:
    """One line for each limit, the host and the client going on all the while."""
    bucket = Bucket(LIMITS_PER_S[0])
    async with served(bucket) as url:
        adapter = OpenAICompatible(base_url=url, model="m", api_key=None, route="completions")
        client = build_client(adapter, cache=None, limits=Limits(), retry_policy=RetryPolicy(), max_concurrency=WORKERS)
        tasks = [asyncio.create_task(ask_for_ever(client, worker)) for worker in range(WORKERS)]
        lines = []
        for bucket.allowed_per_s in LIMITS_PER_S:
            await asyncio.sleep(warm_up_s)
            lines.append(await count(bucket, measured_s))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()
        await asyncio.sleep(2 * LATENCY_S)  # what the host is still about to say, it says to nobody
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warm-up-s", type=float, default=WARM_UP_S)
    parser.add_argument("--measured-s", type=float, default=MEASURED_S)
    options = parser.parse_args(arguments)
    print("| hidden limit, requests/s | answered/s | of the limit | refused (429) |")
    print("| ---: | ---: | ---: | ---: |", flush=True)
    for line in asyncio.run(measure(options.warm_up_s, options.measured_s)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
