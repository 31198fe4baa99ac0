"""Google's Gemini API by `generateContent`: chat only, and log-probabilities for few of its models.

A model without them is asked for votes (`choices.py`): answers held to a JSON schema.
Source: https://ai.google.dev/api/generate-content, checked 2026-11-22.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, cast
from urllib.parse import quote

import httpx2

from icm_api.errors import AuthError, ConfigError, OutOfReachError, ProviderError, RateLimitError
from icm_api.providers.choices import (
    answer_schema,
    answer_tokens,
    cut_off,
    one_word,
    question,
    read_text,
    refuse_continuation,
    refused,
    replied,
)
from icm_api.providers.http import (
    BoundedClient,
    Host,
    checked_api_key,
    checked_base_url,
    count,
    decoded,
    objects,
    sensible_wait_s,
    whole_number,
)
from icm_api.providers.listed import as_continuation, checked, floor_nats, nats
from icm_api.types import (
    Candidate,
    Capabilities,
    ChoiceReply,
    ChoiceRequest,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    Request,
    Usage,
)

R = TypeVar("R")
Route: TypeAlias = Literal["chat", "votes"]
Body: TypeAlias = "dict[str, Json]"

NAME = "gemini"
ADAPTER_VERSION = 2
"""Raise it when the same request would be asked or read in another way: it is part of the cache key."""
MAX_TOP_K = 20

LEAST_THINKING: Mapping[str, Mapping[str, Json]] = {
    "gemini-2.5-flash": {"thinkingBudget": 0},
    "gemini-2.5-pro": {"thinkingBudget": 128},
    "gemini-3-pro": {"thinkingLevel": "low"},
    "gemini-3.1-pro": {"thinkingLevel": "low"},
    "gemini-3": {"thinkingLevel": "minimal"},
}
"""How little each family can be made to think, by the beginning of a model's name; the first that fits counts.
Source: https://ai.google.dev/gemini-api/docs/thinking, checked 2026-11-22."""

ROOM_BY_LEVEL: Mapping[str, int] = {"minimal": 512, "low": 2048, "medium": 8192, "high": 32_768}
"""Tokens for thoughts beside the answer, as both share `maxOutputTokens`. The host states no numbers for levels; these
are generous, since only what is written is paid for."""
ROOM_BESIDE_BUDGET = 128
"""A host may pass a budget by a little."""

_NO_LOGPROBS = re.compile(r"log-?probs?\b.{0,40}\bnot (enabled|supported)", re.IGNORECASE)


