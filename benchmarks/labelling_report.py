"""Tables, and a picture, of what `python -m benchmarks.labelling` measured.

`python -m benchmarks.labelling_report RESULTS/labelling-<model>.jsonl [...] [--picture FILE.svg] [--roc FILE.svg]`
prints markdown.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, TypeAlias

from benchmarks.label_tasks import TASKS, Row
from benchmarks.labelling import BALANCED, EFFORTS, WAYS, read_results
from icm_api.config import GOLD_METHOD
from icm_api.core.diagnose import information_share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLEARLY = 0.15
"""How far above the larger label share gold demonstrations must take a task for it to count as held by the model."""
MEANS_NOTE = (
    "On balanced draws the mean accuracy of gold-few-shot (raw or with shares given, the better) is at least "
    f"{CLEARLY:g} above the larger label share. Accuracy and calibration error: mean of the tasks' means. Differences: "
    "mean over tasks and seeds, same draw, ± 1.96 standard errors (too narrow in so far as the seeds of one task are "
    "alike). Runs of another size are compared with gold at the usual one where there is none of their own."
)
UNEVEN_NOTE = (
    "Mean over the labels of the share of their examples that are right, where it was measured: one label for all is "
    "at 0.50 of two labels, however common it is."
)
COST_NOTE = (
    "Mean over the tasks, as on an empty cache. Evaluated: prompt tokens that the server did not have in its cache; "
    "own: the prompt tokens of zero-shot, which reads each example once. Seconds: only of runs that asked all anew."
)
QUICK_NOTE = "Quick: " + ", ".join(f"--{name} {most}" for name, most in EFFORTS["quick"].items()) + "."
COURSE_NOTE = (
    "Balanced, shares unknown, mean over the tasks that the model holds: the labels that would be kept if the search "
    "ended there, before any are asked alone again. Own: the prompt tokens of zero-shot. Without echo a pass sends "
    "each example with all before it, most of it from the host's cache; with echo a pass is about 1 x own."
)
ABOVE = 0.05
"""How far above both baselines an accuracy must be to count as clearly above them."""
SEARCHES = ("sweep", "bootstrap", "anneal")
"""The baselines cannot be clearly above themselves, and gold demonstrations are a ceiling."""
LEVELS = ("healthy", "doubtful", "failed")
DIAGNOSIS_NOTE = (
    "Of the methods that search. Verdicts use no gold. Area under the ROC curve: how often, of a run that is not good "
    "and one that is, the first has the graver verdict, or with the same verdict less information (ties count half). "
    f"Little gain: the search changed fewer than {ABOVE:.0%} of the labels that the model gave to the examples "
    "it was asked about alone (`changed_from_alone` in a run's summary). Tasks without truth are never good. "
    f"Clearly above chance: over the larger label share by {CLEARLY:g}, or by half of what is left where that is less. "
    f"Clearly above zero-shot and random demonstrations: by {ABOVE:g} over the better of the two and the larger label "
    "share, where one of them was run on the same draw."
)
FAILURES_NOTE = (
    "Collapsed: nearly all examples got one label. Gold's objective higher: the gold labels have more information than "
    "those found, and are others, so that the search failed, not the model. Agreement of restarts: 1 is perfect, "
    "chance is 0."
)
NONE = "–"
Value: TypeAlias = Callable[[Row], float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """A method with its prior and size: what a column of a table is about."""

    method: str
    prior: str
    n: int
    effort: str = "full"

    @classmethod
    def of(cls, row: Row) -> Column:
        return cls(row["method"], row["prior"], row["n"], row.get("effort", "full"))


@dataclass(frozen=True, slots=True)
class Report:
    """The runs of one model. Empty values are `NONE`: never 0."""

    model: str
    all_rows: Sequence[Row]

    # --- what there is ------------------------------------------------------------------------------------

    @property
    def rows(self) -> list[Row]:
        """Those with gold: all but the runs of tasks that have no truth, which only the diagnosis is about."""
        return [row for row in self.all_rows if row["accuracy"] is not None]

    @property
    def n(self) -> int:
        """Examples of most runs."""
        sizes: list[int] = [row["n"] for row in self.rows]
        return max(sorted(set(sizes)), key=sizes.count)

    @property
    def columns(self) -> list[Column]:
        order: list[tuple[str, ...]] = [(way.method, way.prior, way.effort) for way in WAYS]
        found = {Column.of(row) for row in self.rows}
        return sorted(found, key=lambda column: (order.index((column.method, column.prior, column.effort)), -column.n))

    @property
    def shares(self) -> list[float]:
        return sorted({row["share"] for row in self.rows}, reverse=True)

    def name(self, column: Column) -> str:
        told = ", shares given" if column.prior == "given" else ""
        effort = "" if column.effort == "full" else f", {column.effort}"
        size = "" if column.n == self.n else f" (n {column.n})"
        return f"{column.method}{effort}{told}{size}"

    def of(self, column: Column, share: float | None = None, tasks: Iterable[str] | None = None) -> list[Row]:
        return [
            row
            for row in self.rows
            if Column.of(row) == column and share in (None, row["share"]) and (tasks is None or row["task"] in tasks)
        ]

    def clear_tasks(self) -> list[str]:
        """Tasks that the model holds: on balanced draws the mean accuracy of gold demonstrations, read raw or under
        the given shares, whichever is better, is at least `CLEARLY` above the larger label share."""
        return [task for task in TASKS if self._gold_excess(task) >= CLEARLY - 1e-9]

    def _gold_excess(self, task: str) -> float:
        found = []
        for column in self.columns:
            if column.method == GOLD_METHOD and (rows := self.of(column, BALANCED, [task])):
                found.append(mean(row["accuracy"] for row in rows) - max(rows[0]["true_shares"]))
        return max(found, default=-math.inf)

    # --- the tables ---------------------------------------------------------------------------------------

    def accuracy(self, share: float, what: str = "accuracy") -> str:
        """Mean over the seeds ± their standard deviation; how many there are in brackets, where some are missing.
        `what`: the field of the runs; those without it are left out."""
        columns = [column for column in self.columns if self._having(what, column, share)]
        head = ["task", *map(self.name, columns), "n, seeds"]
        body = []
        for task in TASKS:
            runs = [self._having(what, column, share, [task]) for column in columns]
            if any(runs):
                most = max(map(len, runs))
                body.append([task, *(_spread(rows, most) for rows in runs), f"{self.n}, {most}"])
        return table(head, body)

    def _having(self, what: str, column: Column, share: float, tasks: Iterable[str] | None = None) -> list[float]:
        return [row[what] for row in self.of(column, share, tasks) if row.get(what) is not None]

    def uneven(self) -> str:
        """Where labels are not equally common, accuracy rewards one label for all. Empty where none was measured."""
        parts = []
        for share in self.shares:
            measured = [column for column in self.columns if self._having("balanced_accuracy", column, share)]
            if share != BALANCED and measured:
                parts += [f"**{_shown(share)}**", self.accuracy(share, "balanced_accuracy")]
        return "\n\n".join(["### Balanced accuracy, uneven shares", UNEVEN_NOTE, *parts]) if parts else ""

    def means(self, share: float) -> str:
        """Over the clear tasks, with the differences to gold demonstrations on the same draws."""
        tasks = self.clear_tasks()
        head = ["method", "tasks", "runs", "accuracy", "less gold-few-shot", "less gold-few-shot, shares given"]
        body = []
        for column in self.columns:
            if rows := self.of(column, share, tasks):
                accuracy = over_tasks(rows, lambda row: row["accuracy"])
                less = [interval(self.less_gold(rows, prior)) for prior in ("unknown", "given")]
                error = over_tasks(rows, lambda row: row["calibration_error"])
                held = str(len({row["task"] for row in rows}))
                body.append([self.name(column), held, str(len(rows)), number(accuracy), *less, number(error)])
        return table([*head, "calibration error"], body)

    def less_gold(self, rows: Iterable[Row], prior: str) -> list[float]:
        """Accuracy less that of gold demonstrations on the same draw, else (another n) of the same task and seed."""
        gold = {
            _draw(row): row["accuracy"] for row in self.rows if (row["method"], row["prior"]) == (GOLD_METHOD, prior)
        }
        pairs = [(row["accuracy"], gold.get(_draw(row), gold.get((*_draw(row)[:3], self.n)))) for row in rows]
        return [one - other for one, other in pairs if other is not None]

    def cost(self) -> str:
        """For each label: mean over the tasks, all label shares together."""
        head = ["method", "requests", "prompt tokens", "evaluated tokens", "cached", "evaluated / own", "wall s"]
        own = {_draw(row): row["prompt_tokens"] for row in self.rows if row["method"] == "zero-shot"}
        body = []
        for column in self.columns:
            rows = self.of(column)
            prompt, evaluated = each_label(rows, "prompt_tokens"), each_label(rows, "evaluated_tokens")
            cached = None if prompt is None or evaluated is None else 1 - evaluated / prompt
            multiple = over_tasks(rows, lambda row: ratio(row["evaluated_tokens"], own.get(_draw(row))))
            seconds = each_label([row for row in rows if not row["replayed"]], "wall_s")
            figures = [number(each_label(rows, "requests")), number(prompt, 0), number(evaluated, 0), number(cached)]
            body.append([self.name(column), *figures, number(multiple, 1), number(seconds)])
        return table(head, body)

    def course(self) -> str:
        """Of sweep with unknown shares, balanced: what more passes and restarts bring, and what they cost. A restart
        that settled early stands at its last pass in the columns after it."""
        runs = self.of(Column("sweep", "unknown", self.n), BALANCED, self.clear_tasks())
        rows = [row for row in runs if row.get("course")]
        own = {_draw(row): row["prompt_tokens"] for row in self.rows if row["method"] == "zero-shot"}
        body = []
        for restart, n_passes in sorted({(line["restart"], line["pass"]) for row in rows for line in row["course"]}):
            at = {_draw(row): _until(row["course"], restart, n_passes) for row in rows}
            accuracy = over_tasks(rows, lambda row: at[_draw(row)]["accuracy"])  # noqa: B023 - called at once
            tokens = over_tasks(rows, lambda row: ratio(at[_draw(row)]["prompt_tokens"], own.get(_draw(row))))  # noqa: B023
            body.append([str(restart), str(n_passes), number(accuracy, 3), number(tokens, 1)])
        return table(["restart", "pass", "accuracy of what is kept", "prompt tokens / own"], body)

    def diagnosis(self) -> str:
        """Of runs that have a verdict and are no ceiling: how good those of each verdict are, and the area under the
        curve of true against false alarms."""
        rows, body = self.diagnosed(), []
        for verdict in LEVELS:
            found = [row for row in rows if row["verdict"] == verdict]
            accuracies = [row["accuracy"] for row in found if row["accuracy"] is not None]
            good_ones = [
                _of([good for good in map(judge, found) if good is not None]) for judge in self.judges.values()
            ]
            body.append([verdict, str(len(found)), number(mean(accuracies) if accuracies else None), *good_ones])
        for name, (alarm, methods) in ALARMS.items():
            counted = [row for row in rows if row["method"] in methods]
            areas = [number(roc_area(*self.alarms(judge, alarm, methods))) for judge in self.judges.values()]
            body.append([f"area, {name}", str(len(counted)), "", *areas])
        return table(["verdict", "runs", "accuracy", *self.judges], body)

    def diagnosed(self) -> list[Row]:
        """Quick searches have no restarts to compare, and would count a draw twice."""
        full = [row for row in self.all_rows if row.get("effort", "full") == "full"]
        return [row for row in full if row.get("verdict") and row["method"] in SEARCHES]

    @property
    def judges(self) -> Mapping[str, Callable[[Row], bool | None]]:
        """Whether a run is good; None: that cannot be said."""
        return {"clearly above chance": _held, "clearly above zero-shot and random": self._better}

    def alarms(
        self,
        judge: Callable[[Row], bool | None],
        alarm: Callable[[Row], tuple[float, ...]],
        methods: Collection[str] = SEARCHES,
    ) -> tuple[list[tuple[float, ...]], list[bool]]:
        """(how grave, whether the run is bad) of each that can be judged."""
        rows = [row for row in self.diagnosed() if row["method"] in methods]
        judged = [(alarm(row), not good) for row in rows if (good := judge(row)) is not None]
        return [grave for grave, _ in judged], [bad for _, bad in judged]

    def _better(self, row: Row) -> bool | None:
        """Above both baselines of its draw by `ABOVE`; where one was not run, above the other."""
        baselines = [
            other["accuracy"]
            for other in self.rows
            if other["method"] in ("zero-shot", "random-few-shot") and _draw(other)[:3] == _draw(row)[:3]
        ]
        if row["accuracy"] is None:
            return False
        return row["accuracy"] >= max([*baselines, max(row["true_shares"])]) + ABOVE if baselines else None

    def failures(self) -> str:
        """Collapses by label share, and searches that stopped short of an objective that gold has."""
        clear = self.clear_tasks()
        head = ["method", *(f"collapsed at {_shown(share)}" for share in self.shares)]
        body = []
        for column in self.columns:
            collapses = [_of([row["collapsed"] for row in self.of(column, share)]) for share in self.shares]
            higher = [_of(self.gold_is_higher(rows)) for rows in (self.of(column), self.of(column, tasks=clear))]
            agreement = over_tasks(self.of(column), lambda row: row["agreement"])
            body.append([self.name(column), *collapses, *higher, number(agreement)])
        return table([*head, "gold's objective higher", "the same, clear tasks", "agreement of restarts"], body)

    def gold_is_higher(self, rows: Iterable[Row]) -> list[bool]:
        """For each run that is not gold's own: whether the gold labels of its draw have more information than those it
        found. Such a run failed as a search, whatever the model knows. One that found the gold labels did not: scores
        of the same labels differ by the orders they were asked in."""
        gold = {
            _draw(row): row["gold_information_nats"] for row in self.rows if row["gold_information_nats"] is not None
        }
        searches = [row for row in rows if row["method"] != GOLD_METHOD and _draw(row) in gold]
        return [row["accuracy"] < 1 and gold[_draw(row)] > row["information_nats"] for row in searches]

    # --- all of it ----------------------------------------------------------------------------------------

    def markdown(self) -> str:
        dates = sorted({row["date"] for row in self.rows})
        held = ", ".join(self.clear_tasks()) or "none"
        return "\n\n".join(
            [
                f"## {self.model}",
                f"{len(self.rows)} runs, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}; {self.n} examples each "
                "unless a column says otherwise.",
                *(part for share in self.shares for part in (f"### Accuracy, {_shown(share)}", self.accuracy(share))),
                *filter(None, [self.uneven()]),
                "### Means over the tasks that the model holds",
                f"{MEANS_NOTE} These tasks: {held}.",
                *(part for share in self.shares for part in (f"**{_shown(share)}**", self.means(share))),
                "### Cost of a label",
                f"{COST_NOTE} {QUICK_NOTE}",
                self.cost(),
                "### Sweep: accuracy against cost",
                COURSE_NOTE,
                self.course(),
                "### Diagnosis",
                DIAGNOSIS_NOTE,
                self.diagnosis(),
                "### Failures",
                FAILURES_NOTE,
                self.failures(),
            ]
        )


def _verdict(row: Row) -> tuple[float, ...]:
    return (LEVELS.index(row["verdict"]),)


def _verdict_and_information(row: Row) -> tuple[float, ...]:
    return *_verdict(row), -information_share(row["information_nats"], row["label_shares"])


def _verdict_and_gain(row: Row) -> tuple[float, ...]:
    changed = row.get("changed_from_alone")
    return *_verdict(row), changed is not None and changed < ABOVE, *_verdict_and_information(row)


ALARMS: Mapping[str, tuple[Callable[[Row], tuple[float, ...]], Collection[str]]] = {
    "verdict, then information": (_verdict_and_information, SEARCHES),
    "verdict, little gain, information": (_verdict_and_gain, SEARCHES),
    "verdict, then information: sweep": (_verdict_and_information, ("sweep",)),
    "verdict, little gain, information: sweep": (_verdict_and_gain, ("sweep",)),
    "verdict alone": (_verdict, SEARCHES),
}
"""What is measured of which methods."""


def roc_curve(alarms: Sequence[tuple[float, ...]], bad: Sequence[bool]) -> list[tuple[float, float]]:
    """(share of the good, share of the bad) with an alarm at least so grave, the gravest first."""
    levels = sorted(set(alarms), reverse=True)
    n_good, n_bad = bad.count(False), bad.count(True)
    curve = [(0.0, 0.0)]
    for level in levels:
        raised = [is_bad for alarm, is_bad in zip(alarms, bad, strict=True) if alarm >= level]
        curve.append((raised.count(False) / max(n_good, 1), raised.count(True) / max(n_bad, 1)))
    return curve


def roc_area(alarms: Sequence[tuple[float, ...]], bad: Sequence[bool]) -> float | None:
    """Area under the ROC curve (Mann and Whitney's statistic); None where all are good, or all bad."""
    pairs = [
        (a, b)
        for a, is_bad in zip(alarms, bad, strict=True)
        if is_bad
        for b, other in zip(alarms, bad, strict=True)
        if not other
    ]
    return mean((a > b) + 0.5 * (a == b) for a, b in pairs) if pairs else None


def _held(row: Row) -> bool:
    """Above one label for all by `CLEARLY`, or by half of what is left to be right about where that is less."""
    chance = max(row["true_shares"])
    return row["accuracy"] is not None and row["accuracy"] >= chance + min(CLEARLY, (1 - chance) / 2)


def _until(course: Sequence[Row], restart: int, n_passes: int) -> Row:
    """The last line of a course that is not beyond that pass."""
    return [line for line in course if (line["restart"], line["pass"]) <= (restart, n_passes)][-1]


def _draw(row: Row) -> tuple[Any, ...]:
    return row["task"], row["share"], row["seed"], row["n"]


def _shown(share: float) -> str:
    return "balanced" if share == BALANCED else f"{1 - share:.0%} / {share:.0%}".replace("%", "")


# --- figures ----------------------------------------------------------------------------------------------


def over_tasks(rows: Iterable[Row], value: Value) -> float | None:
    """Mean over the tasks of the mean over a task's runs; runs without a value are left out. None: no value."""
    by_task: dict[str, list[float]] = {}
    for row in rows:
        if (found := value(row)) is not None:
            by_task.setdefault(row["task"], []).append(found)
    return mean(map(mean, by_task.values())) if by_task else None


def each_label(rows: Iterable[Row], name: str) -> float | None:
    return over_tasks(rows, lambda row: per_label(row, name))


def per_label(row: Row, name: str) -> float | None:
    return ratio(row[name], row["n"])


def ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def interval(values: Sequence[float]) -> str:
    """Mean ± 1.96 standard errors."""
    if not values:
        return NONE
    middle = f"{mean(values):+.3f}"
    return middle if len(values) == 1 else f"{middle} ± {1.96 * stdev(values) / math.sqrt(len(values)):.3f}"


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _spread(values: Sequence[float], most: int) -> str:
    if not values:
        return NONE
    spread = f" ±{stdev(values):.2f}" if len(values) > 1 else ""
    return f"{mean(values):.2f}{spread}" + (f" ({len(values)})" if len(values) < most else "")


def _of(found: Sequence[bool]) -> str:
    return f"{sum(found)} of {len(found)}" if found else NONE


def table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the picture ------------------------------------------------------------------------------------------

PANEL_INCHES = (7.5, 5.0)
LEAST_GAP = 0.035
"""Between two names above one another, as a share of the panel's height."""
COLOURS = {
    "zero-shot": "#7f7f7f",
    "gold-few-shot": "#b8860b",
    "random-few-shot": "#8c564b",
    "sweep": "#1f77b4",
    "bootstrap": "#2ca02c",
    "anneal": "#d62728",
}


AXES = {"prompt_tokens": "prompt tokens", "evaluated_tokens": "prompt tokens that the server did not have in its cache"}


@dataclass(frozen=True, slots=True)
class Point:
    name: str
    column: Column
    tokens: float
    """A label."""
    accuracy: float


def points(report: Report, tokens: str) -> list[Point]:
    """Mean over the clear tasks, balanced draws; `tokens`: which are counted, a key of `AXES`."""
    found = []
    for column in report.columns:
        rows = report.of(column, BALANCED, report.clear_tasks())
        spent, accuracy = each_label(rows, tokens), over_tasks(rows, lambda row: row["accuracy"])
        if spent is not None and accuracy is not None:
            found.append(Point(report.name(column), column, spent, accuracy))
    return found


def draw_picture(reports: Sequence[Report], file: Path) -> None:
    """Accuracy against tokens a label: a column a model, a row a way to count. Needs matplotlib (the `dev` extra)."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "labelling", "svg.fonttype": "none", "font.size": 9}):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(width * len(reports), height * len(AXES)), layout="constrained")
        grid = figure.subplots(len(AXES), len(reports), squeeze=False)
        for panels, tokens in zip(grid, AXES, strict=True):
            for panel, report in zip(panels, reports, strict=True):
                _draw_panel(panel, report, tokens)
        figure.savefig(file, metadata={"Date": None})  # the same figures give the same file


def draw_curves(reports: Sequence[Report], file: Path) -> None:
    """ROC curves of the diagnosis: a panel a model, a line for each meaning of a good run. Needs matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "labelling", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.0 * len(reports), 4.0), layout="constrained")
        for panel, report in zip(figure.subplots(1, len(reports), squeeze=False)[0], reports, strict=True):
            panel.set_title(f"{report.model}: {len(report.diagnosed())} searches")
            panel.set_xlabel("good runs called worse (false alarms)")
            panel.set_ylabel("bad runs called worse")
            panel.plot([0, 1], [0, 1], color="0.8", linewidth=1)
            for name, judge in report.judges.items():
                alarms, bad = report.alarms(judge, _verdict_and_information)
                if (area := roc_area(alarms, bad)) is None:
                    continue
                label = f"{name}: {number(area)} ({bad.count(True)} bad of {len(bad)})"
                panel.plot(*zip(*roc_curve(alarms, bad), strict=True), marker=".", label=label)
            panel.legend(loc="lower right", fontsize=7)
        figure.savefig(file, metadata={"Date": None})


