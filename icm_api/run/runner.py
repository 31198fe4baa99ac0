"""One labelling job from start to finish: prepare, search, and write what was found, also when it is cut short."""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from icm_api.client.meter import Snapshot
from icm_api.client.prices import Price, plain_usd
from icm_api.client.stack import Client
from icm_api.client.wrapper import Wrapper
from icm_api.config import RunConfig
from icm_api.core.step import Step
from icm_api.data.answers import write_answers
from icm_api.data.readers import Rows
from icm_api.data.writers import write_json, write_jsonl
from icm_api.errors import BudgetError, CapabilityError, ConfigError, IcmError, JournalError, RequestError
from icm_api.local.models import default_cache_dir
from icm_api.providers.base import Provider
from icm_api.run.compose import Say, build_search, open_client, stated_price
from icm_api.run.inputs import hashes, write_inputs
from icm_api.run.interrupt import Interrupt, InterruptedRunError, Interruptible
from icm_api.run.job import Job, prepare
from icm_api.run.journal import (
    FILES,
    FORMAT,
    INPUTS,
    LABELS,
    PINS,
    REPLIES,
    SUMMARY,
    DivergedError,
    Manifest,
    RunFolder,
    new_folder,
)
from icm_api.run.methods import Tools, open_method
from icm_api.run.origin import marked
from icm_api.run.outcome import LabelRow, LabelRows, Summary, final_finding, summarise
from icm_api.run.plan import Estimate, Outlook, estimate, in_words, look_out
from icm_api.run.probe_record import find_record
from icm_api.run.program import change_since, fingerprint, outgrown
from icm_api.types import Request

R = TypeVar("R")

LABELS_EVERY_S = 1.0
LABELS_SHARE = 0.05
"""Most of a run's time that goes into writing the labels so far."""
LIMITS = ("max_requests", "max_prompt_tokens", "max_usd")
"""Settings that may change when a run goes on."""


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
    run_dir: Path


Observer = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run found. `error`: what cut it short; labels and summary are then those found so far."""

    summary: Summary
    rows: Sequence[LabelRow] = field(repr=False)  # asyncio writes out what a task returns as it ends
    """One for each of `job.examples`, in their order."""
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
    interrupt: Interrupt | None = None,
) -> Result:
    """Label a dataset and write what was found (`rows`, `rules`: in place of the files of data and relations).

    What the run folder gets is in `icm_api.run.journal`; `icm_api.run.resume` goes on with a run that was cut short.

    Raises an IcmError only when nothing was labelled; later ones (a budget, a host that gave up, an `interrupt`) end
    the search and stand in the result. Notes on the error say where the labels are and how to go on. Cancelling writes
    what was found, then raises CancelledError.
    """
    stated_price(config)
    place = Place.plan(config)
    job = prepare(config, rows, rules)
    with new_folder(place.path) as folder:
        return await label_in(folder, None, job, place, environ, observe, say, interrupt or Interrupt())


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run writes."""

    path: Path
    run_id: str
    out: Path

    @classmethod
    def plan(cls, config: RunConfig) -> Place:
        """Where a run will write. Raises ConfigError when it cannot, before anything is spent; makes nothing yet."""
        run_id = f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        path = config.run_dir or Path("runs") / run_id
        if config.pin is not None and config.pin.absolute() == (path / PINS).absolute():
            raise ConfigError(f"--pin: {config.pin} is where this run keeps its own copy; name another file or folder")
        return cls.of(path, run_id, config)

    @classmethod
    def of(cls, path: Path, run_id: str, config: RunConfig) -> Place:
        """That of a run whose folder is known. Raises as `plan`."""
        out = path / LABELS if config.out is None else config.out
        _check_out(out, config, [path / name for name in FILES if name != LABELS])
        return cls(path, run_id, out)


