from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.errors import ConfigError
from icm_api.tasks.base import KeyFrom, Task, positive_index
from icm_api.tasks.labels import labels_from_names
from icm_api.tasks.rules import GroupKey, Swapped
from icm_api.tasks.template import Template
from icm_api.types import Example

PARTS: dict[str, Any] = {
    "name": "t",
    "template": Template("Q: {q}\nA: {a}"),
    "labels": labels_from_names(["False", "True"]),
}


def test_a_text_ends_where_its_label_starts():
    example = Example("1", {"q": " why?\n", "a": "because \n"})
    assert Task(**PARTS).text(example) == "Q:  why?\nA: because"


def test_a_text_has_no_blank_lines_that_could_end_its_example_and_keeps_its_indentation():
    task = Task(**PARTS | {"template": Template("{q}")})
    assert task.text(Example("1", {"q": "\n \n  first\n\n  second \n\n"})) == "  first\n  second"


@given(st.text())
def test_no_text_ever_ends_in_whitespace_or_begins_with_a_line_break(value):
    text = Task(**PARTS | {"template": Template("{q}")}).text(Example("1", {"q": value}))
    assert text == text.rstrip()
    assert not text.startswith("\n")


def test_groups_and_keys_are_derived_only_where_the_data_has_none():
    task = Task(**PARTS, group_from="q", key_from=KeyFrom("a", "final_answer"))
    bare = [Example("1", {"q": "x", "a": "A: 5"}), Example("2", {"q": "x", "a": "?"})]
    assert [(e.group, e.key) for e in task.prepare(bare)] == [("x", "5"), ("x", None)]
    given = [Example("1", {"q": "x", "a": "A: 5"}, group="g"), Example("2", {"q": "x", "a": "A: 6"})]
    assert [(e.group, e.key) for e in task.prepare(given)] == [("g", "5"), (None, "6")]


def test_the_rules_relations_come_one_after_the_other():
    task = Task(**PARTS, rules=(Swapped("q", "a"), GroupKey()))
    examples = [Example("1", {"q": "x", "a": "y"}, "g", "1"), Example("2", {"q": "y", "a": "x"}, "g", "2")]
    assert [relation.kind for relation in task.relations(examples)] == ["asymmetric", "at_most_one"]


def test_a_task_can_be_subclassed():
    class Shouting(Task):
        def __init__(self) -> None:
            super().__init__(**PARTS)
            self.mark = "!"

        def text(self, example: Example) -> str:
            return super().text(example).upper() + self.mark

    assert Shouting().text(Example("1", {"q": "x", "a": "y"})) == "Q: X\nA: Y!"


@pytest.mark.parametrize(
    ("labels", "named", "index"),
    [
        (["no", "yes"], None, 1),
        (["True", "False"], None, 0),
        (["a", "b", "c"], "b", 1),
    ],
)
def test_the_label_that_holds_is_the_named_one_or_true_or_the_last(labels, named, index):
    assert positive_index(labels, named) == index


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"labels": ()}, "at least two labels"),
        ({"preamble": "Hello\n"}, "the preamble begins or ends in whitespace"),
        ({"positive_label": "true"}, "positive = 'true' is no label; labels: False, True"),
        ({"columns": {"x": "q"}}, "columns: the template has no field 'x'; it has: q, a"),
        ({"may_be_empty": frozenset({"x"})}, "may_be_empty: the template has no field 'x'"),
        ({"group_from": "x"}, "group_from: the template has no field 'x'"),
        ({"key_from": KeyFrom("x", "final_answer")}, "key_from: the template has no field 'x'"),
        ({"key_from": KeyFrom("a", "guess")}, "unknown key rule 'guess'; known: final_answer"),
        ({"rules": (Swapped("a", "x"),)}, "Swapped: the template has no field 'x'"),
    ],
)
def test_a_task_whose_parts_do_not_fit_is_refused(extra, message):
    with pytest.raises(ConfigError, match=message):
        Task(**PARTS | extra)
