"""Algorithms 1 and 2 of the ICM paper (arXiv 2506.10139, section 2): simulated annealing over labels.

Each step labels one example with the model's favourite given the labels of the others, repairs the rules that this
breaks, and keeps the result if the utility rises, or by chance exp(rise / T) if it falls.

What a step asks depends on the fidelity:

- `paper`: one request for the proposal and, when it changes a label, one for every labelled example, because each
  term of the utility sees the new label; Algorithm 2 asks as much again for every repair it considers.
- `reuse` (default): one request a step. The terms of the other examples keep the score of their last visit, and the
  repair is the exact solution for those scores, which needs no request. Terms grow stale in between, but the search
  ends only when every example was visited after the last change, and then all terms are exact. An example that would
  lower the mean can be rejected for long; once all others rest it is let in, so that no example stays without a label.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from icm_api.core.context import ContextBuilder, Query, Scorer
from icm_api.core.labels import argmax_label
from icm_api.core.objective import ALPHA, Objective, Utility, utility
from icm_api.core.problem import Problem
from icm_api.core.relations import broken
from icm_api.core.step import Labelling, information_of
from icm_api.types import Json, LabelScore, Relation

CORE_FIRST = 1e-6
"""Weight of an example that is never shown to others, against one that is."""

Fidelity = Literal["reuse", "paper"]
StopReason = Literal["stable", "full", "max_steps"]
Outcome = Literal["seeds", "unchanged", "accepted", "rejected"]


@dataclass(frozen=True, slots=True)
class AnnealSettings:
    """Defaults are the paper's where it gives them (appendix A; alpha between 20 and 50)."""

    alpha: float = ALPHA
    n_seeds: int = 8
    t_start: float = 10.0
    t_min: float = 0.01
    beta: float = 0.99
    sibling_weight: float = 100.0
    """How much likelier an unlabelled example is visited when one of its siblings has a label."""
    objective: Objective = "mean"
    fidelity: Fidelity = "reuse"
    fix_rounds: int = 10
    """Most repairs a step of Algorithm 2 (`paper` only; the paper's M is not given, the authors' code has 10)."""
    stop: Literal["stable", "full"] = "stable"
    max_steps: int | None = None
    """None: 20 visits an example."""


@dataclass(frozen=True, slots=True)
class SearchState:
    """All that a search needs to go on: after 17 steps and 23 more it stands where 40 steps lead."""

    step: int
    labels: tuple[int | None, ...]
    scores: tuple[LabelScore | None, ...]
    """The last score of each example in the accepted labelling."""
    contexts: tuple[int | None, ...]
    """Fingerprint of the query that each score answers."""
    settled: frozenset[int]
    """Examples whose visit changed nothing since the last change."""
    rng: Mapping[str, Any]
    """State of numpy's PCG64; whole numbers and strings only, so it can be written as JSON."""
    best: Best | None = None

    @property
    def n_labelled(self) -> int:
        return sum(label is not None for label in self.labels)


