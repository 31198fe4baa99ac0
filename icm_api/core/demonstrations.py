"""Which labelled examples of a run to show before new ones.

What serves best is not known: no measurement backs this choice. Even numbers of each label keep the context from
pulling towards one; the surer half of a label holds fewer wrong ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np


def choose_demonstrations(
    labels: Sequence[int | None], confidences: Sequence[float | None], *, n_labels: int, most: int, seed: int
) -> list[int]:
    """At most `most` labelled examples, evenly over their labels as far as there are enough of each.

    Of each label they are drawn at random from its surer half (that includes the median), and where that is too small
    also from the rest, the surest first. They take turns by label, so that any beginning of them is even too.
    """
    rng = np.random.default_rng([seed, most])
    ranked = [_ranked(k, labels, confidences, rng) for k in range(n_labels)]
    turns = [[i for i in turn if i is not None] for turn in zip_longest(*ranked)]
    # A turn is one example of each label; where labels run out, the rest would tip the balance, so they stay out.
    enough = max(1, most // n_labels)
    return [i for turn in turns[:enough] for i in rng.permutation(turn).tolist()][:most]


def random_labels(n: int, n_labels: int, *, seed: int) -> list[int]:
    """Labels drawn without a look at anything, as evenly as `n` allows."""
    rng = np.random.default_rng([seed, n, n_labels])
    return [int(label) for label in rng.permutation(n_labels)[rng.permutation(n) % n_labels]]


def _ranked(
    label: int, labels: Sequence[int | None], confidences: Sequence[float | None], rng: np.random.Generator
) -> list[int]:
    known = [
        (confidence, i)
        for i, (own, confidence) in enumerate(zip(labels, confidences, strict=True))
        if own == label and confidence is not None
    ]
    surest_first = [i for _, i in sorted(known, key=lambda pair: (-pair[0], pair[1]))]
    half = -(-len(surest_first) // 2)
    return [*rng.permutation(surest_first[:half]).tolist(), *surest_first[half:]]
