"""Replies kept on disk: a question asked once is never paid for again.

diskcache is used for its storage only. Its own way to store values is pickle, and reading a pickle can run code,
so nothing here writes one and a row that holds one is refused unread: `JsonDisk` knows text and nothing else.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, METADATA, MODE_RAW

from icm_api.client.codec import decode_reply, encode_reply, request_key
from icm_api.client.wrapper import Wrapper
from icm_api.errors import CacheError, IcmError, OutOfReachError
from icm_api.folders import make_private
from icm_api.providers.base import Provider
from icm_api.types import Request

R = TypeVar("R")

SETTINGS = {
    "statistics": 0,
    "tag_index": 0,
    "eviction_policy": "none",
    "cull_limit": 0,
    "sqlite_auto_vacuum": 0,
    "sqlite_journal_mode": "wal",
    "sqlite_wal_autocheckpoint": 4000,  # pages: a file sync every 16 MB instead of every 4
    "sqlite_synchronous": 1,  # NORMAL: a power cut may lose the last replies, never the database
}
REFUSED = "refused "
"""Before the key of a request whose answer says nothing of the labels; under it stands the text of that error."""
BUSY_TIMEOUT_S = 60.0
"""How long to wait for another process that is writing to the same folder."""


class JsonDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no type hints
    """Stores text under text, in the database itself; refuses every other row, on the way in and on the way out."""

    def put(self, key: object) -> tuple[str, bool]:
        return self._text(key), True

    def get(self, key: object, raw: bool) -> str:
        if not raw:
            raise CacheError(self._directory, "a key is stored as a pickle, which is never read")
        return self._text(key)

    def store(self, value: object, read: bool, key: object = None) -> tuple[int, int, None, str]:
        del read, key
        return 0, MODE_RAW, None, self._text(value)

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> str:
        del filename, read
        if mode != MODE_RAW:
            raise CacheError(self._directory, f"a row is stored as a pickle or a file (mode {mode}), never read here")
        return self._text(value)

    def _text(self, value: object) -> str:
        if not isinstance(value, str):
            raise CacheError(self._directory, f"a row holds {type(value).__name__} where only text belongs")
        return value


class Store:
    """Text by key in one folder, which several processes may share. Use `open_cache` to get one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _clear_errors(folder):
            make_private(folder)
            folder.chmod(0o700)
            _refuse_foreign_settings(folder)
            self._rows = diskcache.Cache(str(folder.resolve()), timeout=BUSY_TIMEOUT_S, disk=JsonDisk, **SETTINGS)

    def get(self, key: str) -> str | None:
        with _clear_errors(self.folder):
            return cast("str | None", self._rows.get(key))

    def put(self, key: str, text: str) -> None:
        with _clear_errors(self.folder):
            self._rows.set(key, text)

    def close(self) -> None:
        self._rows.close()


def open_cache(folder: Path) -> Store:
    """Open the cache in `folder`, made if need be; only its owner may enter it (0700). Raises `CacheError`."""
    return Store(folder)


@contextmanager
def _clear_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise CacheError(folder, str(error)) from error
    except diskcache.Timeout as error:
        raise CacheError(folder, f"another process kept it locked for {BUSY_TIMEOUT_S:.0f} s") from error


def _refuse_foreign_settings(folder: Path) -> None:
    """diskcache sets an attribute, pragma or Disk argument for each row of its Settings table: allow known ones."""
    if not (folder / DBNAME).exists():
        return
    with closing(sqlite3.connect(folder / DBNAME, timeout=BUSY_TIMEOUT_S)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'Settings'").fetchone():
            return
        names = {name for (name,) in connection.execute("SELECT key FROM Settings")}
    if foreign := names - SETTINGS.keys() - DEFAULT_SETTINGS.keys() - METADATA.keys():
        raise CacheError(folder, f"its settings hold unknown names {sorted(map(str, foreign))}")


class Cached(Wrapper):
    """Answers from the store; asks `inner` once for each question that is not there.

    Equal requests at the same time share one flight, its error too. Errors are never stored, but for `OutOfReachError`:
    that the model refuses to answer is an answer, and was paid for. Closes the store.
    """

    def __init__(self, inner: Provider, store: Store) -> None:
        super().__init__(inner)
        self.hits = 0
        """Paid requests that were answered without asking the host."""
        self._store = store
        self._flights: dict[str, asyncio.Future[Any]] = {}

    async def send(self, request: Request[R]) -> R:
        key = request_key(self.identity, request)
        while flight := self._flights.get(key):
            await asyncio.wait((flight,))
            if not flight.cancelled():
                reply: R = flight.result()
                self.hits += request.paid
                return reply
            # Whoever asked was cancelled before the answer came: ask in its place.
        if (text := self._store.get(key)) is not None:
            self.hits += request.paid
            return self._decode(request, text)
        if (refused := self._store.get(REFUSED + key)) is not None:
            self.hits += request.paid
            raise OutOfReachError(refused)
        return await self._fly(key, request)

    async def _fly(self, key: str, request: Request[R]) -> R:
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        try:
            reply = await self.inner.send(request)
            self._store.put(key, encode_reply(request, reply))
            flight.set_result(reply)
        except IcmError as error:
            if isinstance(error, OutOfReachError):
                self._store.put(REFUSED + key, str(error))
            flight.set_exception(error)
            flight.exception()  # seen: asyncio need not warn when nobody else waits for this flight
            raise
        finally:
            del self._flights[key]
            flight.cancel()  # nothing to do unless the flight ended without an answer
        return reply

    def _decode(self, request: Request[R], text: str) -> R:
        try:
            return decode_reply(request, text)
        except ValueError as error:
            raise CacheError(self._store.folder, f"a stored reply is not valid ({error})") from error

    async def aclose(self) -> None:
        await super().aclose()
        self._store.close()
