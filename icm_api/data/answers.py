"""Labels that a person gave: rows of an id and a label, as `icm-api audit` writes and reads them and `--pin` takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from icm_api.data.exports import FORMULA_STARTS
from icm_api.data.gold import label_index
from icm_api.data.problems import raise_problems, shown
from icm_api.data.readers import Row, Source, display_name, read_rows
from icm_api.data.writers import write_jsonl
from icm_api.errors import DataError


def load_answers(
    source: Source, ids: Mapping[str, int], labels: Sequence[str], *, cut_ids: Set[str] = frozenset()
) -> dict[int, int]:
    """Example index -> label index, from a CSV or JSONL file with the columns "id" and "label"; others are passed over.

    A blank label is no answer. Labels are read as gold is (`label_index`). Rows about `cut_ids` are left out. An
    apostrophe that keeps a spreadsheet from running an id as a formula is taken off. Raises one DataError with all
    problems.
    """
    name = display_name(source)
    answers: dict[int, int] = {}
    problems: list[str] = []
    try:
        for row in read_rows(source):
            identity = _identity(row.values.get("id"), ids)
            found = list(_problems(row, identity, ids, labels, answers, cut_ids))
            problems += [f"{name}:{row.line}: {problem}" for problem in found]
            label = label_index(row.values.get("label"), labels)
            if not found and label is not None and identity in ids:
                answers[ids[identity]] = label
    except DataError as error:  # nothing can be read after it
        problems += error.problems
    raise_problems(problems)
    return answers


def write_answers(path: Path, answers: Mapping[int, int], ids: Sequence[str], labels: Sequence[str]) -> None:
    """As `load_answers` reads them, in their order. Raises as `write_jsonl`."""
    write_jsonl(path, ({"id": ids[i], "label": labels[label]} for i, label in answers.items()))


def _identity(value: object, ids: Mapping[str, int]) -> str:
    text = "" if value is None or isinstance(value, bool) else str(value)
    guarded = text.startswith("'") and text[1:].startswith(FORMULA_STARTS)
    return text[1:] if guarded and text not in ids else text


def _problems(
    row: Row, identity: str, ids: Mapping[str, int], labels: Sequence[str], answers: Mapping[int, int], cut: Set[str]
) -> Iterator[str]:
    missing = [column for column in ("id", "label") if column not in row.values]
    if missing:
        yield f"no column {' nor '.join(map(repr, missing))}; columns: {', '.join(row.values)}"
        return
    value = row.values["label"]
    if identity not in ids and identity not in cut:
        yield f"unknown id {shown(row.values['id'])}"
    elif identity in ids and ids[identity] in answers:
        yield f"id {identity!r} has a label already"
    if value not in (None, "") and label_index(value, labels) is None:
        yield f"unknown label {shown(value)}; labels: {', '.join(labels)}"
