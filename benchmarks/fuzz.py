"""Looks for inputs that reach new code in a parser, with atheris: `python -m benchmarks.fuzz TARGET [SECONDS]`.

TARGET is a test of tests/faults/test_fuzz.py; its checks decide what a finding is. atheris is no dependency: install it
in an environment of its own (`pip install atheris`, Linux). Prints how many inputs were tried and ends at the first
finding.
"""

from __future__ import annotations

import sys
from typing import Any

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
from hypothesis import given
from hypothesis import strategies as st

with atheris.instrument_imports(include=["icm_api"]):
    from tests.faults import test_fuzz

SECONDS = "60"


def target(name: str) -> Any:
    """The fuzz test of that name; `test_replies:vllm` is the one for that host."""
    test, _, host = name.partition(":")
    found = getattr(test_fuzz, test)
    if not host:
        return found.hypothesis.fuzz_one_input

    def on_host(data: st.DataObject) -> None:
        found.hypothesis.inner_test(host, data)

    wrapped: Any = test_fuzz.fuzzed(given(st.data())(on_host))
    return wrapped.hypothesis.fuzz_one_input


def main(name: str, seconds: str = SECONDS) -> None:
    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096", "-rss_limit_mb=4096"], target(name))
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
