"""The routes of an OpenAI-shaped host: what each is asked, and how its reply is read.

A route that tells log-probabilities is asked for one token at `temperature` 0. At that temperature hosts report the
model's own distribution (OpenAI, vLLM, llama.cpp before sampling; SGLang as if at 1), or a one-hot list made after
sampling, which is refused; and the generated token is always the first of the list, so it cannot slip in from below
the top k. A route that counts answers draws them at `temperature` 1, the model's own distribution.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, Literal, TypeVar

from icm_api.errors import CapabilityError, OutOfReachError
from icm_api.providers import choices
from icm_api.providers.echo import echoed_positions
from icm_api.providers.http import Host, objects, openai_usage
from icm_api.providers.listed import as_continuation, chat_candidates, floor_nats, top_candidates
from icm_api.types import (
    Candidate,
    ChoiceReply,
    ChoiceRequest,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    SequenceReply,
    SequenceRequest,
)

Q = TypeVar("Q")
R = TypeVar("R")
TokensField = Literal["max_tokens", "max_completion_tokens"]

LEAST_OUTPUT_TOKENS = 16
"""OpenAI's Responses route refuses a smaller bound; the first token is the one that is read."""
MOST_CHOICES = 255
"""Of one question to the Decisions route (openai SDK 3.54, `decision_create_params`)."""
SHARE_TOLERANCE = 0.02
"""Stated probabilities may be rounded, to two digits or so; a sum further from 1 is no distribution."""

_REMEDY = (
    "turn reasoning off, use another route or model, or do without them: --route votes counts answers, "
    "--route decisions takes the probabilities that a host states"
)
_DECIDE = (
    "Each user message is a text that ends where its label is missing, and each assistant message is the label of the "
    "text before it. Which label belongs to the last text?"
)


@dataclass(frozen=True, slots=True)
class Manner:
    """How one host wants its model to be asked, on whatever route."""

    model: str
    top_k: int
    tokens_field: TokensField
    """What the chat route calls its bound on output tokens."""
    reasoning_effort: str | None
    """None: nothing is said of it."""
    sends_cache_key: bool
    """Whether prompts are named, so that the host sends those that begin alike to where their prefix is kept."""

    def chat(self, prompt: Prompt, max_tokens: int) -> dict[str, Any]:
        """Parameters of every chat request but its messages."""
        body: dict[str, Any] = {"model": self.model, self.tokens_field: max_tokens, **self.cache_key(prompt)}
        return body if self.reasoning_effort is None else body | {"reasoning_effort": self.reasoning_effort}

    def cache_key(self, prompt: Prompt) -> dict[str, str]:
        """`prompt_cache_key`: the same for prompts with the same preamble and first demonstration."""
        beginning = prompt.chunks[0] if prompt.demonstrations else prompt.preamble
        digest = hashlib.sha256(beginning.encode("utf-8", "surrogatepass")).hexdigest()
        return {"prompt_cache_key": digest[:32]} if self.sends_cache_key else {}


@dataclass(frozen=True, slots=True)
class Route(ABC, Generic[Q, R]):
    """One way to ask one kind of question."""

    path: ClassVar[str]
    manner: Manner
    host: Host

    @property
    def settings(self) -> Mapping[str, Json]:
        """What is sent beside the prompt and can change an answer; part of the provider's identity."""
        return {"top_k": self.manner.top_k, "temperature": 0}

    @abstractmethod
    def body(self, request: Q) -> dict[str, Any]:
        """What is sent."""

    @abstractmethod
    def read(self, document: Mapping[str, Json], request: Q) -> R:
        """The reply. Raises a ProviderError where the document holds none that a label could rest on."""

    def served(self, document: Mapping[str, Json]) -> str:
        """The model as the host names it."""
        model = document.get("model")
        return model if isinstance(model, str) and model else self.host.model


# --- log-probabilities ------------------------------------------------------------------------------------


class _NextToken(Route[NextTokenRequest, NextTokenReply]):
    """A route that lists candidates for one token."""

    __slots__ = ()

    @abstractmethod
    def listed(self, document: Mapping[str, Json]) -> tuple[Candidate, ...]:
        """The candidates as they would continue a completion prompt, best first."""

    def read(self, document: Mapping[str, Json], request: NextTokenRequest) -> NextTokenReply:
        del request
        candidates = self.listed(document)
        return NextTokenReply(candidates, floor_nats(candidates), openai_usage(document), self.served(document))


class Completions(_NextToken):
    """`/completions`: one token after a text."""

    __slots__ = ()
    path = "/completions"

    def body(self, request: NextTokenRequest) -> dict[str, Any]:
        return _completion(self.manner, request.prompt, request.continuation)

    def listed(self, document: Mapping[str, Json]) -> tuple[Candidate, ...]:
        return top_candidates(_logprobs(document, self.host), self.host)


