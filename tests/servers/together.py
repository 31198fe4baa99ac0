"""Together as its schema and documentation describe it, answering from the offline learner.

A stand-in for runs without a key: the wire format is Together's, the numbers are those of
`icm_api.providers.synthetic` for the texts in the prompt. What its documentation would refuse is refused.
"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from icm_api.providers.synthetic import Synthetic
from icm_api.types import Candidate, Position, Prompt, SequenceReply, SequenceRequest
from tests.conftest import Answer, ScriptedServer

TAKES = {"model", "max_tokens", "temperature", "logprobs", "echo"}
START = "<s>"
"""What the model puts before every text."""


@dataclass
class Together:
    """One model there. `labels`: texts of the labels that stand in prompts, each one token."""

    labels: tuple[str, ...]
    learner: Synthetic = field(default_factory=Synthetic)
    content_shape: bool = False
    """Generated tokens in OpenAI's chat shape, as with some models."""
    starts: bool = True
    """The tokeniser puts `START` before the prompt."""

    def serve(self, server: ScriptedServer, *first: Answer) -> None:
        """Answer on both routes, on completions after the replies `first`."""
        server.answer("/v1/completions", *first, self.completion)
        server.answer("/v1/chat/completions", self.chat)

    def completion(self, body: dict[str, Any]) -> Any:
        if problem := _problem(body, {"prompt", *TAKES}):
            return refused(400, problem)
        prompt = self._parsed(body["prompt"])
        *shown, after = self._positions(prompt)
        echoed = [self._echo(prompt, shown, body)] if body.get("echo") else []
        choice = {"text": after.candidates[0].text, "seed": 7, "finish_reason": "length"}
        return _reply("text.completion", body, echoed, choice | {"logprobs": self._generated(after, body)})

    def chat(self, body: dict[str, Any]) -> Any:
        if problem := _problem(body, {"messages", *TAKES}):
            return refused(400, problem)
        after = self._positions(self._heard(body["messages"]))[-1]
        after = Position(tuple(Candidate(c.text.strip(), c.logprob_nats) for c in after.candidates), after.floor_nats)
        message = {"role": "assistant", "content": after.candidates[0].text, "tool_calls": []}
        choice = {"index": 0, "message": message, "seed": 7, "finish_reason": "length"}
        return _reply("chat.completion", body, [], choice | {"logprobs": self._generated(after, body)})

    def _positions(self, prompt: Prompt) -> Sequence[Position]:
        return _at_once(self.learner.send(SequenceRequest(prompt, self.labels))).positions

    def _parsed(self, text: str) -> Prompt:
        """The prompt that reads so: blocks that end with a label, the query last, perhaps a preamble first."""
        *blocks, query = text.split("\n\n")
        preamble = blocks.pop(0) if blocks and not blocks[0].endswith(self.labels) else ""
        shown = [next((b.removesuffix(label), label) for label in self.labels if b.endswith(label)) for b in blocks]
        return Prompt(query, tuple(shown), preamble)

    def _heard(self, messages: list[dict[str, str]]) -> Prompt:
        said = [m["content"] for m in messages if m["role"] != "system"]
        shown = [(text, f" {label}") for text, label in zip(said[:-1:2], said[1::2], strict=True)]
        return Prompt(said[-1], tuple(shown), messages[0]["content"] if messages[0]["role"] == "system" else "")

    def _echo(self, prompt: Prompt, shown: Sequence[Position], body: dict[str, Any]) -> dict[str, Any]:
        places = {sum(map(len, prompt.chunks[: 2 * k + 1])): position for k, position in enumerate(shown)}
        columns: list[tuple[str, float | None, dict[str, float] | None]] = [(START, None, None)] if self.starts else []
        for piece in re.finditer(r"\n\n|\n| ?\w+|.", prompt.text):
            token, position = piece[0], places.get(piece.start())
            top = _top(position, body["logprobs"]) if position else {token: -1.5, " the": -2.0}
            floor = position.floor_nats if position else None
            columns.append((token, top.get(token, floor), top) if columns else (token, None, None))
        return {"text": prompt.text, "logprobs": _flat(columns)}

    def _generated(self, position: Position, body: dict[str, Any]) -> Any:
        (token, value), *_ = top = list(_top(position, body["logprobs"]).items())
        if not self.content_shape:
            return _flat([(token, value, dict(top))])
        listed = [{"token": text, "logprob": nats, "bytes": list(text.encode())} for text, nats in top]
        return {"content": [{**listed[0], "top_logprobs": listed}]}


def limited(seconds: float, kind: str = "dynamic_request_limited") -> Answer:
    """A request above the dynamic rate."""
    error = {"message": "You have reached the rate limit", "type": "rate_limit", "param": None, "code": None}
    body = {"id": "x", "error": {**error, "error_type": kind}}
    return Answer(body, 429, {"x-ratelimit-reset": f"{seconds:g}"})


def refused(status: int, message: str, kind: str = "invalid_request_error") -> Answer:
    return Answer({"id": "x", "error": {"message": message, "type": kind, "param": None, "code": None}}, status)


def _at_once(answer: Coroutine[Any, Any, SequenceReply]) -> SequenceReply:
    """The learner waits for nothing, so it needs no event loop."""
    try:
        answer.send(None)
    except StopIteration as end:
        reply: SequenceReply = end.value
        return reply
    raise AssertionError("the learner has a latency")


def _problem(body: dict[str, Any], takes: set[str]) -> str | None:
    if strange := sorted(set(body) - takes):
        return f"not asked for here: {strange}"
    if not isinstance(body.get("logprobs"), int) or not 0 <= body["logprobs"] <= 20:
        return "logprobs must be an integer between 0 and 20"
    return None if body["max_tokens"] == 1 and body["temperature"] == 0 else "one token at temperature 0, please"


def _top(position: Position, most: int) -> dict[str, float]:
    return {c.text: c.logprob_nats for c in position.candidates[:most]}


def _flat(columns: Sequence[tuple[str, float | None, dict[str, float] | None]]) -> dict[str, Any]:
    tokens, values, tops = (list(column) for column in zip(*columns, strict=True))
    return {"tokens": tokens, "token_logprobs": values, "token_ids": [*range(len(tokens))], "top_logprobs": tops}


def _reply(kind: str, body: dict[str, Any], prompts: list[Any], choice: dict[str, Any]) -> dict[str, Any]:
    size = len(str(body.get("prompt", body.get("messages")))) // 4
    usage = {"prompt_tokens": size, "completion_tokens": 1, "total_tokens": size + 1, "cached_tokens": 0}
    said = {"id": "o8-1", "object": kind, "created": 1795305600, "model": body["model"]}
    return {**said, "prompt": prompts, "choices": [choice], "usage": usage}
