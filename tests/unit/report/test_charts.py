"""Charts as SVG."""

import xml.etree.ElementTree as ET

import pytest

from icm_api.report.charts import (
    FONTS,
    MOST_NAMED,
    Line,
    bar_chart,
    interval_chart,
    line_chart,
    reliability_chart,
    standalone,
)

NAMED = "{http://www.w3.org/2000/svg}"


def parsed(chart):
    return ET.fromstring(standalone(chart))


def words(chart):
    return {text.text for text in chart.findall(f"{NAMED}text")}


def test_a_line_goes_from_left_to_right_and_up_where_values_rise():
    chart = parsed(line_chart("rise", [Line("", [(1, 0.1), (2, 0.5), (3, 0.9)])], x_label="pass"))
    points = [tuple(map(float, point.split(","))) for point in chart.find(f"{NAMED}polyline").get("points").split()]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)  # up is a smaller y


@pytest.mark.parametrize("points", [[(1, 0.5)], [(1, 0.5), (2, 0.5)], [(0, -1e-9), (1, 1e9)], [(0, 0.0), (1, 0.0)]])
def test_any_finite_course_can_be_drawn(points):
    assert parsed(line_chart("any", [Line("one", points)], x_label="step")) is not None


def test_nothing_is_drawn_of_no_points():
    assert line_chart("none", [Line("one", [])], x_label="step") == ""


def test_several_lines_are_named():
    chart = standalone(line_chart("two", [Line("restart 1", [(1, 1)]), Line("restart 2", [(1, 2)])], x_label="pass"))
    assert "restart 1</text>" in chart
    assert "restart 2</text>" in chart


def test_lines_that_all_run_alike_are_one():
    chart = parsed(
        line_chart("same", [Line("restart 1", [(1, 1), (2, 0)]), Line("restart 2", [(1, 1), (2, 0)])], x_label="pass")
    )
    assert len(chart.findall(f"{NAMED}polyline")) == 1
    assert "restart 1" not in words(chart)


@pytest.mark.parametrize("n", [2, MOST_NAMED, MOST_NAMED + 1])
def test_a_legend_names_as_many_lines_as_can_be_told_apart(n):
    chart = parsed(line_chart("many", [Line(f"restart {k}", [(1, k), (2, 0)]) for k in range(n)], x_label="pass"))
    lines = chart.findall(f"{NAMED}polyline")
    named = {f"restart {k}" for k in range(n)} & words(chart)
    assert (len(lines), len(named)) == (n, n if n <= MOST_NAMED else 0)
    if named:
        assert len({(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}) == n


def test_a_file_is_on_white_under_its_title_and_needs_no_style_sheet():
    drawn = standalone(line_chart("two", [Line("a", [(1, 1)]), Line("b", [(1, 2), (2, 3)])], x_label="pass"))
    chart = ET.fromstring(drawn)
    assert "class" not in drawn
    assert "<style" not in drawn
    assert (chart.get("width"), chart.get("height")) == tuple(chart.get("viewBox", "").split()[2:])
    assert [rect.get("fill") for rect in chart.findall(f"{NAMED}rect")] == ["#fff"]
    assert "two" in words(chart)
    assert {text.get("font-family") for text in chart.findall(f"{NAMED}text")} == {FONTS}
    assert FONTS.endswith(", sans-serif"), "what every system has in the end"
    assert all(shape.get("stroke") for shape in chart.findall(f"{NAMED}line") + chart.findall(f"{NAMED}polyline"))


def test_a_name_that_looks_like_an_attribute_is_left_as_it_is():
    chart = parsed(line_chart("odd", [Line('class="c0"', [(1, 1)]), Line("<text b", [(1, 2)])], x_label="pass"))
    assert {'class="c0"', "<text b"} <= words(chart)


def test_thousands_are_written_with_commas_and_never_as_powers():
    chart = parsed(line_chart("large", [Line("", [(0, 0), (2_000_000, 1)])], x_label="step"))
    assert {"1,000,000", "2,000,000"} <= words(chart)


def test_names_are_escaped():
    chart = standalone(line_chart("<b>", [Line("<script>", [(1, 1)]), Line("b", [(1, 1)])], x_label="&"))
    assert "<script>" not in chart
    assert "<b>" not in chart
    ET.fromstring(chart)


def test_bars_are_as_high_as_their_values():
    _, *bars = parsed(bar_chart("bars", [0, 2, 4], low=0, high=1, x_label="confidence")).findall(f"{NAMED}rect")
    heights = [float(bar.get("height")) for bar in bars]
    assert heights[0] == 0
    assert heights[2] == pytest.approx(2 * heights[1], abs=0.2)


def test_a_reliability_chart_has_a_dot_a_bin_and_the_ideal():
    chart = parsed(reliability_chart("right", [(0.55, 0.5, 10), (0.95, 0.9, 40)]))
    assert len(chart.findall(f"{NAMED}circle")) == 2
    assert sum(line.get("stroke-dasharray") is not None for line in chart.findall(f"{NAMED}line")) == 1


def test_each_bar_has_its_share_and_its_interval():
    drawn = interval_chart("accuracy", [("zero-shot", 0.5, 0.4, 0.6), ("<b>", 0.9, 0.8, 0.95)])
    assert "zero-shot: 0.500 (0.400 to 0.600)" in drawn
    assert drawn.count("<rect") == drawn.count('class="whisker"') == 2
    assert "<b>" not in drawn
    ET.fromstring(standalone(drawn))
