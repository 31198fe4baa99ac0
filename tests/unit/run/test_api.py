"""Labelling from Python."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import icm_api
from icm_api.errors import BudgetError, DataError
from icm_api.run.runner import Progress

ROWS = [{"id": str(i), "text": f"text {i}", "truth": i % 2 == 0} for i in range(10)]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    folders = {"cache_dir": tmp_path / "cache", "run_dir": tmp_path / "run"}
    return {"task": "classify", "labels": ["no", "yes"], "provider": "synthetic", **folders}


def test_rows_in_memory_are_labelled(settings):
    result = icm_api.label(ROWS, gold_column="truth", **settings)
    assert [row.id for row in result.rows] == [str(i) for i in range(10)]
    assert result.summary.accuracy_n == 10
    assert (settings["run_dir"] / "labels.jsonl").exists()


def test_the_rows_of_a_result_are_read_as_a_sequence(settings):
    rows = icm_api.label(ROWS, **settings).rows
    assert len(rows) == 10
    assert [rows[i] for i in range(10)] == list(rows) == list(rows[:])
    assert [row.id for row in rows[-2:]] == ["8", "9"]
    assert rows[-1] == rows[9]
    with pytest.raises(IndexError):
        rows[10]


def test_a_result_is_written_out_in_a_few_lines_however_many_examples_it_has(settings):
    result = icm_api.label(ROWS, **settings)
    assert "text 7" not in repr(result)


def test_texts_are_made_when_they_are_read_and_read_as_a_sequence(settings):
    texts = icm_api.label(ROWS, **settings).job.texts
    assert len(texts) == 10
    assert [texts[i] for i in range(10)] == list(texts) == list(texts[:])
    assert "text 9" in texts[-1]


def test_relations_can_be_rows_too(settings):
    rules = [{"kind": "exactly_one", "ids": [str(i), str(i + 1)]} for i in range(0, 10, 2)]
    result = icm_api.label(ROWS, relations=rules, **settings)
    assert result.summary.label_shares == {"no": 0.5, "yes": 0.5}
    with pytest.raises(DataError, match="nobody"):
        icm_api.label(ROWS, relations=[{"kind": "exactly_one", "ids": ["0", "nobody"]}], **settings)


def test_the_method_and_the_shares_of_the_labels_can_be_given(settings):
    biased: dict[str, Any] = {"provider_options": {"bias": "6"}, "method": "zero-shot"}
    assert icm_api.label(ROWS, **biased, **settings).summary.collapsed
    again = settings | {"run_dir": "again"}
    assert not icm_api.label(ROWS, **biased, class_prior={"yes": 0.5}, **again).summary.collapsed


async def test_label_works_where_an_event_loop_already_runs_as_in_a_notebook(settings):
    assert asyncio.get_running_loop().is_running()
    assert len(icm_api.label(ROWS, **settings).rows) == 10


async def test_alabel_is_the_same_for_asynchronous_code(settings):
    there = await icm_api.alabel(ROWS, **settings)
    here = icm_api.label(ROWS, **settings | {"run_dir": "again"})
    assert [row.label for row in there.rows] == [row.label for row in here.rows]


def test_each_step_can_be_observed(settings):
    seen: list[int] = []
    icm_api.label(ROWS, observe=lambda progress: seen.append(progress.step.step), **settings)
    assert seen == list(range(len(seen)))


def test_a_run_cut_short_raises_and_says_where_the_labels_are(settings):
    with pytest.raises(BudgetError) as error:
        icm_api.label(ROWS, max_requests=10, **settings)
    assert str(settings["run_dir"] / "labels.jsonl") in error.value.__notes__[0]
    assert (settings["run_dir"] / "labels.jsonl").exists()


def test_problems_in_rows_name_the_row(settings):
    with pytest.raises(DataError, match="<rows>:2"):
        icm_api.label([*ROWS[:1], {"id": "x", "text": ""}], **settings)


async def test_cancelling_writes_what_was_found(settings):
    started = asyncio.Event()

    def observe(progress: Progress) -> None:
        if progress.step.step == 3:
            started.set()

    slow = settings | {"provider_options": {"latency_s": "0.001"}}
    job = asyncio.create_task(icm_api.alabel(ROWS, observe=observe, **slow))
    await asyncio.wait_for(started.wait(), timeout=30)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert (settings["run_dir"] / "labels.jsonl").exists()
    assert '"stop_reason": "interrupted"' in (settings["run_dir"] / "summary.json").read_text()


def test_the_package_has_the_names_it_says():
    assert all(callable(getattr(icm_api, name)) for name in icm_api.__all__)
    with pytest.raises(AttributeError, match="lable"):
        icm_api.lable  # noqa: B018
