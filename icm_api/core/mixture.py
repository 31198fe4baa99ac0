"""How often each label occurs, read off the scores: one bell curve a label, of one common shape.

Averaged scores of examples with the same true label lie around a centre of their own, even when the labels shown in
context were drawn under wrong shares. The sizes of these clusters, and not how many examples each label was given,
tell the shares. Fitted by expectation maximisation (Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np

from icm_api.core.calibrate import Floats, calibrated, log_softmax

MOST_STEPS = 200
TOLERANCE = 1e-6
MANY_STARTS_UP_TO = 4
"""Labels; with more, a fit from each start would take longer than a pass, and even shares are the only start."""
PSEUDO_EXAMPLES = 2.0
"""Added to each label's count, so that no cluster shrinks to a single example."""
LEAST_VARIANCE = 1e-2
COLDEST = 0.1
"""Lowest temperature that clusters are trusted to give."""
HALVINGS = 20


@dataclass(frozen=True, slots=True)
class Mixture:
    """A fitted mixture; its clusters are named by the label that is likeliest where they lie."""

    shares: Floats
    """(labels,)"""
    posteriors: Floats
    """(n, labels) probability that an example belongs to each label's cluster."""
    loglik_nats: float
    """Mean over the examples, up to a constant."""


def fit_mixture(logprobs: Floats, weights: Floats, *, even_unless_clear: bool = True) -> Mixture:
    """Fit to label log-probabilities (n, labels) with weights (n,) of 0..1; of several starts the likeliest.

    With `even_unless_clear`, even shares stand unless free ones are likelier by more than their cost (the Bayesian
    information criterion, Schwarz 1978): a few dozen examples leave the shares uncertain by some hundredths. One cloud
    with long tails can still pass for a large and a small cluster.
    """
    k, n = logprobs.shape[1], float(weights.sum())
    cloud = _Cloud.of(logprobs, weights)
    candidates = candidate_shares(k)[: None if k <= MANY_STARTS_UP_TO else 1]
    starts = [np.exp(calibrated(logprobs, shares, weights)) for shares in candidates]
    free = _likeliest([_expectation_maximisation(cloud, start, even=False) for start in starts])
    if not even_unless_clear:
        return free
    even = _likeliest([_expectation_maximisation(cloud, start, even=True) for start in starts])
    cost = 0.5 * (k - 1) * np.log(n) / n
    return free if free.loglik_nats - cost > even.loglik_nats else even


def _likeliest(fits: Sequence[Mixture]) -> Mixture:
    return max(fits, key=lambda fit: fit.loglik_nats)


def cluster_temperature(logprobs: Floats, calibrated_logprobs: Floats, weights: Floats) -> float:
    """By what to divide calibrated log-probabilities (n, labels), so that they are as sure as the clusters are clear:
    `COLDEST` to 1, at which the mean probability of the likeliest label is that of the likeliest cluster.

    Contexts with wrong labels pull all scores towards each other, so averaged probabilities are less sure than the
    labels are right; how far the clusters of the raw scores stand apart does not change by that. Never above 1: one
    cloud tells nothing about how sure its scores are.
    """
    clear = float(weights @ fit_mixture(logprobs, weights).posteriors.max(axis=1) / weights.sum())
    coldest, warmest = COLDEST, 1.0
    if _sureness(calibrated_logprobs, weights, warmest) >= clear:
        return warmest
    for _ in range(HALVINGS):  # the colder, the surer
        middle = float(np.sqrt(coldest * warmest))
        surer = _sureness(calibrated_logprobs, weights, middle) >= clear
        coldest, warmest = (middle, warmest) if surer else (coldest, middle)
    return coldest


def _sureness(logprobs: Floats, weights: Floats, temperature: float) -> float:
    return float(weights @ np.exp(log_softmax(logprobs / temperature)).max(axis=1) / weights.sum())


def candidate_shares(n_labels: int) -> list[Floats]:
    """Even shares, and for each label some where it is rarer or more frequent than the others."""
    shares = [np.full(n_labels, 1 / n_labels)]
    for label in range(n_labels if n_labels > 2 else 1):
        for odds in (0.1, 1 / 3, 3.0, 10.0):
            weighted = np.ones(n_labels)
            weighted[label] = odds
            shares.append(weighted / weighted.sum())
    return shares


@dataclass(frozen=True, slots=True)
class _Cloud:
    points: Floats
    """(n, labels - 1) log-odds against the first label, less their mean."""
    weights: Floats
    second_moments: Floats
    """(labels - 1, labels - 1) weighted sum of the points' outer products."""

    @classmethod
    def of(cls, logprobs: Floats, weights: Floats) -> _Cloud:
        """Moved to have mean 0, so that moments about other centres come out exact."""
        points = logprobs[:, 1:] - logprobs[:, :1]
        points = points - weights @ points / weights.sum()
        return cls(points, weights, points.T @ (weights[:, None] * points))

    def centres(self, posteriors: Floats) -> tuple[Floats, Floats]:
        """(labels,) weighted counts of the clusters, and (labels, labels - 1) their means."""
        counted = self.weights[:, None] * posteriors
        counts = counted.sum(axis=0)
        return counts, (counted.T @ self.points) / np.maximum(counts, 1e-9)[:, None]


def _expectation_maximisation(cloud: _Cloud, posteriors: Floats, *, even: bool) -> Mixture:
    loglik = -np.inf
    for _ in range(MOST_STEPS):
        shares, joint = _joint(cloud, posteriors, even=even)
        top = joint.max(axis=1)
        each = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
        new = float(cloud.weights @ each / cloud.weights.sum())
        posteriors = np.exp(log_softmax(joint))
        if abs(new - loglik) < TOLERANCE:
            break
        loglik = new
    return _named(Mixture(shares, posteriors, new), cloud)


def _joint(cloud: _Cloud, posteriors: Floats, *, even: bool) -> tuple[Floats, Floats]:
    """Maximisation for given posteriors; (shares, log joint density of each example and cluster up to a constant)."""
    counts, centres = cloud.centres(posteriors)
    smoothed = np.ones_like(counts) if even else counts + PSEUDO_EXAMPLES
    shares = smoothed / smoothed.sum()
    total = cloud.weights.sum()
    about_centres = cloud.second_moments - (counts[:, None] * centres).T @ centres
    spread = about_centres / total + LEAST_VARIANCE * np.eye(len(about_centres))
    whiten = np.linalg.inv(np.linalg.cholesky(spread)).T
    points, centres = cloud.points @ whiten, centres @ whiten
    distance = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return shares, cast(Floats, np.log(shares) - 0.5 * distance + np.log(np.diag(whiten)).sum())


def _named(fit: Mixture, cloud: _Cloud) -> Mixture:
    """Clusters in the order of the labels: each label takes the cluster whose centre favours it most."""
    _, centres = cloud.centres(fit.posteriors)
    favour = log_softmax(np.hstack([np.zeros((len(centres), 1)), centres - centres.mean(axis=0)]))
    order = _best_assignment(favour)
    return Mixture(fit.shares[order], fit.posteriors[:, order], fit.loglik_nats)


def _best_assignment(favour: Floats) -> list[int]:
    """For each label a cluster, greedily by how much the cluster favours it."""
    left, order = set(range(len(favour))), [-1] * len(favour)
    pairs: Iterable[tuple[int, int]] = sorted(
        ((c, k) for c in left for k in left), key=lambda pair: -float(favour[pair])
    )
    for cluster, label in pairs:
        if cluster in left and order[label] < 0:
            order[label] = cluster
            left.discard(cluster)
    return order
