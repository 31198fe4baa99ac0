"""Methods x tasks x label shares x seeds on one local model: `python -m benchmarks.labelling` (`--help`: the choices).

Each cell is a run of the product, scorer, cache and meter included, on one embedded server that all cells share. A
finished cell is a line of `RESULTS/labelling-<model>.jsonl` at once, and a cell that is there is not run again, so the
same command goes on where the last one ended. Replies are kept too: a cell whose line was removed (because a method
has changed, say) asks only what was never asked before, and still counts all requests and tokens as if it had asked.
`python -m benchmarks.labelling_report` makes the tables.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import IO, Any, Literal, TypeAlias

import numpy as np

from benchmarks.label_tasks import TASKS, LabelTask, Row, Share, available, draw, label_counts, settings
from icm_api.client.cache import Cached, open_cache
from icm_api.client.wrapper import Wrapper
from icm_api.config import Method, RunConfig, load_config
from icm_api.core.calibrate import information
from icm_api.core.sweep import SweepStep
from icm_api.errors import CapabilityError, ConfigError, DataError
from icm_api.local.models import DEFAULT_MODEL, MODELS, default_cache_dir
from icm_api.local.session import open_local
from icm_api.providers.base import Provider
from icm_api.providers.registry import ProviderSettings
from icm_api.providers.synthetic import Synthetic
from icm_api.run.runner import Progress, Result, run

Prior = Literal["given", "unknown", "-"]
Effort = Literal["full", "quick"]
Labels: TypeAlias = tuple[int | None, ...]

ANNEAL_N = 24
"""Examples of the paper's search, at most: it asks for each example again and again, so more would take hours."""
BALANCED = 0.5
EFFORTS: Mapping[Effort, Mapping[str, int]] = {"full": {}, "quick": {"restarts": 1, "passes": 3}}
"""Settings beside the defaults: how much a search may ask."""
RESULTS = Path(__file__).parent / "results"
SHORT: Mapping[str, Any] = {
    "tasks": ["animal-object", "messages", "language", "topic"],
    "methods": ["zero-shot", "sweep", "gold-few-shot"],
    "shares": [BALANCED],
    "prior": "unknown",
    "efforts": ["full"],
    "seeds": [0],
    "n": 32,
}


@dataclass(frozen=True, slots=True)
class Way:
    """A method, and whether it is told the true shares of the labels."""

    method: Method
    prior: Prior
    """`-`: the method has no such setting."""
    replies: str
    """Folder of its replies. Ways that ask the very same questions share one; others do not, so that the wall time of
    one is never shortened by the replies of another."""
    effort: Effort = "full"


WAYS = (
    Way("zero-shot", "unknown", "zero-shot"),
    Way("zero-shot", "given", "zero-shot"),
    Way("gold-few-shot", "unknown", "gold-few-shot"),
    Way("gold-few-shot", "given", "gold-few-shot"),
    Way("random-few-shot", "unknown", "random-few-shot"),
    Way("sweep", "unknown", "sweep-quick", "quick"),
    Way("sweep", "unknown", "sweep"),
    Way("sweep", "given", "sweep-given"),
    Way("bootstrap", "unknown", "bootstrap"),
    Way("anneal", "-", "anneal"),
)
"""The cheap ones first."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of the benchmark. Two cells with the same fields are the same run."""

    task: str
    share: float
    """Of the last label of two; see `shares_of` for more labels."""
    method: Method
    prior: Prior
    seed: int
    n: int
    effort: Effort = "full"

    def __str__(self) -> str:
        prior = "" if self.prior == "-" else f", shares {self.prior}"
        effort = "" if self.effort == "full" else f" ({self.effort})"
        return f"{self.task} {self.share:g}: {self.method}{effort}{prior}, seed {self.seed}, n {self.n}"


def cells(
    tasks: Sequence[str], ways: Sequence[Way], shares: Sequence[float], seeds: Sequence[int], n: int
) -> list[Cell]:
    """In the order they are run: every task gets its first seed before any gets its second, cheap methods first."""
    return [
        Cell(task, share, way.method, way.prior, seed, min(n, ANNEAL_N) if way.method == "anneal" else n, way.effort)
        for seed in seeds
        for way in ways
        for share in shares
        for task in tasks
    ]


