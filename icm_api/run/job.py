"""A labelling job made ready: the data read, the rules derived and checked. Nothing is asked of a model yet."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import overload

from icm_api.config import GOLD_METHOD, RunConfig
from icm_api.core.consistency import ContradictionError
from icm_api.core.problem import Problem
from icm_api.core.relations import is_pin, pins
from icm_api.core.shares import share_bounds
from icm_api.data.answers import load_answers
from icm_api.data.dataset import Columns, Dataset, load_dataset
from icm_api.data.readers import Rows, Source
from icm_api.data.relations_file import load_relations
from icm_api.errors import ConfigError, DataError
from icm_api.tasks.base import Task
from icm_api.tasks.rules import GroupKey
from icm_api.tasks.toml_task import load_task
from icm_api.types import Example, Relation

CONTROL_TOKEN = re.compile(
    r"<[|｜][^|｜<>]{1,40}[|｜]>|<\|[a-z_]{3,40}>|<[a-z_]{3,40}\|>|</?s>|</?think>|</?tool_(?:call|response)>"
    r"|<(?:bos|eos|pad|unk|mask|(?:BOS|EOS|PAD|UNK|MASK)_TOKEN|(?:start|end)_of_[a-z]+)>"
    r"|<(?:fim_(?:prefix|middle|suffix|pad)|unused\d+|extra_id_\d+)>"
    r"|\[/?(?:INST|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|SYSTEM_PROMPT|THINK)\]|<</?SYS>>"
    r"|\[(?:CLS|SEP|BOS|EOS|PAD|MASK|gMASK)\]"
)
"""Texts that servers take for control tokens when they tokenise a prompt themselves."""

TEXTS_KEPT = 1 << 14
"""More than the chains that are walked side by side have examples."""
SHARE_ROUNDING = 0.02
"""How far written shares, such as three times 0.33, may sum from 1."""


class Texts(Sequence[str]):
    """Examples as prompts show them (`Task.text`), made when they are read: their fields hold the same once already.
    The last few thousand are kept."""

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._n = len(examples)
        self._text = lru_cache(TEXTS_KEPT)(lambda i: task.text(examples[i]))

    def __len__(self) -> int:
        return self._n

    @overload
    def __getitem__(self, key: int) -> str: ...
    @overload
    def __getitem__(self, key: slice) -> tuple[str, ...]: ...
    def __getitem__(self, key: int | slice) -> str | tuple[str, ...]:
        places = range(self._n)[key]
        return self._text(places) if isinstance(places, int) else tuple(map(self._text, places))


@dataclass(frozen=True, slots=True)
class Job:
    """What there is to label. `dataset.gold` is for the reported accuracy, and for the one method that is a ceiling."""

    config: RunConfig
    task: Task
    dataset: Dataset = field(repr=False)
    examples: tuple[Example, ...] = field(repr=False)
    texts: Sequence[str] = field(repr=False)
    """Examples as prompts show them."""
    problem: Problem = field(repr=False)
    shares: tuple[float, ...] | None
    """Share of each label as the user gave it, in the task's order; they sum to 1. None: not given."""
    notices: tuple[str, ...]
    """What the user should know before the run."""
    pins: Mapping[int, int] = field(default_factory=dict, repr=False)
    """Labels that a person gave (`config.pin`), by example; `problem` has them as relations."""

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.task.label_names


def prepare(
    config: RunConfig, rows: Rows | None = None, rules: Rows | None = None, *, kept_pins: Path | None = None
) -> Job:
    """Read, check and derive everything that costs nothing. Raises ConfigError or DataError.

    `rows` and `rules` take the place of the files `config.data` and `config.relations`; `kept_pins`, a run's own copy,
    that of what `config.pin` holds by now.
    """
    task = load_task(config.task, labels=config.labels)
    shares = None if config.class_prior is None else label_shares(config.class_prior, task.label_names)
    dataset = load_dataset(
        config.data if rows is None else rows,
        columns=_columns(config, task),
        fields=task.fields,
        labels=task.label_names,
        may_be_empty=task.may_be_empty,
        limit=config.limit,
        format=config.format,
    )
    _check_gold(config, dataset)
    examples = task.prepare(dataset.examples)
    dataset = replace(dataset, examples=examples)  # those as they were read need not be kept
    relations, notices = _relations(task, dataset, examples, config.relations if rules is None else rules)
    answers = _answers(config, task, dataset, kept_pins)
    pinned = pins(answers, source=str(config.pin))
    problem = checked_problem(examples, (*relations, *pinned), len(task.labels))
    _check_shares(shares, problem, task.label_names)
    return Job(config, task, dataset, examples, Texts(task, examples), problem, shares, notices, answers)


def label_shares(given: Mapping[str, float], names: Sequence[str]) -> tuple[float, ...]:
    """Shares of all labels in the task's order, from shares that name all of them or all but one.

    Raises ConfigError when a name is no label, when more than one is left out, or when they do not sum to 1.
    """
    if unknown := [name for name in given if name not in names]:
        raise ConfigError(f"--class-prior: {unknown[0]!r} is no label of the task; it has {_list(names)}")
    left_out = [name for name in names if name not in given]
    if len(left_out) > 1:
        raise ConfigError(f"--class-prior: give shares of all labels but one at least; {_list(left_out)} have none")
    total = sum(given.values())
    if left_out and total >= 1:
        raise ConfigError(f"--class-prior: the shares sum to {total:g} and leave nothing to {left_out[0]!r}")
    if not left_out and abs(total - 1) > SHARE_ROUNDING:
        raise ConfigError(f"--class-prior: the shares sum to {total:g}, not to 1")
    whole = 1.0 if left_out else total
    return tuple(given.get(name, 1 - total) / whole for name in names)


