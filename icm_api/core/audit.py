"""What a few answers of a person tell about a labelling: how many labels are right, from which confidence on, and
whether they are turned round.

Examples are asked about in strata of confidence, the doubtful ones more often: what a stratum adds to the variance of
the accuracy is its size times the spread of right and wrong in it (Neyman's allocation, 1934). The answers of a stratum
count by its size, so that the accuracy stays unbiased however unevenly the strata were asked; the confidences need not
be right for that, they only decide where to look.

Further answers count with the earlier ones as one sample: a simple random sample of a stratum and another of its rest
are together a simple random sample of it (it is drawn unit by unit; Cochran, Sampling Techniques, 3rd edition, 1977,
section 2.1), as long as how many are asked depends on what was asked and not on what was answered. Who goes on only
because the first answers were unclear looks at them twice, which moves the accuracy a little (Whitehead, Biometrika 73,
1986).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icm_api.core.calibrate import Floats, Ints
from icm_api.core.votes import wilson_interval

MOST_STRATA = 5
LEAST_IN_STRATUM = 8
"""Examples; fewer make fewer strata."""
LEAST_ASKED = 2
"""In each stratum: one answer has no spread."""
SUREST = 0.95
"""Models are surer than they are right: no stratum counts as right more often than this when questions are shared."""

Polarity = Literal["right", "turned round", "unclear"]
Strata = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Share of right labels among `labels` of them, with a 95 % interval, from `answered` answers."""

    accuracy: float
    low: float
    high: float
    labels: int
    answered: int


@dataclass(frozen=True, slots=True)
class Cut:
    """What is left when labels below a confidence are left out."""

    confidence: float
    kept: Estimate


@dataclass(frozen=True, slots=True)
class Audit:
    whole: Estimate
    cuts: tuple[Cut, ...]
    """One a stratum, from all labels to the surest only."""
    recommended: Cut | None
    """The lowest cut from which on the labels are as right as was aimed at; None: no cut reaches that."""
    aim: float
    polarity: Polarity | None
    """None: there are more than two labels, and no single opposite."""


