"""Atomic writes: a reader sees the old file or the whole new one, never half of it."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from icm_api.errors import ConfigError
from icm_api.types import Json


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Json]], *, durable: bool = True) -> None:
    """One JSON object a line. Raises as `write_text`, and `ValueError` for NaN or infinity (the old file stays)."""
    _write(path, (f"{_dump(row)}\n" for row in rows), durable)


def write_json(path: Path, value: Json | Mapping[str, Json]) -> None:
    """One indented JSON value. Raises as `write_jsonl`."""
    write_text(path, f"{_dump(value, indent=2)}\n")


def write_text(path: Path, text: str, *, durable: bool = True) -> None:
    """UTF-8, line ends as they are; the folder is created. Raises `ConfigError` when the path cannot be written.

    `durable`: it outlives a power cut too, which takes some milliseconds; else only the end of this process.
    """
    _write(path, (text,), durable)


def _dump(value: Json | Mapping[str, Json], indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _write(path: Path, parts: Iterable[str], durable: bool) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # same folder: a rename there is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("x", encoding="utf-8", newline="") as file:
                file.writelines(parts)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _sync_folder(folder: Path) -> None:
    """The rename itself. Windows has no such call, and needs none."""
    if sys.platform != "win32":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
