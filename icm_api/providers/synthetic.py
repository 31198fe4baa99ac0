"""An offline in-context learner with a known truth: the whole tool runs without a model.

Each text has a latent class, its *truth*, derived from a hash, and noisy evidence of it. The learner does what a
language model does with demonstrations: it starts from a weak notion of what the labels mean, counts which evidence
came with which label in the context, and predicts by these counts. So it learns right, wrong or flipped labels as
they are shown, drifts to a label that dominates its context, and is unsure of examples with little evidence.
Nothing here says how good a real model is; it shows whether a search does what it should.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Literal, TypeVar, cast

import numpy as np

from icm_api.errors import CapabilityError, ConfigError, RateLimitError, TransientError
from icm_api.types import (
    Candidate,
    Capabilities,
    ChoiceReply,
    ChoiceRequest,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Position,
    Prompt,
    Request,
    SequenceReply,
    SequenceRequest,
    TokenCountReply,
    TokenCountRequest,
    Usage,
)

R = TypeVar("R")
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]
Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]

TOKEN_CHARS = 4


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """What kind of model it plays. All options but the `PASSING` ones change the answers and belong to its identity."""

    signal: float = 3.0
    """How clearly a text shows its truth, against evidence noise of standard deviation 1; 0: the concept is absent."""
    prior: float = 2.0
    """How much the labels mean before any demonstration, in demonstrations' worth of right labels."""
    noise: float = 0.0
    """Standard deviation, in nats, of noise that changes with the context."""
    bias: float = 0.0
    """Log-odds added to the last label."""
    mass: float = 0.9
    """Share of the probability that the labels hold together."""
    top_k: int = 20
    seed: int = 0
    max_context: int = 100_000
    """In tokens of `TOKEN_CHARS` characters."""
    failures: float = 0.0
    """Share of requests that fail for now."""
    rate_limited: float = 0.0
    """Share of requests that are refused as too many."""
    latency_s: float = 0.0
    echo: int = 1
    """1: it answers for all labels of a sequence in one request."""
    choices: str = "none"
    """`votes`: it tells no log-probabilities and answers with one label, drawn anew for each draw; `probabilities`:
    with the probability of each. `none`: it tells log-probabilities."""
    prefix_cache: int = 1
    """1: it keeps the last prompt of each affinity and says how much of the next one it knew."""


_READERS: Mapping[str, Callable[[str], float | str]] = {"int": int, "float": float, "str": str}
PASSING = frozenset({"failures", "rate_limited", "latency_s", "echo", "choices", "prefix_cache"})
"""Options that change how it answers, never what."""


