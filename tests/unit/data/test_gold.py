import pytest

from icm_api.data.gold import label_index, mirrored_rows


@pytest.mark.parametrize(
    ("value", "labels", "index"),
    [
        ("spam", ("ham", "spam"), 1),
        (False, ("False", "True"), 0),
        (True, ("False", "True"), 1),
        ("true", ("False", "True"), 1),
        ("FALSE", ("False", "True"), 0),
        (False, ("ham", "spam"), 0),
        (True, ("ham", "spam"), 1),
        ("True", ("ham", "spam"), 1),
        (0, ("0", "1"), 0),
        ("false", ("true", "false", "unknown"), 1),
    ],
)
def test_gold_is_a_label_name_or_a_boolean(value, labels, index):
    assert label_index(value, labels) == index


def test_a_boolean_is_the_first_or_the_last_of_any_number_of_labels():
    assert [label_index(value, ("bad", "fair", "good")) for value in (False, True)] == [0, 2]


@pytest.mark.parametrize("value", [False, "False", "false"])
def test_false_means_the_label_called_false_even_when_it_comes_last(value):
    assert label_index(value, ("True", "False")) == 1


@pytest.mark.parametrize(
    ("value", "labels"),
    [
        ("Spam", ("ham", "spam")),
        (1, ("ham", "spam")),
        (False, ("true", "unsure")),
        (["spam"], ("ham", "spam")),
        (" spam", ("ham", "spam")),
    ],
)
def test_what_names_no_label_is_not_guessed(value, labels):
    assert label_index(value, labels) is None


def test_a_key_that_copies_gold_is_found():
    assert mirrored_rows(["x", "y"] * 5, [0, 1] * 5) == 10


@pytest.mark.parametrize(
    ("keys", "gold"),
    [
        (["x", "y"] * 4, [0, 1] * 4),  # too few rows to tell
        (["x"] * 10, [0] * 10),  # one value says nothing
        (["x", "y", "z", "y"] * 5, [0, 1, 0, 1] * 5),  # finer than gold
        (["x", "y"] * 9 + ["x", "x"], [0, 1] * 9 + [0, 1]),  # differs once
        ([None, "y"] * 10, [0, None] * 10),
    ],
)
def test_a_key_that_says_something_else_is_not_accused(keys, gold):
    assert mirrored_rows(keys, gold) == 0
