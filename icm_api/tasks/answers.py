"""The final answer of a worked solution, so that two solutions can be compared."""

from __future__ import annotations

import re

_MARKERS = (re.compile(r"####"), re.compile(r"^\s*A:", re.MULTILINE), re.compile(r"\banswer is\b", re.IGNORECASE))
"""What announces the answer, surest first: the data set's own mark, a line "A:", words."""
_NUMBER = re.compile(
    r"(?P<minus>(?<![\w.)])[-−])?(?:[$€£]\s?)?(?P<inner>(?<=[$€£])[-−])?"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+|(?=\.\d))(?P<decimals>\.\d+)?"
)


def final_answer(solution: str) -> str | None:
    """The number a solution ends with, in one spelling: "$1,200.00" and "1200" are both "1200".

    It is the number in the line after the last "####", else after the last "A:" that begins a line, else after the
    last "answer is" ("6 x 2 = 12" there gives 12), else the last number of the text. None where that has no number.
    """
    for marker in _MARKERS:
        *_, last = (None, *marker.finditer(solution))
        if last is not None:
            answer, _, _ = solution[last.end() :].strip().partition("\n")
            return _normal(_NUMBER.search(answer.rpartition("=")[2]))
    *_, number = (None, *_NUMBER.finditer(solution))
    return _normal(number)


def _normal(number: re.Match[str] | None) -> str | None:
    if number is None:
        return None
    whole = number["digits"].replace(",", "").lstrip("0") or "0"
    value = (whole + (number["decimals"] or "")).rstrip("0").rstrip(".") if number["decimals"] else whole
    negative = (number["minus"] or number["inner"]) and value != "0"
    return f"-{value}" if negative else value
