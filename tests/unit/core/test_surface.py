"""The one feature of the texts that reproduces labels best."""

import numpy as np
import pytest

from icm_api.core.surface import MOST_TEXTS, surface_of

WORDS = ["stone", "river", "cloud", "table", "window", "garden", "bottle", "letter"]


def texts_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(n)]


def best(texts, labels):
    found = surface_of(texts, labels)
    assert found is not None
    return found


def test_a_word_that_decides_the_labels_is_named():
    texts = [f"{text} not so" if i % 2 else f"{text} is so" for i, text in enumerate(texts_of(40))]
    found = best(texts, [i % 2 for i in range(40)])
    assert found.accuracy == 1.0
    assert found.feature in ("the word 'not'", "the word 'is'")


@pytest.mark.parametrize(
    ("change", "feature"),
    [
        (lambda text: text + " and more of it" * 4, "length"),
        (lambda text: text.replace(" ", " 7"), "number of digits"),
        (lambda text: text.upper(), "share of capitals"),
        (lambda text: text.replace(" ", " !"), "number of punctuation marks"),
    ],
)
def test_a_feature_that_is_no_word_is_named(change, feature):
    labels = np.random.default_rng(1).integers(0, 2, size=60).tolist()
    texts = [change(text) if label else text for text, label in zip(texts_of(60), labels, strict=True)]
    found = best(texts, labels)
    # Several features follow at once; what matters is that one that was changed is found, and tells all.
    assert found.accuracy > 0.97, (feature, found)


def test_labels_that_follow_their_place_in_the_file_are_found():
    found = best(texts_of(50), [int(i >= 30) for i in range(50)])
    assert (found.feature, found.accuracy) == ("place in the file", 1.0)


def test_random_labels_are_told_by_nothing():
    labels = np.random.default_rng(2).integers(0, 2, size=300).tolist()
    assert best(texts_of(300), labels).accuracy < 0.65


def test_a_rare_label_counts_as_much_as_a_frequent_one():
    labels = [1] * 10 + [0] * 90
    found = best(["same text"] * 100, labels)
    assert found.feature == "place in the file"
    assert best(texts_of(100), np.random.default_rng(3).permutation(labels).tolist()).accuracy < 0.9


def test_three_labels_are_each_told_from_the_rest():
    marks = ["alpha", "beta", "gamma"]
    texts = [f"{text} {marks[i % 3]} end" for i, text in enumerate(texts_of(90))]
    found = best(texts, [i % 3 for i in range(90)])
    assert 0.7 < found.accuracy < 1.0  # one word tells one label from the rest, and only halves the others


def test_too_few_examples_of_a_label_are_not_judged():
    assert surface_of(texts_of(60), [1] * 7 + [0] * 53) is None


def test_one_label_and_no_label_have_no_surface():
    assert surface_of(texts_of(20), [0] * 20) is None
    assert surface_of(texts_of(20), [None] * 20) is None


def test_examples_without_a_label_are_left_out():
    labels = [0, 1] * 20 + [None] * 10
    texts = [*("no" if i % 2 else "yes yes" for i in range(40)), *(["yes yes"] * 10)]
    assert best(texts, labels).accuracy == 1.0


def test_long_lists_are_cut_so_that_the_work_is_bounded():
    n = MOST_TEXTS + 500
    labels = [i % 2 for i in range(n)]
    assert best([f"{'on' if label else 'off'} text" for label in labels], labels).accuracy == 1.0