@dataclass(frozen=True, slots=True)
class Best:
    """The complete labelling of the highest utility so far."""

    labels: tuple[int | None, ...]
    scores: tuple[LabelScore | None, ...]
    utility: Utility


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did (a `icm_api.core.step.Step`). `paper_asks`: what `paper` fidelity asks without relations."""

    step: int
    outcome: Outcome
    example: int | None
    utility: Utility
    temperature: float
    changed: tuple[int, ...]
    asked: int
    paper_asks: int
    gap_nats: float
    """0.0: the repair was exact. Else the solver ran out of time, and a better one could add this much at most."""
    state: SearchState = field(repr=False)
    settings: AnnealSettings = field(repr=False)
    stop: StopReason | None = None

    @property
    def labels(self) -> tuple[int | None, ...]:
        return self.state.labels

    @property
    def spared(self) -> int:
        return self.paper_asks - self.asked if self.settings.fidelity == "reuse" else 0

    @property
    def done(self) -> int:
        """Examples that have a label plus, where the search goes on until they rest, examples that do."""
        return self.state.n_labelled + (len(self.state.settled) if self.settings.stop == "stable" else 0)

    @property
    def total(self) -> int:
        return (2 if self.settings.stop == "stable" else 1) * len(self.labels)

    @property
    def status(self) -> str:
        return f"{self.state.n_labelled}/{len(self.labels)} labelled, {len(self.state.settled)} settled"

    @property
    def notes(self) -> tuple[str, ...]:
        stale = len(self.labels) - len(self.state.settled)
        if self.settings.fidelity == "paper" or self.state.n_labelled < len(self.labels) or not stale:
            return ()
        return (f"stopped before it settled: {stale} scores were taken with older labels around them",)

    @property
    def found(self) -> Labelling:
        """Where the search came to rest, else the best complete labelling, else where it stands."""
        best = self.state.best
        if best is None or self.stop == "stable":
            best = Best(self.state.labels, self.state.scores, self.utility)
        return Labelling(best.labels, best.scores, best.utility, information_of(best.labels, best.scores))

    def record(self, ids: Sequence[str]) -> Mapping[str, Json]:
        return {
            "outcome": self.outcome,
            "example": None if self.example is None else ids[self.example],
            "utility": self.utility.value,
            "predictability_nats": self.utility.predictability_nats,
            "violations": self.utility.violations,
            "temperature": self.temperature,
        }


def temperature(step: int, settings: AnnealSettings) -> float:
    """T = max(T_min, T0 / (1 + beta ln n)) at iteration n >= 1 (Algorithm 1, line 3)."""
    return max(settings.t_min, settings.t_start / (1 + settings.beta * math.log(step)))


async def anneal(
    problem: Problem,
    scorer: Scorer,
    context: ContextBuilder,
    settings: AnnealSettings,
    *,
    seed: int = 0,
    state: SearchState | None = None,
) -> AsyncGenerator[Step, None]:
    """Search, one `Step` at a time; the last one has `stop` set. Pass a step's `state` to go on from there.

    Raises whatever the scorer raises; the state of the last step that was yielded is then still good.
    """
    search = _Search(problem, scorer, context, settings)
    if state is None:
        step = await search.seeds(np.random.default_rng(seed))
        state = step.state
        yield replace(step, stop=search.stop_reason(state))
    while search.stop_reason(state) is None:
        step = await search.step(state)
        state = step.state
        yield replace(step, stop=search.stop_reason(state))


class _Search:
    """The moves of the search. Every method takes a state and returns a new one; nothing is kept in between."""

    def __init__(self, problem: Problem, scorer: Scorer, context: ContextBuilder, settings: AnnealSettings) -> None:
        self.problem = problem
        self.scorer = scorer
        self.context = context
        self.settings = settings
        self.kins = set(problem.siblings)
        self.in_core = np.zeros(problem.n_examples, dtype=bool)
        self.in_core[list(context.core)] = True
        self.breakable = tuple(
            relation for relation in problem.relations if settings.fidelity == "paper" or relation.price is not None
        )
        """Relations that a labelling under consideration may break: after an exact repair, only soft ones."""
        self.max_steps = settings.max_steps if settings.max_steps is not None else 20 * problem.n_examples

    def stop_reason(self, state: SearchState) -> StopReason | None:
        if state.n_labelled == self.problem.n_examples:
            if self.settings.stop == "full":
                return "full"
            if len(state.settled) == self.problem.n_examples:
                return "stable"
        return "max_steps" if state.step >= self.max_steps else None

    async def seeds(self, rng: np.random.Generator) -> Step:
        """Line 1: K random examples get random labels (as evenly as K allows), then the rules are repaired."""
        n, k = self.problem.n_examples, min(self.settings.n_seeds, self.problem.n_examples)
        chosen = rng.choice(n, size=k, replace=False)
        labels: list[int | None] = [None] * n
        drawn = rng.permutation(self.problem.n_labels)[rng.permutation(k) % self.problem.n_labels]
        for example, label in zip(chosen, drawn, strict=True):
            labels[int(example)] = int(label)
        draft = await self._evaluate(_Draft(labels, [None] * n, [None] * n))
        violated = broken(self.problem.relations, labels)
        involved = {m for r in violated for m in self.problem.relations[r].members if labels[m] is not None}
        if involved:  # the others keep their random labels
            draft = await self._repair(draft, sorted(involved), rng)
        value = self._utility(draft)
        state = self._state(0, draft, frozenset(), rng, self._better(None, draft, value))
        return Step(
            0, "seeds", None, value, self.settings.t_start, (), draft.asked, k, draft.gap_nats, state, self.settings
        )

    async def step(self, state: SearchState) -> Step:
        """Lines 3-9: visit an example, propose its likeliest label, repair, score, accept or reject."""
        rng = _generator(state.rng)
        number = state.step + 1
        heat = temperature(number, self.settings)
        example = self._sample(state, rng)
        old = await self._visit(_Draft.of(state), example)
        proposed = await self._propose(old, example, rng)
        changed = proposed.changes(old)
        n_labelled = sum(label is not None for label in proposed.labels)
        before, after = self._utility(old), self._utility(proposed)
        outcome: Outcome = "unchanged"
        if changed:
            rises = _accepts(after.value - before.value, heat, rng)
            outcome = "accepted" if rises or self._nothing_else_left(state) else "rejected"
        kept, value = (proposed, after) if outcome == "accepted" else (old, before)
        heard = [c for c in changed if self.context.reaches(c, kept.labels)] if outcome == "accepted" else []
        settled = _settled(state.settled, kept, example, heard)
        best = self._better(state.best, kept, value)
        asked, paper_asks = proposed.asked, 1 + (n_labelled if changed else 0)
        new = self._state(number, kept, settled, rng, best)
        gap_nats = proposed.gap_nats
        return Step(number, outcome, example, value, heat, changed, asked, paper_asks, gap_nats, new, self.settings)

    # --- the parts of a step ------------------------------------------------------------------------------

    def _sample(self, state: SearchState, rng: np.random.Generator) -> int:
        """Line 4. A settled example would give the answer it gave, so `reuse` does not visit it again; and examples
        that are never shown come last, when what they are asked with no longer changes."""
        unlabelled = np.array([label is None for label in state.labels])
        begun = {kin: any(state.labels[member] is not None for member in kin) for kin in self.kins}
        awaited = np.array([begun[kin] for kin in self.problem.siblings])
        weights = np.where(unlabelled & awaited, self.settings.sibling_weight, 1.0)
        if self.settings.fidelity == "reuse":
            weights = np.where(self.in_core, weights, CORE_FIRST * weights)
            weights[list(state.settled)] = 0.0
        return int(rng.choice(self.problem.n_examples, p=weights / weights.sum()))

    def _nothing_else_left(self, state: SearchState) -> bool:
        """All that have a label rest: an example that lowers the mean is then let in, or it would never get a label."""
        return self.settings.fidelity == "reuse" and len(state.settled) == state.n_labelled < self.problem.n_examples

    async def _visit(self, draft: _Draft, example: int) -> _Draft:
        """Line 5: the example's score given the labels of the others; free if it was asked in this very context."""
        query = self.context.query(example, draft.labels)
        fingerprint = hash(query.demonstrations)
        if self.settings.fidelity == "reuse" and draft.contexts[example] == fingerprint:
            return draft
        return draft.with_scores([query], await self.scorer.score([query]))

    async def _propose(self, draft: _Draft, example: int, rng: np.random.Generator) -> _Draft:
        """Lines 5-6: the likeliest label, then the repair; `paper` also scores every term anew (line 7)."""
        score = draft.scores[example]
        assert score is not None
        label = argmax_label(score)
        if self.settings.fidelity == "reuse":
            return await self._repair(draft.with_labels({example: label}), [example], rng)
        if draft.labels[example] == label:
            return draft
        repaired = await self._repair(draft.with_labels({example: label}), [example], rng)
        return await self._evaluate(repaired)

    async def _repair(self, draft: _Draft, examples: Sequence[int], rng: np.random.Generator) -> _Draft:
        if self.settings.fidelity == "paper":
            return await self._consistency_fix(draft, rng)
        return self._solved(draft, examples)

    def _solved(self, draft: _Draft, examples: Sequence[int]) -> _Draft:
        """The best consistent labels of the components that hold `examples`; unlabelled members stay free."""
        logprobs = np.zeros((self.problem.n_examples, self.problem.n_labels))
        members = {m for example in examples for m in self.problem.consistency.component(example)}
        for member in members:
            score = draft.scores[member]
            if score is not None and draft.labels[member] is not None:
                logprobs[member] = score.logprobs_nats
        solution = self.problem.consistency.solve(logprobs, examples=examples)
        repaired = draft.with_labels({m: solution.labels[m] for m in members if draft.labels[m] is not None})
        return replace(repaired, gap_nats=max(draft.gap_nats, solution.gap_nats))

    async def _consistency_fix(self, draft: _Draft, rng: np.random.Generator) -> _Draft:
        """Algorithm 2: take a broken rule, try every label choice that obeys it, keep the best if U rises."""
        for _ in range(self.settings.fix_rounds):
            violated = broken(self.problem.relations, draft.labels)
            if not violated:
                break
            draft = await self._evaluate(draft)
            relation = self.problem.relations[int(rng.choice(violated))]
            for option in self._options(relation, draft.labels):
                trial = await self._evaluate(draft.with_labels(option))
                if self._utility(trial).value > self._utility(draft).value:
                    draft = trial
                else:
                    draft = replace(draft, asked=trial.asked)
        return draft

    def _options(self, relation: Relation, labels: Sequence[int | None]) -> list[dict[int, int]]:
        """All label choices for the relation's labelled members that obey it."""
        members = [m for m in relation.members if labels[m] is not None]
        if relation.kind in ("exactly_one", "at_most_one") and self.problem.n_labels == 2:
            return _one_of_options(relation, members)
        options = []
        for choice in itertools.product(range(self.problem.n_labels), repeat=len(members)):
            trial = list(labels)
            for member, label in zip(members, choice, strict=True):
                trial[member] = label
            if not broken([relation], trial):
                options.append(dict(zip(members, choice, strict=True)))
        return options

    async def _evaluate(self, draft: _Draft) -> _Draft:
        """Every leave-one-out term of U, asked anew."""
        queries = [self.context.query(i, draft.labels) for i, label in enumerate(draft.labels) if label is not None]
        return draft.with_scores(queries, await self.scorer.score(queries))

    def _utility(self, draft: _Draft) -> Utility:
        violated = [self.breakable[k] for k in broken(self.breakable, draft.labels)]
        settings = self.settings
        return utility(draft.labels, draft.scores, violated, alpha=settings.alpha, objective=settings.objective)

    def _better(self, best: Best | None, draft: _Draft, value: Utility) -> Best | None:
        """Best complete labelling; smaller pools are not compared, a few easy examples always look good."""
        if any(label is None for label in draft.labels):
            return best
        if best is not None and best.utility.value >= value.value:
            return best
        return Best(tuple(draft.labels), tuple(draft.scores), value)

    def _state(
        self,
        step: int,
        draft: _Draft,
        settled: frozenset[int],
        rng: np.random.Generator,
        best: Best | None,
    ) -> SearchState:
        return SearchState(
            step,
            tuple(draft.labels),
            tuple(draft.scores),
            tuple(draft.contexts),
            settled,
            rng.bit_generator.state,
            best,
        )


