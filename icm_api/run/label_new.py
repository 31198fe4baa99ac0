"""Labels for new examples from a finished run: one question each, with labelled examples of the run as context."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from icm_api.client.meter import Snapshot
from icm_api.client.prices import plain_usd
from icm_api.config import RunConfig
from icm_api.core.context import Query
from icm_api.core.diagnose import label_shares
from icm_api.core.judge import JUDGED_AT, LEAST_TO_ESTIMATE, as_sure_as_clusters, calibrated_at
from icm_api.core.passes import Average, read_scores
from icm_api.core.step import Labelling
from icm_api.core.sweep import TAIL_BATCH
from icm_api.data.writers import write_jsonl
from icm_api.errors import ConfigError, IcmError
from icm_api.run.compose import Say, open_client
from icm_api.run.job import label_shares as shares_by_name
from icm_api.run.job import prepare
from icm_api.run.load import LoadedRun
from icm_api.run.methods import Tools
from icm_api.run.outcome import LabelRow, LabelRows, final_finding
from icm_api.run.plan import estimate_queries, in_words, look_out
from icm_api.run.runner import Place
from icm_api.run.transfer import Transfer, beside, demonstrations, other_model

Done = Callable[[int, int], None]
"""Told (asked, of all) after each batch."""


@dataclass(frozen=True, slots=True)
class NewLabels:
    """What was found. `error`: what cut it short; `rows` then have no label for those that were not reached."""

    rows: tuple[LabelRow, ...] = field(repr=False)
    out: Path
    demonstrations: int
    """At most, before a question: its siblings are left out, and what does not fit."""
    shares: Mapping[str, float] | None
    """Of the labels, that the answers were calibrated to; None: they were not."""
    counts: Snapshot
    notes: tuple[str, ...]
    error: IcmError | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "examples": len(self.rows),
            "labelled": sum(row.label is not None for row in self.rows),
            "abstained": sum(row.abstained for row in self.rows),
            "demonstrations": self.demonstrations,
            "shares": self.shares,
            "requests": self.counts.requests,
            "cache_hits": self.counts.cache_hits,
            "prompt_tokens": self.counts.prompt_tokens,
            "cost_usd": plain_usd(self.counts.cost_usd),
            "notes": list(self.notes),
        }


async def label_new(
    loaded: LoadedRun,
    config: RunConfig,
    environ: Mapping[str, str],
    *,
    most: int | None = None,
    done: Done = lambda _asked, _all: None,
    say: Say | None = None,
) -> NewLabels:
    """Label the data of `config` (see `transfer_settings`) as the run's own rest would be, and write `config.out`: with
    its labels as demonstrations, or with none where the run found that these spoil what the model knows.

    The answers are calibrated as those of `sweep --pool` are: to `config.class_prior`, else to the shares that the run
    found, which takes the new examples to be of the same kind. Fewer than 8 new ones a label cannot tell a share from
    chance; they keep the model's own answers. The task's rules hold among the new examples and between them and the
    run's, whose labels stay.

    Raises an IcmError when nothing was asked; later ones stand in the result, with what was labelled so far written.
    """
    out = _checked_out(loaded, config)
    new = prepare(config)
    prior = None if config.class_prior is None else shares_by_name(config.class_prior, new.label_names)
    alone = loaded.summary is not None and bool(loaded.summary.get("asked_alone"))
    transfer = beside(loaded, new, [] if alone else demonstrations(loaded, most))
    async with open_client(config, environ, say) as client:
        outlook = await look_out(transfer.job, client.provider)
        asking = _Asking(transfer, outlook.tools, prior or _found_shares(loaded), given=prior is not None)
        if say:
            say(in_words(estimate_queries(outlook, "label", asking.queries)))
        error = await asking.ask(done)
        if error is not None and not asking.average.known.any():
            raise error
        rows = asking.rows()
        write_jsonl(out, (row.as_json() for row in rows))
        if error is not None:
            error.add_note(f"the labels found so far are in {out}; the same command goes on from the cache")
        notes = (*asking.notes, *outlook.tools.scorer.notes, *other_model(loaded, client.provider))
        shares = asking.shares_by_name if asking.calibrates else None
        return NewLabels(rows, out, asking.demonstrations, shares, client.snapshot(), notes, error)


class _Asking:
    """The questions, and what their answers say so far."""

    def __init__(self, transfer: Transfer, tools: Tools, shares: Sequence[float], *, given: bool) -> None:
        self.transfer, self.tools, self.shares = transfer, tools, shares
        problem, new = transfer.job.problem, transfer.new
        shown = {i: label for i in transfer.shown if (label := transfer.labels[i]) is not None}
        batches = [list(new[k : k + TAIL_BATCH]) for k in range(0, len(new), TAIL_BATCH)]
        self.batches = [tools.chains.queries(transfer.shown, shown, batch, most=len(shown)) for batch in batches]
        self.average = Average.empty(problem.n_examples, problem.n_labels)
        self.calibrates = given or len(new) >= LEAST_TO_ESTIMATE * problem.n_labels

    @property
    def queries(self) -> list[Query]:
        return [query for batch in self.batches for query in batch]

    @property
    def demonstrations(self) -> int:
        return max(len(query.demonstrations) for query in self.queries)

    async def ask(self, done: Done) -> IcmError | None:
        """Ask all; what cut it short."""
        problem, asked = self.transfer.job.problem, 0
        for batch in self.batches:
            try:
                answers = await self.tools.scorer.score(batch)
            except IcmError as error:
                return error
            heard = read_scores([query.example for query in batch], answers, problem.n_examples, problem.n_labels)
            self.average = self.average.plus(heard)
            asked += len(batch)
            done(asked, len(self.transfer.new))
        return None

    def rows(self) -> tuple[LabelRow, ...]:
        """One for each new example; the rules are obeyed."""
        job, known = self.transfer.job, self.average.known
        logprobs = self.average.logprobs
        if self.calibrates:
            logprobs = calibrated_at(self.average, np.array(self.shares), JUDGED_AT)
        solution = job.problem.consistency.solve(logprobs, examples=np.flatnonzero(known).tolist())
        labels = [solution.labels[i] if known[i] else self.transfer.labels[i] for i in range(job.problem.n_examples)]
        shown = as_sure_as_clusters(self.average, logprobs) if self.calibrates else logprobs
        found = Labelling.of(job.problem, labels, self.average.as_scores(shown))
        return LabelRows(job, final_finding(job.problem, found, job.config))[self.transfer.new.start :]

    @property
    def shares_by_name(self) -> dict[str, float]:
        return dict(zip(self.transfer.job.label_names, self.shares, strict=True))

    @property
    def notes(self) -> list[str]:
        if self.calibrates:
            return []
        n, k = len(self.transfer.new), len(self.shares)
        return [
            f"{n} new examples are too few to be held to the run's shares of the {k} labels ({LEAST_TO_ESTIMATE * k} "
            "are enough): each has the model's own answer; give --class-prior if you know the shares"
        ]


def _found_shares(loaded: LoadedRun) -> tuple[float, ...]:
    """Those of the labels that the run found, given or not: leaving out the unsure ones would favour the label that it
    is surer of. A label that it never found counts as half an example, so that it may appear."""
    n_labels = len(loaded.job.label_names)
    labels = [_found(row) if row.abstained else label for row, label in zip(loaded.rows, loaded.labels, strict=True)]
    least = 0.5 / max(1, sum(label is not None for label in labels))
    raised = [max(share, least) for share in label_shares(labels, n_labels)]
    return tuple(share / sum(raised) for share in raised)


def _found(row: LabelRow) -> int:
    """The label of an example that was abstained from: the one that its confidence is about."""
    assert row.logprobs is not None
    assert row.confidence is not None
    off = [abs(math.exp(logprob) - row.confidence) for logprob in row.logprobs.values()]
    return off.index(min(off))


def _checked_out(loaded: LoadedRun, config: RunConfig) -> Path:
    assert config.out is not None
    out = Place.of(loaded.path, loaded.manifest.run_id, config).out
    run_labels = Place.of(loaded.path, loaded.manifest.run_id, loaded.job.config).out
    if out.absolute() == run_labels.absolute():
        raise ConfigError(f"--out: {out} holds the run's own labels; name another file")
    return out
