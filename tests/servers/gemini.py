"""Gemini's generateContent, answering from the offline learner."""

from dataclasses import dataclass
from typing import Any

from tests.conftest import Answer, ScriptedServer
from tests.servers.learner import Learner, heard

NO_LOGPROBS = {"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Logprobs is not enabled for models/m"}}


@dataclass
class Gemini:
    learner: Learner
    model: str = "m"
    logprobs: bool = True
    """Whether this model gives any."""

    def serve(self, server: ScriptedServer) -> None:
        server.answer(f"/v1beta/models/{self.model}:generateContent", self.generate)

    def generate(self, body: dict[str, Any]) -> Any:
        config, turns = body["generationConfig"], _turns(body)
        if "responseJsonSchema" in config:
            return self._reply(self.learner.vote(turns), {})
        if not self.logprobs:
            return Answer(NO_LOGPROBS, 400)
        listed = self.learner.answer(heard(turns), config["logprobs"])
        top = [{"token": token, "tokenId": 7, "logProbability": logprob} for token, logprob in listed]
        result = {"topCandidates": [{"candidates": top}], "chosenCandidates": [top[0]]}
        return self._reply(listed[0][0], {"logprobsResult": result, "avgLogprobs": listed[0][1]})

    def _reply(self, text: str, more: dict[str, Any]) -> Any:
        content = {"role": "model", "parts": [{"text": text}]}
        return {
            "candidates": [{"content": content, "finishReason": "STOP", "index": 0, **more}],
            "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 1, "totalTokenCount": 10},
            "modelVersion": f"{self.model}-001",
        }


def _turns(body: dict[str, Any]) -> list[tuple[str, str]]:
    roles = {"user": "user", "model": "assistant"}
    said = [(roles[turn["role"]], turn["parts"][0]["text"]) for turn in body["contents"]]
    system = body.get("systemInstruction")
    return [("system", system["parts"][0]["text"]), *said] if system else said
