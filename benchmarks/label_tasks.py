"""Data sets with known labels, and draws from them that `icm_api.label` takes as they are.

Four small sets lie in `benchmarks/data`. The others are public ones, which are not part of the project: they are looked
for in the folder that the environment variable BENCHMARK_DATA names, `benchmarks/data/public` by default, in the files
and columns named below.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from icm_api.data.gold import label_index

Row: TypeAlias = dict[str, Any]
Share: TypeAlias = float | tuple[float, ...]
Unit = Literal["row", "pair", "group"]
Size: TypeAlias = tuple[int, int]
"""Rows of the first and of the last label."""
Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]

OWN = Path(__file__).parent / "data"
PUBLIC = Path(os.environ.get("BENCHMARK_DATA", OWN / "public"))

GOLD = "label"
FALSE_TRUE = ("False", "True")
LONGEST_TEXT = 400
"""Characters. A prompt holds up to hundreds of texts, so a few long ones would set the price of a run."""
SOUND_FOR_SUBSETS = frozenset({"at_most_one", "equivalent"})
"""Kinds of relations that still hold for the members that were drawn."""


@dataclass(frozen=True, slots=True)
class LabelTask:
    """A data set and how it is asked about."""

    name: str
    labels: tuple[str, ...]
    """Where the file's gold is a boolean: the first is false, the last is true."""
    file: Path
    task: str = "classify"
    """Built-in task, or path of a task file. Only `classify` is told the labels; the others have their own."""
    text: tuple[str, ...] = ("text",)
    """Columns that the prompt shows."""
    unit: Unit = "row"
    """What a draw takes whole: rows, the two orders of a pair, or all rows of a group."""
    key_column: str | None = None
    relations: Path | None = None
    """Relations of the file that follow from the inputs. Those cut with an answer key are not used."""
    longest_text: int | None = None
    """In characters; rows with a longer one are left out."""
    truth: bool = True
    """False: nobody can say which labels are right, so there is no gold and any trust in labels is misplaced."""
    scrambled: bool = False
    """Negative control: the characters of each text in random order, so that nothing can be read."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is kept of the file's rows. Nothing else is, for some columns give gold away."""
        group = ("group",) if self.unit != "row" else ()
        key = (self.key_column,) if self.key_column else ()
        gold = (GOLD,) if self.truth else ()
        return ("id", *self.text, *group, *key, *gold)


_TASKS = (
    LabelTask("animal-object", ("animal", "object"), OWN / "animal_object.jsonl"),
    LabelTask("topic", ("sport", "food", "science", "travel"), OWN / "topic.jsonl"),
    LabelTask("language", ("English", "French"), OWN / "language.jsonl"),
    LabelTask("messages", ("normal", "spam"), OWN / "messages.jsonl"),
    LabelTask(
        "movie-reviews",
        ("negative", "positive"),
        PUBLIC / "sentiment/mr_rotten_tomatoes.jsonl",
        longest_text=LONGEST_TEXT,
    ),
    LabelTask(
        "customer-reviews",
        ("negative", "positive"),
        PUBLIC / "sentiment/customer_reviews.jsonl",
        longest_text=LONGEST_TEXT,
    ),
    LabelTask("sms-spam", ("normal", "spam"), PUBLIC / "spam/sms_spam_balanced.jsonl", longest_text=LONGEST_TEXT),
    LabelTask("first-names", ("female", "male"), PUBLIC / "names/first_names.jsonl"),
    LabelTask(
        "capitals",
        FALSE_TRUE,
        PUBLIC / "facts/capitals.jsonl",
        task="claims",
        text=("claim",),
        unit="group",
        relations=PUBLIC / "facts/capitals_relations.jsonl",
    ),
    LabelTask(
        "pandalm",
        FALSE_TRUE,
        PUBLIC / "preference/pandalm_binary_swapped.jsonl",
        task="preference",
        text=("prompt", "response_a", "response_b"),
        unit="pair",
    ),
    # Its relations were cut with the answer key, so it runs without any.
    LabelTask(
        "truthfulqa",
        FALSE_TRUE,
        PUBLIC / "truthfulqa/claims.jsonl",
        task="truthfulqa",
        text=("question", "claim"),
        unit="group",
    ),
    LabelTask(
        "gsm8k",
        FALSE_TRUE,
        PUBLIC / "gsm8k_verification/openai_model_solutions.jsonl",
        task="gsm8k",
        text=("question", "solution"),
        unit="group",
        key_column="key",
    ),
    # Negative control: a small model cannot add three-digit numbers.
    LabelTask(
        "arithmetic",
        FALSE_TRUE,
        PUBLIC / "facts/arithmetic_generated.jsonl",
        task="claims",
        text=("claim",),
        unit="group",
        relations=PUBLIC / "facts/arithmetic_generated_relations.jsonl",
    ),
    # The paper's failure case, a private taste: a poem is good when it mentions the sun. No model holds that concept.
    LabelTask("poems-sun", ("bad", "good"), PUBLIC / "poems/mentions_sun.jsonl", longest_text=600),
    LabelTask(
        "scrambled-reviews",
        ("negative", "positive"),
        PUBLIC / "sentiment/customer_reviews.jsonl",
        longest_text=LONGEST_TEXT,
        scrambled=True,
    ),
    LabelTask(
        "political",
        FALSE_TRUE,
        PUBLIC / "controls/political_normative_no_truth.jsonl",
        task="truthfulqa",
        text=("question", "claim"),
        unit="group",
        longest_text=LONGEST_TEXT,
        truth=False,
    ),
)
TASKS: Mapping[str, LabelTask] = {task.name: task for task in _TASKS}


