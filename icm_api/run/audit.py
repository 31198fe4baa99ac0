"""A person's answers about a run's labels: which examples to show, the sheet to fill in, and what the answers tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from icm_api.core.audit import Audit, audit, choose
from icm_api.data.answers import load_answers, write_answers
from icm_api.data.exports import csv_text
from icm_api.data.writers import write_json, write_text
from icm_api.errors import ConfigError, DataError
from icm_api.run.job import Job
from icm_api.run.load import LoadedRun

RESULT, ANSWERS = "audit.json", "answers.jsonl"
_NAMED_FIELD = re.compile(r"(?:\w+: )?\{(\w+)\}")
"""Of a template: a field with its name before it, and nothing that a person must read besides."""


def shown_text(job: Job, i: int) -> str:
    """An example as a person reads it: its own text, or what the prompt says of it, without the words at the end that
    only lead to the label."""
    template, example = job.task.template.text, job.examples[i]
    lead = template.rpartition("\n")[2].rpartition("}")[2]
    body = template.removesuffix(lead).rstrip()
    if named := _NAMED_FIELD.fullmatch(body):
        return example.fields[named[1]]
    return job.task.text(example).removesuffix(lead.rstrip()).rstrip()


def examples_to_ask(loaded: LoadedRun, n: int, *, seed: int) -> list[int]:
    """Examples for a person to judge (`icm_api.core.audit.choose`), of those that the run found a label for and no
    earlier audit has an answer about; none when all are answered. Raises DataError when the run found no label."""
    confidences = _confidences(loaded)
    if all(confidence is None for confidence in confidences):
        raise DataError(f"{loaded.path}: the run has labelled no example, so there is nothing to ask about")
    return choose(confidences, n, seed=seed, answered=kept_answers(loaded).keys())


def write_sheet(path: Path, loaded: LoadedRun, asked: Sequence[int]) -> None:
    """A CSV with an empty column `label` to fill in. What the model said is not in it, so that it sways nobody; no text
    can run as a formula. Raises ConfigError rather than replace a file, which may hold answers."""
    if path.exists():
        raise ConfigError(f"--csv: {path} exists, and may hold answers; name another file")
    choices = " | ".join(loaded.job.label_names)
    rows = [
        {"id": loaded.job.examples[i].id, "label": "", "text": shown_text(loaded.job, i), "labels": choices}
        for i in asked
    ]
    text, _ = csv_text(rows)
    write_text(path, text)


def read_sheet(path: Path, loaded: LoadedRun) -> dict[int, int]:
    """The answers of a sheet that was filled in: example -> label."""
    ids = {example.id: i for i, example in enumerate(loaded.job.examples)}
    return load_answers(path, ids, loaded.job.label_names)


def kept_answers(loaded: LoadedRun) -> dict[int, int]:
    """Those of earlier audits of the run: example -> label."""
    path = loaded.path / ANSWERS
    return read_sheet(path, loaded) if path.exists() else {}


def judge(loaded: LoadedRun, answers: Mapping[int, int], *, aim: float) -> Audit:
    """What the answers tell, together with those of earlier audits about other examples; kept in the run's folder with
    the answers themselves, which `--pin` takes.

    Raises DataError when no labelled example was answered.
    """
    answers = {**kept_answers(loaded), **answers}
    try:
        found = audit(loaded.labels, _confidences(loaded), answers, n_labels=len(loaded.job.label_names), aim=aim)
    except ValueError:
        raise DataError("no example that the run labelled was answered, so nothing can be told") from None
    write_json(loaded.path / RESULT, as_json(loaded, found))
    ids = [example.id for example in loaded.job.examples]
    write_answers(loaded.path / ANSWERS, dict(sorted(answers.items())), ids, loaded.job.label_names)
    return found


def as_json(loaded: LoadedRun, found: Audit) -> dict[str, Any]:
    return {"run": loaded.manifest.run_id, **asdict(found)}


def _confidences(loaded: LoadedRun) -> list[float | None]:
    """Of the labels that the run found; None where an example has none, or has it from a person."""
    return [None if row.label is None or row.pinned else row.confidence for row in loaded.rows]
