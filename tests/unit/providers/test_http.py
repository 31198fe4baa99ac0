"""The edge: every way HTTP can fail has one meaning."""

import gzip
import io
import json
import math
from typing import Any

import httpx2
import pytest

from icm_api.errors import (
    AuthError,
    ConfigError,
    ProviderError,
    RateLimitError,
    RequestError,
    RetryableError,
    TransientError,
)
from icm_api.providers import http
from icm_api.providers.http import (
    BoundedClient,
    Host,
    checked_api_key,
    checked_base_url,
    count,
    openai_usage,
    retry_after_s,
)
from icm_api.types import Usage

KEY = "sk-very-secret-0123456789"
NOW_S = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def a_host(**changes: Any) -> Host:
    settings: dict[str, Any] = {
        "provider": "p",
        "model": "m",
        "base_url": "http://127.0.0.1:9/v1",
        "hint": "start it",
        "api_key": KEY,
        "clock": lambda: NOW_S,
    }
    return Host(**(settings | changes))


def refusal(status: int, error: Any, headers: Any = None) -> ProviderError:
    body = error if isinstance(error, str) else {"error": error}
    return a_host().refusal(status, headers or {}, body)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, RequestError),
        (400, RequestError),
        (401, AuthError),
        (402, RequestError),
        (403, AuthError),
        (404, RequestError),
        (408, TransientError),
        (409, TransientError),
        (413, RequestError),
        (422, RequestError),
        (429, RateLimitError),
        (500, TransientError),
        (501, RequestError),
        (502, TransientError),
        (503, TransientError),
        (504, TransientError),
        (529, TransientError),
    ],
)
def test_each_status_has_one_meaning(status, kind):
    assert type(refusal(status, {"message": "because"})) is kind


@pytest.mark.parametrize(
    "error",
    [
        {"code": "insufficient_quota", "message": "You exceeded your current quota"},
        {"type": "insufficient_quota", "message": "no"},
        {"code": 429, "message": "Your credit balance is too low"},
    ],
)
def test_a_429_without_credit_is_not_retried(error):
    assert type(refusal(429, error)) is RequestError


def test_an_account_without_credit_is_told_so():
    error = refusal(402, {"message": "Payment required"})
    assert type(error) is RequestError
    assert "no credit left" in str(error)


def test_a_rate_limit_that_advertises_credits_is_still_retried():
    message = "Rate limit exceeded: free models. Add 10 credits to unlock 1000 requests per day"
    assert type(refusal(429, {"message": message})) is RateLimitError


def test_the_message_holds_the_hosts_own_words_and_the_request_id():
    error = refusal(500, {"message": "the GPU is on fire"}, {"x-request-id": "req-7"})
    assert "the GPU is on fire" in str(error)
    assert error.request_id == "req-7"
    assert error.provider == "p"
    assert error.model == "m"


def test_a_hosts_message_is_bounded_and_cannot_drive_the_terminal():
    text = str(refusal(500, "\x1b[31mred\r\n" + "x" * 10_000))
    assert "\x1b" not in text
    assert "\n" not in text
    assert len(text) < 1_000


def test_the_key_is_never_shown_even_when_the_host_repeats_it():
    error = refusal(401, {"message": f"Incorrect API key provided: {KEY}"})
    assert KEY not in str(error)
    assert KEY not in repr(a_host())


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"x-ratelimit-reset": "12.5"}, 12.5),
        ({"retry-after": "7", "x-ratelimit-reset": "12.5"}, 7.0),
        ({"x-ratelimit-reset": "1700000060"}, None),
        ({"x-ratelimit-reset": "6m0s"}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
    ],
)
def test_the_wish_to_wait_is_read_in_every_form_and_nonsense_is_dropped(headers, wait):
    assert retry_after_s(headers, NOW_S) == wait


def test_a_rate_limit_carries_the_wish_to_wait():
    error = refusal(429, {"message": "slow down"}, {"retry-after": "12"})
    assert isinstance(error, RetryableError)
    assert error.retry_after_s == 12.0


@pytest.mark.parametrize(
    "error",
    [
        {"type": "exceed_context_size_error", "message": "too big", "n_prompt_tokens": 9000, "n_ctx": 8192},
        {
            "code": "context_length_exceeded",
            "message": "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 "
            "tokens. Please reduce the length of the messages.",
        },
        {
            "message": "This model's maximum context length is 8192 tokens. However, you requested 9001 tokens "
            "(9000 in the messages, 1 in the completion)."
        },
    ],
)
def test_a_prompt_too_long_is_told_in_numbers(error):
    raised = refusal(400, error)
    assert type(raised) is RequestError
    assert "prompt has 9000 tokens, the context holds 8192" in str(raised)


