"""Rows of a source, one at a time: JSONL, CSV, parquet, or a data set of the Hugging Face hub.

Every error is a `DataError` that names the source and the line, except for what the command line can fix (an unknown
format, a missing package), which is a `ConfigError`.
"""

from __future__ import annotations

import csv
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn, TypeAlias, get_args

from icm_api.errors import ConfigError, DataError

Format = Literal["jsonl", "csv", "parquet"]
Rows: TypeAlias = Sequence[Mapping[str, object]]
Source: TypeAlias = str | Path | Rows
"""A path, `-`, `hf:NAME[:SPLIT]`, or rows in memory."""

FORMATS_BY_EXTENSION: Mapping[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
HUB_PREFIX = "hf:"
STANDARD_INPUT = "-"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Row:
    """One record and where it stands."""

    line: int
    """Physical line where the record starts (1-based); the number of the row where the source has no lines."""
    values: Mapping[str, object]
    """Column -> value. Text formats hold JSON values (CSV: strings); parquet and the hub may hold others, as dates."""


def read_rows(source: Source, *, format: Format | None = None) -> Iterator[Row]:
    """Stream the rows of a source: a path, `-` (standard input, JSONL unless `format` says CSV), `hf:NAME[:SPLIT]`
    (split `train` unless named), or rows in memory, whose lines are their numbers.

    Without `format` the extension decides. Text is UTF-8, with or without a byte order mark; blank lines between
    records are skipped. Raises `ConfigError` for an unknown format or a missing package; `DataError` for a missing or
    empty file and for the first row that cannot be read.
    """
    if not isinstance(source, str | Path):
        return _at_least_one(itertools.starmap(Row, enumerate(source, start=1)), display_name(source))
    text = str(source)
    if text.startswith(HUB_PREFIX):
        return _at_least_one(_read_hub(text), text)
    chosen = format or _format_of(text)
    if chosen not in get_args(Format):
        raise ConfigError(f"unknown format {chosen!r}; known: {', '.join(get_args(Format))}")
    if chosen == "parquet":
        return _at_least_one(_read_parquet(text), text)
    return _at_least_one(_read_text(text, _parse_csv if chosen == "csv" else _parse_jsonl), display_name(text))


def display_name(source: Source) -> str:
    """The name of a source as messages show it."""
    if not isinstance(source, str | Path):
        return "<rows>"
    return "<standard input>" if str(source) == STANDARD_INPUT else str(source)


def _format_of(source: str) -> Format:
    if source == STANDARD_INPUT:
        return "jsonl"
    extension = Path(source).suffix.lower()
    if extension not in FORMATS_BY_EXTENSION:
        known = ", ".join(FORMATS_BY_EXTENSION)
        raise ConfigError(
            f"{source}: unknown file extension {extension!r}; known: {known}; "
            "or '-' (standard input), or 'hf:NAME[:SPLIT]'"
        )
    return FORMATS_BY_EXTENSION[extension]


def _at_least_one(rows: Iterator[Row], name: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise DataError(f"{name}: has no rows")


# --- text -------------------------------------------------------------------------------------------------


def _read_text(source: str, parse: Callable[[str, Iterator[str]], Iterator[Row]]) -> Iterator[Row]:
    with ExitStack() as stack:
        file: BinaryIO = sys.stdin.buffer if source == STANDARD_INPUT else stack.enter_context(_open(source))
        name = display_name(source)
        try:
            yield from parse(name, _decoded_lines(name, file))
        except OSError as error:
            raise DataError(f"{name}: cannot be read: {error.strerror}") from error


def _open(source: str) -> BinaryIO:
    try:
        return Path(source).open("rb")
    except FileNotFoundError:
        raise DataError(f"{source}: no such file") from None
    except OSError as error:
        raise DataError(f"{source}: cannot be opened: {error.strerror}") from error


def _decoded_lines(name: str, file: BinaryIO) -> Iterator[str]:
    for number, raw in enumerate(file, start=1):
        content = raw.removeprefix(_BYTE_ORDER_MARK) if number == 1 else raw
        if b"\0" in content:
            raise DataError(f"{name}:{number}: holds a NUL byte; is this a text file in UTF-8?")
        try:
            yield content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{name}:{number}: not valid UTF-8 (byte {error.start + 1} of the line); save the file as UTF-8"
            ) from None


def _parse_jsonl(name: str, lines: Iterator[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield Row(number, _parse_object(f"{name}:{number}", line))


def _parse_object(place: str, line: str) -> Mapping[str, object]:
    try:
        value = json.loads(line, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: broken JSON at column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a repeated key, NaN, or a number of thousands of digits
        raise DataError(f"{place}: broken JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{place}: broken JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise DataError(f"{place}: each line must be a JSON object, this one is {_json_name(value)}")
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {key!r} stands twice in one object")
        values[key] = value
    return values


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _json_name(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _parse_csv(name: str, lines: Iterator[str]) -> Iterator[Row]:
    header: list[str] | None = None
    for line, cells in _csv_records(name, lines):
        if header is None:
            header = _checked_header(f"{name}:{line}", cells)
            continue
        if len(cells) != len(header):
            raise DataError(f"{name}:{line}: has {len(cells)} cells, but the header has {len(header)} columns")
        yield Row(line, dict(zip(header, cells, strict=True)))


def _csv_records(name: str, lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """(physical line where it starts, cells) of each record; blank lines are skipped."""
    reader = csv.reader(lines, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{name}:{start}: broken CSV: {error}") from None
        if cells is None:
            return
        if cells:
            yield start, cells


def _checked_header(place: str, cells: list[str]) -> list[str]:
    repeated = sorted({cell for cell in cells if cells.count(cell) > 1})
    if repeated:
        raise DataError(f"{place}: the header names a column twice: {', '.join(map(repr, repeated))}")
    return cells


# --- columnar ---------------------------------------------------------------------------------------------


def _read_parquet(source: str) -> Iterator[Row]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{source}: parquet files need pyarrow: pip install 'icm-api[parquet]'") from None
    if source == STANDARD_INPUT:
        raise ConfigError("parquet cannot be read from standard input; name the file")
    with _open(source) as file:
        try:
            batches = pyarrow.parquet.ParquetFile(file).iter_batches()
            yield from _numbered(record for batch in batches for record in batch.to_pylist())
        except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # bad text, the year 0
            raise DataError(f"{source}: not a readable parquet file: {error}") from error


def _read_hub(source: str) -> Iterator[Row]:
    name, _, split = source.removeprefix(HUB_PREFIX).partition(":")
    if not name:
        raise ConfigError(f"{source!r}: write the name of the data set, as in 'hf:owner/name' or 'hf:owner/name:test'")
    try:
        import datasets
    except ImportError:
        raise ConfigError(f"{source}: data sets of the hub need 'datasets': pip install 'icm-api[hf]'") from None
    try:
        # trust_remote_code is never passed: a data set that needs code from its own repository is refused.
        yield from _numbered(datasets.load_dataset(name, split=split or "train", streaming=True))
    except (OSError, ValueError) as error:  # unknown name, unknown split, no network
        raise DataError(f"{source}: cannot be loaded: {error}") from error


def _numbered(records: Iterable[Mapping[str, object]]) -> Iterator[Row]:
    for number, record in enumerate(records, start=1):
        yield Row(number, dict(record))
