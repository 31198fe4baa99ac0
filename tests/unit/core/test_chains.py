"""Orders of examples cut into chains that fit."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icm_api.core.chains import ChainBuilder, ChainPolicy
from icm_api.core.context import Chain
from icm_api.core.problem import Problem
from icm_api.types import Relation


def builder(groups: list[str | None], sizes: list[int] | None = None, **policy: int | bool | None) -> ChainBuilder:
    siblings = Problem.build(2, groups).siblings
    return ChainBuilder(siblings, sizes or [1] * len(groups), ChainPolicy(**policy))  # type: ignore[arg-type]


def scored(chains: list[Chain]) -> list[int]:
    return [i for chain in chains for i in chain.scored]


def shown(chain: Chain) -> list[int]:
    return [i for i, _ in chain.examples[: chain.first]]


@st.composite
def cuts(draw: st.DrawFn) -> tuple[Problem, list[int], ChainPolicy, list[Chain]]:
    n = draw(st.integers(1, 40))
    groups = draw(st.lists(st.sampled_from([None, None, "a", "b", "c"]), min_size=n, max_size=n))
    pairs = draw(st.lists(st.permutations(range(n)).map(lambda order: order[:2]), max_size=4)) if n > 1 else []
    problem = Problem.build(2, groups, [Relation("equivalent", (a, b)) for a, b in pairs])
    sizes = draw(st.lists(st.integers(1, 100), min_size=n, max_size=n))
    policy = ChainPolicy(
        draw(st.sampled_from([None, 100, 130, 300])), draw(st.integers(1, 50)), leave_out_siblings=draw(st.booleans())
    )
    order = draw(st.permutations(range(n)))
    return problem, sizes, policy, ChainBuilder(problem.siblings, sizes, policy).cut(order, [i % 2 for i in range(n)])


@given(cuts())
def test_every_example_is_scored_once_and_nothing_is_longer_than_allowed(
    cut: tuple[Problem, list[int], ChainPolicy, list[Chain]],
):
    problem, sizes, policy, chains = cut
    assert sorted(scored(chains)) == list(range(problem.n_examples))
    for chain in chains:
        assert len(chain.examples) <= policy.max_examples
        assert policy.max_tokens is None or sum(sizes[i] for i, _ in chain.examples) <= policy.max_tokens


@given(cuts())
def test_siblings_never_stand_in_the_chain_of_an_example_when_left_out(
    cut: tuple[Problem, list[int], ChainPolicy, list[Chain]],
):
    problem, _, policy, chains = cut
    for chain in chains:
        for i in chain.scored if policy.leave_out_siblings else ():
            assert not (problem.siblings[i] - {i}) & {j for j, _ in chain.examples}


@given(cuts())
def test_an_example_stands_in_a_chain_once_with_its_own_label(
    cut: tuple[Problem, list[int], ChainPolicy, list[Chain]],
):
    for chain in cut[3]:
        assert len({i for i, _ in chain.examples}) == len(chain.examples)
        assert all(label == i % 2 for i, label in chain.examples)


def test_what_fits_is_one_chain_in_the_given_order_without_overlap():
    order = [3, 0, 2, 1]
    (chain,) = builder([None] * 4).cut(order, [0] * 4)
    assert [i for i, _ in chain.examples] == order
    assert chain.first == 0


def test_several_chains_are_even_keep_the_order_and_begin_with_examples_of_others():
    order = np.random.default_rng(0).permutation(100).tolist()
    chains = builder([None] * 100, max_examples=30).cut(order, [0] * 100)
    assert len(chains) == 4
    for chain in chains:
        assert len(chain.scored) == 25
        assert sorted(chain.scored, key=order.index) == list(chain.scored)
        assert len(shown(chain)) == 5  # a quarter would be 7: more than the chain may hold


def test_an_overlap_of_a_quarter_is_shown_where_there_is_room():
    groups: list[str | None] = [*"aabb", *[None] * 36]
    for chain in builder(groups).cut(range(40), [0] * 40):
        assert len(shown(chain)) == 5


def test_siblings_share_a_chain_when_they_are_not_left_out():
    assert len(builder(["a"] * 20, leave_out_siblings=False).cut(range(20), [0] * 20)) == 1


def test_an_example_larger_than_the_room_is_a_chain_of_its_own():
    chains = builder([None] * 4, [3, 50, 3, 3], max_tokens=10).cut(range(4), [0] * 4)
    assert [1] in [[i for i, _ in chain.examples] for chain in chains]


def test_the_same_order_gives_the_same_chains():
    groups: list[str | None] = [str(i % 7) for i in range(60)]
    sizes = [1 + i % 9 for i in range(60)]
    cut = [builder(groups, sizes, max_tokens=50).cut(range(60), [0] * 60) for _ in range(2)]
    assert cut[0] == cut[1]


def test_no_examples_give_no_chains():
    assert builder([None]).cut([], []) == []


@pytest.mark.parametrize(
    ("groups", "sizes", "max_tokens"),
    [
        pytest.param([None], [1], None, id="free"),
        pytest.param([None], [900, 999, 951], 1000, id="each nearly the whole room"),
        pytest.param([None], [900] * 4999 + [1], 1000, id="nearly the room, and a tiny one"),
        pytest.param(["a"], [1], None, id="all siblings"),
        pytest.param(["a", None], [1], None, id="half of them siblings"),
        pytest.param([str(k) for k in range(1250)], [50, 400, 120, 900], 1000, id="groups of four"),
    ],
)
def test_thousands_of_examples_are_cut_in_no_time(groups: list[str | None], sizes: list[int], max_tokens: int | None):
    n = 5000
    chains = builder((groups * n)[:n], (sizes * n)[:n], max_tokens=max_tokens)
    began = time.process_time()
    assert sorted(scored(chains.cut(range(n), [0] * n))) == list(range(n))
    assert time.process_time() - began < 4  # a fraction of a second, where nobody else needs the processor


def test_shown_takes_the_first_that_leave_room_for_any_one_asked():
    chains = builder([None] * 6, [4, 9, 4, 4, 5, 8], max_tokens=18)
    assert chains.shown([0, 1, 2, 3], [4, 5], most=10) == [0, 2]
    assert chains.shown([0, 1, 2, 3], [4, 5], most=1) == [0]
    assert builder([None] * 6, max_examples=2).shown(range(4), [5], most=10) == [0, 1]


def test_a_question_shows_the_same_examples_to_all_but_their_siblings():
    siblings = [frozenset({0, 4}), *[frozenset()] * 3, frozenset({0, 4}), frozenset()]
    chains = ChainBuilder(siblings, [1] * 6, ChainPolicy())
    kin, stranger = chains.queries([0, 1, 2], [1, 0, 1, 0, 0, 0], [4, 5], most=2)
    assert (kin.example, kin.demonstrations) == (4, ((1, 0),))
    assert (stranger.example, stranger.demonstrations) == (5, ((0, 1), (1, 0)))
