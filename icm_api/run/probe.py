"""Does this host return numbers that labels can rest on? Measured with about ten cheap requests, not looked up.

The checks are those of the quiet failures seen on real hosts: parameters accepted and ignored, prompts cut in silence,
labels out of reach, numbers that do not answer to the prompt or change from call to call, echoes of the wrong place.
Not measured: whether temperature moves the numbers. Adapters always ask at one temperature (it is part of their
identity), so there is nothing to compare; a list made after sampling shows itself by being 0 throughout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypeVar

from icm_api.client.prices import Price
from icm_api.client.wrapper import Wrapper
from icm_api.config import ProviderConfig
from icm_api.core.context import Chain, Query
from icm_api.core.labels import logsumexp
from icm_api.core.replies import list_faults, share_faults
from icm_api.errors import CapabilityError
from icm_api.local.models import default_cache_dir
from icm_api.providers.base import Provider
from icm_api.run.compose import Say, known_price, open_adapter
from icm_api.run.probe_record import ABOUT_LABELS, Check, ProbeRecord, Status, save_record
from icm_api.run.scorer import PromptScorer
from icm_api.types import (
    ChoiceReply,
    ChoiceRequest,
    Label,
    LabelScore,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    Request,
    SequenceReply,
    Usage,
)

R = TypeVar("R")

SHOWN = (
    "Two is a number.",
    "Fire is cold.",
    "Cats are animals.",
    "Stones can sing.",
    "Water is wet.",
    "The sun is made of cheese.",
)
"""Every second one is true; of two labels, the last is shown with the true ones."""
ASKED = ("Dogs can bark.", "The moon is a kind of bread.")
"""A true one and a false one."""
PLAIN = (" True", " False")
"""Labels that no tokeniser is in trouble with: what fails for them fails because of the host."""
ENOUGH_MASS = 0.05
JITTER_NATS = 0.01
ECHO_NATS = 0.1
"""Prompt log-probs and next-token log-probs of the same place may differ by so much: other kernels, other batches."""
WRONG_ECHO_NATS = 0.5
CHECKED_FROM = 3
"""Positions whose prompt log-probs are checked: from here on the labels are likely enough to be listed."""

OTHER_ROUTE = "use another route of this host, another model or host, or counted answers (--route votes)"
WITHOUT_ECHO = "do without prompt log-probs: leave out --echo, or use another route or model"
PROMPT_IS_CUT = "set the host's context so that prompts fit (and --context-tokens to match), or use another host"
ANSWERS = "answers with a label"
OTHER_MODEL = "use another model or host"
OTHER_LABELS = "raise --top-k, or choose label words that the model would write here (--labels)"


async def probe_host(
    config: ProviderConfig, environ: Mapping[str, str], labels: Sequence[Label], say: Say | None = None
) -> ProbeRecord:
    """Probe the host that the configuration names, and keep the record in the cache folder.

    Raises AuthError, RequestError and the like as they are (those say nothing of its numbers, and no record is kept),
    ConfigError for an unusable setting.
    """
    async with open_adapter(config, environ, say) as provider:
        price = known_price(config, provider.model)
        record = await probe(provider, labels, price=price, votes=config.votes)
        save_record(config.cache_dir or default_cache_dir(environ), provider, record)
        return record


async def probe(provider: Provider, labels: Sequence[Label], *, price: Price | None, votes: int = 1) -> ProbeRecord:
    """Ask a few short questions of a bare adapter (no cache: a repeated call must be a call). Two labels or more.

    `votes`: answers that a run would count for one question. Raises as `probe_host`.
    """
    watched = _Watched(provider)
    measure = _Choices(watched, labels, votes) if provider.capabilities.choices else _LogProbs(watched, labels)
    checks = [check async for check in measure.checks()]
    checks += [_usage(watched.usages), _context(provider), _price(price)]
    return ProbeRecord(
        provider=provider.name,
        model=provider.model,
        identity=dict(provider.identity),
        labels=tuple(label.name for label in labels),
        verdict=_verdict(checks),
        checks=tuple(checks),
        requests=watched.requests,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        tool_version=version("icm-api"),
    )


class _Watched(Wrapper):
    """Counts what is asked, and keeps what replies say they took."""

    def __init__(self, inner: Provider) -> None:
        super().__init__(inner)
        self.requests = 0
        self.usages: list[Usage] = []

    async def send(self, request: Request[R]) -> R:
        self.requests += request.paid
        reply = await super().send(request)
        if isinstance(reply, NextTokenReply | SequenceReply | ChoiceReply):
            self.usages.append(reply.usage)
        return reply


# --- hosts that tell log-probabilities ------------------------------------------------------------------------


class _LogProbs:
    def __init__(self, provider: Provider, labels: Sequence[Label]) -> None:
        self.provider, self.n_labels = provider, len(labels)
        self.scorer = PromptScorer(provider, labels, _texts(), min_mass=0.0)
        self.query = Query(len(SHOWN), tuple((i, (i + 1) % len(labels)) for i in range(len(SHOWN))))

    async def checks(self) -> AsyncIterator[Check]:
        yield (listed := await self._listed())
        if listed.status == "fail":
            return
        try:
            first = await self._score(self.query)
            yield _reach(first)
            yield await self._answers_to("the last label", self._changed(-1), first)
            yield await self._answers_to("the first label", self._changed(0), first)
            yield _jitter(first, await self._score(self.query))
        except CapabilityError as error:
            yield Check(ABOUT_LABELS, "fail", str(error), OTHER_LABELS)
            return
        if self.provider.capabilities.prompt_logprobs:
            yield await self._prompt_logprobs()

    async def _listed(self) -> Check:
        """Whether there are log-probs at all. Asked with plain labels, so that it says nothing of the user's own."""
        try:
            reply = await self.provider.send(NextTokenRequest(_plain_prompt(), PLAIN))
        except CapabilityError as error:
            return Check("log-probs", "fail", str(error), OTHER_ROUTE)
        if faults := list_faults(reply.candidates, reply.floor_nats):
            return Check("log-probs", "fail", "; ".join(faults), OTHER_ROUTE)
        return Check("log-probs", "ok", f"{len(reply.candidates)} candidates listed")

    async def _prompt_logprobs(self) -> Check:
        """Each label's log-prob within a sequence must be what it is after the same text alone: so it covers the
        prompt, answers to each changed word, and is not that of the next place, as on some hosts."""
        shown = (*self.query.demonstrations, (self.query.example, 0))
        alone = [Query(shown[k][0], shown[:k]) for k in range(CHECKED_FROM, len(shown))]
        try:
            (together,) = await self.scorer.score_chains([Chain(shown, CHECKED_FROM)])
            return _agreement(together, await self.scorer.score(alone))
        except CapabilityError as error:
            return Check("prompt log-probs", "fail", str(error), WITHOUT_ECHO)

    async def _score(self, query: Query) -> LabelScore:
        return (await self.scorer.score([query]))[0]

    def _changed(self, position: int) -> Query:
        """The question with another label at one place."""
        shown = list(self.query.demonstrations)
        example, label = shown[position]
        shown[position] = (example, (label + 1) % self.n_labels)
        return replace(self.query, demonstrations=tuple(shown))

    async def _answers_to(self, what: str, changed: Query, before: LabelScore) -> Check:
        """A prompt that is cut or ignored gives the same numbers whatever it says."""
        moved = _distance(before, await self._score(changed))
        name = f"answers to {what} of the prompt"
        if moved == 0:
            detail = "the log-probs did not move at all: the prompt is cut or not read"
            return Check(name, "fail", detail, PROMPT_IS_CUT)
        return Check(name, "ok", f"moved by {moved:.3f} nats")


