"""Charts as PNG."""

import struct

import pytest
import resvg_py

from icm_api.errors import ConfigError
from icm_api.report.charts import bar_chart, standalone
from icm_api.report.png import WIDTH_PIXELS, png


def test_a_chart_becomes_a_picture_in_its_proportions():
    drawn = png(standalone(bar_chart("bars", [0, 2, 4], low=0, high=1, x_label="confidence")))
    assert drawn.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", drawn[16:24])
    assert (width, height / width) == (WIDTH_PIXELS, pytest.approx(228 / 340, abs=0.01))


@pytest.fixture
def no_fonts(monkeypatch):
    """A system without fonts."""
    drawn = resvg_py.svg_to_bytes
    monkeypatch.setattr(resvg_py, "svg_to_bytes", lambda **options: drawn(**{**options, "skip_system_fonts": True}))


@pytest.mark.usefixtures("no_fonts")
def test_a_picture_that_lacks_its_words_is_an_error():
    with pytest.raises(ConfigError, match="no font to write with"):
        png(standalone(bar_chart("bars", [0, 2, 4], low=0, high=1, x_label="confidence")))


@pytest.mark.usefixtures("no_fonts")
def test_a_picture_without_words_needs_no_font():
    svg = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    assert png(svg).startswith(b"\x89PNG")