def ways(methods: Collection[str], prior: str, efforts: Collection[str] = tuple(EFFORTS)) -> list[Way]:
    """Those of the methods with that prior, `both`, or the only one that the method has here."""
    chosen = [way for way in WAYS if way.method in methods and way.effort in efforts]
    priors = {method: {way.prior for way in chosen if way.method == method} for method in methods}
    return [way for way in chosen if prior in ("both", way.prior) or prior not in priors[way.method]]


def shares_of(task: LabelTask, share: float) -> Share:
    """For a draw: `BALANCED` is even; else the first label has 1 - share, and the others the rest in equal parts."""
    k = len(task.labels)
    if share == BALANCED:
        return tuple(1 / k for _ in task.labels)
    return (1 - share, *(share / (k - 1) for _ in range(k - 1)))


# --- the results file -------------------------------------------------------------------------------------


def read_results(file: Path) -> list[Row]:
    """The finished cells. A last line that was cut off is left out, with a note; ValueError for any other bad line."""
    whole, torn = _split_torn(file)
    if torn:
        print(f"note: {file}: the last line was cut off and is left out", file=sys.stderr)
    rows = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: no JSON ({error}); remove the line") from None
    return rows


def open_results(file: Path) -> IO[str]:
    """For appending; what is left of a line that was cut off is removed first."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    whole, torn = _split_torn(file)
    if torn:
        os.truncate(file, len(whole))
    return file.open("a", encoding="utf-8")


def _split_torn(file: Path) -> tuple[bytes, bytes]:
    """(whole lines, what follows the last line break)."""
    data = file.read_bytes()
    end = data.rfind(b"\n") + 1
    return data[:end], data[end:]


def cell_of(row: Row) -> Cell:
    return Cell(**{name: row[name] for name in Cell.__slots__ if name in row})


# --- the provider that all runs share ---------------------------------------------------------------------


class _StaysOpen(Wrapper):
    async def aclose(self) -> None:
        """The next run needs it."""


class Shared:
    """One open provider for all runs. A run opens it by name, `provider="benchmarks.labelling:shared"`, and says in
    which folder its replies are kept.

    The folder stands inside the run's own cache and meter, so these count a kept reply like one that was just asked.
    """

    adapter: Provider
    opened: Cached

    def __call__(self, settings: ProviderSettings, api_key: str | None) -> Provider:
        del api_key
        self.opened = Cached(_StaysOpen(self.adapter), open_cache(Path(settings.options["replies"])))
        return self.opened


shared = Shared()


@asynccontextmanager
async def _open_adapter(model: str) -> AsyncIterator[Provider]:
    if model == "synthetic":
        yield Synthetic()
        return
    async with open_local(model, cache_dir=default_cache_dir(os.environ), progress=_say) as provider:
        yield provider


# --- running ----------------------------------------------------------------------------------------------


async def measure(todo: Sequence[Cell], model: str, replies: Path, results: IO[str], time_limit_s: float) -> int:
    """Run the cells in turn and write each one's line; how many failed. No cell starts after the time limit.

    A cell whose data, settings or labels are refused is reported and passed over; any other ProviderError ends it all,
    for the next cell would meet it too.
    """
    started, n_failed = time.monotonic(), 0
    async with _open_adapter(model) as shared.adapter:
        for number, cell in enumerate(todo, start=1):
            if time.monotonic() - started > time_limit_s:
                _say(f"time limit: {len(todo) - number + 1} cells are left for the next time")
                break
            try:
                row = await run_cell(cell, model, replies)
            except (ConfigError, DataError, CapabilityError) as error:
                n_failed += 1
                _say(f"[{number}/{len(todo)}] {cell}: not run: {error}")
                continue
            results.write(json.dumps(row) + "\n")
            results.flush()
            accuracy = "no gold" if row["accuracy"] is None else f"accuracy {row['accuracy']:.2f}"
            _say(f"[{number}/{len(todo)}] {cell}: {accuracy}, {row['wall_s']:.0f} s")
    return n_failed


async def run_cell(cell: Cell, model: str, replies: Path) -> Row:
    """One line of the results."""
    task, way = TASKS[cell.task], _way(cell)
    share = shares_of(task, cell.share)
    rows = draw(task, cell.n, share, cell.seed)
    told = settings(task, rows)
    rules = told.pop("relations", None)
    true = [count / cell.n for count in label_counts(task, cell.n, share)]
    if cell.prior == "given":
        told["class_prior"] = dict(zip(task.labels, true, strict=True))
    restarts: dict[int, Labels] = {}
    course: list[Row] = []

    def observe(progress: Progress) -> None:
        _keep_restart(restarts, progress)
        _keep_course(course, progress)

    with tempfile.TemporaryDirectory() as folder:
        options = {"replies": str(replies / model / way.replies)}
        config = load_config(
            RunConfig,
            {
                "data": cell.task,
                "method": cell.method,
                "seed": cell.seed,
                "min_mass": 0,  # a model that takes the labels badly is measured like any other
                "provider": "benchmarks.labelling:shared",
                "provider_options": options,
                "cache_dir": Path(folder) / "cache",
                "run_dir": Path(folder) / "run",
                "report": False,
                **EFFORTS[cell.effort],
                **told,
            },
            {},
        )
        result = await run(config, {}, observe, rows=rows, rules=rules)
    if result.error is not None:
        raise result.error
    return {
        **asdict(cell),
        "model": model,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "true_shares": true,
        **_measured(result),
        "agreement": agreement(list(restarts.values()), len(task.labels)),
        "course": course,
        "replayed": shared.opened.hits,
    }


def _way(cell: Cell) -> Way:
    return next(way for way in WAYS if (way.method, way.prior, way.effort) == (cell.method, cell.prior, cell.effort))


def _measured(result: Result) -> Row:
    summary = result.summary
    prompt, cached = summary.prompt_tokens, summary.cached_tokens
    return {
        "accuracy": summary.accuracy,
        "accuracy_n": summary.accuracy_n,
        "balanced_accuracy": balanced_accuracy(result),
        "label_shares": list(summary.label_shares.values()),
        "collapsed": summary.collapsed,
        "utility": summary.utility,
        "information_nats": summary.information_nats,
        "gold_information_nats": gold_information(result),
        "requests": summary.requests,
        "prompt_tokens": prompt,
        "cached_tokens": cached,
        "evaluated_tokens": None if prompt is None or cached is None else prompt - cached,
        "wall_s": summary.wall_s,
        "calibration_error": summary.calibration_error,
        "changed_from_alone": summary.changed_from_alone,
        "verdict": summary.verdict,
        "signs": [sign["name"] for sign in summary.signs],
        "warnings": list(summary.warnings),
    }


def balanced_accuracy(result: Result) -> float | None:
    """Mean over the gold labels of the share of their examples that got them: one label for all is at 1 / labels,
    however rare the others are. None without gold."""
    names, right = result.job.label_names, dict[str, list[bool]]()
    for row, gold in zip(result.rows, result.job.dataset.gold or (), strict=False):
        if row.label is not None and gold is not None:
            right.setdefault(names[gold], []).append(row.label == names[gold])
    return mean(map(mean, right.values())) if right else None


def gold_information(result: Result) -> float | None:
    """The search's objective of the gold labels themselves, scored in contexts of gold labels: of a run of
    `gold-few-shot` with raw scores. None for any other, and where an example has no score or no gold."""
    if not result.summary.used_gold or result.job.shares is not None:
        return None
    gold, scores = result.job.dataset.gold, [row.logprobs for row in result.rows]
    labels = [label for label in gold or () if label is not None]
    known = [list(score.values()) for score in scores if score is not None]
    return information(np.array(known), labels) if len(labels) == len(known) == len(scores) else None


def _keep_restart(restarts: dict[int, Labels], progress: Progress) -> None:
    """The labels of each restart of a sweep as its last pass left them."""
    step = progress.step
    if isinstance(step, SweepStep) and step.stage == "restart":
        restarts[step.restart.number] = step.labels


def _keep_course(course: list[Row], progress: Progress) -> None:
    """Of a sweep, after each pass: what it has cost, and how good the labels are that it would end with."""
    step, gold = progress.step, progress.job.dataset.gold
    if not isinstance(step, SweepStep) or step.stage != "restart" or gold is None:
        return
    kept = [(label, right) for label, right in zip(step.best.known_labels, gold, strict=True) if right is not None]
    course.append(
        {
            "restart": step.restart.number,
            "pass": step.restart.n_passes,
            "prompt_tokens": progress.snapshot.prompt_tokens,
            "accuracy": mean(label == right for label, right in kept),
        }
    )


def agreement(labellings: Sequence[Labels], n_labels: int) -> float | None:
    """Mean over pairs of labellings of |share equal less that of chance|, 1 at most; None for fewer than two.

    For two labels, |2 x share equal - 1|: one that is turned round agrees wholly.
    """
    pairs = list(combinations(labellings, 2))
    equal = [mean(a == b for a, b in zip(one, other, strict=True)) for one, other in pairs]
    return mean(abs(n_labels * share - 1) / (n_labels - 1) for share in equal) if pairs else None


# --- the command ------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 1 where a cell could not be run."""
    given = _arguments(sys.argv[1:] if arguments is None else arguments)
    file = results_file(given.results, given.model)
    todo = list(_todo(given, file))
    replies = given.cache_dir or default_cache_dir(os.environ) / "benchmark-replies"
    with open_results(file) as results:
        if not todo:
            return 0
        return int(asyncio.run(measure(todo, given.model, replies, results, given.time_limit_s)) > 0)


