import json
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from icm_api.data.dataset import Columns, load_dataset
from icm_api.errors import ConfigError, DataError
from icm_api.types import Example

LABELS = ("False", "True")


@pytest.fixture
def load(tmp_path):
    def load(rows, columns=None, fields=("text",), labels=LABELS, **options):
        path = tmp_path / "d.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return load_dataset(path, columns=columns or Columns(), fields=fields, labels=labels, **options)

    return load


def problems(load: Callable[..., Any], rows: list[Any], *args: Any, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load(rows, *args, **options)
    return [problem.partition("d.jsonl:")[2] for problem in caught.value.problems]


def test_a_row_becomes_an_example_and_gold_stays_apart(load):
    columns = Columns(id="n", group="g", key="k", gold="label", fields={"text": "body"})
    dataset = load([{"n": 7, "g": "x", "k": 3, "label": True, "body": " a\tb\x07 "}], columns)
    assert dataset.examples == (Example("7", {"text": " a\tb\x07 "}, "x", "3", 1),)
    assert dataset.gold == (1,)


def test_without_a_gold_column_gold_is_none_even_if_the_file_has_labels(load):
    assert load([{"id": "a", "text": "x", "label": True}]).gold is None


def test_null_and_empty_gold_are_no_gold_for_that_row(load):
    rows = [{"id": str(i), "text": "x", "label": gold} for i, gold in enumerate([None, "", "False"])]
    assert load(rows, Columns(gold="label")).gold == (None, None, 0)


def test_without_ids_the_line_numbers_are_the_ids(load):
    assert [example.id for example in load([{"text": "x"}, {"text": "y"}]).examples] == ["row-1", "row-2"]


def test_numbers_become_text_and_empty_tags_are_none(load):
    (example,) = load([{"id": 1, "text": 2.5, "g": "", "k": None}], Columns(group="g", key="k")).examples
    assert (example.id, example.fields["text"], example.group, example.key) == ("1", "2.5", None, None)


def test_a_field_that_may_be_empty_may_be_empty(load):
    (example,) = load([{"id": 1, "text": ""}], may_be_empty={"text"}).examples
    assert example.fields["text"] == ""


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"id": 1, "text": ""}, "2: column 'text': the text is empty"),
        ({"id": 1, "text": " \n"}, "2: column 'text': the text is empty"),
        ({"id": 1, "text": None}, "2: column 'text' must be a string or number, not null"),
        ({"id": 1, "text": True}, "2: column 'text' must be a string or number, not true"),
        ({"id": 1, "text": ["x"]}, "2: column 'text' must be a string or number, not a list"),
        ({"id": 1, "text": {}}, "2: column 'text' must be a string or number, not an object"),
        ({"id": 1, "text": 1e999}, "2: broken JSON: Infinity is not JSON"),
        ({"id": 1, "text": "a\0b"}, "2: column 'text' holds a NUL character or a lone surrogate (half a character)"),
        ({"id": 1, "text": "\ud800"}, "2: column 'text' holds a NUL character or a lone surrogate (half a character)"),
        ({"id": None, "text": "x"}, "2: column 'id' must be a string or whole number, not null"),
        ({"id": 1.5, "text": "x"}, "2: column 'id' must be a string or whole number, not 1.5"),
        ({"id": False, "text": "x"}, "2: column 'id' must be a string or whole number, not false"),
        ({"id": " ", "text": "x"}, "2: column 'id': the id is empty"),
        ({"id": "a", "text": "x"}, "2: id 'a' stands already in line 1"),
        ({"text": "x"}, "2: no column 'id'; columns: text"),
        ({"id": 1}, "2: no column 'text'; columns: id"),
    ],
)
def test_a_bad_row_is_refused_by_line_and_column(load, row, problem):
    assert problems(load, [{"id": "a", "text": "x"}, row]) == [problem]