class Gemini:
    """A provider over one Gemini model. `base_url` ends before `/models`. `route`: `chat` reads the log-probs of the
    answer's first token, `votes` takes constrained answers. `thinking`: a budget in tokens, a level, or `omit` to send
    none; None: as little as `LEAST_THINKING` knows. Raises ConfigError for an unusable argument, and for `chat` with a
    model that thinks before it answers: the one token that is paid for there would be a thought."""

    def __init__(
        self,
        *,
        base_url: str,
        model: str,
        api_key: str | None,
        route: Route = "chat",
        top_k: int = MAX_TOP_K,
        timeout_s: float = 120,
        context_tokens: int | None = None,
        thinking: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if route not in ("chat", "votes"):
            raise ConfigError(f"route must be chat or votes for {NAME}, not {route!r}")
        if not 1 <= top_k <= MAX_TOP_K:
            raise ConfigError(f"top_k must be 1 to {MAX_TOP_K} for {NAME}, not {top_k}")
        url, name = checked_base_url(base_url), model.removeprefix("models/")
        key = checked_api_key(api_key, url)
        hint = "check base_url and the network"
        self._host = Host(provider=NAME, model=name, base_url=url, hint=hint, api_key=key, clock=clock)
        self._client = BoundedClient(
            base_url=url, timeout_s=timeout_s, headers={"x-goog-api-key": key} if key else None
        )
        self._route, self._top_k, self._context_tokens = route, top_k, context_tokens
        self._thinking = _thinking(name, thinking)
        self._thought_tokens = _thought_tokens(name, self._thinking)
        if route == "chat" and _surely_thinks(self._thinking):
            raise ConfigError(
                f"{name} thinks before it answers ({json.dumps(dict(self._thinking))}), so no log-probabilities of an "
                "answer's first token can be had: ask for votes (--route votes) or use another model"
            )

    @classmethod
    def from_options(cls, options: Mapping[str, str], **settings: Any) -> Gemini:
        """Build from the arguments of `__init__` and text options. Raises ConfigError for an unknown option."""
        strange = sorted(set(options) - {"thinking"})
        if strange:
            raise ConfigError(f"provider {NAME!r} has no option {strange[0]!r}; it has: thinking")
        return cls(**settings, thinking=options.get("thinking"))

    @property
    def name(self) -> str:
        return NAME

    @property
    def model(self) -> str:
        return self._host.model

    @property
    def identity(self) -> Mapping[str, Json]:
        return {
            "adapter": NAME,
            "adapter_version": ADAPTER_VERSION,
            "base_url": self._host.base_url,
            "model": self.model,
            "route": self._route,
            "top_k": self._top_k,
            "thinking": dict(self._thinking),
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=False,
            max_top_k=self._top_k,
            continues_label=False,
            counts_tokens=False,
            plain_text_tokens=False,
            context_tokens=self._context_tokens,
            choices="votes" if self._route == "votes" else None,
            thought_tokens=self._thought_tokens,
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, NextTokenRequest) and self._route == "chat":
            return cast(R, await self._next_token(request))
        if isinstance(request, ChoiceRequest) and self._route == "votes":
            return cast(R, await self._choice(request))
        raise self._host.incapable(f"{NAME} cannot answer {request.kind!r} requests by route {self._route}")

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        refuse_continuation(request, self._host)
        config: Body = {"maxOutputTokens": 1, "temperature": 0, "responseLogprobs": True, "logprobs": self._top_k}
        document = await self._generate(_chat(request.prompt, request.wanted), config)
        answer = _answer(document)
        if answer is None:
            raise self._host.error(OutOfReachError, f"the host blocks this text ({_why(document)})")
        candidates = self._listed(answer)
        return NextTokenReply(candidates, floor_nats(candidates), _usage(document), self._served(document))

    def _listed(self, answer: Mapping[str, Json]) -> tuple[Candidate, ...]:
        """The likeliest first tokens of an answer, as continuations of a completion prompt."""
        tops = objects(_object(answer.get("logprobsResult")).get("topCandidates"))
        entries = objects(tops[0].get("candidates")) if tops else []
        if not entries:
            raise self._no_logprobs("the reply has no log-probabilities")
        listed = [
            Candidate(
                str(entry.get("token", "")), nats(entry.get("logProbability"), self._host), count(entry.get("tokenId"))
            )
            for entry in entries
        ]
        return tuple(map(as_continuation, checked(listed, self._host)))

    async def _choice(self, request: ChoiceRequest) -> ChoiceReply:
        asked = question(request)
        body = _turns(asked.system, asked.shown, asked.asked)
        config: Body = {
            "maxOutputTokens": answer_tokens(request.labels) + self._thought_tokens,
            "temperature": 1,
            "responseMimeType": "application/json",
            "responseJsonSchema": answer_schema(request.labels),
        }
        document = await self._generate(body, config)
        return replied(partial(self._shares, document, request), _usage(document), self._served(document))

    def _shares(self, document: Mapping[str, Json], request: ChoiceRequest) -> tuple[float, ...]:
        answer = _answer(document)
        if answer is None:
            raise refused(request, self._host, _why(document))
        if answer.get("finishReason") == "MAX_TOKENS":
            raise cut_off(self._host, "MAX_TOKENS")
        return read_text(_text(answer), request, self._host)

    async def _generate(self, body: Body, config: Body) -> Mapping[str, Json]:
        if self._thinking:
            config["thinkingConfig"] = dict(self._thinking)
        path = f"/models/{quote(self.model, safe='')}:generateContent"
        try:
            response = await self._client.post(path, json={**body, "generationConfig": config})
        except httpx2.RequestError as error:
            raise self._host.unreachable(error) from None
        refusal = self._refusal(response)
        if refusal is not None:
            raise refusal
        return self._host.mapping(response)

    def _refusal(self, response: httpx2.Response) -> ProviderError | None:
        """The errors that only Google writes so; None leaves the reply to `Host`."""
        if response.status_code < 400:
            return None
        error = _object(_object(decoded(response)).get("error"))
        message, told = str(error.get("message", "")), objects(error.get("details"))
        if any(entry.get("reason") == "API_KEY_INVALID" for entry in told):
            return self._host.error(AuthError, f"the host refused the key (HTTP {response.status_code}): {message}")
        if _NO_LOGPROBS.search(message):
            return self._no_logprobs(message)
        wait_s = next((seconds for seconds in map(_retry_delay_s, told) if seconds is not None), None)
        if response.status_code == 429 and wait_s is not None and "PerDay" not in json.dumps(told):
            # its text says "exceeded your current quota" for a limit a minute too
            return self._host.error(
                RateLimitError, f"the host asks for fewer requests: {message}", retry_after_s=wait_s
            )
        return None

    def _no_logprobs(self, said: str) -> ProviderError:
        return self._host.incapable(
            f"{said}; this API gives log-probabilities for few models: ask for votes (--route votes) or use another "
            "model"
        )

    def _served(self, document: Mapping[str, Json]) -> str:
        return str(document.get("modelVersion") or self.model)


def _thinking(model: str, chosen: str | None) -> Mapping[str, Json]:
    if chosen == "omit":
        return {}
    if chosen is None:
        return _least_thinking(model) or {}
    budget = whole_number(chosen)
    if budget is None and chosen not in ROOM_BY_LEVEL:
        raise ConfigError(f"thinking must be a number of tokens, {', '.join(ROOM_BY_LEVEL)} or omit, not {chosen!r}")
    return {"thinkingLevel": chosen} if budget is None else {"thinkingBudget": budget}


def _least_thinking(model: str) -> Mapping[str, Json] | None:
    """None: a model that is not known to think."""
    return next((least for family, least in LEAST_THINKING.items() if model.startswith(family)), None)


def _thought_tokens(model: str, thinking: Mapping[str, Json]) -> int:
    """Room for thoughts. A model that is left to itself may think as long as one told to think much."""
    budget, level = thinking.get("thinkingBudget"), thinking.get("thinkingLevel")
    if isinstance(budget, int):
        return budget and budget + ROOM_BESIDE_BUDGET
    if isinstance(level, str):
        return ROOM_BY_LEVEL[level]
    return 0 if _least_thinking(model) is None else ROOM_BY_LEVEL["high"]


def _surely_thinks(thinking: Mapping[str, Json]) -> bool:
    return bool(thinking.get("thinkingBudget")) or thinking.get("thinkingLevel", "minimal") != "minimal"


def _chat(prompt: Prompt, labels: Sequence[str]) -> Body:
    """Demonstrations as turns; an answer starts its turn, so a label loses the space that joins it to a prompt."""
    if not prompt.query:
        raise ValueError("an empty prompt has no next token")
    shown = tuple((text, label.removeprefix(" ")) for text, label in prompt.demonstrations)
    return _turns(one_word(prompt, labels), shown, prompt.query)


def _turns(system: str, shown: tuple[tuple[str, str], ...], asked: str) -> Body:
    contents: list[Json] = []
    for user, model in shown:
        contents += [_turn("user", user), _turn("model", model)]
    return {"systemInstruction": {"parts": [{"text": system}]}, "contents": [*contents, _turn("user", asked)]}


def _turn(role: str, text: str) -> Json:
    return {"role": role, "parts": [{"text": text}]}


def _answer(document: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """The one candidate; None where the host blocked the prompt or the answer."""
    candidates = objects(document.get("candidates"))
    whole = candidates and candidates[0].get("finishReason") in ("STOP", "MAX_TOKENS", None)
    return candidates[0] if whole else None


def _why(document: Mapping[str, Json]) -> str:
    """The host's word for a blocked prompt or answer."""
    blocked = _object(document.get("promptFeedback")).get("blockReason")
    ended = [candidate.get("finishReason") for candidate in objects(document.get("candidates"))]
    return next((str(reason) for reason in (blocked, *ended) if reason), "no reason given")


def _text(answer: Mapping[str, Json]) -> str:
    parts = objects(_object(answer.get("content")).get("parts"))
    return "".join(str(part.get("text", "")) for part in parts if not part.get("thought"))


def _usage(document: Mapping[str, Json]) -> Usage:
    """`promptTokenCount` includes the cached ones; thoughts are billed as output."""
    told = _object(document.get("usageMetadata"))
    written, thought = count(told.get("candidatesTokenCount")), count(told.get("thoughtsTokenCount"))
    output = None if written is None and thought is None else (written or 0) + (thought or 0)
    return Usage(count(told.get("promptTokenCount")), count(told.get("cachedContentTokenCount")), output)


def _retry_delay_s(detail: Mapping[str, Json]) -> float | None:
    """Seconds of a `google.rpc.RetryInfo`, written `"34.07s"`."""
    written = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(detail.get("retryDelay", "")))
    return sensible_wait_s(float(written[1])) if written else None


def _object(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, dict) else {}
