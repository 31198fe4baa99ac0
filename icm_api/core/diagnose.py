"""Does a labelling deserve trust? Judged without gold, each sign with its evidence.

Coherent is not true: a model can agree with itself on the wrong concept. So nothing here proves labels right; the signs
name the known ways in which they are wrong, and what to look at. Where some gold is known, `against_gold` says what it
says beside the verdict: a verdict that took it in could not be judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from icm_api.core.surface import surface_of
from icm_api.types import LabelScore

COLLAPSE_SHARE = 0.95
LITTLE_TO_TELL_NATS = 0.1
LITTLE_INFORMATION = 0.1
"""Of what there is to tell. A judgement: what is below looks like noise to a few dozen examples."""
POOR_AGREEMENT = 0.75
"""Of restarts. Chance is 0.5 for two even labels."""
SURFACE_ACCURACY = 0.95
LITTLE_MASS = 0.05
"""Median share of the model's probability that the labels hold."""
AGAINST_OWN_MEANING = 0.4
"""Share of labels that the label words' own meaning supports, below which the labels look turned round."""
LEAST_OF_OWN_MEANING = 8
"""Examples: with fewer such a share is chance."""
ANY_SHARES = 0.5
"""Width of the range of a label's shares that fit the scores, from which the scores tell next to nothing of them."""

SignName = Literal["collapse", "no concept", "instability", "polarity", "surface", "thin mass", "shares", "unfinished"]
Level = Literal["failed", "doubtful"]
Verdict = Literal["healthy", "doubtful", "failed"]


@dataclass(frozen=True, slots=True)
class Sign:
    """Something that speaks against a labelling."""

    name: SignName
    level: Level
    evidence: str
    """A sentence with the figures, and what to do."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a labelling without gold. None: not measured."""

    labels: Sequence[int | None]
    label_names: Sequence[str]
    texts: Sequence[str]
    scores: Sequence[LabelScore | None]
    information_nats: float | None
    agreement: float | None = None
    """Mean share of equal labels over pairs of restarts."""
    own_meaning: Sequence[int | None] | None = None
    """Labels before the model has seen any: what the label words themselves mean to it."""
    share_ranges: Sequence[tuple[float, float]] | None = None
    """Of each label the shares that would fit the scores (`icm_api.core.step.Labelling.share_ranges`)."""
    cut_short: str | None = None
    """What stopped the search before its end; None: nothing did."""
    settled: bool = False
    """No label would have changed any more (`icm_api.core.step.Labelling.settled`)."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The signs found; the worst of them is the verdict."""

    signs: tuple[Sign, ...]

    @property
    def verdict(self) -> Verdict:
        levels = {sign.level for sign in self.signs}
        return "failed" if "failed" in levels else "doubtful" if levels else "healthy"


def diagnose(evidence: Evidence) -> Diagnosis:
    """All signs against a labelling; none of them looks at gold."""
    signs: tuple[Sign | None, ...]
    if collapsed(evidence.labels, len(evidence.label_names)):
        signs = (_collapse(evidence),)  # it explains all that the labels show
    else:
        signs = tuple(find(evidence) for find in (_no_concept, _instability, _polarity, _surface, _mass, _shares))
    return Diagnosis(tuple(sign for sign in (*signs, _unfinished(evidence)) if sign is not None))


def against_gold(right: float, low: float, high: float, *, rival: str, rival_right: float) -> str | None:
    """What gold labels say against a labelling of which the share `right` agrees with them (95% interval `low` to
    `high`), in a sentence: `rival` takes no such labelling, and agrees with `rival_right` of the same gold.

    None where the labelling is better than that beyond chance.
    """
    if low > rival_right:
        return None
    found = f"{right:.1%} of the labels agree with it (95% interval {low:.1%} to {high:.1%})"
    told = f"{found}; {rival} would agree with {rival_right:.1%}"
    if high < rival_right:
        return f"gold disagrees with these labels: {told}"
    return (
        f"gold does not bear these labels out: {told}"
        if right <= rival_right
        else f"gold is too little to tell: {told}"
    )


def label_shares(labels: Sequence[int | None], n_labels: int) -> tuple[float, ...]:
    """Share of each label among the labelled examples; all 0 when none is labelled."""
    labelled = [label for label in labels if label is not None]
    return tuple(labelled.count(k) / max(len(labelled), 1) for k in range(n_labels))


def collapsed(labels: Sequence[int | None], n_labels: int) -> bool:
    """Whether (nearly) all examples have one label.

    One label for all is a near-perfect optimum of mutual predictability whenever no rule forbids it (section 2.1
    of arXiv 2506.10139 names it degenerate), so a high utility is no evidence against it.
    """
    labelled = sum(label is not None for label in labels)
    return labelled > n_labels and max(label_shares(labels, n_labels)) >= COLLAPSE_SHARE


