"""From the continuations a host lists to a label score.

Three things are easy to get wrong here, and each has ruined published runs: a label that the host did not list is
not improbable by some constant (it is *bounded* by what was listed), a label of several tokens is not its first
token, and a score says nothing when the labels hold next to no probability.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from icm_api.errors import CapabilityError, OutOfReachError
from icm_api.types import Candidate, Label, LabelScore, NextTokenReply

MASS_TOLERANCE = 5e-3
"""How far rounding may push a sum of probabilities above 1 (a softmax in single precision over a large vocabulary)."""
BOUND_TOLERANCE_NATS = 0.01
"""A label is a bound when what may be hidden could raise it by more than this."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Log-probability of one spelling; `bounded` when the true value may be lower."""

    logprob_nats: float
    bounded: bool = False


def logsumexp(values: Iterable[float]) -> float:
    """log(sum(exp(v))), exact for very negative values; -inf for no values."""
    finite = [v for v in values if v > -math.inf]
    if not finite:
        return -math.inf
    top = max(finite)
    return top + math.log(sum(math.exp(v - top) for v in finite))


def read_listed(spelling: str, candidates: Iterable[Candidate]) -> Reading | None:
    """The spelling as one listed continuation (several tokens may share its text); None when it is not listed."""
    found = [c.logprob_nats for c in candidates if c.text == spelling]
    return Reading(logsumexp(found)) if found else None


def longest_beginning(spelling: str, candidates: Iterable[Candidate]) -> Candidate | None:
    """The listed candidate that spells the longest part of the spelling's beginning, more than blanks; or None."""
    begun = [c for c in candidates if c.text.strip() and spelling.startswith(c.text) and c.text != spelling]
    return max(begun, key=lambda c: (len(c.text), c.logprob_nats), default=None)


def read_unlisted(reply: NextTokenReply) -> Reading:
    """Bound on a continuation that the reply does not list.

    Raises CapabilityError when the list claims to be complete: then the continuation does not exist for the model.
    """
    if reply.floor_nats is None:
        raise CapabilityError("the host's list is complete but lacks a label", model=reply.model)
    return Reading(reply.floor_nats, bounded=True)


def read_split(begun: Candidate, rest: Reading, reply: NextTokenReply) -> Reading:
    """A spelling read in two steps: its listed beginning, then the rest.

    The host may also know the spelling as a single token, which it did not list. That token holds at most
    `floor_nats`, so when the split way is no likelier than that, the sum of both is only a bound.
    """
    split = begun.logprob_nats + rest.logprob_nats
    if reply.floor_nats is None or split > reply.floor_nats:
        return Reading(split, rest.bounded)
    return Reading(logsumexp((split, reply.floor_nats)), bounded=True)


def label_score(
    labels: Sequence[Label],
    readings: Sequence[Reading],
    candidates: Sequence[Candidate],
    *,
    min_mass: float,
) -> LabelScore:
    """Pool the spellings of each label and renormalise over the labels.

    `readings` has one entry per label, for its canonical spelling; variants are added where `candidates` lists
    them. Raises CapabilityError when no label was listed, or when the listed labels hold less than `min_mass` of
    the model's probability: such a score would rest on noise.
    """
    listed = _by_text(candidates)
    pooled = [_pool(label, reading, listed) for label, reading in zip(labels, readings, strict=True)]
    mass = _checked_mass([math.exp(p.listed_nats) for p in pooled], labels, min_mass)
    total = logsumexp(p.value_nats for p in pooled)
    return LabelScore(tuple(p.value_nats - total for p in pooled), mass, tuple(p.bounded for p in pooled))


def argmax_label(score: LabelScore) -> int:
    """The likeliest label. Of equals, one that is no bound, then the first."""
    return max(range(len(score.logprobs_nats)), key=lambda k: (score.logprobs_nats[k], not score.bounded[k], -k))


@dataclass(frozen=True, slots=True)
class _Pooled:
    """A label over all its spellings: what was listed, and that with what may be hidden."""

    listed_nats: float
    value_nats: float

    @property
    def bounded(self) -> bool:
        return self.value_nats - self.listed_nats > BOUND_TOLERANCE_NATS


def _pool(label: Label, reading: Reading, listed: Mapping[str, float]) -> _Pooled:
    known = [listed[variant] for variant in label.variants if variant in listed]
    if not reading.bounded:
        known.append(reading.logprob_nats)
    seen = logsumexp(known)
    return _Pooled(seen, logsumexp((seen, reading.logprob_nats)) if reading.bounded else seen)


def _by_text(candidates: Sequence[Candidate]) -> Mapping[str, float]:
    texts: dict[str, list[float]] = {}
    for candidate in candidates:
        texts.setdefault(candidate.text, []).append(candidate.logprob_nats)
    return {text: logsumexp(values) for text, values in texts.items()}


def _checked_mass(seen: Sequence[float], labels: Sequence[Label], min_mass: float) -> float:
    names = ", ".join(repr(label.name) for label in labels)
    if not any(seen):
        raise OutOfReachError(
            f"none of the labels {names} is among the continuations that the host listed: ask for more candidates "
            "(--top-k), use likelier label words (on a chat route, of one token), or a host that scores named tokens"
        )
    mass = sum(seen)
    if mass > 1 + MASS_TOLERANCE:
        raise CapabilityError(f"the labels {names} hold {mass:.4f} of the probability, more than all of it")
    if mass < min_mass:
        raise OutOfReachError(
            f"the labels {names} hold only {mass:.2g} of the model's probability (at least {min_mass:g} is asked, "
            "--min-mass): the model does not take them as answers here; use other label words or another template"
        )
    return min(mass, 1.0)
