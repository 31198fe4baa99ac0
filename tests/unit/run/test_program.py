"""The fingerprint of the program tells one from another, however it is installed."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest

from icm_api.run import program


@pytest.fixture
def fingerprint_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of a package in a zip file with these sources."""
    numbers = iter(range(9))

    def make(**sources: str) -> str:
        name = f"zipped{next(numbers)}"
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for module, source in {"__init__": "", **sources}.items():
                archive.writestr(f"{name}/{module}.py", source)
        monkeypatch.syspath_prepend(str(tmp_path / f"{name}.zip"))
        monkeypatch.setattr(program, "PARTS", (name,))
        return program.fingerprint.__wrapped__()

    return make


def test_this_program_has_one():
    assert re.fullmatch("[0-9a-f]{12}", program.fingerprint())


def test_a_package_in_a_zip_file_has_one_that_changes_with_its_sources(fingerprint_of):
    digests = {fingerprint_of(a="x = 1"), fingerprint_of(a="x = 2"), fingerprint_of(a="x = 1", b="")}
    assert len(digests) == 3
