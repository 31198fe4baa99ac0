"""Together AI, through the `together` SDK: base and instruct models as completions, instruct models as chat.

One request, one generated token, `temperature` 0. With `top_p` the host has reported 0 for every token
(github.com/togethercomputer/together-python/issues/250), so no other sampling parameter is sent. Echo answers for a
whole sequence of labels: the prompt's log-probs stand apart from the generated token's, as `prompt[0].logprobs` beside
`choices[0].logprobs`. Each has one of two shapes by model (`icm_api.providers.listed`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import httpx

from icm_api.errors import ConfigError
from icm_api.providers.choices import one_word, refuse_continuation
from icm_api.providers.echo import ignored, label_positions
from icm_api.providers.http import NO_KEY, BoundedClient, Host, checked_api_key, checked_base_url, openai_usage
from icm_api.providers.listed import as_continuation, floor_nats, top_candidates
from icm_api.providers.openai_routes import chat_messages
from icm_api.types import (
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Position,
    Request,
    SequenceReply,
    SequenceRequest,
)

if TYPE_CHECKING:
    from together import AsyncTogether

R = TypeVar("R")
Route = Literal["completions", "chat"]

ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
BASE_URL = "https://api.together.ai/v1"
MAX_TOP_K = 20
"""Of `logprobs` (together SDK 3.1, `types/completion_create_params`)."""
_VERSION_PATH = "/v1"
"""Every path of the SDK begins with it."""


class Together:
    """A provider over one model at Together.

    `base_url` may end in `/v1` or before it. `top_k`: candidates to ask for, at most 20. `timeout_s` bounds a whole
    exchange. `context_tokens`: the model's context when known. `echo`: ask for whole sequences; None: on the
    completions route, where every model should answer them (one that does not is caught). Raises ConfigError for an
    unusable setting, address or key.
    """

    def __init__(
        self,
        *,
        model: str,
        api_key: str | None,
        base_url: str = BASE_URL,
        route: Route = "completions",
        top_k: int = MAX_TOP_K,
        timeout_s: float = 120,
        context_tokens: int | None = None,
        echo: bool | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        _check(route, top_k, echo)
        url = checked_base_url(base_url).removesuffix(_VERSION_PATH) + _VERSION_PATH
        self._host = Host(
            provider="together",
            model=model,
            base_url=url,
            hint="check base_url and https://status.together.ai",
            api_key=checked_api_key(api_key, url),
            clock=clock,
        )
        self._route = route
        self._top_k = top_k
        self._context_tokens = context_tokens
        self._echo = route == "completions" if echo is None else echo
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
            "adapter": "together",
            "adapter_version": ADAPTER_VERSION,
            "base_url": self._host.base_url,
            "model": self.model,
            "route": self._route,
            "top_k": self._top_k,
            "temperature": 0,
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=False,
            max_top_k=self._top_k,
            continues_label=self._route == "completions",
            counts_tokens=False,
            plain_text_tokens=False,
            context_tokens=self._context_tokens,
            prompt_logprobs=self._echo,
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest):
            return cast(R, await self._next_token(request))
        if isinstance(request, SequenceRequest) and self._echo:
            return cast(R, await self._sequence(request))
        raise self._host.incapable(f"{self.name} cannot answer {request.kind!r} requests on route {self._route}")

    async def aclose(self) -> None:
        await self._client.close()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        chat = self._route == "chat"
        document = await (self._chat(request) if chat else self._completion(request.prompt.text + request.continuation))
        candidates = top_candidates(_generated(document, self._host), self._host)
        if chat:
            candidates = tuple(map(as_continuation, candidates))
        return NextTokenReply(candidates, floor_nats(candidates), openai_usage(document), self._served(document))

    async def _sequence(self, request: SequenceRequest) -> SequenceReply:
        document = await self._completion(request.prompt.text, echo=True)
        labels = label_positions(_echoed(document, self._host), request, self._host)
        after = top_candidates(_generated(document, self._host), self._host)
        positions = (*labels, Position(after, floor_nats(after)))
        return SequenceReply(positions, openai_usage(document), self._served(document))

    def _served(self, document: Mapping[str, Json]) -> str:
        model = document.get("model")
        return model if isinstance(model, str) and model else self.model

    async def _completion(self, prompt: str, **more: Json) -> Mapping[str, Json]:
        if not prompt:
            raise ValueError("an empty prompt has no next token")
        return await self._asked("completions", prompt=prompt, **more)

    async def _chat(self, request: NextTokenRequest) -> Mapping[str, Json]:
        refuse_continuation(request, self._host, "or --route completions")
        messages = chat_messages(request.prompt, one_word(request.prompt, request.wanted))
        return await self._asked("chat/completions", messages=messages)

    async def _asked(self, path: str, **more: Any) -> Mapping[str, Json]:
        """The reply to a request for one token."""
        import together

        body = {"model": self.model, "max_tokens": 1, "temperature": 0, "logprobs": self._top_k, **more}
        answer = self._client.post(f"{_VERSION_PATH}/{path}", cast_to=httpx.Response, body=body)
        return await self._host.mapping_by(together, answer)


def _check(route: str, top_k: int, echo: bool | None) -> None:
    if route not in ("completions", "chat"):
        raise ConfigError(f"provider 'together' has the routes completions and chat, not {route!r}")
    if not 1 <= top_k <= MAX_TOP_K:
        raise ConfigError(f"together lists 1 to {MAX_TOP_K} candidates (top_k), not {top_k}")
    if echo and route != "completions":
        raise ConfigError("echo (prompt log-probs) needs --route completions: a chat echo is the host's own template")


def _generated(document: Mapping[str, Json], host: Host) -> Json:
    """The `logprobs` of the generated token. Chat choices may keep the list of candidates beside it."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise host.incapable("the reply has no choices, so no next token to score")
    logprobs = choice.get("logprobs")
    if isinstance(logprobs, dict) and not logprobs.get("top_logprobs"):
        return {**logprobs, "top_logprobs": choice.get("top_logprobs")}
    return logprobs


