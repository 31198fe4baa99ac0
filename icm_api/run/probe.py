"""Does this host return log-probs that labels can rest on? Measured with a few cheap requests, not looked up.

The checks are those of the quiet failures seen on real hosts: parameters accepted and ignored, prompts cut in silence,
labels out of reach, numbers that do not answer to the prompt or change from call to call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from icm_api.core.context import Chain, Query
from icm_api.core.labels import logsumexp
from icm_api.errors import CapabilityError
from icm_api.providers.base import Provider
from icm_api.run.scorer import PromptScorer
from icm_api.types import Label, LabelScore, NextTokenReply, NextTokenRequest

Status = Literal["ok", "warn", "fail"]

FEW_SHOT = (
    ("Two is a number.", 1),
    ("Fire is cold.", 0),
    ("Cats are animals.", 1),
    ("Stones can sing.", 0),
    ("Water is wet.", 1),
    ("The sun is made of cheese.", 0),
)
QUERY = "Dogs can bark."
ENOUGH_MASS = 0.05
JITTER_NATS = 0.01
ECHO_NATS = 0.1
"""Prompt log-probs and next-token log-probs of the same place may differ by so much: other kernels, other batches."""
WRONG_ECHO_NATS = 0.5
CHECKED_FROM = 3
"""Positions whose prompt log-probs are checked: from here on the labels are likely enough to be listed."""


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    status: Status
    detail: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What was measured. `verdict`: `usable`, `usable with care` or `not usable`."""

    provider: str
    model: str
    verdict: str
    checks: tuple[Check, ...]

    @property
    def usable(self) -> bool:
        return all(check.status != "fail" for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


async def probe(provider: Provider, labels: Sequence[Label]) -> ProbeReport:
    """Ask a few short questions of a bare adapter (no cache: a repeated call must be a call). Two labels.

    Raises AuthError, RequestError and the like as they are: those say nothing of log-probs.
    """
    asked = _Probe(provider, labels)
    try:
        checks = await asked.checks()
    except CapabilityError as error:
        checks = [Check("log-probs", "fail", str(error))]
    return ProbeReport(provider.name, provider.model, _verdict(checks), tuple(checks))


class _Probe:
    def __init__(self, provider: Provider, labels: Sequence[Label]) -> None:
        texts = [f"Claim: {claim}\nI think this claim is" for claim, _ in (*FEW_SHOT, (QUERY, 1))]
        self.provider = provider
        self.scorer = PromptScorer(provider, labels, texts, min_mass=0.0)
        self.query = Query(len(FEW_SHOT), tuple((i, label) for i, (_, label) in enumerate(FEW_SHOT)))

    async def checks(self) -> list[Check]:
        request = NextTokenRequest(self.scorer.prompt(self.query), self.scorer.wanted)
        reply = await self.provider.send(request)
        first = await self._score(self.query)
        return [
            Check("log-probs", "ok", f"{len(reply.candidates)} candidates listed"),
            _reach(first),
            await self._answers_to("the last label", self._flipped(-1), first),
            await self._answers_to("the first label", self._flipped(0), first),
            _jitter(first, await self._score(self.query)),
            *await self._prompt_logprobs(),
            _usage(reply),
            _context(self.provider),
        ]

    async def _prompt_logprobs(self) -> list[Check]:
        """Each label's log-prob within a sequence must be what it is after the same text alone. Some hosts give that of
        the next place: numbers that look right and are not."""
        if not self.provider.capabilities.prompt_logprobs:
            return []
        shown = (*self.query.demonstrations, (self.query.example, 0))
        alone = [Query(shown[k][0], shown[:k]) for k in range(CHECKED_FROM, len(shown))]
        try:
            (together,) = await self.scorer.score_chains([Chain(shown, CHECKED_FROM)])
            return [_agreement(together, await self.scorer.score(alone))]
        except CapabilityError as error:
            return [Check("prompt log-probs", "fail", str(error))]

    async def _score(self, query: Query) -> LabelScore:
        return (await self.scorer.score([query]))[0]

    def _flipped(self, position: int) -> Query:
        shown = list(self.query.demonstrations)
        example, label = shown[position]
        shown[position] = (example, 1 - label)
        return Query(self.query.example, tuple(shown))

    async def _answers_to(self, what: str, changed: Query, before: LabelScore) -> Check:
        """A prompt that is cut or ignored gives the same numbers whatever it says."""
        moved = _distance(before, await self._score(changed))
        name = f"answers to {what} of the prompt"
        if moved == 0:
            return Check(name, "fail", "the log-probs did not move at all: the prompt is cut or not read")
        return Check(name, "ok", f"moved by {moved:.3f} nats")


def _reach(score: LabelScore) -> Check:
    if any(score.bounded):
        return Check("labels in reach", "warn", "a label is outside the listed candidates and only bounded (--top-k)")
    status: Status = "ok" if score.mass >= ENOUGH_MASS else "warn"
    return Check("labels in reach", status, f"both labels listed, together {score.mass:.3f} of the probability")


def _jitter(first: LabelScore, second: LabelScore) -> Check:
    moved = _distance(first, second)
    return Check("repeated call", "ok" if moved <= JITTER_NATS else "warn", f"differs by {moved:.4f} nats")


def _agreement(together: Sequence[LabelScore | None], alone: Sequence[LabelScore]) -> Check:
    name = "prompt log-probs"
    apart = [
        abs(one - other)
        for pair in zip(together, alone, strict=True)
        for one, other in zip(*map(_raw_nats, pair), strict=False)
        if one is not None and other is not None
    ]
    if not apart:
        return Check(name, "warn", "not comparable: no label is in both lists (--top-k)")
    worst = f"{len(apart)} of them differ by up to {max(apart):.3f} nats from next-token requests for the same places"
    if max(apart) > WRONG_ECHO_NATS:
        return Check(name, "fail", f"{worst}: they are not those of the labels; do without --echo")
    return Check(name, "ok" if max(apart) <= ECHO_NATS else "warn", worst)


def _raw_nats(score: LabelScore | None) -> list[float | None]:
    """Log-probabilities as before they were renormalised; None where one is only bounded."""
    if score is None:
        return []
    labels = list(zip(score.logprobs_nats, score.bounded, strict=True))
    shift = math.log(score.mass) - logsumexp(value for value, bounded in labels if not bounded)
    return [None if bounded else value + shift for value, bounded in labels]


def _usage(reply: NextTokenReply) -> Check:
    usage = reply.usage
    if usage.prompt_tokens is None:
        return Check("usage reported", "warn", "no token counts: limits hold by the prompt's size in bytes")
    cached = "not reported" if usage.cached_tokens is None else str(usage.cached_tokens)
    return Check("usage reported", "ok", f"prompt tokens {usage.prompt_tokens}, cached {cached}")


def _context(provider: Provider) -> Check:
    tokens = provider.capabilities.context_tokens
    if tokens is None:
        return Check("context length", "warn", "unknown: set it with --context-tokens")
    return Check("context length", "ok", f"{tokens} tokens")


def _distance(a: LabelScore, b: LabelScore) -> float:
    return max(abs(x - y) for x, y in zip(a.logprobs_nats, b.logprobs_nats, strict=True))


def _verdict(checks: Sequence[Check]) -> str:
    statuses = {check.status for check in checks}
    if "fail" in statuses:
        return "not usable"
    return "usable with care" if "warn" in statuses else "usable"
