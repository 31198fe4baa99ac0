"""Signs, without gold, that a labelling is not worth its utility."""

from __future__ import annotations

from collections.abc import Sequence

COLLAPSE_SHARE = 0.95


def label_shares(labels: Sequence[int | None], n_labels: int) -> tuple[float, ...]:
    """Share of each label among the labelled examples; all 0 when none is labelled."""
    labelled = [label for label in labels if label is not None]
    return tuple(labelled.count(k) / max(len(labelled), 1) for k in range(n_labels))


def collapsed(labels: Sequence[int | None], n_labels: int) -> bool:
    """Whether (nearly) all examples have one label.

    One label for all is a near-perfect optimum of mutual predictability whenever no rule forbids it (section 2.1
    of arXiv 2506.10139 names it degenerate), so a high utility is no evidence against it.
    """
    labelled = sum(label is not None for label in labels)
    return labelled > n_labels and max(label_shares(labels, n_labels)) >= COLLAPSE_SHARE
