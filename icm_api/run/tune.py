"""A run's labels taught to a model at a host: exported, checked, uploaded, launched and followed.

A launch costs money, so what is known of it is on disk before and after: the record says `launching` before the host is
asked, and a command that finds it so looks the job up instead of launching another.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from icm_api.client.retry import RetryPolicy, Sleep
from icm_api.data.exports import find_format
from icm_api.data.writers import write_text
from icm_api.errors import (
    AuthError,
    BudgetError,
    ConfigError,
    DataError,
    JournalError,
    ProviderError,
    RateLimitError,
    RequestError,
    RetryableError,
    TransientError,
)
from icm_api.providers.tuning import HOSTS, Estimate, FileIds, Method, Order, Standing, Tuner
from icm_api.run.export import ExportOptions, ExportReport, export_run, shape_of
from icm_api.run.journal import Journal, read_manifest
from icm_api.run.load import LoadedRun

T = TypeVar("T")
Say = Callable[[str], None]

FOLDER, RECORD, LOCK, TRAINING = "tune", "tune.json", "lock", "train.jsonl"
FORMATS: Mapping[Method, str] = {"sft": "chat", "dpo": "preference"}
"""The export that each method learns from."""
SETTLED_S = 600.0
"""A job that the host does not list so long after the launch began was not launched."""
SKEW_S = 300.0
"""How far the host's clock may be behind ours."""
LOOK_S = 1800.0
"""Longest that the host may look at an uploaded file."""
BYTES_PER_TOKEN = 4.0
"""Of English prose: what the number of tokens is guessed by before the host counts them."""


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """What makes one tuning another than the next."""

    provider: str
    base_url: str
    base_model: str
    method: Method
    epochs: int
    min_confidence: float | None = None
    validation: float | None = None
    """Share set apart, as in `ExportOptions`."""


Stage = Literal["prepared", "uploaded", "launching", "launched"]


@dataclass(frozen=True, slots=True)
class Record:
    """All that is kept of a tuning; no key."""

    format: Literal[1]
    run_id: str
    order: Order
    settings: TuningSettings
    stage: Stage
    hashes: Mapping[str, str]
    """SHA-256 of each file, by part: `train`, and `validation` where one was asked for."""
    files: FileIds | None = None
    price_usd: str | None = None
    """As the host estimated it. None: it has not, or does not."""
    launching_s: float | None = None
    """When the launch began, in seconds since the epoch."""
    job_id: str | None = None
    standing: Standing | None = None
    """Of the job, when it was last asked for."""
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


_RECORD = TypeAdapter(Record)


