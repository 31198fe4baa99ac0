"""What a run found, as plain values: one row an example, and one summary."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from icm_api.client.meter import Snapshot
from icm_api.config import GOLD_METHOD, RunConfig
from icm_api.core.diagnose import Evidence, Verdict, collapsed, diagnose, label_shares
from icm_api.core.labels import argmax_label
from icm_api.core.problem import Problem
from icm_api.core.relations import broken, is_broken, is_pin, pinned_labels
from icm_api.core.step import Labelling
from icm_api.core.votes import wilson_interval
from icm_api.run.job import Job, describe_relation
from icm_api.types import LabelScore, Relation

CONFIDENCE_BINS = 10
COUNTS = ("requests", "retries", "cache_hits", "prompt_tokens", "cached_tokens", "output_tokens", "unknown_usage")
"""Of a `Snapshot`, as a summary has them."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One line of the labels file. All but `id` are None for an example that was not labelled. One that was abstained
    from has no `label`, but all else: its label would be the one that `confidence` is about."""

    id: str
    label: str | None
    confidence: float | None
    """Probability of the label as the method saw it, renormalised over the labels, 0..1."""
    logprobs: Mapping[str, float] | None
    """Nats by label."""
    mass: float | None
    forced_by: str | None
    """A relation that the model's favourite label would break; None when the label is the favourite, or when no rule
    stands against it (`paper` fidelity may reject a favourite)."""
    kind: str | None
    """What `logprobs` rest on (`icm_api.types.LabelScore.kind`): `sampled` and `stated` ones are no log-probabilities
    of a language model."""
    abstained: bool = False
    """The confidence is below `--abstain-below`, so that it has no label."""
    pinned: bool = False
    """The label was given by a person (`--pin`), not found."""


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
    abstained: int
    """Examples that have no label because their confidence is below `--abstain-below`."""
    pinned: int
    """Labels that a person gave (`--pin`): they are among the labelled, and left out of accuracy and calibration."""
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    accuracy_n: int
    calibration_error: float | None
    """How far confidences are from the share that is right (`calibration_error`); None without gold."""
    used_gold: bool
    """The labels were made with gold labels: a ceiling for other methods, not a labelling."""
    utility: float
    predictability_nats: float
    information_nats: float | None
    """What the texts tell about the labels (`icm_api.core.calibrate.information`): 0 for one label for all."""
    violations: int
    """Hard relations that are broken."""
    broken_soft: int
    """Relations with a price that are broken."""
    label_shares: Mapping[str, float]
    verdict: Verdict
    """What the signs that need no gold come to (`icm_api.core.diagnose`)."""
    signs: tuple[Mapping[str, str], ...]
    """Each with its `name`, `level` and `evidence`; the evidence is among the warnings too."""
    agreement: float | None
    """Mean share of equal labels over pairs of restarts; None for a method without."""
    collapsed: bool
    """(Nearly) all examples have one label: a utility that is high for no good reason."""
    forced: int
    score_kind: str | None
    """Of all label scores, as `LabelRow.kind`; None: nothing was labelled."""
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
    cost_usd: str | None
    """Of the replies, in plain digits (`icm_api.client.meter.Snapshot.cost_usd`); None: unknown. What came from this
    program's own cache costs nothing."""
    price_source: str | None
    """Where the price came from; None: no price is known."""
    planned_requests: int
    """As estimated at the start, for an empty cache."""
    planned_prompt_tokens: int
    planned_cost_usd: str | None
    planned_kind: str
    """Of the requests: `exact`, `expected`, `at most` or `at least` (`icm_api.run.plan.Kind`)."""
    wall_s: float
    stop_reason: str
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """The labelling a run ends with, and which of its labels a rule forced."""

    labelling: Labelling
    forced: Mapping[int, Relation]


def final_finding(problem: Problem, found: Labelling, config: RunConfig) -> Finding:
    """The labelling that a method found, made consistent.

    A method that was stopped may still break a rule (anneal's paper fidelity gives up repairs); then the exact solution
    for its scores takes the place of its labels.
    """
    if any(problem.relations[k].price is None for k in broken(problem.relations, found.labels)):
        labels = _solved(problem, found.labels, found.scores)
        found = Labelling.of(problem, labels, found.scores, alpha=config.alpha, objective=config.objective)
    return Finding(found, _forced(problem.relations, found.labels, found.scores))


def label_rows(job: Job, finding: Finding) -> Iterator[LabelRow]:
    """One by one: whoever only writes them needs no room for all."""
    abstained, pinned = _abstained(job, finding.labelling), pinned_labels(job.problem.relations)
    for i in range(len(job.examples)):
        row = _row(job, finding, i)
        if i in abstained:
            row = replace(row, label=None, abstained=True)
        yield replace(row, pinned=True) if i in pinned else row


