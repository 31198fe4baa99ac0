"""Sweep: labels found in a few passes, each of which scores every example at once.

A pass puts all examples, with the labels they have at the moment, one after another in a random order, and reads the
log-probabilities of the labels at each place: how well each label is predicted from those before it. By the chain rule
this is a joint form of the mutual predictability of arXiv 2506.10139 (section 2.1), which asks for each example alone;
averaged over orders it is the same question with part of the others shown. One pass costs about the data set's own
tokens once, and one request where the host echoes prompt log-probs.

Predictability alone is greatest for one label for all. Two things keep that away:

- *Calibration*. Before labels are taken from scores, offsets give each label its share of them. The shares are given,
  follow from the relations, or are read off the scores (`icm_api.core.mixture`) as the passes go.
- *Information* ranks the restarts, in parts of the most there is to tell (`Restart.rank`): mean over the examples of
  log p(label | text, context) - log of the mean prediction.
  The first term is U / alpha of the paper without its violations, the second adds the spread of the predictions, so the
  information of a one-label solution is never above 0, whatever its utility. It leans to even shares, so restarts are
  compared under the same ones: those of the restart whose scores fall most clearly into clusters. Where they are one
  cloud, any shares fit, and `Labelling.share_ranges` says so.

A restart: labels are drawn from the calibrated scores at a temperature that cools to 0, relations are obeyed by an
exact solution for the perturbed scores (a sample of a constrained distribution, as perturb-and-MAP of Papandreou and
Yuille 2011 approximates it), a pass scores them, and scores are averaged over the passes, older ones fading.

The first labels come from *anchors*: some examples asked with nothing before them, a short request each. They tell what
the label words mean by themselves, which no pass over wrong labels can: a labelling and its opposite are about equally
coherent, and a search that begins at random labels may end at either. Examples without an answer stand last in the
first pass, with random labels that only they see. A model that says nothing of the labels before it has seen some (of
the first half of the anchors most are silent) begins with passes over random labels instead, one a label (at most
`MOST_WARM_UP`).

Restarts end early once two of them came to (nearly) the same labels. And a model may hold a concept yet lose it among
demonstrations: where the anchors alone told far more than the best restart, the others are asked alone too, and those
labels are kept.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

import numpy as np

from icm_api.core.calibrate import Floats, Ints, calibrated, information
from icm_api.core.chains import ChainBuilder
from icm_api.core.context import Chain, Scorer
from icm_api.core.diagnose import ALONE_TELLS, LITTLE_INFORMATION, times_told
from icm_api.core.judge import JUDGED_AT, LEAST_TO_ESTIMATE, as_sure_as_clusters, calibrated_at, to_fit
from icm_api.core.mixture import Range, fit_mixture, share_ranges
from icm_api.core.passes import Average, Pass, read_pass, read_scores
from icm_api.core.pool import draw_pool
from icm_api.core.problem import Problem
from icm_api.core.relations import pinned_labels
from icm_api.core.restart import Restart, agreement_of, changed_between, clearest_of
from icm_api.core.shares import share_bounds, within_bounds
from icm_api.core.step import Alone, Labelling
from icm_api.types import Json

MOST_WARM_UP = 4
"""Passes over random labels."""
ANCHORS_EVERY = 8
"""At least one example in so many is asked alone."""
SAME_SHARES = 1e-6
ALONE_NOTE = (
    "asked about examples alone, the model tells far more about their labels than after demonstrations: these are the "
    "labels of examples asked alone"
)
SAME_LABELS = 0.95
"""Share of equal labels from which two restarts count as having come to the same."""
TAIL_BATCH = 64
MOST_TAIL_STEPS = 200
Stage = Literal["warm-up", "restart", "alone", "tail"]


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """Numbers are at least 1 and shares above 0: who makes these has checked it."""

    alpha: float = 50.0
    passes: int = 6
    """Of each restart at most; it ends earlier once its labels have settled."""
    restarts: int = 3
    """At most; fewer where two come to the same labels."""
    shares: tuple[float, ...] | None = None
    """Of each label; None: what the relations imply, or read off the scores."""
    t_start: float = 0.5
    decay: float = 0.6
    """What the scores of a pass still count in the next."""
    evenness: float = 0.5
    """How far the shares that labels in context are drawn under are moved to even ones, also when cold, 0..1: a rare
    label needs some examples in context before the model can tell it."""
    pool: int | None = None
    """Search on so many examples, and label the rest with these as context; None: search on all."""
    tail_demonstrations: int = 64
    anchors: int = 32
    """Examples that are asked alone first, at least; all of a smaller pool."""
    parallel: int = 1
    """Of the first two restarts, how many are asked side by side."""
    may_ask_alone: bool = True
    """Whether all examples are asked alone where that tells more; otherwise `Labelling.alone` says that it would."""


@dataclass(frozen=True, slots=True)
class SweepStep:
    """One pass (or a batch of the tail). Satisfies `icm_api.core.step.Step`."""

    step: int
    stage: Stage
    restart: Restart
    best: Restart
    """Of the finished restarts the most informative; this one while none is finished."""
    temperature: float
    changed: tuple[int, ...]
    asked: int
    done: int
    total: int
    notes: tuple[str, ...]
    problem: Problem = field(repr=False)
    alpha: float = 50.0
    agreement: float | None = None
    own_meaning: tuple[int | None, ...] | None = field(default=None, repr=False)
    alone: Alone | None = field(default=None, repr=False)
    share_ranges: tuple[Range, ...] | None = None
    stop: str | None = None
    spared: int = 0
    settled: bool = False
    """Nothing but the rest is left to ask about, and the labels of the pool have settled."""

    @property
    def gap_nats(self) -> float:
        return self.restart.gap_nats

    @property
    def status(self) -> str:
        shares = "/".join(f"{share:.2f}" for share in self.restart.shares)
        number, n_passes = self.restart.number, self.restart.n_passes
        where = f"restart {number}, pass {n_passes}" if self.stage == "restart" else self.stage
        return f"{where}, shares {shares}, information {self.restart.information_nats:.3f}"

    @property
    def found(self) -> Labelling:
        """Scores are the calibrated averages, as sure as their clusters are clear; the utility is measured on the raw
        ones, as the paper's is."""
        average, labels = self.best.average, self.best.known_labels
        raw = Labelling.of(self.problem, labels, average.as_scores(), alpha=self.alpha)
        return replace(
            raw,
            scores=average.as_scores(as_sure_as_clusters(average, self.best.calibrated)),
            information_nats=self.best.information_nats,
            agreement=self.agreement,
            own_meaning=self.own_meaning,
            alone=self.alone,
            share_ranges=self.share_ranges,
            settled=self.settled,
            asked_alone=self.best.alone,
        )

    @property
    def labels(self) -> tuple[int | None, ...]:
        return self.restart.known_labels

    def record(self, ids: Sequence[str]) -> Mapping[str, Json]:  # noqa: ARG002
        return {
            "stage": self.stage,
            "restart": self.restart.number,
            "pass": self.restart.n_passes,
            "temperature": self.temperature,
            "shares": list(self.restart.shares),
            "information_nats": self.restart.information_nats,
            "settled": self.restart.settled,
        }


