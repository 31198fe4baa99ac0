"""Which demonstrations stand before a query."""

from __future__ import annotations

from icm_api.core.context import ContextBuilder, ContextPolicy

NOBODY: tuple[frozenset[int], ...] = tuple(frozenset() for _ in range(6))
LABELS = [0, 1, 0, None, 1, 0]


def build(policy: ContextPolicy, siblings=NOBODY, sizes=(10,) * 6, seed=0) -> ContextBuilder:
    return ContextBuilder(siblings, sizes, policy, seed=seed)


def test_every_labelled_example_but_the_query_itself_is_shown_with_its_label():
    query = build(ContextPolicy()).query(0, LABELS)
    assert sorted(query.demonstrations) == [(1, 1), (2, 0), (4, 1), (5, 0)]


def test_siblings_are_left_out_unless_asked_for():
    siblings = (frozenset({1, 2}), frozenset({0}), frozenset({0}), *NOBODY[3:])
    assert {i for i, _ in build(ContextPolicy(), siblings).query(0, LABELS).demonstrations} == {4, 5}
    keeping = build(ContextPolicy(leave_out_siblings=False), siblings)
    assert {i for i, _ in keeping.query(0, LABELS).demonstrations} == {1, 2, 4, 5}


def test_the_same_labels_give_the_same_query_every_time():
    builder = build(ContextPolicy())
    assert builder.query(2, LABELS) == builder.query(2, LABELS) == build(ContextPolicy()).query(2, LABELS)


def test_examples_have_orders_of_their_own_unless_they_share_one():
    everyone = [0] * 6

    def orders(policy: ContextPolicy) -> set[tuple[int, ...]]:
        builder = build(policy)
        shown = [[i for i, _ in builder.query(q, everyone).demonstrations if i > 1] for q in (0, 1)]
        return {tuple(order) for order in shown}

    assert len(orders(ContextPolicy(order="shared"))) == 1
    assert len(orders(ContextPolicy(order="per-example"))) == 2


def test_at_most_so_many_demonstrations_and_it_is_counted():
    builder = build(ContextPolicy(max_demonstrations=2))
    assert len(builder.query(0, LABELS).demonstrations) == 2
    assert builder.capped == 1


def test_demonstrations_and_query_stay_within_the_room():
    sizes = (30, 30, 30, 30, 50, 10)
    builder = build(ContextPolicy(max_tokens=75), sizes=sizes)
    shown = [i for i, _ in builder.query(0, LABELS).demonstrations]
    assert sum(sizes[i] for i in shown) <= 75 - 30
    assert shown, "what fits is shown"
    assert builder.capped == 1


def test_nothing_is_counted_as_capped_when_everything_fits():
    builder = build(ContextPolicy(max_tokens=60))
    builder.query(0, LABELS)
    assert builder.capped == 0


def test_only_the_first_labelled_of_a_capped_shared_order_reach_the_others():
    siblings = tuple(frozenset({i, i ^ 1}) for i in range(40))
    builder = build(ContextPolicy(max_demonstrations=4), siblings, (1,) * 40)
    labels: list[int | None] = [0] * 40
    shown = {i for example in range(40) for i, _ in builder.query(example, labels).demonstrations}
    assert shown <= builder.core
    assert {i for i in range(40) if builder.reaches(i, labels)} == builder.core
    assert build(ContextPolicy(), siblings, (1,) * 40).core == frozenset(range(40))
    assert all(build(ContextPolicy(), siblings, (1,) * 40).reaches(i, labels) for i in range(40))