def strata_of(confidences: Sequence[float | None]) -> Strata:
    """Examples by confidence, the doubtful ones first, in up to five parts of about the same size.

    Equal confidences are never parted. Examples without one (no label) are in none.
    """
    known = [(confidence, i) for i, confidence in enumerate(confidences) if confidence is not None]
    if not known:
        return ()
    values = np.array([confidence for confidence, _ in known])
    n_strata = max(1, min(MOST_STRATA, len(known) // LEAST_IN_STRATUM))
    edges = np.unique(np.quantile(values, np.arange(1, n_strata) / n_strata, method="higher"))
    place = np.searchsorted(edges, values, side="right")
    parts = [tuple(i for (_, i), at in zip(known, place, strict=True) if at == k) for k in range(len(edges) + 1)]
    return tuple(part for part in parts if part)


def choose(
    confidences: Sequence[float | None], n: int, *, seed: int, answered: Collection[int] = frozenset()
) -> list[int]:
    """Examples to ask a person about, `n` besides those that are `answered` (as far as there are so many; more, where
    a stratum would have less than two), in random order.

    The order is random so that a person who stops early has still answered a fair sample. Each stratum is gone through
    in one order that depends on the seed only, so that more examples, now or later, are always the next ones of it.
    """
    strata, rng = strata_of(confidences), np.random.default_rng(seed)
    asked = np.array([sum(i in answered for i in stratum) for stratum in strata], dtype=np.int64)
    sizes = np.array([len(stratum) for stratum in strata])
    means = np.array([np.mean([confidences[i] for i in stratum]) for stratum in strata])
    expected = np.minimum(means, SUREST)
    shares = _allocation(sizes, sizes * np.sqrt(expected * (1 - expected)), n, asked) - asked
    orders = [[i for i in rng.permutation(stratum).tolist() if i not in answered] for stratum in strata]
    drawn = [i for order, k in zip(orders, shares, strict=True) for i in order[:k]]
    return [int(i) for i in rng.permutation(drawn)]


def audit(
    labels: Sequence[int | None],
    confidences: Sequence[float | None],
    answers: Mapping[int, int],
    *,
    n_labels: int,
    aim: float = 0.9,
) -> Audit:
    """What the answers (example -> label, by a person) tell. They must be a fair sample of each stratum, as `choose`
    draws it; a stratum without any is judged by the next surer one (the last: by the one before).

    Raises ValueError when no labelled example has an answer.
    """
    strata = [_Stratum.of(part, labels, answers) for part in strata_of(confidences)]
    if not any(stratum.answered for stratum in strata):
        raise ValueError("no labelled example has an answer")
    lowest = [min(c for i in part if (c := confidences[i]) is not None) for part in strata_of(confidences)]
    cuts = tuple(
        Cut(confidence, kept) for k, confidence in enumerate(lowest) if (kept := _estimate(strata[k:])) is not None
    )
    whole = _estimate(strata)
    assert whole is not None
    recommended = next((cut for cut in cuts if cut.kept.accuracy >= aim), None)
    return Audit(whole, cuts, recommended, aim, _polarity(whole) if n_labels == 2 else None)


@dataclass(frozen=True, slots=True)
class _Stratum:
    size: int
    answered: int
    right: int

    @classmethod
    def of(cls, examples: Sequence[int], labels: Sequence[int | None], answers: Mapping[int, int]) -> _Stratum:
        asked = [i for i in examples if i in answers]
        return cls(len(examples), len(asked), sum(labels[i] == answers[i] for i in asked))

    def plus(self, other: _Stratum) -> _Stratum:
        return _Stratum(self.size + other.size, self.answered + other.answered, self.right + other.right)


def _estimate(strata: Sequence[_Stratum]) -> Estimate | None:
    """None without an answer.

    The interval is Wilson's for as many answers as would leave the same variance had all been asked alike (the
    effective sample size, as Korn and Graubard 1998 take it). A stratum spreads at least as the whole does: two right
    answers of two do not prove that all are. What was asked is known, so only the part that was not adds variance.
    """
    strata = _merged(strata)
    if not strata:
        return None
    size, n, right = np.array([(each.size, each.answered, each.right) for each in strata], dtype=np.float64).T
    weights = size / size.sum()
    accuracy = float(weights @ (right / n))
    pooled = (right.sum() + 1) / (n.sum() + 2)
    own = (right + pooled) / (n + 1)
    spread = np.maximum(own * (1 - own), pooled * (1 - pooled))
    variance = float(weights**2 @ (spread / n * (1 - n / size)))
    low = high = accuracy
    if variance > 0:
        effective = float(pooled * (1 - pooled)) / variance
        low, high = wilson_interval(accuracy * effective, effective)
    return Estimate(accuracy, low, high, int(size.sum()), int(n.sum()))


def _merged(strata: Sequence[_Stratum]) -> list[_Stratum]:
    """Each with answers: one without joins the next, or the one before where it is the last."""
    merged: list[_Stratum] = []
    waiting = _Stratum(0, 0, 0)
    for stratum in strata:
        waiting = waiting.plus(stratum)
        if waiting.answered:
            merged.append(waiting)
            waiting = _Stratum(0, 0, 0)
    if waiting.size and merged:
        merged[-1] = merged[-1].plus(waiting)
    return merged


def _allocation(sizes: Ints, wanted: Floats, n: int, asked: Ints) -> Ints:
    """Whole numbers in the proportions of `wanted`, at least `LEAST_ASKED` and what was `asked` and at most the size of
    each, `n` more than were asked as far as these bounds let."""
    shares = np.maximum(asked, np.minimum(sizes, LEAST_ASKED))
    while shares.sum() < min(asked.sum() + n, sizes.sum()):
        lag = np.where(shares < sizes, wanted / (shares + 1), -1.0)  # one by one, to whom the next is due (D'Hondt)
        shares[int(lag.argmax())] += 1
    return shares


def _polarity(whole: Estimate) -> Polarity:
    if whole.low > 0.5:
        return "right"
    return "turned round" if whole.high < 0.5 else "unclear"
