"""Small charts as SVG text: lines, bars and a reliability diagram.

Drawn here and not by a plotting library, because they must follow the page's light and dark colours, weigh a few
kilobytes, and be there after every run of a light tool. Colours are classes, which the page's style sheet knows;
`standalone` puts plain attributes in their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 14, 36
HEADING = 28
"""Height of the heading that only a file has."""
N_TICKS = 4
LEGEND_ROW, LEGEND_COLUMNS = 16, 3
MOST_NAMED = 8
"""Lines that a legend can tell apart, by four colours and dashes."""

COLOURS = ("#2563eb", "#b45309", "#047857", "#7e22ce")
FILE_STYLE: Mapping[str, Mapping[str, str]] = {
    **{f"c{k}": {"stroke": colour, "fill": colour} for k, colour in enumerate(COLOURS)},
    "axis": {"stroke": "#5b6575"},
    "grid": {"stroke": "#dde2ea"},
    "whisker": {"stroke": "#1c2330", "stroke-width": "2"},
    "ideal": {"stroke": "#5b6575", "stroke-dasharray": "4 3"},
    "line": {"stroke-width": "2", "fill": "none"},
    "dashed": {"stroke-dasharray": "5 3"},
}
"""Attributes of each class in a file, which is read on white; a later class beats an earlier one."""
FONTS = "Arial, Helvetica, Liberation Sans, DejaVu Sans, Noto Sans, sans-serif"
"""By name: where a system does not say what `sans-serif` is, resvg takes Arial, and without it writes nothing."""
WORDS = {"font-family": FONTS, "font-size": "12", "fill": "#4a5362"}


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
    """Lines over a common x, with a legend where there are several, up to `MOST_NAMED`. Lines without points are left
    out, and of lines that all run alike one is drawn."""
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    if all(line.points == lines[0].points for line in lines):
        lines = lines[:1]
    named = [line.name for line in lines] if 1 < len(lines) <= MOST_NAMED else []
    xs = [x for line in lines for x, _ in line.points]
    low, high = y_range or _padded([y for line in lines for _, y in line.points])
    x, y = _scales(min(xs), max(xs), low, high, top=TOP + LEGEND_ROW * -(-len(named) // LEGEND_COLUMNS))
    drawn = [_axes(x, y, x_label), *(_polyline(line, k, x, y) for k, line in enumerate(lines))]
    return _figure(title, [*drawn, *_legend(named)])


def bar_chart(title: str, values: Sequence[float], *, low: float, high: float, x_label: str) -> Markup:
    """A histogram: the values are the heights of bins of equal width between `low` and `high`."""
    x, y = _scales(low, high, 0.0, max(*values, 1.0))
    width = (x(high) - x(low)) / len(values)
    bars = [
        Markup('<rect class="c0" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
            x(low) + k * width + 1, y(value), max(width - 2, 0.5), y(0) - y(value), _number(value)
        )
        for k, value in enumerate(values)
    ]
    return _figure(title, [_axes(x, y, x_label), *bars])


def interval_chart(title: str, bars: Sequence[tuple[str, float, float, float]]) -> Markup:
    """A bar for each (name, share, low, high), 0 to 1, with its interval as a whisker."""
    x, y = _scales(0.0, float(len(bars)), 0.0, 1.0)
    parts = [_rule("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)) for tick in _ticks(0.0, 1.0)]
    parts += [_text(LEFT - 4, y(tick) + 4, _number(tick), "end") for tick in _ticks(0.0, 1.0)]
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
        first, _, rest = name.partition(" ")
        parts += [_text(middle, y(0) + 14 * row, word, "middle") for row, word in enumerate((first, rest), 1) if word]
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
    """A chart as the text of an SVG file, on white and under its title. It needs no style sheet, because not every
    program that shows SVG reads one."""
    size = f'width="{WIDTH}" height="{HEIGHT + HEADING}" viewBox="0 {-HEADING} {WIDTH} {HEIGHT + HEADING}"'
    title = re.search("<title>(.*?)</title>", chart, re.DOTALL)
    assert title is not None
    heading = (
        f'<rect y="{-HEADING}" width="{WIDTH}" height="{HEIGHT + HEADING}" fill="#fff"/>'
        f'<text x="{WIDTH / 2:g}" y="-10" text-anchor="middle">{title[1]}</text>'
    )
    text = re.sub('viewBox="[^"]*"', size, str(chart), count=1)
    text = text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1).replace(title[0], title[0] + heading, 1)
    words = _attributes(WORDS)
    return re.sub('class="([^"]*)"', _plain, text).replace("<text ", f"<text {words} ") + "\n"


def _plain(classes: re.Match[str]) -> str:
    """What stands in the data cannot be matched: its quotation marks are escaped."""
    styles = [FILE_STYLE[name] for name in FILE_STYLE if name in classes[1].split()]
    return _attributes({name: value for style in styles for name, value in style.items()})


def _attributes(values: Mapping[str, str]) -> str:
    return " ".join(f'{name}="{value}"' for name, value in values.items())


def _scales(x_low: float, x_high: float, y_low: float, y_high: float, *, top: float = TOP) -> tuple[_Scale, _Scale]:
    x_high = x_high if x_high > x_low else x_low + 1
    return _Scale(x_low, x_high, LEFT, WIDTH - RIGHT), _Scale(y_low, y_high, HEIGHT - BOTTOM, top)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return low - margin, high + margin


def _axes(x: _Scale, y: _Scale, x_label: str) -> Markup:
    parts: list[Markup] = []
    for value in _ticks(y.low, y.high):
        parts += (
            _rule("grid", x.start, y(value), x.end, y(value)),
            _text(x.start - 6, y(value) + 4, _number(value), "end"),
        )
    for value in _ticks(x.low, x.high):
        parts.append(_text(x(value), y.start + 14, _number(value), "middle"))
    parts.append(_text((x.start + x.end) / 2, HEIGHT - 4, x_label, "middle"))
    parts.append(_rule("axis", x.start, y.start, x.end, y.start))
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
    return Markup('<polyline class="{}" points="{}"><title>{}</title></polyline>').format(_kind(k), points, line.name)


def _kind(k: int) -> str:
    """Classes of the k-th line."""
    return f"line c{k % len(COLOURS)}" + (" dashed" if k // len(COLOURS) % 2 else "")


def _legend(names: Sequence[str]) -> list[Markup]:
    """Above the lines, row by row."""
    marks = []
    width = (WIDTH - LEFT - RIGHT) / LEGEND_COLUMNS
    for k, name in enumerate(names):
        left, middle = LEFT + k % LEGEND_COLUMNS * width, 8.0 + k // LEGEND_COLUMNS * LEGEND_ROW
        marks += [_rule(_kind(k), left, middle, left + 16, middle), _text(left + 20, middle + 4, name, "start")]
    return marks


def _number(value: float) -> str:
    """In plain digits, with commas where there are thousands."""
    return f"{value:,.9g}"


def _rule(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, words: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, words)


def _figure(title: str, parts: Sequence[Markup]) -> Markup:
    return Markup('<svg role="img" viewBox="0 0 {} {}" aria-label="{}"><title>{}</title>{}</svg>').format(
        WIDTH, HEIGHT, title, escape(title), Markup("").join(parts)
    )
