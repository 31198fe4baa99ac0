"""`icm-api audit`: a few answers of a person, and what they tell about a run's labels."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from icm_api.cli.completion import complete_run
from icm_api.cli.options import RUN_OPTIONS, with_options
from icm_api.cli.transfer import open_run
from icm_api.cli.waiting import talk
from icm_api.errors import ConfigError

if TYPE_CHECKING:
    from icm_api.core.audit import Audit
    from icm_api.run.load import LoadedRun

_PATH = click.Path(path_type=Path)
SKIP, STOP = "s", "q"
KEYS = "123456789abcdefghijklmnoprtuvwxyz"
"""One a label; without those that skip and stop."""


@click.command()
@click.argument("run_name", metavar="RUN", shell_complete=complete_run)
@click.option("--n", type=click.IntRange(1), default=30, help="New examples to ask about (default 30).")
@click.option("--csv", "sheet", type=_PATH, help="Write them to a sheet to fill in, and ask nothing here.")
@click.option("--answers", type=_PATH, help="Read a sheet that was filled in.")
@click.option(
    "--aim",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.9,
    help="Share of right labels that the recommended cut-off must reach (default 0.9).",
)
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the choice of examples (default 0).")
@with_options(RUN_OPTIONS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object to standard output.")
def audit(
    run_name: str,
    n: int,
    sheet: Path | None,
    answers: Path | None,
    aim: float,
    seed: int,
    run_data: str | None,
    run_relations: Path | None,
    trust: bool,
    as_json: bool,
) -> None:
    """Ask a person about some examples of RUN.

    It tells how many of its labels are right, and from which confidence on they can be kept.

    Examples of all confidences are shown, doubtful ones more often, which is made up for in the accuracy. What the
    model said is not shown: who sees a label first agrees with it too often. The answers are kept in answers.jsonl in
    the run's folder and count in the next audit too; `icm-api run --pin` takes them for a further run.
    """
    from icm_api.run.audit import as_json as report
    from icm_api.run.audit import examples_to_ask, judge, read_sheet, write_sheet

    if sheet is not None and answers is not None:
        raise ConfigError("--csv writes a sheet and --answers reads one; give one of them")
    loaded = open_run(run_name, run_data, run_relations, trust=trust)
    if answers is not None:
        given = read_sheet(answers, loaded)
    elif not (asked := examples_to_ask(loaded, n, seed=seed)):
        talk("every label of the run has a person's answer: none is left to ask about")
        given = {}
    elif sheet is not None:
        write_sheet(sheet, loaded, asked)
        talk(f"{len(asked)} examples are in {sheet}: fill in the column label, then give it with --answers")
        return
    else:
        given = _ask(loaded, asked)
    found = judge(loaded, given, aim=aim)
    if as_json:
        click.echo(json.dumps(report(loaded, found)))
    else:
        _show(found)


def _ask(loaded: LoadedRun, asked: Sequence[int]) -> dict[int, int]:
    """The answers of the person at the terminal, a key each."""
    from icm_api.run.audit import shown_text

    if not sys.stdin.isatty():
        raise ConfigError("nobody can answer here, as this is no terminal: use --csv FILE, then --answers FILE")
    names = loaded.job.label_names
    if len(names) > len(KEYS):
        raise ConfigError(f"{len(names)} labels have no key each: use --csv FILE, then --answers FILE")
    keys = dict(zip(KEYS, range(len(names)), strict=False))
    menu = "  ".join(f"[{key}] {names[label]}" for key, label in keys.items())
    answers = {}
    for number, i in enumerate(asked, start=1):
        talk(f"\n{number} of {len(asked)}\n{shown_text(loaded.job, i)}\n{menu}  [{SKIP}] skip  [{STOP}] stop")
        key = _key({*keys, SKIP, STOP})
        if key == STOP:
            break
        if key in keys:
            answers[i] = keys[key]
    return answers


def _key(known: set[str]) -> str:
    """Ctrl-C stops as that key does: what was answered is kept."""
    try:
        while (key := click.getchar()) not in known:
            talk(f"press one of {' '.join(sorted(known))}")
    except (KeyboardInterrupt, EOFError):
        return STOP
    return key


def _show(found: Audit) -> None:
    whole = found.whole
    click.echo(
        f"accuracy {whole.accuracy:.3f} (95% interval {whole.low:.3f} to {whole.high:.3f}) of {whole.labels} labels, "
        f"from {whole.answered} answers"
    )
    if found.recommended is None:
        click.echo(f"no confidence from which on {found.aim:.0%} of the labels are right, as far as the answers tell")
    else:
        cut, kept = found.recommended.confidence, found.recommended.kept
        click.echo(
            f"cut-off {cut:.3f}: {kept.accuracy:.3f} ({kept.low:.3f} to {kept.high:.3f}) of the {kept.labels} labels "
            f"at or above it are right, from {kept.answered} answers"
        )
    meaning = {
        "right": "polarity: right",
        "turned round": "polarity: turned round; exchange the two labels",
        "unclear": "polarity: unclear; answer more (the same command asks about others)",
    }
    if found.polarity is not None:
        click.echo(meaning[found.polarity])
