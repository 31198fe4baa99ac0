"""What a run found, as plain values: one row an example, and one summary."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, overload

import numpy as np

from icm_api.client.meter import Snapshot
from icm_api.config import GOLD_METHOD, RunConfig
from icm_api.core.diagnose import (
    LITTLE_GAIN,
    Check,
    Evidence,
    Verdict,
    against_gold,
    changed_from_alone,
    collapsed,
    diagnose,
    label_shares,
)
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

    def as_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


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
    """Of the labels given: examples that were abstained from count as little as others without a label."""
    share_ranges: Mapping[str, tuple[float, float]] | None
    """Of each label the least and the most of the shares that would fit the scores
    (`icm_api.core.step.Labelling.share_ranges`)."""
    verdict: Verdict
    """What the signs that need no gold come to (`icm_api.core.diagnose`)."""
    against_gold: str | None
    """What gold says against the labels, in a sentence, when they agree with it no better than the commonest gold label
    for all would, beyond chance. It is no part of the verdict. None: nothing, or there is no gold."""
    checks: tuple[Mapping[str, str], ...]
    """All that the verdict rests on, always in the same order (`icm_api.core.diagnose.Check`): each with its `name`,
    its `level` (`fine`, `doubtful`, `failed` or `not measured`) and the `figure` that was measured, or why none was."""
    signs: tuple[Mapping[str, str], ...]
    """Each with its `name`, `level` and `evidence`; the evidence is among the warnings too."""
    agreement: float | None
    """Mean share of equal labels over pairs of restarts; None for a method without."""
    changed_from_alone: float | None
    """Share of the labels that are others than the model gives when asked alone, of examples that were asked so: the
    most that accuracy on them can have gained over `zero-shot`. None: too few were (`changed_from_alone`)."""
    collapsed: bool
    """(Nearly) all examples have one label: a utility that is high for no good reason."""
    forced: int
    asked_alone: bool
    """`icm_api.core.step.Labelling.asked_alone`: `icm-api label` asks new examples so too."""
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


class LabelRows(Sequence[LabelRow]):
    """A row for each example of a job, made when it is read: rows of all would take more room than all else."""

    def __init__(self, job: Job, finding: Finding) -> None:
        self._job, self._finding = job, finding
        self._abstained, self._pinned = _abstained(job, finding.labelling), pinned_labels(job.problem.relations)

    def __len__(self) -> int:
        return len(self._job.examples)

    @overload
    def __getitem__(self, key: int) -> LabelRow: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[LabelRow, ...]: ...
    def __getitem__(self, key: int | slice) -> LabelRow | tuple[LabelRow, ...]:
        places, scores = range(len(self))[key], self._finding.labelling.scores
        if isinstance(places, int):
            return self._row(places, scores[places])
        return tuple(self._row(i, scores[i]) for i in places)

    def __iter__(self) -> Iterator[LabelRow]:
        return itertools.starmap(self._row, enumerate(self._finding.labelling.scores))

    def _row(self, i: int, score: LabelScore | None) -> LabelRow:
        row = _row(self._job, self._finding, i, score)
        if i in self._abstained:
            row = replace(row, label=None, abstained=True)
        return replace(row, pinned=True) if i in self._pinned else row


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
    ended: bool = True,
    warnings: Sequence[str] = (),
) -> Summary:
    """`about`: the fields that only the runner knows (run_id, out, provider, model, wall_s, stop_reason, ...); `ended`:
    the method came to its end, and no limit, host or user cut it short."""
    names, found = job.label_names, finding.labelling
    abstained, pinned = _abstained(job, found), pinned_labels(job.problem.relations)
    judged = [None if i in abstained or i in pinned else label for i, label in enumerate(found.labels)]
    right, n = accuracy(job.dataset.gold, judged)
    low, high = wilson_interval(right, n) if n else (None, None)
    cut_short = about["stop_reason"] if _is_cut_short(found, about["stop_reason"], ended=ended) else None
    diagnosis = diagnose(_evidence(job, found, cut_short))
    signs = _told(diagnosis.signs, "evidence")
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
        label_shares=dict(zip(names, _shares_given(found.labels, abstained, len(names)), strict=True)),
        share_ranges=dict(zip(names, found.share_ranges, strict=True)) if found.share_ranges else None,
        verdict=diagnosis.verdict,
        against_gold=_against_gold(job, judged, right, n),
        checks=_told(diagnosis.checks, "figure"),
        signs=signs,
        agreement=found.agreement,
        changed_from_alone=_changed_from_alone(found),
        collapsed=collapsed(found.labels, len(names)),
        forced=len(finding.forced),
        asked_alone=found.asked_alone,
        score_kind=next((score.kind for score in found.scores if score is not None), None),
        warnings=(
            *warnings,
            *_unsaid(found, cut_short),
            *_little_gain(found, len(names)),
            *(sign["evidence"] for sign in signs),
        ),
        **{name: getattr(snapshot, name) for name in COUNTS},
        **about,
    )


def _told(checks: Iterable[Check], what: str) -> tuple[Mapping[str, str], ...]:
    return tuple({name: getattr(check, name) for name in ("name", "level", what)} for check in checks)


def _is_cut_short(found: Labelling, stop: str, *, ended: bool) -> bool:
    """Running out of steps counts when it leaves examples without a label."""
    return not ended or (stop == "max_steps" and None in found.labels)


def _changed_from_alone(found: Labelling) -> float | None:
    changed = found.alone and changed_from_alone(found.labels, found.alone.favourites)
    return changed[0] if changed else None


def _unsaid(found: Labelling, cut_short: str | None) -> list[str]:
    """What must be known of a run's end beside the signs."""
    missing = found.labels.count(None)
    if cut_short is None and missing:
        return [
            f"{missing} of {len(found.labels)} examples have no label: no answer about them said anything of the labels"
        ]
    if cut_short is not None and found.settled and not missing:
        return [f"the run stopped early ({cut_short}), when its labels had settled"]
    return []


