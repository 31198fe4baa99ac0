"""The click group, one short function a command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import click

from icm_api.cli.options import (
    DATA_OPTIONS,
    DISPLAY_OPTIONS,
    LIMIT_OPTIONS,
    OUTPUT_OPTIONS,
    PROVIDER_OPTIONS,
    SEARCH_OPTIONS,
    given,
    with_options,
)
from icm_api.errors import IcmError

T = TypeVar("T")
INTERRUPTED = 130


def main() -> None:
    """Entry point: errors become one clear message and the exit code of their type."""
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except IcmError as error:
        _talk(f"error: {error}")
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="icm-api")
def cli() -> None:
    """Label a dataset with a language model and no human labels, by Internal Coherence Maximization.

    Settings: flags beat environment variables (ICM_API_<NAME>) beat the file given by --config.
    """


@cli.command()
@click.argument("data")
@with_options(DATA_OPTIONS, PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def run(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """Label DATA: a .jsonl, .csv or .parquet file, hf:NAME, or - for standard input."""
    from icm_api.config import RunConfig, load_config

    config = load_config(RunConfig, given(flags), os.environ, config_file)
    _run(config, display, as_json)


@cli.command()
@click.argument("data")
@with_options(DATA_OPTIONS, PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def plan(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """What labelling DATA would cost by each method: requests, tokens and dollars. Nothing is paid for.

    Takes the flags of `run`, so that one word turns a plan into a run.
    """
    from icm_api.cli.display import show_plan
    from icm_api.config import RunConfig, load_config
    from icm_api.run.plan import plan as estimate

    config = load_config(RunConfig, given(flags), os.environ, config_file)
    show_plan(_until_done(estimate(config, os.environ, say=None if display == "none" else _talk)), as_json)


@cli.command()
@with_options(PROVIDER_OPTIONS, DISPLAY_OPTIONS)
@click.option("--labels", default="False,True", help="Two label words to look for (default False,True).")
def probe(config_file: Path | None, display: str | None, as_json: bool, labels: str, **flags: Any) -> None:
    """Does this host return usable log-probs for this model? Asks a few cheap questions."""
    from icm_api.cli.display import show_probe
    from icm_api.config import ProviderConfig, load_config
    from icm_api.run.probe import probe as ask
    from icm_api.tasks.labels import labels_from_names

    config = load_config(ProviderConfig, given(flags), os.environ, config_file)
    words = labels_from_names([word.strip() for word in labels.split(",")])
    if len(words) != 2:
        raise click.UsageError("--labels takes two words, such as No,Yes")
    report = _until_done(_probe(config, words, ask))
    if as_json:
        click.echo(json.dumps(report.as_json()))
    if display != "none":
        show_probe(report)
    if not report.usable:
        sys.exit(4)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def providers(as_json: bool) -> None:
    """List the hosts that can be asked, and what each needs."""
    from icm_api.cli.display import show_table
    from icm_api.providers.registry import ENTRIES

    hidden = {"open", "takes"}
    show_table(
        [{f.name: getattr(row, f.name) for f in fields(row) if f.name not in hidden} for row in ENTRIES], as_json
    )


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def tasks(as_json: bool) -> None:
    """List the built-in tasks: their fields, labels and rules."""
    from icm_api.cli.display import show_table
    from icm_api.tasks.toml_task import builtin_tasks

    show_table([asdict(row) for row in builtin_tasks()], as_json)


@cli.command()
@with_options(PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def demo(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """Label 64 short reviews with a small model on this machine, and print them."""
    from icm_api.cli.demo import demo_settings, show_labels
    from icm_api.config import RunConfig, load_config

    with demo_settings(given(flags)) as settings:
        config = load_config(RunConfig, settings, os.environ, config_file)
        result = _run(config, display, as_json)
    if not as_json:
        show_labels(result)


@cli.group()
def local() -> None:
    """The embedded llama.cpp server and its small model (needs `pip install 'icm-api[local]'`)."""


@local.command()
@click.option("--model", default=None, help="Name of a pinned model.")
@click.option("--cache-dir", type=click.Path(path_type=Path), default=None)
def fetch(model: str | None, cache_dir: Path | None) -> None:
    """Fetch the model once, check its hash, and print its path."""
    from icm_api.local.models import DEFAULT_MODEL, default_cache_dir, fetch_model

    folder = cache_dir or default_cache_dir(os.environ)
    click.echo(fetch_model(model or DEFAULT_MODEL, cache_dir=folder, progress=_talk))


@local.command()
@click.option("--model", default=None, help="Name of a pinned model, or a .gguf file.")
@click.option("--port", type=int, default=0, help="Default: any free port.")
@click.option("--context-tokens", type=int, default=None, help="Context of each slot.")
@click.option("--slots", type=int, default=1, help="Requests evaluated at once.")
@click.option("--cache-dir", type=click.Path(path_type=Path), default=None)
def serve(model: str | None, port: int, context_tokens: int | None, slots: int, cache_dir: Path | None) -> None:
    """Serve the model on this machine to other programs, until Ctrl-C. Prints its address."""
    from icm_api.local.models import default_cache_dir
    from icm_api.local.session import serve_until_stopped

    folder = cache_dir or default_cache_dir(os.environ)
    signal.signal(signal.SIGTERM, _as_interrupt)
    serve_until_stopped(
        model, cache_dir=folder, port=port, context_tokens=context_tokens, slots=slots, announce=click.echo
    )


def _run(config: Any, display: str | None, as_json: bool) -> Any:
    from icm_api.cli.display import open_display
    from icm_api.run.runner import run as label

    with open_display(display, config) as shown:
        result = _until_done(label(config, os.environ, shown.observe, say=None if display == "none" else _talk))
        shown.finish(result)
    if as_json:
        click.echo(json.dumps(result.summary.as_json(), allow_nan=False))
    if result.error is not None:
        raise result.error
    return result


async def _probe(config: Any, words: Any, ask: Any) -> Any:
    from icm_api.run.compose import open_adapter

    async with open_adapter(config, os.environ, _talk) as provider:
        return await ask(provider, words)


def _until_done(job: Coroutine[Any, Any, T]) -> T:
    """Run to the end. Ctrl-C and SIGTERM cancel the job, which saves what it has."""

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        if sys.platform != "win32":
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await job

    return asyncio.run(guarded())


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _talk(text: str) -> None:
    click.echo(text, err=True)
