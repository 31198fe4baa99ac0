"""The utility that the search maximises (section 2 of arXiv 2506.10139)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from icm_api.types import LabelScore, Relation

Objective = Literal["mean", "paper-sum"]

ALPHA = 50.0
"""The upper end of what the paper uses (appendix A: between 20 and 50)."""


@dataclass(frozen=True, slots=True)
class Utility:
    """U = alpha x mutual predictability - violations; higher is better."""

    value: float
    predictability_nats: float
    """Mean over the labelled examples of log p(its label | the others), at most 0."""
    violations: int
    """Hard relations that are broken."""


def utility(
    labels: Sequence[int | None],
    scores: Sequence[LabelScore | None],
    violated: Sequence[Relation],
    *,
    alpha: float = ALPHA,
    objective: Objective = "mean",
) -> Utility:
    """U of a partial labelling, from the label scores of its labelled examples (nats) and the relations it breaks.

    The paper sums log-probabilities, so that the weight of one contradiction shrinks as the data grow and every
    added example lowers U; `mean` (the default, as in the authors' code) makes alpha mean the same at every size.
    A broken hard relation costs 1 (the paper's double sum counts a symmetric pair twice). A broken soft one costs its
    price, which is in nats and so counts against the log-probabilities, as it does for the solver.
    """
    terms = [
        score.logprobs_nats[label]
        for label, score in zip(labels, scores, strict=True)
        if label is not None and score is not None
    ]
    n = max(len(terms), 1)
    total, price = sum(terms), sum(relation.price or 0.0 for relation in violated)
    hard = sum(relation.price is None for relation in violated)
    scale = n if objective == "mean" else 1
    return Utility(alpha * (total - price) / scale - hard, total / n, hard)
