"""The utility that the search maximises (section 2 of arXiv 2506.10139)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from icm_api.types import LabelScore

Objective = Literal["mean", "paper-sum"]


@dataclass(frozen=True, slots=True)
class Utility:
    """U = alpha x mutual predictability - violations; higher is better."""

    value: float
    predictability_nats: float
    """Mean over the labelled examples of log p(its label | the others), at most 0."""
    violations: int


def utility(
    labels: Sequence[int | None],
    scores: Sequence[LabelScore | None],
    violations: int,
    *,
    alpha: float,
    objective: Objective = "mean",
) -> Utility:
    """U of a partial labelling, from the label scores of its labelled examples (nats).

    The paper sums log-probabilities, so that the weight of one contradiction shrinks as the data grow and every
    added example lowers U; `mean` (the default, as in the authors' code) makes alpha mean the same at every size.
    `violations` counts broken relations, each once (the paper's double sum counts a symmetric pair twice).
    """
    terms = [
        score.logprobs_nats[label]
        for label, score in zip(labels, scores, strict=True)
        if label is not None and score is not None
    ]
    total = sum(terms)
    mean = total / len(terms) if terms else 0.0
    predictability = mean if objective == "mean" else total
    return Utility(alpha * predictability - violations, mean, violations)
