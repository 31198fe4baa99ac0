"""The one feature of the texts that reproduces labels best."""

import itertools

import numpy as np
import pytest

from icm_api.core.surface import MOST_EXAMPLES, surface_of

WORDS = ["stone", "river", "cloud", "table", "window", "garden", "bottle", "letter"]


def texts_of(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=6)) for _ in range(n)]


def single(texts):
    return [{"text": text} for text in texts]


def best(texts, labels):
    return best_of(single(texts), labels)


def best_of(examples, labels):
    found = surface_of(examples, labels)
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


def test_of_three_labels_the_one_told_best_counts_and_is_named():
    marks = ["alpha", "beta", "gamma"]
    texts = [f"{text} {marks[i % 3]} end" for i, text in enumerate(texts_of(90))]
    found = best(texts, [i % 3 for i in range(90)])
    assert found.accuracy == 1.0
    assert found.feature == f"the word {marks[found.label]!r}"


def test_bands_of_length_that_make_three_labels_are_found():
    texts = [" ".join(["word"] * (1 + i % 30)) for i in np.random.default_rng(4).permutation(90)]
    found = best(texts, [len(text.split()) // 11 for text in texts])
    assert (found.feature, found.accuracy) == ("length", 1.0)
    assert found.label in (0, 2)  # the band between has two ends, and a threshold is one


def test_three_labels_that_nothing_tells_are_not_told_by_chance():
    labels = np.random.default_rng(5).integers(0, 3, size=300).tolist()
    assert best(texts_of(300), labels).accuracy < 0.65


def test_two_labels_are_told_by_the_same_rule_so_neither_is_named():
    assert best(["no" if i % 2 else "yes" for i in range(40)], [i % 2 for i in range(40)]).label is None


@pytest.mark.parametrize(("place", "feature"), [(0, "the first word 'not'"), (5, "the last word 'not'")])
def test_how_a_text_begins_and_ends_is_measured(place, feature):
    labels = np.random.default_rng(6).permutation([0, 1] * 30).tolist()
    texts = []
    for text, label in zip(texts_of(60), labels, strict=True):
        words = text.split()
        words[place if label else 2] = "not"  # it is in all of them
        texts.append(" ".join(words))
    found = best(texts, labels)
    assert (found.feature, found.accuracy) == (feature, 1.0)


def test_a_comparison_that_the_longer_text_always_wins_is_found():
    rng = np.random.default_rng(7)
    sizes = [(int(a), int(b)) for a, b in rng.integers(1, 40, size=(80, 2)) if a != b]
    pairs = [{"prompt": "Which?", "response_a": "x" * a, "response_b": "x" * b} for a, b in sizes]
    found = best_of(pairs, [int(a > b) for a, b in sizes])
    assert found.feature == "difference in length between 'response_a' and 'response_b'"
    assert found.accuracy == 1.0


def test_each_of_several_fields_is_measured_by_itself():
    labels = np.random.default_rng(8).permutation([0, 1] * 30).tolist()
    words = [("is", "not") if label else ("not", "is") for label in labels]
    found = best_of([{"question": f"it {one} so", "claim": f"it {other} so"} for one, other in words], labels)
    assert found.accuracy == 1.0
    assert found.feature in {
        f"the word {word!r} of {field!r}" for word in ("is", "not") for field in ("question", "claim")
    } | {"length of 'question'"}


def test_too_few_examples_of_a_label_are_not_judged():
    assert surface_of(single(texts_of(60)), [1] * 7 + [0] * 53) is None


def test_one_label_and_no_label_have_no_surface():
    assert surface_of(single(texts_of(20)), [0] * 20) is None
    assert surface_of(single(texts_of(20)), [None] * 20) is None


def test_examples_without_a_label_are_left_out():
    labels = [0, 1] * 20 + [None] * 10
    texts = [*("no" if i % 2 else "yes yes" for i in range(40)), *(["yes yes"] * 10)]
    assert best(texts, labels).accuracy == 1.0


def test_long_lists_are_cut_so_that_the_work_is_bounded():
    n = MOST_EXAMPLES + 500
    labels = [i % 2 for i in range(n)]
    read = itertools.count()
    examples = ({"text": "on" if label else "off", "nth": str(next(read))} for label in labels)
    assert best_of(examples, labels).accuracy == 1.0
    assert next(read) == MOST_EXAMPLES