class Echo(Route[SequenceRequest, SequenceReply]):
    """`/completions` with `echo`: every label position of a text at once."""

    __slots__ = ()
    path = "/completions"

    def body(self, request: SequenceRequest) -> dict[str, Any]:
        return {**_completion(self.manner, request.prompt), "echo": True}

    def read(self, document: Mapping[str, Json], request: SequenceRequest) -> SequenceReply:
        positions = echoed_positions(_first_choice(document, self.host).get("logprobs"), request, self.host)
        return SequenceReply(positions, openai_usage(document), self.served(document))


class Chat(_NextToken):
    """`/chat/completions`: the first token of an answer."""

    __slots__ = ()
    path = "/chat/completions"

    @property
    def settings(self) -> Mapping[str, Json]:
        return {"top_k": self.manner.top_k, "temperature": 0, "reasoning_effort": self.manner.reasoning_effort}

    def body(self, request: NextTokenRequest) -> dict[str, Any]:
        return {
            **self.manner.chat(request.prompt, max_tokens=1),
            "messages": _turns(request, self.host),
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": self.manner.top_k,
        }

    def listed(self, document: Mapping[str, Json]) -> tuple[Candidate, ...]:
        return tuple(map(as_continuation, top_candidates(_logprobs(document, self.host), self.host)))


class Responses(Chat):
    """`/responses`: the first token of an answer. Nothing is stored at the host."""

    __slots__ = ()
    path = "/responses"

    def body(self, request: NextTokenRequest) -> dict[str, Any]:
        effort = self.manner.reasoning_effort
        return {
            "model": self.manner.model,
            "input": [{"type": "message", **turn} for turn in _turns(request, self.host)],
            "include": ["message.output_text.logprobs"],
            "top_logprobs": self.manner.top_k,
            "max_output_tokens": LEAST_OUTPUT_TOKENS,
            "temperature": 0,
            "store": False,
            **({} if effort is None else {"reasoning": {"effort": effort}}),
            **self.manner.cache_key(request.prompt),
        }

    def listed(self, document: Mapping[str, Json]) -> tuple[Candidate, ...]:
        content = _answered(document, self.host).get("logprobs")
        if not isinstance(content, list) or not content:
            raise silent(self.host)
        return tuple(map(as_continuation, chat_candidates(content, self.host)))


def _answered(document: Mapping[str, Json], host: Host) -> Mapping[str, Json]:
    """The first text of an answer; reasoning and tools may stand before it."""
    items = [item for item in objects(document.get("output")) if item.get("type") == "message"]
    parts = objects(items[0].get("content")) if items else []
    if not parts:
        raise host.incapable(
            "the reply has no answer, so no next token to score: turn reasoning off or use --route chat"
        )
    if parts[0].get("type") == "refusal":
        said = choices.json_text(str(parts[0].get("refusal")))
        raise host.error(OutOfReachError, f"the model refuses to answer, which says nothing of the labels: {said}")
    return parts[0]


# --- choices ----------------------------------------------------------------------------------------------


class _Choice(Route[ChoiceRequest, ChoiceReply]):
    """A route that answers with labels or their probabilities."""

    __slots__ = ()

    @abstractmethod
    def shares(self, document: Mapping[str, Json], request: ChoiceRequest) -> tuple[float, ...]:
        """One for each label. Raises OutOfReachError for an answer that says nothing of them."""

    def read(self, document: Mapping[str, Json], request: ChoiceRequest) -> ChoiceReply:
        read = partial(self.shares, document, request)
        return choices.replied(read, openai_usage(document), self.served(document))


class Decisions(_Choice):
    """`/decisions`: the probabilities that the host states for the labels. They are a product's calibrated
    probabilities and no log-likelihoods. One question a request, since another has other demonstrations."""

    __slots__ = ()
    path = "/decisions"

    @property
    def settings(self) -> Mapping[str, Json]:
        return {}

    def body(self, request: ChoiceRequest) -> dict[str, Any]:
        names = choices.names(request.labels)
        if not 2 <= len(names) <= MOST_CHOICES or len(set(names)) < len(names):
            raise self.host.incapable(f"route decisions takes 2 to {MOST_CHOICES} different labels, not {len(names)}")
        question = {"type": "choice", "instructions": _DECIDE, "choices": [{"value": name} for name in names]}
        return {
            "model": self.manner.model,
            "input": chat_messages(request.prompt, request.prompt.preamble),
            "questions": [question],
            **self.manner.cache_key(request.prompt),
        }

    def shares(self, document: Mapping[str, Json], request: ChoiceRequest) -> tuple[float, ...]:
        answers = objects(document.get("answers"))
        if len(answers) != 1:
            raise self.host.incapable(f"the reply has {len(answers)} answers to one question")
        if answers[0].get("type") == "refusal":
            raise choices.refused(request, self.host, "refusal")
        return _stated(answers[0], choices.names(request.labels), self.host)


