"""`icm-api demo`: two dozen sentences, packaged with their gold labels, labelled without them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from icm_api.data.dataset import Dataset
from icm_api.run.outcome import LabelRow
from icm_api.run.runner import Result

LABELS = "negative,positive"


@contextmanager
def demo_settings() -> Iterator[dict[str, Any]]:
    """Settings of a run over the packaged sentences; the file is there while the context is open."""
    with as_file(files("icm_api.cli") / "demo.jsonl") as data:
        yield {"data": str(data), "task": "classify", "labels": LABELS, "gold_column": "sentiment"}


def show_labels(result: Result) -> None:
    """A line for each sentence, on standard output."""
    table = Table("text", "label", "confidence", "", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for i, row in enumerate(result.rows):
        text = result.job.examples[i].fields["text"]
        table.add_row(escape(text), row.label, _percent(row), _verdict(result.job.dataset, i, row, result))
    Console().print(table)


def _percent(row: LabelRow) -> str:
    return "" if row.confidence is None else f"{row.confidence:.0%}"


def _verdict(dataset: Dataset, i: int, row: LabelRow, result: Result) -> str:
    gold = dataset.gold[i] if dataset.gold is not None else None
    if gold is None or row.label is None:
        return ""
    right = result.job.label_names[gold]
    return "" if row.label == right else f"gold: {right}"
