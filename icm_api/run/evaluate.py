"""How far a run's labels help: the paper's comparison (arXiv 2506.10139) for a task without fine-tuning.

The same held-out questions are asked of the same model after the same examples in the same order; only the labels that
these are shown with differ: none (zero-shot), random ones, the run's own, gold ones. What is counted is the likeliest
label as the model gives it: no calibration, and no rule repairs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from icm_api.client.meter import Snapshot
from icm_api.client.prices import plain_usd
from icm_api.config import GOLD_METHOD, RunConfig
from icm_api.core.context import Query
from icm_api.core.demonstrations import random_labels
from icm_api.core.labels import argmax_label
from icm_api.core.votes import sign_test, wilson_interval
from icm_api.data.problems import raise_problems
from icm_api.errors import ConfigError, DataError, OutOfReachError
from icm_api.run.compose import Say, open_client
from icm_api.run.job import Job, prepare
from icm_api.run.load import LoadedRun
from icm_api.run.methods import Tools
from icm_api.run.plan import estimate_queries, in_words, look_out
from icm_api.run.transfer import Transfer, beside, demonstrations, other_model

Condition = Literal["zero-shot", "random labels", "run's labels", "gold labels"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
ZERO_SHOT, OWN = CONDITIONS[0], CONDITIONS[2]
NOISE = 0.05
"""A difference that chance makes at least so often is within noise."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One condition. `accuracy` with its 95 % Wilson interval; None, with a `note`, where there is none."""

    condition: Condition
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Accuracy after the run's labels less that of another condition, on the same questions."""

    against: Condition
    difference: float
    gained: int
    """Questions that only the run's labels get right."""
    lost: int
    """Questions that only the other gets right."""
    p: float
    """Of the exact sign test (McNemar): how often chance alone makes a difference as large."""

    @property
    def within_noise(self) -> bool:
        return self.p >= NOISE


@dataclass(frozen=True, slots=True)
class Evaluation:
    bars: tuple[Bar, ...]
    differences: tuple[Difference, ...]
    test: int
    """Questions; each condition was asked all of them."""
    without_gold: int
    """Rows of the test file that have no gold label: left out."""
    demonstrations: int
    counts: Snapshot
    model: str
    notes: tuple[str, ...]

    @property
    def intervals(self) -> list[tuple[str, float, float, float]]:
        """(condition, accuracy, low, high) of those that were measured."""
        return [
            (bar.condition, bar.accuracy, bar.low, bar.high)
            for bar in self.bars
            if bar.accuracy is not None and bar.low is not None and bar.high is not None
        ]

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "test": self.test,
            "without_gold": self.without_gold,
            "demonstrations": self.demonstrations,
            "bars": [asdict(bar) for bar in self.bars],
            "differences": [asdict(each) | {"within_noise": each.within_noise} for each in self.differences],
            "requests": self.counts.requests,
            "cache_hits": self.counts.cache_hits,
            "prompt_tokens": self.counts.prompt_tokens,
            "cost_usd": plain_usd(self.counts.cost_usd),
            "notes": list(self.notes),
        }


async def evaluate(
    loaded: LoadedRun,
    config: RunConfig,
    environ: Mapping[str, str],
    *,
    n: int | None = None,
    most: int | None = None,
    done: Callable[[int, int], None] = lambda _asked, _all: None,
    say: Say | None = None,
) -> Evaluation:
    """Ask the test rows of `config` (see `icm_api.run.transfer.transfer_settings`) under each condition.

    `n`: so many of the rows with gold, drawn at random; None: all. `most`: demonstrations. Raises DataError when a test
    text stands among the run's or no row has gold, ConfigError where the run was made with gold labels, else as a run.
    """
    _refuse_gold_made(loaded)
    test = prepare(config)
    _refuse_seen(loaded.job, test)
    asked = _asked(test, n, config.seed)
    chosen = demonstrations(loaded, most)
    transfer = beside(loaded, test, chosen)
    async with open_client(config, environ, say) as client:
        outlook = await look_out(transfer.job, client.provider)
        labels, left_out = _labels_shown(loaded, chosen)
        questions = _questions(transfer, outlook.tools, [transfer.new[i] for i in asked], labels)
        if say:
            every = [query for queries in questions.values() for query in queries]
            say(in_words(estimate_queries(outlook, "eval", every)))
        gold = [label for i in asked if (label := (test.dataset.gold or ())[i]) is not None]
        right, failed = await _answers(questions, outlook.tools, gold, done)
        return Evaluation(
            bars=tuple(_bars(right, {**left_out, **failed})),
            differences=tuple(_differences(right)),
            test=len(asked),
            without_gold=sum(label is None for label in test.dataset.gold or ()),
            demonstrations=max(len(query.demonstrations) for query in questions[OWN]),
            counts=client.snapshot(),
            model=client.provider.model,
            notes=(*outlook.tools.scorer.notes, *other_model(loaded, client.provider)),
        )


