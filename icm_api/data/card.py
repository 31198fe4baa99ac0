"""A dataset card: what a file of labels is, how it came about, and how far it can be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MARK = "<!-- dataset card by icm-api -->"
"""Stands in every card, so that no other README.md is ever replaced by one."""
LIMITS = (
    "{checked} They are those a language model finds most coherent with one another; a model can be coherent and "
    "wrong, and its mistakes and biases are in them.",
    "`icm_confidence` is the model's own probability of a label, whoever gave it. Unless the accuracy above was "
    "measured, nothing says how often a label of that confidence is right.",
    "What the model's makers allow to be trained on its output, and the licence of the texts, are not checked here.",
)


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card tells. None, or empty: not known, and the card says so or leaves it out."""

    title: str
    splits: Mapping[str, str]
    """Split -> file name beside the card."""
    records: Mapping[str, int]
    """Split -> records."""
    facts: Mapping[str, str]
    """Name -> value: the table at the head of the card, in this order."""
    left_out: Mapping[str, int]
    """Reason -> examples."""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    """How to use the files: paragraphs of Markdown."""
    pinned: int = 0
    """Examples in the files whose label a person gave."""
    given: str = "without human labels"
    """What the model that labelled them had of people."""


def card_text(about: CardFacts) -> str:
    """The card as Markdown with the YAML head of a Hugging Face data set (huggingface.co/docs/hub/datasets-cards)."""
    total = sum(about.records.values())
    parts = [
        _head(about, total),
        MARK,
        f"# {_plain(about.title)}",
        f"{total} records ({', '.join(f'{split}: {n}' for split, n in about.records.items())}), labelled by a language "
        f"model {about.given}, by mutual predictability under logical rules (arXiv 2506.10139).",
        "\n".join(("| | |", "|---|---|", *(f"| {name} | {_cell(text)} |" for name, text in about.facts.items()))),
        *_section("Warnings", [f"- {_plain(warning)}" for warning in about.warnings]),
        *_section("Left out", [f"- {n} examples: {reason}" for reason, n in about.left_out.items()]),
        *_section("Files", about.notes, "\n\n"),
        *_section("Limits", [f"- {limit.format(checked=_checked(about.pinned))}" for limit in LIMITS]),
    ]
    return "\n\n".join(parts) + "\n"


def _checked(pinned: int) -> str:
    if not pinned:
        return "No person has checked these labels."
    return f"A person gave the labels of {pinned} examples (`icm_pinned`); no person has checked the others."


def _head(about: CardFacts, total: int) -> str:
    """YAML."""
    files = [f"      - split: {split}\n        path: {_text(name)}" for split, name in about.splits.items()]
    return "\n".join(
        (
            "---",
            f"pretty_name: {_text(about.title)}",
            "tags:\n  - synthetic-labels\n  - internal-coherence-maximization",
            f"size_categories:\n  - {_size(total)}",
            "configs:\n  - config_name: default\n    data_files:",
            *files,
            "---",
        )
    )


def _text(text: str) -> str:
    """A JSON string, which is one in YAML too."""
    return json.dumps(text, ensure_ascii=False)


def _size(n: int) -> str:
    """A category of the hub."""
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in steps if n < limit), "1M<n<10M")


def _section(title: str, lines: Sequence[str], between: str = "\n") -> list[str]:
    return [f"## {title}", between.join(lines)] if lines else []


def _plain(text: str) -> str:
    """On one line, and no HTML: file names and warnings may hold texts of the data."""
    return " ".join(text.split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")