def _draw_panel(panel: Axes, report: Report, tokens: str) -> None:
    found = points(report, tokens)
    panel.set_title(f"{report.model}: balanced draws, mean over the {len(report.clear_tasks())} tasks it holds")
    panel.set_xlabel(f"{AXES[tokens]}, a label (hollow: told the labels' shares)")
    panel.set_ylabel("accuracy")
    panel.set_xscale("log")
    panel.grid(alpha=0.25)
    panel.margins(x=0.1, y=0.12)
    for point in found:
        colour = COLOURS[point.column.method]
        face = "none" if point.column.prior == "given" else colour
        panel.plot(point.tokens, point.accuracy, "o", color=colour, markerfacecolor=face, markersize=7)
    _name_points(panel, found)


def _name_points(panel: Axes, found: Sequence[Point]) -> None:
    left, right = panel.get_xlim()
    panel.set_xlim(left, right * (right / left) ** 0.3)  # room for the names at the right
    bottom, top = panel.get_ylim()
    heights = name_heights(found, LEAST_GAP * (top - bottom))
    for point, y in zip(found, heights, strict=True):
        colour = COLOURS[point.column.method]
        panel.annotate(
            point.name,
            (point.tokens, point.accuracy),
            (point.tokens * 1.12, y),
            va="center",
            color=colour,
            arrowprops={"arrowstyle": "-", "color": colour, "alpha": 0.4, "relpos": (0, 0.5)},
        )