class Tuning:
    """One tuning of one run, in a folder of its own within the run's. Locked while it is open."""

    def __init__(
        self,
        folder: Path,
        settings: TuningSettings,
        record: Record | None,
        *,
        run_id: str,
        policy: RetryPolicy,
        sleep: Sleep,
        clock: Callable[[], float],
    ) -> None:
        self.folder, self.settings = folder, settings
        self._kept, self._run_id = record, run_id
        self._policy, self._sleep, self._clock = policy, sleep, clock

    @property
    def record(self) -> Record:
        assert self._kept is not None, "prepare comes first"
        return self._kept

    @property
    def stage(self) -> Stage | None:
        """None: nothing was prepared yet."""
        return None if self._kept is None else self._kept.stage

    @property
    def may_be_launched(self) -> bool:
        return self.stage in ("launching", "launched")

    @property
    def is_over(self) -> bool:
        standing = None if self._kept is None else self._kept.standing
        return standing is not None and standing.phase != "going"

    def path_of(self, part: str) -> Path:
        return self.folder / (TRAINING if part == "train" else f"{Path(TRAINING).stem}.{part}.jsonl")

    def prepare(self, run: LoadedRun) -> ExportReport:
        """Write the files and check them as the vendor does; sends nothing. What is uploaded already stays so unless
        the labels have changed. Raises ConfigError, DataError."""
        host, method = HOSTS[self.settings.provider], self.settings.method
        if problem := find_format(FORMATS[method]).needs(shape_of(run.job.task)):
            raise ConfigError(f"--method {method}: it needs {problem}; the run's task is {run.job.task.name}")
        report = export_run(
            run,
            ExportOptions(
                FORMATS[method],
                self.path_of("train"),
                min_confidence=self.settings.min_confidence,
                validation=self.settings.validation,
            ),
        )
        if report.records["train"] < host.fewest_records:
            raise DataError(
                f"{self.path_of('train')}: {report.records['train']} records, and {self.settings.provider} takes no "
                f"fewer than {host.fewest_records}"
            )
        for path in map(self.path_of, report.records):
            if problem := host.check_file(path, method):
                raise DataError(f"{path}: {self.settings.provider} would not take it: {problem}")
        hashes = {part: hashlib.sha256(self.path_of(part).read_bytes()).hexdigest() for part in report.records}
        if self._kept is None or self._kept.hashes != hashes:
            self._keep(Record(1, self._run_id, self._order(), self.settings, "prepared", hashes))
        return report

    def guessed_tokens(self) -> int:
        """About how many are trained on, over all epochs."""
        return int(self.path_of("train").stat().st_size / BYTES_PER_TOKEN * self.settings.epochs)

    async def upload(self, tuner: Tuner) -> None:
        """Send the files. Costs nothing."""
        await self._patiently(partial(tuner.check, self.record.order))
        ids = {part: await self._patiently(partial(tuner.upload, self.path_of(part))) for part in self.record.hashes}
        self._keep(replace(self.record, stage="uploaded", files=FileIds(ids["train"], ids.get("validation"))))

    async def price(self, tuner: Tuner, poll_s: float) -> Estimate:
        """What the host says it would cost, once it has looked at the files. Raises ProviderError."""
        with self._starting_over():
            for file_id in (self._files.training, self._files.validation):
                if file_id is not None:
                    await self._looked_at(tuner, file_id, poll_s)
            estimate = await self._patiently(partial(tuner.estimate, self.record.order, self._files))
        usd = None if estimate.usd is None else str(estimate.usd)
        self._keep(replace(self.record, price_usd=usd))
        return estimate

    async def launch(self, tuner: Tuner) -> None:
        """Start the job: asked for once, never again unless the host has plainly refused. Raises ProviderError."""
        self._keep(replace(self.record, stage="launching", launching_s=self._clock()))
        try:
            with self._starting_over():
                job_id = await tuner.launch(self.record.order, self._files)
        except ProviderError as error:
            if self.stage == "launching":
                error.add_note("whether the job was launched is not known: the same command looks it up first")
            elif notice := HOSTS[self.settings.provider].notice:
                error.add_note(notice)
            raise
        self._keep(replace(self.record, stage="launched", job_id=job_id))

    async def look_up(self, tuner: Tuner) -> None:
        """Find out what came of a launch that was cut short: the job is found, or was not launched. Raises
        TransientError while that cannot be told."""
        began_s = self.record.launching_s
        assert began_s is not None, "a launch began"
        since_s = began_s - SKEW_S
        job_id = await self._patiently(partial(tuner.find, self.record.order, self._files, since_s))
        if job_id is not None:
            self._keep(replace(self.record, stage="launched", job_id=job_id))
        elif self._clock() < began_s + SETTLED_S:
            settled = datetime.fromtimestamp(began_s + SETTLED_S, UTC).strftime("%H:%M:%S")
            raise tuner.host.error(
                TransientError,
                f"a launch was cut short, and the host lists no job of it yet: repeat the command after {settled} UTC",
            )
        else:
            self._keep(replace(self.record, stage="uploaded", launching_s=None))

    async def follow(self, tuner: Tuner, poll_s: float, say: Say) -> Standing:
        """Watch the job until it is over; its log goes to `say`. Raises ProviderError when it failed."""
        job_id, seen, said = self.record.job_id, set[str](), ""
        assert job_id is not None, "the job was launched"
        while True:
            standing = await self._patiently(partial(tuner.standing, job_id))
            for event in await self._patiently(partial(tuner.events, job_id)):
                if event.key not in seen:
                    say(event.text)
                seen.add(event.key)
            if (words := in_words(standing)) != said:
                say(said := words)
            self._keep(replace(self.record, standing=standing))
            if standing.phase != "going":
                return standing
            await self._sleep(poll_s)

    def as_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "folder": str(self.folder),
            "suffix": record.order.suffix,
            **asdict(self.settings),
            "stage": record.stage,
            "price_usd": record.price_usd,
            "job_id": record.job_id,
            "status": record.standing and record.standing.status,
            "tuned_model": record.standing and record.standing.tuned_model,
        }

    # --- the parts

    @property
    def _files(self) -> FileIds:
        assert self.record.files is not None, "files were uploaded"
        return self.record.files

    def _order(self) -> Order:
        s = self.settings
        return Order(s.base_model, s.method, s.epochs, self.folder.name, secrets.token_hex(8))

    def _keep(self, record: Record) -> None:
        self._kept = record
        write_text(self.folder / RECORD, _RECORD.dump_json(record, indent=2).decode() + "\n")

    @contextmanager
    def _starting_over(self) -> Iterator[None]:
        """A host that refuses has not launched, and may no longer have the files: the next time they go up again."""
        try:
            yield
        except (AuthError, RequestError, RateLimitError):
            self._keep(replace(self.record, stage="prepared", files=None, launching_s=None))
            raise

    async def _looked_at(self, tuner: Tuner, file_id: str, poll_s: float) -> None:
        began_s = self._clock()
        while not await self._patiently(partial(tuner.is_ready, file_id)):
            if self._clock() - began_s > LOOK_S:
                raise tuner.host.error(
                    TransientError, f"file {file_id} is not looked at after {LOOK_S / 60:.0f} min; repeat the command"
                )
            await self._sleep(poll_s)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """For what may be asked again: within the bounds of the policy, and as the host wishes."""
        policy = self._policy
        backoff = wait_random_exponential(policy.first_wait_s, policy.max_backoff_s)

        def wait_s(state: RetryCallState) -> float:
            return max(backoff(state), _wish_s(state))

        loop = AsyncRetrying(
            sleep=self._sleep,
            retry=retry_if_exception_type(RetryableError),
            wait=wait_s,
            stop=lambda state: (
                stop_after_attempt(policy.attempts)(state)
                or stop_after_delay(policy.total_s)(state)
                or _wish_s(state) > policy.max_wait_s
            ),
            reraise=True,
        )
        return await loop(ask)


