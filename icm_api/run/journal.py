"""The folder of a run on disk: what was asked for, what was done, and how far it is.

    manifest.json   what the run is: settings, hashes of its inputs, provider, price. Written once.
    inputs.jsonl    a digest of each example, prompt and relation, so that a change can be named.
    pins.jsonl      with --pin: the labels that a person gave, read from here ever after, as their file may change.
    journal.jsonl   a line a step, only ever appended to. Who works on the run holds a lock on it.
    state.json      where the run stands and what it has spent: replaced whole, ahead of each request that is paid for.
    labels.jsonl    the labels so far; every few seconds, and at the end.
    summary.json    at the end.
    replies/        with --no-cache: the replies, which otherwise are in the cache that runs share.

A method's steps follow from its settings and the replies, and every reply is kept the moment it comes. So a run goes on
by being played again from the start: what was answered is not asked again, and each line of the journal must come out
as it was. Nothing of a method's inner state is stored that could disagree with it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from icm_api.client.meter import NOTHING, Snapshot
from icm_api.data.writers import write_text
from icm_api.errors import ConfigError, IcmError, JournalError
from icm_api.folders import make_private
from icm_api.types import Json

T = TypeVar("T")

FORMAT: Literal[1] = 1
"""Raise it when a file of the folder changes its meaning: older runs are then refused, never misread."""
MANIFEST, INPUTS, JOURNAL, STATE = "manifest.json", "inputs.jsonl", "journal.jsonl", "state.json"
PINS, LABELS, SUMMARY, REPLIES = "pins.jsonl", "labels.jsonl", "summary.json", "replies"
FILES = (MANIFEST, INPUTS, PINS, JOURNAL, STATE, LABELS, SUMMARY)

ROUNDING = 1e-6
"""Relative. Another processor may round sums otherwise; what a step decides does not hang on so little."""
LOCKED_BYTE = 1 << 40
"""Locked where locks are mandatory (Windows): a byte that no reader will ever come to."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run is. Holds no key: settings name the variable of one, and a provider's identity has none."""

    format: Literal[1]
    run_id: str
    begun: str
    """ISO 8601, UTC."""
    version: str
    """Of this program."""
    config: Mapping[str, Any]
    """All settings, defaults included."""
    given: tuple[str, ...]
    """Names of the settings that are not left at their defaults."""
    cwd: str
    """Where relative paths of the settings begin."""
    cwd_from_run: str
    """The same from the run folder, for when both were moved."""
    hashes: Mapping[str, str]
    """SHA-256 of data, prompts and relations (`icm_api.run.inputs`)."""
    provider: Mapping[str, Any]
    """The provider's identity: everything beside a request that can change an answer."""
    price: Mapping[str, str] | None
    """USD per million tokens, and where it is from; None: unknown."""
    probe: Mapping[str, Any] | None
    """What `icm-api probe` had found of the provider; None: it was not probed."""
    planned: Mapping[str, Any]
    program: str = ""
    """Of its code (`icm_api.run.program`); empty: not written down."""
    mark: str = ""
    """What its user's programs know it by (`icm_api.run.origin`); empty: none could be made."""
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


Status = Literal["running", "stopped", "finished"]


@dataclass(frozen=True, slots=True)
class State:
    """Where a run stands."""

    status: Status = "running"
    steps: int = 0
    labelled: int = 0
    stop_reason: str | None = None
    spent: Snapshot = NOTHING
    wall_s: float = 0.0
    """Over all its parts."""
    limits: Mapping[str, Any] = field(default_factory=dict)
    """Limits that were given when it was resumed: they take the place of the manifest's."""
    limits_mark: str = ""
    """What its user's programs know them by (`icm_api.run.origin`): without it they can only be narrower."""
    pid: int = 0
    """Of the process that wrote this."""
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


_MANIFEST, _STATE = TypeAdapter(Manifest), TypeAdapter(State)


class DivergedError(IcmError):
    """A step did not come out as the journal has it. `was`: the journal's line."""

    def __init__(self, was: Mapping[str, Any]) -> None:
        self.was = was
        super().__init__(f"step {was.get('step')} is not as it was")