def _reach(score: LabelScore) -> Check:
    if any(score.bounded):
        detail = "a label is outside the listed candidates and only bounded"
        return Check(ABOUT_LABELS, "warn", detail, OTHER_LABELS)
    detail = f"all labels listed, together {score.mass:.3f} of the probability"
    if score.mass < ENOUGH_MASS:
        return Check(ABOUT_LABELS, "warn", detail, OTHER_LABELS)
    return Check(ABOUT_LABELS, "ok", detail)


def _jitter(first: LabelScore, second: LabelScore) -> Check:
    moved = _distance(first, second)
    detail = f"differs by {moved:.4f} nats"
    if moved <= JITTER_NATS:
        return Check("repeated call", "ok", detail)
    return Check("repeated call", "warn", detail, "count on labels that are clear; a rerun may differ in the others")


def _agreement(together: Sequence[LabelScore | None], alone: Sequence[LabelScore]) -> Check:
    name = "prompt log-probs"
    apart = [
        abs(one - other)
        for pair in zip(together, alone, strict=True)
        for one, other in zip(*map(_raw_nats, pair), strict=False)
        if one is not None and other is not None
    ]
    if not apart:
        return Check(name, "warn", "not comparable: no label is in both lists", OTHER_LABELS)
    worst = f"{len(apart)} of them differ by up to {max(apart):.3f} nats from next-token requests for the same places"
    if max(apart) > WRONG_ECHO_NATS:
        return Check(name, "fail", f"{worst}: they are not those of the labels", WITHOUT_ECHO)
    return Check(name, "ok", worst) if max(apart) <= ECHO_NATS else Check(name, "warn", worst, WITHOUT_ECHO)