def _little_gain(found: Labelling, n_labels: int) -> list[str]:
    """No sign against the labels, yet worth knowing before the next run is paid for. A few dozen examples asked alone
    are too few to say it."""
    if found.alone is None:
        return []
    changed = changed_from_alone(found.labels, found.alone.favourites)
    if changed is None or found.asked_alone or collapsed(found.labels, n_labels):
        return []
    share, n = changed
    _, most = wilson_interval(round(share * n), n)
    if most >= LITTLE_GAIN:
        return []
    return [
        f"asked alone, the model gives {1 - share:.0%} of {n} labels too (95% interval from {1 - most:.0%}): --method "
        "zero-shot would do about as well, at one short request an example"
    ]


def _shares_given(labels: Sequence[int | None], abstained: Container[int], n_labels: int) -> tuple[float, ...]:
    return label_shares([None if i in abstained else label for i, label in enumerate(labels)], n_labels)


def _against_gold(job: Job, labels: Sequence[int | None], right: int, n: int) -> str | None:
    """Over the labels that accuracy is about."""
    if not n:
        return None
    known = [g for g, label in zip(job.dataset.gold or (), labels, strict=True) if None not in (g, label)]
    ((commonest, count),) = Counter(known).most_common(1)
    assert commonest is not None
    rival = f"{job.label_names[commonest]!r} for all"
    return against_gold(right / n, *wilson_interval(right, n), rival=rival, rival_right=count / n)


def _evidence(job: Job, found: Labelling, cut_short: str | None) -> Evidence:
    """Gold has no part in it."""
    return Evidence(
        labels=found.labels,
        label_names=job.label_names,
        examples=job.examples,
        scores=found.scores,
        information_nats=found.information_nats,
        agreement=found.agreement,
        own_meaning=found.own_meaning,
        alone=found.alone,
        share_ranges=found.share_ranges,
        cut_short=cut_short,
        settled=found.settled,
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
    solved = problem.consistency.solve(logprobs).labels.of(np.arange(problem.n_examples)).tolist()
    return tuple(None if label is None else solved[i] for i, label in enumerate(labels))


def _forced(
    relations: Sequence[Relation], labels: Sequence[int | None], scores: Sequence[LabelScore | None]
) -> dict[int, Relation]:
    """For each example that does not have its favourite label, a rule (a hard one first) that the favourite breaks."""
    favourites = {
        i: favourite
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
        if label is not None and score is not None and (favourite := argmax_label(score)) != label
    }
    forced: dict[int, Relation] = {}
    for relation in sorted(relations, key=lambda relation: relation.price is not None):
        for i in relation.members:
            free = i in favourites and i not in forced and not is_pin(relation)
            if free and _forbids(relation, labels, i, favourites[i]):
                forced[i] = relation
    return forced


def _forbids(relation: Relation, labels: Sequence[int | None], i: int, favourite: int) -> bool:
    """Whether the relation holds, and would break if example i had its favourite label."""
    found = {member: labels[member] for member in relation.members}
    return not is_broken(relation, found) and is_broken(relation, found | {i: favourite})


def _row(job: Job, finding: Finding, i: int, score: LabelScore | None) -> LabelRow:
    label = finding.labelling.labels[i]
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
