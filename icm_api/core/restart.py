"""One course of labels through the passes of a sweep, and how courses compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from icm_api.core.calibrate import Floats, Ints
from icm_api.core.diagnose import ALONE_TELLS, information_share
from icm_api.core.passes import Average


@dataclass(frozen=True, slots=True)
class Restart:
    """One course of labels from the warm-up on. Its random choices depend on the seed and its numbers alone."""

    number: int
    shares: tuple[float, ...]
    """Of the labels, as given, implied or read off the scores so far; once it has ended, those of the clearest."""
    average: Average
    calibrated: Floats
    """(n, labels) the averaged scores under the shares, nats."""
    labels: Ints
    """(n,) the best labels for the scores so far, relations obeyed; -1 outside the pool, anything without a score."""
    n_passes: int = 0
    information_nats: float = 0.0
    gap_nats: float = 0.0
    rests: bool = False
    """The last pass changed none of its labels."""
    settled: bool = False
    """A pass at temperature 0 changed none of its labels."""
    read_shares: tuple[float, ...] | None = None
    """Read off its own scores; None: not yet, shares are known, or examples too few."""
    clear_nats: float = 0.0
    """How clearly its scores fall into clusters (`Mixture.loglik_nats`)."""
    alone: bool = False
    """No course: the labels of examples that were each asked with nothing before it."""

    @property
    def rank(self) -> float:
        """Information in parts of what there is to tell under its shares."""
        return information_share(self.information_nats, self.shares)

    @property
    def worth(self) -> float:
        """By which restarts are compared."""
        return self.rank / ALONE_TELLS if self.alone else self.rank

    @property
    def known_labels(self) -> tuple[int | None, ...]:
        """None where no pass has given a score: a label never comes from a missing number."""
        labels = self.labels.astype(object)
        labels[~self.average.known] = None
        return tuple(labels.tolist())


def clearest_of(restarts: Sequence[Restart]) -> Restart | None:
    """Of those whose shares were read; None: there is none."""
    read = [restart for restart in restarts if restart.read_shares is not None]
    return max(read, key=lambda restart: restart.clear_nats, default=None)


def changed_between(old: Restart, new: Restart) -> list[int]:
    """Examples whose label is another, or whose first score has come."""
    other = (old.labels != new.labels) | ~old.average.known
    return np.flatnonzero(other & new.average.known).tolist()


def agreement_of(labellings: Sequence[Ints]) -> float | None:
    """Mean share of equal labels over pairs; None for less than two."""
    pairs = list(combinations(labellings, 2))
    return sum(float((a == b).mean()) for a, b in pairs) / len(pairs) if pairs else None