def _refuse_gold_made(loaded: LoadedRun) -> None:
    if loaded.job.config.method == GOLD_METHOD:
        raise ConfigError(f"{loaded.path}: its labels were made with gold labels, so there is nothing to compare")


def _refuse_seen(old: Job, test: Job) -> None:
    """An example whose own label stands in the context, or was searched for, measures nothing."""
    seen = {_plain(text): example for text, example in zip(old.texts, old.examples, strict=True)}
    raise_problems(
        [
            f"{test.dataset.source}:{example.line}: the text of {example.id!r} stands in the run's data too "
            f"({old.dataset.source}:{seen[_plain(text)].line}); test on examples that the run has not seen"
            for text, example in zip(test.texts, test.examples, strict=True)
            if _plain(text) in seen
        ]
    )


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _asked(test: Job, n: int | None, seed: int) -> list[int]:
    """Test rows with gold, in the file's order; at most `n` of them."""
    known = [i for i, label in enumerate(test.dataset.gold or ()) if label is not None]
    if not known:
        raise DataError(f"{test.dataset.source}: no row has a gold label; name their column with --gold-column")
    if n is None or n >= len(known):
        return known
    return sorted(np.random.default_rng([seed, n]).permutation(known)[:n].tolist())


def _labels_shown(
    loaded: LoadedRun, chosen: Sequence[int]
) -> tuple[dict[Condition, Sequence[int]], dict[Condition, str]]:
    """The labels that the demonstrations have under each condition, and why others are left out."""
    n, n_labels, gold = len(chosen), len(loaded.job.label_names), loaded.job.dataset.gold
    labels: dict[Condition, Sequence[int]] = {
        "random labels": random_labels(n, n_labels, seed=loaded.job.config.seed),
        OWN: _known(loaded.labels, chosen),
    }
    if gold is None:
        return labels, {"gold labels": "the run's data have no gold labels"}
    right = _known(gold, chosen)
    if len(right) < n:
        return labels, {"gold labels": f"{n - len(right)} of the {n} examples shown have no gold label"}
    return {**labels, "gold labels": right}, {}


def _known(labels: Sequence[int | None], chosen: Sequence[int]) -> list[int]:
    return [label for i in chosen if (label := labels[i]) is not None]


def _questions(
    transfer: Transfer, tools: Tools, asked: Sequence[int], labels: Mapping[Condition, Sequence[int]]
) -> dict[Condition, list[Query]]:
    shown, questions = transfer.shown, {ZERO_SHOT: [Query(i, ()) for i in asked]}
    for condition, given in labels.items():
        shown_with = dict(zip(shown, given, strict=True))
        questions[condition] = tools.chains.queries(shown, shown_with, asked, most=len(shown))
    return questions


async def _answers(
    questions: Mapping[Condition, Sequence[Query]],
    tools: Tools,
    gold: Sequence[int],
    done: Callable[[int, int], None],
) -> tuple[dict[Condition, list[bool]], dict[Condition, str]]:
    """Which questions are answered right, by condition; and why a condition has no answers."""
    right: dict[Condition, list[bool]] = {}
    failed: dict[Condition, str] = {}
    total = len(gold) * len(questions)
    for k, (condition, queries) in enumerate(questions.items(), start=1):
        try:
            scores = await tools.scorer.score(queries)
        except OutOfReachError as error:  # before it has seen a label written, a model may name none
            failed[condition] = str(error)
        else:
            right[condition] = [argmax_label(score) == label for score, label in zip(scores, gold, strict=True)]
        done(k * len(gold), total)
    return right, failed


def _bars(right: Mapping[Condition, Sequence[bool]], without: Mapping[Condition, str]) -> list[Bar]:
    return [
        _bar(condition, right[condition]) if condition in right else Bar(condition, note=without[condition])
        for condition in CONDITIONS
    ]


def _bar(condition: Condition, right: Sequence[bool]) -> Bar:
    low, high = wilson_interval(sum(right), len(right))
    return Bar(condition, sum(right) / len(right), low, high)


def _differences(right: Mapping[Condition, Sequence[bool]]) -> list[Difference]:
    if OWN not in right:
        return []
    return [_difference(right[OWN], condition, other) for condition, other in right.items() if condition != OWN]


def _difference(own: Sequence[bool], against: Condition, other: Sequence[bool]) -> Difference:
    gained = sum(a and not b for a, b in zip(own, other, strict=True))
    lost = sum(b and not a for a, b in zip(own, other, strict=True))
    return Difference(against, (gained - lost) / len(own), gained, lost, sign_test(gained, lost))