def available(task: LabelTask) -> str | None:
    """Why the task cannot be drawn from here, or None where it can."""
    missing = [file for file in (task.file, task.relations) if file is not None and not file.is_file()]
    if not missing:
        return None
    return f"{task.name}: {missing[0].name} is not there (it belongs in {missing[0].parent.resolve()})"


def draw(task: LabelTask, n: int, share: Share, seed: int) -> list[Row]:
    """`n` rows in random order, for `icm_api.label(rows, **settings(task, rows))`; the same for the same arguments.

    `share`: that of the last label of two, or one share per label, which sum to 1. Every label gets its share of `n` to
    the nearest row. Raises ValueError where that would leave a label without rows, and where the file, its groups or
    pairs taken whole, has no such rows. Of a task without truth any rows are drawn.
    """
    counts = label_counts(task, n, share)
    rng = np.random.default_rng(seed)
    rows = _read(task)
    if not task.truth:
        return [rows[i] for i in rng.choice(len(rows), n, replace=False)]
    drawn = _draw_rows(task, rows, counts, rng) if task.unit == "row" else _draw_units(task, rows, counts, rng)
    return [drawn[i] for i in rng.permutation(n)]


def settings(task: LabelTask, rows: Sequence[Row]) -> dict[str, Any]:
    """All that `icm_api.label` must know of drawn rows beside how to search: fields of RunConfig, relations as rows."""
    found: dict[str, Any] = {"task": task.task} | ({"gold_column": GOLD} if task.truth else {})
    if task.task == "classify":
        found["labels"] = task.labels
    if task.unit != "row":
        found["group_column"] = "group"
    if task.key_column is not None:
        found["key_column"] = task.key_column
    if relations := _relations(task, {row["id"] for row in rows}):
        found["relations"] = relations
    return found


def label_counts(task: LabelTask, n: int, share: Share) -> tuple[int, ...]:
    """How many rows of each label a draw has: its share of `n`, what is left over going to the largest remainders."""
    shares = np.array(share if isinstance(share, tuple) else (1 - share, share))
    if len(shares) != len(task.labels) or not np.isclose(shares.sum(), 1.0):
        raise ValueError(f"{task.name}: give one share per label ({', '.join(task.labels)}), sum 1, not {share}")
    exact = np.round(n * shares, 9)  # 0.1 * 30 is not 3 in floating point
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    if counts.min() < 1:
        raise ValueError(f"{task.name}: {n} rows with shares {share} leave a label without rows")
    return tuple(counts.tolist())


# --- reading ----------------------------------------------------------------------------------------------


def _read(task: LabelTask) -> list[Row]:
    rows = [{name: row[name] for name in task.columns} for row in _jsonl(task.file)]
    for row in rows:
        if task.truth:
            row[GOLD] = _label(task, row)
        if task.scrambled:
            row |= {column: _scrambled(row[column]) for column in task.text}
    limit = task.longest_text
    return [row for row in rows if limit is None or all(len(row[column]) <= limit for column in task.text)]


def _scrambled(text: str) -> str:
    """The same for the same text."""
    order = np.random.default_rng(zlib.crc32(text.encode())).permutation(len(text))
    return " ".join("".join(text[i] for i in order).split())


def _jsonl(file: Path) -> list[Row]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _label(task: LabelTask, row: Row) -> str:
    index = label_index(row[GOLD], task.labels)
    if index is None:
        raise ValueError(f"{task.file.name}: row {row['id']}: {row[GOLD]!r} is none of {', '.join(task.labels)}")
    return task.labels[index]


