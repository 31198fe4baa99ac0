"""What a run labels, as digests: enough to tell that it has changed, and where."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

from icm_api.client.codec import canonical_json
from icm_api.data.writers import write_jsonl
from icm_api.errors import JournalError
from icm_api.run.job import Job
from icm_api.types import Json, Relation

SHOWN = 5
"""Differences that are spelt out."""
DIGITS = 16
Row = Mapping[str, Json]


def input_rows(job: Job) -> Iterator[Row]:
    """A row for the task, one for each example with digests of its data and its prompt, one for each relation."""
    labels: list[Json] = [label.text for label in job.task.labels]
    yield {"task": job.task.name, "labels": labels, "preamble": job.task.preamble}
    gold = job.dataset.gold or (None,) * len(job.examples)
    for example, text, label in zip(job.examples, job.texts, gold, strict=True):
        data = [dict(example.fields), example.group, example.key, label]
        yield {"example": example.id, "data": _digest(data), "prompt": _digest(text)}
    for relation in job.problem.relations:
        yield {"relation": _name(relation, job), "rule": _digest([relation.members, relation.positive, relation.price])}


def hashes(job: Job) -> dict[str, str]:
    """SHA-256 of data, prompts and relations."""
    sums = {"data": sha256(), "prompts": sha256(), "relations": sha256()}
    for row in input_rows(job):
        if "example" in row:
            sums["data"].update(f"{row['example']}\0{row['data']}\n".encode())
            sums["prompts"].update(f"{row['prompt']}\n".encode())
        else:
            sums["relations" if "relation" in row else "prompts"].update(canonical_json(row).encode())
    return {name: value.hexdigest() for name, value in sums.items()}


def write_inputs(path: Path, job: Job) -> None:
    write_jsonl(path, input_rows(job))


def refuse_changed(path: Path, known: Mapping[str, str], job: Job) -> None:
    """Raise JournalError, with the first differences, unless the job is about what the run began with.

    `path`: the file of `write_inputs`; `known`: the run's `hashes`.
    """
    changed = [name for name, value in hashes(job).items() if value != known.get(name)]
    if not changed:
        return
    found = list(_differences(_read(path), list(input_rows(job)), job))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise JournalError(
        f"{path.parent}: {' and '.join(changed)} changed since the run began: {'; '.join(found[:SHOWN])}{more}. "
        f"Put back what was there ({job.dataset.source}), or label anew with `icm-api run`"
    )


def _differences(old: Sequence[Row], new: Sequence[Row], job: Job) -> Iterator[str]:
    """In words, as far as anybody will read them."""
    before, after = _by_name(old), _by_name(new)
    lines = {example.id: example.line for example in job.examples}
    for key, row in after.items():
        kind, name = key
        if key not in before:
            yield f"{kind} {name!r} is new" + _place(kind, name, lines, job)
        elif before[key] != row:
            yield _change(kind, name, before[key], row) + _place(kind, name, lines, job)
    yield from (f"{kind} {name!r} is gone" for kind, name in before if (kind, name) not in after)
    if before == after:
        yield "the rows are in another order"


def _change(kind: str, name: str, was: Row, now: Row) -> str:
    if kind == "task":
        return ", ".join(
            f"{field} of the task: {was[field]!r} -> {now[field]!r}" for field in now if was[field] != now[field]
        )
    if kind == "example" and was["data"] == now["data"]:
        return f"the prompt of example {name!r} is another"
    return f"{kind} {name!r} is another"


def _place(kind: str, name: str, lines: Mapping[str, int], job: Job) -> str:
    return f" ({job.dataset.source}:{lines[name]})" if kind == "example" else ""


def _by_name(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    kinds = ("task", "example", "relation")
    named: dict[tuple[str, str], Row] = {}
    for row in rows:
        kind = next(kind for kind in kinds if kind in row)
        named[kind, "" if kind == "task" else str(row[kind])] = row
    return named


def _read(path: Path) -> list[Row]:
    try:
        with path.open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]
    except (OSError, ValueError, RecursionError) as error:
        raise JournalError(f"{path}: cannot be read ({error}), and data, task or relations have changed") from error


def _name(relation: Relation, job: Job) -> str:
    ids = ", ".join(job.examples[member].id for member in islice(relation.members, 20))
    return f"{relation.kind}({ids}{', ...' if len(relation.members) > 20 else ''})"


def _digest(value: Any) -> str:
    return sha256(canonical_json(value).encode("ascii")).hexdigest()[:DIGITS]