class Journal:
    """Lines of JSON, appended and never changed. Opening it locks the run; a torn last line is dropped.

    The lines that are there must come again first, from the start: `add` then compares. Raises JournalError when
    another process holds the lock or the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.is_symlink():
            raise JournalError(f"{path}: is a link to another file, which would be written to; remove it")
        with _clear_errors(path):
            self._file = path.open("ab", buffering=0)
        try:
            with _clear_errors(path):
                _lock(self._file.fileno(), path)
                self._end = _whole_lines(path)
                self._file.truncate(self._end)
                self._old = path.open("rb")
        except BaseException:
            self._file.close()
            raise
        self._place = 0
        self.steps = 0
        """Lines that came so far in this process."""

    @property
    def empty(self) -> bool:
        return self._end == 0

    @property
    def replaying(self) -> bool:
        """Whether lines that are there have yet to come again."""
        return self._place < self._end

    def add(self, record: Mapping[str, Json]) -> bool:
        """Take the next line; True: it is new. Raises DivergedError when another one stands in its place."""
        text = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        new = not self.replaying
        if new:
            self._append(text)
        else:
            self._compare(text)
        self.steps += 1
        return new

    def cut(self) -> None:
        """Drop the lines that have not come again."""
        with _clear_errors(self.path):
            self._file.truncate(self._place)
        self._end = self._place

    def sync(self) -> None:
        """To the disk, so that it outlives a power cut."""
        with _clear_errors(self.path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Also lets go of the lock."""
        self._old.close()
        self._file.close()

    def _append(self, text: bytes) -> None:
        left = memoryview(text)
        with _clear_errors(self.path):
            while left:  # a disk that is nearly full takes a part
                left = left[self._file.write(left) or 0 :]
        self._place = self._end = self._end + len(text)

    def _compare(self, text: bytes) -> None:
        self._old.seek(self._place)
        line = self._old.readline()
        if line != text and not _alike(was := _parsed(self.path, line), json.loads(text)):
            raise DivergedError(was)
        self._place += len(line)


