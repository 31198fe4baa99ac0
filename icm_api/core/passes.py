"""What passes over the examples say, added up: label scores of several orders and contexts averaged per example.

Log-probabilities are averaged, not probabilities: what one order adds to the log-odds and the next takes away is then
gone. An example that came early in a chain saw few labelled examples, so its score counts for less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from operator import eq
from typing import Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from icm_api.core.calibrate import Floats, log_softmax
from icm_api.core.context import Chain
from icm_api.types import LabelScore

Bools: TypeAlias = NDArray[np.bool_]
ScoreKind: TypeAlias = Literal["logprob", "sampled", "stated"]
"""As `LabelScore.kind`."""

FULL_AT = 0.5
"""Share of a chain after which a score counts in full."""
LEAST_WEIGHT = 1e-3
"""Of a chain's first example, which saw nothing: so little that any other pass outweighs it, but no average is void."""
MADE_AT_ONCE = 1024


@dataclass(frozen=True, slots=True)
class Pass:
    """Scores of one pass, in arrays of a row an example. A row of weight 0 was not scored; its other values are 0."""

    logprobs: Floats
    """(n, labels) nats, each scored row renormalised over the labels."""
    weights: Floats
    """(n,) 0..1: how much of its context stood before the example."""
    mass: Floats
    """(n,) share of the model's probability that the labels held."""
    bounded: Bools
    """(n, labels) True where the value is an upper bound."""
    kind: ScoreKind | None = None
    """Of the scores; None: there are none."""

    def plus(self, other: Pass) -> Pass:
        """With another one, of other examples."""
        return Pass(
            self.logprobs + other.logprobs,
            self.weights + other.weights,
            self.mass + other.mass,
            self.bounded | other.bounded,
            _only({self.kind, other.kind} - {None}),
        )


def read_pass(
    chains: Sequence[Chain], scores: Sequence[Sequence[LabelScore | None]], n_examples: int, n_labels: int
) -> Pass:
    """The scores of chains that score no example twice (`ChainBuilder.cut`), as `Scorer.score_chains` gives them.

    The weight at place k of a chain (its overlap counts) rises from 0 at its start to 1 at its middle, and is at least
    `LEAST_WEIGHT`.
    """
    read = _blank(n_examples, n_labels)
    for chain, chain_scores in zip(chains, scores, strict=True):
        heard = [k for k, score in enumerate(chain_scores) if score is not None]
        scored = chain.scored
        rows = [scored[k] for k in heard]
        places = chain.first + np.array(heard)
        _fill(read, rows, [score for score in chain_scores if score is not None])
        read.weights[rows] = np.clip(places / (FULL_AT * len(chain.examples)), LEAST_WEIGHT, 1.0)
    return replace(read, kind=_kind([score for chain_scores in scores for score in chain_scores]))


def read_scores(examples: Sequence[int], scores: Sequence[LabelScore | None], n_examples: int, n_labels: int) -> Pass:
    """Scores of these examples from queries of their own, all of weight 1; None where there is none."""
    read = _blank(n_examples, n_labels)
    rows = [i for i, score in zip(examples, scores, strict=True) if score is not None]
    _fill(read, rows, [score for score in scores if score is not None])
    read.weights[rows] = 1.0
    return replace(read, kind=_kind(scores))


