"""Does a labelling deserve trust? Judged without gold, by checks that each tell what was measured.

Coherent is not true: a model can agree with itself on the wrong concept. So nothing here proves labels right; the
checks look for the known ways in which they are wrong, and one that finds something is a sign, with its evidence and
what to look at. Where some gold is known, `against_gold` says what it says beside the verdict: a verdict that took it
in could not be judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from icm_api.core.step import Alone
from icm_api.core.surface import LEAST_OF_A_LABEL, surface_of
from icm_api.types import Example, LabelScore

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

ALONE_TELLS = 2.0
"""How many times the information of the labels found that of examples asked alone must be, for demonstrations to count
as having spoilt what the model knows. Not once: what the words mean by themselves is a first guess, and demonstrations
of the same information have refined it."""
LEAST_TO_COMPARE = 0.01
"""Times as much as nothing would say nothing."""
LITTLE_GAIN = 0.1
"""Share of labels that the search changed, below which (with its whole 95 % interval) it was hardly worth its price."""
NOT_ALONE = "no example was asked alone first (methods sweep and bootstrap do so), or the model said nothing then"
ABSENT_BY_CHANCE = 0.01
"""Chance that some label is nobody's, were all equally common, below which it is odd that one is."""

SignName = Literal[
    "collapse",
    "no concept",
    "spoilt",
    "instability",
    "polarity",
    "surface",
    "thin mass",
    "shares",
    "gain",
    "unfinished",
]
Level = Literal["fine", "doubtful", "failed", "not measured"]
Verdict = Literal["healthy", "doubtful", "failed"]
Judgement: TypeAlias = tuple[Level, str, "str | None"]
"""(level, figure, evidence), as a `Check` and a `Sign` have them."""


@dataclass(frozen=True, slots=True)
class Check:
    """One way in which labels are known to go wrong, and what was measured of it."""

    name: SignName
    level: Level
    figure: str
    """What was measured, with its limit, in a few words; of what was not measured, why."""


@dataclass(frozen=True, slots=True)
class Sign(Check):
    """A check that speaks against a labelling."""

    evidence: str
    """A sentence with the figures, and what to do."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of a labelling without gold. None: not measured."""

    labels: Sequence[int | None]
    label_names: Sequence[str]
    examples: Sequence[Example]
    scores: Sequence[LabelScore | None]
    information_nats: float | None
    agreement: float | None = None
    """Mean share of equal labels over pairs of restarts."""
    own_meaning: Sequence[int | None] | None = None
    """Labels before the model has seen any: what the label words themselves mean to it."""
    alone: Alone | None = None
    """What the model says without demonstrations."""
    share_ranges: Sequence[tuple[float, float]] | None = None
    """Of each label the shares that would fit the scores (`icm_api.core.step.Labelling.share_ranges`)."""
    cut_short: str | None = None
    """What stopped the search before its end; None: nothing did."""
    settled: bool = False
    """No label would have changed any more (`icm_api.core.step.Labelling.settled`)."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All checks, always in the same order; the worst of them is the verdict. One that was not measured speaks neither
    for the labels nor against them."""

    checks: tuple[Check, ...]

    @property
    def signs(self) -> tuple[Sign, ...]:
        return tuple(check for check in self.checks if isinstance(check, Sign))

    @property
    def verdict(self) -> Verdict:
        levels = {sign.level for sign in self.signs}
        return "failed" if "failed" in levels else "doubtful" if levels else "healthy"


def diagnose(evidence: Evidence) -> Diagnosis:
    """All checks of a labelling; none of them looks at gold."""
    collapse, unfinished = _collapse(evidence), _unfinished(evidence)
    if collapse[0] == "failed":
        between = dict.fromkeys(_MEASURES, _not_measured("one label for all explains all that the labels show"))
    else:
        between = {name: judge(evidence) for name, judge in _MEASURES.items()}
    judged: Mapping[SignName, Judgement] = {"collapse": collapse, **between, "unfinished": unfinished}
    return Diagnosis(tuple(_check(name, *judgement) for name, judgement in judged.items()))


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


def times_told(alone: float, kept: float) -> float | None:
    """How many times as much the texts tell about the labels of examples asked alone as about those kept, both as
    `information_share` has it; None where that is too little to compare."""
    return alone / max(kept, LEAST_TO_COMPARE) if alone >= LITTLE_INFORMATION else None


def _check(name: SignName, level: Level, figure: str, evidence: str | None) -> Check:
    return Check(name, level, figure) if evidence is None else Sign(name, level, figure, evidence)


def _not_measured(reason: str) -> Judgement:
    return "not measured", reason, None


def _percent(share: float) -> str:
    """Cut off, not rounded: a share below a limit must not look as if it reached it."""
    return f"{math.floor(share * 1000 + 1e-9) / 10:g}%"


