"""Requests and replies as canonical JSON, and replies back from it. Says nothing about where the JSON is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from functools import cache
from hashlib import sha256
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter

from icm_api.errors import CapabilityError, ProviderError
from icm_api.providers.base import Provider
from icm_api.types import (
    ChoiceReply,
    ChoiceRequest,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Request,
    SequenceReply,
    SequenceRequest,
    TokenCountReply,
    TokenCountRequest,
)

R = TypeVar("R")

SCHEMA: Literal[1] = 1
"""Part of every key: raise it when a type in `icm_api.types` changes its meaning, and old rows are never read again."""

REPLIES: Mapping[str, type] = {
    NextTokenRequest.kind: NextTokenReply,
    SequenceRequest.kind: SequenceReply,
    ChoiceRequest.kind: ChoiceReply,
    TokenCountRequest.kind: TokenCountReply,
}
"""Kind of request -> type of its reply."""


@dataclass(frozen=True, slots=True)
class Row(Generic[R]):
    """A reply as it is stored."""

    schema: Literal[1]
    kind: str
    reply: R
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(
        strict=True, allow_inf_nan=False, extra="forbid", ser_json_inf_nan="constants"
    )


def _as_mapping(value: Any) -> dict[str, object]:
    """Fields that play no part in equality (a routing hint) play none in a key either."""
    return {field.name: getattr(value, field.name) for field in fields(value) if field.compare}


canonical_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, default=_as_mapping).encode
"""One text for equal values: keys sorted, no spaces, ASCII. Dataclasses are written as objects."""


@cache
def _row_type(kind: str) -> TypeAdapter[Row[Any]]:
    if kind not in REPLIES:
        raise CapabilityError(f"replies to a request of kind {kind!r} cannot be stored")
    row: Any = Row
    return TypeAdapter(row[REPLIES[kind]])


def check_identity(provider: Provider) -> None:
    """Raise `CapabilityError` when no key can be made of what a host tells of itself."""
    try:
        canonical_json(dict(provider.identity))
    except (ValueError, RecursionError):
        raise CapabilityError(
            "what the host tells of itself holds numbers that are none, or is nested too deeply: it may be broken",
            provider=provider.name,
            model=provider.model,
        ) from None


def request_key(identity: Mapping[str, Json], request: Request[Any]) -> str:
    """SHA-256, in hex, of everything that can change the answer: schema, provider, kind and every request field."""
    whole = {"schema": SCHEMA, "identity": dict(identity), "kind": request.kind, "request": request}
    return sha256(canonical_json(whole).encode("ascii")).hexdigest()


def encode_reply(request: Request[R], reply: R) -> str:
    """The reply as one line of JSON that reads back as the same reply; where that cannot be, `ProviderError`."""
    try:
        row = Row(SCHEMA, request.kind, reply)
        text = _row_type(request.kind).dump_json(row, warnings="error").decode("utf-8")
        same = decode_reply(request, text) == reply
    except ValueError as error:
        raise ProviderError(f"the reply cannot be stored: {error}") from error
    if not same:
        raise ProviderError(f"the reply cannot be stored without change: {reply}")
    return text


def decode_reply(request: Request[R], text: str) -> R:
    """The reply that `encode_reply` wrote. Raises `ValueError` unless every field has exactly its declared type and
    every number is one that it can be."""
    row = _row_type(request.kind).validate_json(text)
    if row.kind != request.kind:
        raise ValueError(f"a reply of kind {row.kind!r} stands where {request.kind!r} belongs")
    _check_numbers(row.reply)
    return cast(R, row.reply)


def _check_numbers(reply: Any) -> None:
    """Raise `ValueError` for what no probability or count can be. Whole lists were judged when the host's reply was
    read (`icm_api.core.replies`); here one number may have been changed on disk."""
    lists = (
        reply.positions if isinstance(reply, SequenceReply) else (reply,) if isinstance(reply, NextTokenReply) else ()
    )
    for each in lists:
        if any(c.logprob_nats > 0 for c in each.candidates) or (each.floor_nats or 0) > 0:
            raise ValueError("a log-probability is above 0")
    if isinstance(reply, ChoiceReply) and not all(0 <= share <= 1 for share in reply.shares):
        raise ValueError("a share is no probability")
    counts = reply.counts if isinstance(reply, TokenCountReply) else astuple(reply.usage)
    if any(tokens is not None and tokens < 0 for tokens in counts):
        raise ValueError("a number of tokens is below 0")
