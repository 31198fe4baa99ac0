"""Flags shared by commands. A flag that is not given is None, so that the environment or a file may set it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

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
    click.option("--task", help="claims, truthfulqa, gsm8k, preference, classify, a TOML file, or module:Class."),
    click.option("--labels", help="Label words, with commas. A boolean gold: false is the first, true the last."),
    click.option(
        "--format", type=click.Choice(["jsonl", "csv", "parquet"]), help="Of the data, where the name does not tell."
    ),
    click.option("--id-column", help='Default: "id", or line numbers where there is no such column.'),
    click.option("--text-column", help="Column of the text, for tasks with one field."),
    click.option("--column", "columns", type=Pair(), multiple=True, help="FIELD=COLUMN, for any field of the task."),
    click.option("--gold-column", help="For the reported accuracy; only gold-few-shot shows it to a model."),
    click.option("--group-column", help="Examples of one group are siblings."),
    click.option("--key-column", help="In a group: same key, same label; different keys, at most one true."),
    click.option("--relations", type=_PATH, help="JSONL file of rules between examples."),
    click.option("--limit", type=int, help="Only the first N examples."),
)

PROVIDER_OPTIONS = (
    click.option("--provider", help="local (default), a name from `providers`, or of a table in the --config file."),
    click.option("--model", help="The host's name of the model; for local: a pinned name or a .gguf file."),
    click.option("--base-url", help="Where the host answers, such as http://127.0.0.1:8080/v1."),
    click.option("--api-key-env", help="Environment variable that holds the API key."),
    click.option(
        "--route",
        type=click.Choice(["completions", "chat", "responses", "decisions", "votes"]),
        help="How the host is asked (default: the provider's own). votes: counted answers, where no log-probs exist.",
    ),
    click.option("--votes", type=int, help="Answers a question gets on the votes route (default 8)."),
    click.option("--top-k", type=int, help="Candidates to ask for."),
    click.option("--context-tokens", type=int, help="Longest prompt, where the host does not say."),
    click.option(
        "--echo/--no-echo", default=None, help="The host returns the log-probs of prompts (default: together's does)."
    ),
    click.option("--provider-option", "provider_options", type=Pair(), multiple=True, help="NAME=VALUE."),
    click.option("--extra-body", help="JSON object whose members go into every request, for OpenAI-shaped hosts."),
    click.option("--timeout-s", type=float, help="Seconds before a request counts as lost."),
    click.option("--cache-dir", type=_PATH, help="Default: the user's cache folder, or ICM_API_CACHE_DIR."),
    click.option("--config", "config_file", type=_PATH, envvar="ICM_API_CONFIG", help="TOML file of settings."),
)

LIMIT_OPTIONS = (
    click.option("--concurrency", type=int, help="Most requests at once (default 8); most steps ask one."),
    click.option("--max-requests", type=int, help="Stop before passing this many paid requests."),
    click.option("--max-prompt-tokens", type=int, help="Stop before passing this many prompt tokens."),
    click.option("--max-usd", help="Stop before passing this many US dollars; needs a known price or --price."),
    click.option("--price", help="IN/OUT or IN/CACHED/OUT, in USD per million tokens."),
    click.option("--cache/--no-cache", default=None, help="Keep replies, so that nothing is paid for twice."),
)

RESUME_OPTIONS = (
    click.option("--max-requests", type=int, help="A larger limit; what was spent before counts towards it."),
    click.option("--max-prompt-tokens", type=int, help="The same for prompt tokens."),
    click.option("--max-usd", help="The same for US dollars."),
    click.option("--data", help="Where the data are now, if they were moved; what they hold must be the same."),
    click.option("--relations", type=_PATH, help="Where the relations are now."),
    click.option("--cache-dir", type=_PATH, help="Where the cache is now that has the run's replies."),
)

METHODS = ("sweep", "anneal", "zero-shot", "random-few-shot", "bootstrap", "gold-few-shot")

SEARCH_OPTIONS = (
    click.option(
        "--method",
        type=click.Choice(METHODS),
        help="sweep (default): a few passes that score all examples at once. anneal: Algorithm 1 of the ICM paper. "
        "Baselines: zero-shot, random-few-shot, bootstrap; gold-few-shot, a ceiling, shows gold labels.",
    ),
    click.option("--seed", type=int, help="Of all random choices (default 0)."),
    click.option(
        "--class-prior",
        help="Shares of the labels, such as spam=0.25; one may be left out. Without it sweep estimates them, and the "
        "baselines take the likeliest label as it is (bootstrap begins with even shares). Not for anneal.",
    ),
    click.option("--passes", type=int, help="sweep: most passes of a restart (default 6)."),
    click.option(
        "--restarts", type=int, help="sweep: how many searches, the most informative of which counts (default 3)."
    ),
    click.option("--pool", type=int, help="sweep: search on so many examples and label the rest from them."),
    click.option(
        "--alpha", type=float, help="Weight of predictability against a broken rule in the utility (default 50)."
    ),
    click.option("--seeds", type=int, help="anneal: examples that start with a random label (default 8)."),
    click.option(
        "--fidelity", type=click.Choice(["reuse", "paper"]), help="anneal: paper scores every term at each change."
    ),
    click.option(
        "--objective",
        type=click.Choice(["mean", "paper-sum"]),
        help="anneal: mean (default); a sum falls with each example and may stop short.",
    ),
    click.option(
        "--stop", type=click.Choice(["stable", "full"]), help="anneal: when labels rest (default) or all have one."
    ),
    click.option("--max-steps", type=int, help="anneal: most steps (default 20 an example)."),
    click.option(
        "--order", type=click.Choice(["shared", "per-example"]), help="anneal: of demonstrations (default shared)."
    ),
    click.option("--keep-siblings", is_flag=True, default=None, help="Show an example the labels of its siblings."),
    click.option(
        "--max-demonstrations", type=int, help="Default: 256 (the paper's pool; bootstrap: 64), or as many as fit."
    ),
    click.option("--min-mass", type=float, help="Least probability the labels must hold together (default 1e-4)."),
)

OUTPUT_OPTIONS = (
    click.option("--out", type=_PATH, help="Labels file (default: labels.jsonl in the run folder)."),
    click.option("--run-dir", type=_PATH, help="Folder of the run (default: runs/<id>)."),
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
        help="Progress: rich on a terminal, else plain lines.",
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