def test_an_infinite_number_is_no_text(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"id": 1, "text": 1e999}')
    with pytest.raises(DataError, match="must be a string or number, not inf"):
        load_dataset(tmp_path / "d.jsonl", columns=Columns(), fields=["text"], labels=LABELS)


def test_a_missing_column_is_told_once_with_the_close_one(load):
    rows = [{"id": i, "texts": "x"} for i in range(30)]
    assert problems(load, rows) == [
        "1: no column 'text' (nor in 29 more rows); columns: id, texts; did you mean 'texts'?"
    ]


def test_an_id_column_that_was_asked_for_must_be_there(load):
    assert problems(load, [{"text": "x"}], Columns(id="name")) == ["1: no column 'name'; columns: text"]


def test_an_unknown_gold_label_lists_the_labels(load):
    rows = [{"id": 1, "text": "x", "label": "Yes"}]
    assert problems(load, rows, Columns(gold="label")) == ["1: column 'label': 'Yes' is no label; labels: False, True"]


def test_all_problems_are_told_at_once(load):
    rows = [{"id": 1, "text": ""}, {"id": 1, "text": None, "label": 3}]
    assert len(problems(load, rows, Columns(gold="label"))) == 5


def test_twenty_problems_are_spelt_out_and_the_rest_counted(load):
    rows = [{"id": i, "text": ""} for i in range(25)]
    with pytest.raises(DataError) as caught:
        load(rows)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "... and 5 more problems"


def test_problems_before_an_unreadable_line_are_told_with_it(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"id": 1, "text": ""}\n{')
    with pytest.raises(DataError) as caught:
        load_dataset(tmp_path / "d.jsonl", columns=Columns(), fields=["text"], labels=LABELS)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    "columns",
    [
        Columns(gold="g", group="g"),
        Columns(gold="g", key="g"),
        Columns(gold="g", id="g"),
        Columns(gold="id"),
        Columns(gold="text"),
        Columns(gold="g", fields={"text": "g"}),
    ],
)
def test_a_gold_column_is_never_an_input_too(load, columns):
    with pytest.raises(ConfigError, match="deriving inputs from gold is refused"):
        load([{"id": 1, "text": "x", "g": True}], columns)


def test_a_column_for_an_unknown_field_is_refused(load):
    with pytest.raises(ConfigError, match="the template has no field 'claim'; it has: text"):
        load([{"id": 1, "text": "x"}], Columns(fields={"claim": "text"}))


def test_a_key_that_mirrors_gold_is_refused_as_a_leak(load):
    rows = [{"id": i, "text": "x", "label": i % 3 == 0, "k": "A" if i % 3 == 0 else "B"} for i in range(12)]
    with pytest.raises(DataError, match=r"key column 'k' copies gold column 'label': .* all 12 labelled rows"):
        load(rows, Columns(gold="label", key="k"))


def test_a_limit_keeps_the_first_rows_and_names_the_ids_it_cut(load):
    dataset = load([{"id": i, "text": "x" if i < 2 else ""} for i in range(4)], limit=2)
    assert [example.id for example in dataset.examples] == ["0", "1"]
    assert dataset.cut_ids == {"2", "3"}


def test_a_limit_does_not_hide_a_repeated_id(load):
    assert problems(load, [{"id": 0, "text": "x"}, {"id": 0, "text": "y"}], limit=1) == [
        "2: id '0' stands already in line 1"
    ]


def test_a_limit_must_leave_something(load):
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        load([{"id": 1, "text": "x"}], limit=0)


def test_a_limit_on_a_hub_data_set_downloads_no_more_than_it_needs(monkeypatch):
    def stream(name, **options):
        yield {"id": 1, "text": "x"}
        pytest.fail("asked for a row beyond the limit")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=stream))
    dataset = load_dataset("hf:a/b", columns=Columns(), fields=["text"], labels=LABELS, limit=1)
    assert len(dataset.examples) == 1
    assert dataset.cut_ids == frozenset()
