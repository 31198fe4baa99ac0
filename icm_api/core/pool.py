"""Which examples of a large data set a search is about; the rest are labelled from them."""

from __future__ import annotations

import numpy as np

from icm_api.core.calibrate import Ints
from icm_api.core.problem import Problem
from icm_api.core.relations import pinned_labels


def draw_pool(problem: Problem, size: int | None, seed: int) -> Ints:
    """Random examples, ascending: whole families (siblings and their siblings), until there are at least `size`.

    Pinned ones are taken before others."""
    if size is None or size >= problem.n_examples:
        return np.arange(problem.n_examples)
    pool: set[int] = set()
    rng = np.random.default_rng([seed, 0])
    for example in (*pinned_labels(problem.relations), *rng.permutation(problem.n_examples).tolist()):
        if len(pool) >= size:
            break
        pool |= _family(problem, example)
    return np.array(sorted(pool))


def _family(problem: Problem, example: int) -> set[int]:
    family, new = {example}, [example]
    while new:
        kin = problem.siblings[new.pop()]
        new += kin - family
        family |= kin
    return family
