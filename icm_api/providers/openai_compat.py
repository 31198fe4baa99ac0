"""Any host that speaks one of OpenAI's routes, through the `openai` SDK. `openai_routes` has the routes themselves."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import httpx2

from icm_api.errors import AuthError, ConfigError, RequestError
from icm_api.providers.http import NO_KEY, Host, ShieldedClient, checked_api_key, checked_base_url
from icm_api.providers.openai_routes import (
    Chat,
    Completions,
    Decisions,
    Echo,
    Manner,
    Responses,
    Route,
    TokensField,
    Votes,
    unwilling,
)
from icm_api.types import (
    Capabilities,
    ChoiceReply,
    ChoiceRequest,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Request,
    SequenceRequest,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from icm_api.providers.registry import Route as RouteName

R = TypeVar("R")

ADAPTER_VERSION = 2
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
DEFAULT_TOP_K = 20

_NEXT_TOKEN: Mapping[str, Callable[[Manner, Host], Route[NextTokenRequest, NextTokenReply]]] = {
    "completions": Completions,
    "chat": Chat,
    "responses": Responses,
}
_CHOICE: Mapping[str, Callable[[Manner, Host], Route[ChoiceRequest, ChoiceReply]]] = {
    "decisions": Decisions,
    "votes": Votes,
}
_CHOSEN_BY: Mapping[str, Literal["votes", "probabilities"]] = {"decisions": "probabilities", "votes": "votes"}
_KEY_HEADERS = frozenset({"authorization", "proxy-authorization", "api-key", "x-api-key", "cookie"})


class OpenAICompatible:
    """A provider over one model of an OpenAI-shaped host.

    What a user may say:
    - `base_url` ends before `/completions` (usually in `/v1`). `timeout_s` bounds a whole exchange.
    - `route`: `completions`, `chat` and `responses` answer `NextTokenRequest`; `decisions` and `votes` answer
      `ChoiceRequest`.
    - `top_k`: candidates to ask for. None: 20, or what the host allows where that is less.
    - `context_tokens`: the model's context when known.
    - `echo`: the host gives prompt log-probs on its completions route (vLLM, SGLang and few others do), so whole
      sequences can be asked for; one that ignores echo is caught.

    Facts about the host, from its row:
    - `max_top_k`: most candidates that it lists; asking for more is a ConfigError. None: no limit is known.
    - `extra_body`: members for the body of every request, over ours of the same name. Part of `identity`.
    - `headers`: sent with every request. They must not change an answer (they are no part of `identity`) and hold no
      key.
    - `tokens_field`: what its chat route calls the bound on output tokens.
    - `sends_cache_key`: whether its newer routes take `prompt_cache_key`; it is the same for prompts that begin alike.
    - `reasoning_effort`: sent where it is not None.

    Raises ConfigError for an unusable setting, address or key.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        route: RouteName = "completions",
        top_k: int | None = None,
        timeout_s: float = 120,
        name: str = "openai-compatible",
        context_tokens: int | None = None,
        echo: bool = False,
        max_top_k: int | None = None,
        extra_body: Mapping[str, Json] | None = None,
        headers: Mapping[str, str] | None = None,
        tokens_field: TokensField = "max_tokens",
        sends_cache_key: bool = False,
        reasoning_effort: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if route not in (*_NEXT_TOKEN, *_CHOICE):
            raise ConfigError(f"route must be one of {', '.join((*_NEXT_TOKEN, *_CHOICE))}, not {route!r}")
        if echo and route != "completions":
            raise ConfigError("echo (prompt log-probs) needs route completions: the other routes give none")
        url = checked_base_url(base_url)
        self._host = Host(
            provider=name,
            model=model,
            base_url=url,
            hint=f"check base_url and that the host is up: `curl {url}/models`",
            api_key=checked_api_key(api_key, url),
            clock=clock,
        )
        self._top_k = _checked_top_k(top_k, max_top_k, route)
        manner = Manner(model, self._top_k or 0, tokens_field, reasoning_effort, sends_cache_key)
        self._routes = _routes(route, echo, manner, self._host)
        self._route = route
        self._context_tokens = context_tokens
        self._extra_body = dict(extra_body or {})
        self._client = sdk_client(self._host, timeout_s, _checked_headers(headers or {}))

    @property
    def name(self) -> str:
        return self._host.provider

    @property
    def model(self) -> str:
        return self._host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        (route, *_) = self._routes.values()
        return {
            "adapter": "openai-compatible",
            "adapter_version": ADAPTER_VERSION,
            "base_url": self._host.base_url,
            "model": self.model,
            "route": self._route,
            **route.settings,
            "extra_body": dict(self._extra_body),
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
            prompt_logprobs=SequenceRequest in self._routes,
            choices=_CHOSEN_BY.get(self._route),
        )

    async def send(self, request: Request[R]) -> R:
        route = self._routes.get(type(request))
        if route is None:
            raise self._host.incapable(f"{self.name} cannot answer {request.kind!r} requests on route {self._route}")
        return cast(R, route.read(await self._document(route, request), request))

    async def aclose(self) -> None:
        await self._client.close()

    async def _document(self, route: Route[Any, Any], request: Request[Any]) -> Mapping[str, Json]:
        import openai

        body = {**route.body(request), **self._extra_body}
        try:
            return await self._host.mapping_by(
                openai, self._client.post(route.path, cast_to=httpx2.Response, body=body)
            )
        except (RequestError, AuthError) as error:  # "not allowed to request logprobs" comes as 403 too
            if self._route in _NEXT_TOKEN and "logprobs" in str(error):
                raise unwilling(self._host, str(error).removeprefix(f"{self.name}/{self.model}: ")) from None
            raise


