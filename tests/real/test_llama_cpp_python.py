"""The server of llama-cpp-python, with the weights that the embedded llama.cpp server has: do their numbers agree?"""

import importlib.util
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icm_api.core.context import Query
from icm_api.core.labels import argmax_label
from icm_api.errors import CapabilityError
from icm_api.local.server import LocalServer
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.run.scorer import PromptScorer
from icm_api.types import Label, LabelScore, NextTokenReply, NextTokenRequest, Position, Prompt, SequenceRequest

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("llama_cpp", "uvicorn", "starlette_context")),
        reason="llama-cpp-python[server] is not installed (it is built from source, for a quarter of an hour)",
    ),
]

SAME_NATS = 0.2
"""Measured: 0.09 within one server, which evaluates a sequence in other batches than its last token."""
SAME_SHARE = 0.1
"""Of the probability, between two builds of llama.cpp, whose kernels round quantised weights differently. In nats that
is most for labels that are unlikely: 0.51 was seen, at a probability of 0.001."""
STARTS_WITHIN_S = 60
LABELS = (Label("animal", " animal"), Label("object", " object"))
WORDS = re.findall(
    r"\w+",
    "cat hammer horse spoon robin window tiger ladder frog bottle mouse table whale carpet eagle mirror rabbit "
    "kettle shark pillow goat bucket otter candle moose wallet zebra ribbon llama saddle crow button seal needle "
    "panda teapot badger pencil lion fork",
)
SHOWN = tuple((k, k % 2) for k in range(8))
TEXTS = [f"Word: {word}\nKind:" for word in WORDS]


def started(model: Path, *more: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1", "--port", port]
    process = subprocess.Popen(
        [*command, "--n_ctx", "512", "--n_threads", "2", "--verbose", "False", *more], stderr=subprocess.DEVNULL
    )
    try:
        _wait_for(process, int(port))
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def _wait_for(process: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + STARTS_WITHIN_S
    while process.poll() is None and time.monotonic() < until:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the server of llama-cpp-python did not start")


@pytest.fixture(scope="module")
def as_it_is(local_model: Path) -> Iterator[str]:
    """The model has no BOS."""
    yield from started(local_model)


@pytest.fixture(scope="module")
def with_bos(local_model: Path) -> Iterator[str]:
    yield from started(local_model, "--kv_overrides", "tokenizer.ggml.add_bos_token=bool:true")


def adapter(base_url: str) -> OpenAICompatible:
    return OpenAICompatible(base_url=base_url, model="tiny", api_key=None, route="completions", top_k=200, echo=True)


async def scores(provider: OpenAICompatible | LlamaCpp, n: int) -> list[LabelScore]:
    try:
        scorer = PromptScorer(provider, LABELS, TEXTS, min_mass=0.0, concurrency=1)
        return await scorer.score([Query(len(SHOWN) + k, SHOWN) for k in range(n)])
    finally:
        await provider.aclose()


async def test_labels_are_those_of_the_native_route(as_it_is, local_server: LocalServer):
    native = await scores(await LlamaCpp.connect(base_url=local_server.base_url), 32)
    theirs = await scores(adapter(as_it_is), 32)
    assert not any(any(score.bounded) for score in theirs)
    pairs = list(zip(native, theirs, strict=True))
    shares = [[[math.exp(nats) for nats in score.logprobs_nats] for score in pair] for pair in pairs]
    apart = max(abs(a - b) for one, other in shares for a, b in zip(one, other, strict=True))
    changed = [_margin(one) for one, other in pairs if argmax_label(one) != argmax_label(other)]
    print(f"{len(pairs)} examples: {len(changed)} other labels (margins {changed}), shares differ by up to {apart:.4f}")
    assert apart < SAME_SHARE
    assert all(margin < SAME_NATS for margin in changed)


def _margin(score: LabelScore) -> float:
    """Nats by which the likelier label leads."""
    first, second = sorted(score.logprobs_nats, reverse=True)
    return round(first - second, 4)


def sequence(n: int) -> Prompt:
    return Prompt(TEXTS[n], tuple((TEXTS[k], LABELS[label].text) for k, label in SHOWN[:n]))


async def test_the_echo_of_a_model_without_bos_is_refused(as_it_is):
    host = adapter(as_it_is)
    try:
        with pytest.raises(CapabilityError, match="the echo ends with the prompt"):
            await host.send(SequenceRequest(sequence(8), tuple(label.text for label in LABELS)))
    finally:
        await host.aclose()


async def test_the_echo_of_a_model_with_bos_agrees_with_next_token_requests(with_bos):
    host, wanted = adapter(with_bos), tuple(label.text for label in LABELS)
    try:
        positions = (await host.send(SequenceRequest(sequence(8), wanted, first=4))).positions
        alone = [await host.send(NextTokenRequest(sequence(k), wanted)) for k in range(4, 9)]
    finally:
        await host.aclose()
    apart = [
        abs(_value(position, text) - _value(reply, text))
        for position, reply in zip(positions, alone, strict=True)
        for text in wanted
    ]
    print(f"{len(apart)} echoed log-probs differ by at most {max(apart):.4f} nats from those asked for alone")
    assert max(apart) < SAME_NATS


def _value(reply: Position | NextTokenReply, text: str) -> float:
    return math.fsum(c.logprob_nats for c in reply.candidates if c.text == text)