async def sweep(
    problem: Problem, scorer: Scorer, chains: ChainBuilder, settings: SweepSettings, *, seed: int = 0
) -> AsyncGenerator[SweepStep, None]:
    """Search, one step a pass; the last has `stop` set to `settled` or `passes`.

    Raises what the scorer raises; `found` of the last step is then still good. The same seed gives the same labels,
    whatever `parallel` is.
    """
    search = _Sweep(problem, scorer, chains, settings, seed)
    async for step in search.steps():
        yield step


class _Sweep:
    def __init__(
        self, problem: Problem, scorer: Scorer, chains: ChainBuilder, settings: SweepSettings, seed: int
    ) -> None:
        self.problem, self.scorer, self.chains, self.settings, self.seed = problem, scorer, chains, settings, seed
        self.pinned = pinned_labels(problem.relations)
        self.pool = draw_pool(problem, settings.pool, seed)
        self.rest = np.setdiff1d(np.arange(problem.n_examples), self.pool)
        self.bounds = share_bounds(problem.n_examples, problem.n_labels, problem.relations)
        self.known = settings.shares is not None or bool(np.all(self.bounds[1] - self.bounds[0] < SAME_SHARES))
        self.first_shares = tuple(self._within_bounds(np.full(problem.n_labels, 1 / problem.n_labels)).tolist())
        anchors = self._rng(1).permutation(self.pool)[: _n_anchors(settings, len(self.pool))]
        self.anchors: list[int] = anchors.tolist()
        self.heard_alone = Average.empty(problem.n_examples, problem.n_labels)
        self.finished: list[Restart] = []
        self.agreement: float | None = None
        self.own_meaning: tuple[int | None, ...] | None = None
        self.alone: Alone | None = None
        self.share_ranges: tuple[Range, ...] | None = None
        """Once no other restart will follow."""
        self.waiting: list[Restart] = []
        """Restarts that have not begun."""
        self.alone_follows = False
        self.lonely = 0
        """Examples of the last pass that stood in a chain by themselves."""
        self.number = self.passes_done = self.tail_done = 0
        self.passes_beside = 1
        """Those that are no restart's."""

    # --- the course ---------------------------------------------------------------------------------------

    async def steps(self) -> AsyncGenerator[SweepStep, None]:
        async for step in self._search():
            yield step
        async for step in self._label_rest():
            yield step

    async def _search(self) -> AsyncGenerator[SweepStep, None]:
        """Of the pool. What it keeps of each example while it goes on is gone before the rest is labelled."""
        blank = self._start()
        half = -(-len(self.anchors) // 2)
        heard = await self._ask_alone(self.anchors[:half])
        if 2 * (heard.weights > 0).sum() >= half:
            heard = heard.plus(await self._ask_alone(self.anchors[half:]))
            self.heard_alone = self.heard_alone.plus(heard)
            self.alone = Alone(self._favourites())
            start = self._solved(replace(blank, average=blank.average.plus(self._under_first_shares(heard))))
            yield self._step("warm-up", blank, start, self.settings.t_start, asked=len(self.anchors))
        else:
            start, drawn = blank, self._random()
            self.passes_beside = len(drawn)
            for order, labels in drawn:
                (heard,) = await self._passes([(order, labels)])
                before, start = start, self._solved(replace(start, average=start.average.plus(heard)))
                asked = len(self.pool) + (half if before is blank else 0)
                yield self._step("warm-up", before, start, self.settings.t_start, asked=asked)
        self.own_meaning = start.known_labels
        self.waiting = [replace(start, number=k + 1) for k in range(self.settings.restarts)]
        while self.waiting:
            # Two are always asked; then one at a time, for each may be the last.
            size = max(1, min(self.settings.parallel, 2 - len(self.finished)))
            group, self.waiting = self.waiting[:size], self.waiting[size:]
            async for step in self._run(group):
                yield step
        if self.alone_follows:
            yield await self._go_on_alone()

    async def _run(self, group: Sequence[Restart]) -> AsyncGenerator[SweepStep, None]:
        """Passes of some restarts, side by side, until each has ended."""
        while group:
            heats = [self._temperature(restart) for restart in group]
            drawn = [self._draw(restart, heat) for restart, heat in zip(group, heats, strict=True)]
            heard = await self._passes(drawn)
            after = [self._advance(*each) for each in zip(group, heard, heats, strict=True)]
            n_finished = len(self.finished)
            self.finished += [restart for restart in after if self._has_ended(restart)]
            self.finished.sort(key=lambda restart: restart.number)
            if len(self.finished) > n_finished:
                self.finished = self._judged_alike(self.finished)
            self.agreement = agreement_of([restart.labels[self.pool] for restart in self.finished])
            before, group = group, [restart for restart in after if not self._has_ended(restart)]
            for old, new, heat in zip(before, after, heats, strict=True):
                self.passes_done += 1 if not self._has_ended(new) else 1 + self.settings.passes - new.n_passes
                last = not group and new is after[-1]
                if last:
                    self._decide_what_follows()
                yield self._step("restart", old, new, heat, last=last)

    def _decide_what_follows(self) -> None:
        """Once some restarts have ended."""
        if self._came_to_the_same():
            self.passes_done += self.settings.passes * len(self.waiting)
            self.waiting = []
        if self.waiting:
            return
        if self.alone is not None:
            *restarts, alone = self._judged_alike([*self.finished, self._labelled_alone()])
            self.alone = self._compared(alone, max(restarts, key=lambda restart: restart.rank))
            spoilt = self.alone.told is not None and self.alone.told > ALONE_TELLS
            self.alone_follows = spoilt and self.settings.may_ask_alone
            self.passes_beside += self.alone_follows
        self.share_ranges = self._ranges()

    def _came_to_the_same(self) -> bool:
        """Whether another restart came to the labels of the best, and the texts tell something about these."""
        best = self._best()
        others = [restart for restart in self.finished if restart is not best]
        same = any((best.labels == other.labels)[self.pool].mean() >= SAME_LABELS for other in others)
        return same and best.rank >= LITTLE_INFORMATION

    def _compared(self, alone: Restart, kept: Restart) -> Alone:
        """Judged under the same shares."""
        return Alone(self._favourites(), times_told(alone.rank, kept.rank))

    def _favourites(self) -> tuple[int | None, ...]:
        asked = np.flatnonzero(self.heard_alone.known)
        solution = self.problem.consistency.solve(self.heard_alone.logprobs, examples=asked)
        labels = np.full(self.problem.n_examples, None, dtype=object)
        labels[asked] = solution.labels.of(asked)
        return tuple(labels.tolist())

    async def _go_on_alone(self) -> SweepStep:
        """The labels of each example asked with nothing before it, as one more restart."""
        others = np.setdiff1d(self.pool, self.anchors).tolist()
        before = self._labelled_alone()
        self.heard_alone = self.heard_alone.plus(await self._ask_alone(others))
        self.finished = self._judged_alike([*self.finished, self._labelled_alone()])
        after = self.finished[-1]
        self.alone_follows = False
        self.alone = self._compared(after, self._best())
        self.passes_done += 1
        courses = [restart.labels[self.pool] for restart in self.finished if not restart.alone]
        self.agreement = None if self._best() is after else agreement_of(courses)
        self.share_ranges = self._ranges()
        return self._step("alone", before, after, 0.0, asked=len(others), last=True)

    def _labelled_alone(self) -> Restart:
        blank = self._start()
        heard = replace(
            blank, number=self.settings.restarts + 1, average=self.heard_alone, alone=True, rests=True, settled=True
        )
        heard = self._read(heard)
        return self._solved(replace(heard, shares=heard.read_shares or heard.shares))

    async def _label_rest(self) -> AsyncGenerator[SweepStep, None]:
        """The examples outside the pool: one short question each, with pool examples and their labels as context, or
        alone where the pool's labels were found so."""
        if not len(self.rest):
            return
        best = self._best()
        order = self._rng(3).permutation(self.pool[best.average.known[self.pool]]).tolist()
        size = max(TAIL_BATCH, -(-len(self.rest) // MOST_TAIL_STEPS))
        for first in range(0, len(self.rest), size):
            batch = self.rest[first : first + size].tolist()
            heard = await (self._ask_alone(batch) if best.alone else self._ask_after(order, best, batch))
            self.tail_done += len(batch)
            before, best = best, self._solved(replace(best, average=best.average.plus(heard)))
            self.finished = [best]
            yield self._step("tail", before, best, 0.0, asked=len(batch), last=True)

    # --- the parts of a pass ------------------------------------------------------------------------------

    async def _ask_alone(self, examples: Sequence[int]) -> Pass:
        """Each with nothing before it."""
        scores = await self.scorer.score_chains([Chain(((i, 0),)) for i in examples])
        heard = [score for (score,) in scores]
        return read_scores(examples, heard, self.problem.n_examples, self.problem.n_labels)

    async def _ask_after(self, shown: Sequence[int], found: Restart, examples: Sequence[int]) -> Pass:
        """Each after the same examples with the labels found for them."""
        most = self.settings.tail_demonstrations
        queries = self.chains.queries(shown, found.labels.tolist(), examples, most=most)
        heard = await self.scorer.score(queries)
        return read_scores(examples, heard, self.problem.n_examples, self.problem.n_labels)

    def _under_first_shares(self, heard: Pass) -> Pass:
        known = heard.weights > 0
        if not known.any():
            return heard
        logprobs = heard.logprobs.copy()
        logprobs[known] = calibrated(logprobs[known], np.array(self.first_shares))
        return replace(heard, logprobs=logprobs)

    def _random(self) -> list[tuple[list[int], Ints]]:
        """Random labels, evenly many of each, and the same with every label moved on by one, so that what a label in
        context pulls to, one pass adds and the next takes away; all in one order. A pinned label stays."""
        rng = self._rng(1)
        n, k = self.problem.n_examples, self.problem.n_labels
        order = rng.permutation(self.pool).tolist()
        labels = np.full(n, -1)
        labels[order] = rng.permutation(k)[rng.permutation(len(order)) % k]
        drawn = [(labels + shift) % k for shift in range(min(k, MOST_WARM_UP))]
        for each in drawn:
            each[list(self.pinned)] = list(self.pinned.values())
        return [(order, each) for each in drawn]

    def _start(self) -> Restart:
        n, k = self.problem.n_examples, self.problem.n_labels
        return Restart(
            0, self.settings.shares or self.first_shares, Average.empty(n, k), np.zeros((n, k)), np.full(n, -1)
        )

    def _temperature(self, restart: Restart) -> float:
        """Falls evenly to 0 at the last pass; at once to 0 when the last pass changed no label."""
        if restart.rests:
            return 0.0
        return self.settings.t_start * (1 - restart.n_passes / max(1, self.settings.passes - 1))

    def _draw(self, restart: Restart, heat: float) -> tuple[list[int], Ints]:
        """A random order of the pool, and labels drawn at a temperature, relations obeyed.

        The hotter, the more even the shares (see `SweepSettings.evenness`).
        """
        rng = self._rng(2, restart.number, restart.n_passes)
        shuffled = rng.permutation(self.pool)
        # Examples without a score come last: nobody who has one is then shown a label that rests on nothing.
        order = shuffled[np.argsort(~restart.average.known[shuffled], kind="stable")].tolist()
        warmth = max(heat / self.settings.t_start, self.settings.evenness)
        shares = warmth * np.array(self.first_shares) + (1 - warmth) * np.array(restart.shares)
        noise = heat * rng.gumbel(size=(self.problem.n_examples, self.problem.n_labels))
        return order, self._solve(calibrated_at(restart.average, shares, heat) + noise)[0]

    async def _passes(self, drawn: Sequence[tuple[list[int], Ints]]) -> list[Pass]:
        cut = [self.chains.cut(order, labels.tolist()) for order, labels in drawn]
        self.lonely = sum(len(chain.examples) == 1 for chain in cut[0])
        scores = iter(await self.scorer.score_chains([chain for chains in cut for chain in chains]))
        n, k = self.problem.n_examples, self.problem.n_labels
        return [read_pass(chains, list(islice(scores, len(chains))), n, k) for chains in cut]

    def _advance(self, restart: Restart, heard: Pass, heat: float) -> Restart:
        """The restart after one more pass."""
        average = restart.average.plus(heard, decay=self.settings.decay)
        new = replace(restart, average=average, n_passes=restart.n_passes + 1, rests=False)
        if new.n_passes > 1 or self._has_ended(new):
            new = self._read(new)
            new = replace(new, shares=new.read_shares or new.shares)
        new = self._solved(new)
        several = len(np.unique(new.labels[self.pool])) > 1
        same = several and bool(np.array_equal(new.labels, restart.labels)) and new.n_passes > 1
        return replace(new, rests=same, settled=same and heat == 0)

    def _solved(self, restart: Restart) -> Restart:
        """With the best labels for its scores, and how much these tell.

        Pool and rest are calibrated apart: the answers of the rest carry the pull of one fixed context.
        """
        average, shares = restart.average, np.array(restart.shares)
        logprobs = calibrated_at(average, shares, JUDGED_AT, self.pool)
        if self.tail_done:
            asked = self.rest[: self.tail_done]
            logprobs[asked] = calibrated_at(average, shares, JUDGED_AT, asked)[asked]
        labels, gap = self._solve(logprobs)
        known = average.known
        told = information(average.logprobs[known], labels[known], average.trust[known]) if known.any() else 0.0
        return replace(restart, calibrated=logprobs, labels=labels, information_nats=told, gap_nats=gap)

    def _solve(self, logprobs: Floats) -> tuple[Ints, float]:
        """The likeliest labels that break no hard relation, -1 for examples not asked about; and the solver's gap."""
        wanted = np.concatenate([self.pool, self.rest[: self.tail_done]])
        solution = self.problem.consistency.solve(logprobs, examples=wanted)
        labels = np.full(self.problem.n_examples, -1)
        labels[wanted] = solution.labels.of(wanted)
        return labels, solution.gap_nats

    def _read(self, restart: Restart) -> Restart:
        """With the shares that its scores show, within what the relations allow."""
        known = to_fit(restart.average, self.problem.n_labels)
        if self.known or known is None:
            return restart
        fit = fit_mixture(restart.average.logprobs[known], restart.average.trust[known])
        return replace(restart, read_shares=tuple(self._within_bounds(fit.shares).tolist()), clear_nats=fit.loglik_nats)

    def _judged_alike(self, restarts: list[Restart]) -> list[Restart]:
        """The restarts under the same shares, those of the clearest.

        Information leans to even shares, so between restarts with shares of their own the evenest would win, even
        where its scores are one cloud, in which any shares fit.
        """
        clearest = clearest_of(restarts)
        if clearest is None or clearest.read_shares is None:
            return restarts
        return [self._under(clearest.read_shares, restart) for restart in restarts]

    def _under(self, shares: tuple[float, ...], restart: Restart) -> Restart:
        if restart.shares == shares:
            return restart
        new = self._solved(replace(restart, shares=shares))
        same = restart.alone or bool(np.array_equal(new.labels, restart.labels))
        return replace(new, settled=restart.settled and same)  # no pass has shown others

    def _ranges(self) -> tuple[Range, ...] | None:
        """Of the shares that the restarts were judged under, as far as the relations allow; None where these were not
        read off the scores."""
        clearest = clearest_of(self.finished)
        known = None if clearest is None else to_fit(clearest.average, self.problem.n_labels)
        if clearest is None or known is None:
            return None
        found = share_ranges(clearest.average.logprobs[known], clearest.average.trust[known])
        return found and tuple(zip(*np.clip(np.array(found).T, *self.bounds).tolist(), strict=True))

    def _within_bounds(self, shares: Floats) -> Floats:
        """No label is wholly absent: calibration would then never let it appear."""
        least, most = self.bounds
        half_an_example = np.minimum(0.5 / max(len(self.pool), len(shares)), most)
        return within_bounds(shares, np.maximum(least, half_an_example), most)

    # --- reporting ----------------------------------------------------------------------------------------

    def _has_ended(self, restart: Restart) -> bool:
        return restart.settled or restart.n_passes >= self.settings.passes

    def _best(self) -> Restart:
        return max(self.finished, key=lambda restart: (restart.worth, -restart.number))

    def _step(
        self, stage: Stage, old: Restart, new: Restart, heat: float, *, asked: int | None = None, last: bool = False
    ) -> SweepStep:
        """`last`: of its stage or side-by-side group."""
        ended = last and not self.waiting and not self.alone_follows
        self.passes_done += stage == "warm-up"
        self.number += 1
        return SweepStep(
            step=self.number - 1,
            stage=stage,
            restart=new,
            best=self._best() if self.finished else new,
            temperature=heat,
            changed=tuple(changed_between(old, new)),
            asked=len(self.pool) if asked is None else asked,
            done=self.passes_done + -(-self.tail_done // len(self.pool)),
            total=self.passes_beside
            + self.settings.restarts * self.settings.passes
            + -(-len(self.rest) // len(self.pool)),
            notes=self._notes(),
            problem=self.problem,
            alpha=self.settings.alpha,
            agreement=self.agreement,
            own_meaning=self.own_meaning,
            alone=self.alone,
            share_ranges=self.share_ranges,
            stop=self._reason() if ended and self.tail_done == len(self.rest) else None,
            settled=ended and self._best().settled,
        )

    def _notes(self) -> tuple[str, ...]:
        """What was asked in another way than one would expect."""
        notes = []
        if self.finished and self._best().alone:
            notes.append(ALONE_NOTE)
        if self.lonely:
            notes.append(
                f"{self.lonely} of {len(self.pool)} examples were asked without demonstrations: all others are "
                "siblings or too long (see --keep-siblings and the group column)"
            )
        if not self.known and len(self.pool) < LEAST_TO_ESTIMATE * self.problem.n_labels:
            notes.append(
                f"{len(self.pool)} examples are too few to tell how often each of {self.problem.n_labels} labels "
                "occurs: even shares were assumed; give --class-prior if they are not"
            )
        return tuple(notes)

    def _reason(self) -> str:
        return "settled" if self._best().settled else "passes"

    def _rng(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *purpose])


def most_asked_alone(problem: Problem, settings: SweepSettings, seed: int) -> int:
    """How many examples a sweep may ask alone after its restarts."""
    pool = len(draw_pool(problem, settings.pool, seed))
    return pool - _n_anchors(settings, pool)


def _n_anchors(settings: SweepSettings, pool: int) -> int:
    return min(pool, max(settings.anchors, pool // ANCHORS_EVERY))
