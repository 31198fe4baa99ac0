"""One self-contained page about a run: no network, no script from data, light and dark."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from icm_api.core.diagnose import against_gold
from icm_api.report.charts import bar_chart, line_chart, reliability_chart
from icm_api.report.course import Course, course_of

TABLE_BYTES = 1_700_000
"""Of the table of all examples as it is embedded, so that a page of 10,000 examples stays under 2 MB."""
LEAST_BYTES = 60
"""Of one example in it: where there are so many that they need more, the page is larger."""
ID_PART = 1 / 3
"""Of the bytes of the table, at most."""
LONGEST_TEXT = 2_000
"""Characters shown of one text."""
EXTREMES = 8
"""Of the most and of the least certain examples, and of other lists."""
FEW = 6
"""Members and rules named of one strained component."""
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
class Strained:
    """A component of related examples in which the model and the rules disagree."""

    members: Sequence[int]
    """Places among the rows."""
    rules: Sequence[str]
    """All that tie the members, in words."""
    forced: int
    """Labels that a rule decided against the model's favourite."""
    broken: int
    """Rules."""


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
    strained: Sequence[Strained] = ()


def render(report: Report) -> str:
    """The page as HTML text."""
    style, script, table = _asset("page.css"), _asset("page.js"), table_data(report.rows)
    template = _environment().get_template("page.html")
    return template.render(
        title=report.title,
        policy=_policy(style, script),
        style=Markup(style),  # noqa: S704 - our own files
        script=Markup(script),  # noqa: S704
        data=embedded(table),
        cut=table["cut"],
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
        strained=_most_strained_first(report),
        n_strained=len(report.strained),
        rows=report.rows,
        shown=EXTREMES,
        few=FEW,
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
    """The table as columns: labels and rules by number, ids, texts and rules cut so that all together stay small.

    `cut`: the most characters of a text or rule and of an id, where any is longer; else None.
    """
    names = sorted({name for row in rows for name in (row.label, row.gold) if name is not None})
    number: Mapping[str | None, int | None] = {None: None, **{name: k for k, name in enumerate(names)}}
    rules = {rule: k for k, rule in enumerate(dict.fromkeys(row.forced_by for row in rows if row.forced_by))}
    columns = {
        "names": names,
        "label": [number[row.label] for row in rows],
        "gold": [number[row.gold] for row in rows],
        "confidence": [None if row.confidence is None else round(row.confidence, 4) for row in rows],
        "forced": {k: rules[row.forced_by] for k, row in enumerate(rows) if row.forced_by},
    }
    ids, texts = [row.id for row in rows], [row.text for row in rows]
    left = max(TABLE_BYTES, LEAST_BYTES * len(rows)) - _size(columns)
    id_length = _longest(ids, int(left * ID_PART))
    shown_ids = [_without_middle(name, id_length) for name in ids]
    length = _longest([*texts, *rules], left - _size(shown_ids))
    return columns | {
        "id": shown_ids,
        "text": [_cut(text, length) for text in texts],
        "rules": [_cut(rule, length) for rule in rules],
        "cut": {
            "text": length if any(len(text) > length for text in (*texts, *rules)) else None,
            "id": id_length if any(len(name) > id_length for name in ids) else None,
        },
    }


def embedded(data: Any) -> Markup:
    """JSON that cannot end the element it stands in, whatever the data say."""
    return Markup(_escaped(data))  # noqa: S704 - nothing in it can open or close a tag


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _escaped(data: Any) -> str:
    text = _JSON.encode(data)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _longest(texts: Sequence[str], most_bytes: int) -> int:
    """Characters (LONGEST_TEXT at most) that each text may have for all of them, cut so and embedded, to fit."""
    longest = LONGEST_TEXT
    while longest > 1 and (found := sum(_size(_cut(text, longest)) + 1 for text in texts)) > most_bytes:
        longest = max(1, int(longest * min(0.9, most_bytes / found)))
    return longest


def _size(data: Any) -> int:
    """Bytes on the page."""
    return len(_escaped(data).encode("utf-8"))


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _without_middle(name: str, longest: int) -> str:
    """Ids often differ at the end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: longest - half - 1]}…{name[len(name) - half :]}"


def _most_strained_first(report: Report) -> list[Strained]:
    """Of each the members that a rule decided about come first."""
    worst_first = sorted(report.strained, key=lambda part: part.forced + part.broken, reverse=True)
    return [
        replace(part, members=sorted(part.members, key=lambda k: report.rows[k].forced_by is None))
        for part in worst_first[:EXTREMES]
    ]


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
    environment.filters |= {"percent": _percent, "count": _count, "counted": _counted}
    return environment


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}" if share in (0, 1) else f"{share:.1%}"


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _counted(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