def _check_out(out: Path, config: RunConfig, run_files: Sequence[Path]) -> None:
    """Labels that cannot be written must not be paid for first, and must not replace what the user needs."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not out.name or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"--out: no file can be written at {str(out)!r}")
    if os.path.lexists(out) and (out.is_symlink() or not out.is_file()):
        raise ConfigError(f"--out: {out} exists and is no ordinary file; name a file")
    read = (config.data, config.relations, config.pin, config.task, config.model)
    inputs = [Path(name) for name in read if name is not None]
    if any(out.absolute() == other.absolute() for other in (*inputs, *run_files)):
        raise ConfigError(f"--out: {out} is a file that this run reads or keeps; name another")


async def label_in(
    folder: RunFolder,
    manifest: Manifest | None,
    job: Job,
    place: Place,
    environ: Mapping[str, str],
    observe: Observer,
    say: Say | None,
    interrupt: Interrupt,
) -> Result:
    """Label the job in an open folder, as `run` does. `manifest`: of a run that goes on, None for one that begins."""
    keeper = _Keeper(folder, job.config, default_cache_dir(environ))
    async with open_client(
        job.config,
        environ,
        say,
        replies=place.path / REPLIES,
        spent=folder.before.spent,
        wrap=lambda adapter: _Announced(adapter, keeper),
        sleep=interrupt.sleep,
    ) as client:
        provider = Interruptible(client.provider, interrupt)
        outlook = await look_out(job, provider)
        planned, tools = await estimate(outlook), build_search(job, provider, outlook.sizes, say)
        if manifest is None:
            write_inputs(place.path / INPUTS, job)
            _write_pins(place.path / PINS, job)
            folder.begin(_manifest(job, place, provider, outlook, planned, environ, say))
        else:
            _refuse_other_provider(folder.path, manifest, provider)
            keeper.change = _told_change(manifest, folder, say)
        if say:
            say(in_words(planned))
        keeper.client = client
        keeper.save()
        return await _Run(job, client, tools, place, planned, outlook.price, keeper, interrupt).finish(observe)


def _write_pins(path: Path, job: Job) -> None:
    """Those of a run that was begun here before, and made no step, go."""
    if job.pins:
        write_answers(path, job.pins, [example.id for example in job.examples], job.label_names)
    else:
        path.unlink(missing_ok=True)


def _manifest(
    job: Job,
    place: Place,
    provider: Provider,
    outlook: Outlook,
    planned: Estimate,
    environ: Mapping[str, str],
    say: Say | None,
) -> Manifest:
    cache_dir = (job.config.cache_dir or default_cache_dir(environ)).absolute()
    record, cwd = find_record(cache_dir, provider), Path.cwd()
    return marked(
        Manifest(
            format=FORMAT,
            run_id=place.run_id,
            begun=datetime.now(UTC).isoformat(timespec="seconds"),
            version=version("icm-api"),
            config=job.config.model_dump(mode="json") | {"cache_dir": str(cache_dir)},
            given=tuple(sorted(job.config.model_fields_set)),
            cwd=str(cwd),
            cwd_from_run=os.path.relpath(cwd, place.path),
            hashes=hashes(job),
            provider=dict(provider.identity),
            price=_price(outlook.price),
            probe=None if record is None else record.as_json(),
            planned={"requests": planned.requests, "kind": planned.kind, "prompt_tokens": planned.prompt_tokens},
            program=fingerprint(),
        ),
        environ,
        say,
    )


def _told_change(manifest: Manifest, folder: RunFolder, say: Say | None) -> str | None:
    """What changed in the program since the run began; None: nothing that its steps could show."""
    change = None if folder.journal.empty else change_since(manifest)
    if change and say:
        say(
            f"notice: the program changed since the run began ({change}): it goes on if its steps come out as they were"
        )
    return change


def _price(price: Price | None) -> dict[str, str] | None:
    if price is None:
        return None
    rates = ("input_usd_per_mtok", "cached_usd_per_mtok", "output_usd_per_mtok")
    return {name: str(plain_usd(getattr(price, name))) for name in rates} | {"source": price.source}


def _refuse_other_provider(path: Path, manifest: Manifest, provider: Provider) -> None:
    """Its answers could be others, so the steps would not be those of the journal."""
    was, now = manifest.provider, dict(provider.identity)
    changed = [
        f"{name}: {was.get(name)!r} -> {now.get(name)!r}"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name)
    ]
    if changed:
        raise JournalError(
            f"{path}: the provider is not the one that the run began with: {'; '.join(changed)}. Go on with that one, "
            "or label anew with `icm-api run`"
        )


class _Keeper:
    """Keeps the state of a run on disk. What is about to be spent is written down before it is sent, so that a limit
    holds however the process ends."""

    def __init__(self, folder: RunFolder, config: RunConfig, cache_dir: Path) -> None:
        self.folder, self.config = folder, config
        self.cache_dir = config.cache_dir or cache_dir
        self.before = folder.before
        self.client: Client | None = None
        self.change: str | None = None
        """In the program since the run began, in words."""
        self.state = replace(self.before, status="running", stop_reason=None, pid=os.getpid())
        self._started = time.monotonic()

    @property
    def counts(self) -> Snapshot:
        """Of the whole run. What it had paid for in an earlier part and now found in the cache is no hit."""
        assert self.client is not None
        counts, spent = self.client.snapshot(), self.before.spent
        return replace(counts, cache_hits=max(0, counts.cache_hits - (spent.requests - spent.retries)))

    @property
    def wall_s(self) -> float:
        return self.before.wall_s + time.monotonic() - self._started

    @property
    def asked_again(self) -> bool:
        """Whether anything has been paid for since the run was opened."""
        assert self.client is not None
        return self.client.snapshot().requests > self.before.spent.requests

    def save(self, *, durable: bool = False, **changes: Any) -> None:
        assert self.client is not None
        spent = self.client.snapshot()
        self.state = replace(self.state, spent=spent, wall_s=round(self.wall_s, 3), **changes)
        self.folder.save(self.state, durable=durable)

    def before_attempt(self) -> None:
        """Raises JournalError rather than pay for a whole run again because its replies are somewhere else, or because
        another program asks otherwise."""
        if self.client is None:
            return
        where = self.cache_dir / "replies" if self.config.cache else self.folder.path / REPLIES
        if self.folder.journal.replaying and self.change:
            sign = f"to make its steps again it asks what has no reply in {where}"
            raise outgrown(self.folder.path, self.change, sign)
        if self.folder.journal.replaying and not self.client.snapshot().cache_hits:
            raise JournalError(
                f"{self.folder.path}: the replies that this run has paid for are not in {where}; bring that folder "
                "back or name the cache folder with --cache-dir, or label anew with `icm-api run`"
            )
        self.save()


class _Announced(Wrapper):
    """Tells the keeper of each attempt that is paid for, before it is sent. The innermost of the wrappers."""

    def __init__(self, inner: Provider, keeper: _Keeper) -> None:
        super().__init__(inner)
        self._keeper = keeper

    async def send(self, request: Request[R]) -> R:
        if request.paid:
            self._keeper.before_attempt()
        return await self.inner.send(request)


@dataclass(slots=True)
class _Run:
    job: Job
    client: Client
    tools: Tools
    place: Place
    planned: Estimate
    price: Price | None
    keeper: _Keeper
    interrupt: Interrupt
    last: Step | None = None
    spared: int = 0
    gap_nats: float = 0.0
    labels_due_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    async def finish(self, observe: Observer) -> Result:
        error: IcmError | None = None
        try:
            stop = await self._search(observe)
            error = _shortfall(self, stop)
        except IcmError as caught:
            stop, error = _stop_reason(caught), caught
        except asyncio.CancelledError:
            self._save("interrupted", None)
            raise
        return self._ended(stop, error)

    def _ended(self, stop: str, error: IcmError | None) -> Result:
        """Save what was found; raise the error where nothing was, or where it cannot be saved."""
        try:
            result = self._save(stop, error)
        except IcmError as unsaved:
            if error is not None:
                error.add_note(str(unsaved))
            raise self._advised(error or unsaved) from unsaved
        if error is not None and not self._at_its_end:
            self._advised(error)
        if result is None:
            assert error is not None
            raise error
        return result

    @property
    def _at_its_end(self) -> bool:
        """The method's; a run that was cut short is not."""
        return self.last is not None and self.last.stop is not None

    async def _search(self, observe: Observer) -> str:
        self.interrupt.heeded = True
        try:
            async with aclosing(open_method(self.job, self.tools)) as steps:
                async for step in steps:
                    self._count(step)
                    if self._journalled(step):
                        self._keep(step)
                    observe(self._progress(step))
        finally:
            self.interrupt.heeded = False
        assert self.last is not None
        assert self.last.stop is not None
        return self.last.stop

    def _progress(self, step: Step) -> Progress:
        counts = self.keeper.counts
        return Progress(self.job, step, counts, self.keeper.wall_s, counts.cost_usd, self.place.out, self.place.path)

    def _count(self, step: Step) -> None:
        self.last = step
        self.gap_nats = max(self.gap_nats, step.gap_nats)
        self.spared += step.spared

    def _journalled(self, step: Step) -> bool:
        """Whether the step is new to the journal. Raises JournalError when it is not as it was, for no known reason."""
        journal, line = self.keeper.folder.journal, self._journal_line(step)
        try:
            return journal.add(line)
        except DivergedError as error:
            if change := self.keeper.change:
                sign = f"step {step.step} does not come out as it was"
                raise outgrown(self.place.path, change, sign) from None
            if self.keeper.asked_again:
                reason = "replies were lost from the cache, and what was asked again was answered otherwise"
            elif max(self.gap_nats, error.was.get("gap_nats", 0)) > 0:
                reason = "the solver ran out of time, and found other labels than before"
            else:
                raise JournalError(
                    f"{journal.path}: step {step.step} does not come out as it was, though nothing it rests on has "
                    f"changed: was the journal edited, or written by another version of icm-api? This is "
                    f"{version('icm-api')}; label anew with `icm-api run`: replies in the cache are not paid for again"
                ) from None
            self.notes.append(f"the run goes on from step {step.step}, not from where it was: {reason}")
            journal.cut()
            return journal.add(line)

    def _keep(self, step: Step) -> None:
        """State at each step, labels every now and then: whoever kills the process finds both."""
        journal = self.keeper.folder.journal
        self.keeper.save(steps=journal.steps, labelled=_labelled(step.labels))
        if (started_s := time.monotonic()) >= self.labels_due_s:
            finding = final_finding(self.job.problem, step.found, self.job.config)
            write_jsonl(self.place.out, (row.as_json() for row in LabelRows(self.job, finding)), durable=False)
            ended_s = time.monotonic()
            self.labels_due_s = ended_s + max(LABELS_EVERY_S, (ended_s - started_s) / LABELS_SHARE)

    def _save(self, stop: str, error: IcmError | None) -> Result | None:
        """Labels, summary, journal and state, in this order: a state that says finished has the rest beside it.

        While earlier steps are still being played again, the files keep what the furthest step left there. None: there
        was no step.
        """
        journal = self.keeper.folder.journal
        result = None if self.last is None else self._result(stop, error)
        if result is not None and not journal.replaying:
            write_jsonl(self.place.out, (row.as_json() for row in result.rows))
            write_json(self.place.path / SUMMARY, result.summary.as_json())
        journal.sync()
        self.keeper.save(status="finished" if self._at_its_end else "stopped", stop_reason=stop, durable=True)
        return result

    def _result(self, stop: str, error: IcmError | None) -> Result:
        assert self.last is not None
        finding = final_finding(self.job.problem, self.last.found, self.job.config)
        notes = [*self.job.notices, *self.last.notes, *self.notes, *_notes(self)]
        counts = self.keeper.counts
        about = self._about(stop) | {"cost_usd": plain_usd(counts.cost_usd)}
        summary = summarise(self.job, finding, counts, about=about, ended=self._at_its_end, warnings=notes)
        return Result(summary, LabelRows(self.job, finding), self.place.path, self.job, error)

    def _advised(self, error: IcmError) -> IcmError:
        """With notes for the user: where the labels are, and how to go on."""
        if self.place.out.exists():
            error.add_note(f"the labels found so far are in {self.place.out}")
        error.add_note(f"go on with: {how_to_resume(self.place.path, error)}")
        if self.last is None and isinstance(error, RequestError | CapabilityError):
            error.add_note("its settings stay; for another host, model or route label anew with `icm-api run`")
        return error

    def _about(self, stop: str) -> dict[str, Any]:
        return {
            "run_id": self.place.run_id,
            "out": str(self.place.out),
            "provider": self.job.config.provider,
            "model": self.client.provider.model,
            "requests_saved": self.spared,
            "price_source": self.price.source if self.price else None,
            "planned_requests": self.planned.requests,
            "planned_prompt_tokens": self.planned.prompt_tokens,
            "planned_cost_usd": plain_usd(self.planned.cost_usd),
            "planned_kind": self.planned.kind,
            "wall_s": round(self.keeper.wall_s, 3),
            "stop_reason": stop,
            "bounded_scores": self.tools.scorer.bounded,
            "capped_contexts": self.tools.context.capped,
        }

    def _journal_line(self, step: Step) -> dict[str, Any]:
        ids, names = [example.id for example in self.job.examples], self.job.label_names
        labels = step.labels  # once: a method may gather them anew each time it is asked
        return {
            "step": step.step,
            "changed": [ids[i] for i in step.changed],
            "labels": [None if (k := labels[i]) is None else names[k] for i in step.changed],
            "labelled": _labelled(labels),
            "asked": step.asked,
            "gap_nats": step.gap_nats,
            **step.record(ids),
        }


def how_to_resume(path: Path, error: IcmError | None = None) -> str:
    """The command, with the limit that stopped the run."""
    larger = f" --{error.limit.replace('_', '-')} N" if isinstance(error, BudgetError) and error.limit in LIMITS else ""
    return f"icm-api resume {shlex.quote(str(path))}{larger}"


def _labelled(labels: Sequence[int | None]) -> int:
    return sum(label is not None for label in labels)


def _shortfall(search: _Run, stop: str) -> IcmError | None:
    """Running out of steps is reaching a limit when it leaves examples without a label."""
    assert search.last is not None
    if stop == "max_steps" and None in search.last.found.labels:
        return BudgetError(stop, search.last.step, search.last.step)
    return None


def _stop_reason(error: IcmError) -> str:
    if isinstance(error, InterruptedRunError):
        return "interrupted"
    return error.limit if isinstance(error, BudgetError) else type(error).__name__


def _notes(search: _Run) -> list[str]:
    """What the user must know to judge the labels, whatever the method."""
    context, notes = search.tools.context, list(search.tools.scorer.notes)
    if (change := search.keeper.change) and not search.keeper.folder.journal.replaying:
        notes.append(f"the program changed since the run began ({change}); its earlier steps came out as they were")
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
