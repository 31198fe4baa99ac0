"""Walks and echo on the embedded llama.cpp server: the numbers hold and the prefix cache is used."""

import math
import re
from typing import Any

import pytest

from icm_api.core.context import Chain, Query
from icm_api.errors import CapabilityError
from icm_api.local.server import LocalServer
from icm_api.providers.llama_cpp import LlamaCpp
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.run.scorer import PromptScorer
from icm_api.types import Label, LabelScore, Prompt, SequenceRequest, Usage

pytestmark = pytest.mark.real

EQUAL_NATS = 1e-6
"""Measured: no difference at all. The allowance is for other processors."""
LABELS = (Label("animal", " animal"), Label("object", " object"))
WORDS = re.findall(
    r"\w+",
    "cat hammer horse spoon robin window tiger ladder frog bottle mouse table whale carpet eagle mirror rabbit "
    "kettle shark pillow goat bucket otter candle moose wallet zebra ribbon llama saddle crow button seal needle "
    "panda teapot badger pencil lion fork",
)
TEXTS = [f"Word: {word}\nKind:" for word in WORDS]


class Overheard:
    """A provider, with what its replies said of their cost."""

    def __init__(self, inner: LlamaCpp) -> None:
        self.inner, self.usages = inner, list[Usage]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    async def send(self, request: Any) -> Any:
        reply = await self.inner.send(request)
        self.usages.append(reply.usage)
        return reply


@pytest.fixture
async def provider(local_server: LocalServer):
    opened = await LlamaCpp.connect(base_url=local_server.base_url, server=local_server.identity)
    yield Overheard(opened)
    await opened.aclose()


def scorer(provider: Any, beginning: str) -> PromptScorer:
    """`beginning` keeps a test from what another has left in the server's cache."""
    return PromptScorer(provider, LABELS, TEXTS, preamble=beginning, min_mass=0.0)


def chain(n: int) -> Chain:
    return Chain(tuple((k, k % 2) for k in range(n)))


def values(score: LabelScore | None) -> list[float]:
    assert score is not None
    return [*score.logprobs_nats, math.log(score.mass)]


async def test_a_walk_gives_what_single_requests_from_an_empty_cache_give(provider):
    (walked,) = await scorer(provider, "Sort these.").score_chains([chain(10)])
    for k in (0, 3, 6, 9):
        await scorer(provider, f"Other {k}.").score([Query(k, chain(4).examples)])  # leaves nothing to continue from
        (alone,) = await scorer(provider, "Sort these.").score([Query(k, chain(10).examples[:k])])
        assert provider.usages[-1].cached_tokens in (0, None)
        assert values(walked[k]) == pytest.approx(values(alone), abs=EQUAL_NATS)
    assert not any(score is None or any(score.bounded) for score in walked)


async def test_the_prefix_cache_holds_on_a_long_walk(provider):
    walker = scorer(provider, "Animal or object?")
    (walked,) = await walker.score_chains([chain(40)])
    assert len(walked) == 40
    read = sum(usage.prompt_tokens for usage in provider.usages)
    assert sum(usage.cached_tokens for usage in provider.usages) / read >= 0.9
    assert walker.walk_cached_share == pytest.approx(1, abs=0.01)


async def test_echo_is_refused_because_the_server_ignores_it(local_server):
    host = OpenAICompatible(
        base_url=f"{local_server.base_url}/v1", model="any", api_key=None, route="completions", echo=True
    )
    prompt = Prompt(TEXTS[2], ((TEXTS[0], " animal"), (TEXTS[1], " object")))
    with pytest.raises(CapabilityError, match="the host ignored echo"):
        await host.send(SequenceRequest(prompt, (" animal", " object")))
    await host.aclose()
