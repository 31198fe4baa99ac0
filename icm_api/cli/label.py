"""`icm-api label`: new examples labelled as a finished run labelled its own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icm_api.cli.completion import complete_file, complete_run
from icm_api.cli.options import Sectioned, with_options
from icm_api.cli.transfer import TRANSFER_OPTIONS, open_run, progress, read_settings
from icm_api.cli.waiting import talk, until_done
from icm_api.errors import ConfigError

if TYPE_CHECKING:
    from icm_api.run.label_new import NewLabels


@click.command(cls=Sectioned)
@click.argument("new", shell_complete=complete_file)
@click.option(
    "--from",
    "run_name",
    metavar="RUN",
    required=True,
    shell_complete=complete_run,
    help="A run folder, or its name under runs/.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Labels file (default: NEW's name with .labels.jsonl).")
@click.option("--abstain-below", type=float, metavar="SHARE", help="Give no label where its probability is lower.")
@click.option("--class-prior", help="Shares of the labels in NEW (default: those that the run found).")
@with_options(TRANSFER_OPTIONS)
def label(
    new: str,
    run_name: str,
    out: Path | None,
    run_data: str | None,
    run_relations: Path | None,
    trust: bool,
    demonstrations: int | None,
    no_groups: bool,
    config_file: Path | None,
    display: str | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Label NEW examples as RUN labelled its own: one request each.

    Shown are examples of RUN with its labels, evenly many of each, drawn from the surer half of each label: a plain
    choice, not one that measurements favour. Labels that a person gave are the surest. None is shown where RUN found
    that its examples are better asked alone (asked_alone in its summary.json). Provider, model and limits are those of
    RUN unless given; what the run spent does not count towards the limits.
    """
    from icm_api.run.label_new import label_new

    loaded = open_run(run_name, run_data, run_relations, trust=trust)
    flags["out"] = out or _beside(new)
    config = read_settings(loaded, new, flags, config_file, no_groups=no_groups)
    config = config.model_copy(update={"gold_column": None})  # nothing is compared here
    say = None if display == "none" else talk
    found = until_done(label_new(loaded, config, os.environ, most=demonstrations, done=progress(display), say=say))
    _report(found, display, as_json)
    if found.error is not None:
        raise found.error


def _beside(new: str) -> Path:
    if new == "-" or new.startswith("hf:"):
        raise ConfigError("--out: name the labels file, as the data are no file")
    return Path(new).with_suffix(".labels.jsonl")


def _report(found: NewLabels, display: str | None, as_json: bool) -> None:
    report = found.as_json()
    if as_json:
        click.echo(json.dumps(report))
    for note in found.notes:
        talk(f"warning: {note}")
    unsure = f", {report['abstained']} left unlabelled as too unsure," if report["abstained"] else ""
    if display != "none":
        talk(
            f"{report['labelled']} of {report['examples']} examples labelled{unsure} after {found.demonstrations} "
            f"examples of the run; {report['requests']} requests, {report['cache_hits']} from the cache\n"
            f"labels: {found.out}"
        )