def information_share(information_nats: float, shares: Sequence[float]) -> float:
    """Information in parts of what there is to tell. Alone it prefers even shares; and with hardly anything to tell, a
    single odd example would tell all of it."""
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    return information_nats / (entropy + LITTLE_TO_TELL_NATS)


def _collapse(evidence: Evidence) -> Sign:
    shares = label_shares(evidence.labels, len(evidence.label_names))
    top = max(range(len(shares)), key=lambda k: shares[k])
    return Sign(
        "collapse",
        "failed",
        f"collapsed: {shares[top]:.0%} of the examples are {evidence.label_names[top]!r}. One label for all predicts "
        "itself almost perfectly, so a high utility is no evidence for it. If the examples are not that one-sided, the "
        "labels are worthless: try method sweep, other label words, or rules that need both labels (exactly_one, "
        "asymmetric)",
    )


def _no_concept(evidence: Evidence) -> Sign | None:
    if evidence.information_nats is None:
        return None
    told = information_share(evidence.information_nats, label_shares(evidence.labels, len(evidence.label_names)))
    if told >= LITTLE_INFORMATION:
        return None
    unsettled = evidence.agreement is not None and evidence.agreement < POOR_AGREEMENT
    return Sign(
        "no concept",
        "failed" if unsettled or told <= 0 else "doubtful",
        f"the texts tell next to nothing about these labels ({max(told, 0.0):.0%} of what there is to tell): the model "
        "may not hold the concept; look at some, try other label words or a larger model",
    )


def _instability(evidence: Evidence) -> Sign | None:
    if evidence.agreement is None or evidence.agreement >= POOR_AGREEMENT:
        return None
    return Sign(
        "instability",
        "doubtful",
        f"restarts agree on only {evidence.agreement:.0%} of the labels: more than one labelling is about as coherent "
        "as this one",
    )


def _polarity(evidence: Evidence) -> Sign | None:
    """For two labels only: more have no single opposite."""
    if evidence.own_meaning is None or len(evidence.label_names) != 2:
        return None
    pairs = [(a, b) for a, b in zip(evidence.labels, evidence.own_meaning, strict=True) if None not in (a, b)]
    equal = sum(a == b for a, b in pairs)
    if len(pairs) < LEAST_OF_OWN_MEANING or equal / len(pairs) >= AGAINST_OWN_MEANING:
        return None
    return Sign(
        "polarity",
        "doubtful",
        f"the label words by themselves support only {equal / len(pairs):.0%} of the labels: they may be turned round; "
        "look at some, and exchange the two labels if so",
    )


def _surface(evidence: Evidence) -> Sign | None:
    found = surface_of(evidence.texts, evidence.labels)
    if found is None or found.accuracy < SURFACE_ACCURACY:
        return None
    return Sign(
        "surface",
        "doubtful",
        f"{found.feature} alone tells {found.accuracy:.0%} of these labels: are they about that, or about what you "
        "meant?",
    )


def _mass(evidence: Evidence) -> Sign | None:
    masses = [score.mass for score in evidence.scores if score is not None and score.kind == "logprob"]
    if not masses or (median := float(np.median(masses))) >= LITTLE_MASS:
        return None
    return Sign(
        "thin mass",
        "doubtful",
        f"the labels hold only {median:.1%} of the model's probability (median): it would rather write something else; "
        "use label words that continue the prompt naturally",
    )


def _shares(evidence: Evidence) -> Sign | None:
    ranges = evidence.share_ranges or ()
    wide = [k for k, (least, most) in enumerate(ranges) if most - least >= ANY_SHARES]
    if not wide:
        return None
    least, most = ranges[wide[-1]]
    name = evidence.label_names[wide[-1]]
    taken = label_shares(evidence.labels, len(evidence.label_names))[wide[-1]]
    return Sign(
        "shares",
        "doubtful",
        f"the scores do not tell how often each label occurs: shares of {name!r} as far apart as "
        f"{least:.0%} and {most:.0%} would fit, and {taken:.0%} got it; if you know the shares, give --class-prior",
    )


def _unfinished(evidence: Evidence) -> Sign | None:
    missing = list(evidence.labels).count(None)
    if evidence.cut_short is None or (evidence.settled and not missing):
        return None
    without = f"{missing} of {len(evidence.labels)} examples have no label" if missing else "they are the best so far"
    return Sign(
        "unfinished",
        "doubtful",
        f"the run stopped early ({evidence.cut_short}), before its labels had settled: {without}; let it go "
        "on, or give it more",
    )
