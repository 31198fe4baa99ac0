"""What hosts and networks do wrong, over real sockets: each ends in the right answer or the right error, soon."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from icm_api.client import Client, Limits, RetryPolicy, build_client
from icm_api.errors import AuthError, CapabilityError, ProviderError, RateLimitError, RequestError, TransientError
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.types import NextTokenReply, NextTokenRequest, Prompt
from tests.faults.server import Fault, FaultServer, Reply, changed, good, gzip_bomb, refusal, share

POLICY = RetryPolicy(attempts=3)
KEY = "sk-secret"


@pytest.fixture
def host() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


class Waits:
    """Takes the place of sleeping between attempts, and remembers how long it would have been."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


def client(
    url: str,
    waits: Waits | None = None,
    *,
    cache: Path | None = None,
    timeout_s: float = 5.0,
    policy: RetryPolicy = POLICY,
) -> Client:
    adapter = OpenAICompatible(base_url=url, model="m", api_key=KEY, route="completions", timeout_s=timeout_s)
    return build_client(
        adapter, cache=cache, limits=Limits(), retry_policy=policy, max_concurrency=8, sleep=waits or Waits()
    )


def ask(query: str = "Is water wet?") -> NextTokenRequest:
    return NextTokenRequest(Prompt(query), (" True", " False"))


def is_right(reply: NextTokenReply, query: str = "Is water wet?") -> bool:
    true = next(c.logprob_nats for c in reply.candidates if c.text == " True")
    return math.isclose(math.exp(true), 0.99 * share(query), rel_tol=1e-9)


async def error_of(asked: Client) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await asked.provider.send(ask())
    await asked.aclose()
    assert KEY not in str(caught.value)
    return caught.value


def cut(body: Mapping[str, Any]) -> Reply:
    return Reply(good(body), sent_bytes=80, end="reset")


def truncated(body: Mapping[str, Any]) -> Reply:
    """Whole by its length, but no whole JSON."""
    return Reply(Reply(good(body)).payload[:80])


def dripping(body: Mapping[str, Any]) -> Reply:
    return Reply(good(body), drip_s=0.05)


HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"

PASSING: Mapping[str, tuple[Fault, type[ProviderError]]] = {
    "429": (refusal(429, "slow down"), RateLimitError),
    "429 in a 200": (Reply({"error": {"message": "slow down", "code": 429}}), RateLimitError),
    "500": (refusal(500), TransientError),
    "502": (refusal(502), TransientError),
    "503": (refusal(503), TransientError),
    "504": (refusal(504), TransientError),
    "529": (refusal(529, "overloaded"), TransientError),
    "500 in a 200": (Reply({"error": {"message": "upstream failed", "code": 500}}), TransientError),
    "closed without a word": (Reply(silent=True), TransientError),
    "reset without a word": (Reply(silent=True, end="reset"), TransientError),
    "reset in mid-body": (cut, TransientError),
    "slow drip": (dripping, TransientError),
    "hang before the status": (Reply(silent=True, end="hang"), TransientError),
    "hang in mid-body": (lambda body: Reply(good(body), sent_bytes=80, end="hang"), TransientError),
    "truncated JSON": (truncated, TransientError),
    "invalid JSON": (Reply(b'{"choices": [}'), TransientError),
    "an empty body": (Reply(b""), TransientError),
    "an HTML page with 502": (Reply(HTML, 502, content_type="text/html"), TransientError),
    "an HTML page with 200": (Reply(HTML, content_type="text/html"), TransientError),
    "a list where an object belongs": (Reply(b"[1, 2]"), TransientError),
    "bytes that are no text": (Reply(bytes(range(128, 256))), TransientError),
    "a body that is no gzip": (Reply(b"{}", headers={"Content-Encoding": "gzip"}), TransientError),
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_is_asked_again_and_answered_right(host, name):
    fault, _ = PASSING[name]
    host.once(fault)
    asked = client(host.url, timeout_s=0.3)
    reply = await asked.provider.send(ask())
    await asked.aclose()
    assert is_right(reply)
    assert (len(host.prompts), asked.snapshot().retries) == (2, 1)


@pytest.mark.parametrize("name", PASSING)
async def test_what_does_not_pass_ends_after_the_attempts_allowed_with_an_error_of_its_kind(host, name):
    fault, kind = PASSING[name]
    host.always(fault)
    asked = client(host.url, timeout_s=0.15)
    error = await error_of(asked)
    assert type(error) is kind
    assert f"gave up after {POLICY.attempts} attempts" in str(error)
    assert len(host.prompts) == POLICY.attempts
    assert asked.snapshot().requests == POLICY.attempts


async def test_a_port_at_which_nobody_listens_is_told_with_what_to_do():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = await error_of(client(f"http://127.0.0.1:{port}/v1"))
    assert type(error) is TransientError
    assert "check base_url and that the host is up" in str(error)


# --- how long to wait ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "low_s", "high_s"),
    [
        ({}, 0.0, 1.0),
        ({"retry_after": "7"}, 7.0, 7.0),
        ({"retry_after": "0.5"}, 0.5, 1.0),
        ({"retry_after_ms": "2500"}, 2.5, 2.5),
        ({"retry_after": "date"}, 7.0, 10.0),
        ({"retry_after": "1e9"}, 0.0, 1.0),
        ({"retry_after": "-5"}, 0.0, 1.0),
        ({"retry_after": "nan"}, 0.0, 1.0),
        ({"retry_after": "soon"}, 0.0, 1.0),
        ({"retry_after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 0.0, 1.0),
    ],
)
async def test_a_host_is_obeyed_when_it_says_how_long_to_wait_unless_that_is_absurd(host, headers, low_s, high_s):
    given = {k: formatdate(time.time() + 9, usegmt=True) if v == "date" else v for k, v in headers.items()}
    host.once(refusal(429, "slow down", **given))
    waits = Waits()
    asked = client(host.url, waits)
    assert is_right(await asked.provider.send(ask()))
    await asked.aclose()
    (waited,) = waits.seconds
    assert low_s <= waited <= high_s


async def test_a_host_that_asks_for_an_hour_ends_the_request_at_once(host):
    host.always(refusal(429, "slow down", retry_after="3600"))
    error = await error_of(client(host.url))
    assert isinstance(error, RateLimitError)
    assert (error.retry_after_s, len(host.prompts)) == (3600.0, 1)


# --- what is refused for good -------------------------------------------------------------------------------------


def listing(**values: Any) -> Callable[[Mapping[str, Any]], Reply]:
    """A healthy reply whose list of candidates holds these instead."""
    named = {f" {name}": value for name, value in values.items()}
    return lambda body: changed(body, logprobs={"top_logprobs": [named]})


FINAL: Mapping[str, tuple[Fault, type[ProviderError], str]] = {
    "an expired key": (refusal(401, "expired"), AuthError, "check the environment variable"),
    "a key without the right": (refusal(403, "forbidden"), AuthError, "refused the key"),
    "no credit": (refusal(402, "pay first"), RequestError, "402"),
    "a quota that is used up": (refusal(429, "quota", code="insufficient_quota"), RequestError, "429"),
    "a model that is gone": (refusal(404, "The model `m` does not exist", code="model_not_found"), RequestError, "'m'"),
    "a prompt too long": (refusal(400, "maximum context length is 10 tokens"), RequestError, "demonstrations"),
    "a 400 in a 200": (Reply({"error": {"message": "bad parameter", "code": 400}}), RequestError, "bad parameter"),
    "empty choices": (lambda body: Reply(good(body) | {"choices": []}), CapabilityError, "no choices"),
    "no choices": (Reply({"object": "text_completion"}), CapabilityError, "no choices"),
    "no log-probs": (lambda body: changed(body, logprobs=None), CapabilityError, "log-prob"),
    "an empty list": (listing(), CapabilityError, "log-prob"),
    "a NaN": (
        lambda body: Reply(Reply(changed(body).body).payload.replace(b'" maybe": -5', b'" maybe": NaN, "": -5')),
        CapabilityError,
        "nan as a log-probability",
    ),
    "a null": (listing(True_=-0.1, False_=None), CapabilityError, "None as a log-probability"),
    "a probability where its logarithm belongs": (listing(a=0.7, b=0.3), CapabilityError, "above 0"),
    "sentinels": (listing(a=-9999.0, b=-9999.0), CapabilityError, "stand-ins"),
    "a list made after sampling": (listing(a=0.0, b=-9999.0), CapabilityError, "stand-ins"),
    "more than all of the probability": (listing(a=-0.1, b=-0.2, c=-0.3), CapabilityError, "more than all"),
    "a gzip bomb": (lambda _: gzip_bomb(200), RequestError, "larger than 64 MB"),
}


@pytest.mark.parametrize("name", FINAL)
async def test_what_will_not_pass_is_told_at_once_and_never_asked_again(host, name):
    fault, kind, words = FINAL[name]
    host.always(fault)
    error = await error_of(client(host.url))
    assert type(error) is kind
    assert words in str(error)
    assert len(host.prompts) == 1


async def test_a_redirect_is_refused_and_neither_question_nor_key_reach_the_other_host(host):
    other = FaultServer()
    try:
        for status in (301, 302, 307, 308):
            host.always(Reply(b"", status, {"Location": f"{other.url}/completions?key=abc"}))
            error = await error_of(client(host.url))
            assert type(error) is RequestError
            assert f"redirects to {other.url}/completions; redirects are not followed" in str(error)
        assert (len(host.prompts), other.prompts) == (4, [])
    finally:
        other.close()


# --- what is odd and still right ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda body: Reply(good(body), content_type="text/plain"), id="wrong content type"),
        pytest.param(lambda body: Reply(good(body) | {"id": None}), id="no id"),
        pytest.param(lambda body: Reply(good(body) | {"junk": "x" * 5_000_000}), id="five megabytes"),
        pytest.param(lambda body: Reply(good(body), status=201), id="status 201"),
    ],
)
async def test_a_reply_that_is_odd_but_whole_is_read(host, odd):
    host.always(odd)
    asked = client(host.url)
    assert is_right(await asked.provider.send(ask()))
    await asked.aclose()