def _collapse(evidence: Evidence) -> Judgement:
    shares = label_shares(evidence.labels, len(evidence.label_names))
    top = max(range(len(shares)), key=lambda k: shares[k])
    limit = f"less than {_percent(COLLAPSE_SHARE)} is fine"
    figure = f"{_percent(shares[top])} of the labels are {evidence.label_names[top]!r}, the commonest one ({limit})"
    if collapsed(evidence.labels, len(evidence.label_names)):
        return (
            "failed",
            figure,
            f"collapsed: {shares[top]:.0%} of the examples are {evidence.label_names[top]!r}. One label for all "
            "predicts itself almost perfectly, so a high utility is no evidence for it. If the examples are not that "
            "one-sided, the labels are worthless: try method sweep, other label words, or rules that need both labels "
            "(exactly_one, asymmetric)",
        )
    if shares[top] >= COLLAPSE_SHARE or not any(shares):
        return _not_measured("too few examples have a label")
    if absent := _absent(evidence):
        return (
            "doubtful",
            f"{absent}; {figure}",
            f"{absent}: if there are such examples, others have taken them in; try method sweep, other label words, or "
            "give --class-prior",
        )
    return "fine", figure, None


def _absent(evidence: Evidence) -> str | None:
    """Which of three or more labels nobody got, where that is odd."""
    shares, n = label_shares(evidence.labels, k := len(evidence.label_names)), len(evidence.labels)
    absent = [repr(name) for name, share in zip(evidence.label_names, shares, strict=True) if share == 0]
    odd = absent and k * (1 - 1 / k) ** (n - list(evidence.labels).count(None)) < ABSENT_BY_CHANCE
    return f"none of the examples is {' or '.join(absent)}" if odd else None


def _no_concept(evidence: Evidence) -> Judgement:
    if evidence.information_nats is None:
        return _not_measured("no example has both a label and a score")
    told = information_share(evidence.information_nats, label_shares(evidence.labels, len(evidence.label_names)))
    limit = f"{_percent(LITTLE_INFORMATION)} or more is fine"
    figure = f"the texts tell {_percent(max(told, 0.0))} of what there is to tell about the labels ({limit})"
    if told >= LITTLE_INFORMATION:
        return "fine", figure, None
    unsettled = evidence.agreement is not None and evidence.agreement < POOR_AGREEMENT
    return (
        "failed" if unsettled or told <= 0 else "doubtful",
        figure,
        f"the texts tell next to nothing about these labels ({max(told, 0.0):.0%} of what there is to tell): the model "
        "may not hold the concept; look at some, try other label words or a larger model",
    )


def _spoilt(evidence: Evidence) -> Judgement:
    if evidence.alone is None:
        return _not_measured(NOT_ALONE)
    told = evidence.alone.told
    if told is None:
        return _not_measured("asked alone, the model tells too little to compare")
    limit = f"up to {ALONE_TELLS:g} times is fine"
    figure = f"asked about examples alone, the model tells {told:.2g} times as much about their labels ({limit})"
    if told <= ALONE_TELLS:
        return "fine", figure, None
    return (
        "doubtful",
        figure,
        f"asked about examples alone, the model tells {told:.2g} times as much about their labels as after "
        "demonstrations: these spoil what it knows; try --method zero-shot",
    )


def _gain(evidence: Evidence) -> Judgement:
    """Never a sign: labels that the model gives by itself can be right all the same."""
    if evidence.alone is None:
        return _not_measured(NOT_ALONE)
    changed = changed_from_alone(evidence.labels, evidence.alone.favourites)
    if changed is None:
        return _not_measured(f"fewer than {LEAST_OF_OWN_MEANING} labelled examples were asked alone")
    share, n = changed
    differ = f"{_percent(share)} of {n} labels differ from those that the model gives when asked alone"
    return "fine", f"{differ}: against --method zero-shot, no more of them can have become right", None


def changed_from_alone(labels: Sequence[int | None], alone: Sequence[int | None]) -> tuple[float, int] | None:
    """(share of the labels that are others than when the model was asked alone, of how many); None for too few.

    No more of these examples can have become right by the search than that share.
    """
    pairs = [(a, b) for a, b in zip(labels, alone, strict=True) if None not in (a, b)]
    if len(pairs) < LEAST_OF_OWN_MEANING:
        return None
    return sum(a != b for a, b in pairs) / len(pairs), len(pairs)


def _instability(evidence: Evidence) -> Judgement:
    if evidence.agreement is None:
        return _not_measured("there are no two restarts to compare (method sweep makes them)")
    limit = f"{_percent(POOR_AGREEMENT)} or more is fine"
    figure = f"restarts agree on {_percent(evidence.agreement)} of the labels ({limit})"
    if evidence.agreement >= POOR_AGREEMENT:
        return "fine", figure, None
    return (
        "doubtful",
        figure,
        f"restarts agree on only {evidence.agreement:.0%} of the labels: more than one labelling is about as coherent "
        "as this one",
    )


