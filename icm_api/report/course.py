"""The course of a run, from its journal: what changed from pass to pass or step to step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from icm_api.report.charts import Line

MOST_POINTS = 400
"""Of a line: more cannot be seen."""
SHOWN = {
    "information": "information_nats",
    "utility": "utility",
    "temperature": "temperature",
    "broken rules": "violations",
}
"""Name of a chart -> column of the journal. Nothing is drawn of a column that is 0 throughout."""


@dataclass(frozen=True, slots=True)
class Course:
    """Charts that a journal allows: name -> lines (one a restart, where there are restarts)."""

    x_label: str
    charts: Mapping[str, Sequence[Line]]


def course_of(journal: Sequence[Mapping[str, Any]], gold: Mapping[str, str]) -> Course:
    """`journal`: its lines; `gold`: label by example, empty without gold (accuracy is then left out)."""
    in_passes = any("pass" in line for line in journal)
    charts: dict[str, list[Line]] = {
        name: _lines(journal, column) for name, column in SHOWN.items() if any(line.get(column) for line in journal)
    }
    if gold:
        charts["accuracy"] = _grouped(_accuracies(journal, gold))
    changes = _grouped((where, x, float(len(line["changed"]))) for where, x, line in _placed(journal))
    if in_passes:
        charts["changed labels"] = changes
    else:
        charts["changes so far"] = [Line(line.name, _summed(line.points)) for line in changes]
    thin = {name: [Line(line.name, _thinned(line.points)) for line in lines] for name, lines in charts.items() if lines}
    return Course("pass" if in_passes else "step", thin)


def _lines(journal: Sequence[Mapping[str, Any]], column: str) -> list[Line]:
    return _grouped(
        (where, x, float(line[column])) for where, x, line in _placed(journal) if line.get(column) is not None
    )


def _placed(journal: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float, Mapping[str, Any]]]:
    """Each line of the journal with the course it belongs to, and its place there. Warm-up and tail are no course."""
    for number, line in enumerate(journal):
        if line.get("stage") in ("warm-up", "tail"):
            continue
        if "pass" in line:
            yield f"restart {line['restart']}", float(line["pass"]), line
        else:
            yield "", float(line.get("step", number)), line


def _grouped(points: Iterator[tuple[str, float, float]]) -> list[Line]:
    courses: dict[str, list[tuple[float, float]]] = {}
    for where, x, y in points:
        courses.setdefault(where, []).append((x, y))
    return [Line(name, course) for name, course in courses.items()]


def _summed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Steps change one label or none: only their sum shows when a search comes to rest."""
    return list(zip((x for x, _ in points), accumulate(y for _, y in points), strict=True))


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // MOST_POINTS)
    return [*points[:-1:stride], points[-1]]


def _accuracies(journal: Sequence[Mapping[str, Any]], gold: Mapping[str, str]) -> Iterator[tuple[str, float, float]]:
    """Share of the labelled examples that agree with gold after each line. A restart goes on from the warm-up."""
    start: dict[str, str] = {}
    held: dict[str, dict[str, str]] = {}
    for line in journal:
        changed = {i: label for i, label in zip(line["changed"], line["labels"], strict=True) if label is not None}
        if line.get("stage") == "warm-up":
            start |= changed
            continue
        for where, x, _ in _placed([line]):
            labels = held.setdefault(where, dict(start))
            labels |= changed
            known = [labels[example] == right for example, right in gold.items() if example in labels]
            if known:
                yield where, x, sum(known) / len(known)
