"""Where in the user's own code an error came up: a task or provider given as `module:Class` runs in this program."""

from __future__ import annotations

import site
import sys
import sysconfig
import traceback
from pathlib import Path

import icm_api

_INSTALLED = tuple(
    str(Path(folder).resolve())
    for folder in (
        *icm_api.__path__,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")),
        site.getusersitepackages(),
    )
)
_PACKAGES = {"site-packages", "dist-packages"}
"""Folders of installed packages, those of another installation on the path too."""


def blamed(error: BaseException) -> str | None:
    """The innermost place of the traceback that is in no installed package, with the error, in a line; None: there is
    none, so the fault is not in the user's code."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    return f"{own[-1].filename}, line {own[-1].lineno}: {type(error).__name__}: {error}" if own else None


def _is_own(filename: str) -> bool:
    """Frozen modules and code without a file are nobody's."""
    if filename.startswith("<"):
        return False
    path = Path(filename).resolve()
    installed = not _PACKAGES.isdisjoint(path.parts) or any(path.is_relative_to(folder) for folder in _INSTALLED)
    return not installed and path != Path(sys.argv[0]).resolve()