def _raw_nats(score: LabelScore | None) -> list[float | None]:
    """Log-probabilities as before they were renormalised; None where one is only bounded."""
    if score is None:
        return []
    labels = list(zip(score.logprobs_nats, score.bounded, strict=True))
    shift = math.log(score.mass) - logsumexp(value for value, bounded in labels if not bounded)
    return [None if bounded else value + shift for value, bounded in labels]


def _distance(a: LabelScore, b: LabelScore) -> float:
    return max(abs(x - y) for x, y in zip(a.logprobs_nats, b.logprobs_nats, strict=True))


# --- hosts that choose a label --------------------------------------------------------------------------------


class _Choices:
    """Each of two claims is asked with the labels in both orders; twice where an answer is drawn."""

    def __init__(self, provider: Provider, labels: Sequence[Label], votes: int) -> None:
        self.provider, self.votes = provider, votes
        self.labels = tuple(label.text for label in labels)
        texts = _texts()
        self.shown = tuple((text, self.labels[(i + 1) % len(labels)]) for i, text in enumerate(texts[: len(SHOWN)]))
        self.asked = texts[len(SHOWN) :]

    async def checks(self) -> AsyncIterator[Check]:
        votes = self.provider.capabilities.choices == "votes"
        try:
            answers = [await self._ask(request) for request in self._questions(2 if votes else 1)]
        except CapabilityError as error:
            yield Check(ANSWERS, "fail", str(error), OTHER_MODEL)
            return
        yield (named := self._named([answer.reply for answer in answers], votes))
        if named.status == "fail":
            return
        chosen = [answer for answer in answers if answer.reply.shares]
        yield _by_order(chosen)
        yield _apart(chosen)
        yield self._requests(votes)

    def _questions(self, draws: int) -> list[ChoiceRequest]:
        return [
            ChoiceRequest(Prompt(query, self.shown), labels, draw)
            for query in self.asked
            for labels in (self.labels, self.labels[::-1])
            for draw in range(draws)
        ]

    async def _ask(self, request: ChoiceRequest) -> _Answer:
        return _Answer(request, await self.provider.send(request))

    def _named(self, replies: Sequence[ChoiceReply], votes: bool) -> Check:
        """Whether the answers are labels."""
        silent = [reply for reply in replies if not reply.shares]
        named = [reply for reply in replies if reply.shares]
        faults = {fault for reply in named for fault in share_faults(reply.shares, len(self.labels), votes=votes)}
        if faults or not named:
            return Check(ANSWERS, "fail", "; ".join(sorted(faults)) or silent[0].said, OTHER_MODEL)
        if silent:
            detail = f"{len(silent)} of {len(replies)} answers name none of the labels: {silent[0].said}"
            return Check(ANSWERS, "warn", detail, "such answers are not counted, and are paid for")
        return Check(ANSWERS, "ok", f"{len(replies)} answers, each one of the labels")

    def _requests(self, votes: bool) -> Check:
        each = self.votes if votes else 1
        kind = "counted answers" if votes else "the host's own probabilities, not log-probs of a language model"
        return Check("requests a question", "ok", f"{each} ({kind})")


