"""`icm-api export`: the labels of a run as files for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icm_api.cli.completion import complete_run
from icm_api.cli.options import RUN_OPTIONS, with_options
from icm_api.cli.transfer import open_run
from icm_api.cli.waiting import talk
from icm_api.data.exports import FORMATS

if TYPE_CHECKING:
    from icm_api.run.export import ExportReport

_PATH = click.Path(path_type=Path)


@click.command(epilog="Formats: " + "; ".join(f"{name} ({kind.about})" for name, kind in FORMATS.items()) + ".")
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option("--format", type=click.Choice(list(FORMATS)), required=True, metavar="FORMAT", help="One of those below.")
@click.option("--out", type=_PATH, required=True, help="File to write; one that is there is replaced.")
@click.option(
    "--min-confidence", type=float, help="Leave out labels whose probability is below this share (not pinned ones)."
)
@click.option(
    "--without-tension",
    is_flag=True,
    help="Leave out examples that rules tie to a label that a rule forced, or to a broken rule.",
)
@click.option("--validation", type=float, metavar="SHARE", help="Set this share apart, by groups, in a file beside it.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Seed of that split (default 0).")
@click.option("--with-gold", is_flag=True, help="Add the gold label as a column icm_gold, never as something to learn.")
@click.option("--card", is_flag=True, help="Write a dataset card, README.md, beside the file.")
@with_options(RUN_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object of what was written.")
def export(
    run_name: str, run_data: str | None, run_relations: Path | None, trust: bool, as_json: bool, **options: Any
) -> None:
    """Write the labels of RUN for training or review.

    RUN is a run folder or its name under runs/. Examples without a label are left out and counted; labels that a person
    gave (icm_pinned) stay, however unsure the model is. A run that is cut short or still going on gives its labels so
    far. A validation file that an earlier export left under this name is refused, as it may hold the same examples.
    """
    from icm_api.run.export import ExportOptions, export_run

    run = open_run(run_name, run_data, run_relations, trust=trust)
    report = export_run(run, ExportOptions(**options))
    for notice in report.notices:
        talk(f"notice: {notice}")
    talk(in_a_line(report))
    if as_json:
        click.echo(json.dumps(report.as_json()))


def in_a_line(report: ExportReport) -> str:
    """What was written, for people."""
    records = ", ".join(f"{n} {part}" for part, n in report.records.items())
    left_out = ", ".join(f"{n} {reason}" for reason, n in report.left_out.items())
    parts = (
        f"wrote {records} records from {report.examples} examples to {', '.join(report.files)}",
        f"left out: {left_out}" if left_out else "",
        f"{report.made_safe} cells made safe for spreadsheets" if report.made_safe else "",
    )
    return "; ".join(part for part in parts if part)
