"""What each route of the adapters costs beside bare HTTP: `python -m benchmarks.route_overhead`.

Two questions, each a markdown table:

1. Requests a second, and CPU time of this process a request, through each adapter and through a bare httpx2 loop that
   posts the same JSON to the same loopback server (in a process of its own, every reply made ready) and decodes the
   reply. Both take turns, and the median round counts.
2. What reading alone costs: decoding the JSON, and our checks and objects after it.

The replies hold lists of 20 candidates, those of the echo routes at each of the tokens of 256 examples. Servers with
routes of their own answer as the stand-ins of the tests do: their replies are recorded once and played.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from statistics import median
from typing import Any

import httpx2

from benchmarks.client_overhead import ROUNDS, TOP_K, Ask, Cost, asked, cost, http_reply, loopback_server, middle
from icm_api.providers.base import Provider
from icm_api.providers.echo import echoed_positions, label_positions
from icm_api.providers.http import Host, objects
from icm_api.providers.listed import chat_candidates, top_candidates
from icm_api.providers.registry import ProviderSettings, open_provider
from icm_api.types import ChoiceRequest, Json, NextTokenRequest, Prompt, Request, SequenceRequest
from tests.conftest import Asked, ScriptedServer
from tests.servers.gemini import Gemini
from tests.servers.learner import Learner
from tests.servers.model import TokenModel
from tests.servers.ollama import Ollama
from tests.servers.sglang import Sglang
from tests.servers.tgi import Tgi
from tests.servers.vllm import Vllm

LABELS = (" True", " False")
EXAMPLES = 256
"""Of the echoed sequence."""
LISTED_BY_LLAMA_CPP = 1000
LARGE = 50
"""So many times fewer requests a round where a reply has megabytes."""
SHOWN = [
    (f"Review {n}: the soup was warm and the staff of the place by the river were kind.\nGood:", " True")
    for n in range(EXAMPLES)
]
PROMPT = Prompt("Review: cold, and nobody came.\nGood:", tuple(SHOWN[:16]))
NEXT = NextTokenRequest(PROMPT, LABELS)
CHOICE = ChoiceRequest(PROMPT, LABELS)
SEQUENCE = SequenceRequest(Prompt(PROMPT.query, tuple(SHOWN)), LABELS)
HOST = Host(provider="benchmark", model="m", base_url="http://127.0.0.1", hint="")


# --- replies ------------------------------------------------------------------------------------------------------


def listed(size: int = TOP_K, first: str = LABELS[0]) -> list[tuple[str, float]]:
    """Tokens with their log-probs, best first, which hold nearly all of the probability."""
    tokens = list(dict.fromkeys([first, *LABELS, *(f" token{k}" for k in range(size))]))[:size]
    return [(token, math.log(0.5) * (k + 1)) if k < 30 else (token, -21.0 - k / 100) for k, token in enumerate(tokens)]


def chat_position(size: int = TOP_K) -> dict[str, Json]:
    entries: list[Json] = [
        {"id": k, "token": text, "logprob": nats, "bytes": [*text.encode()]}
        for k, (text, nats) in enumerate(listed(size))
    ]
    return {"token": LABELS[0], "logprob": listed()[0][1], "id": 0, "top_logprobs": entries}


def legacy(tokens: Sequence[str], unscored: int = 0) -> dict[str, Json]:
    """Columns with a list at every token but the first `unscored`."""
    tops: list[Json] = [None if k < unscored else dict(listed(first=token)) for k, token in enumerate(tokens)]
    values: list[Json] = [None if k < unscored else listed()[0][1] for k in range(len(tokens))]
    return {"tokens": [*tokens], "token_logprobs": values, "top_logprobs": tops, "text_offset": [0] * len(tokens)}


def spelled(text: str) -> list[str]:
    return re.findall(r"\n\n|\n| ?\w+|.", text)


USAGE: dict[str, Json] = {"prompt_tokens": 300, "completion_tokens": 1, "input_tokens": 300, "output_tokens": 1}
ECHOED = spelled(SEQUENCE.prompt.text)


def with_choice(**choice: Json) -> dict[str, Json]:
    return {"id": "1", "object": "completion", "model": "m", "usage": USAGE, "choices": [{"index": 0, **choice}]}


VOTE: dict[str, Json] = {"role": "assistant", "content": '{"label": "True"}'}
COMPLETION = with_choice(text=LABELS[0], logprobs=legacy([LABELS[0]]))
CHAT = with_choice(message=VOTE, finish_reason="length", logprobs={"content": [chat_position()]})
ECHO = with_choice(text=LABELS[0], logprobs=legacy([*ECHOED, LABELS[0]], unscored=1))
TOGETHER_ECHO = COMPLETION | {"prompt": [{"text": SEQUENCE.prompt.text, "logprobs": legacy(ECHOED, unscored=1)}]}
ANSWER: Json = {"type": "output_text", "text": "True", "logprobs": [chat_position()]}
RESPONSE: Json = {"model": "m", "usage": USAGE, "output": [{"type": "message", "content": [ANSWER]}]}
STATED: Json = [{"value": "True", "probability": 0.7}, {"value": "False", "probability": 0.3}]
DECISION: Json = {"model": "m", "usage": USAGE, "answers": [{"type": "choice", "probabilities": STATED}]}
MESSAGE: Json = {
    "model": "m",
    "usage": USAGE,
    "stop_reason": "end_turn",
    "content": [{"type": "text", "text": VOTE["content"]}],
}


@dataclass
class LlamaCpp:
    """llama.cpp's native routes, with `LISTED_BY_LLAMA_CPP` candidates."""

    model: TokenModel = field(default_factory=TokenModel)

    def serve(self, server: ScriptedServer) -> None:
        server.answer("/props", {"model_path": "m.gguf", "default_generation_settings": {"n_ctx": 4096}})
        server.answer("/v1/models", {"data": [{"meta": {}}]})
        server.answer("/tokenize", lambda body: {"tokens": self.model.tokenise(body["content"])})
        server.answer("/completion", self.complete)

    def complete(self, body: Any) -> Any:
        ids = [self.model.id(text) for text, _ in listed(LISTED_BY_LLAMA_CPP)]
        position = chat_position(LISTED_BY_LLAMA_CPP)
        entries = [entry | {"id": token} for entry, token in zip(objects(position["top_logprobs"]), ids, strict=True)]
        return [
            {
                "index": k,
                "tokens_evaluated": len(prompt),
                "completion_probabilities": [position | {"top_logprobs": entries}],
            }
            for k, prompt in enumerate(body["prompt"])
        ]


