"""Ollama by its native `/api/generate`: a completion route that lists the 20 likeliest tokens.

`raw` passes the prompt on without a chat template, `think: false` leaves what is generated unparsed, and `truncate` and
`shift: false` make the server refuse a prompt that is longer than its context instead of cutting it in silence (every
version that gives log-probs, since 0.12.11, heeds them). The numbers are of the whole softmax before sampling.
Source: https://docs.ollama.com/api/generate, checked 2026-11-22.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar, cast

import httpx2

from icm_api.errors import ConfigError, RequestError
from icm_api.providers.http import BoundedClient, Host, checked_api_key, checked_base_url, count
from icm_api.providers.listed import chat_candidates, floor_nats
from icm_api.types import Capabilities, Json, NextTokenReply, NextTokenRequest, Request, Usage

R = TypeVar("R")

NAME = "ollama"
ADAPTER_VERSION = 1
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
MAX_TOP_K = 20
DEFAULT_CONTEXT_TOKENS = 8192
"""Asked for unless the user says otherwise or the model has less. Ollama's own default is smaller than a prompt of many
demonstrations; a model's full context (often 131,072) may need more memory than there is."""


class Ollama:
    """A provider over one model of an Ollama server. Made by `connect`, which learns what the model is."""

    def __init__(self, wire: _Wire, facts: Mapping[str, Json], *, context_tokens: int, top_k: int) -> None:
        self._wire, self._facts, self._context_tokens, self._top_k = wire, facts, context_tokens, top_k

    @classmethod
    async def connect(
        cls,
        *,
        base_url: str,
        model: str,
        api_key: str | None = None,
        top_k: int = MAX_TOP_K,
        timeout_s: float = 600,
        context_tokens: int | None = None,
    ) -> Self:
        """Ask the server at `base_url` (its root) about `model`.

        `context_tokens`: the context the model is loaded with (`num_ctx`); None: `DEFAULT_CONTEXT_TOKENS`, or the
        model's own where that is smaller. Raises ConfigError for a bad argument and ProviderError: CapabilityError for
        a cloud model, which runs elsewhere and gives no log-probs.
        """
        if not 1 <= top_k <= MAX_TOP_K:
            raise ConfigError(f"top_k must be 1 to {MAX_TOP_K} for {NAME}, not {top_k}")
        url = checked_base_url(base_url).removesuffix("/v1")
        wire = _Wire(url, model, checked_api_key(api_key, url), timeout_s)
        try:
            shown = await wire.ask("POST", "/api/show", {"model": model})
            if shown.get("remote_host") or shown.get("remote_model"):
                raise wire.host.incapable("a cloud model gives no log-probabilities: pull one that runs on the server")
            trained = _trained_context(shown)
            if trained and context_tokens and context_tokens > trained:
                raise ConfigError(f"--context-tokens {context_tokens}: the context of {model} holds {trained} tokens")
            facts = {"digest": await _digest(wire, model), "server": await _version(wire)}
        except BaseException:
            await wire.aclose()
            raise
        chosen = context_tokens or min(DEFAULT_CONTEXT_TOKENS, trained or DEFAULT_CONTEXT_TOKENS)
        return cls(wire, facts, context_tokens=chosen, top_k=top_k)

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._wire.host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        return {
            "adapter": NAME,
            "adapter_version": ADAPTER_VERSION,
            "base_url": self._wire.host.base_url,
            "model": self.model,
            "num_ctx": self._context_tokens,
            "top_k": self._top_k,
            **self._facts,
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=False,
            max_top_k=self._top_k,
            continues_label=True,
            counts_tokens=False,
            plain_text_tokens=False,
            context_tokens=self._context_tokens - 1,  # the server wants room for the token it generates
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest):
            return cast(R, await self._next_token(request))
        raise self._wire.host.incapable(f"{NAME} cannot answer {request.kind!r} requests")

    async def aclose(self) -> None:
        await self._wire.aclose()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        host = self._wire.host
        document = await self._wire.ask("POST", "/api/generate", self._body(request.prompt.text + request.continuation))
        logprobs = document.get("logprobs")
        if not isinstance(logprobs, list):
            raise host.incapable("the reply has no log-probabilities: they need Ollama 0.12.11 or newer")
        candidates = chat_candidates(logprobs, host)
        usage = Usage(count(document.get("prompt_eval_count")), None, count(document.get("eval_count")))
        return NextTokenReply(candidates, floor_nats(candidates), usage, str(document.get("model") or self.model))

    def _body(self, prompt: str) -> dict[str, Json]:
        if not prompt:
            raise ValueError("an empty prompt has no next token")
        return {
            "model": self.model,
            "prompt": prompt,
            "raw": True,
            "stream": False,
            "think": False,
            "truncate": False,
            "shift": False,
            "logprobs": True,
            "top_logprobs": self._top_k,
            "options": {"num_predict": 1, "temperature": 0, "num_ctx": self._context_tokens},
        }


class _Wire:
    """One server, over HTTP."""

    def __init__(self, url: str, model: str, api_key: str | None, timeout_s: float) -> None:
        hint = "check base_url and that it runs: `ollama serve`"
        self.host = Host(provider=NAME, model=model, base_url=url, hint=hint, models_path="/api/tags", api_key=api_key)
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
        self._client = BoundedClient(base_url=url, timeout_s=timeout_s, headers=headers)

    async def ask(self, method: str, path: str, body: Any = None) -> Mapping[str, Json]:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx2.RequestError as error:
            raise self.host.unreachable(error) from None
        return self.host.mapping(response)

    async def aclose(self) -> None:
        await self._client.aclose()


def _trained_context(shown: Mapping[str, Json]) -> int | None:
    """The longest context the model was made for, from its GGUF metadata (`<architecture>.context_length`)."""
    info = shown.get("model_info")
    if not isinstance(info, dict):
        return None
    return count(info.get(f"{info.get('general.architecture')}.context_length"))


async def _digest(wire: _Wire, model: str) -> str:
    """What the name stands for today: a tag can be pulled anew with other weights. Raises RequestError where the server
    does not tell, for kept replies of other weights could then be taken for the model's."""
    models = (await wire.ask("GET", "/api/tags")).get("models")
    listed = [entry for entry in models if isinstance(entry, dict)] if isinstance(models, list) else []
    wanted = (model, f"{model}:latest")
    digests = [entry["digest"] for entry in listed if entry.get("name") in wanted and entry.get("digest")]
    if not digests:
        raise wire.host.error(
            RequestError,
            "the server lists no digest of this model, so other weights of the same name could not be told apart: "
            "write the name as `ollama list` does",
        )
    return str(digests[0])


async def _version(wire: _Wire) -> str | None:
    version = (await wire.ask("GET", "/api/version")).get("version")
    return version if isinstance(version, str) else None
