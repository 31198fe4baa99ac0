"""An OpenAI-shaped host for a `ScriptedServer`: what it expects after a text follows from a hash of that text alone, so
any two ways of asking about one place can be compared."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from typing import Any

WORDS = (" True", " False", " maybe", " other")
SHOWN_NATS = -6.0
"""Of every token that is none of these words."""


def expected(text: str) -> dict[str, float]:
    """Log-probs after a text; together the words hold 0.95."""
    weights = [1 + byte for byte in hashlib.sha256(text.encode()).digest()[: len(WORDS)]]
    return {word: math.log(0.95 * weight / sum(weights)) for word, weight in zip(WORDS, weights, strict=True)}


def tokens(text: str) -> list[str]:
    return re.findall(r"\n\n|\n| ?\w+|.", text)


def legacy(parts: Sequence[str], before: str, *, echo: bool) -> dict[str, Any]:
    """OpenAI's legacy shape: the prompt's tokens when echoed, then the likeliest next one."""
    generated = max(expected(before), key=expected(before).__getitem__)
    shown = [*parts, generated] if echo else [generated]
    texts = ["".join(shown[:k]) if echo else before for k in range(len(shown))]
    tops = [expected(text) | {token: _nats(token, text)} for token, text in zip(shown, texts, strict=True)]
    values: list[Any] = [_nats(token, text) for token, text in zip(shown, texts, strict=True)]
    lists: list[Any] = tops
    if echo:
        values[0] = lists[0] = None
    return {"tokens": shown, "token_logprobs": values, "top_logprobs": lists}


def complete(body: Any) -> Any:
    """`/v1/completions`, with echo."""
    prompt = body["prompt"]
    parts = tokens(prompt)
    return reply(legacy(parts, prompt, echo=body.get("echo", False)), len(parts))


def chat(body: Any) -> Any:
    """`/v1/chat/completions`: an answer starts its turn, so its first word has no space."""
    said = expected(json.dumps(body["messages"]))
    entries = [{"token": word.strip(), "logprob": nats} for word, nats in said.items()]
    return reply({"content": [{**entries[0], "top_logprobs": entries}]}, len(tokens(json.dumps(body["messages"]))))


def reply(logprobs: Any, prompt_tokens: int = 7) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 0}}
    return {"model": "toy", "choices": [{"index": 0, "logprobs": logprobs}], "usage": usage}


def _nats(token: str, before: str) -> float:
    return expected(before).get(token, SHOWN_NATS)
