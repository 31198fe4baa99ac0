"""What commands after a run share: the run itself; and `label` and `eval`, other data with the run's settings."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icm_api.cli.options import DISPLAY_OPTIONS, LIMIT_OPTIONS, PROVIDER_OPTIONS, RUN_OPTIONS, Pair, given
from icm_api.cli.waiting import talk
from icm_api.errors import ConfigError

if TYPE_CHECKING:
    from icm_api.config import RunConfig
    from icm_api.run.load import LoadedRun

_COLUMN_OPTIONS = (
    click.option(
        "--format",
        type=click.Choice(["jsonl", "csv", "parquet"]),
        help="Where the name of the new data does not tell.",
    ),
    click.option("--id-column", help="Columns of the new data: as in the run unless given."),
    click.option("--text-column", help="Column of the text, for tasks with one field."),
    click.option("--column", "columns", type=Pair(), multiple=True, help="FIELD=COLUMN, for any field of the task."),
    click.option("--group-column", help="Examples of one group are siblings, also old and new ones."),
    click.option("--key-column", help="As for run."),
    click.option("--no-groups", is_flag=True, help="The new data have no columns of groups and keys."),
    click.option("--limit", type=int, help="Only the first N rows."),
)
TRANSFER_OPTIONS = (
    *(click.option("--demonstrations", type=click.IntRange(1), help="Labelled examples shown (default 64)."),),
    *_COLUMN_OPTIONS,
    *RUN_OPTIONS,
    *PROVIDER_OPTIONS,
    *LIMIT_OPTIONS,
    *DISPLAY_OPTIONS,
)


def open_run(name: str, run_data: str | None, run_relations: Path | None, *, trust: bool) -> LoadedRun:
    """A run by its folder or name, with its job made ready again. One that was not begun here must be trusted first."""
    from icm_api.run.load import load_run
    from icm_api.run.resume import find_run

    return load_run(find_run(name), os.environ, trust=trust, say=talk, data=run_data, relations=run_relations)


def open_runs(
    names: Sequence[str], run_data: str | None, run_relations: Path | None, *, trust: bool
) -> list[LoadedRun]:
    """Runs over the same data, so the file is one for all; that of relations is for those that began with one."""
    from icm_api.run.journal import read_manifest
    from icm_api.run.resume import find_run

    related = [name for name in names if read_manifest(find_run(name)).config["relations"] is not None]
    if run_relations is not None and not related:
        raise ConfigError(f"--run-relations: no relations file was given to {' or '.join(names)}")
    return [open_run(name, run_data, run_relations if name in related else None, trust=trust) for name in names]


def read_settings(
    loaded: LoadedRun, data: str, flags: Mapping[str, Any], config_file: Path | None, *, no_groups: bool
) -> RunConfig:
    """The run's settings over other data. Flags beat environment variables, these the --config file, that the run;
    of environment and file only what is about the host and its limits counts."""
    from icm_api.config import ProviderConfig, load_config
    from icm_api.run.transfer import transfer_settings

    chosen = given(flags)
    about_host = {name: value for name, value in chosen.items() if name in ProviderConfig.model_fields}
    host = load_config(ProviderConfig, about_host, os.environ, config_file)
    settings = {**chosen, **{name: getattr(host, name) for name in host.model_fields_set}}
    config = transfer_settings(loaded, data, settings)
    return config.model_copy(update={"group_column": None, "key_column": None}) if no_groups else config


def progress(display: str | None) -> Callable[[int, int], None]:
    """A line whenever another part of the questions is answered; none where there is a single part."""

    def show(asked: int, of: int) -> None:
        if display != "none" and asked < of:
            click.echo(f"asked {asked} of {of}", err=True)

    return show
