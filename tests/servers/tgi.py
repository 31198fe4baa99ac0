"""A text-generation-inference server's routes (3), answering from `TokenModel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Answer, ScriptedServer
from tests.servers.model import BOS, TokenModel

MODEL = "org/tiny"


@dataclass
class Tgi:
    """`prefill`: it was started with `--enable-prefill-logprobs`; else prompt log-probs are an empty list."""

    model: TokenModel = field(default_factory=lambda: TokenModel(bos=True))
    prefill: bool = True
    max_top_n_tokens: int = 5
    context: int = 4096

    def serve(self, server: ScriptedServer) -> None:
        info = {"model_id": MODEL, "model_sha": "abc", "version": "3.3.6", "sha": "def", "max_best_of": 2}
        server.answer("/info", {**info, "max_input_tokens": self.context - 1, "max_total_tokens": self.context})
        server.answer("/tokenize", lambda body: self.tokenise(body["inputs"]))
        server.answer("/generate", self.generate)

    def tokenise(self, text: str) -> list[dict[str, Any]]:
        tokens, start = [], 0
        for token in self.model.tokenise(text, add_special=True):
            piece = self.model.pieces[token]
            stop = start + (0 if piece == BOS else len(piece))
            tokens.append({"id": token, "text": piece, "start": start, "stop": stop})
            start = stop
        return tokens

    def generate(self, body: Any) -> Any:
        parameters = body["parameters"]
        if parameters["do_sample"] or parameters["max_new_tokens"] != 1:
            return refused("one token without sampling, please")
        if parameters.get("top_n_tokens", 0) > self.max_top_n_tokens:
            return refused(f"`top_n_tokens` must be >= 0 and <= {self.max_top_n_tokens}. Given: more")
        ids = self.model.tokenise(body["inputs"], add_special=True)
        top = [self._token(k, nats) for k, nats in self.model.top(ids, max(parameters.get("top_n_tokens", 0), 1))]
        details = {"finish_reason": "length", "generated_tokens": 1, "seed": None, "tokens": top[:1]}
        details["prefill"] = self._prefill(ids) if self.prefill and parameters.get("decoder_input_details") else []
        if "top_n_tokens" in parameters:
            details["top_tokens"] = [top]
        reply = {"generated_text": top[0]["text"], "details": details}
        return Answer(reply, headers={"x-prompt-tokens": str(len(ids)), "x-generated-tokens": "1"})

    def _token(self, token: int, nats: float) -> dict[str, Any]:
        """Decoded alone, so without the blank that the vocabulary marks."""
        return {"id": token, "text": self.model.decode([token]), "logprob": nats, "special": False}

    def _prefill(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        values = [None, *(self.model.logprob(ids[:place], ids[place]) for place in range(1, len(ids)))]
        return [
            {"id": token, "text": self.model.pieces[token], "logprob": nats}
            for token, nats in zip(ids, values, strict=True)
        ]


def refused(message: str) -> Answer:
    return Answer({"error": f"Input validation error: {message}", "error_type": "validation"}, 422)
