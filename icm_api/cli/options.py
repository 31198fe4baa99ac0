"""Flags shared by commands. A flag that is not given is None, so that the environment or a file may set it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from icm_api.cli.completion import complete_file, complete_provider, complete_task

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]


class Pair(click.ParamType[tuple[str, str]]):
    """NAME=VALUE."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE", param, ctx)
        return name, text


_PATH = click.Path(path_type=Path)

DATA_OPTIONS = (
    click.option(
        "--task",
        metavar="TASK",
        shell_complete=complete_task,
        help="A built-in task (see `icm-api tasks`), a TOML file, or module:Class.",
    ),
    click.option(
        "--labels",
        metavar="WORDS",
        help="Label words, with commas. Of a boolean gold, false is the first and true the last.",
    ),
    click.option(
        "--format",
        type=click.Choice(["jsonl", "csv", "parquet"]),
        help="Format of the data, where the file's name does not tell.",
    ),
    click.option(
        "--id-column", metavar="COLUMN", help='Column of ids (default "id", or line numbers where there is none).'
    ),
    click.option("--text-column", metavar="COLUMN", help="Column of the text, for tasks with one field."),
    click.option(
        "--column",
        "columns",
        type=Pair(),
        multiple=True,
        metavar="FIELD=COLUMN",
        help="Column of any field of the task. May be given several times.",
    ),
    click.option(
        "--gold-column",
        metavar="COLUMN",
        help="Column of gold labels, for the reported accuracy; only gold-few-shot shows them to a model.",
    ),
    click.option("--group-column", metavar="COLUMN", help="Column of groups: examples of one group are siblings."),
    click.option(
        "--key-column",
        metavar="COLUMN",
        help="Column of keys. In a group: same key, same label; different keys, at most one true.",
    ),
    click.option("--relations", type=_PATH, help="JSONL file of rules between examples."),
    click.option(
        "--pin", type=_PATH, help="CSV or JSONL of id and label: labels that a person gave, which stay as they are."
    ),
    click.option("--limit", type=int, metavar="N", help="Take only the first N examples."),
)

PROVIDER_OPTIONS = (
    click.option(
        "--provider",
        metavar="NAME",
        shell_complete=complete_provider,
        help="Whom to ask: local (default), another of `icm-api providers`, a table of the --config file, or "
        "module:Class.",
    ),
    click.option(
        "--model", metavar="NAME", help="The model, as the host names it; for local a pinned name or a .gguf file."
    ),
    click.option("--base-url", metavar="URL", help="Address of the host, such as http://127.0.0.1:8080/v1."),
    click.option(
        "--api-key-env",
        metavar="VARIABLE",
        help="Environment variable that holds the API key (default: see `providers`).",
    ),
    click.option(
        "--route",
        type=click.Choice(["completions", "chat", "responses", "decisions", "votes"]),
        help="How to ask the host (default: the provider's own way). votes: count answers, where no log-probs exist.",
    ),
    click.option("--votes", type=int, help="Answers to count for each question on the votes route (default 8)."),
    click.option("--top-k", type=int, help="Likeliest tokens to ask for (default: the provider's own number)."),
    click.option("--context-tokens", type=int, help="Longest prompt in tokens, where the host does not say."),
    click.option(
        "--echo/--no-echo",
        default=None,
        help="Whether the host returns the log-probs of prompts (default: what is known of the provider).",
    ),
    click.option(
        "--provider-option",
        "provider_options",
        type=Pair(),
        multiple=True,
        help="Setting that only this provider has. May be given several times.",
    ),
    click.option(
        "--extra-body", metavar="JSON", help="Object whose members go into every request, for OpenAI-shaped hosts."
    ),
    click.option(
        "--timeout-s", type=float, help="Seconds after which a request counts as lost (default: the provider's own)."
    ),
    click.option("--cache-dir", type=_PATH, help="Folder of replies and models (default: the user's cache folder)."),
    click.option(
        "--config",
        "config_file",
        type=_PATH,
        envvar="ICM_API_CONFIG",
        help="TOML file of settings, for what no flag or variable sets.",
    ),
)

LIMIT_OPTIONS = (
    click.option("--concurrency", type=int, help="Most requests at once (default 8); many steps have only one to ask."),
    click.option("--max-requests", type=int, help="Stop before passing this many paid requests."),
    click.option("--max-prompt-tokens", type=int, help="Stop before passing this many prompt tokens."),
    click.option(
        "--max-usd", metavar="USD", help="Stop before passing this many US dollars; needs a known price or --price."
    ),
    click.option(
        "--price",
        metavar="PRICE",
        help="IN/OUT or IN/CACHED/OUT, in USD per million tokens (default: the list price, where one is known).",
    ),
    click.option(
        "--cache/--no-cache", default=None, help="Keep replies, so that nothing is paid for twice (default: yes)."
    ),
)

TRUST_OPTION = click.option(
    "--trust", is_flag=True, help="Also if the run was begun by somebody else or elsewhere; shows whom it asks."
)

RUN_OPTIONS = (
    click.option(
        "--run-data",
        "--data",
        "run_data",
        metavar="FILE",
        shell_complete=complete_file,
        help="Where the run's data are now, if they were moved; what they hold must be the same.",
    ),
    click.option(
        "--run-relations",
        "--relations",
        "run_relations",
        type=_PATH,
        metavar="FILE",
        help="Where the run's relations are now, if they were moved.",
    ),
    TRUST_OPTION,
)
"""Of every command that reads a run back."""

