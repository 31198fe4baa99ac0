import json

import pytest

from icm_api.data.relations_file import load_relations
from icm_api.errors import DataError
from icm_api.types import Relation

IDS = {"a": 0, "b": 1, "c": 2, "7": 3}


@pytest.fixture
def load(tmp_path):
    def load(*objects, **options):
        path = tmp_path / "r.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in objects))
        return load_relations(path, IDS, positive=1, known_labels=("False", "True"), **options)

    return load


def test_an_object_becomes_a_relation_over_indices_that_names_its_line(load, tmp_path):
    loaded = load(
        {"kind": "exactly_one", "ids": ["c", "a"], "source": "negation"}, {"kind": "implies", "ids": ["a", 7]}
    )
    assert loaded.dropped == 0
    assert loaded.relations == (
        Relation("exactly_one", (2, 0), 1, None, f"{tmp_path}/r.jsonl:1"),
        Relation("implies", (0, 3), 1, None, f"{tmp_path}/r.jsonl:2"),
    )


def test_label_and_price_are_read(load):
    (relation,) = load({"kind": "or", "ids": ["a", "b", "c"], "label": "False", "price": 2}).relations
    assert (relation.positive, relation.price) == (0, 2.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "xor", "ids": ["a", "b"]}, "unknown kind 'xor'; known: exactly_one, at_most_one, equivalent"),
        ({"ids": ["a", "b"]}, "unknown kind null"),
        ({"kind": "equivalent"}, "'ids' must be a list of ids .*, not null"),
        ({"kind": "equivalent", "ids": ["a", True]}, "'ids' must be a list of ids"),
        ({"kind": "equivalent", "ids": ["a", "z"]}, "unknown id 'z'"),
        ({"kind": "equivalent", "ids": ["a"]}, "equivalent needs at least 2 ids, not 1"),
        ({"kind": "implies", "ids": ["a", "b", "c"]}, "implies needs exactly 2 ids, not 3"),
        ({"kind": "asymmetric", "ids": ["a", "b", "c"]}, "asymmetric needs exactly 2 ids, not 3"),
        ({"kind": "transitive", "ids": ["a", "b"]}, "transitive needs exactly 3 ids, not 2"),
        ({"kind": "at_most_one", "ids": ["a", "b", "a"]}, "id 'a' stands in it twice"),
        ({"kind": "implies", "ids": ["a", "b"], "weight": 1}, "unknown key 'weight'; known: kind, ids, label"),
        ({"kind": "implies", "ids": ["a", "b"], "label": "true"}, "unknown label 'true'; labels: False, True"),
        (
            {"kind": "implies", "ids": ["a", "b"], "price": -1},
            "'price' must be a finite number of nats, 0 or more, not -1",
        ),
        ({"kind": "implies", "ids": ["a", "b"], "price": True}, "'price' must be .* not true"),
        ({"kind": "implies", "ids": ["a", "b"], "price": 10**400}, "'price' must be"),
        ({"kind": "implies", "ids": ["a", "b"], "price": "1"}, "'price' must be"),
        ({"kind": "implies", "ids": ["a", "b"], "source": 1}, "'source' must be a string, not 1"),
    ],
)
def test_a_bad_relation_is_refused_by_line(load, given, message):
    with pytest.raises(DataError, match=rf"r\.jsonl:2: {message}") as caught:
        load({"kind": "equivalent", "ids": ["a", "b"]}, given)
    assert len(caught.value.problems) == 1


def test_all_problems_are_told_at_once(load):
    with pytest.raises(DataError) as caught:
        load({"kind": "x", "ids": ["y", "y"], "z": 1}, {"kind": "implies", "ids": []})
    assert len(caught.value.problems) == 5


@pytest.mark.parametrize(
    ("kind", "ids", "members"),
    [
        ("at_most_one", ["a", "cut", "b"], (0, 1)),
        ("equivalent", ["cut", "a", "c"], (0, 2)),
        ("at_most_one", ["a", "cut"], None),
        ("exactly_one", ["a", "b", "cut"], None),
        ("transitive", ["a", "b", "cut"], None),
        ("and", ["a", "cut", "b"], None),
    ],
)
def test_a_relation_that_a_limit_cut_into_keeps_only_what_still_follows(load, kind, ids, members):
    loaded = load({"kind": kind, "ids": ids}, {"kind": "implies", "ids": ["a", "b"]}, cut_ids={"cut"})
    kept = [relation.members for relation in loaded.relations if relation.kind == kind]
    assert kept == ([] if members is None else [members])
    assert loaded.dropped == (members is None)


def test_an_id_neither_read_nor_cut_is_an_error(load):
    with pytest.raises(DataError, match="unknown id 'z'"):
        load({"kind": "at_most_one", "ids": ["a", "b", "z"]}, cut_ids={"cut"})