@dataclass(frozen=True, slots=True)
class _Answer:
    """A question, and a reply that names a label."""

    request: ChoiceRequest
    reply: ChoiceReply

    @property
    def place(self) -> int:
        """Where the label that it names stood among those offered."""
        return self.reply.shares.index(max(self.reply.shares))

    @property
    def label(self) -> str:
        return self.request.labels[self.place]


def _by_order(answers: Sequence[_Answer]) -> Check:
    """A host that goes by the place of an option, not by what it says, names the same place whatever stands there. An
    answer that is drawn may change by chance, which is no fault."""
    name = "same answer in another order"
    if len({answer.place for answer in answers}) == 1 and len({answer.request.labels for answer in answers}) > 1:
        detail = f"all {len(answers)} answers name the label at the same place of those offered: it answers by place"
        return Check(name, "fail", detail, OTHER_MODEL)
    labels = Counter(query for query, _ in {(answer.request.prompt.query, answer.label) for answer in answers})
    changed = sum(several > 1 for several in labels.values())
    detail = f"{changed} of {len(labels)} claims got another answer with the order in which the labels were offered"
    if changed:
        return Check(name, "warn", detail, "keep --votes even and at 8 or more, so that each order counts alike")
    return Check(name, "ok", detail)


def _apart(answers: Sequence[_Answer]) -> Check:
    name = "tells a true claim from a false one"
    if len({answer.label for answer in answers}) > 1:
        return Check(name, "ok", "another label for each")
    detail = f"{answers[0].label.strip()!r} for both, though examples of both labels were shown"
    return Check(name, "warn", detail, "look at the labels of a small run (--limit 20) first, or use another model")


# --- what holds for all ---------------------------------------------------------------------------------------


def _texts() -> list[str]:
    return [f"Claim: {claim}\nI think this claim is" for claim in (*SHOWN, *ASKED)]


def _plain_prompt() -> Prompt:
    texts = _texts()
    shown = tuple((text, PLAIN[i % 2]) for i, text in enumerate(texts[: len(SHOWN)]))
    return Prompt(texts[len(SHOWN)], shown)


def _usage(usages: Sequence[Usage]) -> Check:
    """`usages`: of all replies. Most of the prompts begin alike, so a host that caches has cached some of them."""
    told = [usage for usage in usages if usage.prompt_tokens is not None]
    if not told:
        advice = "set --max-prompt-tokens with room to spare"
        return Check("usage reported", "warn", "no token counts: limits hold by the prompt's size in bytes", advice)
    cached = [usage.cached_tokens for usage in told if usage.cached_tokens is not None]
    most = f"at most {max(cached)} of them cached" if cached else "cached ones not reported"
    return Check("usage reported", "ok", f"up to {max(u.prompt_tokens or 0 for u in told)} prompt tokens, {most}")


def _context(provider: Provider) -> Check:
    tokens = provider.capabilities.context_tokens
    if tokens is None:
        return Check("context length", "warn", "unknown", "set it with --context-tokens")
    return Check("context length", "ok", f"{tokens} tokens")


def _price(price: Price | None) -> Check:
    if price is None:
        return Check("price", "warn", "unknown for this model at this host", "state it with --price")
    rates = "/".join(
        f"{rate.normalize():f}"
        for rate in (price.input_usd_per_mtok, price.cached_usd_per_mtok, price.output_usd_per_mtok)
    )
    return Check("price", "ok", f"{rates} USD per million tokens: input, cached, output ({price.source})")


def _verdict(checks: Sequence[Check]) -> str:
    statuses: set[Status] = {check.status for check in checks}
    if "fail" in statuses:
        return "not usable"
    return "usable with care" if "warn" in statuses else "usable"
