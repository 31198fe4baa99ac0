import json
import os
from pathlib import Path

import pytest

import icm_api
from icm_api.errors import BudgetError, DataError, JournalError
from icm_api.run.load import load_run

ROWS = [{"id": f"r{i}", "text": f"review number {i}", "gold": bool(i % 2)} for i in range(12)]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A finished run over a file."""
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    label("data.jsonl")
    return Path("run")


def label(data, **more):
    return icm_api.label(data, task="classify", labels="no,yes", provider="synthetic", run_dir="run", **more)


def test_a_run_comes_back_with_its_job_its_labels_and_its_journal(run):
    found = load_run(run, os.environ)
    assert found.status == found.state.status == "finished"
    assert [row.id for row in found.rows] == [example.id for example in found.job.examples]
    assert [found.job.label_names[k] for k in found.labels if k is not None] == [row.label for row in found.rows]
    assert found.summary is not None
    assert found.summary["run_id"] == found.manifest.run_id
    assert len(found.journal()) == found.state.steps


def test_a_torn_last_line_of_the_journal_is_left_out(run):
    whole = load_run(run, os.environ).journal()
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b'{"step": 9')
    assert load_run(run, os.environ).journal() == whole
    with (run / "journal.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(JournalError, match="the line is damaged"):
        load_run(run, os.environ).journal()


def test_changed_data_are_refused_with_the_difference(run):
    Path("data.jsonl").write_text(Path("data.jsonl").read_text().replace("number 3", "number three"))
    with pytest.raises(JournalError, match="example 'r3' is another"):
        load_run(run, os.environ)


def test_moved_data_are_found_where_they_are_now(run):
    Path("data.jsonl").rename("elsewhere.jsonl")
    with pytest.raises(DataError, match="no such file") as error:
        load_run(run, os.environ)
    assert "--run-data (relations: --run-relations)" in error.value.__notes__[0]
    assert len(load_run(run, os.environ, data="elsewhere.jsonl").rows) == 12


def test_a_run_over_rows_in_memory_needs_them_again(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    label(ROWS)
    with pytest.raises(JournalError, match="made with rows in memory"):
        load_run(Path("run"), os.environ)
    assert len(load_run(Path("run"), os.environ, rows=ROWS).rows) == 12


def test_a_run_without_labels_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ICM_API_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BudgetError):
        label(ROWS, method="anneal", max_requests=1)
    with pytest.raises(JournalError, match="has no labels yet"):
        load_run(Path("run"), os.environ, rows=ROWS)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "labels.jsonl:1: no line of a labels file"),
        ('{"id": "r0"}', "labels.jsonl:1: no line of a labels file"),
        (None, "'maybe' with confidence .* is no label of this task"),
    ],
)
def test_a_damaged_labels_file_is_refused_with_its_line(run, line, message):
    lines = (run / "labels.jsonl").read_text().splitlines()
    lines[0] = line or json.dumps(json.loads(lines[0]) | {"label": "maybe"})
    (run / "labels.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=message):
        load_run(run, os.environ)


def test_labels_of_other_examples_are_refused(run):
    lines = (run / "labels.jsonl").read_text().splitlines()
    (run / "labels.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    with pytest.raises(JournalError, match=r"its ids are not those of data\.jsonl"):
        load_run(run, os.environ)


def test_a_run_that_was_not_begun_here_is_refused_until_it_is_trusted_and_then_shown(run, tmp_path):
    elsewhere = {"ICM_API_CACHE_DIR": str(tmp_path / "another")}
    with pytest.raises(JournalError, match="give --trust"):
        load_run(run, elsewhere)
    shown: list[str] = []
    assert len(load_run(run, elsewhere, trust=True, say=shown.append).rows) == 12
    assert "data='data.jsonl'" in shown[0]


def test_no_run_is_refused(tmp_path):
    with pytest.raises(JournalError, match="no run is kept here"):
        load_run(tmp_path, os.environ)