def test_an_unknown_model_is_named():
    raised = refusal(404, {"code": "model_not_found", "message": "The model does not exist"})
    assert type(raised) is RequestError
    assert "no model 'm'" in str(raised)


def test_a_missing_route_says_to_check_the_address():
    assert "check base_url" in str(refusal(404, "<html>not here</html>"))


def test_a_redirect_names_its_target_but_no_secret_in_it():
    text = str(refusal(302, "", {"location": "https://user:pw@elsewhere.example/v1?token=abc"}))
    assert "elsewhere.example/v1" in text
    assert "pw" not in text
    assert "abc" not in text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429, "message": "busy"}, RateLimitError),
        ({"code": 402, "message": "no credits"}, RequestError),
        ({"code": "rate_limit_exceeded", "message": "busy"}, RateLimitError),
        ({"type": "overloaded_error", "message": "busy"}, TransientError),
        ({"type": "server_error", "message": "oops"}, TransientError),
        ({"message": "who knows"}, RequestError),
        ("plain words", RequestError),
    ],
)
def test_an_error_inside_a_200_reply_is_an_error(error, kind):
    with pytest.raises(kind):
        a_host().document(httpx2.Response(200, json={"error": error}))


@pytest.mark.parametrize("body", [b"", b"{", b'{"a": 1', b"<html>", b"\xff", b"[" * 100_000])
def test_a_broken_body_is_transient(body):
    with pytest.raises(TransientError):
        a_host().document(httpx2.Response(200, content=body))


@pytest.mark.parametrize("body", [b"null", b"[]", b"3"])
def test_a_reply_that_is_no_object_is_refused(body):
    with pytest.raises(TransientError):
        a_host().mapping(httpx2.Response(200, content=body))


@pytest.mark.parametrize(
    "body",
    [
        b'{"half of a pair": "\\ud83d", "whole": "\\ud83d\\ude00"}',
        b'{"a": NaN, "b": -Infinity, "c": 1e999, "d": -0, "e": -0.0}',
        b'{"a": -0.12345678901234567, "b": 5e-324, "c": 1.7976931348623157e308}',
        b'{"a": 1, "a": 2, "many digits": ' + b"9" * 400 + b"}",
        '{"a": "ü"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a": 1}',
        b'{"deep": ' + b"[" * 300 + b"]" * 300 + b"}",
    ],
)
def test_an_odd_document_is_read_as_the_standard_library_reads_it(body):
    assert repr(a_host().document(httpx2.Response(200, content=body))) == repr(json.loads(body))


def test_an_unreachable_host_is_transient_and_says_where_and_what_to_do():
    error = a_host().unreachable(httpx2.ConnectError("connection refused"))
    assert type(error) is TransientError
    assert "http://127.0.0.1:9/v1" in str(error)
    assert "start it" in str(error)


async def test_a_host_that_never_answers_ends_in_a_timeout(server, answer):
    server.answer("/slow", answer(hold=True))
    async with BoundedClient(base_url=server.url, timeout_s=0.05) as client:
        with pytest.raises(httpx2.TimeoutException) as caught:
            await client.get("/slow")
    assert type(a_host().unreachable(caught.value)) is TransientError


@pytest.mark.parametrize(("timeout_s", "connect_s"), [(600, 10.0), (3, 3)])
async def test_a_connection_has_less_time_than_the_exchange_whatever_an_sdk_says(monkeypatch, timeout_s, connect_s):
    allowed = []

    async def handle(_: Any, request: httpx2.Request) -> httpx2.Response:
        allowed.append(request.extensions["timeout"])
        return httpx2.Response(200, content=b"{}")

    monkeypatch.setattr(httpx2.AsyncHTTPTransport, "handle_async_request", handle)
    async with BoundedClient(base_url="http://127.0.0.1:9", timeout_s=timeout_s) as client:
        await client.get("/")
        await client.get("/", timeout=900)
    assert [each["connect"] for each in allowed] == [connect_s, connect_s]
    assert [each["read"] for each in allowed] == [timeout_s, 900]


