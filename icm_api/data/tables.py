"""Parquet files, written as the other files are: whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from icm_api.errors import ConfigError
from icm_api.types import Json


def write_parquet(path: Path, rows: Sequence[Mapping[str, Json]]) -> None:
    """A column for each name of the first row; their types are those of the values. Raises ConfigError when pyarrow is
    missing or the path cannot be written."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{path}: parquet files need pyarrow: pip install 'icm-api[parquet]'") from None
    table = pyarrow.Table.from_pylist([dict(row) for row in rows])
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # same folder: a rename there is atomic
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            pyarrow.parquet.write_table(table, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror or error}") from error
