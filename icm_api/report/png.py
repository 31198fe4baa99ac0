"""Charts as PNG, for slides and texts that take no SVG. Drawn by resvg, which the extra `png` brings."""

from __future__ import annotations

from importlib.util import find_spec

from icm_api.errors import ConfigError

WIDTH_PIXELS = 1360
GET_PNG = "pip install 'icm-api[png]'"


def can_draw() -> bool:
    """Whether the extra is installed."""
    return find_spec("resvg_py") is not None


def png(svg: str) -> bytes:
    """The picture of an SVG file's text, `WIDTH_PIXELS` wide.

    Raises ConfigError where the system has no font: words would be left out in silence.
    """
    from resvg_py import svg_to_bytes

    drawn = svg_to_bytes(svg_string=svg, width=WIDTH_PIXELS)
    if "<text" in svg and drawn == svg_to_bytes(svg_string=svg, width=WIDTH_PIXELS, skip_system_fonts=True):
        raise ConfigError("PNG: this system has no font to write with (Debian: fonts-dejavu-core)")
    return drawn
