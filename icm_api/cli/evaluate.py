"""`icm-api eval`: what a run's labels are worth as demonstrations, on held-out examples with gold."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icm_api.cli.completion import complete_run
from icm_api.cli.options import Sectioned, with_options
from icm_api.cli.transfer import TRANSFER_OPTIONS, open_run, progress, read_settings
from icm_api.cli.waiting import talk, until_done

if TYPE_CHECKING:
    from icm_api.run.evaluate import Bar, Difference, Evaluation

RESULT, CHART = "eval.json", "eval.svg"


@click.command("eval", cls=Sectioned)
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option(
    "--test", metavar="FILE", required=True, help="Held-out examples with gold labels, in a file like the run's data."
)
@click.option("--n", type=click.IntRange(1), help="Ask so many of them, drawn at random (default: all).")
@click.option("--out", type=click.Path(path_type=Path), help=f"Folder for {RESULT} and {CHART} (default: the run's).")
@click.option("--gold-column", help="Column of the gold labels (default: that of the run).")
@with_options(TRANSFER_OPTIONS)
def evaluate(
    run_name: str,
    test: str,
    n: int | None,
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
    """Measure what RUN's labels teach, on held-out questions.

    Four times the questions: zero-shot, and after the same examples with random labels, with RUN's, and with gold ones
    (where RUN's data have gold). The likeliest label counts, as the model gives it.
    """
    from icm_api.data.writers import write_json, write_text
    from icm_api.report.charts import interval_chart, standalone
    from icm_api.run.evaluate import evaluate as compare

    loaded = open_run(run_name, run_data, run_relations, trust=trust)
    config = read_settings(loaded, test, flags, config_file, no_groups=no_groups)
    say = None if display == "none" else talk
    found = until_done(compare(loaded, config, os.environ, n=n, most=demonstrations, done=progress(display), say=say))
    folder = loaded.path if out is None else out
    write_json(folder / RESULT, {"run": loaded.manifest.run_id, **found.as_json()})
    write_text(
        folder / CHART, standalone(interval_chart(f"accuracy on {found.test} held-out examples", found.intervals))
    )
    if as_json:
        click.echo(json.dumps(found.as_json()))
    elif display != "none":
        _show(found)
    for note in found.notes:
        talk(f"warning: {note}")
    if display != "none":
        talk(f"figures: {folder / RESULT}, chart: {folder / CHART}")


def _show(found: Evaluation) -> None:
    from rich.table import Table

    from icm_api.cli.display import print_table

    table = Table(
        "demonstrations", "accuracy", "95 % interval", "", box=None, header_style="bold", padding=(0, 2, 0, 0)
    )
    for bar in found.bars:
        table.add_row(*_cells(bar))
    print_table(table)
    click.echo(f"{found.test} held-out examples, {found.demonstrations} demonstrations, {found.model}")
    if found.without_gold:
        click.echo(f"{found.without_gold} rows of the test file have no gold label and were left out")
    for difference in found.differences:
        click.echo(_in_words(difference))


def _cells(bar: Bar) -> tuple[str, ...]:
    if bar.accuracy is None:
        return bar.condition, "", "", f"left out: {bar.note}"
    return bar.condition, f"{bar.accuracy:.3f}", f"{bar.low:.3f} to {bar.high:.3f}", ""


def _in_words(each: Difference) -> str:
    verdict = "within noise" if each.within_noise else "beyond noise"
    return (
        f"run's labels against {each.against}: {each.difference:+.3f} (right where the other is wrong: {each.gained}, "
        f"the other way round: {each.lost}), {verdict} (sign test p = {each.p:.2g})"
    )
