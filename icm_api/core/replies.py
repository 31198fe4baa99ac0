"""What must hold of every reply, whoever gives it: one list of demands for the probe and the conformance suite."""

from __future__ import annotations

import math
from collections.abc import Sequence

from icm_api.core.labels import MASS_TOLERANCE
from icm_api.types import Candidate

SENTINEL_NATS = -999.0
"""At or below this a log-probability is a stand-in for "not listed"."""


def list_faults(candidates: Sequence[Candidate], floor_nats: float | None) -> list[str]:
    """What is wrong with a list of candidates and the bound on the others; empty: nothing."""
    values = [c.logprob_nats for c in candidates]
    if not values:
        return ["no candidate is listed"]
    if any(math.isnan(value) for value in values):
        return ["a log-probability is NaN"]
    mass = math.fsum(math.exp(min(c.logprob_nats, 0.0)) for c in candidates if not _goes_on(c, candidates))
    found = {
        "a log-probability is above 0": max(values) > 0,
        "a log-probability is a stand-in such as -9999": min(values) <= SENTINEL_NATS,
        "every log-probability is 0, as of a list made after sampling": min(values) == 0,
        "the candidates are not listed best first": list(values) != sorted(values, reverse=True),
        f"the candidates hold {mass:.3f} of the probability, more than all of it": mass > 1 + MASS_TOLERANCE,
        f"the bound on the others is {floor_nats}, no log-probability": not _is_bound(floor_nats),
    }
    return [fault for fault, holds in found.items() if holds]


def share_faults(shares: Sequence[float], labels: int, *, votes: bool) -> list[str]:
    """What is wrong with the shares of a choice among so many labels; empty: nothing."""
    if len(shares) != labels:
        return [f"{len(shares)} shares for {labels} labels"]
    if not all(0 <= share <= 1 for share in shares) or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6):
        return [f"the shares {tuple(shares)} are no probabilities that sum to 1"]
    if votes and max(shares) != 1:
        return [f"a vote names one label, not the shares {tuple(shares)}"]
    return []


def _goes_on(candidate: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Whether its probability may be part of another's: a label of several tokens stands beside its first token."""
    return any(c.text and c.text != candidate.text and candidate.text.startswith(c.text) for c in candidates)


def _is_bound(floor_nats: float | None) -> bool:
    return floor_nats is None or floor_nats <= 0  # NaN is none