@dataclass(frozen=True, slots=True)
class _Draft:
    """A labelling under consideration with the scores known for it; `asked` counts scores asked on the way."""

    labels: Sequence[int | None]
    scores: Sequence[LabelScore | None]
    contexts: Sequence[int | None]
    asked: int = 0
    gap_nats: float = 0.0

    @classmethod
    def of(cls, state: SearchState) -> _Draft:
        return cls(state.labels, state.scores, state.contexts)

    def with_labels(self, new: Mapping[int, int]) -> _Draft:
        labels = list(self.labels)
        for example, label in new.items():
            labels[example] = label
        return replace(self, labels=labels)

    def with_scores(self, queries: Sequence[Query], scores: Sequence[LabelScore]) -> _Draft:
        known, contexts = list(self.scores), list(self.contexts)
        for query, score in zip(queries, scores, strict=True):
            known[query.example] = score
            contexts[query.example] = hash(query.demonstrations)
        return replace(self, scores=known, contexts=contexts, asked=self.asked + len(queries))

    def changes(self, old: _Draft) -> tuple[int, ...]:
        return tuple(i for i, (a, b) in enumerate(zip(old.labels, self.labels, strict=True)) if a != b)


def _one_of_options(relation: Relation, members: Sequence[int]) -> list[dict[int, int]]:
    """One member holds, or none where that is allowed (or an unlabelled member may yet hold); two labels."""
    other = 1 - relation.positive
    none = dict.fromkeys(members, other)
    open_end = relation.kind == "at_most_one" or len(members) < len(relation.members)
    return [none] * open_end + [none | {member: relation.positive} for member in members]


def _settled(before: frozenset[int], kept: _Draft, example: int, changed: Sequence[int]) -> frozenset[int]:
    """A change that others hear of unsettles all of them; the visited example rests if nothing else changed."""
    if changed:
        return frozenset(changed) if tuple(changed) == (example,) else frozenset()
    return before | {example} if kept.labels[example] is not None else before


def _accepts(rise: float, heat: float, rng: np.random.Generator) -> bool:
    """Line 8: always when U rises (so the exponential cannot overflow), else with probability exp(rise / T)."""
    return rise > 0 or bool(rng.random() < math.exp(rise / heat))


def _generator(state: Mapping[str, Any]) -> np.random.Generator:
    bits = np.random.PCG64()
    bits.state = dict(state)  # type: ignore[assignment]  # numpy types it more narrowly than it takes
    return np.random.Generator(bits)
