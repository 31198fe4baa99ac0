"""From averaged label scores to the log-probabilities that labels are taken and shown by.

Two things are wrong with an average as it comes: the model's pull towards some label is still in it, and contexts with
wrong labels made it less sure than the labels are right.
"""

from __future__ import annotations

import numpy as np

from icm_api.core.calibrate import Floats, Ints, log_softmax, offsets
from icm_api.core.mixture import cluster_temperature
from icm_api.core.passes import Average

LEAST_TO_ESTIMATE = 8
"""Examples a label below which shares are not read off the scores."""
COLDEST = 0.1
"""Lowest temperature to calibrate draws at: nearly counts, yet smooth."""
JUDGED_AT = 0.5
"""Temperature at which the labels that are kept are calibrated. Towards 0 their counts are the shares, which is right
where scores are weak; at 1 only their mean probabilities are, which forgives a wrong estimate where scores are clear.
This is between."""
MOST_IN_CLUSTERS = 2_000
"""Examples that clusters are read off; more would tell the same and take longer."""


def calibrated_at(average: Average, shares: Floats, heat: float, among: Ints | None = None) -> Floats:
    """Log-probabilities (n, labels) under the shares, where a score is known (of the examples `among`).

    The offsets are those at which labels drawn at this temperature have the shares: counts of labels, and not only
    their mean probabilities. With weak scores the mean could be right and a rare label still be nobody's likeliest.
    """
    chosen = average.known
    if among is not None:
        chosen = chosen & np.isin(np.arange(len(chosen)), among)
    result, temperature = average.logprobs, max(heat, COLDEST)
    if chosen.any():
        pull = temperature * offsets(result[chosen] / temperature, shares, average.trust[chosen])
        result[chosen] = log_softmax(result[chosen] + pull)
    return result


def as_sure_as_clusters(average: Average, logprobs: Floats) -> Floats:
    """Calibrated log-probabilities (n, labels) as they are shown: divided by `cluster_temperature`, and renormalised.
    Where too few examples are known to see clusters they stay as they are."""
    known = to_fit(average, logprobs.shape[1])
    if known is None:
        return logprobs
    return log_softmax(logprobs / cluster_temperature(average.logprobs[known], logprobs[known], average.trust[known]))


def to_fit(average: Average, n_labels: int) -> Ints | None:
    """Examples whose scores show the clusters, `MOST_IN_CLUSTERS` at most; None where there are too few."""
    known = np.flatnonzero(average.known)
    if len(known) < LEAST_TO_ESTIMATE * n_labels:
        return None
    if len(known) > MOST_IN_CLUSTERS:  # at random: files are sorted, and every second row may be a swapped pair's
        known = np.sort(np.random.default_rng(0).choice(known, MOST_IN_CLUSTERS, replace=False))
    return known
