"""The fingerprint of the program tells one from another, however it is installed."""

from __future__ import annotations

import itertools
import re
import zipfile
from pathlib import Path

import pytest

from icm_api.run import program

NUMBERS = itertools.count()
"""A package that was imported once stays, so each has a name of its own."""


@pytest.fixture
def fingerprint_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a package in a zip file with these files."""

    def make(files: dict[str, str]) -> str:
        name = f"zipped{next(NUMBERS)}"
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for file, content in {"__init__.py": "", **files}.items():
                archive.writestr(f"{name}/{file}", content)
        monkeypatch.syspath_prepend(str(tmp_path / f"{name}.zip"))
        monkeypatch.setattr(program, "PACKAGE", name)
        digest: str = program.fingerprint.__wrapped__()
        return digest

    return make


def test_this_program_has_one():
    assert re.fullmatch("[0-9a-f]{12}", program.fingerprint())


def test_a_package_in_a_zip_file_has_one_that_changes_with_its_sources(fingerprint_of):
    a, b = {"a.py": "x = 1"}, {"a.py": "x = 2"}
    assert len({fingerprint_of(a), fingerprint_of(b), fingerprint_of(a | {"b.py": ""})}) == 3
    assert fingerprint_of(a) == fingerprint_of(a)


@pytest.mark.parametrize("file", ["types.py", "client/stack.py", "config.py", "tasks/builtin/classify.toml"])
def test_it_changes_with_every_file_that_can_change_a_label(fingerprint_of, file):
    assert fingerprint_of({file: "x = 1"}) != fingerprint_of({file: "x = 2"})


@pytest.mark.parametrize("file", ["cli/app.py", "report/page.py", "testing/checks.py", "data/demo.jsonl"])
def test_it_stays_with_what_only_shows_or_tests(fingerprint_of, file):
    assert fingerprint_of({file: "x = 1"}) == fingerprint_of({file: "x = 2"})
