"""The edge: what HTTP can do wrong, told apart once and turned into the error tree.

Every HTTP adapter asks through a `BoundedClient` and reads replies through a `Host`, so that status codes, headers,
timeouts and broken bodies mean the same for every host.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic_core import from_json

from icm_api.errors import (
    AuthError,
    CapabilityError,
    ConfigError,
    ProviderError,
    RateLimitError,
    RequestError,
    RetryableError,
    TransientError,
)
from icm_api.types import Json, Usage

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_MESSAGE_CHARS = 500
MOST_DIGITS = 15
"""Of a number of tokens: what is longer is nonsense, and Python refuses to read thousands of digits."""
CONNECT_S = 10.0
"""A host that is up takes a connection within this time, however long it needs for a reply."""
LONGEST_RETRY_AFTER_S = 86_400.0
"""A host that asks for more than a day has sent nonsense: its wish is dropped and our own back-off holds."""
NO_KEY = "no-key"
"""Stands in for a key in vendors' SDKs, which without one refuse to start or look for one by themselves."""

_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "x-amzn-requestid", "cf-ray")
_NO_CREDIT = re.compile(
    r"insufficient[_ ](quota|credits?|balance|funds)|billing_hard_limit|out of credits"
    r"|credit balance is too low|exceeded your current quota",
    re.IGNORECASE,
)
_CONTEXT_OVERFLOW = re.compile(
    r"context_length_exceeded|exceed_context_size_error|maximum context length|exceeds the (available )?context"
    r"|context length exceeded|prompt is too long|`inputs` tokens \+ `max_new_tokens` must be",
    re.IGNORECASE,
)
_PROMPT_TOKENS = (
    re.compile(r"(\d+) (?:tokens )?in the (?:messages|prompt|input)"),
    re.compile(r"(?:resulted in|requested|request \(|contains|prompt is too long:) ?(\d+)"),
    re.compile(r"Given: (\d+) `inputs` tokens"),
)
_CONTEXT_TOKENS = (
    re.compile(r"maximum context length (?:is|of) (\d+)"),
    re.compile(r"context size \((\d+)"),
    re.compile(r"> ?(\d+) maximum"),
    re.compile(r"`max_new_tokens` must be <= (\d+)"),
)
_STATUS_BY_WORD = {
    "rate_limit": 429,
    "quota": 429,
    "overloaded": 529,
    "unavailable": 503,
    "server_error": 500,
    "internal": 500,
    "timeout": 408,
    "authentication": 401,
    "permission": 403,
}


# --- addresses and keys -----------------------------------------------------------------------------------


def is_loopback(base_url: str) -> bool:
    """Whether the address stays on this machine."""
    name = urlsplit(base_url).hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def checked_base_url(base_url: str) -> str:
    """The address without its trailing slash. Raises ConfigError unless it is a plain http(s) address: user names,
    queries and fragments are refused, for they may hold secrets and the address is stored."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"base_url must look like https://host/v1 (http or https), not {_without_secrets(base_url)!r}"
        )
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(
            f"base_url {_without_secrets(base_url)!r} must hold no user name, password, query or fragment: "
            "keys come from an environment variable (api_key_env)"
        )
    return base_url.rstrip("/")


def checked_api_key(api_key: str | None, base_url: str) -> str | None:
    """The key, when it may be sent there. Raises ConfigError, never showing the key."""
    if api_key is None:
        return None
    if not api_key.isascii() or not api_key.isprintable() or " " in api_key or not api_key:
        raise ConfigError("the API key is empty or holds blanks or non-ASCII characters: copy it again")
    if urlsplit(base_url).scheme == "http" and not is_loopback(base_url):
        raise ConfigError(f"an API key must not travel in clear text to {base_url}: use https")
    return api_key


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//...@", url).split("?")[0].split("#")[0]


# --- the client -------------------------------------------------------------------------------------------


class BodyTooLargeError(httpx2.RequestError):
    """The host sent more than MAX_BODY_BYTES."""


class BoundedClient(httpx2.AsyncClient):
    """An httpx2 client whose every exchange ends: in `timeout_s` seconds of wall time and MAX_BODY_BYTES of body
    (after decompression), and in `CONNECT_S` where no connection is made. Redirects are not followed, and a loopback
    host is never asked through a proxy."""

    def __init__(self, *, base_url: str, timeout_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(
            base_url=base_url,
            timeout=timeout_s,
            headers=headers,
            follow_redirects=False,
            trust_env=not is_loopback(base_url),
        )
        self._timeout_s = timeout_s

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send and read the whole body, even where a stream is asked for. httpx2's own timeout is per read, so a host
        that trickles needs this one."""
        options["stream"] = True
        limits_s = {**request.extensions.get("timeout", {}), "connect": min(CONNECT_S, self._timeout_s)}
        request.extensions = {**request.extensions, "timeout": limits_s}  # vendors' SDKs write their own
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await super().send(request, **options)
                try:
                    body = await _bounded_body(response)
                finally:
                    await response.aclose()
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"no complete reply in {self._timeout_s:g} s", request=request) from error
        return _with_body(response, body, request)


