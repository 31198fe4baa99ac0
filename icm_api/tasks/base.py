"""The task: everything that is known of a data set beside its rows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from icm_api.errors import ConfigError
from icm_api.tasks.labels import check_labels
from icm_api.tasks.rules import KEY_RULES, Rule
from icm_api.tasks.template import Template
from icm_api.types import Example, Label, Relation

_LEADING_BLANK_LINES = re.compile(r"\A\s*\n")


@dataclass(frozen=True, slots=True)
class KeyFrom:
    """Makes an example's key from one of its fields."""

    field: str
    rule: str
    """A name in `KEY_RULES`."""

    def __call__(self, example: Example) -> str | None:
        return KEY_RULES[self.rule](example.fields[self.field])


@dataclass(frozen=True, kw_only=True)
class Task:
    """How an example becomes a prompt, which labels it can take, which relations its inputs give.

    Most tasks are a TOML file (see `load_task`). For more, subclass it: give `super().__init__` these fields and
    override `text`, `prepare` or `relations`; all three see inputs only. Raises `ConfigError` when its parts do not
    fit together.
    """

    name: str
    template: Template
    labels: tuple[Label, ...]
    description: str = ""
    preamble: str = ""
    """Text before the first example of a prompt."""
    positive_label: str | None = None
    """Name of the label that counts as holding in relations. None: the label called true, else the last one."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Default columns: template field -> column of the file."""
    may_be_empty: frozenset[str] = frozenset()
    """Fields that may be blank, such as the answer of a model that said nothing."""
    group_from: str | None = None
    """Field whose text is the group of an example where the data names none."""
    key_from: KeyFrom | None = None
    """What makes the key of an example where the data names none."""
    rules: tuple[Rule, ...] = ()

    # no slots: a frozen, slotted dataclass cannot set attributes in a subclass on Python 3.11

    def __post_init__(self) -> None:
        check_labels(self.labels)
        if self.preamble != self.preamble.strip():
            raise ConfigError("the preamble begins or ends in whitespace; remove it")
        if self.positive_label is not None and self.positive_label not in self.label_names:
            raise ConfigError(f"positive = {self.positive_label!r} is no label; labels: {', '.join(self.label_names)}")
        if self.key_from is not None and self.key_from.rule not in KEY_RULES:
            raise ConfigError(f"unknown key rule {self.key_from.rule!r}; known: {', '.join(KEY_RULES)}")
        for used_by, names in self._field_uses():
            for name in names:
                if name not in self.fields:
                    raise ConfigError(
                        f"{used_by}: the template has no field {name!r}; it has: {', '.join(self.fields)}"
                    )

    @property
    def fields(self) -> tuple[str, ...]:
        """The template's fields, in order of appearance."""
        return self.template.fields

    @property
    def label_names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def positive(self) -> int:
        """Index of the label that counts as holding."""
        return positive_index(self.label_names, self.positive_label)

    def text(self, example: Example) -> str:
        """The example as a prompt shows it, up to where its label starts.

        No blank lines around it, no space after, and none inside but those of the template: a blank line ends an
        example, so a text that has one, or makes one with a line break of the template, could pass for a demonstration
        with a label of its own.
        """
        fields = {name: _without_blank_lines(value) for name, value in example.fields.items()}
        text = self.template.render(fields)
        own = self.template.text != _without_blank_lines(self.template.text)
        return _LEADING_BLANK_LINES.sub("", text if own else _without_blank_lines(text)).rstrip()

    def prepare(self, examples: Sequence[Example]) -> tuple[Example, ...]:
        """The examples with group and key derived from their fields, each where no example of the data has one."""
        groups = self.group_from is not None and all(example.group is None for example in examples)
        keys = self.key_from is not None and all(example.key is None for example in examples)
        if not groups and not keys:
            return tuple(examples)
        return tuple(
            replace(
                example,
                group=example.fields[self.group_from] if groups and self.group_from else example.group,
                key=self.key_from(example) if keys and self.key_from else example.key,
            )
            for example in examples
        )

    def relations(self, examples: Sequence[Example]) -> tuple[Relation, ...]:
        """Relations that the rules find between prepared examples, over indices of `examples`."""
        return tuple(relation for rule in self.rules for relation in rule.relations(examples))

    def _field_uses(self) -> Iterable[tuple[str, Iterable[str]]]:
        yield "columns", self.columns
        yield "may_be_empty", sorted(self.may_be_empty)
        yield "group_from", [] if self.group_from is None else [self.group_from]
        yield "key_from", [] if self.key_from is None else [self.key_from.field]
        for rule in self.rules:
            yield type(rule).__name__, rule.fields


def _without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.split("\n") if line.strip())


def positive_index(labels: Sequence[str], named: str | None = None) -> int:
    """Index of the label that counts as holding: the named one, else the one called true in any case, else the last."""
    if named is not None:
        return list(labels).index(named)
    folded = [label.casefold() for label in labels]
    return folded.index("true") if "true" in folded else len(labels) - 1
