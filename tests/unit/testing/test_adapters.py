"""Every other built-in adapter passes the suite, on a server that speaks its wire format."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from icm_api.providers import anthropic, gemini, llama_cpp, ollama, openai_compat, sglang, tgi, together, vllm
from icm_api.testing import ProviderConformance
from tests.conftest import ScriptedServer
from tests.servers.gemini import Gemini
from tests.servers.learner import Learner
from tests.servers.ollama import Ollama
from tests.servers.sglang import Sglang
from tests.servers.tgi import Tgi
from tests.servers.together import Together
from tests.servers.vllm import Vllm
from tests.unit.providers.test_llama_cpp import MODELS, PROPS, TinyModel
from tests.unit.testing.failing import FailingServer

KEY = "sk-planted-0123456789"
LABELS = (" True", " False")


def _vote(asked: str) -> str:
    """The answer to the last turn of a vote: by its claim alone, whatever the order of the labels."""
    claim, _, _ = asked.partition("\n\n")
    return json.dumps({"label": ("True", "False")[len(claim) % 2]})


def _message(body: Any) -> dict[str, Any]:
    text = _vote(body["messages"][-1]["content"][0]["text"])
    usage = {"input_tokens": len(json.dumps(body)) // 4, "output_tokens": 6, "cache_read_input_tokens": 5}
    answer = {"model": "served", "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
    return {"id": "msg_1", "type": "message", "role": "assistant", **answer, "usage": usage}


def _chosen(body: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": _vote(body["messages"][-1]["content"])}
    usage = {"prompt_tokens": len(json.dumps(body)) // 4, "completion_tokens": 6}
    return {"model": "served", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}


class OnServer(ProviderConformance):
    """`path`: the route that is asked for log-probs or choices."""

    key = KEY
    path: ClassVar[str]

    @pytest.fixture
    def host(self, server: ScriptedServer) -> FailingServer:
        self.serve(server)
        return FailingServer(server, self.path)

    @pytest.fixture
    def open_provider(self, server: ScriptedServer, host: FailingServer) -> Any:
        return lambda: self.open(server.url)

    def serve(self, server: ScriptedServer) -> None:
        raise NotImplementedError

    def open(self, url: str) -> Any:
        raise NotImplementedError


class TestTogether(OnServer):
    path = "/v1/completions"

    def serve(self, server: ScriptedServer) -> None:
        Together(LABELS).serve(server)

    def open(self, url: str) -> Any:
        return together.Together(base_url=f"{url}/v1", model="m", api_key=KEY)


class TestTogetherChat(TestTogether):
    path = "/v1/chat/completions"

    def open(self, url: str) -> Any:
        return together.Together(base_url=f"{url}/v1", model="m", api_key=KEY, route="chat")


class TestVllm(OnServer):
    path = "/v1/completions"

    def serve(self, server: ScriptedServer) -> None:
        Vllm().serve(server)

    def open(self, url: str) -> Any:
        return vllm.Vllm.connect(base_url=url, api_key=KEY)


class TestSglang(OnServer):
    path = "/generate"

    def serve(self, server: ScriptedServer) -> None:
        Sglang().serve(server)

    def open(self, url: str) -> Any:
        return sglang.Sglang.connect(base_url=url, api_key=KEY)


class TestTgi(OnServer):
    path = "/generate"

    def serve(self, server: ScriptedServer) -> None:
        Tgi().serve(server)

    def open(self, url: str) -> Any:
        return tgi.Tgi.connect(base_url=url, api_key=KEY)


class TestOllama(OnServer):
    path = "/api/generate"

    def serve(self, server: ScriptedServer) -> None:
        Ollama(Learner(LABELS)).serve(server)

    def open(self, url: str) -> Any:
        return ollama.Ollama.connect(base_url=url, model="tiny", api_key=KEY)


class TestGemini(OnServer):
    path = "/v1beta/models/m:generateContent"

    def serve(self, server: ScriptedServer) -> None:
        Gemini(Learner(LABELS)).serve(server)

    def open(self, url: str) -> Any:
        return gemini.Gemini(base_url=f"{url}/v1beta", model="m", api_key=KEY)


class TestOpenAIVotes(OnServer):
    path = "/v1/chat/completions"

    def serve(self, server: ScriptedServer) -> None:
        server.answer(self.path, _chosen)

    def open(self, url: str) -> Any:
        return openai_compat.OpenAICompatible(base_url=f"{url}/v1", model="m", api_key=KEY, route="votes")


class TestAnthropic(OnServer):
    path = "/v1/messages"

    def serve(self, server: ScriptedServer) -> None:
        server.answer(self.path, _message)

    def open(self, url: str) -> Any:
        return anthropic.Anthropic(base_url=url, model="m", api_key=KEY)


class TestLlamaCpp(OnServer):
    """Its tiny vocabulary has few words."""

    path = "/completion"
    demonstrations = (
        ("Text: a\nLabel:", " True"),
        ("Text: b\nLabel:", " False"),
        ("Text: b\nLabel:", " True"),
        ("Text: a\nLabel:", " False"),
    )
    queries = ("Text: a\nLabel:", "Text: b\nLabel:", "Text: odd\nLabel:")
    finishes_labels = (" Ye", "s")

    def serve(self, server: ScriptedServer) -> None:
        model = TinyModel()
        for path, reply in {"/props": PROPS, "/v1/models": MODELS, "/tokenize": model.tokenise}.items():
            server.answer(path, reply)
        server.answer(self.path, model.complete)

    def open(self, url: str) -> Any:
        return llama_cpp.LlamaCpp.connect(base_url=url, api_key=KEY)
