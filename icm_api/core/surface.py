"""Do labels follow the surface of the texts? What a person can check at a glance: one word, length, place, marks.

A labelling that a single such feature reproduces may be about that feature and not about the concept (a "not" in a
claim, an operator in a sum). It may also be honest: a message with a link often is spam. So the feature is named, and
a person judges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from icm_api.core.calibrate import Floats

WORD = re.compile(r"\w+|[^\w\s]")
LEAST_OF_A_LABEL = 8
"""With fewer examples of a label some feature reproduces it by chance."""
LEAST_TEXTS = 3
"""A word in fewer texts can explain no labelling."""
MOST_WORDS = 2_000
"""The most frequent ones; a rarer word is in too few texts to explain many labels."""
MOST_EXAMPLES = 5_000
"""More would tell the same and take longer: the first ones are looked at."""

Feature: TypeAlias = "tuple[str, Floats]"
"""(name for people, (n,) values)"""


@dataclass(frozen=True, slots=True)
class Surface:
    """The one feature that reproduces labels best."""

    feature: str
    accuracy: float
    """Mean of the shares of a label's examples and of all others that a threshold on the feature gets right; chance is
    one half."""
    label: int | None = None
    """The label that it tells from all others; None where there are two, for then it tells both."""


def surface_of(examples: Iterable[Mapping[str, str]], labels: Sequence[int | None]) -> Surface | None:
    """The best single feature for telling the labels. None where fewer than two labels occur often enough to judge.

    `examples`: the fields of each. For each feature the best threshold is taken, and each side gets the label that has
    most of its examples there. Of more than two labels, the one told best from the rest counts: a mean over all would
    hide it, since one threshold cannot tell three. Accuracy is balanced, so a rare label counts as much as another.
    """
    labelled = ((fields, label) for fields, label in zip(examples, labels, strict=True) if label is not None)
    known = list(islice(labelled, MOST_EXAMPLES))
    found = np.array([label for _, label in known])
    names, counts = np.unique(found, return_counts=True)
    frequent = names[counts >= LEAST_OF_A_LABEL]
    if len(frequent) < 2:
        return None
    judged = frequent if len(names) > 2 else frequent[1:]
    told = np.stack([found == name for name in judged])
    scored = (
        (feature, _best_thresholds(values, told)) for feature, values in features([fields for fields, _ in known])
    )
    feature, accuracies = max(scored, key=lambda each: each[1].max())
    label = int(judged[accuracies.argmax()]) if len(names) > 2 else None
    return Surface(feature, float(accuracies.max()), label)


def features(examples: Sequence[Mapping[str, str]]) -> Iterator[Feature]:
    """The place in the file; the features of each field's text by itself, never of the prompt, whose first and last
    words are the same for all; and of each two fields the difference in length: in a comparison the longer text may
    win."""
    yield "place in the file", np.arange(len(examples), dtype=float)
    names = list(examples[0])
    for name in names:
        of_field = f" of {name!r}" if len(names) > 1 else ""
        yield from ((feature + of_field, values) for feature, values in _of_texts([each[name] for each in examples]))
    for one, other in combinations(names, 2):
        difference = [float(len(each[one]) - len(each[other])) for each in examples]
        yield f"difference in length between {one!r} and {other!r}", np.array(difference)


def _of_texts(texts: Sequence[str]) -> Iterator[Feature]:
    """Length, marks, digits, capitals, each frequent word, and how it begins and ends."""
    numbers: Mapping[str, Callable[[str], float]] = {
        "length": len,
        "number of digits": lambda text: sum(map(str.isdigit, text)),
        "number of punctuation marks": lambda text: sum(not (c.isalnum() or c.isspace()) for c in text),
        "share of capitals": lambda text: sum(map(str.isupper, text)) / max(len(text), 1),
    }
    for name, measure in numbers.items():
        yield name, np.array([float(measure(text)) for text in texts])
    words = [WORD.findall(text.lower()) for text in texts]
    yield from _presence("the word {!r}", words)
    yield from _presence("the first word {!r}", [found[:1] for found in words])
    yield from _presence("the last word {!r}", [found[-1:] for found in words])


def _presence(name: str, words_of: Sequence[Sequence[str]]) -> Iterator[Feature]:
    """Per text 1 where it has the word, for each word from the most frequent one on."""
    places: dict[str, list[int]] = {}
    for place, words in enumerate(words_of):
        for word in dict.fromkeys(words):  # a set has another order in each process, and the first of equals is named
            places.setdefault(word, []).append(place)
    for word in sorted(places, key=lambda word: -len(places[word]))[:MOST_WORDS]:
        if LEAST_TEXTS <= len(places[word]) < len(words_of):
            values = np.zeros(len(words_of))
            values[places[word]] = 1.0
            yield name.format(word), values


def _best_thresholds(values: Floats, told: NDArray[np.bool_]) -> Floats:
    """(k,) balanced accuracies of the best rules "above (or below) a threshold"; `told` (k, n): what each must tell."""
    order = np.argsort(values, kind="stable")
    cuts = np.flatnonzero(np.diff(values[order])) + 1
    n_told = told.sum(axis=1, keepdims=True)
    if not len(cuts):
        return np.full(len(told), 0.5)
    below = np.cumsum(told[:, order], axis=1)[:, cuts - 1]
    others_above = 1 - (cuts - below) / (len(values) - n_told)
    balanced = (below / n_told + others_above) / 2
    best: Floats = np.maximum(balanced, 1 - balanced).max(axis=1)
    return best