def _abstained(job: Job, found: Labelling) -> set[int]:
    """Examples with a label that the model is not sure enough of; not those whose label a person gave."""
    least = job.config.abstain_below
    if least is None:
        return set()
    unsure = {
        i
        for i, (label, score) in enumerate(zip(found.labels, found.scores, strict=True))
        if label is not None and score is not None and math.exp(score.logprobs_nats[label]) < least
    }
    return unsure - pinned_labels(job.problem.relations).keys()


def accuracy(gold: Sequence[int | None] | None, labels: Sequence[int | None]) -> tuple[int, int]:
    """(right, compared) over the examples that have both a gold label and a label."""
    pairs = [(g, label) for g, label in zip(gold or (), labels, strict=False) if None not in (g, label)]
    return sum(g == label for g, label in pairs), len(pairs)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, section 2): over ten bins of confidence, equally
    wide, the mean gap between confidence and share that is right, weighted by the bin's size. None for no values."""
    if not confidences:
        return None
    bins = np.minimum((np.asarray(confidences) * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    excess = np.bincount(bins, weights=np.asarray(confidences) - np.asarray(right, dtype=float))
    return float(np.abs(excess).sum() / len(confidences))


def summarise(
    job: Job,
    finding: Finding,
    snapshot: Snapshot,
    *,
    about: Mapping[str, Any],
    warnings: Sequence[str] = (),
) -> Summary:
    """`about`: the fields that only the runner knows (run_id, out, provider, model, wall_s, stop_reason, ...)."""
    names, found = job.label_names, finding.labelling
    abstained, pinned = _abstained(job, found), pinned_labels(job.problem.relations)
    judged = [None if i in abstained or i in pinned else label for i, label in enumerate(found.labels)]
    right, n = accuracy(job.dataset.gold, judged)
    low, high = wilson_interval(right, n) if n else (None, None)
    diagnosis = diagnose(_evidence(job, found))
    soft = [k for k in broken(job.problem.relations, found.labels) if job.problem.relations[k].price is not None]
    return Summary(
        method=job.config.method,
        seed=job.config.seed,
        examples=len(job.examples),
        labelled=sum(label is not None for label in found.labels) - len(abstained),
        abstained=len(abstained),
        pinned=len(pinned),
        accuracy=right / n if n else None,
        accuracy_low=low,
        accuracy_high=high,
        accuracy_n=n,
        calibration_error=calibration_error(*_confidences(job.dataset.gold, judged, found.scores)),
        used_gold=job.config.method == GOLD_METHOD,
        utility=found.utility.value,
        predictability_nats=found.utility.predictability_nats,
        information_nats=found.information_nats,
        violations=found.utility.violations,
        broken_soft=len(soft),
        label_shares=dict(zip(names, label_shares(found.labels, len(names)), strict=True)),
        verdict=diagnosis.verdict,
        signs=tuple(asdict(sign) for sign in diagnosis.signs),
        agreement=found.agreement,
        collapsed=collapsed(found.labels, len(names)),
        forced=len(finding.forced),
        score_kind=next((score.kind for score in found.scores if score is not None), None),
        warnings=(*warnings, *(sign.evidence for sign in diagnosis.signs)),
        **{name: getattr(snapshot, name) for name in COUNTS},
        **about,
    )


def _evidence(job: Job, found: Labelling) -> Evidence:
    """Gold has no part in it."""
    return Evidence(
        labels=found.labels,
        label_names=job.label_names,
        texts=job.texts,
        scores=found.scores,
        information_nats=found.information_nats,
        agreement=found.agreement,
        own_meaning=found.own_meaning,
    )


def _confidences(
    gold: Sequence[int | None] | None, labels: Sequence[int | None], scores: Sequence[LabelScore | None]
) -> tuple[list[float], list[bool]]:
    """(confidence, right) of each example that has a gold label and a label."""
    known = [
        (math.exp(score.logprobs_nats[label]), label == g)
        for g, label, score in zip(gold or (), labels, scores, strict=False)
        if g is not None and label is not None and score is not None
    ]
    return [confidence for confidence, _ in known], [right for _, right in known]


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
        culprits = [
            r for r in by_member.get(i, ()) if not is_pin(r) and is_broken(r, flipped) and not is_broken(r, labels)
        ]
        if culprits:
            forced[i] = min(culprits, key=lambda relation: relation.price is not None)
    return forced


def _row(job: Job, finding: Finding, i: int) -> LabelRow:
    label, score = finding.labelling.labels[i], finding.labelling.scores[i]
    if label is None or score is None:
        return LabelRow(job.examples[i].id, None, None, None, None, None, None)
    forced = finding.forced.get(i)
    return LabelRow(
        id=job.examples[i].id,
        label=job.label_names[label],
        confidence=math.exp(score.logprobs_nats[label]),
        logprobs=dict(zip(job.label_names, score.logprobs_nats, strict=True)),
        mass=score.mass,
        forced_by=describe_relation(forced, job.examples) if forced else None,
        kind=score.kind,
    )
