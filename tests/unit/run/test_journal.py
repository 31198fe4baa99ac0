"""The files of a run: what is written stays, what is torn is dropped, what is another's is left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icm_api.client.meter import NOTHING, Snapshot
from icm_api.errors import ConfigError, JournalError
from icm_api.run.journal import (
    DivergedError,
    Journal,
    Manifest,
    State,
    existing_folder,
    is_locked,
    new_folder,
    read_manifest,
    read_state,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def manifest(**changes: Any) -> Manifest:
    given: dict[str, Any] = {
        "format": 1,
        "run_id": "a",
        "begun": "2026-01-01T00:00:00+00:00",
        "version": "0",
        "config": {},
        "given": (),
        "cwd": "/",
        "cwd_from_run": "..",
        "hashes": {},
        "provider": {},
        "price": None,
        "probe": None,
        "planned": {},
    }
    return Manifest(**{**given, **changes})


def fill(path: Path, *records: dict[str, Any]) -> None:
    journal = Journal(path)
    assert [journal.add(record) for record in records] == [True] * len(records)
    journal.close()


def test_lines_that_are_there_must_come_again_and_new_ones_follow(path):
    fill(path, {"step": 0}, {"step": 1})
    before = path.read_bytes()
    journal = Journal(path)
    assert [journal.add({"step": k}) for k in range(3)] == [False, False, True]
    journal.close()
    assert path.read_bytes() == before + b'{"step": 2}\n'


def test_a_line_that_is_not_as_it_was_is_an_error_that_shows_it_and_changes_nothing(path):
    fill(path, {"step": 0, "labels": ["a"]}, {"step": 1})
    before = path.read_bytes()
    journal = Journal(path)
    with pytest.raises(DivergedError) as error:
        journal.add({"step": 0, "labels": ["b"]})
    assert error.value.was == {"step": 0, "labels": ["a"]}
    assert path.read_bytes() == before
    journal.cut()
    assert journal.add({"step": 0, "labels": ["b"]})
    journal.close()
    assert path.read_bytes() == b'{"step": 0, "labels": ["b"]}\n'


def test_sums_that_another_processor_rounds_otherwise_are_the_same(path):
    fill(path, {"shares": [0.1 + 0.2], "utility": -1e-17})
    journal = Journal(path)
    assert not journal.add({"shares": [0.3], "utility": 0.0})
    journal.close()


@pytest.mark.parametrize("size", [1, 10, 70_000, 200_000])
def test_a_torn_last_line_is_dropped_however_long_it_is(path, size):
    fill(path, {"step": 0})
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * size)
    journal = Journal(path)
    assert path.read_bytes() == whole
    journal.close()


def test_a_file_that_is_nothing_but_torn_is_empty(path):
    path.write_bytes(b'{"step"')
    journal = Journal(path)
    assert journal.empty
    journal.close()


def test_a_damaged_line_is_named(path):
    path.write_bytes(b"not json\n")
    journal = Journal(path)
    with pytest.raises(JournalError, match="a line is damaged"):
        journal.add({"step": 0})
    journal.close()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_never_written(path, value):
    journal = Journal(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        journal.add({"utility": value})
    journal.close()
    assert path.read_bytes() == b""


def test_a_journal_can_be_open_once(path):
    journal = Journal(path)
    with pytest.raises(JournalError, match="another process is working on this run"):
        Journal(path)
    assert is_locked(path.parent)
    journal.close()
    assert not is_locked(path.parent)
    Journal(path).close()


FULL = """
import resource, signal, sys
from pathlib import Path
from icm_api.errors import JournalError
from icm_api.run.journal import Journal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal(Path(sys.argv[1]))
journal.add({"step": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
try:
    journal.add({"step": 1, "much": "x" * 100})
except JournalError as error:
    print(error)
journal.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_disk_that_takes_half_a_line_is_an_error_by_name_and_the_half_is_dropped(path):
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert "journal.jsonl: cannot be used: File too large" in done.stdout
    assert len(path.read_bytes()) == 40
    Journal(path).close()
    assert path.read_bytes() == b'{"step": 0}\n'


# --- folders ------------------------------------------------------------------------------------------------------


def test_what_is_stored_reads_back_the_same(tmp_path):
    state = State(status="stopped", steps=3, spent=NOTHING, limits={"max_requests": 5}, pid=7)
    with new_folder(tmp_path / "run") as folder:
        folder.begin(manifest(config={"seed": 1}))
        folder.save(state)
    assert read_state(tmp_path / "run") == state
    assert read_manifest(tmp_path / "run") == manifest(config={"seed": 1})


def test_money_and_unknown_counts_read_back_exactly(tmp_path):
    from decimal import Decimal

    spent = Snapshot(3, 1, 0, None, None, None, 2, 99, Decimal("0.1234567890123456789"), None)
    with new_folder(tmp_path / "run") as folder:
        folder.begin(manifest())
        folder.save(State(spent=spent))
    assert read_state(tmp_path / "run").spent == spent


def test_a_run_that_never_begins_leaves_nothing(tmp_path):
    with new_folder(tmp_path / "a" / "run") as folder:
        (folder.path / "replies").mkdir()
    assert not (tmp_path / "a" / "run").exists()


def test_a_folder_that_was_there_keeps_what_was_in_it(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RuntimeError), new_folder(tmp_path):
        raise RuntimeError
    assert os.listdir(tmp_path) == ["notes.txt"]


@pytest.mark.parametrize(
    "name", ["labels.jsonl", "summary.json", "state.json", "inputs.jsonl", "pins.jsonl", "steps.jsonl"]
)
def test_a_file_that_is_not_known_to_be_a_runs_is_not_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=name), new_folder(tmp_path):
        pass
    assert {each: (tmp_path / each).read_text() for each in os.listdir(tmp_path)} == {name: "mine"}


def test_a_run_is_not_written_over_but_one_without_a_step_may_begin_anew(tmp_path):
    for _ in range(2):
        with new_folder(tmp_path) as folder:
            folder.begin(manifest())
    with existing_folder(tmp_path) as (folder, _):
        folder.journal.add({"step": 0})
    with pytest.raises(ConfigError, match="holds a run already: go on with it"), new_folder(tmp_path):
        pass


def test_what_a_kill_before_the_beginning_left_is_no_obstacle(tmp_path):
    for name in ("journal.jsonl", "inputs.jsonl", "pins.jsonl", "state.json"):
        (tmp_path / name).write_text("")
    with new_folder(tmp_path) as folder:
        folder.begin(manifest())
    assert read_manifest(tmp_path) == manifest()


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    with new_folder(tmp_path) as folder:
        folder.begin(manifest())
    (tmp_path / ".state.json.12ab34cd.tmp").write_text("{")
    with existing_folder(tmp_path):
        assert not list(tmp_path.glob(".*"))


def test_a_folder_without_a_run_is_said_to_have_none(tmp_path):
    with pytest.raises(JournalError, match="no run is kept here"), existing_folder(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is damaged"),
        (json.dumps({"format": 2}), "format 2 of run folders, and this one has 1"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(JournalError, match=message):
        read_manifest(tmp_path)