# --- 1: routes ----------------------------------------------------------------------------------------------------


def scripted(path: str, reply: Json) -> Callable[[ScriptedServer], None]:
    return lambda server: server.answer(path, reply)


ROOTS = {"openai": "/v1", "openai-compatible": "/v1", "gemini": "/v1beta"}
"""Where below the server's address a base address ends; else it is that."""
NAMED = ProviderSettings(model="m")
UNNAMED = ProviderSettings()


@dataclass(frozen=True, slots=True)
class Route:
    """One way to ask: the provider, its settings, the server behind it and the request."""

    name: str
    provider: str
    serve: Callable[[ScriptedServer], None]
    settings: ProviderSettings = NAMED
    request: Request[Any] = NEXT
    sent_fewer: int = 1
    """A round has so many times fewer of them."""

    async def open(self, url: str) -> Provider:
        return await open_provider(
            self.provider, replace(self.settings, base_url=url + ROOTS.get(self.provider, "")), {}
        )


def on(route: Any, **more: Any) -> ProviderSettings:
    return ProviderSettings(model="m", route=route, **more)


ROUTES = (
    Route("openai SDK, completions", "openai-compatible", scripted("/v1/completions", COMPLETION)),
    Route("openai SDK, chat", "openai", scripted("/v1/chat/completions", CHAT), on("chat")),
    Route("openai SDK, responses", "openai", scripted("/v1/responses", RESPONSE), on("responses")),
    Route("openai SDK, decisions", "openai", scripted("/v1/decisions", DECISION), on("decisions"), CHOICE),
    Route(
        "openai SDK, votes", "openai", scripted("/v1/chat/completions", with_choice(message=VOTE)), on("votes"), CHOICE
    ),
    Route(
        "openai SDK, echo of 256",
        "openai-compatible",
        scripted("/v1/completions", ECHO),
        on("completions", echo=True),
        SEQUENCE,
        LARGE,
    ),
    Route("together SDK, completions", "together", scripted("/v1/completions", COMPLETION)),
    Route("together SDK, chat", "together", scripted("/v1/chat/completions", CHAT), on("chat")),
    Route(
        "together SDK, echo of 256",
        "together",
        scripted("/v1/completions", TOGETHER_ECHO),
        request=SEQUENCE,
        sent_fewer=LARGE,
    ),
    Route("anthropic SDK, votes", "anthropic", scripted("/v1/messages", MESSAGE), request=CHOICE),
    Route("llama.cpp, 1,000 listed", "llama-cpp", LlamaCpp().serve, UNNAMED, sent_fewer=4),
    Route("vllm", "vllm", Vllm().serve, UNNAMED),
    Route("sglang", "sglang", Sglang().serve, UNNAMED),
    Route("tgi", "tgi", Tgi().serve, UNNAMED),
    Route("ollama", "ollama", Ollama(Learner(LABELS)).serve, ProviderSettings(model="tiny")),
    Route("gemini", "gemini", Gemini(Learner(LABELS)).serve),
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """One HTTP request and its reply. `document`: the body asked with, None for a GET."""

    path: str
    document: Json
    reply: bytes


class Recorder(ScriptedServer):
    """Remembers what it answered."""

    def __init__(self) -> None:
        super().__init__()
        self.exchanges: list[Exchange] = []

    def reply_to(self, asked: Asked) -> Any:
        answer = super().reply_to(asked)
        assert answer.status == 200, (asked.path, answer.body)
        self.exchanges.append(Exchange(asked.path, asked.body, http_reply(answer.payload, answer.headers)))
        return answer


async def recorded(route: Route) -> tuple[dict[str, bytes], list[Exchange]]:
    """A reply for everything that is asked on the route, and the exchanges of one request once those that are only
    needed at first (what server this is, how it tokenises) are behind."""
    server = Recorder()
    try:
        route.serve(server)
        adapter = await route.open(server.url)
        await adapter.send(route.request)
        before = len(server.exchanges)
        await adapter.send(route.request)
        await adapter.aclose()
    finally:
        server.close()
    return {asked(e.path, e.document): e.reply for e in server.exchanges}, server.exchanges[before:]


@asynccontextmanager
async def bare_loop(url: str, exchanges: Sequence[Exchange], concurrency: int) -> AsyncIterator[Ask]:
    """httpx2 and nothing else: post the same documents, decode the replies."""
    limits = httpx2.Limits(max_connections=concurrency)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits, trust_env=False) as http:

        async def ask(_: object) -> object:
            return [(await http.post(e.path, json=e.document)).raise_for_status().json() for e in exchanges]

        yield ask


