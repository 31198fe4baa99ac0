"""The solver against brute force on every path, and what its solutions promise."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from icm_api.core import consistency, solvers
from icm_api.core.consistency import Consistency, ContradictionError, Labels, Solution
from icm_api.core.relations import is_broken
from icm_api.errors import DataError, IcmError
from icm_api.types import Relation, RelationKind

FIXED_SIZES: dict[RelationKind, int] = {"asymmetric": 2, "implies": 2, "transitive": 3}
KINDS: tuple[RelationKind, ...] = ("exactly_one", "at_most_one", "equivalent", "and", "or", *FIXED_SIZES)
TOLERANCE_NATS = 1e-5


@dataclass(frozen=True)
class Instance:
    n_labels: int
    relations: tuple[Relation, ...]
    logprobs: tuple[tuple[float, ...], ...]

    def consistency(self) -> Consistency:
        return Consistency(len(self.logprobs), self.n_labels, self.relations)

    def consistent(self, relations: Sequence[Relation] | None = None) -> Iterator[tuple[int, ...]]:
        """Every labelling that breaks no hard relation."""
        hard = [r for r in (self.relations if relations is None else relations) if r.price is None]
        for labels in itertools.product(range(self.n_labels), repeat=len(self.logprobs)):
            if not any(is_broken(relation, labels) for relation in hard):
                yield labels

    def total_nats(self, labels: Sequence[int]) -> float:
        prices = [r.price for r in self.relations if r.price is not None and is_broken(r, labels)]
        return sum(row[label] for row, label in zip(self.logprobs, labels, strict=True)) - sum(prices)


@st.composite
def relation(draw: st.DrawFn, n_examples: int, n_labels: int) -> Relation:
    kind = draw(st.sampled_from([kind for kind in KINDS if FIXED_SIZES.get(kind, 2) <= n_examples]))
    size = FIXED_SIZES.get(kind) or draw(st.integers(2, n_examples))
    members = draw(st.permutations(range(n_examples)))[:size]
    price = draw(st.sampled_from([None, None, 0.0, 0.5, 1.0, 2.25]))
    return Relation(kind, tuple(members), draw(st.integers(0, n_labels - 1)), price)


# quarters add up exactly, so that ties are ties; the others almost never tie
quarters = st.integers(-12, 0).map(lambda n: n / 4)
floats = st.floats(-8, 0, allow_nan=False)


@st.composite
def instances(draw: st.DrawFn, label_counts: Sequence[int] = (2, 2, 3)) -> Instance:
    n_labels = draw(st.sampled_from(label_counts))
    n_examples = draw(st.integers(2, 7 if n_labels == 2 else 5))
    relations = draw(st.lists(relation(n_examples, n_labels), max_size=6))
    logprob = draw(st.sampled_from([quarters, floats]))
    row = st.tuples(*[logprob] * n_labels)
    return Instance(n_labels, tuple(relations), tuple(draw(st.tuples(*[row] * n_examples))))


def thoroughly(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


def check_against_brute_force(instance: Instance) -> None:
    consistent = list(instance.consistent())
    if not consistent:
        with pytest.raises(ContradictionError) as raised:
            instance.consistency().solve(instance.logprobs)
        check_conflict(instance, raised.value.relations)
        return
    solution = instance.consistency().solve(instance.logprobs)
    labels = tuple(solution.labels.values())
    assert list(solution.labels) == list(range(len(instance.logprobs)))
    assert labels in consistent
    assert solution.total_nats == pytest.approx(instance.total_nats(labels), abs=1e-9)
    assert solution.total_nats == pytest.approx(max(map(instance.total_nats, consistent)), abs=TOLERANCE_NATS)
    assert solution.gap_nats == 0.0
    assert sorted(map(id, solution.broken)) == sorted(
        id(r) for r in instance.relations if r.price is not None and is_broken(r, labels)
    )
    check_forced(instance, solution)


def check_forced(instance: Instance, solution: Solution) -> None:
    own = [row.index(max(row)) for row in instance.logprobs]
    assert list(solution.forced) == [e for e, label in solution.labels.items() if label != own[e]]
    for example, forcing in solution.forced.items():
        assert any(forcing is r for r in instance.relations)
        assert not is_broken(forcing, solution.labels)
        assert is_broken(forcing, {**solution.labels, example: own[example]})


def check_conflict(instance: Instance, conflict: Sequence[Relation]) -> None:
    assert not list(instance.consistent(conflict))
    for index, member in enumerate(conflict):
        assert member in instance.relations
        assert next(instance.consistent([*conflict[:index], *conflict[index + 1 :]]), None)


# --- equality with brute force ----------------------------------------------------------------------------


@thoroughly(1200)
@given(instances())
def test_the_solution_is_the_best_one_there_is(instance):
    check_against_brute_force(instance)


@thoroughly(500)
@given(instances())
def test_every_component_by_enumeration_equals_brute_force(instance):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency._Shape, "_lone_group", lambda self: None)
        patch.setattr(consistency, "Program", None)
        check_against_brute_force(instance)


@thoroughly(500)
@given(instances())
def test_every_component_by_milp_equals_brute_force(instance):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency._Shape, "_lone_group", lambda self: None)
        patch.setattr(solvers, "MOST_LABELLINGS", 0)
        check_against_brute_force(instance)


@st.composite
def lone_groups(draw: st.DrawFn) -> Instance:
    n_labels = draw(st.sampled_from([2, 3]))
    size = draw(st.integers(2, 5 if n_labels == 2 else 4))
    kind: RelationKind = draw(st.sampled_from(["exactly_one", "at_most_one"]))
    relations = [Relation(kind, tuple(range(size)), draw(st.integers(0, n_labels - 1)))]
    twins = draw(st.integers(0, 2))  # members that must agree with one of the group leave it a lone group
    relations += [Relation("equivalent", (size + i, draw(st.integers(0, size - 1)))) for i in range(twins)]
    row = st.tuples(*[draw(st.sampled_from([quarters, floats]))] * n_labels)
    return Instance(n_labels, tuple(relations), tuple(draw(st.tuples(*[row] * (size + twins)))))


@thoroughly(500)
@given(lone_groups())
def test_every_lone_group_in_closed_form_equals_brute_force(instance):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "Table", None)
        check_against_brute_force(instance)


@thoroughly(300)
@given(instances(), st.data())
def test_solving_for_some_examples_equals_the_whole_solution_there(instance, data):
    if not next(instance.consistent(), None):
        return
    solver = instance.consistency()
    whole = solver.solve(instance.logprobs)
    examples = data.draw(st.sets(st.integers(0, len(instance.logprobs) - 1)))
    part = solver.solve(instance.logprobs, examples=examples)
    members = sorted({m for example in examples for m in solver.component(example)})
    assert part.labels == {example: whole.labels[example] for example in members}
    assert part.forced == {example: r for example, r in whole.forced.items() if example in members}
    assert part.broken == tuple(r for r in whole.broken if r.members[0] in members)


@thoroughly(300)
@given(instances())
def test_check_refuses_exactly_the_contradictory(instance):
    if next(instance.consistent(), None):
        instance.consistency().check()
        return
    with pytest.raises(ContradictionError) as raised:
        instance.consistency().check()
    for conflict in raised.value.conflicts:
        check_conflict(instance, conflict)


@thoroughly(400)
@given(instances(label_counts=[2]))
def test_of_equally_good_labellings_the_one_that_changes_fewest_examples_is_chosen(instance):
    consistent = list(instance.consistent())
    if not consistent or any(r.price is not None for r in instance.relations):
        return
    own = [row.index(max(row)) for row in instance.logprobs]
    solution = instance.consistency().solve(instance.logprobs)
    best = max(map(instance.total_nats, consistent))
    fewest = min(
        sum(map(int.__ne__, labels, own)) for labels in consistent if instance.total_nats(labels) >= best - 1e-12
    )
    if all(float(4 * value).is_integer() for row in instance.logprobs for value in row):
        assert len(solution.forced) == fewest


# --- components -------------------------------------------------------------------------------------------


def test_examples_tied_through_others_are_one_component_and_the_unrelated_stand_alone():
    solver = Consistency(8, 2, [Relation("implies", (6, 2)), Relation("at_most_one", (2, 4), price=1.0), _equal(1, 7)])
    assert solver.components == ((1, 7), (2, 4, 6))
    assert solver.component(4) == (2, 4, 6)
    assert solver.component(0) == (0,)


def test_a_partial_solution_looks_at_no_other_example():
    logprobs = np.full((5, 2), np.nan)
    logprobs[[1, 3]] = [[-1.0, -0.5], [-3.0, -0.25]]
    solution = Consistency(5, 2, [Relation("at_most_one", (1, 3)), _equal(0, 2)]).solve(logprobs, examples=[3, 3])
    assert solution.labels == {1: 0, 3: 1}
    assert list(solution.forced) == [1]
    assert solution.total_nats == -1.25


def test_without_relations_every_example_keeps_its_own_best_label():
    solution = Consistency(2, 3, []).solve([[-3, -1, -2], [-1, -1, -2]])
    assert solution == Solution(Labels(np.array([0, 1]), np.array([1, 0])), -2.0, {}, (), 0.0)


def test_labels_are_found_by_example_and_only_where_they_were_solved_for():
    labels = Consistency(6, 2, []).solve(np.tile([-2.0, -1.0], (6, 1)), examples=[1, 4]).labels
    assert (1 in labels, 2 in labels, 5 in labels) == (True, False, False)
    assert labels.of(np.array([4, 1])).tolist() == [1, 1]


def test_more_alike_components_than_are_solved_at_once_are_all_solved(monkeypatch):
    monkeypatch.setattr(consistency, "MOST_ALIKE", 2)
    rules = [Relation("exactly_one", (i, i + 1)) for i in range(0, 10, 2)]
    solution = Consistency(10, 2, rules).solve(np.tile([[-1.0, -0.5], [-3.0, -0.1]], (5, 1)))
    assert list(solution.labels.values()) == [0, 1] * 5


def test_nothing_to_solve_is_an_empty_solution():
    assert Consistency(2, 2, []).solve(np.zeros((2, 2)), examples=[]) == Solution(
        Labels(np.array([]), np.array([])), 0.0, {}, (), 0.0
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_and_its_example_named(bad):
    with pytest.raises(ValueError, match="of example 1 must be finite"):
        Consistency(3, 2, [_equal(0, 1)]).solve([[0, 0], [0, bad], [0, 0]])
    with pytest.raises(ValueError, match="of example 2 must be finite"):
        Consistency(3, 2, [_equal(0, 1)]).solve([[0, 0], [0, 0], [bad, 0]])


def test_numbers_of_the_wrong_shape_and_examples_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"must be \(3, 2\), not \(2, 2\)"):
        Consistency(3, 2, []).solve([[0, 0], [0, 0]])
    with pytest.raises(ValueError, match="from 0 to 2, not -1 to 1"):
        Consistency(3, 2, []).solve(np.zeros((3, 2)), examples=[1, -1])


def test_a_malformed_relation_is_a_data_error():
    with pytest.raises(DataError, match="exactly 2 members"):
        Consistency(3, 2, [Relation("implies", (0, 1, 2))])


# --- what counts as an option -----------------------------------------------------------------------------


def _equal(*members: int, price: float | None = None) -> Relation:
    return Relation("equivalent", members, price=price)


def _solve(relations: Sequence[Relation], logprobs: Sequence[Sequence[float]]) -> Solution:
    return Consistency(len(logprobs), len(logprobs[0]), relations).solve(logprobs)


FALSE, TRUE, EITHER = (-0.25, -2.0), (-2.0, -0.25), (-0.75, -0.75)


def test_none_of_at_most_one_may_hold():
    assert _solve([Relation("at_most_one", (0, 1))], [FALSE, FALSE]).labels == {0: 0, 1: 0}


def test_a_newcomer_with_better_evidence_overturns_an_old_label():
    solution = _solve([Relation("at_most_one", (0, 1))], [(-2.0, -0.25), (-5.0, -0.01)])
    assert solution.labels == {0: 0, 1: 1}
    assert solution.forced == {0: Relation("at_most_one", (0, 1))}


def test_members_that_must_agree_decide_by_their_sum():
    assert _solve([_equal(0, 1, 2)], [FALSE, FALSE, (-5.0, -0.01)]).labels == {0: 1, 1: 1, 2: 1}


def test_two_equal_members_of_at_most_one_cannot_hold():
    assert _solve([_equal(0, 1), Relation("at_most_one", (0, 1))], [TRUE, TRUE]).labels == {0: 0, 1: 0}


def test_two_equal_members_of_exactly_one_leave_the_third():
    assert _solve([_equal(0, 1), Relation("exactly_one", (0, 1, 2))], [TRUE, TRUE, FALSE]).labels == {0: 0, 1: 0, 2: 1}


def test_equal_premises_and_conclusion_leave_the_transitive_rule_without_force():
    solution = _solve([_equal(0, 2), Relation("transitive", (0, 1, 2))], [TRUE, TRUE, TRUE])
    assert solution.labels == {0: 1, 1: 1, 2: 1}


def test_labels_that_no_rule_names_stay_free():
    logprobs = [(-3.0, -4.0, -0.1, -0.2), (-3.0, -4.0, -0.3, -0.2)]
    assert _solve([Relation("exactly_one", (0, 1), positive=0)], logprobs).labels == {0: 2, 1: 0}


def test_a_group_of_thousands_is_solved_in_closed_form():
    solver = Consistency(5000, 3, [Relation("exactly_one", tuple(range(5000)), positive=2)])
    logprobs = np.tile([-0.5, -1.0, -4.0], (5000, 1))
    logprobs[3210, 2] = -3.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consistency, "Table", None)
        assert [e for e, label in solver.solve(logprobs).labels.items() if label == 2] == [3210]


def test_a_rule_is_broken_when_its_price_is_less_than_it_would_cost_to_keep():
    rule = Relation("at_most_one", (0, 1), price=1.0)
    cheap = _solve([rule], [TRUE, TRUE])
    assert (dict(cheap.labels), cheap.broken, cheap.total_nats) == ({0: 1, 1: 1}, (rule,), -1.5)
    dear = _solve([Relation("at_most_one", (0, 1), price=5.0)], [TRUE, TRUE])
    assert (sum(dear.labels.values()), dear.broken, dear.total_nats) == (1, (), -2.25)


def test_soft_equivalents_are_not_merged():
    rule = _equal(0, 1, price=0.5)
    solution = _solve([rule], [TRUE, FALSE])
    assert (dict(solution.labels), solution.broken) == ({0: 1, 1: 0}, (rule,))


def test_a_hard_relation_is_named_before_a_soft_one():
    soft, hard = Relation("at_most_one", (0, 1), price=9.0), Relation("asymmetric", (0, 1))
    assert _solve([soft, hard], [TRUE, (-3.0, -0.1)]).forced == {0: hard}


# --- ties -------------------------------------------------------------------------------------------------


def test_ties_keep_the_first_label_and_change_nothing():
    assert _solve([Relation("at_most_one", (0, 1)), _equal(1, 2)], [EITHER] * 3).labels == {0: 0, 1: 0, 2: 0}


@pytest.mark.parametrize("positive", [0, 1])
def test_a_tie_is_never_resolved_by_changing_a_label_that_could_have_stayed(positive):
    for kind in ("at_most_one", "exactly_one"):
        solution = _solve([Relation(kind, (0, 1, 2), positive)], [EITHER] * 3)
        assert len(solution.forced) == (1 if (kind, positive) == ("exactly_one", 1) else 2 * (positive == 0))


def test_of_equal_ways_out_the_one_that_changes_fewer_examples_wins():
    solution = _solve([Relation("exactly_one", (0, 1)), _equal(1, 2), Relation("implies", (1, 2))], [EITHER] * 3)
    assert solution.labels == {0: 1, 1: 0, 2: 0}


def test_the_same_question_has_the_same_answer():
    relations = [Relation("exactly_one", (i, i + 1, i + 2)) for i in range(8)]
    first, second = (_solve(relations, [EITHER] * 10) for _ in range(2))
    assert first == second


# --- contradictions ---------------------------------------------------------------------------------------


def test_a_contradiction_names_only_the_relations_it_needs():
    relations = [
        Relation("implies", (3, 0)),
        Relation("equivalent", (0, 1), source="answers"),
        Relation("at_most_one", (1, 2, 3)),
        Relation("asymmetric", (0, 1), source="pairs.jsonl line 7"),
    ]
    with pytest.raises(ContradictionError) as raised:
        Consistency(4, 2, relations).solve(np.zeros((4, 2)))
    assert raised.value.relations == (relations[1], relations[3])
    assert str(raised.value) == (
        "these 2 relations cannot hold together, remove or correct one of them:"
        " equivalent over examples (0, 1) from answers; asymmetric over examples (0, 1) from pairs.jsonl line 7"
    )
    assert raised.value.exit_code == 2


def test_check_lists_one_conflict_for_every_contradictory_component():
    relations = [r for i in (0, 2, 4) for r in (_equal(i, i + 1), Relation("asymmetric", (i, i + 1)))]
    with pytest.raises(ContradictionError) as raised:
        Consistency(8, 2, [*relations, _equal(6, 7)]).check()
    assert raised.value.conflicts == tuple(tuple(relations[i : i + 2]) for i in (0, 2, 4))
    assert len(raised.value.problems) == 3


def test_soft_relations_never_contradict():
    Consistency(2, 2, [_equal(0, 1), Relation("asymmetric", (0, 1), price=1.0)]).check()


def test_a_contradiction_hidden_in_a_large_component_is_found_by_milp():
    pairs, relations = _tournament(7)
    loop = [pairs[a, b] for a, b in ((0, 1), (1, 2), (2, 0))]
    hidden = [_equal(*loop)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "MOST_LABELLINGS", 8)
        Consistency(len(pairs), 2, relations).check()
        with pytest.raises(ContradictionError) as raised:
            Consistency(len(pairs), 2, [*relations, *hidden]).check()
    conflict = raised.value.relations
    assert set(hidden) < set(conflict)
    assert len(conflict) < 10


# --- tournaments and the clock ----------------------------------------------------------------------------


def _tournament(n_items: int) -> tuple[dict[tuple[int, int], int], list[Relation]]:
    """An example for each ordered pair ("a beats b"), and the relations of a strict order."""
    pairs = {pair: index for index, pair in enumerate(itertools.permutations(range(n_items), 2))}
    relations = [
        Relation("asymmetric", (pairs[a, b], pairs[b, a])) for a, b in itertools.combinations(range(n_items), 2)
    ]
    triples = itertools.permutations(range(n_items), 3)
    relations += [Relation("transitive", (pairs[a, b], pairs[b, c], pairs[a, c])) for a, b, c in triples]
    return pairs, relations


def test_a_noisy_tournament_of_twelve_becomes_an_order_as_good_as_the_planted_one():
    pairs, relations = _tournament(12)
    margins = np.random.default_rng(0).normal([1.0 if a < b else -1.0 for a, b in pairs], 1.0)
    logprobs = -np.logaddexp(0.0, np.stack([margins, -margins], axis=1))
    solution = Consistency(len(pairs), 2, relations).solve(logprobs)
    assert solution.gap_nats == 0.0
    wins = [sum(solution.labels[pairs[a, b]] for b in range(12) if b != a) for a in range(12)]
    assert sorted(wins) == list(range(12))
    assert solution.total_nats >= sum(logprobs[index, int(a < b)] for (a, b), index in pairs.items())


def test_when_time_runs_out_the_gap_covers_every_better_labelling():
    pairs = {pair: index for index, pair in enumerate(itertools.combinations(range(40), 2))}
    relations = [
        Relation("transitive", (pairs[a, b], pairs[b, c], pairs[a, c]), positive)
        for a, b, c in itertools.combinations(range(40), 3)
        for positive in (0, 1)
    ]
    margins = np.random.default_rng(0).normal(0.0, 1.0, len(pairs))
    logprobs = -np.logaddexp(0.0, np.stack([margins, -margins], axis=1))
    solution = _first_found(Consistency(len(pairs), 2, relations), logprobs)
    assert solution.gap_nats > 0
    assert solution.total_nats + solution.gap_nats >= logprobs[:, 1].sum()  # "the first beats the second", everywhere
    assert solution.total_nats + solution.gap_nats <= logprobs.max(axis=1).sum() + TOLERANCE_NATS
    assert not any(is_broken(r, solution.labels) for r in relations)


def _first_found(solver: Consistency, logprobs: np.ndarray) -> Solution:
    """The solution at the shortest of some limits at which there is one; the proof takes more than any of them."""
    for time_limit_s in (0.2, 0.4, 0.8, 1.6, 3.2):
        with contextlib.suppress(IcmError):
            return solver.solve(logprobs, time_limit_s=time_limit_s)
    raise AssertionError("nothing was found within any limit")


def test_when_time_runs_out_with_nothing_found_the_error_says_so():
    pairs, relations = _tournament(8)
    with pytest.raises(IcmError, match="no consistent labelling of 56 related examples was found in time"):
        Consistency(len(pairs), 2, relations).solve(np.zeros((len(pairs), 2)), time_limit_s=0.0)