def _polarity(evidence: Evidence) -> Judgement:
    if len(evidence.label_names) != 2:
        return _not_measured("more than two labels have no single opposite")
    if evidence.own_meaning is None:
        return _not_measured(NOT_ALONE)
    pairs = [(a, b) for a, b in zip(evidence.labels, evidence.own_meaning, strict=True) if None not in (a, b)]
    if len(pairs) < LEAST_OF_OWN_MEANING:
        return _not_measured(
            f"too few labelled examples were asked alone ({len(pairs)}; it takes {LEAST_OF_OWN_MEANING})"
        )
    supported = sum(a == b for a, b in pairs) / len(pairs)
    limit = f"{_percent(AGAINST_OWN_MEANING)} or more is fine"
    figure = f"the label words by themselves support {_percent(supported)} of {len(pairs)} labels ({limit})"
    if supported >= AGAINST_OWN_MEANING:
        return "fine", figure, None
    return (
        "doubtful",
        figure,
        f"the label words by themselves support only {supported:.0%} of the labels: they may be turned round; "
        "look at some, and exchange the two labels if so",
    )


def _surface(evidence: Evidence) -> Judgement:
    found = surface_of((example.fields for example in evidence.examples), evidence.labels)
    if found is None:
        return _not_measured(f"fewer than two labels occur {LEAST_OF_A_LABEL} times or more")
    limit = f"less than {_percent(SURFACE_ACCURACY)} is fine"
    name = None if found.label is None else evidence.label_names[found.label]
    of_labels = "of these labels" if name is None else f"of {name!r} from the other labels"
    figure = f"the most telling trait, {found.feature}, tells {_percent(found.accuracy)} {of_labels} ({limit})"
    if found.accuracy < SURFACE_ACCURACY:
        return "fine", figure, None
    about = "are they" if name is None else f"is {name!r}"
    return (
        "doubtful",
        figure,
        f"{found.feature} alone tells {found.accuracy:.0%} {of_labels}: {about} about that, or about what you meant?",
    )


def _mass(evidence: Evidence) -> Judgement:
    masses = [score.mass for score in evidence.scores if score is not None and score.kind == "logprob"]
    if not masses:
        return _not_measured("no label was scored by the probabilities of tokens")
    median = float(np.median(masses))
    limit = f"{_percent(LITTLE_MASS)} or more is fine"
    figure = f"the labels hold {_percent(median)} of the model's probability, in the median ({limit})"
    if median >= LITTLE_MASS:
        return "fine", figure, None
    return (
        "doubtful",
        figure,
        f"the labels hold only {median:.1%} of the model's probability (median): it would rather write something else; "
        "use label words that continue the prompt naturally",
    )


def _shares(evidence: Evidence) -> Judgement:
    ranges = evidence.share_ranges
    if not ranges:
        return _not_measured("shares were known, or not read off the scores (only method sweep reads them)")
    wide = [k for k, (least, most) in enumerate(ranges) if most - least >= ANY_SHARES]
    k = wide[-1] if wide else max(range(len(ranges)), key=lambda k: ranges[k][1] - ranges[k][0])
    least, most = ranges[k]
    name = evidence.label_names[k]
    limit = f"less than {100 * ANY_SHARES:.0f} points apart is fine"
    figure = f"shares of {name!r} from {_percent(least)} to {_percent(most)} would fit the scores ({limit})"
    if not wide:
        return "fine", figure, None
    taken = label_shares(evidence.labels, len(evidence.label_names))[k]
    return (
        "doubtful",
        figure,
        f"the scores do not tell how often each label occurs: shares of {name!r} as far apart as "
        f"{least:.0%} and {most:.0%} would fit, and {taken:.0%} got it; if you know the shares, give --class-prior",
    )


def _unfinished(evidence: Evidence) -> Judgement:
    missing = list(evidence.labels).count(None)
    if evidence.cut_short is None:
        return "fine", "nothing stopped the run before its end", None
    early = f"the run stopped early ({evidence.cut_short})"
    if evidence.settled and not missing:
        return "fine", f"{early}, when its labels had settled", None
    without = f"{missing} of {len(evidence.labels)} examples have no label" if missing else "they are the best so far"
    unsettled = f"{early}, before its labels had settled: {without}"
    return "doubtful", unsettled, f"{unsettled}; let it go on, or give it more"


_MEASURES: Mapping[SignName, Callable[[Evidence], Judgement]] = {
    "no concept": _no_concept,
    "spoilt": _spoilt,
    "instability": _instability,
    "polarity": _polarity,
    "surface": _surface,
    "thin mass": _mass,
    "shares": _shares,
    "gain": _gain,
}
"""What there is to measure where not all examples have one label."""
