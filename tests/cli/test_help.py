"""Every command and every option says what it is for, in one voice."""

import re
from collections.abc import Iterator

import click
import pytest
from pydantic_core import PydanticUndefined

from icm_api.cli.app import cli
from icm_api.config import RunConfig


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))


COMMANDS = dict(_commands(cli))
OPTIONS = [
    pytest.param(option, id=f"{' '.join(path)} {option.opts[0]}")
    for path, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=lambda path: " ".join(("icm-api", *path)))
def test_help_fits_a_hundred_columns_and_says_more_than_the_name(icm, monkeypatch, path):
    monkeypatch.setenv("COLUMNS", "100")
    done = icm(*path, "--help")
    assert done.code == 0
    usage, blank, text, *_ = done.out.splitlines()
    assert usage.startswith(" ".join(("Usage: icm-api", *path)))
    assert not blank
    assert len(text.split()) > 3
    assert max(map(len, done.out.splitlines())) <= 100


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_a_command_is_told_in_one_sentence_that_a_list_of_commands_holds(path):
    told = COMMANDS[path].get_short_help_str(limit=62)  # what is left of 80 columns
    assert told[0].isupper()
    assert told.endswith(".")
    assert not told.endswith("..."), "its first sentence is too long"


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_told_in_sentences(option):
    assert option.help
    assert option.help.endswith(".")
    assert re.match(r"[A-Z]|(sweep|anneal)\b", option.help)
    assert "  " not in option.help


@pytest.mark.parametrize(
    "name", [name for name, field in RunConfig.model_fields.items() if isinstance(field.default, int | float | str)]
)
def test_a_setting_that_has_a_default_tells_it(name):
    default = RunConfig.model_fields[name].default
    (option,) = (option for option in COMMANDS["run",].params if option.name == name)
    assert isinstance(option, click.Option)
    text = option.help or ""
    if isinstance(default, bool):
        assert not default or "default: yes" in text
    elif isinstance(default, str):
        assert "default" in text
        assert default in text
    else:
        told = re.search(r"default:? ([\d.e-]*\d)", text)
        assert told
        assert float(told[1]) == default


def test_settings_and_flags_are_the_same():
    flags = {option.name for option in COMMANDS["run",].params}
    assert set(RunConfig.model_fields) <= flags
    required = {name for name, field in RunConfig.model_fields.items() if field.default is PydanticUndefined}
    assert {"data", "task"} <= required
