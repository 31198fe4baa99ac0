"""What README.md says of commands, flags, hosts, requests, tests and files is so."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from icm_api.cli.app import cli
from icm_api.config import RunConfig, load_config
from icm_api.core.diagnose import SignName
from icm_api.providers.registry import ENTRIES, ProviderEntry
from icm_api.providers.synthetic import Synthetic
from icm_api.run.job import prepare
from icm_api.run.plan import Estimate, estimate, look_out
from icm_api.tasks.toml_task import builtin_tasks

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MESSAGES = ROOT / "benchmarks" / "data" / "messages.jsonl"
ANOTHER_PROGRAM_S = {"--enable-prefill-logprobs"}
"""Flags that the text names and that are not ours."""
SYNTHETIC = {
    "sequences": {"echo": "1"},
    "exact": {"echo": "0"},
    "top-k": {"echo": "0"},
    "probabilities": {"choices": "probabilities"},
    "votes": {"choices": "votes"},
}
"""The offline learner with what such a host gives."""


def table(heading: str) -> list[list[str]]:
    """Cells of the table whose first column is headed so, without its head."""
    (_, after) = README.split(f"\n| {heading} |", 1)
    lines = after.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def commands() -> Iterator[list[str]]:
    """Words of every `icm-api ...` of the text, in code blocks and in sentences."""
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = re.findall(r"^\$ (icm-api .*)$", joined, re.MULTILINE)
    inline = re.findall(r"`(icm-api [^`]+)`", README)
    for line in (*lines, *inline):
        yield shlex.split(line, comments=True)[1:]


def resolved(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the rest of them."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options(command: click.Command) -> set[str]:
    return {name for param in command.params for name in (*param.opts, *param.secondary_opts)}


def every_command(group: click.Group = cli) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield from every_command(command) if isinstance(command, click.Group) else [command]


@pytest.mark.parametrize("words", list(commands()), ids=" ".join)
def test_a_command_that_is_shown_exists_with_its_flags(words):
    command, rest = resolved(words)
    flags = {word for word in rest if word.startswith("--")}
    assert not isinstance(command, click.Group), f"no such command: {words}"
    assert flags <= options(command)


def test_a_flag_that_is_named_exists():
    ours = set().union(*map(options, every_command()))
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) - ours <= ANOTHER_PROGRAM_S


def test_every_command_is_named():
    named = {resolved(words)[0].name for words in commands()}
    assert {command.name for command in every_command()} - named <= {"fetch", "tasks"}


def test_the_tasks_are_those_there_are_with_their_fields():
    rows = {row[0]: row[1] for row in table("task")}
    expected = {f"`{task.name}`": ", ".join(f"`{field}`" for field in task.fields) for task in builtin_tasks()}
    assert rows == expected


def test_the_hosts_are_those_there_are_with_what_they_give_cost_and_need():
    requests = {row[0]: row[2] for row in table("gives")}
    rows = {row[0].split("`")[1]: tuple(row[2:]) for row in table("`--provider`") if row[0].count("`") == 2}
    assert rows == {entry.name: host(entry, requests) for entry in ENTRIES}


def host(entry: ProviderEntry, requests: Mapping[str, str]) -> tuple[str, ...]:
    return ", ".join(entry.gives), requests[entry.gives[0]], f"`{entry.key_env}`" if entry.key_env else "–"


@pytest.mark.parametrize("gives", SYNTHETIC)
async def test_the_requests_a_label_are_those_that_plan_counts(gives):
    (row,) = [row for row in table("gives") if row[0] == gives]
    a_label = [(await planned(gives, method=method)).requests / 160 for method in ("sweep", "zero-shot")]
    assert row[2:] == [f"{round(n, 2):g}" for n in a_label]


@pytest.mark.parametrize(
    ("gives", "settings"),
    [
        ("sequences", {}),
        ("sequences", {"method": "anneal", "fidelity": "paper"}),
        ("top-k", {}),
        ("top-k", {"pool": 64}),
        ("votes", {}),
        ("votes", {"pool": 64}),
        ("votes", {"method": "zero-shot"}),
    ],
)
async def test_the_requests_of_the_costs_are_those_that_plan_counts(gives, settings):
    said = {row[2].removeprefix("at most ").removeprefix("at least ") for row in table("`--provider`, `--model`")}
    assert f"{(await planned(gives, **settings)).requests:,}" in said


async def planned(gives: str, **settings: Any) -> Estimate:
    """What the command that the text names would tell of such a host."""
    given = {"data": str(MESSAGES), "task": "classify", "labels": "normal,spam", "provider": "synthetic"}
    config = load_config(RunConfig, given | settings, {})
    return await estimate(await look_out(prepare(config), Synthetic.from_options(SYNTHETIC[gives])))


def test_every_guarantee_names_a_test_there_is():
    rows = table("what holds")
    named = [re.search(r"\[`(test_\w+)`\]\((tests/\S+\.py)\)", row[1]) for row in rows]
    assert len(rows) > 10
    assert [row[0] for row, test in zip(rows, named, strict=True) if test is None] == []
    missing = [test[1] for test in named if test and f"def {test[1]}(" not in (ROOT / test[2]).read_text()]
    assert missing == []


def test_the_signs_are_those_that_are_looked_for():
    assert {row[0] for row in table("sign")} == set(get_args(SignName))


def test_links_lead_to_files_there_are():
    links = set(re.findall(r"\]\(([^)#]+)", README)) - {""}
    here = [link for link in links if not link.startswith("https://")]
    assert [link for link in here if not (ROOT / link).exists()] == []


def test_the_configuration_file_is_one_that_is_taken(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "icm.toml"
    file.write_text(block.replace("# dialect", "dialect"))
    config = load_config(RunConfig, {"data": "x.jsonl", "provider": "inhouse"}, {}, file)
    assert (config.provider, config.base_url, config.task) == ("vllm", "https://llm.example.com/v1", "classify")


def test_the_pictures_are_small():
    assert [path.name for path in (ROOT / "docs").iterdir() if path.stat().st_size > 250_000] == []