async def test_replies_in_another_order_and_with_the_same_id_stay_with_their_questions(host):
    host.fault = lambda number: lambda body: Reply(good(body), delay_s=0.02 * (7 - number % 8))
    asked = client(host.url)
    queries = [f"question {number}" for number in range(40)]
    replies = await asyncio.gather(*(asked.provider.send(ask(query)) for query in queries))
    await asked.aclose()
    assert all(is_right(reply, query) for reply, query in zip(replies, queries, strict=True))


# --- in mid-run ---------------------------------------------------------------------------------------------------

MID_RUN = ("an expired key", "a quota that is used up", "a model that is gone", "no log-probs")


@pytest.mark.parametrize("name", MID_RUN)
async def test_what_ends_a_run_in_the_middle_keeps_every_reply_that_was_paid_for(host, tmp_path, name):
    fault, kind, _ = FINAL[name]
    host.from_the(10, fault)
    queries = [f"question {number}" for number in range(30)]
    asked = client(host.url, cache=tmp_path)
    outcomes = await asyncio.gather(*(asked.provider.send(ask(query)) for query in queries), return_exceptions=True)
    await asked.aclose()
    assert {type(outcome) for outcome in outcomes} == {NextTokenReply, kind}

    host.always(None)
    before = list(host.answered)
    again = client(host.url, cache=tmp_path)
    replies = await asyncio.gather(*(again.provider.send(ask(query)) for query in queries))
    await again.aclose()
    assert all(is_right(reply, query) for reply, query in zip(replies, queries, strict=True))
    assert len(before) == 10
    assert sorted(host.answered) == sorted(queries), "no question is answered, and so paid for, twice"


async def test_a_host_that_goes_down_in_mid_run_ends_it_soon_and_clearly(host):
    host.from_the(10, Reply(silent=True, end="reset"))
    asked = client(host.url, policy=RetryPolicy(attempts=4))

    async def work(first: int) -> None:
        for number in range(first, first + 50):
            await asked.provider.send(ask(f"question {number}"))

    outcomes = await asyncio.gather(*(work(100 * k) for k in range(8)), return_exceptions=True)
    await asked.aclose()
    assert all(isinstance(outcome, ProviderError) for outcome in outcomes)
    assert any("the host is down or not reachable" in str(outcome) for outcome in outcomes)
    assert len(host.prompts) < 10 + 8 * 4