class Synthetic:
    """See the module's text. `sleep` is how latency passes."""

    name = "synthetic"
    model = "in-context-learner"

    def __init__(
        self,
        options: SyntheticOptions | None = None,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.options = options or SyntheticOptions()
        self.requests = 0
        self._sleep = sleep
        self._faults = np.random.default_rng([self.options.seed, 1])
        self._evidence = lru_cache(maxsize=10_000)(self._shown)
        self._kept: dict[int, str] = {}
        """The last prompt of each affinity."""

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Synthetic:
        """Build from text options such as `{"noise": "0.5"}`. Raises ConfigError for an unknown or bad one."""
        kinds = {f.name: _READERS[str(f.type)] for f in fields(SyntheticOptions)}
        values: dict[str, float | str] = {}
        for name, text in options.items():
            if name not in kinds:
                raise ConfigError(f"synthetic has no option {name!r}; it has {', '.join(sorted(kinds))}")
            try:
                values[name] = kinds[name](text)
            except ValueError:
                raise ConfigError(f"synthetic option {name} = {text!r} is not a number") from None
        strange = [name for name, value in values.items() if not _sensible(name, value)]
        if strange:
            raise ConfigError(f"synthetic option {strange[0]} = {options[strange[0]]!r} is out of range")
        return cls(SyntheticOptions(**values))  # type: ignore[arg-type]

    @property
    def identity(self) -> Mapping[str, Json]:
        answers = {name: value for name, value in asdict(self.options).items() if name not in PASSING}
        return {"provider": self.name, "version": 1, **answers}

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            exact_labels=False,
            max_top_k=self.options.top_k,
            continues_label=False,
            counts_tokens=True,
            plain_text_tokens=True,
            context_tokens=self.options.max_context,
            prompt_logprobs=bool(self.options.echo) and self._choices is None,
            choices=self._choices,
        )

    @property
    def _choices(self) -> Literal["votes", "probabilities"] | None:
        return None if self.options.choices == "none" else cast(Literal["votes", "probabilities"], self.options.choices)

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, TokenCountRequest):
            return cast(R, TokenCountReply(tuple(map(_tokens, request.texts))))
        if isinstance(request, ChoiceRequest) and self._choices:
            return cast(R, await self._choose(request))
        if isinstance(request, NextTokenRequest) and not request.continuation and self._choices is None:
            return cast(R, await self._next_token(request))
        if isinstance(request, SequenceRequest) and self.capabilities.prompt_logprobs:
            return cast(R, await self._sequence(request))
        raise CapabilityError(f"cannot answer a {request.kind} request", provider=self.name, model=self.model)

    async def aclose(self) -> None:
        """Nothing is open."""

    def truth(self, text: str, n_labels: int) -> int:
        """The latent class of a text, given exactly as it stands in the prompt."""
        return int.from_bytes(_digest(self.options.seed, "truth", text)[:8]) % n_labels

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        await self._attempt()
        prompt = request.prompt
        (expected,) = self._positions(prompt, request.wanted, len(prompt.demonstrations))
        usage = Usage(_tokens(prompt.text), self._cached_tokens(prompt.text, request.affinity), output_tokens=1)
        return NextTokenReply(expected.candidates, expected.floor_nats, usage, self.model)

    async def _sequence(self, request: SequenceRequest) -> SequenceReply:
        await self._attempt()
        positions = tuple(self._positions(request.prompt, request.wanted, request.first))
        usage = Usage(_tokens(request.prompt.text), cached_tokens=0, output_tokens=1)
        return SequenceReply(positions, usage, self.model)

    async def _choose(self, request: ChoiceRequest) -> ChoiceReply:
        """The order in which labels are offered changes nothing. The truth goes by their alphabetical order."""
        await self._attempt()
        wanted, prompt = sorted(request.labels), request.prompt
        (expected,) = self._shares(prompt, wanted, len(prompt.demonstrations))
        if self._choices == "votes":
            seed = _digest(self.options.seed, f"draw {request.draw}", prompt.text)
            drawn = np.random.default_rng(list(seed)).choice(len(wanted), p=expected)
            expected = np.eye(len(wanted))[drawn]
        shares = tuple(float(expected[wanted.index(label)]) for label in request.labels)
        return ChoiceReply(shares, Usage(_tokens(prompt.text), cached_tokens=0, output_tokens=1), self.model)

    async def _attempt(self) -> None:
        self.requests += 1
        if self.options.latency_s:
            await self._sleep(self.options.latency_s)
        self._maybe_fail()

    def _cached_tokens(self, text: str, affinity: int | None) -> int:
        if affinity is None or not self.options.prefix_cache:
            return 0
        known = _common_beginning(self._kept.get(affinity, ""), text)
        self._kept[affinity] = text
        return known // TOKEN_CHARS

    def _maybe_fail(self) -> None:
        draw = float(self._faults.random())
        if draw < self.options.failures:
            raise TransientError("a failure on purpose", provider=self.name, model=self.model)
        if draw < self.options.failures + self.options.rate_limited:
            raise RateLimitError("too many requests, on purpose", provider=self.name, model=self.model)

    def _positions(self, prompt: Prompt, wanted: Sequence[str], first: int) -> Iterator[Position]:
        for shares in self._shares(prompt, wanted, first):
            yield self._expected(wanted, self.options.mass * shares)

    def _shares(self, prompt: Prompt, wanted: Sequence[str], first: int) -> Iterator[Floats]:
        """What it expects at each label from the demonstration `first` on, and after the query, in one reading."""
        counts = self.options.prior * np.eye(len(wanted)) + 0.5
        said = _hash(self.options.seed, "noise")
        chunks = iter(prompt.chunks)
        for k, (text, label) in enumerate((*prompt.demonstrations, (prompt.query, ""))):
            said.update(next(chunks).encode())
            if k >= first:
                yield self._predict(counts, text, said.digest())
            said.update(next(chunks, "").encode())
            if label in wanted:
                counts[:, wanted.index(label)] += self._evidence(text, len(wanted))

    def _predict(self, counts: Table, text: str, context: bytes) -> Floats:
        """P(label) from counts of (evidence, label), the way naive Bayes with soft counts does."""
        given_class = counts / counts.sum(axis=1, keepdims=True)
        logits = np.log(self._evidence(text, len(counts)) @ given_class)
        logits[-1] += self.options.bias
        if self.options.noise:
            logits += self.options.noise * _normals(context, len(counts))
        odds = np.exp(logits - logits.max())
        return cast(Floats, odds / odds.sum())

    def _shown(self, text: str, n_labels: int) -> Floats:
        """What the text shows: a distribution over classes, peaked at its truth when the signal is strong."""
        shown = _normals(_digest(self.options.seed, "evidence", text), n_labels)
        shown[self.truth(text, n_labels)] += self.options.signal
        odds = np.exp(shown - shown.max())
        return cast(Floats, odds / odds.sum())

    def _expected(self, wanted: Sequence[str], probabilities: Floats) -> Position:
        listed = self._list(wanted, probabilities)
        rest = 1.0 - sum(math.exp(c.logprob_nats) for c in listed)
        return Position(tuple(listed), min(listed[-1].logprob_nats, math.log(max(rest, 1e-12))))

    def _list(self, wanted: Sequence[str], probabilities: Floats) -> list[Candidate]:
        """The labels among filler words that share the rest of the probability in halves, cut at top-k."""
        rest = 1.0 - self.options.mass
        fillers = [(f" other{k}", rest / 2 ** (k + 1)) for k in range(self.options.top_k)]
        ranked = sorted([*zip(wanted, probabilities.tolist(), strict=True), *fillers], key=lambda pair: -pair[1])
        return [Candidate(text, math.log(p)) for text, p in ranked[: self.options.top_k] if p > 0]


def _sensible(name: str, value: float | str) -> bool:
    if isinstance(value, str):
        return value in ("none", "votes", "probabilities")
    if not math.isfinite(value):
        return False
    if name in ("mass", "failures", "rate_limited"):
        return 0 <= value <= 1
    if name in ("echo", "prefix_cache"):
        return value in (0, 1)
    return name == "bias" or value >= (2 if name == "top_k" else 0)


def _hash(seed: int, purpose: str) -> hashlib._Hash:
    return hashlib.sha256(f"{seed}\0{purpose}\0".encode())


def _digest(seed: int, purpose: str, text: str) -> bytes:
    whole = _hash(seed, purpose)
    whole.update(text.encode())
    return whole.digest()


def _normals(digest: bytes, n: int) -> Floats:
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32).tolist()).standard_normal(n)


def _tokens(text: str) -> int:
    return len(text) // TOKEN_CHARS + 1


def _common_beginning(one: str, other: str) -> int:
    """Length of the text with which both begin, by bisection: prompts are long."""
    shorter = min(len(one), len(other))
    return bisect_left(range(shorter), True, key=lambda k: one[: k + 1] != other[: k + 1])
