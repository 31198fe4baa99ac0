"""`icm-api demo`: short reviews, labelled without their gold labels, in one short restart."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any

from rich.markup import escape
from rich.table import Table

from icm_api.cli.display import print_table
from icm_api.data.dataset import Dataset
from icm_api.run.outcome import LabelRow
from icm_api.run.runner import Result

LABELS = "negative,positive"
SHORT_SWEEP = {"restarts": 1, "passes": 4}
"""Enough for a demonstration, which nobody should have to wait for."""


@contextmanager
def demo_settings(chosen: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings of a run over the packaged sentences, with what the user chose; the file is there while the context is
    open."""
    method = chosen.get("method", os.environ.get("ICM_API_METHOD", "sweep"))
    with as_file(files("icm_api.cli") / "demo.jsonl") as data:
        yield {
            "data": str(data),
            "task": "classify",
            "labels": LABELS,
            "gold_column": "sentiment",
            **(SHORT_SWEEP if method == "sweep" else {}),
            **chosen,
        }


def show_labels(result: Result) -> None:
    """A line for each sentence, on standard output; the last column says what to look at twice."""
    table = Table("text", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for header in ("label", "confidence", ""):
        table.add_column(header, no_wrap=True)
    for i, row in enumerate(result.rows):
        text = result.job.examples[i].fields["text"]
        table.add_row(escape(text), row.label, _percent(row), _verdict(result.job.dataset, i, row, result))
    print_table(table)


def _percent(row: LabelRow) -> str:
    return "" if row.confidence is None else f"{row.confidence:.0%}"


def _verdict(dataset: Dataset, i: int, row: LabelRow, result: Result) -> str:
    gold = dataset.gold[i] if dataset.gold is not None else None
    decided = "decided by the rule" if row.forced_by else ""
    if gold is None or row.label is None or row.label == result.job.label_names[gold]:
        return decided
    return f"{decided} gold: {result.job.label_names[gold]}".strip()