def _routes(route: RouteName, echo: bool, manner: Manner, host: Host) -> dict[type[Request[Any]], Route[Any, Any]]:
    """Kind of question -> how it is asked; the kind that every open provider answers stands first."""
    if route in _CHOICE:
        return {ChoiceRequest: _CHOICE[route](manner, host)}
    routes: dict[type[Request[Any]], Route[Any, Any]] = {NextTokenRequest: _NEXT_TOKEN[route](manner, host)}
    return routes | {SequenceRequest: Echo(manner, host)} if echo else routes


def _checked_top_k(top_k: int | None, max_top_k: int | None, route: RouteName) -> int | None:
    """How many candidates to ask for; None on a route that lists none."""
    if route in _CHOICE:
        if top_k is not None:
            raise ConfigError(f"top_k says nothing on route {route}, which lists no tokens: leave it out")
        return None
    most = math.inf if max_top_k is None else max_top_k
    if top_k is None:
        return int(min(DEFAULT_TOP_K, most))
    if not 1 <= top_k <= most:
        raise ConfigError(f"top_k must be at least 1{f' and at most {max_top_k}' if max_top_k else ''}, not {top_k}")
    return top_k


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    secret = sorted(name for name in headers if name.lower() in _KEY_HEADERS)
    if secret:
        raise ConfigError(f"header {secret[0]!r} may hold a key: keys come from an environment variable (api_key_env)")
    return headers


def sdk_client(host: Host, timeout_s: float, headers: Mapping[str, str] | None = None) -> AsyncOpenAI:
    """The SDK without its retries: the client layer owns the only retry loop. It never holds the key, and whatever it
    picks up from the environment stays here."""
    from openai import AsyncOpenAI  # takes seconds to import, so only here

    key = {"Authorization": f"Bearer {host.api_key}"} if host.api_key else {}
    own = {"Accept": "application/json", **(headers or {}), **key}
    return AsyncOpenAI(
        base_url=host.base_url,
        api_key=NO_KEY,
        max_retries=0,
        timeout=timeout_s,
        http_client=ShieldedClient(base_url=host.base_url, timeout_s=timeout_s, headers=own),
    )
