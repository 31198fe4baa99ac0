"""Which relations are broken, with labels missing or not; which are malformed; the linear rows say the same."""

import itertools
import math
from collections.abc import Callable, Sequence

import pytest

from icm_api.core.relations import broken, check_relations, describe, is_broken, is_pin, pinned_labels, pins, rows
from icm_api.types import Relation, RelationKind

# What each kind means for members that hold or not, written down a second time and plainly.
MEANING: dict[RelationKind, Callable[[Sequence[bool]], bool]] = {
    "exactly_one": lambda h: sum(h) == 1,
    "at_most_one": lambda h: sum(h) <= 1,
    "asymmetric": lambda h: h[0] != h[1],
    "implies": lambda h: h[1] or not h[0],
    "transitive": lambda h: h[2] or not (h[0] and h[1]),
    "and": lambda h: h[-1] == all(h[:-1]),
    "or": lambda h: h[-1] == any(h[:-1]),
}
SIZES: dict[RelationKind, tuple[int, ...]] = {
    "exactly_one": (2, 3, 4),
    "at_most_one": (2, 3, 4),
    "asymmetric": (2,),
    "implies": (2,),
    "transitive": (3,),
    "and": (2, 3, 4),
    "or": (2, 3, 4),
    "equivalent": (2, 3),
}
CASES = [
    (kind, size, n_labels, positive)
    for kind, sizes in SIZES.items()
    for size in sizes
    for n_labels in (2, 3)
    for positive in range(n_labels)
]


def holds(relation: Relation, labels: Sequence[int]) -> bool:
    """Independent of the code under test: does the relation hold for these complete labels?"""
    members = [labels[m] for m in relation.members]
    if relation.kind == "equivalent":
        return len(set(members)) == 1
    return MEANING[relation.kind]([label == relation.positive for label in members])


@pytest.mark.parametrize(("kind", "size", "n_labels", "positive"), CASES)
def test_a_relation_is_broken_exactly_when_no_completion_satisfies_it(kind, size, n_labels, positive):
    relation = Relation(kind, tuple(range(size)), positive)
    for labels in itertools.product([None, *range(n_labels)], repeat=size):
        options = [range(n_labels) if label is None else [label] for label in labels]
        possible = any(holds(relation, completion) for completion in itertools.product(*options))
        assert is_broken(relation, labels) is not possible, labels


@pytest.mark.parametrize(("kind", "size", "n_labels", "positive"), CASES)
def test_linear_rows_hold_exactly_when_the_relation_does(kind, size, n_labels, positive):
    relation = Relation(kind, tuple(range(size)), positive)
    for labels in itertools.product(range(n_labels), repeat=size):
        satisfied = all(
            row.low <= sum(weight for member, label, weight in row.terms if labels[member] == label) <= row.high
            for row in rows(relation, n_labels)
        )
        assert satisfied is holds(relation, labels), labels


def test_members_are_looked_up_by_example_in_the_order_of_the_relation():
    relation = Relation("implies", (4, 1))
    assert is_broken(relation, [None, 0, None, None, 1])
    assert not is_broken(relation, [None, 1, None, None, 0])
    assert is_broken(relation, {1: 0, 4: 1})


def test_broken_lists_the_broken_relations_in_order():
    relations = [
        Relation("at_most_one", (0, 1)),
        Relation("equivalent", (0, 2)),
        Relation("implies", (0, 1), price=2.0),
    ]
    assert broken(relations, [1, 1, 0]) == (0, 1)
    assert broken(relations, [1, 0, 1]) == (2,)
    assert broken(relations, [None, None, None]) == ()


SOUND = [
    Relation("exactly_one", (0, 1, 2)),
    Relation("transitive", (0, 1, 2), price=0.0),
    Relation("or", (3, 4), positive=0, price=1.5),
    Relation("equivalent", (4, 0)),
]


def test_sound_relations_have_no_problems():
    assert check_relations(SOUND, n_examples=5, n_labels=2) == []


@pytest.mark.parametrize(
    ("relation", "problem"),
    [
        (Relation("at_most_one", (0,)), "at least 2 members, not 1"),
        (Relation("equivalent", ()), "at least 2 members, not 0"),
        (Relation("and", (3,)), "at least 2 members, not 1"),
        (Relation("asymmetric", (0, 1, 2)), "exactly 2 members, not 3"),
        (Relation("implies", (0,)), "exactly 2 members, not 1"),
        (Relation("transitive", (0, 1)), "exactly 3 members, not 2"),
        (Relation("exactly_one", (0, 5)), "outside the 5 examples (0 to 4)"),
        (Relation("exactly_one", (-1, 2)), "outside the 5 examples (0 to 4)"),
        (Relation("or", (2, 1, 2)), "stands in it twice"),
        (Relation("implies", (0, 1), positive=2), "positive = 2 is outside the 2 labels (0 to 1)"),
        (Relation("implies", (0, 1), positive=-1), "positive = -1 is outside"),
        (Relation("implies", (0, 1), price=-0.5), "price = -0.5 must be"),
        (Relation("implies", (0, 1), price=math.nan), "price = nan must be"),
        (Relation("implies", (0, 1), price=math.inf), "price = inf must be"),
        (Relation("one_of", (0, 1)), "there is no such kind; use one of equivalent, exactly_one"),  # type: ignore[arg-type]
    ],
)
def test_a_malformed_relation_is_named_with_its_problem(relation, problem):
    (sentence,) = check_relations([*SOUND, relation], n_examples=5, n_labels=2)
    assert problem in sentence
    assert sentence.startswith(f"{relation.kind} over examples (")


def test_all_problems_are_listed_at_once_with_their_sources():
    bad = Relation("transitive", (0, 0), positive=7, price=-1.0, source="rules.jsonl line 3")
    worse = Relation("or", (9,), source="rules.jsonl line 8")
    sentences = check_relations([bad, worse], n_examples=5, n_labels=2)
    assert [sentence.count("rules.jsonl line 3") for sentence in sentences] == [1, 1, 1, 1, 0, 0]
    assert [sentence.count("rules.jsonl line 8") for sentence in sentences] == [0, 0, 0, 0, 1, 1]


def test_a_relation_is_described_by_kind_members_and_source():
    assert describe(Relation("and", (3, 1), source="a.toml")) == "and over examples (3, 1) from a.toml"
    assert describe(Relation("and", (3, 1))) == "and over examples (3, 1)"


def test_a_pin_is_broken_by_any_other_label_and_by_no_missing_one():
    (pin,) = pins({2: 1}, source="a file")
    assert is_pin(pin)
    assert pinned_labels([pin, Relation("exactly_one", (0, 1))]) == {2: 1}
    assert check_relations([pin], 3, 3) == []
    assert [is_broken(pin, [0, 0, label]) for label in (0, 1, 2, None)] == [True, False, True, False]