class ShieldedClient(BoundedClient):
    """A `BoundedClient` inside a vendor's SDK. Only method, address and body are the SDK's; the headers are this
    client's own, so nothing goes along that an SDK finds in the environment (keys, organisations, whole headers)."""

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        own = self.build_request(
            request.method,
            request.url,
            content=await request.aread(),
            headers={"Content-Type": _content_type(request)},
            extensions=request.extensions,
        )
        return await super().send(own, **options)


def _content_type(request: httpx2.Request) -> str:
    """JSON's, but for an uploaded form, where it also says how the parts are told apart."""
    stated = request.headers.get("content-type", "")
    return stated if stated.startswith("multipart/form-data; boundary=") else "application/json"


async def _bounded_body(response: httpx2.Response) -> bytes:
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"the reply is larger than {MAX_BODY_BYTES // 2**20} MB")
    return bytes(body)


def _with_body(response: httpx2.Response, body: bytes, request: httpx2.Request) -> httpx2.Response:
    transfer = {"content-encoding", "content-length", "transfer-encoding"}
    headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in transfer]
    return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


# --- the wish to wait -------------------------------------------------------------------------------------


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds the host asks to wait (`retry-after-ms`; `Retry-After` as seconds or an HTTP date, RFC 9110 section
    10.2.3; without either `x-ratelimit-reset`, which is Together's and in seconds; others write a time of day there,
    which is not sensible), or None when it asks nothing sensible. `now_s`: seconds since the epoch; header names in
    lower case unless the mapping ignores case."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return sensible_wait_s(milliseconds / 1000)
    stated = headers.get("retry-after", headers.get("x-ratelimit-reset"))
    seconds = _number(stated)
    return sensible_wait_s(seconds if seconds is not None else _seconds_until(stated, now_s))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _seconds_until(date: str | None, now_s: float) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() - now_s
    except (ValueError, OverflowError):
        return None


def sensible_wait_s(seconds: float | None) -> float | None:
    """The wait, or None where it is none or longer than `LONGEST_RETRY_AFTER_S`."""
    return seconds if seconds is not None and 0 <= seconds <= LONGEST_RETRY_AFTER_S else None


# --- what the host said -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """A host's error reply, in the parts that decide what it means."""

    status: int
    code: str
    """The host's own `code`, `type` and `error_type`, joined."""
    message: str
    prompt_tokens: int | None
    context_tokens: int | None
    location: str | None = None

    @classmethod
    def read(cls, status: int, document: Json, location: str | None = None) -> Refusal:
        """From a decoded body (a JSON document or plain text). An error that came with HTTP 200 (gateways do this
        once the model has started) gets the status it names."""
        error = _error_of(document)
        code = " ".join(str(error[key]) for key in ("code", "type", "error_type") if error.get(key) is not None)
        message = printable(error.get("message") or error.get("detail") or document)
        return cls(
            status=status if status >= 300 else _named_status(error.get("code"), code),
            code=code,
            message=message,
            prompt_tokens=_int(error.get("n_prompt_tokens")) or _first_number(_PROMPT_TOKENS, message),
            context_tokens=_int(error.get("n_ctx")) or _first_number(_CONTEXT_TOKENS, message),
            location=location,
        )

    @property
    def is_out_of_credit(self) -> bool:
        return self.status == 402 or bool(_NO_CREDIT.search(f"{self.code} {self.message}"))

    @property
    def is_context_overflow(self) -> bool:
        return self.status in (400, 403, 413, 422) and bool(_CONTEXT_OVERFLOW.search(f"{self.code} {self.message}"))

    @property
    def is_unknown_model(self) -> bool:
        said = f"{self.code} {self.message}".lower()
        return "model_not_found" in said or (self.status == 404 and "model" in said)

    @property
    def kind(self) -> type[ProviderError]:
        """Retrying is for what may pass; everything else is refused for good."""
        if self.is_context_overflow:
            return RequestError
        if self.status in (401, 403):
            return AuthError
        if self.status == 429:
            return RequestError if self.is_out_of_credit else RateLimitError
        if self.status in (408, 409) or (self.status >= 500 and self.status != 501):
            return TransientError
        return RequestError


