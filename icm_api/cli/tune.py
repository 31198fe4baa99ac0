"""`icm-api tune`: a model fine-tuned on a run's labels, at a host that does so."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from icm_api.cli.completion import complete_run
from icm_api.cli.options import RUN_OPTIONS, with_options
from icm_api.cli.waiting import talk, until_done
from icm_api.errors import BudgetError

if TYPE_CHECKING:
    from icm_api.providers.tuning import Estimate, Tuner
    from icm_api.run.export import ExportReport
    from icm_api.run.tune import Tuning

T = TypeVar("T")
Step = Callable[["Tuner"], Awaitable[T]]


class Dollars(click.ParamType[Decimal]):
    """An exact amount, 0 or more."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        try:
            amount = Decimal(value)
        except InvalidOperation:
            amount = Decimal("NaN")
        if not (amount.is_finite() and amount >= 0):
            self.fail(f"{value!r} is no amount of US dollars", param, ctx)
        return amount


@click.command()
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option("--provider", type=click.Choice(["together", "openai"]), required=True, help="Host that trains.")
@click.option("--base-model", required=True, metavar="MODEL", help="Model to start from, as the host names it.")
@click.option(
    "--method",
    type=click.Choice(["sft", "dpo"]),
    default="sft",
    help="What to learn: to give the label (sft, the default), or to prefer (dpo), where a task compares responses.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=1, help="Times over the data (default 1).")
@click.option("--suffix", metavar="NAME", help="Name of the tuned model and of this tuning (default: made up).")
@click.option("--validation", type=float, metavar="SHARE", help="Set this share apart, by groups, to validate with.")
@click.option(
    "--min-confidence", type=float, help="Leave out labels whose probability is below this share (not pinned ones)."
)
@click.option("--base-url", help="Address of the host, if not its usual one.")
@click.option(
    "--api-key-env", metavar="VARIABLE", help="Environment variable that holds the key, if not the usual one."
)
@click.option(
    "--poll-s", type=click.FloatRange(min=0, min_open=True), default=30.0, help="Seconds between looks (default 30)."
)
@click.option("--yes", is_flag=True, help="Upload and launch without asking, whatever the price but for --max-usd.")
@click.option(
    "--max-usd",
    type=Dollars(),
    metavar="USD",
    help="Launch nothing that the host estimates above this, nor what it gives no estimate for.",
)
@click.option("--dry-run", is_flag=True, help="Write and check the files; send nothing.")
@with_options(RUN_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object of the job.")
def tune(
    run_name: str,
    suffix: str | None,
    base_url: str | None,
    api_key_env: str | None,
    poll_s: float,
    yes: bool,
    max_usd: Decimal | None,
    dry_run: bool,
    run_data: str | None,
    run_relations: Path | None,
    trust: bool,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Fine-tune a model on the labels of RUN.

    Asks before the files are uploaded, and again before the job is launched, with the host's price where it tells one;
    a no ends with exit code 3, and the same command asks again. Files and job are kept in RUN/tune/NAME. The same
    command again follows the job and launches no other; Ctrl-C ends the following, not the job.
    """
    from icm_api.providers.http import checked_base_url
    from icm_api.providers.tuning import HOSTS, default_url, find_key, open_tuner
    from icm_api.run.journal import read_manifest
    from icm_api.run.load import load_run
    from icm_api.run.origin import refuse_foreign
    from icm_api.run.resume import find_run
    from icm_api.run.tune import TuningSettings, failure_of, open_tuning

    provider, path = chosen["provider"], find_run(run_name)
    refuse_foreign(path, read_manifest(path), os.environ, trust=trust, say=talk)  # of its tunings in the folder too
    url = checked_base_url(base_url or default_url(provider))
    if notice := HOSTS[provider].notice:
        talk(f"notice: {notice}")
    with open_tuning(path, TuningSettings(base_url=url, **chosen), suffix) as tuning:
        if not tuning.may_be_launched:
            run = load_run(path, os.environ, trust=trust, data=run_data, relations=run_relations)
            _show_prepared(tuning, tuning.prepare(run))
        if dry_run:
            talk("dry run: nothing was sent")
        elif not tuning.is_over:
            key = find_key(provider, url, api_key_env, os.environ)
            _Steps(tuning, lambda: open_tuner(provider, url, chosen["base_model"], key), poll_s, yes, max_usd).take()
        if as_json:
            click.echo(json.dumps(tuning.as_json()))
        if failure := failure_of(tuning.record):
            raise failure
        if tuning.is_over:
            talk(f"done: {tuning.as_json()['tuned_model']} (job {tuning.record.job_id}; {tuning.folder})")


class _Steps:
    """What is left to do of a tuning, with questions between. Each step opens the host anew, so that no connection is
    held while a person thinks."""

    def __init__(
        self, tuning: Tuning, opened: Callable[[], Tuner], poll_s: float, yes: bool, max_usd: Decimal | None
    ) -> None:
        self._tuning, self._opened, self._poll_s, self._yes = tuning, opened, poll_s, yes
        self._max_usd = max_usd

    def take(self) -> None:
        from icm_api.run.tune import refuse_dearer

        tuning = self._tuning
        if tuning.stage == "launching":
            talk("a launch was cut short: looking for its job")
            self._do(tuning.look_up)
        if tuning.stage == "prepared":
            self._ask(f"Upload the files to {tuning.settings.base_url}?", "nothing was sent")
            self._do(tuning.upload)
        if tuning.stage == "uploaded":
            estimate = self._do(lambda tuner: tuning.price(tuner, self._poll_s))
            talk(_price(estimate))
            refuse_dearer(estimate, self._max_usd)
            self._ask("Launch the job?", "the files are uploaded, and no job was launched")
            self._do(tuning.launch)
        talk(f"job {tuning.record.job_id}, followed until it is over; Ctrl-C stops the following only")
        self._do(lambda tuner: tuning.follow(tuner, self._poll_s, talk))

    def _do(self, step: Step[T]) -> T:
        async def with_tuner() -> T:
            tuner = self._opened()
            try:
                return await step(tuner)
            finally:
                await tuner.aclose()

        try:
            return until_done(with_tuner())
        except asyncio.CancelledError:
            talk(_where_it_stands(self._tuning))
            raise

    def _ask(self, question: str, otherwise: str) -> None:
        """Goes on only after a yes."""
        if self._yes:
            return
        try:
            agreed = click.confirm(question, err=True)
        except click.Abort:
            agreed = False
            talk("")  # ends the line of the question
        if not agreed:
            talk(f"{otherwise} (--yes answers all questions with yes)")
            sys.exit(BudgetError.exit_code)  # a price was too high for a person, as it may be for --max-usd


def _show_prepared(tuning: Tuning, report: ExportReport) -> None:
    from icm_api.cli.export import in_a_line

    settings = tuning.settings
    for notice in report.notices:
        talk(f"notice: {notice}")
    talk(in_a_line(report))
    talk(
        f"{settings.method} of {settings.base_model} at {settings.provider}, {settings.epochs} "
        f"{'epoch' if settings.epochs == 1 else 'epochs'}, about {tuning.guessed_tokens()} tokens (guessed from the "
        f"length), as {tuning.record.order.suffix}"
    )


def _price(estimate: Estimate) -> str:
    if estimate.usd is None:
        return "The host tells no price beforehand"
    tokens = f" for {estimate.tokens} tokens" if estimate.tokens else ""
    return f"The host estimates ${estimate.usd:.2f}{tokens}"


def _where_it_stands(tuning: Tuning) -> str:
    """After Ctrl-C."""
    if tuning.stage == "launched":
        return f"stopped following: job {tuning.record.job_id} goes on; the same command follows it again"
    if tuning.stage == "launching":
        return "stopped in the middle of a launch: the same command looks for the job before anything else"
    return "stopped: no job was launched"