def test_a_connection_that_is_not_made_in_time_does_not_ask_for_a_longer_timeout():
    error = a_host().unreachable(httpx2.ConnectTimeout("timed out"))
    assert "no answer from" in str(error)
    assert "--timeout-s" not in str(error)


async def test_a_body_beyond_the_bound_is_refused_even_when_it_is_compressed(server, answer, monkeypatch):
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 1024 * 1024)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb") as file:
        file.write(b" " * 3 * 1024 * 1024)
    server.answer("/bomb", answer(packed.getvalue(), headers={"Content-Encoding": "gzip"}))
    async with BoundedClient(base_url=server.url, timeout_s=5) as client:
        with pytest.raises(http.BodyTooLargeError) as caught:
            await client.get("/bomb")
    assert type(a_host().unreachable(caught.value)) is RequestError


async def test_a_compressed_body_is_read(server, answer):
    server.answer("/packed", answer(gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"}))
    async with BoundedClient(base_url=server.url, timeout_s=5) as client:
        assert (await client.get("/packed")).json() == {"a": 1}


async def test_a_body_shorter_than_promised_is_no_reply(server, answer):
    server.answer("/cut", answer(b'{"a": 1}', claimed_length=100))
    async with BoundedClient(base_url=server.url, timeout_s=5) as client:
        with pytest.raises(httpx2.RequestError):
            await client.get("/cut")


async def test_a_loopback_host_is_not_asked_through_a_proxy(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.answer("/here", {"ok": True})
    async with BoundedClient(base_url=server.url, timeout_s=5) as client:
        assert (await client.get("/here")).json() == {"ok": True}


@pytest.mark.parametrize(
    "url",
    ["", "localhost:8080", "ftp://host/v1", "https://", "http://host:notaport", "https://[::1", "file:///etc/passwd"],
)
def test_an_address_that_is_not_http_is_refused(url):
    with pytest.raises(ConfigError, match="base_url must look like"):
        checked_base_url(url)


@pytest.mark.parametrize(
    "url", ["https://user:hunter2@host/v1", "https://host/v1?key=hunter2", "https://host/#hunter2"]
)
def test_an_address_that_may_hold_a_secret_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError) as caught:
        checked_base_url(url)
    assert "hunter2" not in str(caught.value)


def test_an_address_loses_its_trailing_slash():
    assert checked_base_url("https://host/v1/") == "https://host/v1"


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8080", "https://far.example"])
def test_a_key_may_go_to_this_machine_or_over_https(url):
    assert checked_api_key(KEY, url) == KEY


@pytest.mark.parametrize("url", ["http://far.example/v1", "http://10.0.0.3:8000", "http://127.0.0.1.far.example"])
def test_a_key_never_travels_in_clear_text(url):
    with pytest.raises(ConfigError, match="https") as caught:
        checked_api_key(KEY, url)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["", "with blank", "line\nbreak", "smart’quote"])
def test_a_mangled_key_is_refused_without_showing_it(key):
    with pytest.raises(ConfigError) as caught:
        checked_api_key(key, "https://far.example")
    assert key == "" or key not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "tokens"), [(3, 3), (3.0, 3), (None, None), (-1, None), (True, None), (math.nan, None)]
)
def test_a_token_count_is_a_number_or_unknown(value, tokens):
    assert count(value) == tokens


@pytest.mark.parametrize(
    ("stated", "usage"),
    [
        ({"prompt_tokens": 1200, "completion_tokens": 5, "input_tokens": 0, "output_tokens": 0}, Usage(1200, None, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 0, "input_tokens": 1200, "output_tokens": 5}, Usage(1200, None, 5)),
        ({"prompt_tokens": 1200, "completion_tokens": 5, "input_tokens": None}, Usage(1200, None, 5)),
        ({"prompt_tokens": None, "input_tokens": 1200, "output_tokens": 5}, Usage(1200, None, 5)),
        ({"input_tokens": 9, "prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}, Usage(9, 4, None)),
        (
            {
                "input_tokens": 9,
                "prompt_tokens_details": {"cached_tokens": 4},
                "input_tokens_details": {"cached_tokens": 8},
            },
            Usage(9, 4, None),
        ),
        ({"prompt_tokens": 9, "cached_tokens": 4, "prompt_tokens_details": None}, Usage(9, 4, None)),
        ({}, Usage()),
    ],
)
def test_of_the_two_names_for_tokens_the_one_that_costs_more_counts(stated, usage):
    assert openai_usage({"usage": stated}) == usage
