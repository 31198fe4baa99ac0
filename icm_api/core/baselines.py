"""What any search must beat, as methods: one question an example, demonstrations with random or predicted labels; and
a ceiling, demonstrations with gold labels.

All read their scores the same way: as they are, or under given shares of the labels (`icm_api.core.calibrate`); then
the solver finds the likeliest labels that break no rule. Sources: random labels and bootstrapped demonstrations are the
two simple techniques that recover most of what gold labels give ("Eliciting base models with simple unsupervised
techniques", Shrivastava and others); the rounds of `bootstrap` follow Anthropic's baseline for automated
weak-to-strong research (2026): zero-shot labels, then few-shot rounds with a growing number of demonstrations, balanced
over the predicted labels, shuffled, without the example's own group.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from icm_api.core.calibrate import Floats, calibrated
from icm_api.core.chains import ChainBuilder
from icm_api.core.context import ContextBuilder, Query, Scorer
from icm_api.core.diagnose import information_share, label_shares, times_told
from icm_api.core.passes import Average, Pass, read_pass, read_scores
from icm_api.core.problem import Problem
from icm_api.core.relations import pinned_labels
from icm_api.core.step import Alone, Labelling
from icm_api.types import Json

BATCH = 64
"""Questions asked between two steps, so that progress shows."""
DONE = "done"
GOLD_NOTE = "the labels were made with gold labels: a ceiling for the other methods, not a labelling"

Shares = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BaselineStep:
    """One move of a baseline (a `icm_api.core.step.Step`): a batch of questions, or a pass."""

    step: int
    phase: str
    """What the method is at, such as `zero-shot` or `4 demonstrations`."""
    changed: tuple[int, ...]
    asked: int
    gap_nats: float
    done: int
    """Label scores asked for so far, of `total`."""
    total: int
    found: Labelling = field(repr=False)
    notes: tuple[str, ...] = ()
    stop: str | None = None

    @property
    def labels(self) -> tuple[int | None, ...]:
        return self.found.labels

    @property
    def spared(self) -> int:
        return 0

    @property
    def status(self) -> str:
        return f"{self.phase}: {self.done}/{self.total} scores"

    def record(self, ids: Sequence[str]) -> Mapping[str, Json]:  # noqa: ARG002
        utility = self.found.utility
        return {
            "phase": self.phase,
            "utility": utility.value,
            "predictability_nats": utility.predictability_nats,
            "violations": utility.violations,
            "information_nats": self.found.information_nats,
        }


Steps = AsyncGenerator[BaselineStep, None]


async def zero_shot(problem: Problem, scorer: Scorer, *, shares: Shares | None = None) -> Steps:
    """One question an example, with no demonstration. `shares` of the labels, if given, calibrate the answers."""
    phase = "zero-shot" if shares is None else "zero-shot, calibrated"
    run = _Run(problem, scorer, total=problem.n_examples)
    async for step in run.ask(_bare(problem), phase, shares, last=True):
        yield step


async def random_few_shot(
    problem: Problem, scorer: Scorer, chains: ChainBuilder, *, orders: int = 4, shares: Shares | None = None, seed: int
) -> Steps:
    """Passes over all examples with random labels (even, or in the given shares), the scores of all passes averaged:
    what the form of the demonstrations alone tells."""
    rng = np.random.default_rng(seed)
    run = _Run(problem, scorer, total=orders * problem.n_examples)
    for k in range(orders):
        labels = {**dict(enumerate(_drawn(problem, shares, rng))), **pinned_labels(problem.relations)}
        order = rng.permutation(problem.n_examples).tolist()
        yield await run.read(chains, order, labels, f"random labels, order {k + 1}", shares, last=k == orders - 1)


async def bootstrap(
    problem: Problem,
    scorer: Scorer,
    context: ContextBuilder,
    *,
    most: int = 64,
    shares: Shares | None = None,
    seed: int,
) -> Steps:
    """Zero-shot labels under even shares, then rounds in which each example is asked anew, given others with the labels
    of the round before: 1, 2, 4... of each label, up to `most` in all.

    With `shares` all rounds are calibrated to them, else only the first is. An example's siblings are never shown to
    it, nor is the example itself.
    """
    rng = np.random.default_rng(seed)
    rounds = round_sizes(problem, most)
    run = _Run(problem, scorer, total=(1 + len(rounds)) * problem.n_examples)
    even = (1 / problem.n_labels,) * problem.n_labels
    async for step in run.ask(_bare(problem), "zero-shot", shares or even):
        yield step
    run.first = run.found
    run.favourites = run.labels_for(run.average.logprobs)[0]
    for size in rounds:
        queries = _balanced(problem, context, run.found.labels, size, rng)
        run.notes = _bare_note(queries)
        async for step in run.ask(queries, f"{size} demonstrations", shares, last=size == rounds[-1]):
            yield step


async def gold_few_shot(
    problem: Problem,
    scorer: Scorer,
    context: ContextBuilder,
    chains: ChainBuilder,
    gold: Sequence[int | None],
    *,
    orders: int = 4,
    shares: Shares | None = None,
    seed: int,
) -> Steps:
    """A ceiling, not a labelling: passes that show gold labels, each example scored given others before it, averaged.

    Examples without gold are never shown; each is asked once at the end, after those that have it.
    """
    rng = np.random.default_rng(seed)
    known = {i: label for i, label in enumerate(gold) if label is not None}
    rest = [context.query(i, gold) for i in range(problem.n_examples) if i not in known]
    run = _Run(problem, scorer, total=orders * len(known) + len(rest), notes=(GOLD_NOTE,))
    for k in range(orders):
        order = rng.permutation(list(known)).tolist()
        last = k == orders - 1 and not rest
        yield await run.read(chains, order, known, f"gold labels, order {k + 1}", shares, last=last)
    async for step in run.ask(rest, "examples without gold", shares, last=True, beside=True):
        yield step


class _Run:
    """What is known so far, and the moves that add to it."""

    def __init__(self, problem: Problem, scorer: Scorer, *, total: int, notes: tuple[str, ...] = ()) -> None:
        self.problem, self.scorer = problem, scorer
        self.total, self.notes = total, notes
        self.average = Average.empty(problem.n_examples, problem.n_labels)
        unlabelled = (None,) * problem.n_examples
        self.found = Labelling.of(problem, unlabelled, unlabelled)
        self.steps = self.done = 0
        self.first: Labelling | None = None
        """What was found without demonstrations, where the method goes on from there."""
        self.favourites: tuple[int | None, ...] = unlabelled
        """The same, from scores as they come."""

    async def read(
        self,
        chains: ChainBuilder,
        order: Sequence[int],
        labels: Mapping[int, int],
        phase: str,
        shares: Shares | None,
        *,
        last: bool,
    ) -> BaselineStep:
        """A pass over `order` that shows `labels`; its scores count beside those of earlier passes."""
        cut = chains.cut(order, labels)
        scores = await self.scorer.score_chains(cut)
        self.average = self.average.plus(read_pass(cut, scores, self.problem.n_examples, self.problem.n_labels))
        return self._step(phase, len(order), *self._labelled(shares), last=last)

    async def ask(
        self,
        queries: Sequence[Query],
        phase: str,
        shares: Shares | None,
        *,
        last: bool = False,
        beside: bool = False,
    ) -> Steps:
        """A question each, in batches. Their scores take the place of earlier ones, unless they stand `beside` them.

        Labels of an earlier round stand until the last batch; where there are none, each batch adds its own, and the
        rules are obeyed once all are known.
        """
        fresh = Average.empty(self.problem.n_examples, self.problem.n_labels)
        average = self.average if beside else fresh
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            average = average.plus(await self._answers(batch))
            ended = start + BATCH >= len(queries)
            found, gap_nats = self.found, 0.0
            if average.known.sum() >= self.average.known.sum():
                self.average = average
                found, gap_nats = self._labelled(shares, obey=ended)
            yield self._step(phase, len(batch), found, gap_nats, last=last and ended)

    async def _answers(self, queries: Sequence[Query]) -> Pass:
        examples, scores = [query.example for query in queries], await self.scorer.score(queries)
        return read_scores(examples, scores, self.problem.n_examples, self.problem.n_labels)

    def _labelled(self, shares: Shares | None, *, obey: bool = True) -> tuple[Labelling, float]:
        """The likeliest labels of the examples that have scores, obeying the rules; and the solver's gap in nats."""
        logprobs = self.average.logprobs
        if shares is not None:
            logprobs = calibrated(logprobs, np.array(shares), self.average.known.astype(np.float64))
        labels, gap_nats = self.labels_for(logprobs, obey=obey)
        return self._compared(Labelling.of(self.problem, labels, self.average.as_scores(logprobs))), gap_nats

    def labels_for(self, logprobs: Floats, *, obey: bool = True) -> tuple[tuple[int | None, ...], float]:
        """The likeliest labels of the examples that have scores; and the solver's gap in nats."""
        gap_nats, best = 0.0, logprobs.argmax(axis=1)
        if obey:
            solution = self.problem.consistency.solve(logprobs)
            gap_nats, best = solution.gap_nats, solution.labels.of(np.arange(self.problem.n_examples))
        known = self.average.known.tolist()
        return tuple(label if k else None for label, k in zip(best.tolist(), known, strict=True)), gap_nats

    def _compared(self, found: Labelling) -> Labelling:
        """With what the model said without demonstrations."""
        if self.first is None:
            return found
        first, last = self._told(self.first), self._told(found)
        told = None if first is None or last is None else times_told(first, last)
        return replace(found, own_meaning=self.first.labels, alone=Alone(self.favourites, told))

    def _told(self, found: Labelling) -> float | None:
        """None: nothing is labelled, so nothing is told; that is not the same as telling nothing."""
        if found.information_nats is None:
            return None
        return information_share(found.information_nats, label_shares(found.labels, self.problem.n_labels))

    def _step(self, phase: str, asked: int, found: Labelling, gap_nats: float, *, last: bool) -> BaselineStep:
        before, self.found = self.found.labels, found
        changed = tuple(i for i, (a, b) in enumerate(zip(before, found.labels, strict=True)) if a != b)
        self.steps, self.done = self.steps + 1, self.done + asked
        return BaselineStep(
            self.steps - 1,
            phase,
            changed,
            asked,
            gap_nats,
            self.done,
            self.total,
            found,
            self.notes,
            DONE if last else None,
        )


