"""Labels from names: how they are written in a prompt, and which other spellings count as them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from icm_api.errors import ConfigError
from icm_api.types import Label


def labels_from_names(names: Sequence[str]) -> tuple[Label, ...]:
    """Labels written as their names. Raises `ConfigError` as `check_labels` does."""
    return with_variants(tuple(Label(name, f" {name}") for name in names))


def with_variants(labels: Sequence[Label]) -> tuple[Label, ...]:
    """The labels, those without variants of their own given the other spellings of their text by case and leading
    space, save any that could be read as another label. Raises `ConfigError` as `check_labels` does."""
    check_labels(labels)
    taken = Counter(spelling for label in labels for spelling in _own_spellings(label))
    completed = tuple(
        label
        if label.variants
        else Label(
            label.name, label.text, tuple(s for s in _spellings(label.text) if taken[s] == 1 and s != label.text)
        )
        for label in labels
    )
    check_labels(completed)
    return completed


def check_labels(labels: Sequence[Label]) -> None:
    """Raise `ConfigError` unless there are two labels or more, told apart by name and by every spelling."""
    if len(labels) < 2:
        raise ConfigError(f"a task needs at least two labels, not {len(labels)}")
    for label in labels:
        _check_label(label)
    _check_unique("labels", [label.name.casefold() for label in labels])
    _check_unique("texts of labels", [label.text.casefold() for label in labels])
    _check_unique("spellings", [spelling for label in labels for spelling in {label.text, *label.variants}])
    for short, long in itertools.permutations(labels, 2):
        if long.text.startswith(f"{short.text} "):
            raise ConfigError(
                f"label {long.name!r} begins with the whole label {short.name!r}, so the shorter one would always be "
                "the likelier: use words that begin differently"
            )


def _check_label(label: Label) -> None:
    if not label.name or label.name != label.name.strip() or not label.name.isprintable():
        raise ConfigError(f"label {label.name!r} is empty, or has whitespace around it or a line break in it")
    text = label.text.removeprefix(" ")
    if label.text == text or not text or text != text.strip() or not text.isprintable():
        raise ConfigError(f"label {label.name!r}: its text {label.text!r} must be one space and then a word or words")
    if not all(variant.strip() for variant in label.variants):
        raise ConfigError(f"label {label.name!r}: a variant is empty")


def _check_unique(what: str, values: Sequence[str]) -> None:
    value, times = Counter(values).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"two {what} are alike: {value!r}")


def _own_spellings(label: Label) -> set[str]:
    return {label.text, *(label.variants or _spellings(label.text))}


def _spellings(text: str) -> tuple[str, ...]:
    word = text.removeprefix(" ")
    cases = dict.fromkeys((word, word.lower(), word.capitalize(), word.upper()))
    return tuple(lead + case for lead in (" ", "") for case in cases)
