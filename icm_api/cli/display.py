"""What a person sees while a run goes on and when it ends. All of it on standard error, but for tables asked for."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from decimal import Decimal
from typing import Any, Protocol

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from icm_api.client.prices import dollars
from icm_api.config import unused_by
from icm_api.core.diagnose import label_shares
from icm_api.providers.registry import ProviderEntry
from icm_api.run import runner
from icm_api.run.outcome import Summary
from icm_api.run.plan import ABOUT, Estimate, Plan
from icm_api.run.probe_record import ProbeRecord
from icm_api.run.resume import RunInfo

PLAIN_EVERY_S = 5.0
_GIVES: Mapping[str, str] = {
    "sequences": "log-probs of all labels of a sequence, some 256 of them in a request",
    "exact": "the log-prob of every label, whatever its rank; a request a label or a few",
    "top-k": "log-probs of the likeliest tokens; a request a label, and a bound for a label not listed",
    "probabilities": "the host's own probabilities of the labels; a request a label",
    "votes": "answers that are counted; --votes requests a label (default 8)",
}


class Display(Protocol):
    def observe(self, progress: runner.Progress) -> None:
        """Show where the run stands."""

    def finish(self, result: runner.Result) -> None:
        """Show how it ended."""


@contextmanager
def open_display(kind: str | None, task: str) -> Iterator[Display]:
    """rich on a terminal, plain lines elsewhere, or what was asked for."""
    chosen = kind or ("rich" if sys.stderr.isatty() else "plain")
    watch = _Watch()
    if chosen == "none":
        yield Silent(watch)
        return
    try:
        if chosen == "plain":
            yield Plain(watch)
        else:
            with _bar() as bar:
                yield Rich(bar, bar.add_task(escape(task), total=None), watch)
    except (asyncio.CancelledError, KeyboardInterrupt):
        watch.say_what_is_saved()
        raise


class Silent:
    """Only warnings."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch

    def observe(self, progress: runner.Progress) -> None:
        self._watch.last = progress

    def finish(self, result: runner.Result) -> None:
        for warning in result.summary.warnings:
            click.echo(f"warning: {warning}", err=True)


class Plain:
    """A line every few seconds, for logs."""

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._next_s = 0.0

    def observe(self, progress: runner.Progress) -> None:
        self._watch.last = progress
        if progress.elapsed_s >= self._next_s or progress.step.stop:
            self._next_s = progress.elapsed_s + PLAIN_EVERY_S
            click.echo(f"{progress.elapsed_s:7.1f}s  {_status(progress)}", err=True)

    def finish(self, result: runner.Result) -> None:
        click.echo(describe(result.summary), err=True)


class Rich:
    """A bar with the run's counts."""

    def __init__(self, bar: Progress, task: TaskID, watch: _Watch) -> None:
        self._bar, self._task, self._watch = bar, task, watch

    def observe(self, progress: runner.Progress) -> None:
        self._watch.last = progress
        step = progress.step
        self._bar.update(self._task, total=step.total, completed=step.done, description=escape(_status(progress)))

    def finish(self, result: runner.Result) -> None:
        self._bar.stop()
        self._bar.console.print(escape(describe(result.summary)), highlight=False)


class _Watch:
    last: runner.Progress | None = None

    def say_what_is_saved(self) -> None:
        if self.last is not None:
            click.echo(f"stopped; the labels found so far are in {self.last.out}", err=True)
            click.echo(f"go on with: {runner.how_to_resume(self.last.run_dir)}", err=True)