def _relations(task: LabelTask, ids: set[str]) -> list[Row]:
    """The relations that still hold among the drawn ids."""
    if task.relations is None:
        return []
    left = [(row, [name for name in row["ids"] if name in ids]) for row in _jsonl(task.relations)]
    return [
        row | {"ids": names}
        for row, names in left
        if len(names) == len(row["ids"]) or (row["kind"] in SOUND_FOR_SUBSETS and len(names) >= 2)
    ]


# --- drawing ----------------------------------------------------------------------------------------------


def _draw_rows(task: LabelTask, rows: Sequence[Row], counts: Sequence[int], rng: np.random.Generator) -> list[Row]:
    drawn: list[Row] = []
    for label, count in zip(task.labels, counts, strict=True):
        having = [row for row in rows if row[GOLD] == label]
        if len(having) < count:
            raise ValueError(f"{task.name}: {count} rows of {label} wanted, the file has {len(having)}")
        drawn += [having[i] for i in rng.choice(len(having), count, replace=False)]
    return drawn


def _draw_units(task: LabelTask, rows: Sequence[Row], counts: Sequence[int], rng: np.random.Generator) -> list[Row]:
    """Whole units, as if each were thrown in alike, given that they have exactly `counts` (of two labels)."""
    kinds = _kinds(task, rows)
    weights = _weights([(size, len(units)) for size, units in kinds], counts)
    totals = _totals([size for size, _ in kinds], weights, counts)
    left = np.array(counts)
    if totals[0][tuple(left)] == -np.inf:
        raise ValueError(
            f"{task.name}: no {sum(counts)} rows, {counts[-1]} of them {task.labels[-1]}, can be drawn in whole "
            f"{task.unit}s"
        )
    drawn: list[Row] = []
    for (size, units), weight, rest in zip(kinds, weights, totals[1:], strict=True):
        fits = min(int(left[i]) // size[i] for i in (0, 1) if size[i])
        log_chance = np.array([w + rest[tuple(left - k * np.array(size))] for k, w in enumerate(weight[: fits + 1])])
        chance = np.exp(log_chance - log_chance.max())
        taken = int(rng.choice(len(chance), p=chance / chance.sum()))
        drawn += [row for i in rng.choice(len(units), taken, replace=False) for row in units[i]]
        left -= taken * np.array(size)
    return drawn


def _kinds(task: LabelTask, rows: Iterable[Row]) -> list[tuple[Size, list[list[Row]]]]:
    """Units by how many rows of the first and of the last label they have."""
    units: dict[str, list[Row]] = {}
    for row in rows:
        name = row["group"] if task.unit == "group" else row["id"].rpartition("-")[0]  # pl-0000-ab and pl-0000-ba
        units.setdefault(name, []).append(row)
    kinds: dict[Size, list[list[Row]]] = {}
    for unit in units.values():
        last = sum(row[GOLD] == task.labels[-1] for row in unit)
        kinds.setdefault((len(unit) - last, last), []).append(unit)
    return sorted(kinds.items(), key=lambda kind: kind[0])


def _weights(kinds: Sequence[tuple[Size, int]], counts: Sequence[int]) -> list[list[float]]:
    """For each kind (size, number of units), the log-weight of taking 0, 1, ... of its units, as far as they fit.

    The ways to choose them, times the odds of being drawn for each. Without the odds small units would be drawn too
    often, because more of them fit.
    """
    n, n_rows = sum(counts), sum(sum(size) * n_units for size, n_units in kinds)
    log_odds = math.log(n / max(n_rows - n, 1))
    return [
        [
            math.log(math.comb(n_units, taken)) + taken * log_odds
            for taken in range(min(n_units, *(counts[i] // size[i] for i in (0, 1) if size[i])) + 1)
        ]
        for size, n_units in kinds
    ]


def _totals(sizes: Sequence[Size], weights: Sequence[Sequence[float]], counts: Sequence[int]) -> list[Floats]:
    """For each position, [rows of the first label, of the last] -> log of the summed weights of all ways in which the
    kinds from there on add up to them; -inf where there is none."""
    first, last = counts
    nothing = np.full((first + 1, last + 1), -np.inf)
    nothing[0, 0] = 0.0
    totals = [nothing]
    for (per_first, per_last), weight in zip(reversed(sizes), reversed(weights), strict=True):
        rest, total = totals[-1], np.full_like(nothing, -np.inf)
        for taken, log_weight in enumerate(weight):
            a, b = taken * per_first, taken * per_last
            total[a:, b:] = np.logaddexp(total[a:, b:], rest[: first + 1 - a, : last + 1 - b] + log_weight)
        totals.append(total)
    return totals[::-1]
