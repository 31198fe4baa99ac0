"""Ollama's native routes, answering from the offline learner."""

from dataclasses import dataclass, field
from typing import Any

from tests.conftest import Answer, ScriptedServer
from tests.servers.learner import Learner

CONTEXT = 131_072
DIGEST = "a" * 64


@dataclass
class Ollama:
    """A server that has pulled one model."""

    learner: Learner
    model: str = "tiny:latest"
    shown: dict[str, Any] = field(default_factory=dict)
    """Further members of `/api/show`."""

    def serve(self, server: ScriptedServer) -> None:
        server.answer("/api/show", self.show)
        server.answer("/api/tags", {"models": [{"name": self.model, "model": self.model, "digest": DIGEST}]})
        server.answer("/api/version", {"version": "0.40.2"})
        server.answer("/api/generate", self.generate)

    def show(self, body: dict[str, Any]) -> Any:
        if body["model"] not in (self.model, self.model.removesuffix(":latest")):
            return Answer({"error": f"model '{body['model']}' not found"}, 404)
        info = {"general.architecture": "llama", "llama.context_length": CONTEXT}
        return {"details": {"family": "llama"}, "model_info": info, "capabilities": ["completion"], **self.shown}

    def generate(self, body: dict[str, Any]) -> Any:
        assert (body["raw"], body["truncate"], body["shift"], body["think"]) == (True, False, False, False)
        listed = self.learner.next(self.learner.parsed(body["prompt"]), body["top_logprobs"])
        top = [{"token": c.text, "logprob": c.logprob_nats, "bytes": list(c.text.encode())} for c in listed]
        return {
            "model": body["model"],
            "response": top[0]["token"],
            "done": True,
            "done_reason": "length",
            "prompt_eval_count": len(body["prompt"]) // 4 + 1,
            "eval_count": 1,
            "logprobs": [{**top[0], "top_logprobs": top}],
        }