def describe(summary: Summary) -> str:
    """The end of a run in a few lines."""
    lines = [
        f"{summary.labelled} of {summary.examples} examples labelled{_but(summary)} "
        f"({summary.stop_reason}, {summary.wall_s:.1f} s)" + _given(summary),
        f"U = {summary.utility:.2f}; a label is predicted at {summary.predictability_nats:.3f} nats on average"
        + (f", its text tells {summary.information_nats:.3f}" if summary.information_nats is not None else "")
        + f"; {summary.violations} relations broken, {summary.forced} labels changed by one"
        + (f", {summary.broken_soft} relations with a price broken" if summary.broken_soft else ""),
        f"{summary.requests} requests, {summary.cache_hits} from the cache, {_known(summary.prompt_tokens)} prompt "
        f"tokens ({_known(summary.cached_tokens)} cached by the host)"
        + (f"; exact re-scoring asks at least {summary.requests_saved} more times" if summary.requests_saved else ""),
        _plan_and_made(summary),
        _cost(summary),
    ]
    if summary.accuracy is not None:
        lines.append(
            f"accuracy {summary.accuracy:.3f} on {summary.accuracy_n} gold labels "
            f"(95% interval {summary.accuracy_low:.3f} to {summary.accuracy_high:.3f}), "
            f"calibration error {summary.calibration_error:.3f}"
            + ("; made with the gold labels: a ceiling" if summary.used_gold else "")
        )
    lines += [f"warning: {warning}" for warning in summary.warnings]
    lines.append(_verdict(summary))
    return "\n".join([*lines, f"labels: {summary.out}"])


def _but(summary: Summary) -> str:
    """Of the labelled, those that a person gave; of the others, those that are below the wanted confidence."""
    pinned = f", {summary.pinned} of them pinned" if summary.pinned else ""
    return pinned + (f", {summary.abstained} left unlabelled as too unsure" if summary.abstained else "")


def _given(summary: Summary) -> str:
    """Shares of the labels that were given."""
    if not summary.labelled:
        return ""
    return (": of those labelled " if summary.labelled < summary.examples else ": ") + _shares(summary.label_shares)


def _verdict(summary: Summary) -> str:
    """With what gold says, where it does not agree."""
    return f"verdict: {summary.verdict}" + (
        f" (made without gold)\nbut {summary.against_gold}" if summary.against_gold else ""
    )


def _plan_and_made(summary: Summary) -> str:
    """The plan and its error. Questions answered from the cache count as asked: the plan is for an empty cache."""
    asked = summary.requests - summary.retries + summary.cache_hits
    line = (
        f"plan: {ABOUT[summary.planned_kind]}{summary.planned_requests:,} requests, "
        f"about {summary.planned_prompt_tokens:,} prompt tokens{_planned_cost(summary)}; "
        f"asked {asked:,} ({asked / summary.planned_requests:.0%})"
    )
    if summary.cache_hits or summary.retries or summary.unknown_usage or not summary.prompt_tokens:
        return line
    return f"{line}, {summary.prompt_tokens:,} tokens ({summary.prompt_tokens / summary.planned_prompt_tokens:.0%})"


def _planned_cost(summary: Summary) -> str:
    return "" if summary.planned_cost_usd is None else f", {dollars(Decimal(summary.planned_cost_usd))}"


def _cost(summary: Summary) -> str:
    if summary.price_source is None:
        return "cost: unknown, as no price is known for this model at this host (state one with --price)"
    if summary.cost_usd is None:
        return f"cost: unknown, as the host did not say what replies took (price: {summary.price_source})"
    return f"cost: {dollars(Decimal(summary.cost_usd))} (price: {summary.price_source})"


