"""`icm-api completion`, and what completes a word: names of providers, tasks and runs, and files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

Items = list[CompletionItem[str]]

PROGRAM = "icm-api"
VARIABLE = "_ICM_API_COMPLETE"
"""Where click looks for what the shell wants to know, by the program's name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script for completion in bash, zsh or fish.

    To install it, put the line for your shell into the file that it reads at its start:

    \b
      ~/.bashrc                   eval "$(icm-api completion bash)"
      ~/.zshrc                    eval "$(icm-api completion zsh)"
      ~/.config/fish/config.fish  icm-api completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None, "click brings all three"
    click.echo(found(ctx.find_root().command, {}, PROGRAM, VARIABLE).source(), nl=False)


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """Any file: the shell knows them."""
    return [CompletionItem(incomplete, type="file")]


def complete_provider(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    from icm_api.providers.registry import ENTRIES

    return _beginning(incomplete, (entry.name for entry in ENTRIES))


def complete_task(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """A built-in task or a file."""
    from icm_api.tasks.toml_task import builtin_tasks

    named = _beginning(incomplete, (task.name for task in builtin_tasks()))
    return [*complete_file(ctx, param, incomplete), *named]


def complete_run(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> Items:
    """A name under runs/, the latest first, or a folder."""
    names = sorted((path.parent.name for path in Path("runs").glob("*/manifest.json")), reverse=True)
    return [CompletionItem(incomplete, type="dir"), *_beginning(incomplete, names)]


def _beginning(incomplete: str, names: Iterable[str]) -> Items:
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]
