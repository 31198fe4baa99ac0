"""Anthropic's Messages API, through the `anthropic` SDK. It tells no log-probabilities, so it answers `ChoiceRequest`s.

The answer is held to one of the labels by `output_config` (a JSON schema) rather than by a forced tool: newer models
refuse forced tools, and demonstrations have the same shape as the answer. Other servers with this route (llama.cpp's)
pass over both; there the answer is as good as the model's obedience, and read strictly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

import httpx2

from icm_api.errors import RequestError
from icm_api.providers.choices import answer_schema, answer_tokens, cut_off, question, read_text, refused, replied
from icm_api.providers.http import NO_KEY, Host, ShieldedClient, checked_api_key, checked_base_url, count
from icm_api.types import Capabilities, ChoiceReply, ChoiceRequest, Json, Request, Usage

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

R = TypeVar("R")

ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
API_VERSION = "2026-10-21"
"""Sent as `anthropic-version`. It refuses `temperature` and its like: answers are drawn as the host does by default."""
ROUTE = "/v1/messages"
VENDORS_HOST = "api.anthropic.com"
_CACHED_UP_TO_HERE: dict[str, Json] = {"type": "ephemeral"}


class Anthropic:
    """A provider over one model of the Messages API.

    `base_url` ends before `/v1/messages`. Thinking is turned off; a model that cannot do without it refuses that (HTTP
    400). `timeout_s` bounds a whole exchange. `context_tokens`: the model's context when known. Raises ConfigError for
    an unusable address or key.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        timeout_s: float = 120,
        context_tokens: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        url = checked_base_url(base_url)
        self._host = Host(
            provider="anthropic",
            model=model,
            base_url=url,
            hint=f"check base_url and that the host is up: `curl {url}/v1/models`",
            models_path="/v1/models",
            api_key=checked_api_key(api_key, url),
            clock=clock,
        )
        self._context_tokens = context_tokens
        self._client = _sdk_client(self._host, timeout_s)

    @property
    def name(self) -> str:
        return self._host.provider

    @property
    def model(self) -> str:
        return self._host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        return {
            "adapter": "anthropic",
            "adapter_version": ADAPTER_VERSION,
            "api_version": API_VERSION,
            "base_url": self._host.base_url,
            "model": self.model,
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=False,
            max_top_k=None,
            continues_label=False,
            counts_tokens=False,
            plain_text_tokens=urlsplit(self._host.base_url).hostname == VENDORS_HOST,
            context_tokens=self._context_tokens,
            choices="votes",
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, ChoiceRequest):
            return cast(R, await self._choose(request))
        raise self._host.incapable(
            f"{self.name} tells no log-probabilities and cannot answer {request.kind!r} requests"
        )

    async def aclose(self) -> None:
        await self._client.close()

    async def _choose(self, request: ChoiceRequest) -> ChoiceReply:
        import anthropic

        body = {
            "model": self.model,
            "max_tokens": answer_tokens(request.labels),
            "thinking": {"type": "disabled"},
            "output_config": {"format": {"type": "json_schema", "schema": answer_schema(request.labels)}},
            **turns(request),
        }
        answer = self._client.post(ROUTE, cast_to=httpx2.Response, body=body)
        document = await self._host.mapping_by(anthropic, answer)
        model = document.get("model")
        served = model if isinstance(model, str) and model else self.model
        return replied(partial(self._shares, document, request), _usage(document.get("usage")), served)

    def _shares(self, document: Mapping[str, Json], request: ChoiceRequest) -> tuple[float, ...]:
        self._check_end(document, request)
        return read_text(_text(document), request, self._host)

    def _check_end(self, document: Mapping[str, Json], request: ChoiceRequest) -> None:
        """Raise unless the model ended its answer by itself."""
        reason = document.get("stop_reason")
        if reason == "refusal":
            raise refused(request, self._host, _refusal(document.get("stop_details")))
        if reason == "max_tokens":
            raise cut_off(self._host, "stop_reason max_tokens")
        if reason == "model_context_window_exceeded":
            raise self._host.error(
                RequestError, "the prompt fills the model's context: use fewer or shorter demonstrations"
            )
        if reason not in ("end_turn", "stop_sequence"):
            raise self._host.incapable(f"the answer ended with stop_reason {reason!r}, which no plain answer has")


def turns(request: ChoiceRequest) -> dict[str, Any]:
    """`system` and `messages` of the request. One cache breakpoint stands after the last demonstration: all before it
    is the same for every draw. (A prefix shorter than the model's minimum is not cached, without a word.)"""
    asked = question(request)
    system: dict[str, Any] = {"type": "text", "text": asked.system}
    shown = [turn for user, assistant in asked.shown for turn in (_turn("user", user), _turn("assistant", assistant))]
    last = shown[-1]["content"][0] if shown else system
    last["cache_control"] = _CACHED_UP_TO_HERE
    return {"system": [system], "messages": [*shown, _turn("user", asked.asked)]}


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _text(document: Mapping[str, Json]) -> str:
    content = document.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    return "".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")


def _refusal(details: Json) -> str:
    category = details.get("category") if isinstance(details, dict) else None
    return f"stop_reason refusal, category {category}" if category else "stop_reason refusal"


def _usage(usage: Json) -> Usage:
    """`input_tokens` leaves out what was read from the cache and what was written to it: a prompt is all three."""
    if not isinstance(usage, dict):
        return Usage()
    fresh, read, written = (
        count(usage.get(name)) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    )
    return Usage(
        prompt_tokens=None if fresh is None else fresh + (read or 0) + (written or 0),
        cached_tokens=read,
        output_tokens=count(usage.get("output_tokens")),
    )


def _sdk_client(host: Host, timeout_s: float) -> AsyncAnthropic:
    """The SDK without its retries (the client layer owns the only retry loop) and without tracing. It never holds the
    key, and whatever it picks up from the environment stays here."""
    from anthropic import AsyncAnthropic  # takes seconds to import, so only here

    key = {"x-api-key": host.api_key} if host.api_key else {}
    own = {"Accept": "application/json", "anthropic-version": API_VERSION, **key}
    return AsyncAnthropic(
        base_url=host.base_url,
        api_key=NO_KEY,
        max_retries=0,
        timeout=timeout_s,
        open_telemetry=False,
        http_client=ShieldedClient(base_url=host.base_url, timeout_s=timeout_s, headers=own),
    )