def show_plan(found: Plan, as_json: bool) -> None:
    """The estimates as a table with notes below, or as JSON, on standard output."""
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return
    table = Table("", "method", box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.columns[1].no_wrap = True
    for header in ("requests", "prompt tokens", "of them cached", "cost"):
        table.add_column(header, justify="right")
    for row in found.estimates:
        table.add_row(*_plan_cells(row))
    print_table(table)
    for row in found.estimates:
        if row.note:
            click.echo(f"{row.method}: {row.note}")
    source = "unknown" if found.price is None else found.price.source
    for line in (f"tokens: {found.token_source}", f"price: {source}", *found.notes):
        click.echo(line)
    click.echo("for an empty cache; * is what `run` would do with these settings; nothing was paid for")


def _plan_cells(row: Estimate) -> tuple[str, ...]:
    return (
        "*" if row.chosen else "",
        row.method,
        f"{ABOUT[row.kind]}{row.requests:,}",
        f"{row.prompt_tokens:,}",
        "unknown" if row.cached_tokens is None else f"{row.cached_tokens:,}",
        dollars(row.cost_usd),
    )


def show_probe(record: ProbeRecord) -> None:
    """The checks, what to do where one did not hold, and the verdict, on standard error."""
    for check in record.checks:
        click.echo(f"{check.status:>4}  {check.name}: {check.detail}", err=True)
        if check.instead:
            click.echo(f"      -> {check.instead}", err=True)
    click.echo(f"{record.provider} {record.model} ({record.requests} requests): {record.verdict}", err=True)


def show_providers(entries: Sequence[ProviderEntry], environ: Mapping[str, str], as_json: bool) -> None:
    """What can be asked, as a table with its words explained below, or with all facts as JSON, on standard output."""
    if as_json:
        click.echo(json.dumps([_facts(entry, environ) for entry in entries]))
        return
    table = Table("", "name", "gives", "key variable", "checked", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for entry in entries:
        mark = "*" if _facts(entry, environ)["key_set"] else ""
        table.add_row(mark, entry.name, ", ".join(entry.gives), entry.key_env or "", entry.checked)
    print_table(table)
    click.echo()
    for word, meaning in _GIVES.items():
        click.echo(f"{word}: {meaning}")
    click.echo("* its key is set. Notes, sources, addresses: --json. Your own hosts: [providers.NAME] in --config.")


def _facts(entry: ProviderEntry, environ: Mapping[str, str]) -> dict[str, Any]:
    facts = {each.name: getattr(entry, each.name) for each in fields(entry) if each.name != "open"}
    return {**facts, "key_set": bool(entry.key_env and environ.get(entry.key_env, "").strip())}


def show_runs(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Runs as a table or as JSON, on standard output."""
    if as_json or rows:
        shown = ("run", "status", "method", "provider", "model", "steps", "labelled", "requests", "cost_usd", "begun")
        show_table(rows if as_json else [{name: row[name] for name in shown} for row in rows], as_json)
    else:
        click.echo("no runs here")


def show_run(info: RunInfo, as_json: bool) -> None:
    """What is known of a run, on standard output."""
    if as_json:
        click.echo(json.dumps({**info.as_json(), "manifest": asdict(info.manifest), "summary": info.summary}))
        return
    spent, manifest = info.state.spent, info.manifest
    unused = unused_by(manifest.config["method"])
    settings = {name: value for name, value in {**manifest.config, **info.state.limits}.items() if name not in unused}
    stopped = f" ({info.state.stop_reason})" if info.state.stop_reason else ""
    click.echo(f"{info.path}: {info.status}{stopped}, begun {manifest.begun} with icm-api {manifest.version}")
    click.echo(f"{info.state.steps} steps in {info.state.wall_s:.1f} s, {info.state.labelled} examples labelled")
    click.echo(
        f"spent: {spent.requests} requests, {_known(spent.prompt_tokens)} prompt tokens, {dollars(spent.cost_usd)}; "
        f"planned: {manifest.planned['requests']} requests ({manifest.planned['kind']})"
    )
    click.echo("settings: " + ", ".join(f"{name}={value}" for name, value in settings.items() if value))
    click.echo(f"labels: {info.out}")
    if info.status in ("stopped", "killed"):
        click.echo(f"go on with: {runner.how_to_resume(info.path)}")


def show_finished(info: RunInfo, as_json: bool) -> None:
    """There is nothing to go on with."""
    click.echo(f"{info.path} is finished; its labels are in {info.out}", err=True)
    if as_json:
        click.echo(json.dumps(info.summary))


def show_table(rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Rows with the same keys, as a table or as JSON, on standard output."""
    if as_json:
        click.echo(json.dumps(rows))
        return
    table = Table(*rows[0], box=None, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        table.add_row(*(escape(_cell(value)) for value in row.values()))
    print_table(table)


def print_table(table: Table) -> None:
    """To standard output, as wide as the terminal; wide enough for a line a row where there is none."""
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _bar() -> Progress:
    return Progress(
        BarColumn(24),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _status(progress: runner.Progress) -> str:
    counts, step, names = progress.snapshot, progress.step, progress.job.label_names
    shares = dict(zip(names, label_shares(step.labels, len(names)), strict=True))
    spent = "" if progress.cost_usd is None else f", {dollars(progress.cost_usd)}"
    return (
        f"{step.status}  {counts.requests} requests, {_known(counts.prompt_tokens)} tokens, {counts.cache_hits} hits, "
        f"{counts.retries} retries{spent}  {_shares(shares)}"
    )


def _known(count: int | None) -> str:
    """A count, where any reply has said one."""
    return "unknown" if count is None else str(count)


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
