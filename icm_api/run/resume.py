"""Going on with a run that was cut short, and a look at those there are.

A run is played again with its own settings (see `icm_api.run.journal`); nothing but its limits can be changed, because
nothing else would lead to the same labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from icm_api.config import ENV_PREFIX, RunConfig, in_words
from icm_api.data.answers import load_answers
from icm_api.data.readers import Rows
from icm_api.errors import ConfigError, DataError, JournalError
from icm_api.run.compose import Say
from icm_api.run.inputs import refuse_changed
from icm_api.run.interrupt import Interrupt
from icm_api.run.job import Job, prepare
from icm_api.run.journal import (
    INPUTS,
    MANIFEST,
    PINS,
    STATE,
    SUMMARY,
    Manifest,
    State,
    existing_folder,
    is_locked,
    kept_pins,
    read_manifest,
    read_state,
)
from icm_api.run.origin import given_here, limits_mark, refuse_foreign
from icm_api.run.runner import LIMITS, Observer, Place, Result, label_in

RUNS = Path("runs")
INPUT_PLACES = ("data", "relations", "pin", "cache_dir")
"""Settings that say where something is: it may have moved, and what it holds is checked."""
IN_MEMORY = "<rows>"
SHOWN = 5
"""Runs that are named where the one asked for is not there."""


async def resume(
    path: Path,
    environ: Mapping[str, str],
    observe: Observer = lambda _: None,
    *,
    given: Mapping[str, Any] | None = None,
    trust: bool = False,
    rows: Rows | None = None,
    rules: Rows | None = None,
    say: Say | None = None,
    interrupt: Interrupt | None = None,
) -> Result:
    """Go on with the run in a folder. `given`: limits, and where data, relations or the cache are now;
    `trust`: also where it was not begun here (`icm_api.run.origin`).

    The result, the labels and the journal are those of a run that was never cut short. Raises JournalError when the
    run cannot go on (locked, damaged, not trusted, changed inputs, another provider or program), else as
    `icm_api.run.runner.run`.
    """
    with existing_folder(path) as (folder, manifest):
        refuse_foreign(path, manifest, environ, trust=trust, say=say)
        limits = _limits(path, manifest, folder.before, given or {}, environ, say)
        mark = limits_mark(manifest, limits, environ)
        folder.before = replace(folder.before, limits=limits, limits_mark=mark)
        config = settings(path, manifest, {**(given or {}), **limits})
        _refuse_other_settings(path, config, environ)
        if config.data == IN_MEMORY and rows is None:
            raise JournalError(f"{path}: the run began with rows in memory; give them as a file with --data")
        place = Place.of(path, manifest.run_id, config)
        job = prepare(config, rows, rules, kept_pins=kept_pins(path))
        refuse_changed(path / INPUTS, manifest.hashes, job)
        if say and _has_other_pins(job):
            say(f"notice: {config.pin} has changed since the run began, which goes on with the labels of {path / PINS}")
        if say and not folder.journal.empty:
            say(f"going on after {folder.before.steps} steps; what was answered is not asked again")
        return await label_in(folder, manifest, job, place, environ, observe, say, interrupt or Interrupt())


def settings(path: Path, manifest: Manifest, given: Mapping[str, Any]) -> RunConfig:
    """Those of a run, with paths where the files are now. Raises ConfigError, JournalError."""
    bases = (Path(manifest.cwd), path / manifest.cwd_from_run)
    stored = dict(manifest.config) | {"run_dir": str(path)}
    for name in ("data", "relations", "pin", "task", "model", "cache_dir"):
        if isinstance(stored.get(name), str) and _is_path(name, stored[name]):
            stored[name] = _placed(stored[name], bases)
    if isinstance(stored.get("out"), str):
        base = next((base for base in bases if base.is_dir()), Path.cwd())
        stored["out"] = stored["out"] if base == Path.cwd() else str(base / stored["out"])
    new = {name: value for name, value in given.items() if value is not None}
    try:
        checked = RunConfig.model_validate(stored | new)
    except ValidationError as error:
        name, message = str(error.errors()[0]["loc"][0]), in_words(error.errors()[0])
        if name in given:
            raise ConfigError(f"--{name.replace('_', '-')}: {message}") from None
        raise JournalError(f"{path / MANIFEST}: setting {name!r}: {message}; was it edited?") from None
    return RunConfig.model_construct(_fields_set={*manifest.given, *new}, **dict(checked))


def find_run(name: str) -> Path:
    """The folder of a run: a path, or its name under `runs`. Raises JournalError."""
    for path in (Path(name), RUNS / name):
        if (path / MANIFEST).is_file():
            return path
    known = ", ".join(sorted(path.parent.name for path in RUNS.glob(f"*/{MANIFEST}"))[-SHOWN:])
    raise JournalError(f"{name}: no run is kept there" + (f"; the latest in {RUNS}: {known}" if known else ""))


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as its folder tells."""

    path: Path
    manifest: Manifest
    state: State
    status: str
    """`running`, `finished`, `stopped` or `killed` (it says that it runs, and nobody works on it)."""

    @property
    def out(self) -> Path:
        """Where its labels are."""
        return Place.of(self.path, self.manifest.run_id, settings(self.path, self.manifest, {})).out

    @property
    def summary(self) -> dict[str, Any] | None:
        """None: it has none yet. Raises JournalError for a damaged one."""
        try:
            found = json.loads((self.path / SUMMARY).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise JournalError(f"{self.path / SUMMARY}: cannot be read ({error})") from None
        if not isinstance(found, dict):
            raise JournalError(f"{self.path / SUMMARY}: is no summary of a run")
        return found

    def as_json(self) -> dict[str, Any]:
        spent, config = self.state.spent, self.manifest.config
        return {
            "run": str(self.path),
            "status": self.status,
            "stop_reason": self.state.stop_reason,
            "method": config["method"],
            "provider": config["provider"],
            "model": config["model"],
            "data": config["data"],
            "steps": self.state.steps,
            "labelled": self.state.labelled,
            "requests": spent.requests,
            "cost_usd": None if spent.cost_usd is None else f"{spent.cost_usd.normalize():f}",
            "begun": self.manifest.begun,
        }


def read_run(path: Path) -> RunInfo:
    """Raises JournalError."""
    manifest, state = read_manifest(path), read_state(path)
    settings(path, manifest, {})  # all that is told of a run relies on them
    status = state.status
    if status == "running" and not is_locked(path):
        return RunInfo(path, manifest, state, "killed")
    return RunInfo(path, manifest, state, status)


def list_runs(folder: Path = RUNS) -> tuple[list[RunInfo], list[str]]:
    """The runs in a folder, in the order in which they began, and what is wrong with others."""
    found, problems = [], []
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            found.append(read_run(path.parent))
        except JournalError as error:
            problems.append(str(error))
    return sorted(found, key=lambda info: info.manifest.begun), problems


# --- the parts ----------------------------------------------------------------------------------------------------


def _limits(
    path: Path,
    manifest: Manifest,
    before: State,
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    say: Say | None,
) -> dict[str, Any]:
    """Limits that differ from those the run began with: of this command, of the environment, of an earlier one."""
    here = {name: environ[_variable(name)] for name in LIMITS if _variable(name) in environ}
    changed = {name: value for name, value in here.items() if value != str(manifest.config.get(name))}
    new = {**changed, **{name: given[name] for name in LIMITS if given.get(name) is not None}}
    void = _void_limits(path, manifest, before, environ)
    for name in sorted(void - new.keys()):
        if say:
            say(
                f"notice: {path / STATE} has {name} = {before.limits[name]}, which was not given here, so that of the "
                f"manifest holds ({manifest.config[name]}); to raise it, give --{name.replace('_', '-')}"
            )
    return {**{name: limit for name, limit in before.limits.items() if name not in void}, **new}


def _void_limits(path: Path, manifest: Manifest, before: State, environ: Mapping[str, str]) -> set[str]:
    """Limits of the state that allow more than the manifest's and have no mark of the user's: who edits the state, or
    sends it along, must not make a run spend more."""
    if strange := sorted(before.limits.keys() - set(LIMITS)):
        raise JournalError(f"{path / STATE}: {strange[0]!r} is no limit; was it edited?")
    if given_here(manifest, before, environ):
        return set()
    begun, now = settings(path, manifest, {}), settings(path, manifest, before.limits)
    return {name for name in before.limits if (most := getattr(begun, name)) is not None and getattr(now, name) > most}


def _refuse_other_settings(path: Path, config: RunConfig, environ: Mapping[str, str]) -> None:
    """A variable that would have set something else in a new run must not be without effect in silence."""
    differences = []
    for name in set(RunConfig.model_fields) - {*LIMITS, *INPUT_PLACES, "run_dir", "out"}:
        if _variable(name) not in environ:
            continue
        try:
            wanted = getattr(RunConfig.model_validate(config.model_dump() | {name: environ[_variable(name)]}), name)
        except ValidationError:
            wanted = environ[_variable(name)]
        if wanted != getattr(config, name):
            differences.append(f"{_variable(name)} asks for {wanted!r}, and the run has {getattr(config, name)!r}")
    if differences:
        raise JournalError(
            f"{path}: a run goes on with the settings it began with: {'; '.join(sorted(differences))}. Unset the "
            "variable, or label anew with `icm-api run`"
        )


def _has_other_pins(job: Job) -> bool:
    """Whether the file that the run's pins came from says otherwise by now. One that is gone says nothing."""
    source = job.config.pin
    if source is None or not source.exists():
        return False
    ids = {example.id: i for i, example in enumerate(job.examples)}
    try:
        return load_answers(source, ids, job.label_names, cut_ids=job.dataset.cut_ids) != job.pins
    except DataError:
        return True


def _variable(name: str) -> str:
    return f"{ENV_PREFIX}{name.upper()}"


def _is_path(name: str, value: str) -> bool:
    suffixes = {"task": ".toml", "model": ".gguf"}
    return value not in ("-", IN_MEMORY) and (name not in suffixes or value.endswith(suffixes[name]))


def _placed(name: str, bases: Sequence[Path]) -> str:
    """A file's place now: where it was, or as far from the run folder as it was."""
    for base in bases:
        if (base / name).exists():
            return name if base == Path.cwd() else str(base / name)
    return name
