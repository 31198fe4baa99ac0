"""The labelling benchmark: it goes on where it ended, counts what a run costs, and its tables are right."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks import synthetic_sizes
from benchmarks.label_tasks import TASKS
from benchmarks.labelling import (
    ANNEAL_N,
    WAYS,
    agreement,
    cells,
    main,
    open_results,
    read_results,
    results_file,
    shares_of,
    ways,
)
from benchmarks.labelling_report import (
    NONE,
    Point,
    draw_curves,
    draw_picture,
    interval,
    name_heights,
    points,
    reports,
    roc_area,
    roc_curve,
)
from benchmarks.labelling_report import main as report
from icm_api.providers.synthetic import Synthetic


@pytest.fixture
def bench(tmp_path):
    """Run it without a model on eight words; gives the finished cells."""

    def run(*arguments: str, expect: int = 0):
        fixed = ["--provider", "synthetic", "--n", "8", "--results", str(tmp_path), "--cache-dir", str(tmp_path / "c")]
        small = ["--tasks", "animal-object", "--shares", "0.5", "--seeds", "0", "--prior", "unknown"]
        small += ["--efforts", "full"]
        assert main([*fixed, *small, *arguments]) == expect
        return read_results(results_file(tmp_path, "synthetic"))

    return run


# --- cells ------------------------------------------------------------------------------------------------


def test_every_task_gets_its_first_seed_before_any_gets_its_second_and_cheap_methods_come_first():
    order = cells(["a", "b"], WAYS, [0.5, 0.25], [0, 1], 64)
    assert [cell.seed for cell in order] == sorted(cell.seed for cell in order)
    first = [cell for cell in order if cell.seed == 0]
    assert {cell.method for cell in first[:8]} == {"zero-shot"}
    assert {cell.method for cell in first[-4:]} == {"anneal"}
    assert len(set(order)) == len(order) == 2 * 2 * 2 * len(WAYS)


def test_anneal_runs_on_fewer_examples():
    sizes = {cell.method: cell.n for cell in cells(["a"], WAYS, [0.5], [0], 64)}
    assert sizes.pop("anneal") == ANNEAL_N
    assert set(sizes.values()) == {64}


@pytest.mark.parametrize(("prior", "found"), [("given", ["given"]), ("unknown", ["unknown"]), ("both", 2)])
def test_a_prior_is_chosen_where_a_method_has_a_choice(prior, found):
    assert len(ways(["anneal"], prior)) == 1
    sweeps = [way.prior for way in ways(["sweep", "anneal"], prior, ["full"]) if way.method == "sweep"]
    assert sweeps == found or len(sweeps) == found


def test_an_uneven_draw_has_much_of_the_first_label_and_the_rest_evenly():
    assert shares_of(TASKS["messages"], 0.25) == (0.75, 0.25)
    assert shares_of(TASKS["topic"], 0.5) == (0.25, 0.25, 0.25, 0.25)
    assert shares_of(TASKS["topic"], 0.3) == pytest.approx((0.7, 0.1, 0.1, 0.1))


# --- running ----------------------------------------------------------------------------------------------


def test_a_cell_that_exists_is_not_run_again(bench, tmp_path):
    file = results_file(tmp_path, "synthetic")
    bench("--methods", "zero-shot")
    before = file.read_bytes()
    rows = bench("--methods", "zero-shot,random-few-shot")
    assert file.read_bytes().startswith(before)
    assert [row["method"] for row in rows] == ["zero-shot", "random-few-shot"]


def test_a_cell_whose_line_was_removed_asks_nothing_anew_and_still_counts_everything(bench, tmp_path):
    (first,) = bench("--methods", "sweep")
    results_file(tmp_path, "synthetic").unlink()
    (again,) = bench("--methods", "sweep")
    assert (first["replayed"], again["replayed"]) == (0, first["requests"])
    for name in ("requests", "prompt_tokens", "cached_tokens", "accuracy", "information_nats"):
        assert again[name] == first[name]


def test_a_quick_search_is_a_cell_of_its_own_that_asks_less(bench):
    full, quick = sorted(bench("--methods", "sweep", "--efforts", "full,quick"), key=lambda row: row["effort"])
    assert (full["effort"], quick["effort"]) == ("full", "quick")
    assert quick["requests"] < full["requests"]
    assert quick["agreement"] is None, "of a single restart"


def test_the_shares_that_are_told_are_the_true_ones(bench):
    (row,) = bench("--methods", "sweep", "--shares", "0.25", "--prior", "given")
    assert (row["prior"], row["true_shares"]) == ("given", [0.75, 0.25])


def test_only_gold_knows_the_information_of_the_gold_labels_and_only_a_sweep_has_restarts(bench):
    zero, gold, sweep = bench("--methods", "zero-shot,gold-few-shot,sweep")
    assert isinstance(gold["gold_information_nats"], float)
    assert zero["gold_information_nats"] is sweep["gold_information_nats"] is None
    assert isinstance(sweep["agreement"], float)
    assert gold["agreement"] is None


def test_no_cell_starts_after_the_time_limit(bench, capsys):
    assert bench("--methods", "zero-shot", "--time-limit-s", "-1") == []
    assert "1 cells are left" in capsys.readouterr().err


def test_a_draw_that_is_not_possible_is_left_out_and_said(bench, capsys):
    assert bench("--tasks", "topic", "--shares", "0.1", "--methods", "zero-shot") == []
    assert "leave a label without rows" in capsys.readouterr().err


def test_restarts_agree_wholly_when_equal_or_turned_round_and_not_at_all_by_chance():
    assert agreement([(0, 1, 0, 1), (0, 1, 0, 1)], 2) == 1
    assert agreement([(0, 1, 0, 1), (1, 0, 1, 0)], 2) == 1
    assert agreement([(0, 1, 0, 1), (0, 0, 1, 1)], 2) == 0
    assert agreement([(0, 1, 2, 3), (0, 0, 0, 0)], 4) == 0
    assert agreement([(0, 1)], 2) is None


# --- the results file -------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_out_with_a_note_and_its_cell_is_run_again(bench, tmp_path, capsys):
    file = results_file(tmp_path, "synthetic")
    (whole,) = bench("--methods", "zero-shot")
    with file.open("a", encoding="utf-8") as results:
        results.write('{"task": "animal-object", "sha')
    assert read_results(file) == [whole]
    assert "cut off" in capsys.readouterr().err
    rows = bench("--methods", "zero-shot,gold-few-shot")
    assert rows[0] == whole
    assert [row["method"] for row in rows] == ["zero-shot", "gold-few-shot"]
    assert "cut off" not in capsys.readouterr().err.splitlines()[-1]


def test_a_file_that_is_one_torn_line_is_empty(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"task"', encoding="utf-8")
    with open_results(file):
        assert read_results(file) == []


def test_a_bad_line_among_good_ones_is_refused_with_its_number(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text("{}\nnonsense\n{}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: no JSON"):
        read_results(file)


# --- the report -------------------------------------------------------------------------------------------


def row(task: str, method: str, seed: int, accuracy: float | None, prior: str = "unknown", **fields):
    found = {
        "task": task,
        "share": 0.5,
        "method": method,
        "prior": prior,
        "seed": seed,
        "n": 10,
        "model": "m",
        "date": "2026-01-01",
        "true_shares": [0.5, 0.5],
        "accuracy": accuracy,
        "collapsed": False,
        "information_nats": 0.2,
        "gold_information_nats": None,
        "agreement": None,
        "calibration_error": 0.1,
        "requests": 20,
        "prompt_tokens": 1000,
        "evaluated_tokens": 100,
        "wall_s": 5.0,
        "replayed": 0,
    }
    return found | fields


@pytest.fixture
def hand_made(tmp_path):
    """Gold holds two tasks of three; each has two seeds."""
    rows = [
        row("messages", "gold-few-shot", 0, 0.9, gold_information_nats=0.3),
        row("messages", "gold-few-shot", 1, 0.8, gold_information_nats=0.3),
        row("topic", "gold-few-shot", 0, 0.5, true_shares=[0.25] * 4),
        row("topic", "gold-few-shot", 1, 0.5, true_shares=[0.25] * 4),
        row("language", "gold-few-shot", 0, 0.6),
        row("language", "gold-few-shot", 1, 0.6),
        row("messages", "sweep", 0, 1.0),
        row("messages", "sweep", 1, 0.8, collapsed=True),
        row("topic", "sweep", 0, 0.6, prompt_tokens=3000, replayed=20, wall_s=0.1),
        row("language", "sweep", 0, 0.1, prompt_tokens=2000),
        row("messages", "zero-shot", 0, 0.5, prompt_tokens=50, evaluated_tokens=50),
        row("messages", "anneal", 0, 0.7, prior="-", n=4),
    ]
    file = tmp_path / "results.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    return file


def line(markdown: str, start: str) -> list[str]:
    return [cell.strip() for cell in markdown.split(f"| {start} |")[1].splitlines()[0].strip("| ").split("|")]


def test_a_task_is_held_when_gold_is_clearly_above_the_larger_share(hand_made):
    (found,) = reports([hand_made])
    assert found.clear_tasks() == ["topic", "messages"]


def test_accuracies_are_means_with_spread_and_missing_seeds_show(hand_made):
    (found,) = reports([hand_made])
    head, *_ = found.accuracy(0.5).splitlines()
    assert head == "| task | zero-shot | gold-few-shot | sweep | anneal (n 4) | n, seeds |"
    assert line(found.accuracy(0.5), "messages") == ["0.50 (1)", "0.85 ±0.07", "0.90 ±0.14", "0.70 (1)", "10, 2"]
    assert line(found.accuracy(0.5), "topic") == [NONE, "0.50 ±0.00", "0.60 (1)", NONE, "10, 2"]


def test_means_are_over_the_tasks_that_are_held_and_differences_over_the_same_draws(hand_made):
    (found,) = reports([hand_made])
    tasks, runs, accuracy, less, less_given, error = line(found.means(0.5), "sweep")
    assert (tasks, runs, accuracy, less_given, error) == ("2", "3", "0.75", NONE, "0.10")
    assert less == interval([0.1, 0.0, 0.1]) == "+0.067 ± 0.065"
    assert line(found.means(0.5), "anneal (n 4)")[3] == "-0.200", "gold of another size, for want of one of its own"


def test_cost_is_per_label_averaged_over_tasks_and_replayed_runs_have_no_time(hand_made):
    (found,) = reports([hand_made])
    assert line(found.cost(), "sweep") == ["2.00", "200", "10", "0.95", "2.0", "0.50"]


def test_failures_are_counted_where_gold_has_an_objective_and_other_labels(hand_made):
    (found,) = reports([hand_made])
    assert line(found.failures(), "sweep") == ["1 of 4", "1 of 2", "1 of 2", NONE]
    assert line(found.failures(), "gold-few-shot")[1:] == [NONE, NONE, NONE]


def test_the_command_prints_all_tables_and_draws_a_picture_that_is_the_same_each_time(hand_made, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    report([str(hand_made), "--picture", str(one)])
    printed = capsys.readouterr().out
    assert printed.startswith("## m\n\n12 runs, 2026-01-01; 10 examples each")
    assert "These tasks: topic, messages." in printed
    assert all(f"{name}</text>" in one.read_text(encoding="utf-8") for name in ("sweep", "anneal (n 4)"))
    draw_picture(reports([hand_made]), two)
    assert one.read_bytes() == two.read_bytes()


def test_names_in_the_picture_keep_their_distance(hand_made):
    (found,) = reports([hand_made])
    shown = points(found, "prompt_tokens")
    assert {point.name: point.tokens for point in shown}["sweep"] == 200
    close = [Point("", shown[0].column, 1.0, accuracy) for accuracy in (0.51, 0.5, 0.9)]
    assert name_heights(close, 0.1) == pytest.approx([0.6, 0.5, 0.9])


# --- sizes on the offline learner -------------------------------------------------------------------------


@pytest.mark.parametrize("case", synthetic_sizes.CASES, ids=lambda case: case.name)
def test_a_synthetic_draw_has_its_shares_and_the_learners_truth(case):
    rows = synthetic_sizes.draw(case, 40, np.random.default_rng(0))
    learner = Synthetic.from_options(case.options)
    truth = [learner.truth(synthetic_sizes.prompt_text(each["text"]), 2) for each in rows]
    assert [synthetic_sizes.LABELS.index(each["label"]) for each in rows] == truth
    assert sum(truth) == 40 * case.share
    if case.grouped:
        assert all(sum(truth[first : first + 4]) == 1 for first in range(0, 40, 4))


def test_the_area_is_the_share_of_pairs_in_which_the_bad_run_has_the_graver_alarm():
    low, middle, high = (0.0, -0.4), (1.0, -0.6), (1.0, -0.2)
    assert roc_area([low, middle, high], [False, False, True]) == 1.0
    assert roc_area([high, middle, low], [False, False, True]) == 0.0
    assert roc_area([low, low], [False, True]) == 0.5
    assert roc_area([low, high], [False, False]) is None


def test_the_diagnosis_is_of_searches_only_and_a_task_without_truth_is_never_good(hand_made):
    judged: dict[str, Any] = {"verdict": "healthy", "signs": [], "label_shares": [0.5, 0.5], "information_nats": 0.5}
    rows = [
        row("messages", "sweep", 0, 0.9, **judged),
        row("messages", "zero-shot", 0, 0.5, **judged),
        row("political", "sweep", 0, None, **judged | {"verdict": "doubtful"}),
        row("topic", "sweep", 0, 0.6, share=0.25, **judged),
    ]
    hand_made.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    (found,) = reports([hand_made])
    assert line(found.diagnosis(), "healthy") == ["2", "0.75", "1 of 2", "1 of 1"], "no baseline beside the last"
    assert line(found.diagnosis(), "doubtful") == ["1", NONE, "0 of 1", "0 of 1"]
    assert line(found.diagnosis(), "area, verdict alone")[-2:] == ["0.75", "1.00"]
    assert "political" not in found.accuracy(0.5)


def test_sweeps_are_judged_by_themselves_too(hand_made):
    judged: dict[str, Any] = {"verdict": "healthy", "signs": [], "label_shares": [0.5, 0.5], "information_nats": 0.5}
    rows = [
        row("topic", "sweep", 0, 0.5, **judged),
        row("messages", "sweep", 0, 0.9, **judged),
        row("topic", "anneal", 0, 0.5, **judged | {"verdict": "failed"}),
    ]
    hand_made.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    (found,) = reports([hand_made])
    assert line(found.diagnosis(), "area, verdict, then information")[1:3] == ["", "0.75"]
    assert line(found.diagnosis(), "area, verdict, then information: sweep")[:3] == ["2", "", "0.50"]


def test_of_two_runs_with_the_same_verdict_the_one_that_changed_hardly_a_label_is_the_graver(hand_made):
    judged: dict[str, Any] = {"verdict": "doubtful", "signs": [], "label_shares": [0.5, 0.5], "information_nats": 0.5}
    rows = [
        row("topic", "zero-shot", 0, 0.9, **judged),
        row("topic", "sweep", 0, 0.9, **judged, changed_from_alone=0.03),
        row("messages", "zero-shot", 0, 0.5, **judged),
        row("messages", "sweep", 0, 0.9, **judged | {"information_nats": 0.2}, changed_from_alone=0.4),
    ]
    hand_made.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    (found,) = reports([hand_made])
    assert line(found.diagnosis(), "area, verdict, then information")[-1] == "0.00"
    assert line(found.diagnosis(), "area, verdict, little gain, information")[-1] == "1.00"


def test_with_uneven_shares_one_label_for_all_is_at_a_half_in_balanced_accuracy(hand_made):
    uneven: dict[str, Any] = {"share": 0.1, "true_shares": [0.9, 0.1]}
    rows = [
        row("messages", "sweep", 0, 0.9, balanced_accuracy=0.5, **uneven),
        row("messages", "sweep", 1, 0.9, **uneven),
    ]
    hand_made.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    (found,) = reports([hand_made])
    assert "**90 / 10**" in found.uneven()
    assert line(found.uneven(), "messages")[0] == "0.50"
    assert line(found.accuracy(0.1), "messages")[0].startswith("0.90")


def test_a_curve_rises_with_the_bad_runs_that_a_verdict_catches_before_the_good_ones():
    assert roc_curve([(2.0,), (1.0,), (0.0,)], [True, True, False]) == [(0, 0), (0, 0.5), (0, 1), (1, 1)]
    assert roc_curve([(1.0,), (1.0,)], [True, False]) == [(0, 0), (1, 1)]


def test_the_curves_of_the_diagnosis_are_drawn_and_the_same_each_time(hand_made, tmp_path):
    pytest.importorskip("matplotlib")
    judged: dict[str, Any] = {"verdict": "healthy", "signs": [], "label_shares": [0.5, 0.5]}
    rows = [row("messages", "sweep", seed, accuracy, **judged) for seed, accuracy in enumerate([0.9, 0.4])]
    hand_made.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    report([str(hand_made), "--roc", str(one)])
    draw_curves(reports([hand_made]), two)
    assert "clearly above chance: 0.50 (1 bad of 2)</text>" in one.read_text(encoding="utf-8")
    assert one.read_bytes() == two.read_bytes()
