"""One labelling job from start to finish: prepare, search, and write what was found, also when it is cut short."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from icm_api.client.meter import Snapshot
from icm_api.client.prices import Price, plain_usd, spent_usd
from icm_api.client.stack import Client
from icm_api.config import RunConfig
from icm_api.core.step import Labelling, Step
from icm_api.data.readers import Rows
from icm_api.data.writers import write_json, write_jsonl
from icm_api.errors import BudgetError, ConfigError, IcmError
from icm_api.run.compose import Say, build_search, open_client
from icm_api.run.job import Job, prepare
from icm_api.run.methods import Tools, open_method
from icm_api.run.outcome import LabelRow, Summary, final_finding, label_rows, summarise
from icm_api.run.plan import Estimate, estimate, look_out, stated_price


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, for display."""

    job: Job
    step: Step
    snapshot: Snapshot
    elapsed_s: float
    cost_usd: Decimal | None
    """So far; None: unknown."""
    out: Path
    """Where the labels will be, also when the run is cut short."""


Observer = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found. `error`: what cut it short; labels and summary are then those found so far."""

    summary: Summary
    rows: tuple[LabelRow, ...]
    run_dir: Path
    job: Job
    error: IcmError | None = None


async def run(
    config: RunConfig,
    environ: Mapping[str, str],
    observe: Observer = lambda _: None,
    *,
    rows: Rows | None = None,
    rules: Rows | None = None,
    say: Say | None = None,
) -> Result:
    """Label a dataset and write what was found (`rows`, `rules`: in place of the files of data and relations).

    The run folder gets `labels.jsonl`, `summary.json`, `steps.jsonl` (the journal) and `config.json`.

    Raises an IcmError only when nothing was labelled; later ones (a budget, a host that gave up) end the search and
    stand in the result. Cancelling writes what was found, then raises CancelledError.
    """
    stated_price(config)
    folder = RunFolder.plan(config)
    job = prepare(config, rows, rules)
    async with open_client(config, environ, say) as client:
        outlook = await look_out(job, client.provider)
        tools = build_search(job, client.provider, outlook.sizes, say)
        folder.create(config, client.provider.identity)
        return await _Run(job, client, tools, folder, await estimate(outlook), outlook.price).finish(observe)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of one run."""

    path: Path
    run_id: str
    out: Path

    @classmethod
    def plan(cls, config: RunConfig) -> RunFolder:
        """Where a run will write. Raises ConfigError when it cannot, before anything is spent; makes nothing yet."""
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = config.run_dir or Path("runs") / run_id
        own = [path / name for name in ("config.json", "steps.jsonl", "summary.json")]
        out = path / "labels.jsonl" if config.out is None else config.out
        _check_out(out, config, own)
        return cls(path, run_id, out)

    def create(self, config: RunConfig, provider: Mapping[str, Any]) -> None:
        _make_folder(self.path)
        (self.path / "steps.jsonl").unlink(missing_ok=True)
        write_json(self.path / "config.json", {"config": config.model_dump(mode="json"), "provider": dict(provider)})

    def open_journal(self) -> TextIO:
        return (self.path / "steps.jsonl").open("a", encoding="utf-8")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"--run-dir: {path} cannot be made: {error.strerror}") from None


