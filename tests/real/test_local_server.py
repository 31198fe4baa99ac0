"""The embedded llama.cpp server itself: where it listens, when it ends, and that its numbers repeat."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from icm_api.errors import ConfigError, ProviderError
from icm_api.local.server import LocalServer, ServerSettings, start_server
from icm_api.local.session import open_local, serve_until_stopped
from icm_api.types import NextTokenRequest, Prompt

pytestmark = pytest.mark.real

EQUAL_NATS = 1e-6
"""Measured: no difference at all. The allowance is for other processors."""
LISTED = 1000
"""Tokens compared, likeliest first."""
SMALL = 512
"""Context for servers of one test."""
REVIEWS = [
    ("the food was great", "positive"),
    ("I hated every minute", "negative"),
    ("a lovely evening", "positive"),
    ("cold soup and rude staff", "negative"),
]
PREFIX = "".join(f"Review: {text}\nSentiment: {label}\n\n" for text, label in REVIEWS)
QUERIES = ["the best day of my life", "never again", "we waited for two hours", "my children loved the puppets"]


def ask(base_url: str, method: str, path: str, body: object = None) -> Any:
    connection = HTTPConnection(urlsplit(base_url).netloc, timeout=60)
    connection.request(method, path, json.dumps(body) if body is not None else None)
    reply = connection.getresponse()
    content = reply.read()
    connection.close()
    assert reply.status == 200, content
    return json.loads(content)


def tokens(server: LocalServer, text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": False}
    ids: list[int] = ask(server.base_url, "POST", "/tokenize", body)["tokens"]
    return ids


def query(server: LocalServer, text: str) -> list[int]:
    return tokens(server, f"{PREFIX}Review: {text}\nSentiment:")


def complete(server: LocalServer, prompt: Sequence[int], *, cached: bool, slot: int = -1) -> Mapping[str, Any]:
    body = {"prompt": list(prompt), "n_predict": 1, "n_probs": LISTED, "temperature": 0, "cache_prompt": cached}
    reply: Mapping[str, Any] = ask(server.base_url, "POST", "/completion", {**body, "id_slot": slot})
    return reply


def logprobs(reply: Mapping[str, Any]) -> dict[int, float]:
    return {token["id"]: token["logprob"] for token in reply["completion_probabilities"][0]["top_logprobs"]}


def furthest(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Largest difference of one token's log-probability, in nats, over the tokens that both list."""
    left, right = logprobs(one), logprobs(other)
    both = left.keys() & right.keys()
    assert len(both) > 0.99 * LISTED
    return max(abs(left[token] - right[token]) for token in both)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that has ended but that nobody has waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def ends_within(pid: int, limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


# --- what it is -------------------------------------------------------------------------------------------


def test_the_server_answers_with_log_probs(local_server):
    assert ask(local_server.base_url, "GET", "/health") == {"status": "ok"}
    told = logprobs(complete(local_server, query(local_server, QUERIES[0]), cached=True))
    assert len(told) == LISTED
    assert max(told.values()) < 0


def test_the_server_listens_on_loopback_alone(local_server):
    address = urlsplit(local_server.base_url)
    assert address.hostname == "127.0.0.1"
    # 127.0.0.2 is this machine too: a server bound to every interface would answer there.
    for elsewhere in ("127.0.0.2", "::1"):
        with pytest.raises(OSError), socket.create_connection((elsewhere, address.port or 0), timeout=1):  # noqa: PT011
            pass


def test_a_web_page_may_not_read_the_server_and_there_is_no_user_interface(local_server):
    connection = HTTPConnection(urlsplit(local_server.base_url).netloc, timeout=10)
    connection.request("GET", "/health", headers={"Origin": "http://example.org"})
    reply = connection.getresponse()
    reply.read()
    assert reply.getheader("Access-Control-Allow-Origin") in (None, "")
    connection.request("GET", "/")
    assert connection.getresponse().status == 404
    connection.close()


def test_the_server_says_what_its_numbers_depend_on(local_server):
    assert local_server.context_tokens == 8192
    assert local_server.identity["parameters"]["n_ctx"] == 8192
    assert local_server.identity["server"] == "xllamacpp"


# --- that its numbers repeat ------------------------------------------------------------------------------


def test_a_prefix_hit_equals_a_cold_run(local_server):
    for text in QUERIES:
        prompt = query(local_server, text)
        cold = complete(local_server, prompt, cached=False)
        complete(local_server, query(local_server, "something else"), cached=False)
        warm = complete(local_server, prompt, cached=True)
        assert warm["timings"]["cache_n"] > 20
        assert furthest(cold, warm) <= EQUAL_NATS


def test_two_new_tokens_are_enough_for_a_prefix_hit_to_equal_a_cold_run(local_server):
    prompt = query(local_server, QUERIES[0])
    cold = complete(local_server, prompt, cached=False)
    complete(local_server, prompt[:-2], cached=False)
    warm = complete(local_server, prompt, cached=True)
    assert warm["timings"]["prompt_n"] == 2
    assert furthest(cold, warm) <= EQUAL_NATS


def test_concurrent_requests_equal_sequential_ones(local_model):
    with start_server(ServerSettings(local_model, context_tokens=SMALL, slots=2)) as server:
        prompts = [query(server, text) for text in QUERIES]
        alone = [complete(server, prompt, cached=False, slot=0) for prompt in prompts]
        with ThreadPoolExecutor(2) as pool:
            for cached in (False, True):
                # New prompts are always asked: a full hit, with one token to evaluate, is another matter.
                together = pool.map(
                    lambda k, cached=cached: complete(server, prompts[k], cached=cached, slot=k % 2),
                    range(len(prompts)),
                )
                assert max(map(furthest, alone, together)) <= EQUAL_NATS


async def test_a_model_opens_as_a_provider_whose_labels_are_exact(local_model):
    request = NextTokenRequest(Prompt(query="Review: a lovely day\nSentiment:"), wanted=(" positive", " negative"))
    async with open_local(str(local_model), cache_dir=local_model.parent, context_tokens=SMALL) as provider:
        reply = await provider.send(request)
        assert provider.capabilities.context_tokens == SMALL - 1
        assert "127.0.0.1" not in json.dumps(provider.identity), "answers keep when the port changes"
    assert {" positive", " negative"} <= {candidate.text for candidate in reply.candidates}


# --- when it ends -----------------------------------------------------------------------------------------

PARENT = f"""
import sys, threading
from pathlib import Path
from icm_api.local.server import ServerSettings, start_server
with start_server(ServerSettings(Path(sys.argv[1]), context_tokens={SMALL})) as server:
    print(server.pid, flush=True)
    threading.Event().wait()
"""


def test_the_server_is_gone_after_its_context(local_model):
    with start_server(ServerSettings(local_model, context_tokens=SMALL)) as server:
        assert is_running(server.pid)
    assert not is_running(server.pid)
    with pytest.raises(ConnectionRefusedError):
        ask(server.base_url, "GET", "/health")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_server_is_gone_when_its_parent_is_ended_by(number, local_model):
    command = [sys.executable, "-c", PARENT, str(local_model)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True
    ) as parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert is_running(server)
        # Ctrl-C in a terminal reaches the whole process group, the server too.
        (os.killpg if number == signal.SIGINT else os.kill)(parent.pid, number)
        assert parent.wait(10) != 0
    assert ends_within(server, limit_s=10)


def test_ctrl_c_alone_does_not_end_the_server(local_server):
    os.kill(local_server.pid, signal.SIGINT)
    assert ask(local_server.base_url, "GET", "/health") == {"status": "ok"}


def test_serving_goes_on_until_it_is_interrupted(local_model):
    said: list[str] = []

    def announce(base_url: str) -> None:
        said.append(base_url)
        assert ask(base_url, "GET", "/health") == {"status": "ok"}
        raise KeyboardInterrupt

    serve_until_stopped(str(local_model), cache_dir=local_model.parent, announce=announce, context_tokens=SMALL)
    with pytest.raises(ConnectionRefusedError):
        ask(said[0], "GET", "/health")


# --- what it refuses --------------------------------------------------------------------------------------


def test_more_context_than_the_model_was_trained_for_is_refused(local_model):
    with (
        pytest.raises(ConfigError, match="trained for 8192 tokens of context: 8448 were asked for"),
        start_server(ServerSettings(local_model, context_tokens=8448)),
    ):
        pass


def test_a_file_that_is_no_model_is_refused_in_llama_cpps_words(tmp_path):
    (tmp_path / "note.gguf").write_text("hello")
    with (
        pytest.raises(ProviderError, match=r"(?s)exit code 1.*expected 'GGUF'"),
        start_server(ServerSettings(tmp_path / "note.gguf")),
    ):
        pass
