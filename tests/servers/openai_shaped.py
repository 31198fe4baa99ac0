"""A host with OpenAI's completions and chat routes, answering from the offline learner."""

import re
from dataclasses import dataclass
from typing import Any

from icm_api.types import Position, Prompt
from tests.conftest import ScriptedServer
from tests.servers.learner import Learner, heard

START = "<s>"
"""What the model puts before every text."""


@dataclass
class OpenAIShaped:
    learner: Learner
    max_top_k: int = 20

    def serve(self, server: ScriptedServer, root: str = "/v1") -> None:
        server.answer(f"{root}/completions", self.completion)
        server.answer(f"{root}/chat/completions", self.chat)

    def completion(self, body: dict[str, Any]) -> Any:
        assert body["max_tokens"] == 1
        assert body["temperature"] == 0
        assert body["logprobs"] <= self.max_top_k
        prompt = self.learner.parsed(body["prompt"])
        *shown, after = self.learner.positions(prompt)
        columns = self._echo(prompt, shown, body["logprobs"]) if body.get("echo") else []
        columns.append((after.candidates[0].text, after.candidates[0].logprob_nats, _top(after, body["logprobs"])))
        tokens, values, tops = zip(*columns, strict=True)
        logprobs = {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}
        return _reply(body, {"index": 0, "text": after.candidates[0].text, "logprobs": logprobs})

    def chat(self, body: dict[str, Any]) -> Any:
        turns = [(message["role"], message["content"]) for message in body["messages"]]
        if "response_format" in body:
            message = {"role": "assistant", "content": self.learner.vote(turns)}
            return _reply(body, {"index": 0, "message": message, "finish_reason": "stop"})
        assert body["logprobs"] is True
        assert body["top_logprobs"] <= self.max_top_k
        listed = self.learner.answer(heard(turns), body["top_logprobs"])
        top = [{"token": token, "logprob": logprob} for token, logprob in listed]
        choice = {"index": 0, "logprobs": {"content": [{**top[0], "top_logprobs": top}]}, "finish_reason": "length"}
        return _reply(body, {**choice, "message": {"role": "assistant", "content": top[0]["token"]}})

    def _echo(self, prompt: Prompt, shown: list[Position], top_k: int) -> list[tuple[str, Any, Any]]:
        places = {sum(map(len, prompt.chunks[: 2 * k + 1])): position for k, position in enumerate(shown)}
        columns: list[tuple[str, Any, Any]] = [(START, None, None)]
        for piece in re.finditer(r"\n\n|\n| ?\w+|.", prompt.text):
            position = places.get(piece.start())
            top = _top(position, top_k) if position else {piece[0]: -1.5, " the": -2.0}
            columns.append((piece[0], top.get(piece[0], position.floor_nats if position else None), top))
        return columns


def _top(position: Position, top_k: int) -> dict[str, float]:
    return {c.text: c.logprob_nats for c in position.candidates[:top_k]}


def _reply(body: dict[str, Any], choice: dict[str, Any]) -> Any:
    return {"model": body["model"], "choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
