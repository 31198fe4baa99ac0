"""Any host that speaks OpenAI's `/completions` or `/chat/completions`, through the `openai` SDK.

One request, one generated token, `temperature` 0. At that temperature hosts report the model's own distribution
(OpenAI, vLLM, llama.cpp before sampling; SGLang as if at 1), or a one-hot list made after sampling, which is refused;
and the generated token is always the first of the list, so it cannot slip in from below the top k.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from icm_api.errors import ConfigError
from icm_api.providers.echo import echoed_positions
from icm_api.providers.http import BoundedClient, Host, checked_api_key, checked_base_url, openai_usage
from icm_api.providers.listed import floor_nats, top_candidates
from icm_api.types import (
    Candidate,
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    Request,
    SequenceReply,
    SequenceRequest,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

R = TypeVar("R")
Route = Literal["completions", "chat"]

ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
_NO_KEY = "no-key"
"""The SDK insists on a key; hosts without one ignore it. Otherwise it would fetch OPENAI_API_KEY by itself."""


class OpenAICompatible:
    """A provider over one model of an OpenAI-shaped host.

    `base_url` ends before `/completions` (usually in `/v1`). `top_k`: candidates to ask for (OpenAI's chat route
    allows 20, its legacy route 5). `timeout_s` bounds a whole exchange. `context_tokens`: the model's context when
    known. `echo`: the host gives prompt log-probs on its completions route (vLLM, SGLang and few others do), so whole
    sequences can be asked for; one that ignores echo is caught. Raises ConfigError for an unusable address or key.
    """

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        route: Route = "completions",
        top_k: int = 20,
        timeout_s: float = 120,
        name: str = "openai-compatible",
        context_tokens: int | None = None,
        echo: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if route not in ("completions", "chat"):
            raise ConfigError(f"route must be completions or chat, not {route!r}")
        if echo and route != "completions":
            raise ConfigError("echo (prompt log-probs) needs route completions: chat routes give none")
        if top_k < 1:
            raise ConfigError(f"top_k must be at least 1, not {top_k}")
        url = checked_base_url(base_url)
        self._host = Host(
            provider=name,
            model=model,
            base_url=url,
            hint=f"check base_url and that the host is up: `curl {url}/models`",
            api_key=checked_api_key(api_key, url),
            clock=clock,
        )
        self._route: Route = route
        self._top_k = top_k
        self._context_tokens = context_tokens
        self._echo = echo
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
            "adapter": "openai-compatible",
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
        raise self._host.incapable(f"{self.name} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._client.close()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        ask = self._complete if self._route == "completions" else self._chat
        document = await self._document(ask(request))
        candidates = top_candidates(_first_choice(document, self._host).get("logprobs"), self._host)
        if self._route == "chat":
            candidates = tuple(map(_as_continuation, candidates))
        return NextTokenReply(
            candidates=candidates,
            floor_nats=floor_nats(candidates),
            usage=openai_usage(document),
            model=self._served(document),
        )

    async def _sequence(self, request: SequenceRequest) -> SequenceReply:
        document = await self._document(self._completion(request.prompt.text, echo=True))
        logprobs = _first_choice(document, self._host).get("logprobs")
        positions = echoed_positions(logprobs, request, self._host)
        return SequenceReply(positions, openai_usage(document), self._served(document))

    def _served(self, document: Mapping[str, Json]) -> str:
        model = document.get("model")
        return model if isinstance(model, str) and model else self.model

    def _complete(self, request: NextTokenRequest) -> Awaitable[Any]:
        return self._completion(request.prompt.text + request.continuation)

    def _completion(self, prompt: str, **more: Any) -> Awaitable[Any]:
        if not prompt:
            raise ValueError("an empty prompt has no next token")
        create: Callable[..., Awaitable[Any]] = self._client.completions.with_raw_response.create
        return create(model=self.model, prompt=prompt, max_tokens=1, temperature=0, logprobs=self._top_k, **more)

    def _chat(self, request: NextTokenRequest) -> Awaitable[Any]:
        if request.continuation:
            raise self._host.incapable(
                "a chat route cannot go on inside a label (here after "
                f"{request.continuation!r}): use labels that differ in their first token, or --route completions"
            )
        return self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=cast(Any, chat_messages(request.prompt)),
            max_tokens=1,
            temperature=0,
            logprobs=True,
            top_logprobs=self._top_k,
        )

    async def _document(self, answer: Awaitable[Any]) -> Mapping[str, Json]:
        """The decoded body. Raw responses: building the SDK's objects costs more than reading the numbers."""
        import openai

        try:
            response = (await answer).http_response
        except openai.APIStatusError as error:
            response = error.response
        except openai.APIConnectionError as error:
            raise self._host.unreachable(error.__cause__ or error) from None
        return self._host.mapping(response)


def chat_messages(prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as chat turns: preamble as system message, demonstrations as question and answer, query last.

    An answer starts its turn, so a label loses the space that joins it to a completion prompt.
    """
    if not prompt.query:
        raise ValueError("an empty prompt has no next token")
    messages = [_message("system", prompt.preamble)] if prompt.preamble else []
    for text, label in prompt.demonstrations:
        messages += (_message("user", text), _message("assistant", label.removeprefix(" ")))
    return [*messages, _message("user", prompt.query)]


def _as_continuation(candidate: Candidate) -> Candidate:
    """An answer's first word as it would continue a completion prompt: with the space that a turn leaves out."""
    text = candidate.text
    return replace(candidate, text=text if not text or text[0].isspace() else f" {text}")


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _first_choice(document: Mapping[str, Json], host: Host) -> Mapping[str, Json]:
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise host.incapable("the reply has no choices, so no next token to score")
    return choice


def _sdk_client(host: Host, timeout_s: float) -> AsyncOpenAI:
    """The SDK without its retries (the client layer owns the only retry loop) and without what it would pick up
    from the environment and send to any host: key, organisation and project."""
    from openai import AsyncOpenAI  # takes seconds to import, so only here

    client = AsyncOpenAI(
        base_url=host.base_url,
        api_key=host.api_key or _NO_KEY,
        max_retries=0,
        timeout=timeout_s,
        http_client=BoundedClient(base_url=host.base_url, timeout_s=timeout_s),
    )
    client.organization = client.project = None
    return client