def _stated(answer: Mapping[str, Json], names: Sequence[str], host: Host) -> tuple[float, ...]:
    """The probability of each name, found by its value: the host may list them in any order."""
    listed = objects(answer.get("probabilities"))
    stated = {entry["value"]: entry.get("probability") for entry in listed if isinstance(entry.get("value"), str)}
    if len(stated) != len(listed) or set(stated) != set(names):
        raise host.incapable("the reply does not state one probability for each of the labels offered")
    shares = [_share(stated[name], host) for name in names]
    total = math.fsum(shares)
    if abs(total - 1) > SHARE_TOLERANCE:
        raise host.incapable(f"the stated probabilities sum to {total:.4f} instead of 1")
    return tuple(share / total for share in shares)


def _share(value: Json, host: Host) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise host.incapable(f"the reply gives {value!r} as a probability")
    return float(value)


class Votes(_Choice):
    """`/chat/completions` held to one of the labels: one answer, to be counted."""

    __slots__ = ()
    path = "/chat/completions"

    @property
    def settings(self) -> Mapping[str, Json]:
        return {"temperature": 1, "reasoning_effort": self.manner.reasoning_effort}

    def body(self, request: ChoiceRequest) -> dict[str, Any]:
        schema = {"name": "answer", "strict": True, "schema": choices.answer_schema(request.labels)}
        return {
            **self.manner.chat(request.prompt, choices.answer_tokens(request.labels)),
            "messages": choices.question(request).messages,
            "temperature": 1,
            "response_format": {"type": "json_schema", "json_schema": schema},
        }

    def shares(self, document: Mapping[str, Json], request: ChoiceRequest) -> tuple[float, ...]:
        choice = _first_choice(document, self.host)
        message = choice.get("message")
        said = message if isinstance(message, dict) else {}
        ended = choice.get("finish_reason")
        if said.get("refusal") or ended == "content_filter":
            raise choices.refused(request, self.host, "refusal" if said.get("refusal") else "content_filter")
        if ended == "length":
            raise choices.cut_off(self.host, "finish_reason length")
        content = said.get("content")
        return choices.read_text(content if isinstance(content, str) else None, request, self.host)


# --- parts ------------------------------------------------------------------------------------------------


def chat_messages(prompt: Prompt, system: str) -> list[dict[str, str]]:
    """The prompt as chat turns: demonstrations as question and answer, query last.

    An answer starts its turn, so a label loses the space that joins it to a completion prompt.
    """
    if not prompt.query:
        raise ValueError("an empty prompt has no next token")
    messages = [_message("system", system)] if system else []
    for text, label in prompt.demonstrations:
        messages += (_message("user", text), _message("assistant", label.removeprefix(" ")))
    return [*messages, _message("user", prompt.query)]


def silent(host: Host) -> CapabilityError:
    """The error for a reply without log-probabilities."""
    return host.incapable(
        f"the reply has no log-probabilities: this model or host does not give them on this route; {_REMEDY}"
    )


def unwilling(host: Host, said: str) -> CapabilityError:
    """The error for a host that refuses to be asked for log-probabilities. `said`: its own words."""
    return host.incapable(
        f"the host refuses to give these log-probabilities ({said}); ask for fewer (--top-k), {_REMEDY}"
    )


def _completion(manner: Manner, prompt: Prompt, continuation: str = "") -> dict[str, Any]:
    text = prompt.text + continuation
    if not text:
        raise ValueError("an empty prompt has no next token")
    return {"model": manner.model, "prompt": text, "max_tokens": 1, "temperature": 0, "logprobs": manner.top_k}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _turns(request: NextTokenRequest, host: Host) -> list[dict[str, str]]:
    choices.refuse_continuation(request, host, "or --route completions")
    return chat_messages(request.prompt, choices.one_word(request.prompt, request.wanted))


def _first_choice(document: Mapping[str, Json], host: Host) -> Mapping[str, Json]:
    found = objects(document.get("choices"))
    if not found:
        raise host.incapable("the reply has no choices, so no answer to read")
    return found[0]


def _logprobs(document: Mapping[str, Json], host: Host) -> Json:
    logprobs = _first_choice(document, host).get("logprobs")
    if not logprobs:
        raise silent(host)
    return logprobs
