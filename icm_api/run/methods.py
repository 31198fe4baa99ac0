"""The methods by name: how each is started for a job. Nothing else in `run` knows one from another."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from icm_api.config import GOLD_METHOD, Method
from icm_api.core.anneal import AnnealSettings, anneal
from icm_api.core.baselines import bootstrap, gold_few_shot, random_few_shot, zero_shot
from icm_api.core.chains import ChainBuilder
from icm_api.core.context import ContextBuilder, Scorer
from icm_api.core.step import Step
from icm_api.core.sweep import SweepSettings, sweep
from icm_api.run.job import Job

BOOTSTRAP_DEMONSTRATIONS = 64
"""Most demonstrations of its last round; more add cost and little else."""


class HostScorer(Scorer, Protocol):
    """A scorer that knows its host."""

    @property
    def chains_at_once(self) -> int:
        """How many chains it can answer at a time."""

    @property
    def echoes(self) -> bool:
        """Whether a whole chain is one request."""

    @property
    def bounded(self) -> int:
        """Scores in which a label was only bounded."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person must know about the host's answers."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a method works with beside its job."""

    scorer: HostScorer
    context: ContextBuilder
    chains: ChainBuilder


Steps = AsyncGenerator[Step, None]


def open_method(job: Job, tools: Tools) -> Steps:
    """The steps of the method that the job names; nothing is asked before the first is awaited."""
    return METHODS[job.config.method](job, tools)


def anneal_settings(job: Job) -> AnnealSettings:
    config = job.config
    return AnnealSettings(
        alpha=config.alpha,
        n_seeds=config.seeds,
        objective=config.objective,
        fidelity=config.fidelity,
        stop=config.stop,
        max_steps=config.max_steps,
    )


def _anneal(job: Job, tools: Tools) -> Steps:
    return anneal(job.problem, tools.scorer, tools.context, anneal_settings(job), seed=job.config.seed)


def sweep_settings(job: Job) -> SweepSettings:
    config = job.config
    given = {"passes": config.passes, "restarts": config.restarts}
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return SweepSettings(alpha=config.alpha, shares=job.shares, pool=config.pool, **own)


def _sweep(job: Job, tools: Tools) -> Steps:
    """As many restarts at a time as the host can answer at a time; the labels are the same. Where a pass over all
    examples is one request, one for each of them would be many times as many, so they are not asked alone."""
    settings = replace(sweep_settings(job), parallel=tools.scorer.chains_at_once, may_ask_alone=not tools.scorer.echoes)
    return sweep(job.problem, tools.scorer, tools.chains, settings, seed=job.config.seed)


def _zero_shot(job: Job, tools: Tools) -> Steps:
    return zero_shot(job.problem, tools.scorer, shares=job.shares)


def _random_few_shot(job: Job, tools: Tools) -> Steps:
    return random_few_shot(job.problem, tools.scorer, tools.chains, shares=job.shares, seed=job.config.seed)


def _bootstrap(job: Job, tools: Tools) -> Steps:
    most = job.config.max_demonstrations or BOOTSTRAP_DEMONSTRATIONS
    return bootstrap(job.problem, tools.scorer, tools.context, most=most, shares=job.shares, seed=job.config.seed)


def _gold_few_shot(job: Job, tools: Tools) -> Steps:
    """The only place that hands gold to a method."""
    assert job.dataset.gold is not None
    return gold_few_shot(
        job.problem,
        tools.scorer,
        tools.context,
        tools.chains,
        job.dataset.gold,
        shares=job.shares,
        seed=job.config.seed,
    )


METHODS: Mapping[Method, Callable[[Job, Tools], Steps]] = {
    "sweep": _sweep,
    "anneal": _anneal,
    "zero-shot": _zero_shot,
    "random-few-shot": _random_few_shot,
    "bootstrap": _bootstrap,
    GOLD_METHOD: _gold_few_shot,
}
