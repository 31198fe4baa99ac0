from collections.abc import Sequence

from icm_api.tasks.rules import GroupKey, Swapped
from icm_api.types import Example, Relation


def grouped(*tags: tuple[str | None, str | None]) -> list[Example]:
    return [Example(str(i), {"t": "x"}, group, key) for i, (group, key) in enumerate(tags)]


def pairs(*texts: tuple[str, str, str]) -> list[Example]:
    return [Example(str(i), {"p": p, "a": a, "b": b}) for i, (p, a, b) in enumerate(texts)]


def shape(relations: Sequence[Relation]) -> list[tuple[str, tuple[int, ...]]]:
    return [(relation.kind, relation.members) for relation in relations]


def test_different_keys_exclude_each_other_and_equal_ones_agree():
    examples = grouped(("g", "1"), ("g", "2"), ("g", "1"), ("g", "3"), ("g", "1"))
    assert shape(GroupKey().relations(examples)) == [
        ("equivalent", (0, 2)),
        ("equivalent", (2, 4)),
        ("at_most_one", (0, 1, 3)),
    ]


def test_groups_do_not_touch_and_one_key_alone_excludes_nothing():
    assert shape(GroupKey().relations(grouped(("g", "1"), ("h", "2"), ("h", "2")))) == [("equivalent", (1, 2))]


def test_an_example_without_group_or_key_takes_part_in_nothing():
    assert GroupKey().relations(grouped(("g", None), (None, "1"), ("g", "2"), (None, "2"))) == ()


def test_relations_name_their_rule_and_what_holds():
    (relation,) = GroupKey(positive=0).relations(grouped(("g", "1"), ("g", "2")))
    assert (relation.source, relation.positive, relation.price) == ("group_key", 0, None)


def test_mirror_images_are_asymmetric_once_each():
    examples = pairs(("p", "x", "y"), ("q", "x", "y"), ("p", "y", "x"), ("q", "z", "x"))
    (relation,) = Swapped("a", "b").relations(examples)
    assert (relation.kind, relation.members, relation.source) == ("asymmetric", (0, 2), "swapped")


def test_identical_rows_agree_and_only_the_first_is_mirrored():
    examples = pairs(("p", "y", "x"), ("p", "x", "y"), ("p", "x", "y"), ("p", "y", "x"))
    assert shape(Swapped("a", "b").relations(examples)) == [
        ("equivalent", (0, 3)),
        ("asymmetric", (0, 1)),
        ("equivalent", (1, 2)),
    ]


def test_a_row_that_is_its_own_mirror_image_says_nothing():
    assert Swapped("a", "b").relations(pairs(("p", "x", "x"))) == ()
