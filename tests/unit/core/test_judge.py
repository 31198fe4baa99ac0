"""How averaged scores become the probabilities that labels are shown with."""

import numpy as np
import pytest

from icm_api.core.judge import as_sure_as_clusters
from icm_api.core.passes import Average, read_scores
from icm_api.types import LabelScore


def test_confidences_do_not_depend_on_the_order_of_the_file():
    rng, n = np.random.default_rng(0), 6_000
    odds = np.concatenate([rng.normal(-1, 0.2, n // 2), rng.normal(1, 0.2, n // 2)])
    sure = []
    for order in (np.arange(n), rng.permutation(n)):
        scores = [LabelScore((0.0, float(odds[i])), 1.0, (False, False)) for i in order]
        average = Average.empty(n, 2).plus(read_scores(range(n), scores, n, 2))
        sure.append(float(np.exp(as_sure_as_clusters(average, average.logprobs)).max(axis=1).mean()))
    assert sure[0] == pytest.approx(sure[1], abs=0.01)
    assert sure[0] > 0.99
