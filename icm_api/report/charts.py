"""Small charts as SVG text: lines, bars and a reliability diagram.

Drawn here and not by a plotting library, because they must follow the page's light and dark colours, weigh a few
kilobytes, and be there after every run of a light tool. Colours are classes; `standalone` adds a style for files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 34
N_TICKS = 4

STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#444}.axis{stroke:#999}.grid{stroke:#ddd}.line{fill:none;stroke-width:2}"
    ".c0{stroke:#2563eb;fill:#2563eb}.c1{stroke:#d97706;fill:#d97706}.c2{stroke:#059669;fill:#059669}"
    ".c3{stroke:#9333ea;fill:#9333ea}.line{fill:none}.whisker{stroke:#444;stroke-width:2}"
    ".ideal{stroke:#999;stroke-dasharray:4 3;fill:none}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A named course: (x, y) points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class _Scale:
    """Data to pixels, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    title: str, lines: Sequence[Line], *, x_label: str, y_range: tuple[float, float] | None = None
) -> Markup:
    """Lines over a common x, with a legend where there are several. Lines without points are left out."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    low, high = y_range or _padded([y for line in lines for _, y in line.points])
    x, y = _scales(min(xs), max(xs), low, high)
    drawn = [_axes(x, y, x_label), *(_polyline(line, k, x, y) for k, line in enumerate(lines))]
    if len(lines) > 1:
        drawn.append(_legend([line.name for line in lines]))
    return _figure(title, drawn)


def bar_chart(title: str, values: Sequence[float], *, low: float, high: float, x_label: str) -> Markup:
    """A histogram: the values are the heights of bins of equal width between `low` and `high`."""
    x, y = _scales(low, high, 0.0, max(*values, 1.0))
    width = (x(high) - x(low)) / len(values)
    bars = [
        Markup('<rect class="c0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            x(low) + k * width + 1, y(value), max(width - 2, 0.5), y(0) - y(value), f"{value:g}"
        )
        for k, value in enumerate(values)
    ]
    return _figure(title, [_axes(x, y, x_label), *bars])


def interval_chart(title: str, bars: Sequence[tuple[str, float, float, float]]) -> Markup:
    """A bar for each (name, share, low, high), 0 to 1, with its interval as a whisker."""
    x, y = _scales(0.0, float(len(bars)), 0.0, 1.0)
    parts = [_rule("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in _ticks(0.0, 1.0)]
    parts += [_text(LEFT - 4, y(tick) + 4, f"{tick:g}", "end") for tick in _ticks(0.0, 1.0)]
    for k, (name, share, low, high) in enumerate(bars):
        left, middle = x(k + 0.2), x(k + 0.5)
        parts.append(
            Markup(
                '<rect class="c{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
            ).format(
                k % 4,
                left,
                y(share),
                x(k + 0.8) - left,
                y(0) - y(share),
                f"{name}: {share:.3f} ({low:.3f} to {high:.3f})",
            )
        )
        parts += [
            _rule("whisker", middle, y(low), middle, y(high)),
            _text(middle, y(high) - 4, f"{share:.2f}", "middle"),
        ]
        parts.append(_text(middle, y(0) + 14, name, "middle"))
    return _figure(title, [*parts, _rule("axis", LEFT, y(0), WIDTH - RIGHT, y(0))])


def reliability_chart(title: str, bins: Sequence[tuple[float, float, int]]) -> Markup:
    """Share that is right over confidence: one (mean confidence, share right, count) a bin, its area the count."""
    x, y = _scales(0.0, 1.0, 0.0, 1.0)
    most = max((count for _, _, count in bins), default=1)
    ideal = Markup('<line class="ideal" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        x(0), y(0), x(1), y(1)
    )
    dots = [
        Markup('<circle class="c0" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"><title>{}</title></circle>').format(
            x(confidence), y(right), 3 + 9 * math.sqrt(count / most), f"{count} examples: {right:.2f} right"
        )
        for confidence, right, count in bins
    ]
    return _figure(title, [_axes(x, y, "confidence"), ideal, *dots])


def standalone(chart: Markup) -> str:
    """A chart as the text of an SVG file."""
    return (
        str(chart)
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace("</title>", f"</title><style>{STYLE}</style>", 1)
    )


def _scales(x_low: float, x_high: float, y_low: float, y_high: float) -> tuple[_Scale, _Scale]:
    x_high = x_high if x_high > x_low else x_low + 1
    return _Scale(x_low, x_high, LEFT, WIDTH - RIGHT), _Scale(y_low, y_high, HEIGHT - BOTTOM, TOP)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _axes(x: _Scale, y: _Scale, x_label: str) -> Markup:
    parts = [_rule("axis", x.start, y.start, x.end, y.start)]
    for value in _ticks(y.low, y.high):
        parts += (
            _rule("grid", x.start, y(value), x.end, y(value)),
            _text(x.start - 6, y(value) + 4, f"{value:g}", "end"),
        )
    for value in _ticks(x.low, x.high):
        parts.append(_text(x(value), y.start + 14, f"{value:g}", "middle"))
    parts.append(_text((x.start + x.end) / 2, HEIGHT - 4, x_label, "middle"))
    return Markup("").join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, about `N_TICKS` of them."""
    raw = (high - low) / N_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _polyline(line: Line, k: int, x: _Scale, y: _Scale) -> Markup:
    points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line.points)
    return Markup('<polyline class="line c{}" points="{}"><title>{}</title></polyline>').format(
        k % 4, points, line.name
    )


def _legend(names: Sequence[str]) -> Markup:
    """One row, at the top right."""
    marks = []
    for k, name in enumerate(names):
        right = WIDTH - RIGHT - 105 * (len(names) - 1 - k)
        marks.append(Markup('<rect class="c{}" x="{}" y="2" width="9" height="9"/>').format(k % 4, right - 100))
        marks.append(_text(right - 87, 11, name, "start"))
    return Markup("").join(marks)


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def _figure(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, escape(title), Markup("").join(parts)
    )
