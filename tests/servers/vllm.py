"""A vLLM server's routes (0.33), answering from `TokenModel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Answer, ScriptedServer
from tests.servers.model import TokenModel

MODEL = "org/tiny"
TAKES = {
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "logprobs",
    "prompt_logprobs",
    "logprob_token_ids",
    "return_tokens_as_token_ids",
}


@dataclass
class Vllm:
    """`names`, `scores_prompts`: whether it obeys `logprob_token_ids` and `prompt_logprobs`, or ignores them as older
    or restricted servers do."""

    model: TokenModel = field(default_factory=TokenModel)
    names: bool = True
    scores_prompts: bool = True
    max_logprobs: int = 20
    context: int = 4096
    served: str = MODEL

    def serve(self, server: ScriptedServer) -> None:
        card = {
            "id": self.served,
            "object": "model",
            "root": self.served,
            "parent": None,
            "max_model_len": self.context,
        }
        server.answer("/version", {"version": "0.33.0"})
        server.answer("/v1/models", {"object": "list", "data": [card]})
        server.answer("/tokenize", self.tokenise)
        server.answer("/detokenize", lambda body: {"prompt": self.model.decode(body["tokens"])})
        server.answer("/v1/completions", self.complete)

    def tokenise(self, body: Any) -> Any:
        ids = self.model.tokenise(body["prompt"], body["add_special_tokens"])
        return {"count": len(ids), "max_model_len": self.context, "tokens": ids, "token_strs": None}

    def complete(self, body: Any) -> Any:
        if problem := self._problem(body):
            return refused(problem)
        prompts = body["prompt"]
        choices = [self._choice(k, ids, body) for k, ids in enumerate(prompts)]
        read = sum(map(len, prompts))
        usage = {"prompt_tokens": read, "completion_tokens": len(prompts), "total_tokens": read + len(prompts)}
        details = {"cached_tokens": 0 if "prompt_logprobs" in body else max(len(prompts[-1]) // 16 * 16 - 16, 0)}
        said = {"id": "cmpl-1", "object": "text_completion", "created": 1795305600, "model": body["model"]}
        return {**said, "choices": choices[::-1], "usage": {**usage, "prompt_tokens_details": details}}

    def _problem(self, body: dict[str, Any]) -> str | None:
        if strange := sorted(set(body) - TAKES):
            return f"not asked for here: {strange}"
        if max(body.get("logprobs", 0), body.get("prompt_logprobs", 0)) > self.max_logprobs:
            return f"Requested more logprobs than the greatest allowed: {self.max_logprobs}"
        if "logprob_token_ids" in body and "logprobs" not in body:
            return "when using `logprob_token_ids`, `logprobs` must be set."
        longest = max(map(len, body["prompt"]))
        if longest + body["max_tokens"] > self.context:
            return f"This model's maximum context length is {self.context} tokens. However, you requested {longest}."
        return None

    def _choice(self, index: int, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        scored = (
            self._prompt(ids, body["prompt_logprobs"]) if self.scores_prompts and "prompt_logprobs" in body else None
        )
        logprobs = self._generated(ids, body) if "logprobs" in body else None
        said = {"index": index, "text": "?", "logprobs": logprobs, "finish_reason": "length", "stop_reason": None}
        return {**said, "prompt_logprobs": scored}

    def _generated(self, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        (best, value), *_ = listed = self.model.top(ids, body["logprobs"])
        if self.names and "logprob_token_ids" in body:
            listed = [(best, value), *((k, self.model.logprob(ids, k)) for k in body["logprob_token_ids"])]
        top = {f"token_id:{k}": max(nats, -9999.0) for k, nats in listed}
        return {"text_offset": [0], "token_logprobs": [value], "tokens": [f"token_id:{best}"], "top_logprobs": [top]}

    def _prompt(self, ids: Sequence[int], k: int) -> list[Any]:
        return [None, *(self._entry(ids, place, k) for place in range(1, len(ids)))]

    def _entry(self, ids: Sequence[int], place: int, k: int) -> dict[str, Any]:
        """The prompt's own token first, then the likeliest."""
        listed = self.model.shown(ids, place, k)
        own = dict(listed).get(ids[place]) or self.model.logprob(ids[:place], ids[place])
        ranked = {ids[place]: own} | dict(listed)
        return {
            str(token): {"logprob": nats, "rank": rank + 1, "decoded_token": self.model.pieces[token].strip()}
            for rank, (token, nats) in enumerate(ranked.items())
        }


def refused(message: str, status: int = 400) -> Answer:
    return Answer({"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}}, status)