def _check_shares(shares: tuple[float, ...] | None, problem: Problem, names: Sequence[str]) -> None:
    """Raise ConfigError for shares that no labelling that obeys the rules can have."""
    if shares is None:
        return
    n = problem.n_examples
    for name, share, low, high in zip(
        names, shares, *share_bounds(n, problem.n_labels, problem.relations), strict=True
    ):
        if not low - 1 / n <= share <= high + 1 / n:
            raise ConfigError(
                f"--class-prior: the rules allow {name!r} a share of {low:.2f} to {high:.2f}, not {share:g}"
            )


def _check_gold(config: RunConfig, dataset: Dataset) -> None:
    if config.method == GOLD_METHOD and not any(label is not None for label in dataset.gold or ()):
        where = "name the --gold-column" if config.gold_column is None else f"{config.gold_column!r} has none"
        raise ConfigError(f"--method {GOLD_METHOD}: it shows gold labels, and there are none: {where}")


def refuse_control_tokens(job: Job) -> None:
    """For hosts that tokenise text themselves: a control token in the data would be obeyed, not read."""
    found = [
        (example, match.group())
        for example, text in zip(job.examples, job.texts, strict=True)
        if (match := CONTROL_TOKEN.search(text))
    ]
    if found:
        raise DataError(
            [
                f"{job.dataset.source}:{example.line}: example {example.id!r} contains {token!r}, which this host "
                "may take for a control token; remove it, or use a provider that tokenises plainly (llama-cpp)"
                for example, token in found[:20]
            ]
        )


def _columns(config: RunConfig, task: Task) -> Columns:
    if config.data == "-" and str(config.relations) == "-":
        raise ConfigError("--relations: standard input holds the data already; name a file")
    if config.key_column is not None and not any(isinstance(rule, GroupKey) for rule in task.rules):
        raise ConfigError(f"--key-column: task {task.name} has no rule for keys; give --relations instead")
    if config.key_column is not None and config.group_column is None and task.group_from is None:
        raise ConfigError("--key-column: keys are compared within groups; name the --group-column")
    fields = dict(task.columns) | config.columns
    unknown = [name for name in config.columns if name not in task.fields]
    if unknown:
        raise ConfigError(f"--column {unknown[0]}=...: task {task.name} has no such field; it has {_list(task.fields)}")
    if config.text_column is not None:
        if len(task.fields) != 1:
            raise ConfigError(
                f"--text-column: task {task.name} has the fields {_list(task.fields)}; say which column each has "
                "with --column FIELD=COLUMN"
            )
        fields[task.fields[0]] = config.text_column
    return Columns(
        id=config.id_column,
        group=config.group_column,
        key=config.key_column,
        gold=config.gold_column,
        fields=fields,
    )


def _relations(
    task: Task, dataset: Dataset, examples: Sequence[Example], source: Source | None
) -> tuple[tuple[Relation, ...], tuple[str, ...]]:
    relations = task.relations(examples)
    notices: list[str] = []
    if task.rules and not relations and source is None:
        notices.append(f"no rule of task {task.name} applies to these rows: nothing keeps the labels from collapsing")
    if source is not None:
        ids = {example.id: i for i, example in enumerate(examples)}
        loaded = load_relations(
            source, ids, positive=task.positive, known_labels=task.label_names, cut_ids=dataset.cut_ids
        )
        relations += loaded.relations
        if loaded.dropped:
            notices.append(f"{loaded.dropped} relations reach beyond the first {len(examples)} examples: left out")
    return relations, tuple(notices)


def _answers(config: RunConfig, task: Task, dataset: Dataset, kept: Path | None) -> dict[int, int]:
    """The labels that a person gave. Raises DataError with all problems of their file."""
    if config.pin is None:
        return {}
    if str(config.pin) == "-":
        raise ConfigError("--pin: name a file")
    source = kept or config.pin
    ids = {example.id: i for i, example in enumerate(dataset.examples)}
    answers = load_answers(source, ids, task.label_names, cut_ids=dataset.cut_ids)
    if not answers:
        raise DataError(f"{source}: no row has a label for an example of {dataset.source}")
    return answers


def checked_problem(examples: Sequence[Example], relations: Sequence[Relation], n_labels: int) -> Problem:
    """Raises DataError, with the relations concerned, when no labelling obeys all of them."""
    problem = Problem.build(n_labels, [example.group for example in examples], relations)
    try:
        problem.consistency.check()
    except ContradictionError as error:
        raise DataError(
            [
                "no labelling obeys all of these relations, remove or correct one of them: "
                + "; ".join(describe_relation(relation, examples) for relation in conflict)
                for conflict in error.conflicts[:20]
            ]
        ) from None
    return problem


def describe_relation(relation: Relation, examples: Sequence[Example]) -> str:
    """A relation for people: its kind, the ids it ties, where it came from."""
    ids = ", ".join(examples[member].id for member in relation.members)
    kind = "pinned" if is_pin(relation) else relation.kind
    return f"{kind}({ids})" + (f" from {relation.source}" if relation.source else "")


def _list(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(names)
