"""Which program makes a run, so that another one that goes on with it can say so."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from operator import itemgetter
from pathlib import Path

from icm_api.errors import JournalError
from icm_api.run.journal import Manifest

PACKAGE = "icm_api"
SHOWING = ("cli", "report", "testing")
"""Its parts that decide neither which questions are asked nor which labels their answers give; all others may."""
KINDS = (".py", ".toml")
LIBRARIES = ("icm-api", "numpy", "highspy")
"""Random numbers are drawn by one and rules obeyed by another."""
DIGITS = 12


@cache
def fingerprint() -> str:
    """First digits of SHA-256 over the sources and built-in tasks of `PACKAGE` and the versions of `LIBRARIES`. Any
    kind of installation has one, an editable checkout and a zip file too; without sources the versions alone count."""
    digest = sha256()
    for name in LIBRARIES:
        digest.update(f"{name} {version(name)}\n".encode())
    for name, file in sorted(_sources(files(PACKAGE)), key=itemgetter(0)):
        digest.update(f"{name} {sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:DIGITS]


def _sources(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    """With their names below the package."""
    for entry in folder.iterdir():
        name = prefix + entry.name
        if name.endswith(KINDS):
            yield name, entry
        elif name not in SHOWING and entry.is_dir():
            yield from _sources(entry, f"{name}/")


def change_since(manifest: Manifest) -> str | None:
    """In words, what changed in the program since the run began. None: nothing, or that was not written down then."""
    now = fingerprint()
    if manifest.program in ("", now):
        return None
    here = version("icm-api")
    versions = manifest.version if manifest.version == here else f"{manifest.version} -> {here}"
    return f"icm-api {versions}, code {manifest.program} -> {now}"


def outgrown(path: Path, change: str, sign: str) -> JournalError:
    """The error for a run in the folder `path` that this program cannot go on with; `sign`: what shows it."""
    return JournalError(
        f"{path}: the program changed since the run began ({change}), and {sign}. Go on with that program, or label "
        "anew with `icm-api run`: replies in the cache are not paid for again"
    )
