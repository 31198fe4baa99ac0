"""Rows -> examples, with every problem of the file found before anything is spent. Gold stays apart from the inputs."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from icm_api.data.gold import label_index, mirrored_rows
from icm_api.data.problems import raise_problems, shown
from icm_api.data.readers import HUB_PREFIX, Format, Row, Source, display_name, read_rows
from icm_api.errors import ConfigError, DataError
from icm_api.types import Example

DEFAULT_ID_COLUMN = "id"
_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of the file holds what. Only `id` has a default; nothing else is guessed."""

    id: str | None = None
    """None: the column "id" if the first row has one, else the ids are made from the line numbers: "row-<line>"."""
    group: str | None = None
    key: str | None = None
    gold: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    """Template field -> column, for fields whose column has another name."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """What was read. `gold` is kept apart from `examples`, so that no gold can reach a prompt or the search."""

    examples: tuple[Example, ...]
    gold: tuple[int | None, ...] | None
    """One label index per example, None where a row has none; None altogether when no gold column was named."""
    source: str
    cut_ids: frozenset[str] = frozenset()
    """Ids of the file that `limit` left out."""


def load_dataset(
    source: Source,
    *,
    columns: Columns,
    fields: Sequence[str],
    labels: Sequence[str],
    may_be_empty: Collection[str] = (),
    limit: int | None = None,
    format: Format | None = None,
) -> Dataset:
    """Read a data set (see `read_rows` for the sources).

    - Ids are strings or whole numbers, unique in the whole file. Where the caller names no id column and the first
      row has no column "id", they are the line numbers: "row-<line>".
    - Texts of `fields` are strings or numbers (as Python writes them), and not blank unless the field is in
      `may_be_empty`. They are kept as they are, control characters included; only NUL and lone surrogates are refused.
    - Group and key are strings or numbers; null or "" is none.
    - Gold is read by `label_index`; null or "" is no gold for that row.
    - `limit`: only the first rows become examples. The rest of a file is read for its ids (`cut_ids`); the rest of a
      data set of the hub is not, because that would download it.

    Raises `ConfigError` when the columns contradict each other, else `DataError` with every problem found (the first
    20 spelt out). A key column that merely spells gold is refused as a leak.
    """
    _check_columns(columns, fields)
    if limit is not None and limit < 1:
        raise ConfigError(f"the limit on rows must be at least 1, not {limit}")
    rows = read_rows(source, format=format)
    if isinstance(source, str) and source.startswith(HUB_PREFIX):
        rows = itertools.islice(rows, limit)
    loader = _Loader(display_name(source), columns, fields, labels, may_be_empty)
    loader.take(rows, limit)
    return loader.dataset()


def _check_columns(columns: Columns, fields: Sequence[str]) -> None:
    unknown = sorted(set(columns.fields) - set(fields))
    if unknown:
        raise ConfigError(f"the template has no field {unknown[0]!r}; it has: {', '.join(fields)}")
    roles = {"id": columns.id or DEFAULT_ID_COLUMN, "group": columns.group, "key": columns.key}
    roles |= {f"field {name!r}": columns.fields.get(name, name) for name in fields}
    for role, column in roles.items():
        if column is not None and column == columns.gold:
            raise ConfigError(f"column {column!r} is gold and {role} at once; deriving inputs from gold is refused")


class _Loader:
    """Takes rows one by one; keeps their examples, gold and problems."""

    def __init__(
        self,
        source: str,
        columns: Columns,
        fields: Sequence[str],
        labels: Sequence[str],
        may_be_empty: Collection[str],
    ) -> None:
        self.source, self.columns, self.labels, self.may_be_empty = source, columns, labels, may_be_empty
        self.column_of = {name: columns.fields.get(name, name) for name in fields}
        self.id_column = columns.id
        self.examples: list[Example] = []
        self.gold: list[int | None] = []
        self.line_of_id: dict[str, int] = {}
        self.problems: list[str] = []
        self.first_without: dict[str, Row] = {}
        self.rows_without: Counter[str] = Counter()

    def take(self, rows: Iterator[Row], limit: int | None) -> None:
        try:
            for number, row in enumerate(rows):
                if number == 0 and self.id_column is None and DEFAULT_ID_COLUMN in row.values:
                    self.id_column = DEFAULT_ID_COLUMN
                identity = self._id(row)
                if limit is None or number < limit:
                    self._keep(row, identity)
        except DataError as error:  # nothing can be read after it; tell what came before it too
            self.problems.extend(error.problems)

    def dataset(self) -> Dataset:
        raise_problems([*map(self._missing_column, self.first_without), *self.problems])
        self._refuse_leak()
        cut = self.line_of_id.keys() - {example.id for example in self.examples}
        gold = None if self.columns.gold is None else tuple(self.gold)
        return Dataset(tuple(self.examples), gold, self.source, frozenset(cut))

    def _keep(self, row: Row, identity: str) -> None:
        fields = {name: self._text(row, name, column) for name, column in self.column_of.items()}
        group, key = self._tag(row, self.columns.group), self._tag(row, self.columns.key)
        self.examples.append(Example(identity, fields, group, key, row.line))
        self.gold.append(self._gold(row))

    def _id(self, row: Row) -> str:
        if self.id_column is None:
            identity: str | None = f"row-{row.line}"
        else:
            identity = self._scalar(row, self.id_column, "a string or whole number", (str, int))
        if identity is None:
            return ""
        if not identity.strip():
            self._problem(row, f"column {self.id_column!r}: the id is empty")
        elif identity in self.line_of_id:
            self._problem(row, f"id {identity!r} stands already in line {self.line_of_id[identity]}")
        self.line_of_id.setdefault(identity, row.line)
        return identity

    def _text(self, row: Row, name: str, column: str) -> str:
        text = self._scalar(row, column, "a string or number", (str, int, float))
        if text is not None and not text.strip() and name not in self.may_be_empty:
            self._problem(row, f"column {column!r}: the text is empty")
        return text or ""

    def _tag(self, row: Row, column: str | None) -> str | None:
        """A group or key; null and "" are none."""
        if column is None or row.values.get(column, "") is None:
            return None
        return self._scalar(row, column, "a string or number", (str, int, float)) or None

    def _gold(self, row: Row) -> int | None:
        column = self.columns.gold
        if column is None or not self._has(row, column):
            return None
        value = row.values[column]
        if value is None or value == "":
            return None
        label = label_index(value, self.labels)
        if label is None:
            self._problem(row, f"column {column!r}: {shown(value)} is no label; labels: {', '.join(self.labels)}")
        return label

    def _scalar(self, row: Row, column: str, wanted: str, types: tuple[type, ...]) -> str | None:
        """The value as a string; None where it is not one, with the problem noted."""
        if not self._has(row, column):
            return None
        value = row.values[column]
        text = str(value)
        if isinstance(value, bool) or not isinstance(value, types):
            self._problem(row, f"column {column!r} must be {wanted}, not {shown(value)}")
        elif isinstance(value, float) and not math.isfinite(value):
            self._problem(row, f"column {column!r} must be {wanted}, not {value}")
        elif _UNWRITABLE.search(text):
            self._problem(row, f"column {column!r} holds a NUL character or a lone surrogate (half a character)")
        else:
            return text
        return None

    def _has(self, row: Row, column: str) -> bool:
        if column not in row.values:
            self.first_without.setdefault(column, row)
            self.rows_without[column] += 1
        return column in row.values

    def _problem(self, row: Row, message: str) -> None:
        self.problems.append(f"{self.source}:{row.line}: {message}")

    def _missing_column(self, column: str) -> str:
        row, more = self.first_without[column], self.rows_without[column] - 1
        others = f" (nor in {more} more row{'s' if more > 1 else ''})" if more else ""
        close = difflib.get_close_matches(column, row.values, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{self.source}:{row.line}: no column {column!r}{others}; columns: {', '.join(row.values)}{hint}"

    def _refuse_leak(self) -> None:
        taken = {
            f"key column {self.columns.key!r}": [example.key for example in self.examples],
            f"group column {self.columns.group!r}": [example.group for example in self.examples],
        }
        for column, values in taken.items():
            if rows := mirrored_rows(values, self.gold):
                raise DataError(
                    f"{self.source}: {column} copies gold column {self.columns.gold!r}: one value per label in all "
                    f"{rows} labelled rows. What is derived from it would leak the answers, so it is refused; take it "
                    "from the inputs"
                )
