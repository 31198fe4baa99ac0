"""How often each label occurs, read off the scores: one bell curve a label, of one common shape.

Averaged scores of examples with the same true label lie around a centre of their own, even when the labels shown in
context were drawn under wrong shares. The sizes of these clusters, and not how many examples each label was given,
tell the shares. Fitted by expectation maximisation (Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np

from icm_api.core.calibrate import Floats, calibrated, log_softmax

MOST_STEPS = 200
TOLERANCE = 1e-6
ODDS_TRIED = tuple(2.0**power for power in range(-5, 6))
"""Of a label against the mean of the others: 3 % to 97 % of two labels."""
ODDS_RANGED = tuple(2.0 ** (power / 3) for power in range(-15, 16))
"""The same, closer together: 44, 50 and 56 % are neighbours."""
TRIED_UP_TO = 4
"""Labels; with more, trying shares for each would take longer than a pass, and even shares are the only start."""
CLEARLY_NATS = 3.0
"""By how much shares must be likelier than others to be believed against them: 20 to 1. Scores of examples asked after
one another are not independent, and clouds are not quite normal, so the usual 2 nats are passed by chance too often."""
PSEUDO_EXAMPLES = 2.0
"""Added to each label's count, so that no cluster shrinks to a single example."""
LEAST_VARIANCE = 1e-2
COLDEST = 0.1
"""Lowest temperature that clusters are trusted to give."""
HALVINGS = 20

ShareRule: TypeAlias = Callable[[Floats], Floats]
"""Shares (labels,) for the weighted counts of the clusters: a step of the maximisation."""
Range: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A fitted mixture; its clusters are named by the label that is likeliest where they lie."""

    shares: Floats
    """(labels,)"""
    posteriors: Floats
    """(n, labels) probability that an example belongs to each label's cluster."""
    loglik_nats: float
    """Of all examples, over that of a single cloud: how clearly the scores fall into clusters."""


def fit_mixture(logprobs: Floats, weights: Floats) -> Mixture:
    """Fit to label log-probabilities (n, labels) with weights (n,) of 0..1.

    Even shares stand unless others are likelier by `CLEARLY_NATS`: of these many are tried, for a fit that begins at
    even shares seldom finds a small cluster.
    """
    cloud, even, held = _fits(logprobs, weights, ODDS_TRIED)
    start = _likeliest([even, *(fit for fits in held for fit in fits if fit is not None)])
    free = _expectation_maximisation(cloud, start.posteriors, _as_counted)
    return _named(free if free.loglik_nats - even.loglik_nats > CLEARLY_NATS else even, cloud)


def share_ranges(logprobs: Floats, weights: Floats) -> tuple[Range, ...] | None:
    """For each label the least and the most of the tried shares that the scores do not speak clearly against (a profile
    likelihood); None for more than `TRIED_UP_TO` labels. Where the scores are one cloud, that is all of them."""
    _, even, held = _fits(logprobs, weights, ODDS_RANGED)
    if not held:
        return None
    k = len(even.shares)
    likeliest = _likeliest([even, *(fit for fits in held for fit in fits if fit is not None)]).loglik_nats
    possible = [
        [
            _share(odds, k)
            for odds, fit in zip(ODDS_RANGED, fits, strict=True)
            if fit is not None and likeliest - fit.loglik_nats <= CLEARLY_NATS
        ]
        for fits in held
    ]
    if k == 2:
        possible.insert(0, [1 - share for share in possible[0]])
    return tuple((min(shares), max(shares)) if shares else (0.0, 1.0) for shares in possible)


def _fits(
    logprobs: Floats, weights: Floats, odds_tried: Sequence[float]
) -> tuple[_Cloud, Mixture, list[list[Mixture | None]]]:
    """(cloud, the fit with even shares, for each label but the first of two those with one share of it held).

    None: a fit whose clusters changed places, so that the share is another label's.
    """
    k, cloud = logprobs.shape[1], _Cloud.of(logprobs, weights)
    start = np.exp(calibrated(logprobs, np.full(k, 1 / k), weights))
    even = _expectation_maximisation(cloud, start, _evenly)
    labels = range(1 if k == 2 else 0, k) if k <= TRIED_UP_TO else ()
    held = [[_with_share(cloud, logprobs, label, _share(odds, k)) for odds in odds_tried] for label in labels]
    return cloud, even, held


