"""What a run found, as plain values: one row an example, and one summary."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from icm_api.client.meter import Snapshot
from icm_api.core.anneal import SearchState
from icm_api.core.diagnose import collapsed, label_shares
from icm_api.core.labels import argmax_label
from icm_api.core.objective import utility
from icm_api.core.problem import Problem
from icm_api.core.relations import broken, is_broken
from icm_api.run.job import Job, describe_relation
from icm_api.types import LabelScore, Relation


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of the labels file. All but `id` are None for an example that was not labelled."""

    id: str
    label: str | None
    confidence: float | None
    """Probability of the label given the others' labels, renormalised over the labels, 0..1."""
    logprobs: Mapping[str, float] | None
    """Nats by label."""
    mass: float | None
    forced_by: str | None
    """A relation that the model's favourite label would break; None when the label is the favourite, or when no rule
    stands against it (`paper` fidelity may reject a favourite)."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One run in one object. `accuracy` (with its 95 % Wilson interval) only where gold labels were given."""

    run_id: str
    out: str
    method: str
    provider: str
    model: str
    seed: int
    examples: int
    labelled: int
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    accuracy_n: int
    utility: float
    predictability_nats: float
    violations: int
    """Hard relations that are broken."""
    broken_soft: int
    """Relations with a price that are broken."""
    label_shares: Mapping[str, float]
    forced: int
    bounded_scores: int
    capped_contexts: int
    """Visits whose context could not show every labelled example, those that needed no request included."""
    requests: int
    retries: int
    requests_saved: int
    """Label scores that `--fidelity paper` would have asked over the same steps, its repairs not counted, less those
    asked; 0 in that fidelity."""
    cache_hits: int
    prompt_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    """None: no reply said."""
    unknown_usage: int
    """Replies whose host did not say what they cost, so that the token counts are too low."""
    wall_s: float
    stop_reason: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Labelling:
    """The labels a search ended with, and the scores they rest on."""

    labels: tuple[int | None, ...]
    scores: tuple[LabelScore | None, ...]
    forced: Mapping[int, Relation]


def final_labelling(problem: Problem, state: SearchState, *, stable: bool) -> Labelling:
    """The best consistent labelling of a search: where it came to rest, else the best complete one, else its last.

    A search that was stopped may still break a rule (paper fidelity gives up repairs); then the exact solution for
    its scores takes the place of its labels.
    """
    source = state.best if state.best is not None and not stable else state
    labels = source.labels
    if any(problem.relations[k].price is None for k in broken(problem.relations, labels)):
        labels = _solved(problem, labels, source.scores)
    return Labelling(labels, source.scores, _forced(problem.relations, labels, source.scores))


def label_rows(job: Job, labelling: Labelling) -> list[LabelRow]:
    return [_row(job, labelling, i) for i in range(len(job.examples))]


def accuracy(gold: Sequence[int | None] | None, labels: Sequence[int | None]) -> tuple[int, int]:
    """(right, compared) over the examples that have both a gold label and a label."""
    pairs = [(g, label) for g, label in zip(gold or (), labels, strict=False) if None not in (g, label)]
    return sum(g == label for g, label in pairs), len(pairs)


def wilson_interval(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); n > 0."""
    share, square = right / n, z * z / n
    middle = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / n + square / (4 * n)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def summarise(
    job: Job,
    labelling: Labelling,
    snapshot: Snapshot,
    *,
    about: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> Summary:
    """`about`: the fields that only the runner knows (run_id, out, provider, model, wall_s, stop_reason, ...)."""
    names = job.label_names
    right, n = accuracy(job.dataset.gold, labelling.labels)
    low, high = wilson_interval(right, n) if n else (None, None)
    violated = [job.problem.relations[k] for k in broken(job.problem.relations, labelling.labels)]
    value = utility(
        labelling.labels, labelling.scores, violated, alpha=job.config.alpha, objective=job.config.objective
    )
    return Summary(
        method=job.config.method,
        seed=job.config.seed,
        examples=len(job.examples),
        labelled=sum(label is not None for label in labelling.labels),
        accuracy=right / n if n else None,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_n=n,
        utility=value.value,
        predictability_nats=value.predictability_nats,
        violations=value.violations,
        broken_soft=len(violated) - value.violations,
        label_shares=dict(zip(names, label_shares(labelling.labels, len(names)), strict=True)),
        forced=len(labelling.forced),
        warnings=(*warnings, *_collapse_warning(labelling, names)),
        **asdict(snapshot),
        **about,
    )


def _solved(
    problem: Problem, labels: Sequence[int | None], scores: Sequence[LabelScore | None]
) -> tuple[int | None, ...]:
    logprobs = np.zeros((problem.n_examples, problem.n_labels))
    for i, score in enumerate(scores):
        if score is not None and labels[i] is not None:
            logprobs[i] = score.logprobs_nats
    solved = problem.consistency.solve(logprobs).labels
    return tuple(None if label is None else solved[i] for i, label in enumerate(labels))


def _forced(
    relations: Sequence[Relation], labels: Sequence[int | None], scores: Sequence[LabelScore | None]
) -> dict[int, Relation]:
    """For each example that does not have its favourite label, a rule (a hard one first) that the favourite breaks."""
    by_member: dict[int, list[Relation]] = {}
    for relation in relations:
        for member in relation.members:
            by_member.setdefault(member, []).append(relation)
    forced = {}
    for i, (label, score) in enumerate(zip(labels, scores, strict=True)):
        if label is None or score is None or argmax_label(score) == label:
            continue
        flipped = [*labels[:i], argmax_label(score), *labels[i + 1 :]]
        culprits = [r for r in by_member.get(i, ()) if is_broken(r, flipped) and not is_broken(r, labels)]
        if culprits:
            forced[i] = min(culprits, key=lambda relation: relation.price is not None)
    return forced


def _row(job: Job, labelling: Labelling, i: int) -> LabelRow:
    label, score = labelling.labels[i], labelling.scores[i]
    if label is None or score is None:
        return LabelRow(job.examples[i].id, None, None, None, None, None)
    forced = labelling.forced.get(i)
    return LabelRow(
        id=job.examples[i].id,
        label=job.label_names[label],
        confidence=math.exp(score.logprobs_nats[label]),
        logprobs=dict(zip(job.label_names, score.logprobs_nats, strict=True)),
        mass=score.mass,
        forced_by=describe_relation(forced, job.examples) if forced else None,
    )


def _collapse_warning(labelling: Labelling, names: Sequence[str]) -> list[str]:
    if not collapsed(labelling.labels, len(names)):
        return []
    shares = label_shares(labelling.labels, len(names))
    top = max(range(len(names)), key=lambda k: shares[k])
    return [
        f"collapsed: {shares[top]:.0%} of the examples are {names[top]!r}. One label for all predicts itself almost "
        "perfectly, so a high utility is no evidence for it; only rules that need both labels (exactly_one, "
        "asymmetric) exclude it"
    ]