async def route_costs(route: Route, amount: int, concurrency: int) -> tuple[Cost, Cost]:
    """Of a request through the bare loop and through the adapter."""
    replies, exchanges = await recorded(route)
    with loopback_server(replies) as url:
        adapter = await route.open(url)
        async with bare_loop(url, exchanges, concurrency) as bare:
            rounds: tuple[list[Cost], list[Cost]] = [], []
            for _ in range(1 + ROUNDS):  # the first opens connections
                for ask, costs in zip((bare, adapter.send), rounds, strict=True):
                    costs.append(await cost(ask, [route.request] * max(amount // route.sent_fewer, 2), concurrency))
        await adapter.aclose()
    return middle(rounds[0][1:]), middle(rounds[1][1:])


def route_row(route: Route, bare: Cost, ours: Cost) -> str:
    rates = f"{1e6 / bare.wall_us:.3g} | {1e6 / ours.wall_us:.3g} | {bare.wall_us / ours.wall_us:.2f}"
    return f"| {route.name} | {rates} | {bare.cpu_us:,.0f} | {ours.cpu_us:,.0f} | {ours.cpu_us / bare.cpu_us:.2f} |"


# --- 2: reading ---------------------------------------------------------------------------------------------------

READINGS: Mapping[str, tuple[Json, Callable[[Any], Any]]] = {
    "completions, 20 listed": (COMPLETION, lambda d: top_candidates(d["choices"][0]["logprobs"], HOST)),
    "chat, 20 listed": (CHAT, lambda d: top_candidates(d["choices"][0]["logprobs"], HOST)),
    "llama.cpp, 1,000 listed": (
        [chat_position(LISTED_BY_LLAMA_CPP)],
        lambda d: chat_candidates(d, HOST),
    ),
    f"echo, {EXAMPLES} examples": (ECHO, lambda d: echoed_positions(d["choices"][0]["logprobs"], SEQUENCE, HOST)),
    f"echo at Together, {EXAMPLES} examples": (
        TOGETHER_ECHO,
        lambda d: label_positions(d["prompt"][0]["logprobs"], SEQUENCE, HOST),
    ),
}


def cpu_ms(work: Callable[[], object], rounds: int = 15) -> float:
    """CPU time of one call, in the median round; a round lasts some milliseconds."""
    began = time.perf_counter()
    work()
    times = max(1, int(0.01 / (time.perf_counter() - began)))
    return median(_timed(work, times) for _ in range(rounds))


def _timed(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times * 1e3


def reading_row(name: str) -> str:
    document, read = READINGS[name]
    body = json.dumps(document).encode()
    response = httpx2.Response(200, content=body)
    works = (lambda: json.loads(body), lambda: HOST.document(response), lambda: read(document))
    return f"| {name} | {len(body) / 1e3:,.1f} | {' | '.join(f'{cpu_ms(work):.3g}' for work in works)} |"


# --- tables -------------------------------------------------------------------------------------------------------


def route_table(amount: int, concurrency: int, named: str = "") -> Iterator[str]:
    yield "| route | bare, requests/s | adapter, requests/s | of bare | bare, CPU µs | adapter, CPU µs | of bare |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for route in ROUTES:
        if named in route.name:
            yield route_row(route, *asyncio.run(route_costs(route, amount, concurrency)))


def reading_table() -> Iterator[str]:
    yield "| reply | kB | `json.loads`, ms | our decoding, ms | our reading of what is decoded, ms |"
    yield "|---|---:|---:|---:|---:|"
    yield from map(reading_row, READINGS)


def measure(amount: int = 200, concurrency: int = 8, named: str = "") -> None:
    """Print both tables."""
    print(f"Each route beside a bare loop over the same documents, concurrency {concurrency}\n")
    for line in chain(
        route_table(amount, concurrency, named), ["", "Reading alone, CPU time\n"], reading_table(), [""]
    ):
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.route_overhead")
    parser.add_argument("--requests", type=int, default=200, help="requests a round")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--route", default="", help="only routes with this in their name")
    chosen = parser.parse_args()
    measure(chosen.requests, chosen.concurrency, chosen.route)


if __name__ == "__main__":
    main()