def _share(odds: float, n_labels: int) -> float:
    return odds / (odds + n_labels - 1)


def _with_share(cloud: _Cloud, logprobs: Floats, label: int, share: float) -> Mixture | None:
    shares = np.full(logprobs.shape[1], (1 - share) / (logprobs.shape[1] - 1))
    shares[label] = share
    start = np.exp(calibrated(logprobs, shares, cloud.weights))
    fit = _expectation_maximisation(cloud, start, _holding(label, share))
    return fit if _names(fit, cloud)[label] == label else None


def _evenly(counts: Floats) -> Floats:
    return np.full(len(counts), 1 / len(counts))


def _as_counted(counts: Floats) -> Floats:
    return cast(Floats, (counts + PSEUDO_EXAMPLES) / (counts + PSEUDO_EXAMPLES).sum())


def _holding(label: int, share: float) -> ShareRule:
    def rule(counts: Floats) -> Floats:
        shares = _as_counted(counts)
        shares *= (1 - share) / (1 - shares[label])
        shares[label] = share
        return shares

    return rule


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


def _expectation_maximisation(cloud: _Cloud, posteriors: Floats, rule: ShareRule) -> Mixture:
    """Its clusters are in the order of the posteriors it began with."""
    loglik = -np.inf
    for _ in range(MOST_STEPS):
        shares, joint = _joint(cloud, posteriors, rule)
        top = joint.max(axis=1)
        each = top + np.log(np.exp(joint - top[:, None]).sum(axis=1))
        new = float(cloud.weights @ each / cloud.weights.sum())
        posteriors = np.exp(log_softmax(joint))
        if abs(new - loglik) < TOLERANCE:
            break
        loglik = new
    gained = (new - _one_cloud_nats(cloud)) * float(cloud.weights.sum())
    return Mixture(shares, posteriors, gained)


def _joint(cloud: _Cloud, posteriors: Floats, rule: ShareRule) -> tuple[Floats, Floats]:
    """Maximisation for given posteriors; (shares, log joint density of each example and cluster up to a constant)."""
    counts, centres = cloud.centres(posteriors)
    shares = rule(counts)
    total = cloud.weights.sum()
    about_centres = cloud.second_moments - (counts[:, None] * centres).T @ centres
    whiten = _whitening(about_centres / total)
    points, centres = cloud.points @ whiten, centres @ whiten
    distance = (points**2).sum(axis=1)[:, None] - 2 * points @ centres.T + (centres**2).sum(axis=1)
    return shares, cast(Floats, np.log(shares) - 0.5 * distance + np.log(np.diag(whiten)).sum())


def _whitening(spread: Floats) -> Floats:
    """What makes points of this spread (labels - 1, labels - 1) have spread 1, once multiplied by it."""
    return cast(Floats, np.linalg.inv(np.linalg.cholesky(spread + LEAST_VARIANCE * np.eye(len(spread)))).T)


def _one_cloud_nats(cloud: _Cloud) -> float:
    """Mean log-likelihood of a single bell curve, up to the same constant."""
    whiten = _whitening(cloud.second_moments / cloud.weights.sum())
    distance = ((cloud.points @ whiten) ** 2).sum(axis=1)
    return float(np.log(np.diag(whiten)).sum() - 0.5 * cloud.weights @ distance / cloud.weights.sum())


def _named(fit: Mixture, cloud: _Cloud) -> Mixture:
    """Clusters in the order of the labels: each label takes the cluster whose centre favours it most."""
    order = _names(fit, cloud)
    return Mixture(fit.shares[order], fit.posteriors[:, order], fit.loglik_nats)


def _names(fit: Mixture, cloud: _Cloud) -> list[int]:
    """For each label its cluster."""
    _, centres = cloud.centres(fit.posteriors)
    return _best_assignment(log_softmax(np.hstack([np.zeros((len(centres), 1)), centres - centres.mean(axis=0)])))


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
