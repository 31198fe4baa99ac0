"""The data sets of the label benchmarks, and the draws from them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

import icm_api
from benchmarks.label_tasks import FALSE_TRUE, GOLD, OWN, TASKS, LabelTask, available, draw, label_counts, settings
from icm_api.tasks.toml_task import load_task

FILES = {
    "animal_object": ("animal", "object"),
    "topic": ("sport", "food", "science", "travel"),
    "language": ("English", "French"),
    "messages": ("normal", "spam"),
}
OWN_TASKS = [task for task in TASKS.values() if task.file.parent == OWN]
WITH_TRUTH = {name: task for name, task in TASKS.items() if task.truth}


@pytest.fixture(params=tuple(WITH_TRUTH.values()), ids=tuple(WITH_TRUTH))
def task(request):
    if reason := available(request.param):
        pytest.skip(reason)
    return request.param


def equal_shares(task: LabelTask) -> tuple[float, ...]:
    return tuple(1 / len(task.labels) for _ in task.labels)


def toy(folder, groups: list[str], **fields) -> LabelTask:
    """A data set in whole groups, one per word, one row per letter: t is true, f is false."""
    rows = [
        {"id": f"{g}-{i}", "text": f"{g} {i}", "group": str(g), "label": letter == "t"}
        for g, word in enumerate(groups)
        for i, letter in enumerate(word)
    ]
    file = folder / "toy.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return LabelTask("toy", ("no", "yes"), file, unit="group", **fields)


# --- the files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_well_formed_balanced_and_without_duplicates(name):
    lines = (OWN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    per_label = Counter(row["label"] for row in rows)
    assert all(list(row) == ["id", "text", "label"] for row in rows)
    assert set(per_label) == set(FILES[name])
    assert set(per_label.values()) == {50 if name == "topic" else 80}
    assert len({row["id"] for row in rows}) == len({row["text"].casefold() for row in rows}) == len(rows)
    assert all(row["text"] == row["text"].strip() for row in rows)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_shuffled(name):
    labels = [json.loads(line)["label"] for line in (OWN / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    changes = sum(one != next_one for one, next_one in pairwise(labels))
    assert changes > len(labels) / 3


def test_no_sentence_of_the_topics_names_its_class():
    rows = [json.loads(line) for line in (OWN / "topic.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        words = row["text"].casefold().split()
        assert not any(word.startswith(FILES["topic"]) for word in words), row
        assert 8 <= len(words) <= 16


# --- draws ------------------------------------------------------------------------------------------------


def test_an_equal_draw_is_exact_and_holds_no_row_twice(task):
    rows = draw(task, 32, equal_shares(task), seed=1)
    assert Counter(row[GOLD] for row in rows) == dict.fromkeys(task.labels, 32 // len(task.labels))
    assert len({row["id"] for row in rows}) == 32


def test_a_draw_is_the_same_for_the_same_seed_and_another_for_another(task):
    first = draw(task, 32, equal_shares(task), seed=1)
    assert draw(task, 32, equal_shares(task), seed=1) == first
    assert draw(task, 32, equal_shares(task), seed=2) != first


@pytest.mark.parametrize(("share", "last"), [(0.5, 20), (0.25, 10), (0.1, 4)])
@pytest.mark.parametrize("task", [task for task in OWN_TASKS if len(task.labels) == 2], ids=lambda task: task.name)
def test_the_share_is_that_of_the_last_label(task, share, last):
    per_label = Counter(row[GOLD] for row in draw(task, 40, share, seed=0))
    assert per_label == {task.labels[0]: 40 - last, task.labels[1]: last}


def test_more_than_two_labels_take_a_share_each():
    per_label = Counter(row[GOLD] for row in draw(TASKS["topic"], 40, (0.4, 0.3, 0.2, 0.1), seed=0))
    assert per_label == {"sport": 16, "food": 12, "science": 8, "travel": 4}


def test_a_share_that_is_no_whole_number_goes_to_the_nearest_row():
    messages = TASKS["messages"]
    assert label_counts(messages, 64, 0.1) == (58, 6)
    assert label_counts(messages, 30, 0.1) == (27, 3)
    assert sum(label_counts(TASKS["topic"], 50, (0.25, 0.25, 0.25, 0.25))) == 50


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01, (0.5, 0.6), (0.2, 0.3, 0.5)])
def test_shares_that_make_no_draw_are_refused(share):
    with pytest.raises(ValueError, match="messages"):
        draw(TASKS["messages"], 20, share, seed=0)


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(ValueError, match="the file has 80"):
        draw(TASKS["messages"], 200, 0.5, seed=0)


def test_one_share_for_four_labels_is_refused():
    with pytest.raises(ValueError, match="one share per label"):
        draw(TASKS["topic"], 20, 0.5, seed=0)


def test_gold_is_a_label_and_stands_in_no_column_that_the_prompt_shows(task):
    built_in = load_task(task.task, labels=settings(task, []).get("labels"))
    assert set(built_in.fields) == set(task.text)
    assert built_in.label_names == task.labels
    for row in draw(task, 16, equal_shares(task), seed=0):
        assert set(row) == set(task.columns) <= {"id", "group", "key", GOLD, *task.text}
        assert row[GOLD] in task.labels
        assert GOLD not in task.text


def test_a_label_that_the_task_does_not_have_is_refused(tmp_path):
    task = replace(toy(tmp_path, ["tf"]), labels=FALSE_TRUE)
    task.file.write_text('{"id": "0-0", "text": "a", "group": "0", "label": "maybe"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="row 0-0: 'maybe' is none of False, True"):
        draw(task, 2, 0.5, seed=0)


def test_long_texts_are_left_out(tmp_path):
    task = replace(toy(tmp_path, ["tf"]), unit="row", longest_text=5)
    long = {"id": "9", "text": "longer than five", "label": True}
    task.file.write_text(task.file.read_text(encoding="utf-8") + json.dumps(long), encoding="utf-8")
    with pytest.raises(ValueError, match="2 rows of yes wanted, the file has 1"):
        draw(task, 3, 0.7, seed=0)


# --- whole groups -----------------------------------------------------------------------------------------


def test_a_task_without_truth_is_drawn_and_labelled_without_gold(tmp_path):
    task = replace(toy(tmp_path, ["tf", "ff", "tt"]), truth=False, text=("text",))
    rows = draw(task, 4, 0.5, seed=0)
    assert all(set(row) == {"id", "text", "group"} for row in rows)
    assert "gold_column" not in settings(task, rows)


def test_a_scrambled_text_has_the_same_characters_in_another_order(tmp_path):
    task = replace(toy(tmp_path, []), unit="row", text=("text",), scrambled=True)
    words = ("a sharp picture and a long battery life", "the lid broke off on the very first day")
    rows = [{"id": str(i), "text": text, "label": str(bool(i)).lower()} for i, text in enumerate(words)]
    task.file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    texts = {row["id"]: row["text"] for row in draw(task, 2, 0.5, seed=0)}
    for row in rows:
        assert sorted(texts[row["id"]].replace(" ", "")) == sorted(row["text"].replace(" ", ""))
        assert texts[row["id"]] != row["text"]
    assert texts == {row["id"]: row["text"] for row in draw(task, 2, 0.5, seed=1)}


def test_groups_are_drawn_whole_and_still_exact(tmp_path):
    task = toy(tmp_path, ["ttff", "tfff", "ffff", "tttt", "tff"] * 5)
    for seed in range(10):
        rows = draw(task, 20, 0.25, seed=seed)
        assert Counter(row[GOLD] for row in rows) == {"no": 15, "yes": 5}
        sizes = Counter(row["group"] for row in rows)
        assert all(size == (3 if int(group) % 5 == 4 else 4) for group, size in sizes.items())


def test_small_groups_are_not_drawn_more_often_than_large_ones(tmp_path):
    task = toy(tmp_path, ["tf"] * 100 + ["tttfff"] * 100)
    drawn = [len({row["group"] for row in draw(task, 120, 0.5, seed)}) for seed in range(20)]
    assert 27 < sum(drawn) / len(drawn) < 33  # groups of 4 rows on average


def test_a_share_that_whole_groups_cannot_give_is_refused(tmp_path):
    task = toy(tmp_path, ["tf"] * 20)
    with pytest.raises(ValueError, match="no 20 rows, 5 of them yes, can be drawn in whole groups"):
        draw(task, 20, 0.25, seed=0)


def test_every_row_of_the_file_can_be_drawn(tmp_path):
    assert len(draw(toy(tmp_path, ["ttf", "f"] * 4), 16, 0.5, seed=0)) == 16


def test_pairs_are_drawn_whole_and_always_half():
    task = TASKS["pandalm"]
    if reason := available(task):
        pytest.skip(reason)
    pairs = Counter(row["id"].rpartition("-")[0] for row in draw(task, 40, 0.5, seed=3))
    assert set(pairs.values()) == {2}
    with pytest.raises(ValueError, match="whole pairs"):
        draw(task, 40, 0.25, seed=3)


def test_relations_reach_no_further_than_the_drawn_rows(tmp_path):
    relations = tmp_path / "relations.jsonl"
    task = toy(tmp_path, ["tff"], relations=relations)
    kinds = ("exactly_one", "at_most_one")
    lines = [json.dumps({"kind": kind, "ids": ["0-0", "0-1", "elsewhere"]}) for kind in kinds]
    relations.write_text("\n".join(lines), encoding="utf-8")
    rows = draw(task, 3, 1 / 3, seed=0)
    assert settings(task, rows)["relations"] == [{"kind": "at_most_one", "ids": ["0-0", "0-1"]}]


# --- as the tool takes them -------------------------------------------------------------------------------


def test_a_task_whose_file_is_absent_says_so(tmp_path):
    task = replace(TASKS["messages"], file=tmp_path / "absent.jsonl")
    assert available(TASKS["messages"]) is None
    assert available(task) == f"messages: absent.jsonl is not there (it belongs in {tmp_path})"


def test_a_draw_is_labelled_with_its_settings(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = draw(task, 16, equal_shares(task), seed=0)
    result = icm_api.label(rows, **settings(task, rows), provider="synthetic", cache=False, run_dir=tmp_path / "run")
    assert [found.id for found in result.rows] == [row["id"] for row in rows]
    assert result.summary.accuracy_n == 16
    assert set(result.summary.label_shares) <= set(task.labels)
