"""The labels of a run as files for other programs: chosen, split without leakage, and with where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from icm_api.config import GOLD_METHOD
from icm_api.core.relations import broken
from icm_api.data.card import MARK, CardFacts, card_text
from icm_api.data.exports import (
    FORMATS,
    Exported,
    Labelled,
    Record,
    Shape,
    check_shape,
    csv_text,
    distinct,
    export,
    label_studio_config,
)
from icm_api.data.split import families, validation_part
from icm_api.data.tables import write_parquet
from icm_api.data.writers import write_json, write_jsonl, write_text
from icm_api.errors import ConfigError, DataError
from icm_api.run.job import Job
from icm_api.run.journal import FILES
from icm_api.run.load import LoadedRun
from icm_api.run.outcome import LabelRow
from icm_api.tasks.base import Task
from icm_api.types import Json, Prompt

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to write, and which examples. Everything that is not asked for stays in."""

    format: str
    """A name in `icm_api.data.exports.FORMATS`."""
    out: Path
    min_confidence: float | None = None
    """Leave out labels below it, 0..1; never one that a person gave, as it is the model's probability."""
    without_tension: bool = False
    """Leave out examples that rules tie to one whose label a rule forced, or to a rule that is broken."""
    validation: float | None = None
    """Share of the examples that goes into a file of its own, with all that belongs to them."""
    seed: int = 0
    """Of that split."""
    with_gold: bool = False
    """Add a column `icm_gold` to those that say where a label comes from."""
    card: bool = False
    """Write a dataset card beside the file."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written."""

    format: str
    files: tuple[str, ...]
    records: Mapping[str, int]
    """By split: `train`, and `validation` where one was asked for."""
    examples: int
    """That the records come from."""
    left_out: Mapping[str, int]
    """Examples by reason; with `examples` they are all examples of the run."""
    made_safe: int
    """Cells of a CSV file that a spreadsheet would have run as formulas."""
    notices: tuple[str, ...]
    """What the user should know."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def export_run(run: LoadedRun, options: ExportOptions) -> ExportReport:
    """Write the files. Raises ConfigError for options that don't fit the run (nothing is written then), and DataError
    when no example is left, or none can be set apart for validation."""
    shape = shape_of(run.job.task)
    check_shape(options.format, shape)
    _check_options(run, options)
    chosen, left_out = _chosen(run, options)
    items, more = distinct(options.format, shape, [_labelled(run, i, shape, options) for i in chosen])
    left_out |= more
    if not items:
        raise DataError(f"{run.path}: nothing is left to export; left out: {_counted(left_out)}")
    parts = {name: export(options.format, shape, part) for name, part in _parts(run, items, options).items()}
    places = {name: _place(options.out, name) for name in parts}
    written = [*places.values(), *(_beside(places[name]) for name in parts if parts[name].provenance)]
    _check_places(run, options, written)
    _refuse_left_behind(options.out, written)
    made_safe = sum(_write(places[name], options.format, part) for name, part in parts.items())
    beside = [_beside(places[name]) for name, part in parts.items() if _write_provenance(places[name], part)]
    notices = tuple(_notices(run, options, shape))
    records = {name: len(part.records) for name, part in parts.items()}
    files = [*places.values(), *beside]
    if options.card:
        files.append(options.out.with_name(CARD))
        pinned = sum(item.provenance["icm_pinned"] is True for item in items)
        write_text(files[-1], card_text(_facts(run, options, places, records, left_out, notices, pinned)))
    return ExportReport(options.format, tuple(map(str, files)), records, len(items), left_out, made_safe, notices)


def shape_of(task: Task) -> Shape:
    return Shape(task.name, task.fields, task.label_names, task.group_from)


# --- which examples -----------------------------------------------------------------------------------------------


def _chosen(run: LoadedRun, options: ExportOptions) -> tuple[list[int], dict[str, int]]:
    """Indices of the examples that stay, and how many do not, by the first reason against each."""
    strained = set(chain.from_iterable(tensions(run.job, run.rows, run.labels)) if options.without_tension else ())
    chosen, left_out = [], {"not labelled": 0, "confidence too low": 0, "tension with a rule": 0}
    for i, row in enumerate(run.rows):
        if row.label is None or row.confidence is None:
            left_out["not labelled"] += 1
        elif _unsure(row, options.min_confidence):
            left_out["confidence too low"] += 1
        elif i in strained:
            left_out["tension with a rule"] += 1
        else:
            chosen.append(i)
    return chosen, {reason: n for reason, n in left_out.items() if n}


def _unsure(row: LabelRow, least: float | None) -> bool:
    return least is not None and not row.pinned and row.confidence is not None and row.confidence < least


def tensions(job: Job, rows: Sequence[LabelRow], labels: Sequence[int | None]) -> list[tuple[int, ...]]:
    """Components in which the model and the rules disagree: a label was forced, or a rule is broken. Ascending."""
    relations = job.problem.relations
    strained = {i for i, row in enumerate(rows) if row.forced_by is not None}
    strained |= {member for k in broken(relations, labels) for member in relations[k].members}
    found: list[tuple[int, ...]] = []
    known: set[int] = set()
    for i in sorted(strained):
        if i not in known:
            found.append(job.problem.consistency.component(i))
            known.update(found[-1])
    return found


def _labelled(run: LoadedRun, i: int, shape: Shape, options: ExportOptions) -> Labelled:
    task, example, row, label = run.job.task, run.job.examples[i], run.rows[i], run.labels[i]
    assert label is not None
    assert row.confidence is not None
    exchange = None
    if shape.question_field is not None and shape.answer_field is not None:
        exchange = (example.fields[shape.question_field], example.fields[shape.answer_field])
    return Labelled(
        id=example.id,
        fields=example.fields,
        prompt=Prompt(run.job.texts[i], preamble=task.preamble).text,
        label=task.label_names[label],
        label_text=task.labels[label].text,
        holds=label == task.positive,
        confidence=row.confidence,
        exchange=exchange,
        provenance=_provenance(run, i, options),
    )


def _provenance(run: LoadedRun, i: int, options: ExportOptions) -> Record:
    row = run.rows[i]
    columns: dict[str, Json] = {
        "id": row.id,
        "icm_confidence": row.confidence,
        "icm_score_kind": row.kind,
        "icm_pinned": row.pinned,
        "icm_run": run.manifest.run_id,
        "icm_method": run.job.config.method,
        "icm_model": model_of(run),
        "icm_version": run.manifest.version,
    }
    if options.with_gold and run.job.dataset.gold is not None:
        gold = run.job.dataset.gold[i]
        columns["icm_gold"] = None if gold is None else run.job.label_names[gold]
    return columns


def model_of(run: LoadedRun) -> str:
    """The model as the host named it, else as it was asked for."""
    named = run.summary["model"] if run.summary else run.manifest.provider.get("model")
    return str(named or run.job.config.model or run.job.config.provider)


# --- two parts ----------------------------------------------------------------------------------------------------


def _parts(run: LoadedRun, items: Sequence[Labelled], options: ExportOptions) -> dict[str, list[Labelled]]:
    if options.validation is None:
        return {"train": list(items)}
    examples = run.job.examples
    family_of = dict(zip((e.id for e in examples), families(len(examples), _ties(run.job)), strict=True))
    held = validation_part([family_of[item.id] for item in items], options.validation, options.seed)
    return {
        "train": [item for item, apart in zip(items, held, strict=True) if not apart],
        "validation": [item for item, apart in zip(items, held, strict=True) if apart],
    }


def _ties(job: Job) -> Iterator[Sequence[int]]:
    """What must not be on both sides: siblings, examples that a rule ties together, and equal texts."""
    yield from (relation.members for relation in job.problem.relations)
    yield from _equal(example.group for example in job.examples)
    yield from _equal(job.texts)


def _equal(values: Iterable[str | None]) -> Iterator[Sequence[int]]:
    places: dict[str, list[int]] = {}
    for i, value in enumerate(values):
        if value is not None:
            places.setdefault(value, []).append(i)
    yield from places.values()


# --- files --------------------------------------------------------------------------------------------------------


def _place(out: Path, part: str) -> Path:
    return out if part == "train" else out.with_name(f"{out.stem}.{part}{out.suffix}")


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}.provenance.jsonl")


def _write(path: Path, format: str, part: Exported) -> int:
    """How many cells were made safe."""
    match FORMATS[format].suffix:
        case ".csv":
            text, made_safe = csv_text(part.records)
            write_text(path, text)
            return made_safe
        case ".parquet":
            write_parquet(path, part.records)
        case ".json":
            write_json(path, [dict(record) for record in part.records])
        case ".jsonl":
            write_jsonl(path, part.records)
    return 0


def _write_provenance(path: Path, part: Exported) -> bool:
    """Beside the file, line by line, for formats that have no place for it."""
    if part.provenance:
        write_jsonl(_beside(path), part.provenance)
    return bool(part.provenance)


def _check_options(run: LoadedRun, options: ExportOptions) -> None:
    suffix = FORMATS[options.format].suffix
    if options.out.suffix != suffix:
        raise ConfigError(f"--out: a file of format {options.format} ends in {suffix}, not {options.out.name!r}")
    if options.min_confidence is not None and not 0 <= options.min_confidence <= 1:
        raise ConfigError(f"--min-confidence: {options.min_confidence:g} is no share between 0 and 1")
    if options.validation is not None and not 0 < options.validation < 1:
        raise ConfigError(f"--validation: {options.validation:g} is no share between 0 and 1")
    if options.with_gold and run.job.dataset.gold is None:
        raise ConfigError("--with-gold: the run has no gold column")


def _check_places(run: LoadedRun, options: ExportOptions, places: Sequence[Path]) -> None:
    """What the run reads or keeps, and what is not ours, must not be written over."""
    config = run.job.config
    read = (config.data, config.relations, config.pin, config.task, config.model, config.out)
    inputs = [Path(name) for name in read if name]
    taken = {path.resolve() for path in (*inputs, *(run.path / name for name in FILES))}
    for path in places:
        if path.resolve() in taken:
            raise ConfigError(f"--out: {path} is a file of the run or of its data; name another")
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ConfigError(f"--out: {path} exists and is no ordinary file; name a file")
    card = options.out.with_name(CARD)
    if options.card and card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace"):
        raise ConfigError(f"--card: {card} is there and is no card of this program; export into another folder")


def _refuse_left_behind(out: Path, written: Sequence[Path]) -> None:
    """Files of another export of this name, which this one does not replace, would be taken for parts of it: training
    data that stand in an older validation file too, or the sources of other records. Nothing tells that they are ours,
    so they are not removed."""
    parts = [_place(out, part) for part in ("train", "validation")]
    left = [path for path in (*parts, *map(_beside, parts)) if path not in written and os.path.lexists(path)]
    if left:
        raise ConfigError(
            f"--out: {' and '.join(map(str, left))} would be taken for part of this export, and this one writes none: "
            "remove what an earlier export left, or name another file"
        )


# --- words --------------------------------------------------------------------------------------------------------


def _notices(run: LoadedRun, options: ExportOptions, shape: Shape) -> Iterator[str]:
    if run.status != "finished":
        yield f"the run is not finished ({run.status}): these are its labels so far"
    if run.job.config.method == GOLD_METHOD:
        yield "these labels were made with gold labels: they are a ceiling to compare with, not labels without people"
    if options.format == "label-studio":
        yield f"labelling interface for Label Studio: {label_studio_config(shape)}"
    if run.summary:
        yield from run.summary["warnings"]


def _facts(
    run: LoadedRun,
    options: ExportOptions,
    places: Mapping[str, Path],
    records: Mapping[str, int],
    left_out: Mapping[str, int],
    notices: Sequence[str],
    pinned: int,
) -> CardFacts:
    return CardFacts(
        title=f"{run.job.task.name} labels of {Path(run.job.dataset.source).name}",
        splits={name: path.name for name, path in places.items()},
        records=records,
        facts=dict(_about(run, options)),
        left_out=left_out,
        warnings=[notice for notice in notices if not notice.startswith("labelling interface")],
        notes=_how_to_read(options, shape_of(run.job.task)),
        pinned=pinned,
        given=_given(run),
    )


def _given(run: LoadedRun) -> str:
    if run.job.config.method == GOLD_METHOD:
        return "with gold labels"
    pinned = sum(row.pinned for row in run.rows)
    return f"with {pinned} labels that a person gave" if pinned else "without human labels"


def _about(run: LoadedRun, options: ExportOptions) -> Iterator[tuple[str, str]]:
    config, summary = run.job.config, run.summary
    yield "format", f"{options.format}: {FORMATS[options.format].about}"
    yield "labels", ", ".join(run.job.label_names)
    yield "method", f"{config.method}, seed {config.seed}"
    yield "model", f"{model_of(run)} at {config.provider}"
    yield "run", f"{run.manifest.run_id}, begun {run.manifest.begun}, icm-api {run.manifest.version}, {run.status}"
    yield "filters", _filters(run, options)
    if summary is None:
        yield "accuracy", "not known: the run was cut short before it wrote a summary"
        return
    yield "utility", f"{summary['utility']:.2f} (higher is more coherent; not a measure of truth)"
    if "verdict" in summary:
        yield "verdict", str(summary["verdict"])
    yield "accuracy", _accuracy(summary)


def _accuracy(summary: Mapping[str, Any]) -> str:
    """Of the whole run: the filters chose among its labels afterwards."""
    if summary["accuracy"] is None:
        return "not known: no gold labels were given"
    low, high = summary["accuracy_low"], summary["accuracy_high"]
    return (
        f"{summary['accuracy']:.3f} ({low:.3f} to {high:.3f}, 95 %) against {summary['accuracy_n']} gold labels, over "
        "all labels that the run found"
    )


def _filters(run: LoadedRun, options: ExportOptions) -> str:
    chosen = []
    if options.min_confidence is not None:
        pinned = " or given by a person" if any(row.pinned for row in run.rows) else ""
        chosen.append(f"confidence at least {options.min_confidence:g}{pinned}")
    if options.without_tension:
        chosen.append("no tension with a rule")
    if options.validation is not None:
        chosen.append(f"{options.validation:g} set apart for validation by groups (seed {options.seed})")
    return "; ".join(chosen) or "none"


def _how_to_read(options: ExportOptions, shape: Shape) -> list[str]:
    match FORMATS[options.format].provenance:
        case "columns":
            notes = ["Columns that begin with `icm_` say where a label comes from; the others are the data."]
        case "inside":
            notes = ["The `data` of each task says where its label comes from."]
        case "beside":
            notes = ["The files `*.provenance.jsonl` say where each record comes from, line by line."]
    if options.format == "csv":
        notes.append("A text that a spreadsheet would run as a formula has an apostrophe before it.")
    if options.format == "label-studio":
        notes.append(f"Labelling interface:\n\n```xml\n{label_studio_config(shape)}\n```")
    if options.with_gold:
        notes.append("`icm_gold` is the gold label of the data, for comparison. Do not train on it.")
    return notes


def _counted(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {reason}" for reason, n in left_out.items()) or "nothing"
