"""A run read back from its folder, with the job it labelled made ready again: for all that comes after a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from icm_api.data.readers import Rows
from icm_api.errors import DataError, JournalError
from icm_api.run.compose import Say
from icm_api.run.inputs import refuse_changed
from icm_api.run.job import Job, prepare
from icm_api.run.journal import INPUTS, JOURNAL, LABELS, Manifest, State, kept_pins, read_manifest
from icm_api.run.origin import refuse_foreign
from icm_api.run.outcome import LabelRow
from icm_api.run.resume import IN_MEMORY, read_run, settings

_ROW = TypeAdapter(LabelRow)


@dataclass(frozen=True, slots=True)
class LoadedRun:
    """A run that has labels: finished, cut short, or still going on (`status`); then they are those so far."""

    path: Path
    manifest: Manifest
    state: State
    status: str
    """`running`, `finished`, `stopped` or `killed` (`icm_api.run.resume.RunInfo`)."""
    job: Job
    """Read and derived again from the run's settings; its data, prompts and relations are those the run began with."""
    rows: tuple[LabelRow, ...]
    """One for each of `job.examples`, in their order."""
    summary: Mapping[str, Any] | None
    """`summary.json` (`icm_api.run.outcome.Summary`); None where a run was killed before it wrote one."""

    @property
    def labels(self) -> tuple[int | None, ...]:
        """Label index of each example; None: not labelled."""
        index = {name: k for k, name in enumerate(self.job.label_names)}
        return tuple(None if row.label is None else index[row.label] for row in self.rows)

    def journal(self) -> list[dict[str, Any]]:
        """The lines of the journal, read from disk; a torn last one is left out. Raises JournalError."""
        return read_journal(self.path)


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's journal. Raises JournalError."""
    path = folder / JOURNAL
    return [_parsed(path, number, line) for number, line in enumerate(_whole_lines(path), start=1)]


def load_run(
    path: Path,
    environ: Mapping[str, str],
    *,
    trust: bool = False,
    say: Say | None = None,
    data: str | None = None,
    relations: Path | None = None,
    rows: Rows | None = None,
    rules: Rows | None = None,
) -> LoadedRun:
    """The run in a folder (`icm_api.run.resume.find_run` finds it by name). Nothing is locked, asked or written.

    `trust`: also where it was not begun here (`icm_api.run.origin`), as its settings name the code of its task and the
    files that are read; `say` gets them then. `data`, `relations`: where these are now, if they were moved; `rows`,
    `rules` take their place for a run over rows in memory.

    Raises JournalError when there is no run, it is not trusted, it has no labels yet, a file is damaged, or the data,
    task or relations are not those it began with (the message names the first differences); else as `prepare`.
    """
    refuse_foreign(path, read_manifest(path), environ, trust=trust, say=say)
    info = read_run(path)
    config = settings(path, info.manifest, {"data": data, "relations": relations})
    if config.data == IN_MEMORY and rows is None:
        raise JournalError(f"{path}: the run was made with rows in memory; give them as a file with --data")
    try:
        job = prepare(config, rows, rules, kept_pins=kept_pins(path))
    except DataError as error:
        error.add_note("if the data were moved, say where they are now with --run-data (relations: --run-relations)")
        raise
    refuse_changed(path / INPUTS, info.manifest.hashes, job)
    labels = _read_labels(config.out or path / LABELS, job)
    return LoadedRun(path, info.manifest, info.state, info.status, job, labels, info.summary)


def _read_labels(path: Path, job: Job) -> tuple[LabelRow, ...]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise JournalError(f"{path}: the run has no labels yet; go on with it (`icm-api resume`)") from None
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None
    rows = tuple(_row(path, number, line, job.label_names) for number, line in enumerate(lines, start=1))
    if [row.id for row in rows] != [example.id for example in job.examples]:
        raise JournalError(f"{path}: its ids are not those of {job.dataset.source}, in that order; was it edited?")
    return rows


def _row(path: Path, number: int, line: bytes, names: Sequence[str]) -> LabelRow:
    try:
        row = _ROW.validate_json(line)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        problem = f"{where or 'not JSON'}: {error.errors()[0]['msg']}"
        raise JournalError(f"{path}:{number}: no line of a labels file ({problem})") from None
    if row.label is not None and (row.label not in names or row.confidence is None):
        raise JournalError(f"{path}:{number}: {row.label!r} with confidence {row.confidence} is no label of this task")
    return row


def _whole_lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}") from None
    return content[: content.rfind(b"\n") + 1].splitlines()


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise JournalError(f"{path}:{number}: the line is damaged: {line[:80]!r}")
    return record
