import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from icm_api.data.writers import write_json, write_jsonl, write_text
from icm_api.errors import ConfigError
from icm_api.types import Json


def test_rows_are_written_as_utf8_lines_into_a_new_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.jsonl"
    write_jsonl(path, iter([{"text": "é\n"}, {"n": None}]))
    assert path.read_bytes().decode() == '{"text": "é\\n"}\n{"n": null}\n'


def test_json_and_text_replace_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_text(path, "old\r\n")
    assert path.read_bytes() == b"old\r\n"
    write_json(path, {"a": [1, 2.5]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5]}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_is_refused_and_leaves_the_old_file_and_nothing_else(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    write_text(path, "old")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_jsonl(path, [{"a": 1}, {"a": bad}])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_a_failing_source_of_rows_leaves_the_old_file(tmp_path):
    def rows() -> Iterator[dict[str, Json]]:
        yield {"a": 1}
        raise RuntimeError("stopped half-way")

    write_text(tmp_path / "a.jsonl", "old")
    with pytest.raises(RuntimeError):
        write_jsonl(tmp_path / "a.jsonl", rows())
    assert (tmp_path / "a.jsonl").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.jsonl"]


def test_the_bytes_are_on_disk_before_the_rename(tmp_path, monkeypatch):
    calls = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments):
            calls.append(function.__name__)
            return function(*arguments)

        return call

    for function in (os.fsync, os.replace):
        monkeypatch.setattr(os, function.__name__, noted(function))
    write_text(tmp_path / "a", "x")
    assert calls == ["fsync", "replace", "fsync"], "the file, its name"


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/a\.json: cannot be written: (Not a directory|File exists)"):
        write_json(tmp_path / "file" / "a.json", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: cannot be written: Is a directory"):
        write_text(tmp_path / "folder", "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_file_gets_the_usual_rights(tmp_path):
    write_text(tmp_path / "a", "x")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode
