"""Do labels follow the surface of the texts? What a person can check at a glance: one word, length, place, marks.

A labelling that a single such feature reproduces may be about that feature and not about the concept (a "not" in a
claim, an operator in a sum). It may also be honest: a message with a link often is spam. So the feature is named, and
a person judges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import numpy as np

from icm_api.core.calibrate import Floats, Ints

WORD = re.compile(r"\w+|[^\w\s]")
LEAST_OF_A_LABEL = 8
"""With fewer examples of a label some feature reproduces it by chance."""
LEAST_TEXTS = 3
"""A word in fewer texts can explain no labelling."""
MOST_WORDS = 2_000
"""The most frequent ones; a rarer word is in too few texts to explain many labels."""
MOST_TEXTS = 5_000
"""More would tell the same and take longer: the first ones are looked at."""

Feature: TypeAlias = "tuple[str, Floats]"
"""(name for people, (n,) values)"""


@dataclass(frozen=True, slots=True)
class Surface:
    """The one feature that reproduces labels best."""

    feature: str
    accuracy: float
    """Mean over the labels of the share that a threshold on the feature gets right; chance is 1 / number of labels."""


def surface_of(texts: Sequence[str], labels: Sequence[int | None]) -> Surface | None:
    """The best single feature for telling the labels. None where fewer than two labels occur often enough to judge.

    For each feature the best threshold is taken, and each side gets the label that has most of its examples there; for
    more than two labels each is told from the rest. Accuracy is balanced, so a rare label counts as much as another.
    """
    labelled = ((text, label) for text, label in zip(texts, labels, strict=True) if label is not None)
    known = list(islice(labelled, MOST_TEXTS))
    found = np.array([label for _, label in known])
    names, counts = np.unique(found, return_counts=True)
    frequent = names[counts >= LEAST_OF_A_LABEL]
    if len(frequent) < 2:
        return None
    told = [found == name for name in (frequent if len(names) > 2 else frequent[1:])]
    scored = (
        Surface(feature, float(np.mean([_best_threshold(values, each) for each in told])))
        for feature, values in features([text for text, _ in known])
    )
    return max(scored, key=lambda surface: surface.accuracy)


def features(texts: Sequence[str]) -> Iterator[Feature]:
    """Length, place in the file, marks, digits, capitals, how it begins and ends, and each frequent word."""
    numbers: Mapping[str, Callable[[int, str], float]] = {
        "length": lambda _, text: len(text),
        "place in the file": lambda place, _: place,
        "number of digits": lambda _, text: sum(map(str.isdigit, text)),
        "number of punctuation marks": lambda _, text: sum(not (c.isalnum() or c.isspace()) for c in text),
        "share of capitals": lambda _, text: sum(map(str.isupper, text)) / max(len(text), 1),
    }
    for name, measure in numbers.items():
        yield name, np.array([float(measure(place, text)) for place, text in enumerate(texts)])
    words = [WORD.findall(text.lower()) for text in texts]
    yield from _presence("the first word {!r}", [set(found[:1]) for found in words])
    yield from _presence("the last word {!r}", [set(found[-1:]) for found in words])
    yield from _presence("the word {!r}", [set(found) for found in words])


def _presence(name: str, found: Sequence[set[str]]) -> Iterator[Feature]:
    counts = Counter(word for words in found for word in words)
    for word, count in counts.most_common(MOST_WORDS):
        if count < LEAST_TEXTS:
            return
        if count < len(found):
            yield name.format(word), np.array([float(word in words) for words in found])


def _best_threshold(values: Floats, told: Ints) -> float:
    """Balanced accuracy of the best rule "above (or below) a threshold"."""
    order = np.argsort(values, kind="stable")
    ordered, positive = values[order], told[order].astype(float)
    cuts = np.flatnonzero(np.diff(ordered)) + 1
    if not len(cuts):
        return 0.5
    below = np.concatenate([[0.0], np.cumsum(positive)])[cuts]
    n_positive = positive.sum()
    others_above = 1 - (cuts - below) / (len(values) - n_positive)
    balanced = (below / n_positive + others_above) / 2
    return float(np.maximum(balanced, 1 - balanced).max())