def _echoed(document: Mapping[str, Json], host: Host) -> Json:
    """The `logprobs` of the echoed prompt. Without echo the host sends an empty list of prompts."""
    prompts = document.get("prompt")
    prompt = prompts[0] if isinstance(prompts, list) and len(prompts) == 1 else None
    if not isinstance(prompt, dict) or not prompt.get("logprobs"):
        raise ignored(host)
    return prompt["logprobs"]


class _BoundedTransport(httpx.AsyncBaseTransport):
    """Sends what the SDK asks through a `BoundedClient`: the same bounds and rules as for every host.

    Only method, address and body are the SDK's. The headers are ours, so nothing goes along that it finds in the
    environment (TOGETHER_CUSTOM_HEADERS could even replace the key), and it never holds the key.
    """

    def __init__(self, host: Host, timeout_s: float) -> None:
        key = {"Authorization": f"Bearer {host.api_key}"} if host.api_key else {}
        headers = {"Content-Type": "application/json", **key}
        self._client = BoundedClient(base_url=host.base_url, timeout_s=timeout_s, headers=headers)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._client.request(request.method, str(request.url), content=await request.aread())
        return httpx.Response(answer.status_code, headers=answer.headers.multi_items(), content=answer.content)

    async def aclose(self) -> None:
        await self._client.aclose()


def _sdk_client(host: Host, timeout_s: float) -> AsyncTogether:
    """The SDK without its retries: the client layer owns the only retry loop. `trust_env` would let a proxy of the
    environment replace our transport."""
    from together import AsyncTogether  # takes long to import, so only here

    return AsyncTogether(
        api_key=NO_KEY,
        base_url=host.base_url.removesuffix(_VERSION_PATH),
        max_retries=0,
        timeout=timeout_s,
        http_client=httpx.AsyncClient(transport=_BoundedTransport(host, timeout_s), trust_env=False),
    )
