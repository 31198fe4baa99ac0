"""The click group, one short function a command. Heavy imports wait until a command needs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from icm_api.cli.audit import audit
from icm_api.cli.blame import blamed
from icm_api.cli.completion import PROGRAM, complete_file, complete_run, complete_task, completion
from icm_api.cli.evaluate import evaluate
from icm_api.cli.export import export
from icm_api.cli.label import label
from icm_api.cli.options import (
    DATA_OPTIONS,
    DISPLAY_OPTIONS,
    LIMIT_OPTIONS,
    OUTPUT_OPTIONS,
    PROVIDER_OPTIONS,
    RESUME_OPTIONS,
    SEARCH_OPTIONS,
    Sectioned,
    given,
    with_options,
)
from icm_api.cli.report import compare, report, write_report
from icm_api.cli.tune import tune
from icm_api.cli.waiting import talk, until_done
from icm_api.errors import ConfigError, IcmError, VerdictError

INTERRUPTED = 130
_MODELS = "Folder of replies and models (default: the user's cache folder)."
VERDICTS = ("healthy", "doubtful", "failed")


def main() -> None:
    """Entry point: errors become one clear message and the exit code of their type. So do those of the user's own
    modules; other exceptions are faults of this program and keep their traceback."""
    try:
        cli(prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except IcmError as error:
        place = error.__cause__ and blamed(error.__cause__)
        for line in (f"error: {error}", *([f"raised in {place}"] if place else []), *getattr(error, "__notes__", ())):
            talk(line)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(INTERRUPTED)
    except Exception as error:  # a module of the user's may raise anything
        if (place := blamed(error)) is None:
            raise
        talk(f"error: code of your own failed: {place}")
        sys.exit(ConfigError.exit_code)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="icm-api")
def cli() -> None:
    """Label a dataset with a language model and no human labels, by Internal Coherence Maximization.

    Settings: flags beat environment variables (ICM_API_<NAME>) beat the file given by --config. Labels and JSON go to
    files and standard output, all other talk to standard error.

    Exit codes: 0 done, 2 something to fix and nothing spent, 3 stopped at a limit or by your no, 4 the host failed or
    cannot give usable numbers, 5 a verdict that --fail-on names.
    """


@cli.command(cls=Sectioned)
@click.argument("data", shell_complete=complete_file)
@with_options(DATA_OPTIONS, PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def run(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """Label the examples of DATA.

    DATA is a .jsonl, .csv or .parquet file, hf:NAME, or - for standard input. Labels go to a new folder under runs/.
    """
    from icm_api.config import RunConfig, load_config

    config = load_config(RunConfig, given(flags), os.environ, config_file)
    _run(config, display, as_json)


@cli.command()
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@with_options(RESUME_OPTIONS, DISPLAY_OPTIONS)
def resume(run_name: str, trust: bool, display: str | None, as_json: bool, **flags: Any) -> None:
    """Go on with a run that was cut short.

    RUN is a run folder or its name under runs/. It ends with the labels that it would have had, and asks nothing that
    it has paid for. Its settings stay, but larger limits may be given; what it spent before counts towards them. Data
    piped in (-) are piped in again.
    """
    from icm_api.cli.display import open_display, show_finished
    from icm_api.run.interrupt import Interrupt
    from icm_api.run.resume import find_run, read_run
    from icm_api.run.resume import resume as go_on

    path = find_run(run_name)
    info, interrupt = read_run(path), Interrupt()
    if info.status == "finished":
        show_finished(info, as_json)
        return
    say = None if display == "none" else talk
    with open_display(display, info.manifest.config["task"]) as shown:
        job = go_on(path, os.environ, shown.observe, given=given(flags), trust=trust, say=say, interrupt=interrupt)
        result = until_done(job, interrupt)
        shown.finish(result)
    _report(result, display, as_json)


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path("runs"))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def runs(folder: Path, as_json: bool) -> None:
    """List the runs in FOLDER (default: runs), the oldest first."""
    from icm_api.cli.display import show_runs
    from icm_api.run.resume import list_runs

    found, problems = list_runs(folder)
    for problem in problems:
        talk(f"warning: {problem}")
    show_runs([info.as_json() for info in found], as_json)


@cli.command()
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object: manifest, state and summary.")
def show(run_name: str, as_json: bool) -> None:
    """Show what RUN was asked for, how far it is and what it spent.

    RUN is a run folder or its name under runs/.
    """
    from icm_api.cli.display import show_run
    from icm_api.run.resume import find_run, read_run

    show_run(read_run(find_run(run_name)), as_json)


@cli.command(cls=Sectioned)
@click.argument("data", shell_complete=complete_file)
@with_options(DATA_OPTIONS, PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def plan(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """Tell what labelling DATA would cost, by each method.

    Counts requests, tokens and dollars, and pays for nothing. Takes the flags of `run`, so that one word turns a plan
    into a run.
    """
    from icm_api.cli.display import show_plan
    from icm_api.config import RunConfig, load_config
    from icm_api.run.plan import plan as estimate

    config = load_config(RunConfig, given(flags), os.environ, config_file)
    show_plan(until_done(estimate(config, os.environ, say=None if display == "none" else talk)), as_json)


@cli.command(cls=Sectioned)
@with_options(PROVIDER_OPTIONS, DISPLAY_OPTIONS)
@click.option("--price", metavar="PRICE", help="As for run.")
@click.option(
    "--task", metavar="TASK", shell_complete=complete_task, help="Look for the labels of this task, as run names it."
)
@click.option(
    "--labels", metavar="WORDS", help="Label words to look for, with commas (default: False,True, or the task's)."
)
def probe(
    config_file: Path | None, display: str | None, as_json: bool, task: str | None, labels: str | None, **flags: Any
) -> None:
    """Check whether a host gives usable numbers for a model.

    Asks about ten cheap questions. What it finds is kept: a run that would rely on something disproved is refused
    before it spends anything.
    """
    from icm_api.cli.display import show_probe
    from icm_api.config import ProviderConfig, load_config
    from icm_api.run.probe import probe_host

    config = load_config(ProviderConfig, given(flags), os.environ, config_file)
    record = until_done(probe_host(config, os.environ, _labels_to_look_for(task, labels), talk))
    if as_json:
        click.echo(json.dumps(record.as_json()))
    if display != "none":
        show_probe(record)
    if not record.usable:
        sys.exit(4)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def providers(as_json: bool) -> None:
    """List the hosts that can be asked and what each gives."""
    from icm_api.cli.display import show_providers
    from icm_api.providers.registry import ENTRIES

    show_providers(ENTRIES, os.environ, as_json)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def tasks(as_json: bool) -> None:
    """List the built-in tasks: their fields, labels and rules."""
    from icm_api.cli.display import show_table
    from icm_api.tasks.toml_task import builtin_tasks

    show_table([asdict(row) for row in builtin_tasks()], as_json)


@cli.command(cls=Sectioned)
@with_options(PROVIDER_OPTIONS, LIMIT_OPTIONS, SEARCH_OPTIONS, OUTPUT_OPTIONS, DISPLAY_OPTIONS)
def demo(config_file: Path | None, display: str | None, as_json: bool, **flags: Any) -> None:
    """Label 64 short reviews with a small model on this machine."""
    from icm_api.cli.demo import demo_settings, show_labels
    from icm_api.config import RunConfig, load_config

    with demo_settings(given(flags)) as settings:
        config = load_config(RunConfig, settings, os.environ, config_file)
        result = _run(config, display, as_json)
    if not as_json:
        show_labels(result)


cli.add_command(export)
cli.add_command(tune)
cli.add_command(label)
cli.add_command(evaluate)
cli.add_command(audit)
cli.add_command(report)
cli.add_command(compare)
cli.add_command(completion)


@cli.group()
def local() -> None:
    """Fetch or serve the small model of this machine.

    It runs in llama.cpp's server, which comes with `pip install 'icm-api[local]'`.
    """


@local.command()
@click.option("--model", metavar="NAME", help="A pinned model (default: the one of `demo`).")
@click.option("--cache-dir", type=click.Path(path_type=Path), help=_MODELS)
def fetch(model: str | None, cache_dir: Path | None) -> None:
    """Fetch the model once, check its hash and print its path."""
    from icm_api.local.models import DEFAULT_MODEL, default_cache_dir, fetch_model

    folder = cache_dir or default_cache_dir(os.environ)
    click.echo(fetch_model(model or DEFAULT_MODEL, cache_dir=folder, progress=talk))


@local.command()
@click.option("--model", metavar="NAME", help="A pinned model (default: the one of `demo`) or a .gguf file.")
@click.option("--port", type=int, default=0, help="Port to listen on (default: any that is free).")
@click.option("--context-tokens", type=int, help="Tokens of context for each slot (default 8192).")
@click.option("--slots", type=int, default=1, help="Most requests evaluated at once (default 1).")
@click.option("--cache-dir", type=click.Path(path_type=Path), help=_MODELS)
def serve(model: str | None, port: int, context_tokens: int | None, slots: int, cache_dir: Path | None) -> None:
    """Serve the model to other programs, until Ctrl-C.

    Prints its address, which is on this machine only.
    """
    from icm_api.local.models import default_cache_dir
    from icm_api.local.session import serve_until_stopped

    folder = cache_dir or default_cache_dir(os.environ)
    signal.signal(signal.SIGTERM, _as_interrupt)
    serve_until_stopped(
        model, cache_dir=folder, port=port, context_tokens=context_tokens, slots=slots, announce=click.echo
    )


def _run(config: Any, display: str | None, as_json: bool) -> Any:
    from icm_api.cli.display import open_display
    from icm_api.run.interrupt import Interrupt
    from icm_api.run.runner import run as label

    interrupt = Interrupt()
    say = None if display == "none" else talk
    with open_display(display, config.task) as shown:
        result = until_done(label(config, os.environ, shown.observe, say=say, interrupt=interrupt), interrupt)
        shown.finish(result)
    return _report(result, display, as_json)


def _report(result: Any, display: str | None, as_json: bool) -> Any:
    if as_json:
        click.echo(json.dumps(result.summary.as_json(), allow_nan=False))
    config = result.job.config
    if config.report and (page := write_report(result)) and display != "none":
        talk(f"report: {page}")
    if result.error is not None:
        raise result.error
    if config.fail_on in VERDICTS and VERDICTS.index(result.summary.verdict) >= VERDICTS.index(config.fail_on):
        raise VerdictError(f"the verdict on the labels is {result.summary.verdict} (--fail-on {config.fail_on})")
    return result


def _labels_to_look_for(task: str | None, labels: str | None) -> Any:
    from icm_api.tasks.labels import labels_from_names
    from icm_api.tasks.toml_task import load_task

    words = None if labels is None else tuple(word.strip() for word in labels.split(","))
    return load_task(task, labels=words).labels if task else labels_from_names(words or ("False", "True"))


def _as_interrupt(*_: object) -> None:
    raise KeyboardInterrupt