@contextmanager
def open_tuning(
    run: Path,
    settings: TuningSettings,
    suffix: str | None,
    *,
    sleep: Sleep = asyncio.sleep,
    clock: Callable[[], float] = time.time,
) -> Iterator[Tuning]:
    """The tuning of a run with these settings, begun or not. `suffix` names it; None: a name made of the settings.

    Raises ConfigError when the name is taken by a tuning with other settings or cannot be one, JournalError when there
    is no run, the record is damaged or another process works on the tuning.
    """
    run_id = read_manifest(run).run_id
    name = default_suffix(run_id, settings) if suffix is None else suffix
    _check_suffix(name, settings.provider)
    folder = run / FOLDER / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be made: {error.strerror}") from None
    with closing(Journal(folder / LOCK)):  # a journal without a line is a lock
        try:
            record = _read(folder / RECORD)
            if record is not None:
                _refuse_other(folder, record.settings, settings)
            yield Tuning(folder, settings, record, run_id=run_id, policy=RetryPolicy(), sleep=sleep, clock=clock)
        finally:
            if not (folder / RECORD).exists():
                _remove(folder)


def default_suffix(run_id: str, settings: TuningSettings) -> str:
    """Another for other settings or another run."""
    said = json.dumps([run_id, asdict(settings)], sort_keys=True)
    return f"icm-{hashlib.sha256(said.encode()).hexdigest()[:10]}"


def in_words(standing: Standing) -> str:
    """For people."""
    if standing.left_s is None:
        return standing.status
    return f"{standing.status}; about {max(1, round(standing.left_s / 60))} min to the next status"


def failure_of(record: Record) -> ProviderError | None:
    """Why a job that is over gave no model; None: it gave one, or is not over."""
    standing, order = record.standing, record.order
    if standing is None or standing.phase in ("going", "done"):
        return None
    why = f": {standing.failure}" if standing.failure else "; the host does not say why"
    what = "was cancelled" if standing.phase == "cancelled" else f"failed ({standing.status}){why}"
    error = ProviderError(f"job {record.job_id} {what}", provider=record.settings.provider, model=order.base_model)
    error.add_note("a new job needs a name of its own: give another --suffix")
    return error


def refuse_dearer(estimate: Estimate, max_usd: Decimal | None) -> None:
    """Raise BudgetError for a job that may cost more than `max_usd` (None: no limit): where the host estimates more, or
    does not say."""
    if max_usd is None or (estimate.usd is not None and estimate.usd <= max_usd):
        return
    says = "tells no price beforehand" if estimate.usd is None else f"estimates ${estimate.usd:f}"
    message = f"--max-usd {max_usd:f}: the host {says}, so no job was launched; the files stay uploaded there"
    raise BudgetError("max_usd", None, max_usd, message)


def _wish_s(state: RetryCallState) -> float:
    assert state.outcome is not None
    error = state.outcome.exception()
    return (error.retry_after_s or 0.0) if isinstance(error, RetryableError) else 0.0


def _check_suffix(name: str, provider: str) -> None:
    longest = HOSTS[provider].longest_suffix
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name) or len(name) > longest:
        raise ConfigError(
            f"--suffix: {name!r} must be letters, digits, - and _, at most {longest} of them for {provider}"
        )


def _refuse_other(folder: Path, was: TuningSettings, settings: TuningSettings) -> None:
    old, new = asdict(was), asdict(settings)
    different = [f"--{name.replace('_', '-')} {old[name]}, not {new[name]}" for name in old if old[name] != new[name]]
    if different:
        raise ConfigError(f"--suffix: {folder} is a tuning with {'; '.join(different)}: name another suffix")


def _read(path: Path) -> Record | None:
    try:
        return _RECORD.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise JournalError(
            f"{path}: cannot be used ({str(error).splitlines()[0]}); see at the host whether its job goes on, and "
            "give another --suffix"
        ) from None


def _remove(folder: Path) -> None:
    """What a tuning that was not prepared has left."""
    with suppress(OSError):  # something else is there, or (Windows) the lock is open
        for path in (*folder.glob(f"{Path(TRAINING).stem}.*"), folder / LOCK):
            path.unlink()
        folder.rmdir()
        folder.parent.rmdir()
