"""From counted answers to shares of votes, for hosts that tell no probabilities.

The answers to a question are draws from a multinomial; its shares get Jeffreys' prior, a Dirichlet of 1/2 for each
label (Jeffreys 1946), so that a label nobody voted for keeps a share, and k answers never say more than k answers can.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from zlib import crc32

import numpy as np

PRIOR_VOTES = 0.5
"""For each label."""
ROUNDED_TO_ZERO = 0.005
"""A share that a host states as 0 may be as large as this: it is taken to write two decimals at least."""


def offered_order(n_labels: int, draw: int, text: str) -> tuple[int, ...]:
    """The order in which a draw offers the labels: models favour the label that is offered first (or last).

    Over each `n_labels` draws that follow one another every label stands once in every place. The question's `text`
    decides where this begins, so that a number of draws that `n_labels` does not divide favours no label over a
    dataset.
    """
    block, turn = divmod(draw, n_labels)
    base = np.random.default_rng([block, crc32(text.encode("utf-8", "surrogatepass"))]).permutation(n_labels)
    return tuple(np.roll(base, -turn).tolist())


def smoothed(votes: Sequence[int]) -> tuple[float, ...]:
    """Posterior mean share of each label, (c + 1/2) / (k + m/2), for c of k votes and m labels. They sum to 1."""
    whole = sum(votes) + PRIOR_VOTES * len(votes)
    return tuple((c + PRIOR_VOTES) / whole for c in votes)


def wilson_interval(hits: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """95 % interval (Wilson 1927) of a share of which `hits` of `n` were seen; n > 0."""
    share, square = hits / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def sign_test(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test: how often fair coins split `gained` + `lost` changes as unevenly as this."""
    n, fewer = gained + lost, min(gained, lost)
    ways = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * ways / (1 << n))


def largest_log_odds(k: int) -> float:
    """Of one label against another, in nats, that k votes can show: when all are for one of the two."""
    return math.log((k + PRIOR_VOTES) / PRIOR_VOTES)


def stated(shares: Sequence[float]) -> tuple[tuple[float, ...], tuple[bool, ...]]:
    """Shares that a host states as its own probabilities, none of them 0 any more, and which of them are bounds.

    A 0 was rounded: it is no more than `ROUNDED_TO_ZERO`, nor than the smallest share above it. The shares are
    renormalised to sum to 1.
    """
    most = min([ROUNDED_TO_ZERO, *(share for share in shares if share > 0)])
    raised = [share or most for share in shares]
    return tuple(share / sum(raised) for share in raised), tuple(share == 0 for share in shares)
