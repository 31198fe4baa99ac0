"""Tasks from TOML files; the built-in ones are such files too."""

from __future__ import annotations

import importlib
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from icm_api.errors import ConfigError
from icm_api.spelling import did_you_mean
from icm_api.tasks.base import KeyFrom, Task, positive_index
from icm_api.tasks.labels import labels_from_names, with_variants
from icm_api.tasks.rules import GroupKey, Rule, Swapped
from icm_api.tasks.template import Template
from icm_api.types import Label

_BUILTIN = files("icm_api.tasks") / "builtin"


@dataclass(frozen=True, slots=True)
class BuiltinTask:
    """What `icm-api tasks` shows of a task that comes with the package."""

    name: str
    description: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    """Empty: the user names them."""
    rules: tuple[str, ...]


def builtin_tasks() -> tuple[BuiltinTask, ...]:
    """The tasks that come with the package, by name."""
    return tuple(_summary(_read(_BUILTIN / f"{name}.toml")) for name in _builtin_names())


def load_task(name_or_path: str | Path, *, labels: Sequence[str] | None = None) -> Task:
    """The built-in task of that name, the task of a `.toml` file, or the `Task` subclass at "module:Class" (made
    without arguments; the module must be importable).

    `labels` names the labels of a task that has none of its own, and only of such a one. Raises `ConfigError` that
    names the file and the key.
    """
    name = str(name_or_path)
    if not name.endswith(".toml") and ":" in name:
        return _from_class(name, labels)
    if name.endswith(".toml"):
        source: Traversable = Path(name)
    elif name in _builtin_names():
        source = _BUILTIN / f"{name}.toml"
    else:
        raise ConfigError(
            f"unknown task {name!r}.{did_you_mean(name, _builtin_names())} Built in: {', '.join(_builtin_names())}; "
            "or give a .toml file, or 'module:Class'"
        )
    task_file = _read(source)
    try:
        return _task(task_file, labels)
    except ConfigError as error:
        raise ConfigError(f"{f'task {name}' if name in _builtin_names() else source}: {error}") from None


def _builtin_names() -> tuple[str, ...]:
    names = (entry.name.removesuffix(".toml") for entry in _BUILTIN.iterdir() if entry.name.endswith(".toml"))
    return tuple(sorted(names))


# --- the file ---------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _LabelEntry(_Strict):
    name: str
    text: str | None = None
    variants: list[str] = []


class _GroupKeyEntry(_Strict):
    rule: Literal["group_key"]


class _SwappedEntry(_Strict):
    rule: Literal["swapped"]
    fields: Annotated[list[str], Field(min_length=2, max_length=2)]


class _KeyEntry(_Strict):
    field: str
    rule: str


def _as_table(label: object) -> object:
    if not isinstance(label, str | dict):
        raise PydanticCustomError("label_type", "must be a name or a table {name, text, variants}")
    return {"name": label} if isinstance(label, str) else label


class _TaskFile(_Strict):
    name: str
    description: str = ""
    template: str
    preamble: str = ""
    labels: list[Annotated[_LabelEntry, BeforeValidator(_as_table)]] = []
    positive: str | None = None
    columns: dict[str, str] = {}
    may_be_empty: list[str] = []
    group_from: str | None = None
    key_from: _KeyEntry | None = None
    relations: list[Annotated[_GroupKeyEntry | _SwappedEntry, Field(discriminator="rule")]] = []


def _read(source: Traversable) -> _TaskFile:
    try:
        return _TaskFile.model_validate(tomllib.loads(source.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(f"{source}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {problem}" for problem in _problems(error))) from None
    except ValueError as error:  # broken TOML, or not UTF-8
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{source}: not valid TOML: nested too deeply") from None


_WORDINGS = {
    "extra_forbidden": "unknown key",
    "missing": "must be given",
    "model_type": "must be a table",
    "dict_type": "must be a table",
    "union_tag_not_found": "must name its rule",
}


def _problems(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, each['loc']))}: {_WORDINGS.get(each['type'], each['msg'])}"
        for each in error.errors(include_url=False)
    ]


# --- from file to task ------------------------------------------------------------------------------------


def _task(task_file: _TaskFile, label_names: Sequence[str] | None) -> Task:
    labels = _labels(task_file, label_names)
    names = [label.name for label in labels]
    if task_file.positive is not None and task_file.positive not in names:
        raise ConfigError(f"positive = {task_file.positive!r} is no label; labels: {', '.join(names)}")
    positive = positive_index(names, task_file.positive)
    key_from = task_file.key_from
    return Task(
        name=task_file.name,
        template=Template(task_file.template),
        labels=labels,
        description=task_file.description,
        preamble=task_file.preamble,
        positive_label=task_file.positive,
        columns=task_file.columns,
        may_be_empty=frozenset(task_file.may_be_empty),
        group_from=task_file.group_from,
        key_from=None if key_from is None else KeyFrom(key_from.field, key_from.rule),
        rules=tuple(_rule(entry, positive) for entry in task_file.relations),
    )


def _labels(task_file: _TaskFile, names: Sequence[str] | None) -> tuple[Label, ...]:
    if task_file.labels and names is not None:
        own = ", ".join(entry.name for entry in task_file.labels)
        raise ConfigError(
            f"the task has its own labels ({own}); to use others, write a task file with another template"
        )
    if task_file.labels:
        return with_variants([_label(entry) for entry in task_file.labels])
    if names is None:
        raise ConfigError("the task has no labels of its own; name at least two, as in --labels negative,positive")
    return labels_from_names(names)


def _label(entry: _LabelEntry) -> Label:
    return Label(entry.name, f" {entry.name}" if entry.text is None else entry.text, tuple(entry.variants))


def _rule(entry: _GroupKeyEntry | _SwappedEntry, positive: int) -> Rule:
    if isinstance(entry, _GroupKeyEntry):
        return GroupKey(positive)
    return Swapped(entry.fields[0], entry.fields[1], positive=positive)


def _summary(task_file: _TaskFile) -> BuiltinTask:
    return BuiltinTask(
        name=task_file.name,
        description=task_file.description,
        fields=Template(task_file.template).fields,
        labels=tuple(entry.name for entry in task_file.labels),
        rules=tuple(entry.rule for entry in task_file.relations),
    )


# --- from a class -----------------------------------------------------------------------------------------


def _from_class(path: str, labels: Sequence[str] | None) -> Task:
    module_name, _, class_name = path.partition(":")
    try:
        task_class = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, TypeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"task {path!r} cannot be loaded: {error}") from error
    if not (isinstance(task_class, type) and issubclass(task_class, Task) and task_class is not Task):
        raise ConfigError(f"task {path!r} is not a subclass of icm_api.tasks.base.Task")
    if labels is not None:
        raise ConfigError(f"task {path!r} has its own labels; set them in the class")
    make: Callable[[], Task] = task_class
    try:
        return make()
    except TypeError as error:
        raise ConfigError(f"task {path!r} cannot be made without arguments: {error}") from error
