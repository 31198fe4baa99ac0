"""Everything that is wrong with a file, raised at once."""

from __future__ import annotations

from collections.abc import Sequence

from icm_api.errors import DataError

SHOWN = 20
"""How many problems a message spells out; the rest are counted."""


def raise_problems(problems: Sequence[str]) -> None:
    """Raise one `DataError` with the first 20 problems and the number of the others; nothing happens without any."""
    if problems:
        more = len(problems) - SHOWN
        counted = [f"... and {more} more problem{'s' if more > 1 else ''}"] if more > 0 else []
        raise DataError([*problems[:SHOWN], *counted])


def shown(value: object) -> str:
    """A value as messages show it: in JSON's words, and short."""
    if isinstance(value, str | float | int) and not isinstance(value, bool):
        text = repr(value)
        return text if len(text) <= 60 else f"{text[:57]}..."
    words = {"NoneType": "null", "bool": str(value).lower(), "list": "a list", "dict": "an object"}
    kind = type(value).__name__
    return words.get(kind, f"a {kind}")