def results_file(folder: Path, model: str) -> Path:
    return folder / f"labelling-{model}.jsonl"


def _todo(given: argparse.Namespace, file: Path) -> Iterator[Cell]:
    reasons = {name: available(TASKS[name]) for name in given.tasks}
    for reason in filter(None, reasons.values()):
        _say(f"left out: {reason}")
    tasks = [name for name in given.tasks if reasons[name] is None]
    wanted = cells(tasks, ways(given.methods, given.prior, given.efforts), given.shares, given.seeds, given.n)
    refused = {key: why for key in dict.fromkeys(map(_drawn_from, wanted)) if (why := _undrawable(*key))}
    for why in refused.values():
        _say(f"left out: {why}")
    wanted = [cell for cell in wanted if _drawn_from(cell) not in refused]
    done = {cell_of(row) for row in read_results(file)} if file.exists() else set()
    _say(f"{file}: {len(wanted)} cells wanted, {len(done & set(wanted))} of them done")
    return (cell for cell in wanted if cell not in done)


def _drawn_from(cell: Cell) -> tuple[str, float, int]:
    return cell.task, cell.share, cell.n


def _undrawable(name: str, share: float, n: int) -> str | None:
    """Why there is no such draw, None where there is (for one seed as for any other)."""
    try:
        draw(TASKS[name], n, shares_of(TASKS[name], share), seed=0)
    except ValueError as error:
        return str(error)
    return None


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.labelling", description=__doc__.partition("\n")[0])
    methods = list(dict.fromkeys(way.method for way in WAYS))
    parser.add_argument("--tasks", type=_among(TASKS), default=list(TASKS), help=", ".join(TASKS))
    parser.add_argument("--methods", type=_among(methods), default=methods, help=", ".join(methods))
    parser.add_argument("--shares", type=_floats, default=[BALANCED, 0.25, 0.1], help="of the last label: 0.5,0.25,0.1")
    parser.add_argument("--prior", choices=["given", "unknown", "both"], default="both", help="whether shares are told")
    parser.add_argument("--efforts", type=_among(EFFORTS), default=list(EFFORTS), help="of sweep: full,quick")
    parser.add_argument("--seeds", type=_ints, default=[0, 1, 2], help="0,1,2")
    parser.add_argument("--n", type=int, default=64, help=f"examples a run ({ANNEAL_N} at most for anneal)")
    parser.add_argument("--model", choices=list(MODELS), default=DEFAULT_MODEL)
    parser.add_argument(
        "--provider", choices=["local", "synthetic"], default="local", help="synthetic: without a model"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER")
    parser.add_argument(
        "--cache-dir", type=Path, metavar="FOLDER", help="of the replies (default: in the user's cache)"
    )
    parser.add_argument("--time-limit-s", type=float, default=float("inf"), help="start no cell after that")
    parser.add_argument("--short", action="store_true", help="four tasks, three methods, one seed: some minutes")
    if "--short" in arguments:
        parser.set_defaults(**SHORT)
    given = parser.parse_args(arguments)
    if given.provider == "synthetic":
        given.model = "synthetic"
    return given


def _among(names: Collection[str]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if strange := [name for name in chosen if name not in names]:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(names)}")
        return chosen

    return parse


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _ints(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    from benchmarks import labelling  # runs open `shared` from the module of that name, not from this one

    sys.exit(labelling.main())
