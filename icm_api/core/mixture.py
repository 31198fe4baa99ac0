"""How often each label occurs, read off the scores: one bell curve a label, of one common shape.

Averaged scores of examples with the same true label lie around a centre of their own, even when the labels shown in
context were drawn under wrong shares. The sizes of these clusters, and not how many examples each label was given,
tell the shares. Fitted by expectation maximisation (Dempster, Laird and Rubin 1977).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, cast

import numpy as np

from icm_api.core.calibrate import Floats, calibrated, log_softmax, log_sum_exp

MOST_STEPS = 200
TOLERANCE = 1e-6
ODDS_TRIED = tuple(2.0**power for power in range(-5, 6))
"""Of a label against the mean of the others: 3 % to 97 % of two labels."""
ODDS_RANGED = tuple(2.0 ** (power / 3) for power in range(-15, 16))
"""The same, closer together: 44, 50 and 56 % are neighbours."""
TRIED_UP_TO = 4
"""Labels; with more, trying shares for each would take longer than a pass, and even shares are the only start."""
CLEARLY_NATS = 3.0
"""By how much shares must be likelier than others to be believed against them, for each share that is free: 20 to 1.
Scores of examples asked after one another are not independent, and clouds are not quite normal, so the usual 2 nats are
passed by chance too often."""
PSEUDO_EXAMPLES = 2.0
"""Added to each label's count, so that no cluster shrinks to a single example."""
LEAST_VARIANCE = 1e-2
COLDEST = 0.1
"""Lowest temperature that clusters are trusted to give."""
HALVINGS = 20

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

    Even shares stand unless others are likelier by `CLEARLY_NATS` a free share: of these many are tried, for a fit that
    begins at even shares seldom finds a small cluster. One cloud with long tails can still pass for a large and a small
    cluster.
    """
    cloud, k = _Cloud.of(logprobs, weights), logprobs.shape[1]
    tried = _fits(cloud, logprobs, _candidates(k, ODDS_TRIED))
    free = _maximised(cloud, tried.posteriors[[tried.loglik_nats.argmax()]], np.full((1, k), np.nan))
    clear = free.loglik_nats[0] - tried.loglik_nats[0] > (k - 1) * CLEARLY_NATS
    return _first(free if clear else tried, cloud)


def share_ranges(logprobs: Floats, weights: Floats) -> tuple[Range, ...] | None:
    """For each label the least and the most of the tried shares that the scores do not speak clearly against (a profile
    likelihood); None for more than `TRIED_UP_TO` labels. Where the scores are one bell curve, all fit."""
    k = logprobs.shape[1]
    if k > TRIED_UP_TO:
        return None
    candidates = _candidates(k, ODDS_RANGED)
    fits = _fits(_Cloud.of(logprobs, weights), logprobs, candidates)
    possible = fits.loglik_nats.max() - fits.loglik_nats <= CLEARLY_NATS
    held = np.vstack([candidates[possible], fit_mixture(logprobs, weights).shares])
    return tuple(zip(np.nanmin(held, axis=0).tolist(), np.nanmax(held, axis=0).tolist(), strict=True))


def _candidates(n_labels: int, odds_tried: Sequence[float]) -> Floats:
    """(fits, labels) shares to hold while fitting, NaN: free. The first row is even, each other holds one label."""
    rows = [np.full(n_labels, 1 / n_labels)]
    for label in range(n_labels) if 2 < n_labels <= TRIED_UP_TO else [1] if n_labels == 2 else []:
        for odds in odds_tried:
            row = np.full(n_labels, np.nan)
            row[label] = odds / (odds + n_labels - 1)
            rows.append(row if n_labels > 2 else np.array([1 - row[1], row[1]]))
    return np.array(rows)


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
        """(fits, labels) weighted counts of the clusters, and (fits, labels, labels - 1) their means."""
        counted = self.weights[:, None] * posteriors
        counts = counted.sum(axis=1)
        return counts, (counted.swapaxes(1, 2) @ self.points) / np.maximum(counts, 1e-9)[..., None]


@dataclass(frozen=True, slots=True)
class _Fits:
    """Several fits to one cloud, side by side: many small ones in turn would take ten times as long."""

    shares: Floats
    """(fits, labels)"""
    posteriors: Floats
    """(fits, n, labels)"""
    loglik_nats: Floats
    """(fits,) as `Mixture.loglik_nats`; -inf: not to be had."""


def _fits(cloud: _Cloud, logprobs: Floats, held: Floats) -> _Fits:
    """One fit for each row of shares to hold (see `_candidates`).

    Each is begun anew from the likeliest of all, too: from its own shares a fit may come to rest where all clusters lie
    in one place.
    """
    starts = np.array([np.exp(calibrated(logprobs, _filled(shares), cloud.weights)) for shares in held])
    own = _in_place(cloud, _maximised(cloud, starts, held), held)
    likeliest = own.posteriors[own.loglik_nats.argmax()]
    likeliest = likeliest[:, _names(cloud.centres(likeliest[None])[1][0])]
    led = _in_place(cloud, _maximised(cloud, np.broadcast_to(likeliest, starts.shape), held), held)
    better = led.loglik_nats > own.loglik_nats
    return _Fits(
        np.where(better[:, None], led.shares, own.shares),
        np.where(better[:, None, None], led.posteriors, own.posteriors),
        np.maximum(own.loglik_nats, led.loglik_nats),
    )


def _in_place(cloud: _Cloud, fits: _Fits, held: Floats) -> _Fits:
    """Without those whose clusters changed places, so that a share was held for what became another label's; all
    labels of the first row, the even one, may."""
    centres = cloud.centres(fits.posteriors)[1]
    moved = [
        row > 0 and any(_names(centres[row])[label] != label for label in np.flatnonzero(~np.isnan(shares)))
        for row, shares in enumerate(held)
    ]
    return replace(fits, loglik_nats=np.where(moved, -np.inf, fits.loglik_nats))


def _filled(shares: Floats) -> Floats:
    free = np.isnan(shares)
    return np.where(free, (1 - np.nansum(shares)) / max(free.sum(), 1), shares)


def _maximised(cloud: _Cloud, posteriors: Floats, held: Floats) -> _Fits:
    """Expectation maximisation from these posteriors (fits, n, labels), until none of the fits gets better."""
    logliks = np.full(len(held), -np.inf)
    for _ in range(MOST_STEPS):
        shares, joint = _joint(cloud, posteriors, held)
        each = log_sum_exp(joint)
        posteriors, before = np.exp(joint - each[..., None]), logliks
        logliks = each @ cloud.weights / cloud.weights.sum()
        if np.abs(logliks - before).max() < TOLERANCE:
            break
    return _Fits(shares, posteriors, (logliks - _one_cloud_nats(cloud)) * cloud.weights.sum())


def _joint(cloud: _Cloud, posteriors: Floats, held: Floats) -> tuple[Floats, Floats]:
    """Maximisation for given posteriors; (shares, log joint density of each example and cluster up to a constant)."""
    counts, centres = cloud.centres(posteriors)
    shares = _shares(counts, held)
    about_centres = cloud.second_moments - (counts[..., None] * centres).swapaxes(1, 2) @ centres
    whiten = _whitening(about_centres / cloud.weights.sum())
    points, centres = cloud.points @ whiten, centres @ whiten
    distance = (points**2).sum(-1)[..., None] - 2 * points @ centres.swapaxes(1, 2) + (centres**2).sum(-1)[:, None]
    scale = np.log(np.diagonal(whiten, axis1=1, axis2=2)).sum(-1)
    return shares, cast(Floats, np.log(shares)[:, None] - 0.5 * distance + scale[:, None, None])


def _shares(counts: Floats, held: Floats) -> Floats:
    """(fits, labels) those held, and what they leave over as it was counted."""
    smoothed = np.where(np.isnan(held), counts + PSEUDO_EXAMPLES, 0.0)
    left = 1 - np.nansum(held, axis=1, keepdims=True)
    return np.where(np.isnan(held), left * smoothed / np.maximum(smoothed.sum(axis=1, keepdims=True), 1e-9), held)


def _whitening(spread: Floats) -> Floats:
    """What makes points of each spread (..., labels - 1, labels - 1) have spread 1, once multiplied by it."""
    return np.linalg.inv(np.linalg.cholesky(spread + LEAST_VARIANCE * np.eye(spread.shape[-1]))).swapaxes(-1, -2)


def _one_cloud_nats(cloud: _Cloud) -> float:
    """Mean log-likelihood of a single bell curve, up to the same constant."""
    whiten = _whitening(cloud.second_moments / cloud.weights.sum())
    distance = ((cloud.points @ whiten) ** 2).sum(axis=1)
    return float(np.log(np.diag(whiten)).sum() - 0.5 * cloud.weights @ distance / cloud.weights.sum())


def _first(fits: _Fits, cloud: _Cloud) -> Mixture:
    """The first of them, its clusters in the order of the labels."""
    order = _names(cloud.centres(fits.posteriors[:1])[1][0])
    return Mixture(fits.shares[0][order], fits.posteriors[0][:, order], float(fits.loglik_nats[0]))


def _names(centres: Floats) -> list[int]:
    """For each label its cluster: the one whose centre (labels - 1,) favours it most."""
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
