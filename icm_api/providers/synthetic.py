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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import TypeVar, cast

import numpy as np

from icm_api.errors import CapabilityError, ConfigError, RateLimitError, TransientError
from icm_api.types import (
    Candidate,
    Capabilities,
    Json,
    NextTokenReply,
    NextTokenRequest,
    Request,
    TokenCountReply,
    TokenCountRequest,
    Usage,
)

R = TypeVar("R")
Floats = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class SyntheticOptions:
    """What kind of model it plays. All but the last four change the answers and so belong to its identity."""

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
    """In tokens of about four characters."""
    failures: float = 0.0
    """Share of requests that fail for now."""
    rate_limited: float = 0.0
    """Share of requests that are refused as too many."""
    latency_s: float = 0.0


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
        self._evidence = lru_cache(maxsize=100_000)(self._shown)

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Synthetic:
        """Build from text options such as `{"noise": "0.5"}`. Raises ConfigError for an unknown or bad one."""
        kinds = {f.name: int if f.type == "int" else float for f in fields(SyntheticOptions)}
        values: dict[str, float] = {}
        for name, text in options.items():
            if name not in kinds:
                raise ConfigError(f"synthetic has no option {name!r}; it has {', '.join(sorted(kinds))}")
            try:
                values[name] = kinds[name](text)
            except ValueError:
                raise ConfigError(f"synthetic option {name} = {text!r} is not a number") from None
        strange = [name for name, value in values.items() if not math.isfinite(value) or not _sensible(name, value)]
        if strange:
            raise ConfigError(f"synthetic option {strange[0]} = {options[strange[0]]!r} is out of range")
        return cls(SyntheticOptions(**values))  # type: ignore[arg-type]

    @property
    def identity(self) -> Mapping[str, Json]:
        passing = {"failures", "rate_limited", "latency_s"}
        answers = {name: value for name, value in asdict(self.options).items() if name not in passing}
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
        )

    async def send(self, request: Request[R]) -> R:
        if isinstance(request, TokenCountRequest):
            return cast(R, TokenCountReply(tuple(map(_tokens, request.texts))))
        if isinstance(request, NextTokenRequest) and not request.continuation:
            return cast(R, await self._next_token(request))
        raise CapabilityError(f"cannot answer a {request.kind} request", provider=self.name, model=self.model)

    async def aclose(self) -> None:
        """Nothing is open."""

    def truth(self, text: str, n_labels: int) -> int:
        """The latent class of a text, given exactly as it stands in the prompt."""
        return int.from_bytes(_digest(self.options.seed, "truth", text)[:8]) % n_labels

    async def _next_token(self, request: NextTokenRequest) -> NextTokenReply:
        self.requests += 1
        if self.options.latency_s:
            await self._sleep(self.options.latency_s)
        self._maybe_fail()
        probabilities = self.options.mass * self._predict(request)
        listed = self._list(request.wanted, probabilities)
        rest = 1.0 - sum(math.exp(c.logprob_nats) for c in listed)
        floor = min(listed[-1].logprob_nats, math.log(max(rest, 1e-12)))
        usage = Usage(prompt_tokens=_tokens(request.prompt.text), cached_tokens=0, output_tokens=1)
        return NextTokenReply(tuple(listed), floor, usage, self.model)

    def _maybe_fail(self) -> None:
        draw = float(self._faults.random())
        if draw < self.options.failures:
            raise TransientError("a failure on purpose", provider=self.name, model=self.model)
        if draw < self.options.failures + self.options.rate_limited:
            raise RateLimitError("too many requests, on purpose", provider=self.name, model=self.model)

    def _predict(self, request: NextTokenRequest) -> Floats:
        """P(label) from counts of (evidence, label) in the context, the way naive Bayes with soft counts does."""
        n = len(request.wanted)
        counts = self.options.prior * np.eye(n) + 0.5
        for text, label in request.prompt.demonstrations:
            if label in request.wanted:
                counts[:, request.wanted.index(label)] += self._evidence(text, n)
        given_class = counts / counts.sum(axis=1, keepdims=True)
        logits = np.log(self._evidence(request.prompt.query, n) @ given_class)
        logits[-1] += self.options.bias
        logits += self.options.noise * self._normals("noise", request.prompt.text, n)
        odds = np.exp(logits - logits.max())
        return cast(Floats, odds / odds.sum())

    def _shown(self, text: str, n_labels: int) -> Floats:
        """What the text shows: a distribution over classes, peaked at its truth when the signal is strong."""
        shown = self._normals("evidence", text, n_labels)
        shown[self.truth(text, n_labels)] += self.options.signal
        odds = np.exp(shown - shown.max())
        return cast(Floats, odds / odds.sum())

    def _normals(self, purpose: str, text: str, n: int) -> Floats:
        words = np.frombuffer(_digest(self.options.seed, purpose, text), dtype=np.uint32)
        return np.random.default_rng(words.tolist()).standard_normal(n)

    def _list(self, wanted: Sequence[str], probabilities: Floats) -> list[Candidate]:
        """The labels among filler words that share the rest of the probability in halves, cut at top-k."""
        rest = 1.0 - self.options.mass
        fillers = [(f" other{k}", rest / 2 ** (k + 1)) for k in range(self.options.top_k)]
        ranked = sorted([*zip(wanted, probabilities.tolist(), strict=True), *fillers], key=lambda pair: -pair[1])
        return [Candidate(text, math.log(p)) for text, p in ranked[: self.options.top_k] if p > 0]


def _sensible(name: str, value: float) -> bool:
    if name in ("mass", "failures", "rate_limited"):
        return 0 <= value <= 1
    return name == "bias" or value >= (2 if name == "top_k" else 0)


def _digest(seed: int, purpose: str, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{purpose}\0{text}".encode()).digest()


def _tokens(text: str) -> int:
    return len(text) // 4 + 1
