"""Looks for inputs that reach new code in a parser, with atheris: `python -m benchmarks.fuzz TARGET [SECONDS]`.

TARGET is a test of tests/faults/test_fuzz.py; its checks decide what a finding is. atheris is no dependency: install it
in an environment of its own (`pip install atheris`, Linux). Prints how many inputs were tried and ends at the first
finding.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["icm_api"]):
    from tests.faults import test_fuzz

SECONDS = "60"


def target(name: str) -> Any:
    """The fuzz test of that name; `test_replies:vllm` is the one for that host."""
    test, _, host = name.partition(":")
    found = getattr(test_fuzz, test).hypothesis
    if host:
        found.inner_test = partial(found.inner_test, host)
    return found.fuzz_one_input


def main(name: str, seconds: str = SECONDS) -> None:
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096"], target(name))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