def _check_out(out: Path, config: RunConfig, run_files: Sequence[Path]) -> None:
    """Labels that cannot be written must not be paid for first, and must not replace what the user needs."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not out.name or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--out: no file can be written at {str(out)!r}")
    if os.path.lexists(out) and (out.is_symlink() or not out.is_file()):
        raise ConfigError(f"--out: {out} exists and is no ordinary file; name a file")
    inputs = [Path(name) for name in (config.data, config.relations, config.task, config.model) if name is not None]
    if any(out.absolute() == other.absolute() for other in (*inputs, *run_files)):
        raise ConfigError(f"--out: {out} is a file that this run reads or keeps; name another")


@dataclass(slots=True)
class _Run:
    job: Job
    client: Client
    tools: Tools
    folder: RunFolder
    planned: Estimate
    price: Price | None
    last: Step | None = None
    spared: int = 0
    gap_nats: float = 0.0
    started: float = field(default_factory=time.monotonic)

    async def finish(self, observe: Observer) -> Result:
        stop, error = "", None
        try:
            stop = await self._search(observe)
            error = _shortfall(self, stop)
        except IcmError as caught:
            if self.last is None:
                raise
            stop, error = _stop_reason(caught), caught
        except asyncio.CancelledError:
            if self.last is not None:
                self._write("interrupted", None)
            raise
        return self._write(stop, error)

    async def _search(self, observe: Observer) -> str:
        with self.folder.open_journal() as journal:
            async with aclosing(open_method(self.job, self.tools)) as steps:
                async for step in steps:
                    self._count(step)
                    journal.write(json.dumps(self._journal_line(step)) + "\n")
                    journal.flush()
                    observe(self._progress(step))
        assert self.last is not None
        assert self.last.stop is not None
        return self.last.stop

    def _progress(self, step: Step) -> Progress:
        counts = self.client.snapshot()
        return Progress(self.job, step, counts, self._elapsed(), spent_usd(self.price, counts), self.folder.out)

    def _count(self, step: Step) -> None:
        self.last = step
        self.gap_nats = max(self.gap_nats, step.gap_nats)
        self.spared += step.spared

    def _write(self, stop: str, error: IcmError | None) -> Result:
        assert self.last is not None
        finding = final_finding(self.job.problem, self.last.found, self.job.config)
        rows = label_rows(self.job, finding)
        unfinished = _unfinished(finding.labelling, stop, ended=self.last.stop is not None)
        notes = [*self.job.notices, *unfinished, *self.last.notes, *_notes(self)]
        counts = self.client.snapshot()
        about = self._about(stop) | {"cost_usd": plain_usd(spent_usd(self.price, counts))}
        summary = summarise(self.job, finding, counts, about=about, warnings=notes)
        write_jsonl(self.folder.out, [asdict(row) for row in rows])
        write_json(self.folder.path / "summary.json", summary.as_json())
        return Result(summary, tuple(rows), self.folder.path, self.job, error)

    def _about(self, stop: str) -> dict[str, Any]:
        return {
            "run_id": self.folder.run_id,
            "out": str(self.folder.out),
            "provider": self.job.config.provider,
            "model": self.client.provider.model,
            "requests_saved": self.spared,
            "price_source": self.price.source if self.price else None,
            "planned_requests": self.planned.requests,
            "planned_prompt_tokens": self.planned.prompt_tokens,
            "planned_kind": self.planned.kind,
            "wall_s": round(self._elapsed(), 3),
            "stop_reason": stop,
            "bounded_scores": self.tools.scorer.bounded,
            "capped_contexts": self.tools.context.capped,
        }

    def _journal_line(self, step: Step) -> dict[str, Any]:
        ids, names = [example.id for example in self.job.examples], self.job.label_names
        return {
            "step": step.step,
            "changed": [ids[i] for i in step.changed],
            "labels": [names[k] for i in step.changed if (k := step.labels[i]) is not None],
            "labelled": _labelled(step.labels),
            "asked": step.asked,
            **step.record(ids),
        }

    def _elapsed(self) -> float:
        return time.monotonic() - self.started


def _labelled(labels: Sequence[int | None]) -> int:
    return sum(label is not None for label in labels)


def _shortfall(search: _Run, stop: str) -> IcmError | None:
    """Running out of steps is reaching a limit when it leaves examples without a label."""
    assert search.last is not None
    if stop == "max_steps" and None in search.last.found.labels:
        return BudgetError(stop, search.last.step, search.last.step)
    return None


def _stop_reason(error: IcmError) -> str:
    return error.limit if isinstance(error, BudgetError) else type(error).__name__


def _unfinished(found: Labelling, stop: str, *, ended: bool) -> list[str]:
    """`ended`: the method came to its end; else a limit, the host or the user cut it short."""
    n, missing = len(found.labels), found.labels.count(None)
    if not ended or (missing and stop == "max_steps"):
        without = f"{missing} of {n} examples have no label" if missing else "the labels are the best so far"
        return [f"the run stopped early ({stop}): {without}"]
    if missing:
        return [f"{missing} of {n} examples have no label: no answer about them said anything of the labels"]
    return []


def _notes(search: _Run) -> list[str]:
    """What the user must know to judge the labels, whatever the method."""
    context, notes = search.tools.context, list(search.tools.scorer.notes)
    if context.bare:
        notes.append(
            "some questions had no demonstration, because all labelled examples were siblings or too long: they were "
            "answered by the model alone (see --keep-siblings and the group column)"
        )
    if context.capped:
        notes.append(
            "some questions could not show every labelled example: the context is full, or --max-demonstrations is "
            "reached"
        )
    if search.gap_nats:
        notes.append(f"the solver ran out of time: some repairs may be {search.gap_nats:.2f} nats from the best")
    return notes
