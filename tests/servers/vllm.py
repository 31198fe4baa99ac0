"""A vLLM server's routes as 0.32 speaks on them (see cassettes/vllm/), answering from `TokenModel`."""

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
    "allowed_token_ids",
    "return_tokens_as_token_ids",
}


@dataclass
class Vllm:
    """`forces`, `scores_prompts`: whether it obeys `allowed_token_ids` and `prompt_logprobs`, or ignores them as
    restricted servers do. `after_forcing`: as with `--logprobs-mode processed_logprobs`."""

    model: TokenModel = field(default_factory=TokenModel)
    forces: bool = True
    after_forcing: bool = False
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
        cached = 0 if "prompt_logprobs" in body else max(len(prompts[-1]) // 16 * 16 - 16, 0)
        details = {"cached_tokens": cached, "created_cache_tokens": None, "multimodal_tokens": None}
        said = {"id": "cmpl-1", "object": "text_completion", "created": 1795305600, "model": body["model"]}
        return {**said, "choices": choices[::-1], "usage": {**usage, "prompt_tokens_details": details}}

    def _problem(self, body: dict[str, Any]) -> str | None:
        if strange := sorted(set(body) - TAKES):
            return f"not asked for here: {strange}"
        if max(body.get("logprobs", 0), body.get("prompt_logprobs", 0)) > self.max_logprobs:
            asked = max(body.get("logprobs", 0), body.get("prompt_logprobs", 0))
            return f"Requested sample logprobs of {asked}, which is greater than max allowed: {self.max_logprobs}"
        longest = max(map(len, body["prompt"]))
        if longest == self.context:
            return "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)"
        if longest > self.context:
            return (
                f"This model's maximum context length is {self.context} tokens. However, your prompt contains "
                f"{longest} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
                f"length of the input prompt. (parameter=input_tokens, value={longest})"
            )
        return None

    def _choice(self, index: int, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        scored = (
            self._prompt(ids, body["prompt_logprobs"]) if self.scores_prompts and "prompt_logprobs" in body else None
        )
        logprobs = self._generated(ids, body) if "logprobs" in body else None
        said = {"index": index, "text": "?", "logprobs": logprobs, "finish_reason": "length", "stop_reason": None}
        return {**said, "prompt_logprobs": scored}

    def _generated(self, ids: Sequence[int], body: dict[str, Any]) -> dict[str, Any]:
        """What is generated first, then the likeliest."""
        ((token, value),) = self.model.top(ids, 1)
        if self.forces and "allowed_token_ids" in body:
            (token,) = body["allowed_token_ids"]
            value = 0.0 if self.after_forcing else self.model.logprob(ids, token)
        listed = {token: value} | dict(self.model.top(ids, body["logprobs"]))
        top = {f"token_id:{k}": max(nats, -9999.0) for k, nats in listed.items()}
        told = {"token_logprobs": [max(value, -9999.0)], "tokens": [f"token_id:{token}"]}
        return {"text_offset": [0], **told, "top_logprobs": [top]}

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