def _error_of(document: Json) -> Mapping[str, Json]:
    if not isinstance(document, dict):
        return {}
    error = document.get("error", document)
    return error if isinstance(error, dict) else {"message": error, "code": document.get("code")}


def _named_status(code: Json, words: str) -> int:
    number = _int(code)
    if number is not None and 300 <= number < 600:
        return number
    return next((status for word, status in _STATUS_BY_WORD.items() if word in words.lower()), 400)


def printable(said: Json) -> str:
    """Bounded, on one line and without control characters: a host's text must not drive the user's terminal."""
    text = said if isinstance(said, str) else _json_text(said)
    line = " ".join(_unarmed(text[: 8 * MAX_MESSAGE_CHARS]).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[:MAX_MESSAGE_CHARS] + "..."


def _json_text(said: Json) -> str:
    try:
        return json.dumps(said)
    except RecursionError:  # writing takes more of Python's stack than reading
        return "something nested too deeply to show"


def _unarmed(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _int(value: Json) -> int | None:
    if isinstance(value, str):
        return whole_number(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _first_number(patterns: tuple[re.Pattern[str], ...], text: str) -> int | None:
    found = (pattern.search(text) for pattern in patterns)
    return next((int(match[1]) for match in found if match), None)


# --- the host ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Host:
    """Whom an adapter asks, and how its failures are told. Messages never show the key."""

    provider: str
    model: str
    base_url: str
    hint: str
    """What to do when nobody answers there."""
    api_key: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    """Seconds since the epoch, for a Retry-After that is a date."""
    models_path: str = "/models"
    """Where below `base_url` it may list its models."""

    def document(self, response: httpx2.Response) -> Json:
        """The decoded JSON body. Raises the fitting ProviderError for an error status, an error object in a 200
        reply, or a body that is not JSON."""
        if response.status_code >= 300:
            raise self.refusal(response.status_code, response.headers, decoded(response))
        try:
            document = _json(response.content)
        except (ValueError, RecursionError):
            raise self.error(TransientError, f"the reply of {self.base_url} is not complete JSON") from None
        if isinstance(document, dict) and (document.get("error") or document.get("object") == "error"):
            raise self.refusal(response.status_code, response.headers, document)
        return document

    def mapping(self, response: httpx2.Response) -> Mapping[str, Json]:
        """Like `document`, for routes that answer with one JSON object."""
        document = self.document(response)
        if not isinstance(document, dict):
            raise self.error(TransientError, f"{self.base_url} answered {printable(document)} instead of an object")
        return document

    async def mapping_by(self, sdk: Any, answer: Awaitable[Any]) -> Mapping[str, Json]:
        """Like `mapping`, of what a vendor's SDK (the module) is asked by `client.post(path, cast_to=Response)`.

        The SDKs document this for routes that they lack. Their own methods check every part of the body against its
        type, which for a chat of 33 turns takes ten times as long as the request (`benchmarks.route_overhead`), and
        build objects from the reply, on whose word nothing is taken here.
        """
        try:
            response = await answer
        except sdk.APIStatusError as error:
            response = error.response
        except sdk.APIConnectionError as error:
            raise self.unreachable(error.__cause__ or error) from None
        return self.mapping(response)

    def refusal(self, status: int, headers: Mapping[str, str], document: Json) -> ProviderError:
        """The error that an error reply means."""
        said = Refusal.read(status, document, headers.get("location"))
        request_id = next((headers[name] for name in _REQUEST_ID_HEADERS if name in headers), None)
        return self.error(
            said.kind,
            f"{self._headline(said)} (HTTP {said.status}): {said.message}",
            request_id=printable(request_id) if request_id else None,
            retry_after_s=retry_after_s(headers, self.clock()),
        )

    def unreachable(self, cause: BaseException) -> ProviderError:
        """The error for an exchange that broke before a whole reply had come."""
        if isinstance(cause, BodyTooLargeError):
            return self.error(RequestError, f"{cause}: ask for fewer candidates (top_k)")
        reason = printable(str(cause) or type(cause).__name__)
        if isinstance(cause, httpx2.TimeoutException) and not isinstance(cause, httpx2.ConnectTimeout):
            return self.error(
                TransientError,
                f"{self.base_url} did not answer in time ({reason}); if it needs longer, raise --timeout-s",
            )
        return self.error(TransientError, f"no answer from {self.base_url} ({reason}); {self.hint}")

    def incapable(self, message: str) -> CapabilityError:
        """The host answered, but without usable numbers."""
        return CapabilityError(self._shown(message), provider=self.provider, model=self.model)

    def error(
        self,
        kind: type[ProviderError],
        message: str,
        *,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> ProviderError:
        text = self._shown(message)
        if issubclass(kind, RetryableError):
            return kind(
                text, retry_after_s=retry_after_s, provider=self.provider, model=self.model, request_id=request_id
            )
        return kind(text, provider=self.provider, model=self.model, request_id=request_id)

    def _shown(self, message: str) -> str:
        """Without the key, and without what would drive the user's terminal: it may quote host or model."""
        text = _unarmed(message)
        return text.replace(self.api_key, "[key]") if self.api_key else text

    def _headline(self, said: Refusal) -> str:
        if said.is_context_overflow:
            return _overflow_text(said)
        if said.kind is RequestError and said.is_out_of_credit:
            return "the account has no credit left at the host"
        if said.is_unknown_model:
            listed = f"{self.base_url}{self.models_path}"
            return f"{self.base_url} has no model {self.model!r} (it may list its models at {listed})"
        if 300 <= said.status < 400:
            target = printable(_without_secrets(said.location or "elsewhere"))
            return (
                f"{self.base_url} redirects to {target}; redirects are not followed, set base_url to the final address"
            )
        if said.status == 404:
            return f"{self.base_url} has no such route; check base_url (and --route)"
        if said.kind is AuthError and self.api_key is None:
            return "the host wants a key and was sent none; name the variable that holds it by --api-key-env"
        return _HEADLINES.get(said.kind, "the host refused the request")


_HEADLINES: Mapping[type[ProviderError], str] = {
    AuthError: "the host refused the key; check the environment variable that --api-key-env names",
    RateLimitError: "the host asks for fewer requests",
    TransientError: "the host failed for now",
}


def _overflow_text(said: Refusal) -> str:
    tokens = f"{said.prompt_tokens} tokens" if said.prompt_tokens else "too many tokens"
    context = str(said.context_tokens) if said.context_tokens else "fewer"
    return f"the prompt has {tokens}, the context holds {context}: use fewer or shorter demonstrations"


def decoded(response: httpx2.Response) -> Json:
    """The body of an error reply: a JSON document, or the beginning of a text that is none."""
    try:
        return _json(response.content)
    except (ValueError, RecursionError):
        return response.content[: 8 * MAX_MESSAGE_CHARS].decode("utf-8", "replace")


def _json(body: bytes) -> Json:
    """The document, by a parser that takes a quarter of `json`'s time for the lists of a long echo. What that is too
    strict for (half of a surrogate pair, which can be a token) `json` may still read. Raises ValueError or
    RecursionError."""
    try:
        document: Json = from_json(body)
    except ValueError:
        document = json.loads(body)
    return document


# --- parts of replies -------------------------------------------------------------------------------------


def openai_usage(document: Mapping[str, Json]) -> Usage:
    """OpenAI's `usage` object; None for what is not stated. `prompt_tokens`, on newer routes `input_tokens`, includes
    the cached ones. Gateways send both names, with zeros under one: of numbers that differ those that cost more count.
    Together keeps `cached_tokens` beside `prompt_tokens`."""
    usage = document.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    details = [usage.get("prompt_tokens_details"), usage.get("input_tokens_details"), usage]
    cached = [count(place.get("cached_tokens")) for place in objects(details)]
    return Usage(
        max(_stated(usage, "prompt_tokens", "input_tokens"), default=None),
        min((tokens for tokens in cached if tokens is not None), default=None),
        max(_stated(usage, "completion_tokens", "output_tokens"), default=None),
    )


def _stated(usage: Mapping[str, Json], *names: str) -> list[int]:
    """The numbers of tokens under these names."""
    counts = (count(usage.get(name)) for name in names)
    return [tokens for tokens in counts if tokens is not None]


def whole_number(text: str) -> int | None:
    """A number written in digits alone, or None for anything else and for more than `MOST_DIGITS`."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else None


def count(value: Json) -> int | None:
    """A number of tokens as hosts state it, or None when they state none."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**MOST_DIGITS else None


def objects(value: Json) -> list[dict[str, Json]]:
    """Those of a list; none where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