def name_heights(found: Sequence[Point], gap: float) -> list[float]:
    """Where each point's name stands: at its height, or so far above that no two are nearer than the gap."""
    heights: dict[int, float] = {}
    lowest = -math.inf
    for k in sorted(range(len(found)), key=lambda k: found[k].accuracy):
        lowest = heights[k] = max(found[k].accuracy, lowest + gap)
    return [heights[k] for k in range(len(found))]


# --- the command ------------------------------------------------------------------------------------------


def reports(files: Iterable[Path]) -> list[Report]:
    """One a model, in the order of the files."""
    by_model: dict[str, list[Row]] = {}
    for file in files:
        for row in read_results(file):
            by_model.setdefault(row["model"], []).append(row)
    return [Report(model, rows) for model, rows in by_model.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling_report", description="Markdown tables.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE.svg", help="accuracy against prompt tokens")
    parser.add_argument("--roc", type=Path, metavar="FILE.svg", help="ROC curves of the diagnosis")
    given = parser.parse_args(arguments)
    found = reports(given.files)
    if not found:
        sys.exit("no finished cell in these files")
    print("\n\n".join(report.markdown() for report in found))
    if given.picture is not None:
        draw_picture(found, given.picture)
    if given.roc is not None:
        draw_curves(found, given.roc)


if __name__ == "__main__":
    main()
