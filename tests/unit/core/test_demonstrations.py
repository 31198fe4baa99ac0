"""Which labelled examples of a run are shown before new ones."""

from icm_api.core.demonstrations import choose_demonstrations, random_labels


def chosen(labels, confidences, most, seed=0):
    return choose_demonstrations(labels, confidences, n_labels=2, most=most, seed=seed)


def test_each_label_is_shown_as_often_as_the_other():
    labels = [0] * 80 + [1] * 20
    found = chosen(labels, [0.9] * 100, 16)
    assert [labels[i] for i in found].count(0) == [labels[i] for i in found].count(1) == 8
    assert len(set(found)) == 16


def test_any_beginning_is_as_even():
    labels = [0, 1] * 20
    found = [labels[i] for i in chosen(labels, [0.9] * 40, 20)]
    assert all(sorted(found[k : k + 2]) == [0, 1] for k in range(0, 20, 2))


def test_a_label_that_runs_out_is_not_made_up_for_by_others():
    labels = [0] * 50 + [1] * 3
    found = [labels[i] for i in chosen(labels, [0.9] * 53, 20)]
    assert (found.count(0), found.count(1)) == (10, 3)


def test_the_surer_half_of_each_label_comes_before_the_rest():
    labels, confidences = [0] * 20 + [1] * 20, [0.5 + k / 40 for k in range(20)] * 2
    few = chosen(labels, confidences, 20)
    assert all(confidences[i] >= confidences[10] for i in few)
    more = chosen(labels, confidences, 24)
    assert {i % 20 for i in more if confidences[i] < confidences[10]} == {8, 9}, "then the surest of the others"


def test_examples_without_a_label_are_never_shown():
    assert set(chosen([0, None, 1, None], [0.9, None, 0.8, 0.9], 4)) == {0, 2}
    assert chosen([None], [None], 4) == []


def test_a_single_one_is_still_shown():
    assert len(chosen([0, 1], [0.9, 0.9], 1)) == 1


def test_random_labels_are_as_even_as_their_number_allows_and_repeat_with_the_seed():
    drawn = random_labels(11, 2, seed=3)
    assert sorted([drawn.count(0), drawn.count(1)]) == [5, 6]
    assert drawn == random_labels(11, 2, seed=3)
    assert drawn != random_labels(11, 2, seed=4)
