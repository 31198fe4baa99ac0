"""`icm-api report` and `icm-api compare`: runs as a page and side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icm_api.cli.completion import complete_run
from icm_api.cli.options import RUN_OPTIONS, with_options
from icm_api.cli.transfer import open_runs
from icm_api.cli.waiting import printable, talk
from icm_api.errors import ConfigError, IcmError

if TYPE_CHECKING:
    from markupsafe import Markup

    from icm_api.report.page import ReportRow, Strained
    from icm_api.run.job import Job
    from icm_api.run.load import LoadedRun
    from icm_api.run.outcome import LabelRow
    from icm_api.run.runner import Result
    from icm_api.types import Example, Relation

REPORT = "report.html"
SHOWN_DIFFERENCES = 20
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option("--out", type=_PATH, help=f"File to write (default: {REPORT} in the run folder).")
@click.option("--beside", multiple=True, metavar="RUN", help="Another run over the same data, to stand beside it.")
@click.option(
    "--charts", type=_PATH, metavar="FOLDER", help="Write the charts as SVG (and PNG with the extra png) too."
)
@with_options(RUN_OPTIONS)
def report(
    run_name: str,
    out: Path | None,
    beside: Sequence[str],
    charts: Path | None,
    run_data: str | None,
    run_relations: Path | None,
    trust: bool,
) -> None:
    """Write a page about RUN: one file that needs no network.

    RUN is a run folder or its name under runs/. Charts as PNG need the extra `png`.
    """
    found, *others = open_runs((run_name, *beside), run_data, run_relations, trust=trust)
    for other in others:
        _refuse_other_examples(found, other)
    path = out or found.path / REPORT
    settings, summaries = asdict(found.manifest), [_summary(other) for other in others]
    _write_page(path, found.job, found.rows, _summary(found), found.journal(), settings, summaries, charts)
    click.echo(path)


@click.command()
@click.argument("run_names", metavar="RUN RUN...", nargs=-1, required=True, shell_complete=complete_run)
@with_options(RUN_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def compare(
    run_names: Sequence[str], run_data: str | None, run_relations: Path | None, trust: bool, as_json: bool
) -> None:
    """Compare runs over the same data.

    Shows accuracy and cost, and where their labels differ. The first is the yardstick. Data that were moved are the
    same file for all runs, and so are relations for those that have some.
    """
    from icm_api.core.agreement import agreement

    if len(run_names) < 2:
        raise click.UsageError("name two runs or more")
    first, *rest = open_runs(run_names, run_data, run_relations, trust=trust)
    for other in rest:
        _refuse_other_examples(first, other)
    rows = [_compared(first, other, agreement) for other in (first, *rest)]
    if as_json:
        click.echo(json.dumps({"runs": rows, "differences": _differences(first, rest)}))
        return
    from icm_api.cli.display import show_table

    show_table([{name: _cell(value) for name, value in row.items()} for row in rows], as_json=False)
    differences = _differences(first, rest)
    for line in differences[:SHOWN_DIFFERENCES]:
        click.echo(printable(f"{line['id']}: {', '.join(label or 'no label' for label in line['labels'])}"))
    if len(differences) > SHOWN_DIFFERENCES:
        click.echo(f"... and {len(differences) - SHOWN_DIFFERENCES} more differ (--json lists all)")


def write_report(result: Result) -> Path | None:
    """The page of a run that has just ended, in its folder; None, with a notice, where it cannot be written. It is an
    extra: nothing that was labelled may be lost over it."""
    from icm_api.run.journal import read_manifest
    from icm_api.run.load import read_journal

    path = result.run_dir / REPORT
    try:
        settings, journal = asdict(read_manifest(result.run_dir)), read_journal(result.run_dir)
        _write_page(path, result.job, result.rows, result.summary.as_json(), journal, settings)
    except (IcmError, OSError) as error:
        talk(f"notice: no report was written: {error}")
        return None
    return path


def _write_page(
    path: Path,
    job: Job,
    rows: Sequence[LabelRow],
    summary: Mapping[str, Any],
    journal: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    others: Sequence[Mapping[str, Any]] = (),
    chart_folder: Path | None = None,
) -> None:
    from icm_api.data.writers import write_text
    from icm_api.report.page import Report, charts, render

    title = f"{job.task.name} · {Path(job.config.data).name}"
    page = Report(title, summary, _rows(job, rows), journal, settings, others, _strained(job, rows))
    write_text(path, render(page))
    if chart_folder is not None:
        _write_charts(chart_folder, charts(page))


def _write_charts(folder: Path, charts: Mapping[str, Markup]) -> None:
    """Each as SVG, and as PNG where that can be drawn; a notice where it cannot."""
    from icm_api.data.writers import write_text
    from icm_api.report.charts import standalone
    from icm_api.report.png import GET_PNG, can_draw, png

    files = {folder / f"{name.replace(' ', '-')}.svg": standalone(chart) for name, chart in charts.items()}
    for path, svg in files.items():
        write_text(path, svg)
    if not can_draw():
        talk(f"notice: the charts in {folder} are SVG only; for PNG too: {GET_PNG}")
        return
    try:
        pictures = {path.with_suffix(".png"): png(svg) for path, svg in files.items()}
    except ConfigError as error:
        talk(f"notice: the charts in {folder} are SVG only: {error}")
        return
    for path, picture in pictures.items():
        _write_bytes(path, picture)


def _write_bytes(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


def _rows(job: Job, rows: Sequence[LabelRow]) -> list[ReportRow]:
    from icm_api.report.page import ReportRow
    from icm_api.run.audit import shown_text

    gold = job.dataset.gold or (None,) * len(rows)
    return [
        ReportRow(
            row.id,
            shown_text(job, i),
            row.label,
            row.confidence,
            None if right is None else job.label_names[right],
            row.forced_by,
            row.pinned,
        )
        for i, (row, right) in enumerate(zip(rows, gold, strict=True))
    ]


def _strained(job: Job, rows: Sequence[LabelRow]) -> list[Strained]:
    """Components in which the model and the rules disagree, each with all of its rules."""
    from icm_api.core.relations import broken
    from icm_api.report.page import Strained
    from icm_api.run.export import tensions
    from icm_api.run.job import describe_relation

    index = {name: k for k, name in enumerate(job.label_names)}
    labels = [None if row.label is None else index[row.label] for row in rows]
    components, relations = tensions(job, rows, labels), job.problem.relations
    place = {member: k for k, members in enumerate(components) for member in members}
    rules: list[list[Relation]] = [[] for _ in components]
    for relation in relations:
        if relation.members[0] in place:
            rules[place[relation.members[0]]].append(relation)
    return [
        Strained(
            members,
            [describe_relation(relation, job.examples) for relation in tied],
            sum(rows[i].forced_by is not None for i in members),
            len(broken(tied, labels)),
        )
        for members, tied in zip(components, rules, strict=True)
    ]


def _summary(found: LoadedRun) -> Mapping[str, Any]:
    if found.summary is None:
        raise ConfigError(
            f"{found.path}: the run was killed before it wrote its summary; `icm-api resume {found.path}` ends it"
        )
    return found.summary


def _refuse_other_examples(first: LoadedRun, other: LoadedRun) -> None:
    if not _same_examples(first.job.examples, other.job.examples):
        raise ConfigError(f"{other.path}: its examples are not those of {first.path}; compare runs over the same data")
    if first.job.label_names != other.job.label_names:
        raise ConfigError(f"{other.path}: its labels are not those of {first.path}")


def _same_examples(some: Sequence[Example], others: Sequence[Example]) -> bool:
    """Equal ids, and equal texts where both tasks read a field of the same name: ids may be no more than line
    numbers."""
    return len(some) == len(others) and all(
        a.id == b.id and all(a.fields[name] == b.fields[name] for name in a.fields.keys() & b.fields.keys())
        for a, b in zip(some, others, strict=True)
    )


def _compared(first: LoadedRun, other: LoadedRun, agreement: Any) -> dict[str, Any]:
    summary = _summary(other)
    found = agreement(first.labels, other.labels, len(first.job.label_names))
    wanted = ("method", "verdict", "accuracy", "accuracy_n", "requests", "prompt_tokens", "cost_usd")
    return {
        "run": other.path.name,
        **{name: summary[name] for name in wanted},
        "equal": f"{found.equal} of {found.n}",
        "kappa": found.kappa,
    }


def _differences(first: LoadedRun, rest: Sequence[LoadedRun]) -> list[dict[str, Any]]:
    """Examples that not all runs give the same label."""
    together = zip(*(run.rows for run in (first, *rest)), strict=True)
    return [
        {"id": rows[0].id, "labels": [row.label for row in rows]}
        for rows in together
        if len({row.label for row in rows}) > 1
    ]


def _cell(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
