"""An SGLang server's native routes (0.5), answering from `TokenModel`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Answer, ScriptedServer
from tests.servers.model import TokenModel

MODEL = "org/tiny"
TAKES = {
    "input_ids",
    "sampling_params",
    "return_logprob",
    "logprob_start_len",
    "top_logprobs_num",
    "token_ids_logprob",
}


@dataclass
class Sglang:
    """`old_routes`: it knows `/get_model_info` and the like only. `first_is_own`: the entry at `logprob_start_len` has
    a value, as with some versions; else it is null."""

    model: TokenModel = field(default_factory=TokenModel)
    old_routes: bool = False
    first_is_own: bool = False
    context: int = 4096

    def serve(self, server: ScriptedServer) -> None:
        lead = "/get_" if self.old_routes else "/"
        info = {"model_path": MODEL, "served_model_name": MODEL, "tokenizer_path": MODEL, "is_generation": True}
        server.answer(f"{lead}model_info", {**info, "weight_version": "default", "preferred_sampling_params": None})
        settings = {"version": "0.5.23", "dtype": "auto", "attention_backend": "fa3", "api_key": "hidden"}
        server.answer(f"{lead}server_info", {**settings, "max_req_input_len": self.context - 6})
        card = {"id": MODEL, "object": "model", "root": MODEL, "max_model_len": self.context}
        server.answer("/v1/models", {"object": "list", "data": [card]})
        server.answer("/tokenize", self.tokenise)
        server.answer("/detokenize", lambda body: {"text": [self.model.decode(ids) for ids in body["tokens"]]})
        server.answer("/generate", self.generate)

    def tokenise(self, body: Any) -> Any:
        ids = self.model.tokenise(body["prompt"], body["add_special_tokens"])
        return {"tokens": ids, "count": len(ids), "max_model_len": self.context}

    def generate(self, body: Any) -> Any:
        if strange := sorted(set(body) - TAKES):
            return refused(f"not asked for here: {strange}")
        if body["sampling_params"] != {"max_new_tokens": 1, "temperature": 0}:
            return refused("one token at temperature 0, please")
        named = body.get("token_ids_logprob") or [None] * len(body["input_ids"])
        return [self._reply(ids, ask, body) for ids, ask in zip(body["input_ids"], named, strict=True)]

    def _reply(self, ids: Sequence[int], named: Sequence[int] | None, body: dict[str, Any]) -> dict[str, Any]:
        start, k = body["logprob_start_len"], body["top_logprobs_num"]
        listed = self.model.top(ids, k)
        meta: dict[str, Any] = {"id": "1", "finish_reason": {"type": "length", "length": 1}, "prompt_tokens": len(ids)}
        meta |= {"completion_tokens": 1, "cached_tokens": len(ids) - 1 if start < 0 else start}
        meta["output_token_logprobs"] = [[listed[0][1], listed[0][0], None]]
        meta["output_top_logprobs"] = [_rows(listed)]
        meta["input_token_logprobs"], meta["input_top_logprobs"] = [], []
        if named is not None:
            meta["output_token_ids_logprobs"] = [self._named(ids, named)]
            meta["input_token_ids_logprobs"] = []
        if start >= 0:
            self._score(ids, start, k, named, meta)
        return {"text": "?", "output_ids": [listed[0][0]], "meta_info": meta}

    def _score(self, ids: Sequence[int], start: int, k: int, named: Sequence[int] | None, meta: dict[str, Any]) -> None:
        for place in range(start, len(ids)):
            hidden = place == 0 or (place == start and not self.first_is_own)
            own = None if hidden else self.model.logprob(ids[:place], ids[place])
            meta["input_token_logprobs"].append([own, ids[place], None])
            meta["input_top_logprobs"].append(None if hidden else _rows(self.model.shown(ids, place, k)))
            if named is not None:
                meta["input_token_ids_logprobs"].append(None if hidden else self._named(ids[:place], named))

    def _named(self, before: Sequence[int], named: Sequence[int]) -> list[Any]:
        return [[self.model.logprob(before, token), token, None] for token in named]


def _rows(listed: Sequence[tuple[int, float]]) -> list[Any]:
    return [[nats, token, None] for token, nats in listed]


def refused(message: str, status: int = 400) -> Answer:
    return Answer({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)
