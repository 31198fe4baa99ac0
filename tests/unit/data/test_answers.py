"""Labels that a person gave, read from a file."""

import pytest

from icm_api.data.answers import load_answers
from icm_api.errors import DataError

IDS = {"a": 0, "7": 1, "=b": 2, "'=c": 3}
LABELS = ("no", "yes")


def read(rows, **options):
    return load_answers(rows, IDS, LABELS, **options)


def test_ids_and_labels_become_indices_and_blank_labels_are_no_answer():
    rows = [{"id": "a", "label": "yes", "text": "x"}, {"id": 7, "label": True}, {"id": "=b", "label": ""}]
    assert read(rows) == {0: 1, 1: 1}
    assert read([{"id": "a", "label": None}]) == {}


def test_the_apostrophe_before_a_formula_is_taken_off_where_the_id_has_none():
    assert read([{"id": "'=b", "label": "no"}, {"id": "'=c", "label": "yes"}]) == {2: 0, 3: 1}


def test_every_problem_is_told_with_its_line():
    rows = [
        {"id": "a", "label": "yes"},
        {"id": "a", "label": "no"},
        {"id": "z", "label": "maybe"},
        {"name": "a", "label": "no"},
    ]
    with pytest.raises(DataError) as caught:
        read(rows)
    assert caught.value.problems == (
        "<rows>:2: id 'a' has a label already",
        "<rows>:3: unknown id 'z'",
        "<rows>:3: unknown label 'maybe'; labels: no, yes",
        "<rows>:4: no column 'id'; columns: name, label",
    )


def test_rows_beyond_a_limit_are_left_out():
    assert read([{"id": "cut", "label": "yes"}, {"id": "a", "label": "no"}], cut_ids=frozenset({"cut"})) == {0: 0}
