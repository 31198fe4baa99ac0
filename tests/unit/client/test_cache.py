import asyncio
import json
import pickle
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icm_api.client.cache import Cached, JsonDisk, Store, open_cache
from icm_api.client.codec import request_key
from icm_api.errors import BudgetError, CacheError, OutOfReachError
from tests.unit.client.scripted import Gated, Scripted, answer, ask, broken, count_tokens, settle


@pytest.fixture
def store(tmp_path):
    store = open_cache(tmp_path / "cache")
    yield store
    store.close()


class Trap:
    """A pickle of this makes a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def plant(store: Store, **columns: Any) -> None:
    """Write straight into the database the row of `ask()`, as someone else could."""
    row = {"key": request_key(Scripted().identity, ask()), "raw": 1, "mode": 1, "store_time": 0.0, **columns}
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    with closing(sqlite3.connect(store.folder / "cache.db")) as database, database:
        database.execute(f"INSERT OR REPLACE INTO Cache ({names}) VALUES ({marks})", tuple(row.values()))


# --- what is stored -----------------------------------------------------------------------------------------------


async def test_a_question_asked_twice_is_sent_once(store):
    host = Scripted()
    cached = Cached(host, store)
    assert await cached.send(ask()) == await cached.send(ask()) == answer()
    assert (len(host.sent), cached.hits) == (1, 1)


async def test_replies_outlive_the_process_that_stored_them(store, tmp_path):
    await Cached(Scripted(), store).send(ask())
    host = Scripted()
    with closing(open_cache(tmp_path / "cache")) as again:
        assert await Cached(host, again).send(ask()) == answer()
    assert host.sent == []


async def test_an_unpaid_request_is_kept_too_but_saves_nothing_worth_counting(store):
    host = Scripted()
    cached = Cached(host, store)
    assert await cached.send(count_tokens("one two")) == await cached.send(count_tokens("one two"))
    assert (len(host.sent), cached.hits) == (1, 0)


async def test_another_identity_misses(store):
    await Cached(Scripted(), store).send(ask())
    host = Scripted(identity={"host": "memory", "model": "m", "route": "chat"})
    await Cached(host, store).send(ask())
    assert len(host.sent) == 1


async def test_an_error_is_never_stored(store):
    host = Scripted([broken()])
    cached = Cached(host, store)
    with pytest.raises(type(broken())):
        await cached.send(ask())
    assert await cached.send(ask()) == answer()
    assert (len(host.sent), cached.hits) == (2, 0)


async def test_a_refusal_to_answer_is_an_answer_and_never_paid_for_twice(store):
    host = Scripted([OutOfReachError("the model refuses to answer", provider="scripted", request_id="r1")])
    cached = Cached(host, store)
    with pytest.raises(OutOfReachError) as first:
        await cached.send(ask())
    with pytest.raises(OutOfReachError) as second:
        await cached.send(ask())
    assert str(second.value) == str(first.value)
    assert (len(host.sent), cached.hits) == (1, 1)


async def test_rows_are_readable_json_with_their_schema_and_kind(store):
    await Cached(Scripted(), store).send(ask("Ist Wasser naß? 水"))
    with closing(sqlite3.connect(store.folder / "cache.db")) as database:
        ((mode, filename, text),) = database.execute("SELECT mode, filename, value FROM Cache").fetchall()
    assert (mode, filename) == (1, None)
    assert json.loads(text)["schema"] == 1
    assert json.loads(text)["kind"] == "next_token"
    assert json.loads(text)["reply"]["candidates"][0] == {"text": " True", "logprob_nats": -0.1, "token_id": 17}


async def test_a_large_reply_stays_in_the_database(store):
    reply = replace(answer(), model="x" * 200_000)
    cached = Cached(Scripted([reply]), store)
    await cached.send(ask())
    assert await cached.send(ask()) == reply
    assert {path.name for path in store.folder.iterdir()} <= {"cache.db", "cache.db-wal", "cache.db-shm"}


def test_nothing_is_evicted_and_only_the_owner_may_enter(store):
    with closing(sqlite3.connect(store.folder / "cache.db")) as database:
        settings = dict(database.execute("SELECT key, value FROM Settings"))
        assert database.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    assert (settings["eviction_policy"], settings["cull_limit"]) == ("none", 0)
    assert settings["sqlite_synchronous"] == 1
    assert store.folder.stat().st_mode & 0o777 == 0o700


def test_an_open_folder_is_shut(tmp_path):
    tmp_path.chmod(0o777)
    open_cache(tmp_path).close()
    assert tmp_path.stat().st_mode & 0o777 == 0o700


# --- what is refused ----------------------------------------------------------------------------------------------


async def refuse(store: Store, match: str) -> None:
    host = Scripted()
    with pytest.raises(CacheError, match=match) as caught:
        await Cached(host, store).send(ask())
    assert host.sent == []
    assert str(store.folder) in str(caught.value)
    assert "delete the folder" in str(caught.value)


async def test_a_planted_pickle_row_is_refused_and_never_runs(store, tmp_path):
    plant(store, mode=4, value=pickle.dumps(Trap(tmp_path / "ran")))
    await refuse(store, "pickle")
    assert not (tmp_path / "ran").exists()


async def test_a_planted_pickle_file_is_refused_and_never_runs(store, tmp_path):
    (store.folder / "planted.val").write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    plant(store, mode=4, filename="planted.val", value=None)
    await refuse(store, "pickle")
    assert not (tmp_path / "ran").exists()


def test_the_trap_of_these_tests_does_spring_when_it_is_read(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


def test_a_planted_pickle_key_is_refused_and_never_runs(store, tmp_path):
    plant(store, key=pickle.dumps(Trap(tmp_path / "ran")), raw=0, value="{}")
    with pytest.raises(CacheError, match="pickle"):
        list(store._rows)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mode", [2, 3])
async def test_a_planted_row_cannot_make_us_read_a_file(store, tmp_path, mode):
    (tmp_path / "secret").write_text("{}")
    plant(store, mode=mode, filename="../secret", value=None)
    await refuse(store, "a file")


@pytest.mark.parametrize("value", [b"{}", 1, None, "", "{}", "null", '{"schema":1,"kind":"next_token","reply":{}}'])
async def test_a_row_that_is_not_a_reply_is_refused(store, value):
    plant(store, value=value)
    await refuse(store, "only text|not valid")


async def test_a_row_of_broken_text_is_refused(store):
    plant(store, value=b"\xff")
    with closing(sqlite3.connect(store.folder / "cache.db")) as database, database:
        database.execute("UPDATE Cache SET value = CAST(value AS TEXT)")
    await refuse(store, "UTF-8")


@pytest.mark.parametrize("value", [{"a": 1}, b"bytes", 1, None, 1.5])
def test_the_disk_writes_text_only(tmp_path, value):
    disk = JsonDisk(str(tmp_path))
    with pytest.raises(CacheError, match="only text"):
        disk.store(value, read=False)
    with pytest.raises(CacheError, match="only text"):
        disk.put(value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["disk_fetch", "_directory", "sqlite_writable_schema", "get"])
def test_a_planted_setting_is_refused(store, name):
    with closing(sqlite3.connect(store.folder / "cache.db")) as database, database:
        database.execute("INSERT INTO Settings VALUES (?, '1')", (name,))
    with pytest.raises(CacheError, match=name):
        open_cache(store.folder)


def test_a_folder_with_another_database_is_refused_by_name(tmp_path):
    (tmp_path / "cache.db").write_bytes(b"not a database" * 100)
    with pytest.raises(CacheError, match="not a database"):
        open_cache(tmp_path)


def test_a_cache_folder_that_is_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(CacheError, match="cache"):
        open_cache(tmp_path / "cache")


# --- one flight for equal requests --------------------------------------------------------------------------------


async def test_equal_requests_at_the_same_time_share_one_flight(store):
    host = Gated()
    cached = Cached(host, store)
    tasks = [asyncio.create_task(cached.send(ask())) for _ in range(5)]
    await settle()
    host.gates[0].set_result(answer())
    assert await asyncio.gather(*tasks) == [answer()] * 5
    assert (len(host.sent), cached.hits) == (1, 4)


async def test_those_who_share_a_flight_share_its_error(store):
    host = Gated()
    cached = Cached(host, store)
    tasks = [asyncio.create_task(cached.send(ask())) for _ in range(3)]
    await settle()
    stopped = BudgetError("max_requests", 1, 1)
    host.gates[0].set_exception(stopped)
    assert await asyncio.gather(*tasks, return_exceptions=True) == [stopped] * 3
    assert (len(host.sent), cached.hits) == (1, 0)


async def test_when_the_first_is_cancelled_another_asks_in_its_place(store):
    host = Gated()
    cached = Cached(host, store)
    first, *others = [asyncio.create_task(cached.send(ask())) for _ in range(3)]
    await settle()
    first.cancel()
    await settle()
    host.gates[1].set_result(answer())
    assert await asyncio.gather(*others) == [answer()] * 2
    assert (len(host.sent), cached.hits) == (2, 1)


async def test_a_cancelled_follower_leaves_the_flight_alone(store):
    host = Gated()
    cached = Cached(host, store)
    first, second = [asyncio.create_task(cached.send(ask())) for _ in range(2)]
    await settle()
    second.cancel()
    await settle()
    host.gates[0].set_result(answer())
    assert await first == answer()
    assert second.cancelled()


async def test_different_requests_do_not_wait_for_each_other(store):
    host = Gated()
    cached = Cached(host, store)
    tasks = [asyncio.create_task(cached.send(ask(query))) for query in "ab"]
    await settle()
    host.gates[1].set_result(answer())
    assert await tasks[1] == answer()
    host.gates[0].set_result(answer())
    await tasks[0]


# --- several processes --------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from icm_api.client.cache import open_cache
store = open_cache(Path(sys.argv[1]))
for number in range(40):
    store.put(f"{sys.argv[2]}-{number}", f"{number}")
    store.put(f"both-{number}", f"{number}")
store.close()
"""


def test_two_processes_may_write_to_one_folder(tmp_path):
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WRITER, str(folder)]
    writers = [subprocess.Popen([*command, name]) for name in ("left", "right")]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    with closing(open_cache(folder)) as store:
        keys = [f"{name}-{number}" for name in ("left", "right", "both") for number in range(40)]
        assert [store.get(key) for key in keys] == [key.split("-")[1] for key in keys]


def test_a_folder_locked_for_too_long_is_an_error_by_name(store, monkeypatch):
    store._rows._sql("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(store.folder / "cache.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(CacheError, match="locked"):
            store.put("a", "b")
        assert store.get("a") is None


async def test_closing_closes_the_provider_and_may_be_done_twice(store):
    host = Scripted()
    cached = Cached(host, store)
    await cached.aclose()
    await cached.aclose()
    assert host.closed == 2
