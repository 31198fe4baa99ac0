"""Label probabilities under assumed shares of the labels, and what they tell about the examples.

A model asked in context has a pull towards some label that says nothing about the example (label bias). It adds the
same offsets to the log-probabilities of all examples, so it shows in their mean and can be taken out there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEWTON_STEPS = 60
SHARE_TOLERANCE = 1e-9


def log_softmax(logits: Floats) -> Floats:
    """Along the last axis, without overflow."""
    return logits - log_sum_exp(logits)[..., None]


def log_sum_exp(logits: Floats) -> Floats:
    """Along the last axis, without overflow: column by column, since labels are few and examples many."""
    columns = list(np.moveaxis(logits, -1, 0))
    top = reduce(np.maximum, columns)
    return cast(Floats, top + np.log(sum(np.exp(column - top) for column in columns)))


def offsets(logprobs: Floats, shares: Floats, weights: Floats | None = None) -> Floats:
    """What to add to each column of `logprobs` (n, labels), so that the mean probability of each label is its share.

    `shares` (labels,) sum to 1, none is 0; `weights` (n,) of the rows, even by default. The offsets minimise a convex
    function (mean log-partition less shares . offsets), found by damped Newton steps; the first offset is 0.
    """
    row_weights = np.full(len(logprobs), 1 / len(logprobs)) if weights is None else weights / weights.sum()

    def loss(b: Floats) -> float:
        return float(row_weights @ log_sum_exp(logprobs + b) - shares @ b)

    b = np.zeros(logprobs.shape[1])
    for _ in range(NEWTON_STEPS):
        p = np.exp(log_softmax(logprobs + b))
        gradient = row_weights @ p - shares
        if np.abs(gradient).max() < SHARE_TOLERANCE:
            break
        b = _descend(loss, b, _newton_direction(p, gradient, row_weights))
    return cast(Floats, b - b[0])


def _newton_direction(p: Floats, gradient: Floats, weights: Floats) -> Floats:
    hessian = np.diag(weights @ p) - p.T @ (weights[:, None] * p)
    # The offsets matter up to a constant, so one direction is flat; and saturated rows leave next to no curvature.
    ridge = 1e-9 + 1e-3 * np.abs(gradient).max()
    return cast(Floats, -np.linalg.solve(hessian + ridge * np.eye(len(gradient)), gradient))


def _descend(loss: Callable[[Floats], float], b: Floats, direction: Floats) -> Floats:
    """A step down along the direction, halved until the loss does not grow; at most 5 nats long."""
    longest = np.abs(direction).max()
    step = min(1.0, 5.0 / longest) if longest > 0 else 1.0
    here = loss(b)
    while step > 1e-6 and loss(b + step * direction) > here:
        step /= 2
    return cast(Floats, b + step * direction)


def calibrated(logprobs: Floats, shares: Floats, weights: Floats | None = None) -> Floats:
    """Log-probabilities (n, labels), renormalised, whose mean probabilities are the shares."""
    return log_softmax(logprobs + offsets(logprobs, shares, weights))


def information(logprobs: Floats, labels: Sequence[int] | Ints, weights: Floats | None = None) -> float:
    """How much an example's text tells about its label, nats: mean of log p(label | text) - log of the mean p(label).

    At most the entropy of the labels, so never above 0 for one label for all, whatever the probabilities: what the text
    cannot tell, no utility rewards. It is 0 when every text gives the same probabilities.
    """
    w = np.full(len(logprobs), 1 / len(logprobs)) if weights is None else weights / weights.sum()
    top = logprobs.max(axis=0)
    mean = top + np.log(w @ np.exp(logprobs - top))
    chosen = np.asarray(labels)
    return float(w @ (logprobs[np.arange(len(chosen)), chosen] - mean[chosen]))