@dataclass(frozen=True, slots=True, eq=False)
class Scores(Sequence[LabelScore | None]):
    """A label score an example, None where nothing is known. They stand in arrays and each is made when it is read:
    objects for all would take many times the room."""

    logprobs: Floats
    """(n, labels) nats, renormalised."""
    mass: Floats
    """(n,)"""
    bounded: Bools
    """(n, labels)"""
    known: Bools
    """(n,)"""
    kind: ScoreKind

    def __len__(self) -> int:
        return len(self.known)

    @overload
    def __getitem__(self, key: int) -> LabelScore | None: ...
    @overload
    def __getitem__(self, key: slice) -> list[LabelScore | None]: ...
    def __getitem__(self, key: int | slice) -> LabelScore | list[LabelScore | None] | None:
        if isinstance(key, slice):
            return list(self._made(key))
        place = range(len(self))[key]
        return next(self._made(slice(place, place + 1)))

    def __iter__(self) -> Iterator[LabelScore | None]:
        for start in range(0, len(self), MADE_AT_ONCE):
            yield from self._made(slice(start, start + MADE_AT_ONCE))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scores):
            return NotImplemented
        return len(self) == len(other) and all(map(eq, self, other))

    def _made(self, rows: slice) -> Iterator[LabelScore | None]:
        parts = (array[rows].tolist() for array in (self.logprobs, self.mass, self.bounded, self.known))
        for logprobs, mass, bounded, known in zip(*parts, strict=True):
            yield LabelScore(tuple(logprobs), mass, tuple(bounded), self.kind) if known else None


@dataclass(frozen=True, slots=True)
class Average:
    """Weighted sums over passes; start with `Average.empty`, go on with `plus`."""

    total: Floats
    """(n, labels) sum of weight x log-probability."""
    weights: Floats
    """(n,) sum of the weights; 0: no pass scored the example."""
    masses: Floats
    """(n,) sum of weight x mass."""
    bounded: Bools
    """(n, labels) True where any pass had only a bound."""
    kind: ScoreKind | None = None
    """Of all scores; None: there are none."""

    @classmethod
    def empty(cls, n_examples: int, n_labels: int) -> Average:
        blank = _blank(n_examples, n_labels)
        return cls(blank.logprobs, blank.weights, blank.mass, blank.bounded)

    def plus(self, new: Pass, *, decay: float = 1.0) -> Average:
        """With one more pass; what was there before counts `decay` times."""
        return replace(
            self,
            total=decay * self.total + new.weights[:, None] * new.logprobs,
            weights=decay * self.weights + new.weights,
            masses=decay * self.masses + new.weights * new.mass,
            bounded=self.bounded | new.bounded,
            kind=_only({self.kind, new.kind} - {None}),
        )

    @property
    def known(self) -> Bools:
        """(n,) whether any pass scored the example."""
        return self.weights > 0

    @property
    def trust(self) -> Floats:
        """(n,) 0..1: how much an example counts where examples are counted; 1 once one full score is known."""
        return np.minimum(self.weights, 1.0)

    @property
    def logprobs(self) -> Floats:
        """(n, labels) averaged and renormalised, nats; even over the labels where nothing is known."""
        return log_softmax(self.total / np.where(self.known, self.weights, 1.0)[:, None])

    def as_scores(self, logprobs: Floats | None = None) -> Scores:
        """A label score an example, None where nothing is known. `logprobs` (n, labels), renormalised, take the place
        of the averaged ones, for instance calibrated ones."""
        shown = self.logprobs if logprobs is None else logprobs
        masses = self.masses / np.where(self.known, self.weights, 1.0)
        return Scores(shown, masses, self.bounded, self.known, self.kind or "logprob")


def _blank(n_examples: int, n_labels: int) -> Pass:
    grid = (n_examples, n_labels)
    return Pass(np.zeros(grid), np.zeros(n_examples), np.zeros(n_examples), np.zeros(grid, dtype=np.bool_))


def _fill(read: Pass, rows: Sequence[int], scores: Sequence[LabelScore]) -> None:
    if not rows:
        return
    read.logprobs[rows] = [score.logprobs_nats for score in scores]
    read.mass[rows] = [score.mass for score in scores]
    read.bounded[rows] = [score.bounded for score in scores]


def _kind(scores: Sequence[LabelScore | None]) -> ScoreKind | None:
    return _only({score.kind for score in scores if score is not None})


def _only(kinds: Set[ScoreKind | None]) -> ScoreKind | None:
    """An average of log-probabilities and counted answers would be neither."""
    if len(kinds) > 1:
        raise ValueError(f"label scores of several kinds cannot be averaged: {sorted(map(str, kinds))}")
    return next(iter(kinds), None)