class RunFolder:
    """The folder of one run, locked while it is open."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path, self.journal = path, journal
        for half_written in path.glob(".*.tmp"):
            half_written.unlink(missing_ok=True)
        self.before = State()
        """Where the run stood when it was opened."""

    def begin(self, manifest: Manifest) -> None:
        """The run exists from here on. The manifest comes last: a folder that has one has the rest."""
        self.save(State(pid=os.getpid()), durable=True)
        _write(self.path / MANIFEST, _MANIFEST, manifest, durable=True)

    def save(self, state: State, *, durable: bool = False) -> None:
        """`durable`: it outlives a power cut, and not only the process."""
        _write(self.path / STATE, _STATE, state, durable=durable)


@contextmanager
def new_folder(path: Path) -> Iterator[RunFolder]:
    """Make and lock a folder for a run; it is removed again unless the run begins. Raises ConfigError when it holds a
    run already (one that has made no step may be begun anew), JournalError when another process works in it."""
    made = not path.exists()
    try:
        make_private(path)
        if not any(path.iterdir()):  # somebody made it for the run
            path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"--run-dir: {path} cannot be made: {error.strerror}") from None
    _refuse_older(path)
    with closing(Journal(path / JOURNAL)) as journal:
        if not journal.empty:
            raise ConfigError(
                f"--run-dir: {path} holds a run already: go on with it (`icm-api resume {path}`), or name another "
                "folder"
            )
        try:
            yield RunFolder(path, journal)
        finally:
            if not (path / MANIFEST).exists():
                _remove(path, whole=made)


@contextmanager
def existing_folder(path: Path) -> Iterator[tuple[RunFolder, Manifest]]:
    """Open and lock the folder of a run, to go on with it. Raises JournalError when that cannot be."""
    manifest = read_manifest(path)
    with closing(Journal(path / JOURNAL)) as journal:
        folder = RunFolder(path, journal)
        folder.before = read_state(path)
        yield folder, manifest


def read_manifest(path: Path) -> Manifest:
    """Raises JournalError: no run, one of another format, or a damaged file."""
    if not (path / MANIFEST).is_file():
        raise JournalError(f"{path}: no run is kept here ({MANIFEST} is missing); `icm-api runs` lists those there are")
    return _read(path / MANIFEST, _MANIFEST)


def read_state(path: Path) -> State:
    """Raises JournalError for a missing or damaged file: what the run spent is then unknown."""
    return _read(path / STATE, _STATE)


def kept_pins(path: Path) -> Path | None:
    """The run's own copy of the labels that a person gave. None: it has none, as it was begun without any, or by a
    version that kept none."""
    return path / PINS if (path / PINS).is_file() else None


def is_locked(path: Path) -> bool:
    """Whether a process works on the run in the folder."""
    try:
        with (path / JOURNAL).open("rb") as file:
            _lock(file.fileno(), path / JOURNAL)
    except FileNotFoundError:
        return False
    except (OSError, JournalError):
        return True
    return False


# --- the parts ----------------------------------------------------------------------------------------------------


def _refuse_older(path: Path) -> None:
    """What is not known to be a run's must not be written over. A run that was killed before it had begun has left a
    journal, and perhaps what is written next."""
    there = {name for name in (*FILES, REPLIES, "steps.jsonl") if (path / name).exists()}
    unbegun = JOURNAL in there and there <= {JOURNAL, INPUTS, PINS, STATE, REPLIES}
    if there and MANIFEST not in there and not unbegun:
        raise ConfigError(f"--run-dir: {path} has a file {min(there)} that is not of a run; name another folder")


def _remove(path: Path, *, whole: bool) -> None:
    """What a run that never began has left: nothing of this name was there before."""
    shutil.rmtree(path / REPLIES, ignore_errors=True)
    for name in (JOURNAL, STATE, INPUTS, PINS):
        (path / name).unlink(missing_ok=True)
    if whole and not any(path.iterdir()):
        path.rmdir()


def _lock(number: int, path: Path) -> None:
    """Until the file is closed; the system lets go when the process ends, however it ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(number, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise JournalError(
            f"{path.parent}: {_worker(path.parent)} is working on this run; wait until it is done, or stop it"
        ) from None


def _worker(path: Path) -> str:
    """The process that holds the lock, as far as the state tells."""
    try:
        pid = read_state(path).pid
    except JournalError:
        pid = 0
    return f"process {pid}" if pid else "another process"


def _whole_lines(path: Path) -> int:
    """Bytes of the file up to the end of its last whole line."""
    with path.open("rb") as file:
        place = file.seek(0, os.SEEK_END)
        while place > 0:
            start = max(0, place - 65536)
            file.seek(start)
            found = file.read(place - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            place = start
    return 0


def _parsed(path: Path, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise JournalError(f"{path}: a line is damaged: {line[:80]!r}")
    return record


def _alike(a: Any, b: Any) -> bool:
    """Equal but for the rounding of another processor."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=ROUNDING, abs_tol=ROUNDING)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_alike, a, b))
    return bool(a == b)


def _read(path: Path, kind: TypeAdapter[T]) -> T:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise JournalError(f"{path}: cannot be read: {error.strerror}; {_ANEW}") from None
    made = _format_of(content)
    if made not in (None, FORMAT):
        raise JournalError(
            f"{path}: made by a version of icm-api with format {made!r} of run folders, and this one has {FORMAT}; "
            f"use that version, or: {_ANEW}"
        )
    try:
        return kind.validate_json(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise JournalError(f"{path}: is damaged ({where or 'not JSON'}: {error.errors()[0]['msg']}); {_ANEW}") from None


_ANEW = "label anew with `icm-api run`: replies in the cache are not paid for again"


def _format_of(content: bytes) -> Any:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return found.get("format") if isinstance(found, dict) else None


def _write(path: Path, kind: TypeAdapter[T], value: T, *, durable: bool) -> None:
    write_text(path, kind.dump_json(value, indent=2).decode() + "\n", durable=durable)


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise JournalError(f"{path}: cannot be used: {error.strerror}") from error
