"""Gold labels as label indices, and the refusal of keys that are gold in disguise."""

from __future__ import annotations

from collections.abc import Sequence

LEAK_MIN_ROWS = 10
"""A key that mirrors gold on fewer rows than this may be chance."""


def label_index(value: object, labels: Sequence[str]) -> int | None:
    """The label that a gold value names, or None where it names none.

    A label's exact name (numbers as Python writes them); else a boolean, or the words "true" and "false" in any case:
    the label of that name in any case, or, where no label has either name, the first label for false and the last
    for true.
    """
    if not isinstance(value, bool | str | int | float):
        return None
    if not isinstance(value, bool) and str(value) in labels:
        return labels.index(str(value))
    word = str(value).casefold()
    return _boolean_index(word, labels) if word in ("false", "true") else None


def _boolean_index(word: str, labels: Sequence[str]) -> int | None:
    folded = [label.casefold() for label in labels]
    if "true" in folded or "false" in folded:  # by name whatever their order: by place would turn gold upside down
        return folded.index(word) if word in folded else None
    return len(labels) - 1 if word == "true" else 0


def mirrored_rows(keys: Sequence[str | None], gold: Sequence[int | None]) -> int:
    """How many rows show that the keys (or groups) are gold in other words; 0 when they are not.

    They are when, over at least 10 rows that have both, each key value goes with one label and each label with one key
    value, and there are two or more: one of the ways in which the paper's code gave away its answers.
    """
    pairs = [(key, label) for key, label in zip(keys, gold, strict=True) if key is not None and label is not None]
    distinct_keys, distinct_labels = {key for key, _ in pairs}, {label for _, label in pairs}
    one_to_one = len(set(pairs)) == len(distinct_keys) == len(distinct_labels)
    return len(pairs) if one_to_one and len(distinct_keys) >= 2 and len(pairs) >= LEAK_MIN_ROWS else 0
