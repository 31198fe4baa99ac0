"""Runs the command line in this process, with a cache and runs of its own."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icm_api.cli import main


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Finished]


@pytest.fixture
def icm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`icm("run", "data.jsonl", ...)` in an empty folder."""
    for name in [name for name in os.environ if name.startswith("ICM_API_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["icm-api", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        captured = capsys.readouterr()
        return Finished(code, captured.out, captured.err)

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """`write("name", text)` or `write("name", [rows])`; returns the name."""

    def to_file(name: str, content: str | bytes | list[Any]) -> str:
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return to_file


@pytest.fixture
def reviews(write: Callable[..., str]) -> str:
    """Twelve rows with gold labels."""
    rows = [{"id": f"r{i}", "text": f"review number {i}", "gold": bool(i % 2)} for i in range(12)]
    return write("reviews.jsonl", rows)