def _bare(problem: Problem) -> list[Query]:
    return [Query(i, ()) for i in range(problem.n_examples)]


def _drawn(problem: Problem, shares: Shares | None, rng: np.random.Generator) -> list[int]:
    """A label for each example, in the given shares (even ones by default) as nearly as whole numbers allow."""
    ends = np.cumsum(shares or (1 / problem.n_labels,) * problem.n_labels)
    counts = np.diff(np.rint(ends * problem.n_examples).astype(int), prepend=0)
    return [int(label) for label in rng.permutation(np.repeat(np.arange(problem.n_labels), counts))]


def round_sizes(problem: Problem, most: int) -> list[int]:
    """How many demonstrations each round shows: a doubling number of each label, at least one round."""
    sizes = [problem.n_labels]
    while 2 * sizes[-1] <= min(most, problem.n_examples - 1):
        sizes.append(2 * sizes[-1])
    return sizes


def _balanced(
    problem: Problem, context: ContextBuilder, labels: Sequence[int | None], size: int, rng: np.random.Generator
) -> list[Query]:
    """A query an example after `size` others, evenly over their labels as far as there are enough. The choice is random
    but nearly the same for all, so that prompts share their beginnings."""
    ranked: list[list[int]] = [[] for _ in range(problem.n_labels)]
    for i in rng.permutation(problem.n_examples).tolist():
        label = labels[i]
        if label is not None:
            ranked[label].append(i)
    queries = []
    for example in range(problem.n_examples):
        hidden = problem.siblings[example] | {example}
        shown: list[int | None] = [None] * problem.n_examples
        for label, examples in enumerate(ranked):
            able = (i for i in examples if i not in hidden)
            for i in itertools.islice(able, size // problem.n_labels):
                shown[i] = label
        queries.append(context.query(example, shown))
    return queries


def _bare_note(queries: Sequence[Query]) -> tuple[str, ...]:
    bare = sum(not query.demonstrations for query in queries)
    return (f"{bare} examples were asked without demonstrations: all others are siblings or too long",) if bare else ()
