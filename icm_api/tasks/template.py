"""Text with {field} placeholders. One pass, names only: data is never read as a template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from icm_api.errors import ConfigError

_TOKEN = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}|[{}]")
_BRACES = {"{{": "{", "}}": "}"}


@dataclass(frozen=True, slots=True)
class Template:
    """`{name}` stands for a field, `{{` and `}}` for braces; nothing else is special.

    It ends where the label starts, so not in whitespace: the label brings its own space. Nor does it begin with a
    blank line, because blank lines separate the examples of a prompt. Raises `ConfigError` otherwise.
    """

    text: str
    _parts: tuple[tuple[str, str | None], ...] = field(init=False, repr=False, compare=False)
    """(literal text, the field after it); the last has no field."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parts", tuple(_parse(self.text)))
        if self.text != self.text.rstrip():
            raise ConfigError("the template ends in whitespace; the label brings its own space, so remove it")
        if re.match(r"\s*\n", self.text):
            raise ConfigError("the template begins with a blank line; remove it")
        if not self.fields:
            raise ConfigError("the template has no {field}, so every example would look the same")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once, in order of appearance."""
        return tuple(dict.fromkeys(name for _, name in self._parts if name is not None))

    def render(self, values: Mapping[str, str]) -> str:
        """The template with the values in place, untouched. Raises `ConfigError` for a field without a value."""
        for name in self.fields:
            if name not in values:
                raise ConfigError(f"the template uses the field {name!r}; known fields: {', '.join(values)}")
        return "".join(literal + (values[name] if name is not None else "") for literal, name in self._parts)


def _parse(text: str) -> Iterator[tuple[str, str | None]]:
    literal, end = "", 0
    for token in _TOKEN.finditer(text):
        literal += text[end : token.start()]
        end = token.end()
        if token[1] is not None:
            yield literal, token[1]
            literal = ""
        elif token[0] in _BRACES:
            literal += _BRACES[token[0]]
        else:
            near = text[token.start() : token.start() + 20]
            raise ConfigError(
                f"the template has a stray brace at {near!r}; write {token[0] * 2!r} for the brace itself, "
                "or {name} with a simple name for a field"
            )
    yield literal + text[end:], None
