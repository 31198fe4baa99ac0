"""Label shares that relations imply."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from icm_api.core.calibrate import Floats
from icm_api.core.relations import broken
from icm_api.core.shares import share_bounds, within_bounds
from icm_api.types import Relation, RelationKind


def true_shares(n_examples: int, n_labels: int, relations: list[Relation]) -> Floats:
    """(labellings, labels) shares of every labelling that breaks no hard relation."""
    hard = [relation for relation in relations if relation.price is None]
    consistent = [labels for labels in product(range(n_labels), repeat=n_examples) if not broken(hard, labels)]
    assume(consistent)
    return np.array([np.bincount(labels, minlength=n_labels) for labels in consistent]) / n_examples


@st.composite
def relation(draw: st.DrawFn, among: list[int], n_labels: int, kinds: list[RelationKind]) -> Relation:
    kind = draw(st.sampled_from(kinds))
    size = {"asymmetric": 2, "implies": 2, "transitive": 3}.get(kind) or draw(st.integers(2, min(4, len(among))))
    members = draw(st.permutations(among))[:size]
    price = draw(st.sampled_from([None, None, 1.0]))
    return Relation(kind, tuple(members), positive=draw(st.integers(0, n_labels - 1)), price=price)


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, list[Relation]]:
    """Few examples under relations of any kind, which may overlap."""
    n_labels = draw(st.integers(2, 3))
    n = draw(st.integers(3, 8 if n_labels == 2 else 5))
    kinds: list[RelationKind] = ["exactly_one", "at_most_one", "asymmetric", "equivalent", "implies", "transitive"]
    return n, n_labels, draw(st.lists(relation(list(range(n)), n_labels, kinds), max_size=4))


@given(problems())
def test_no_consistent_labelling_has_shares_outside_the_bounds(problem: tuple[int, int, list[Relation]]):
    low, high = share_bounds(*problem)
    found = true_shares(*problem)
    assert (low <= found.min(axis=0) + 1e-9).all()
    assert (found.max(axis=0) <= high + 1e-9).all()


@given(st.data(), st.integers(2, 3))
def test_the_bounds_are_exact_for_relations_that_share_no_example(data: st.DataObject, n_labels: int):
    kinds: list[RelationKind] = ["exactly_one", "at_most_one", "asymmetric"]
    relations = [data.draw(relation(part, n_labels, kinds)) for part in ([0, 1, 2], [3, 4])]
    low, high = share_bounds(6, n_labels, relations)
    found = true_shares(6, n_labels, relations)
    assert low == pytest.approx(found.min(axis=0))
    assert high == pytest.approx(found.max(axis=0))


def test_pairs_that_contradict_each_other_give_exactly_one_half():
    low, high = share_bounds(8, 2, [Relation("asymmetric", (i, i + 4)) for i in range(4)])
    assert low.tolist() == high.tolist() == [0.5, 0.5]


def test_one_right_answer_of_four_gives_exactly_a_quarter():
    low, high = share_bounds(8, 2, [Relation("exactly_one", tuple(range(k, k + 4))) for k in (0, 4)])
    assert low.tolist() == high.tolist() == [0.75, 0.25]


def test_without_relations_everything_is_allowed():
    low, high = share_bounds(5, 3, [])
    assert low.tolist() == [0.0] * 3
    assert high.tolist() == [1.0] * 3


def test_soft_relations_imply_nothing():
    low, high = share_bounds(2, 2, [Relation("exactly_one", (0, 1), price=3.0)])
    assert low.tolist() == [0.0, 0.0]
    assert high.tolist() == [1.0, 1.0]


@given(st.data(), st.integers(2, 6))
def test_shares_moved_within_bounds_sum_to_1_and_keep_the_bounds(data: st.DataObject, n_labels: int):
    positive = st.lists(st.floats(1e-3, 1.0), min_size=n_labels, max_size=n_labels)
    shares = np.array(data.draw(positive)) / 2
    allowed = np.array(data.draw(positive))
    allowed /= allowed.sum()
    slack = data.draw(st.floats(0.0, 0.3))
    least, most = np.maximum(allowed - slack, 0), np.minimum(allowed + slack, 1)
    found = within_bounds(shares / shares.sum(), least, most)
    assert found.sum() == pytest.approx(1.0)
    assert (least - 1e-9 <= found).all()
    assert (found <= most + 1e-9).all()


def test_shares_within_the_bounds_stay_as_they_are():
    shares = np.array([0.2, 0.3, 0.5])
    assert within_bounds(shares, np.zeros(3), np.ones(3)) == pytest.approx(shares)


def test_a_label_held_down_by_a_bound_leaves_its_share_to_the_others_in_proportion():
    found = within_bounds(np.full(3, 1 / 3), np.zeros(3), np.array([1.0, 0.2, 1.0]))
    assert found == pytest.approx([0.4, 0.2, 0.4])