RESUME_OPTIONS = (
    click.option("--max-requests", type=int, help="Larger limit on requests; what was spent before counts towards it."),
    click.option("--max-prompt-tokens", type=int, help="Larger limit on prompt tokens."),
    click.option("--max-usd", metavar="USD", help="Larger limit on US dollars."),
    click.option(
        "--data",
        metavar="FILE",
        shell_complete=complete_file,
        help="Where the data are now, if they were moved; what they hold must be the same.",
    ),
    click.option("--relations", type=_PATH, help="Where the relations are now, if they were moved."),
    click.option("--cache-dir", type=_PATH, help="Where the cache with the run's replies is now, if it was moved."),
    TRUST_OPTION,
)

METHODS = ("sweep", "anneal", "zero-shot", "random-few-shot", "bootstrap", "gold-few-shot")

SEARCH_OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(METHODS),
        help="sweep (default): a few passes that score all examples at once. anneal: Algorithm 1 of the ICM paper. "
        "Baselines: zero-shot, random-few-shot, bootstrap; gold-few-shot, a ceiling, shows gold labels.",
    ),
    click.option("--seed", type=int, help="Seed of all random choices (default 0)."),
    click.option(
        "--class-prior",
        metavar="LABEL=SHARE",
        help="Shares of the labels, such as spam=0.25; one may be left out. Without it sweep estimates them, and the "
        "baselines take the likeliest label as it is (bootstrap begins with even shares). Not for anneal.",
    ),
    click.option("--passes", type=int, help="sweep: most passes of a restart (default 6)."),
    click.option(
        "--restarts", type=int, help="sweep: number of searches, of which the most informative counts (default 3)."
    ),
    click.option(
        "--pool", type=int, metavar="N", help="sweep: search on N examples (default all), label the rest from them."
    ),
    click.option(
        "--alpha", type=float, help="Weight of predictability against a broken rule in the utility (default 50)."
    ),
    click.option("--seeds", type=int, help="anneal: examples that start with a random label (default 8)."),
    click.option(
        "--fidelity",
        type=click.Choice(["reuse", "paper"]),
        help="anneal: reuse (default) keeps terms until their next visit; paper scores all at each change.",
    ),
    click.option(
        "--objective",
        type=click.Choice(["mean", "paper-sum"]),
        help="anneal: mean (default), or the paper's sum, which falls with each example and may stop short.",
    ),
    click.option(
        "--stop",
        type=click.Choice(["stable", "full"]),
        help="anneal: stop when no label changes (stable, the default) or every example has one (full).",
    ),
    click.option("--max-steps", type=int, help="anneal: most steps (default 20 an example)."),
    click.option(
        "--order",
        type=click.Choice(["shared", "per-example"]),
        help="anneal: order of the demonstrations, shared by all (default) or another for each example.",
    ),
    click.option("--keep-siblings", is_flag=True, default=None, help="Show an example the labels of its siblings too."),
    click.option(
        "--max-demonstrations",
        type=int,
        help="Most labelled examples in a prompt (default 256, as in the paper; bootstrap: 64); fewer if not all fit.",
    ),
    click.option("--min-mass", type=float, help="Least probability that the labels must hold together (default 1e-4)."),
)

OUTPUT_OPTIONS = (
    click.option("--out", type=_PATH, help="File of labels (default: labels.jsonl in the run folder)."),
    click.option("--run-dir", type=_PATH, help="Folder of the run (default: runs/<id>)."),
    click.option("--abstain-below", type=float, metavar="SHARE", help="Give no label where its probability is lower."),
    click.option("--report/--no-report", default=None, help="Write report.html in the run folder (default: yes)."),
    click.option(
        "--fail-on",
        type=click.Choice(["doubtful", "failed"]),
        help="Exit with code 5 when the verdict is this or worse.",
    ),
)

DISPLAY_OPTIONS = (
    click.option(
        "--display",
        type=click.Choice(["rich", "plain", "none"]),
        envvar="ICM_API_DISPLAY",
        help="How to show progress (default: rich on a terminal, else plain lines).",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output."),
)


def with_options(*groups: Sequence[Decorator]) -> Decorator:
    """Give a command all options of the groups, in the order in which they are listed."""

    def decorate(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


def given(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags as settings: pairs become mappings, and what was not given is left out."""
    settings = {name: dict(v) if name in ("columns", "provider_options") else v for name, v in flags.items()}
    return {name: value for name, value in settings.items() if value is not None and value != {}}


def _names(options: Sequence[Decorator]) -> frozenset[str]:
    holder = click.Command("holder")
    for option in options:
        option(holder)
    return frozenset(str(option.name) for option in holder.params)


OTHERS = "Options"
_SECTIONS = {
    OTHERS: frozenset[str](),
    "Data and task": _names(DATA_OPTIONS),
    "Whom to ask": _names(PROVIDER_OPTIONS),
    "Limits and cost": _names(LIMIT_OPTIONS),
    "Method": _names(SEARCH_OPTIONS),
    "Results": _names((*OUTPUT_OPTIONS, *DISPLAY_OPTIONS)),
}


class Sectioned(click.Command):
    """A command whose many options stand under headings in its help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in _SECTIONS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if isinstance(param, click.Option) and record is not None:
                sections[_section(str(param.name))].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _section(option: str) -> str:
    return next((title for title, names in _SECTIONS.items() if option in names), OTHERS)
