"""What every method tells about each of its moves, so that runner, journal and display know none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from icm_api.core.calibrate import information
from icm_api.core.objective import ALPHA, Objective, Utility, utility
from icm_api.core.problem import Problem
from icm_api.core.relations import broken
from icm_api.types import Json, LabelScore


@dataclass(frozen=True, slots=True)
class Alone:
    """What the model says of examples that are asked with nothing before them, beside what was found for them."""

    favourites: tuple[int | None, ...]
    """Per example the likeliest label that breaks no rule, scores as they come: what `zero-shot` answers; None: not
    asked alone."""
    told: float | None = None
    """How many times as much as about the labels found the texts tell about labels by such scores (information in parts
    of what there is to tell); None: not compared, or too little to tell."""


@dataclass(frozen=True, slots=True)
class Labelling:
    """Labels, and what they rest on."""

    labels: tuple[int | None, ...]
    """Index of each example's label; None: not labelled."""
    scores: Sequence[LabelScore | None]
    """Per example: the probabilities its label was chosen by, relations aside."""
    utility: Utility
    information_nats: float | None = None
    """What the texts tell about the labels (`icm_api.core.calibrate.information`); None: not measured."""
    agreement: float | None = None
    """Mean share of equal labels over pairs of restarts; None for a method without, or with a single one."""
    own_meaning: tuple[int | None, ...] | None = None
    """Labels before the model has seen any: what the label words themselves mean to it; None: not asked."""
    alone: Alone | None = None
    """What the model says without demonstrations; None: not asked."""
    share_ranges: tuple[tuple[float, float], ...] | None = None
    """Of each label the least and the most of the shares that would fit the scores; None: shares were known, or were
    not read off the scores (another method, many labels, few examples, stopped before)."""
    settled: bool = False
    """The search would change none of these labels any more."""
    asked_alone: bool = False
    """Each example was asked with nothing before it, because demonstrations spoil what the model knows."""

    @classmethod
    def of(
        cls,
        problem: Problem,
        labels: Sequence[int | None],
        scores: Sequence[LabelScore | None],
        *,
        alpha: float = ALPHA,
        objective: Objective = "mean",
    ) -> Labelling:
        """A labelling with its utility and information measured. `scores` are kept as they are."""
        violated = [problem.relations[k] for k in broken(problem.relations, labels)]
        value = utility(labels, scores, violated, alpha=alpha, objective=objective)
        return cls(tuple(labels), scores, value, information_of(labels, scores))


def information_of(labels: Sequence[int | None], scores: Sequence[LabelScore | None]) -> float | None:
    """`icm_api.core.calibrate.information` over the examples that have both a label and a score; None without any."""
    chosen: list[int] = []

    def logprobs() -> Iterator[float]:
        for label, score in zip(labels, scores, strict=True):
            if label is not None and score is not None:
                chosen.append(label)
                yield from score.logprobs_nats

    found = np.fromiter(logprobs(), dtype=np.float64)
    return information(found.reshape(len(chosen), -1), chosen) if chosen else None


class Step(Protocol):
    """One move of a method. The last one has `stop` set."""

    @property
    def step(self) -> int:
        """Number of the move, from 0."""

    @property
    def labels(self) -> tuple[int | None, ...]:
        """Where the move leads: each example's label, None where there is none yet."""

    @property
    def changed(self) -> tuple[int, ...]:
        """Examples whose label the move changed, or would have changed had it not been rejected."""

    @property
    def asked(self) -> int:
        """Label scores asked for."""

    @property
    def spared(self) -> int:
        """Label scores that the paper's search asks for the same move, less those asked; 0 where there is no such."""

    @property
    def gap_nats(self) -> float:
        """0.0: relations were obeyed at the least cost. Else the solver ran out of time, and lost this at most."""

    @property
    def done(self) -> int:
        """Work behind, of `total`."""

    @property
    def total(self) -> int: ...

    @property
    def status(self) -> str:
        """Where the method stands, in a few words."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know to judge the labels, should this be the last step."""

    @property
    def stop(self) -> str | None:
        """Why this is the last step; None: it is not."""

    @property
    def found(self) -> Labelling:
        """The best labelling so far. It breaks no hard relation once the method has come to its end."""

    def record(self, ids: Sequence[str]) -> Mapping[str, Json]:
        """The method's own columns of the journal; `ids` are the examples'."""
