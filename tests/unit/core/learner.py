"""A scorer that learns in context, over examples with hidden classes: what a model does, without one.

Each example shows evidence of its class. The learner begins with a weak notion of what the labels mean, counts which
evidence came with which label in the context, and predicts by these counts, plus a bias towards the last label.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from icm_api.core.calibrate import Floats, log_softmax
from icm_api.core.context import Chain, Query
from icm_api.types import LabelScore


class Learner:
    """`signal`: how clearly an example shows its class against noise of 1. `meaning`: what the labels mean before any
    demonstration, in demonstrations' worth. `bias`: nats added to the last label. Everything asked is remembered."""

    def __init__(
        self,
        truth: Sequence[int],
        n_labels: int = 2,
        *,
        signal: float = 4.0,
        meaning: float = 0.5,
        bias: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.n_labels, self.meaning, self.bias = n_labels, meaning, bias
        shown = np.random.default_rng(seed).standard_normal((len(truth), n_labels))
        shown[np.arange(len(truth)), list(truth)] += signal
        self.evidence: Floats = np.exp(log_softmax(shown))
        self.queries: list[Query] = []
        self.chains: list[Chain] = []

    @property
    def asked(self) -> int:
        return len(self.queries) + sum(len(chain.scored) for chain in self.chains)

    async def score(self, queries: Sequence[Query]) -> list[LabelScore]:
        self.queries += queries
        return [self._predict(query.example, self._learn(query.demonstrations)) for query in queries]

    async def score_chains(self, chains: Sequence[Chain]) -> list[list[LabelScore]]:
        self.chains += chains
        return [self._walk(chain) for chain in chains]

    def _walk(self, chain: Chain) -> list[LabelScore]:
        counts, scores = self._learn(chain.examples[: chain.first]), []
        for example, label in chain.examples[chain.first :]:
            scores.append(self._predict(example, counts))
            counts[:, label] += self.evidence[example]
        return scores

    def _learn(self, demonstrations: Sequence[tuple[int, int]]) -> Floats:
        """(classes, labels): how often each came with each."""
        counts = self.meaning * np.eye(self.n_labels) + 0.5
        for example, label in demonstrations:
            counts[:, label] += self.evidence[example]
        return counts

    def _predict(self, example: int, counts: Floats) -> LabelScore:
        logits = np.log(self.evidence[example] @ (counts / counts.sum(axis=1, keepdims=True)))
        logits[-1] += self.bias
        return LabelScore(tuple(log_softmax(logits).tolist()), 0.9, (False,) * self.n_labels)


def accuracy(labels: Sequence[int | None], truth: Sequence[int]) -> float:
    """Share of the labels that are right."""
    return sum(a == b for a, b in zip(labels, truth, strict=True)) / len(truth)
