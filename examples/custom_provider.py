"""A model of your own behind an adapter of your own, here one that counts words: no host, no key, instant.

- `python examples/custom_provider.py` labels sixteen sentences with it.
- `python -m pytest examples/custom_provider.py` runs the checks on it that every built-in adapter passes.
- `PYTHONPATH=examples icm-api run DATA --provider custom_provider:WordCounter ...` uses it from the command line. An
  installed package can give it a name of its own, by an entry point in the group `icm_api.providers`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import pytest

import icm_api
from icm_api.errors import CapabilityError
from icm_api.providers.registry import ProviderSettings
from icm_api.testing import ProviderConformance
from icm_api.types import Candidate, Capabilities, Json, NextTokenReply, NextTokenRequest, Prompt, Request, Usage

R = TypeVar("R")


class WordCounter:
    """Expects the label whose demonstrations share the most words with the query (naive Bayes over words)."""

    name = "word-counter"
    model = "naive-bayes"
    # whatever else can change an answer belongs in here, since replies are cached by it; never a key
    identity: Mapping[str, Json] = {"provider": "word-counter", "version": 1}
    capabilities = Capabilities(
        exact_labels=True,  # every wanted label gets its own number; a host that lists 20 tokens says False
        max_top_k=None,
        continues_label=False,
        counts_tokens=False,
        plain_text_tokens=True,
        context_tokens=None,
    )

    def __init__(self, settings: ProviderSettings, api_key: str | None) -> None:
        """What the user said (`--model`, `--base-url`, ...), and the key, where --api-key-env names one."""

    async def send(self, request: Request[R]) -> R:
        """One question, one answer. An adapter of a real host turns its failures into `icm_api.errors` here (such as
        `RateLimitError`), and leaves retries, cache and limits to the client around it."""
        if not isinstance(request, NextTokenRequest) or request.continuation:
            raise CapabilityError(f"cannot answer a {request.kind} request", provider=self.name, model=self.model)
        expected = log_probs(request.prompt, request.wanted)
        listed = sorted((Candidate(label, nats) for label, nats in expected.items()), key=lambda c: -c.logprob_nats)
        return cast(R, NextTokenReply(tuple(listed), floor_nats=None, usage=Usage(), model=self.model))

    async def aclose(self) -> None:
        """Nothing is open."""


def log_probs(prompt: Prompt, labels: tuple[str, ...]) -> dict[str, float]:
    """Log-probability of each label after the prompt. Put your model here."""
    seen = {label: Counter(words(label)) for label in labels}  # a label's own word is all that is known beforehand
    for text, label in prompt.demonstrations:
        seen[label].update(words(text))
    vocabulary = len(set().union(*seen.values())) + 1
    scores = {
        label: sum(math.log((count[word] + 0.5) / (count.total() + vocabulary / 2)) for word in words(prompt.query))
        for label, count in seen.items()
    }
    total = max(scores.values()) + math.log(sum(math.exp(score - max(scores.values())) for score in scores.values()))
    return {label: score - total for label, score in scores.items()}


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


class TestWordCounter(ProviderConformance):
    @pytest.fixture
    def open_provider(self) -> Callable[[], WordCounter]:
        return lambda: WordCounter(ProviderSettings(), None)


SENTENCES = [
    "The sport of football needs eleven players and a ball.",
    "Cooking rice takes water, salt and a pot.",
    "The players lost the ball in the match.",
    "Boil the water, add salt and stir the pot.",
    "A goal in the last minute won the match.",
    "Stir the sauce in the pot and add pepper.",
    "The team won with a late goal.",
    "Add butter and pepper to the sauce.",
    "Her team played a fine match and won.",
    "Melt butter in a pan, then add the onions.",
    "Eleven players of the team ran for the ball.",
    "Fry the onions in the pan with oil.",
    "He kicked the ball and it was a goal.",
    "Add oil and salt to the water and boil.",
    "The match was lost in the last minute.",
    "Stir the onions, then boil the rice in the pot.",
]


def main() -> None:
    rows = [{"text": text} for text in SENTENCES]
    result = icm_api.label(
        rows, task="classify", labels=["sport", "cooking"], provider="custom_provider:WordCounter", cache=False
    )
    for row, text in zip(result.rows, SENTENCES, strict=True):
        print(f"{row.label:8} {row.confidence:.2f}  {text}")


if __name__ == "__main__":
    main()
