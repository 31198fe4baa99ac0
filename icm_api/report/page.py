"""One self-contained page about a run: no network, no script from data, light and dark."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from icm_api.core.diagnose import against_gold
from icm_api.report.charts import bar_chart, line_chart, reliability_chart
from icm_api.report.course import Course, course_of

TEXT_BYTES = 1_200_000
"""Of all texts on a page together, so that it stays under 2 MB with 10,000 examples."""
LONGEST_TEXT = 2_000
"""Characters shown of one text."""
EXTREMES = 8
"""Of the most and of the least certain examples."""
BINS = 10
ZERO_SHOT = "zero-shot"
UNIT_RANGE = {"accuracy"}
"""Charts whose values lie between 0 and 1."""
COUNTS = {"changed labels", "changes so far", "broken rules"}
"""Charts whose values begin at 0."""
TITLES = {
    "information": "information: what texts tell of labels, in nats",
    "utility": "utility U: predictability less broken rules",
    "temperature": "temperature of the search",
    "broken rules": "rules broken",
    "accuracy": "accuracy: share that agrees with gold",
    "changed labels": "labels that changed",
    "changes so far": "changes of labels so far, tried or made",
    "confidence": "examples by confidence",
    "reliability": "share that agrees with gold, by confidence",
}
"""Of each chart."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """An example as the page shows it."""

    id: str
    text: str
    label: str | None
    confidence: float | None
    gold: str | None = None
    forced_by: str | None = None
    pinned: bool = False
    """A person gave the label: it is nobody's to judge."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a page is made of."""

    title: str
    summary: Mapping[str, Any]
    """`summary.json` of the run."""
    rows: Sequence[ReportRow]
    journal: Sequence[Mapping[str, Any]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """All that is needed to reproduce the run."""
    others: Sequence[Mapping[str, Any]] = ()
    """Summaries of other runs over the same data, to stand beside it."""


def render(report: Report) -> str:
    """The page as HTML text."""
    style, script = _asset("page.css"), _asset("page.js")
    template = _environment().get_template("page.html")
    return template.render(
        title=report.title,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        data=embedded(table_data(report.rows)),
        summary=report.summary,
        notes=_notes(report.summary),
        verdict=(report.summary["verdict"], VERDICTS[report.summary["verdict"]]),
        gold_says=_gold_says(report),
        has_gold=any(row.gold is not None for row in report.rows),
        charts=charts(report),
        titles=TITLES,
        certain=_extremes(report.rows, most=True),
        doubtful=_extremes(report.rows, most=False),
        forced=[row for row in report.rows if row.forced_by and row.label is not None],
        shown=EXTREMES,
        compared=[report.summary, *report.others] if report.others else [],
        settings=json.dumps(dict(report.settings), indent=2, ensure_ascii=False, default=str),
    )


def charts(report: Report) -> Mapping[str, Markup]:
    """Name -> SVG, for the page and for files."""
    gold = {row.id: row.gold for row in report.rows if row.gold is not None and not row.pinned}
    course = course_of(report.journal, gold)
    drawn = {name: _course_chart(name, course) for name in course.charts}
    confidences = [row.confidence for row in report.rows if row.confidence is not None]
    if confidences:
        histogram = _histogram(confidences)
        drawn["confidence"] = bar_chart(TITLES["confidence"], histogram, low=0, high=1, x_label="confidence")
    if bins := reliability_bins(report.rows):
        drawn["reliability"] = reliability_chart(TITLES["reliability"], bins)
    return drawn


def reliability_bins(rows: Sequence[ReportRow]) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, count) of each bin of confidence that has examples with gold. As in a summary's
    accuracy, only labels that were found and given count."""
    bins: dict[int, list[tuple[float, bool]]] = {}
    for row in rows:
        if row.gold is not None and row.label is not None and row.confidence is not None and not row.pinned:
            place = min(int(row.confidence * BINS), BINS - 1)
            bins.setdefault(place, []).append((row.confidence, row.label == row.gold))
    return [
        (sum(c for c, _ in found) / len(found), sum(right for _, right in found) / len(found), len(found))
        for _, found in sorted(bins.items())
    ]


VERDICTS = {
    "failed": "The labels are not to be used as they are.",
    "doubtful": "There are signs to look at before you use these labels.",
    "healthy": "Judged without gold, nothing speaks against these labels. Coherent is not yet true: look at some.",
}


def _gold_says(report: Report) -> list[str]:
    """What gold, and zero-shot beside this run, say against the labels. The verdict does not know it."""
    found = [report.summary[name] for name in ("accuracy", "accuracy_low", "accuracy_high")]
    beside = [
        against_gold(*found, rival=f"zero-shot (run {other['run_id']})", rival_right=other["accuracy"])
        for other in report.others
        if other["method"] == ZERO_SHOT and None not in (*found, other["accuracy"]) and found[-1] < other["accuracy"]
    ]
    return [said for said in (report.summary["against_gold"], *beside) if said is not None]


def _notes(summary: Mapping[str, Any]) -> list[str]:
    """Warnings that are no signs against the labels."""
    evidence = {sign["evidence"] for sign in summary["signs"]}
    return [warning for warning in summary["warnings"] if warning not in evidence]


def table_data(rows: Sequence[ReportRow]) -> dict[str, Any]:
    """The table as columns: labels by number, texts cut so that all of them together stay small."""
    longest = _longest_text(rows)
    names = sorted({name for row in rows for name in (row.label, row.gold) if name is not None})
    number: Mapping[str | None, int | None] = {None: None, **{name: k for k, name in enumerate(names)}}
    return {
        "names": names,
        "longest": longest,
        "id": [row.id for row in rows],
        "text": [row.text[:longest] for row in rows],
        "label": [number[row.label] for row in rows],
        "gold": [number[row.gold] for row in rows],
        "confidence": [None if row.confidence is None else round(row.confidence, 4) for row in rows],
        "forced": {k: row.forced_by for k, row in enumerate(rows) if row.forced_by},
    }


def embedded(data: Any) -> Markup:
    """JSON that cannot end the element it stands in, whatever the data say."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - nothing in it can open or close a tag


def _longest_text(rows: Sequence[ReportRow]) -> int:
    longest = LONGEST_TEXT
    while longest > 20 and sum(len(row.text[:longest].encode("utf-8", "replace")) for row in rows) > TEXT_BYTES:
        longest = longest * 3 // 4
    return longest


def _extremes(rows: Sequence[ReportRow], *, most: bool) -> list[ReportRow]:
    known = [row for row in rows if row.confidence is not None]
    return sorted(known, key=lambda row: row.confidence or 0.0, reverse=most)[:EXTREMES]


def _histogram(values: Sequence[float]) -> list[float]:
    counts = [0.0] * (2 * BINS)
    for value in values:
        counts[min(int(value * 2 * BINS), 2 * BINS - 1)] += 1
    return counts


def _course_chart(name: str, course: Course) -> Markup:
    lines = course.charts[name]
    y_range = (0.0, 1.0) if name in UNIT_RANGE else None
    if name in COUNTS:
        y_range = (0.0, max(1.0, *(y for line in lines for _, y in line.points)))
    return line_chart(TITLES[name], lines, x_label=course.x_label, y_range=y_range)


def _policy(style: str, script: str) -> str:
    """Only this style and this script, by their hashes: nothing that stands in the data can run or load anything."""
    return (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return (files("icm_api.report") / name).read_text(encoding="utf-8").strip()


def _environment() -> Environment:
    environment = Environment(
        loader=DictLoader({"page.html": _asset("page.html")}), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"percent": _percent, "count": _count}
    return environment


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"
