"""Which runs were begun here. The folder of a run decides whom a resumed run asks with which key, what code it loads
and which files it writes, so one from elsewhere is a configuration that somebody else wrote.

A run that begins gets a mark: an HMAC of its manifest under a random secret of the user's, which nobody who sends a
folder knows and which a change of the manifest makes void.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter

from icm_api.client.codec import canonical_json
from icm_api.errors import JournalError
from icm_api.folders import make_private
from icm_api.local.models import default_cache_dir
from icm_api.providers.registry import ENTRIES
from icm_api.run.compose import Say
from icm_api.run.journal import Manifest, State
from icm_api.types import Json

SECRET = "secret"  # noqa: S105  (a file's name)
"""File in the user's own cache folder. Never in one that a run names: that may have come with the run."""
SECRET_BYTES = 32
DECIDING = ("provider", "base_url", "api_key_env", "model", "task", "data", "relations", "pin", "cache_dir", "out")
"""Settings that say whom to ask, with which key, what to load and what to read and write."""

_MANIFEST = TypeAdapter(Manifest)


def marked(manifest: Manifest, environ: Mapping[str, str], say: Say | None = None) -> Manifest:
    """The manifest with this user's mark; without one, which `say` gets to know, where no secret can be kept."""
    path = default_cache_dir(environ) / SECRET
    with suppress(OSError):
        _make_secret(path)
    secret = _secret(path)
    if secret is not None:
        return replace(manifest, mark=_mark(manifest, secret))
    if say:
        say(
            f"notice: {path}, by which your runs are known, cannot be made or read: this run gets no mark of yours, "
            "and all that comes after it (`resume`, `export` and others) will need --trust"
        )
    return manifest


def begun_here(manifest: Manifest, environ: Mapping[str, str]) -> bool:
    """Whether it has this user's mark and is as it was when it got it."""
    secret = _secret(default_cache_dir(environ) / SECRET)
    return secret is not None and hmac.compare_digest(manifest.mark.encode(), _mark(manifest, secret).encode())


def limits_mark(manifest: Manifest, limits: Mapping[str, object], environ: Mapping[str, str]) -> str:
    """The mark of limits that this user gave to this run when it was resumed; empty where no secret is kept."""
    secret = _secret(default_cache_dir(environ) / SECRET)
    content: Json = [manifest.run_id, manifest.mark, {name: str(limit) for name, limit in limits.items()}]
    return "" if secret is None else _keyed(content, secret)


def given_here(manifest: Manifest, state: State, environ: Mapping[str, str]) -> bool:
    """Whether the limits of the state have this user's mark."""
    mark = limits_mark(manifest, state.limits, environ)
    return mark != "" and hmac.compare_digest(state.limits_mark.encode(), mark.encode())


def refuse_foreign(
    path: Path, manifest: Manifest, environ: Mapping[str, str], *, trust: bool, say: Say | None = None
) -> None:
    """Raise JournalError, which shows the settings that decide, for a run that was not begun here. With `trust` `say`
    gets them instead."""
    if begun_here(manifest, environ):
        return
    settings = ", ".join(f"{name}={value!r}" for name, value in _deciding(manifest))
    if not trust:
        raise JournalError(
            f"{path}: {_why_foreign(manifest, default_cache_dir(environ) / SECRET)}. What its own settings name would "
            f"be loaded, read and asked: {settings}. If that is what you want, give --trust"
        )
    if say:
        say(f"trusting a run that was not begun here: {settings}")


def _why_foreign(manifest: Manifest, secret: Path) -> str:
    if not manifest.mark:
        return (
            f"this run has no mark of who began it: none could be made then (by {secret}), it was taken away, or the "
            "run was begun by another version"
        )
    return (
        "this run was begun by somebody else or elsewhere, or its manifest was changed since (or "
        f"{secret}, by which your runs are known, is gone)"
    )


def _deciding(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """With the host and the key's variable that a provider has where none is named."""
    config = manifest.config
    entry = next((entry for entry in ENTRIES if entry.name == config.get("provider")), None)
    usual = (
        {} if entry is None or config.get("base_url") else {"base_url": entry.base_url, "api_key_env": entry.key_env}
    )
    for name in DECIDING:
        if value := config.get(name) or usual.get(name):
            yield name, str(value)


def _mark(manifest: Manifest, secret: bytes) -> str:
    return _keyed(_MANIFEST.dump_python(replace(manifest, mark=""), mode="json"), secret)


def _keyed(content: Json, secret: bytes) -> str:
    return hmac.new(secret, canonical_json(content).encode("ascii"), "sha256").hexdigest()


def _secret(path: Path) -> bytes | None:
    """None: there is none, or what is there is no secret of ours."""
    try:
        secret = path.read_bytes()
    except OSError:
        return None
    return secret if len(secret) == SECRET_BYTES else None


def _make_secret(path: Path) -> None:
    """Unless there is one. What has not its length is none, such as one whose writing a full disk cut short. Raises
    OSError."""
    if path.exists() and path.stat().st_size == SECRET_BYTES:
        return
    make_private(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    number = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
        _put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _put(draft: Path, path: Path) -> None:
    """Whole from the first moment; of several processes that make the first one at once, one wins."""
    with suppress(OSError):  # one is there, or the file system has no hard links
        os.link(draft, path)
    if _secret(path) is None:
        draft.replace(path)
