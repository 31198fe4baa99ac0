"""`icm-api eval`: a run's labels as demonstrations, on held-out examples."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from icm_api.providers.synthetic import Synthetic

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")
WEAK = ("--provider-option", "prior=0.2", "--provider-option", "bias=1.5")
"""Hardly knows what the labels mean before it sees some, and would rather say the last one."""


def rows(name, n):
    """With what the offline learner takes each text for as gold."""
    from icm_api.tasks.toml_task import load_task

    task, learner = load_task("classify", labels=("negative", "positive")), Synthetic()
    for i in range(n):
        text = f"{name} {i}"
        gold = learner.truth(task.template.render({"text": text}).rstrip(), 2)
        yield {"id": f"{name}-{i}", "text": text, "gold": ("negative", "positive")[gold]}


@pytest.fixture
def run(icm, write):
    write("old.jsonl", list(rows("old", 60)))
    write("test.jsonl", list(rows("test", 80)))
    arguments = ("--gold-column", "gold", "--run-dir", "run", *WEAK)
    assert icm("run", "old.jsonl", *SETTINGS, *arguments).code == 0
    return "run"


def bars(found):
    return {bar["condition"]: bar["accuracy"] for bar in found["bars"]}


def test_four_conditions_are_asked_the_same_held_out_questions(icm, run):
    done = icm("eval", "run", "--test", "test.jsonl", "--demonstrations", "40", "--json")
    assert done.code == 0
    found = done.json
    assert (found["test"], found["demonstrations"]) == (80, 40)
    assert found["requests"] + found["cache_hits"] == 320
    assert list(bars(found)) == ["zero-shot", "random labels", "run's labels", "gold labels"]
    for bar in found["bars"]:
        assert bar["low"] < bar["accuracy"] < bar["high"] or bar["accuracy"] == 1
    assert "plan: 320 requests" in done.err
    assert json.loads(Path("run/eval.json").read_text())["bars"] == found["bars"]


def test_the_run_s_labels_serve_as_gold_ones_do_and_better_than_random_ones(icm, run):
    found = icm("eval", "run", "--test", "test.jsonl", "--json").json
    accuracy = bars(found)
    assert accuracy["run's labels"] > accuracy["random labels"] + 0.1
    differences = {each["against"]: each for each in found["differences"]}
    assert not differences["random labels"]["within_noise"]
    assert differences["gold labels"]["within_noise"]
    for each in differences.values():
        assert each["difference"] == pytest.approx((each["gained"] - each["lost"]) / 80)


def test_the_terminal_shows_a_table_and_says_what_is_noise(icm, run):
    done = icm("eval", "run", "--test", "test.jsonl", "--n", "20", "--out", "figures", "--demonstrations", "40")
    assert done.code == 0
    assert "20 held-out examples, 40 demonstrations" in done.out
    assert "run's labels against zero-shot" in done.out
    assert "noise" in done.out
    assert not Path("run/eval.json").exists()
    drawn = ElementTree.parse("figures/eval.svg").getroot()
    bars = [each for each in drawn.iter() if each.tag.endswith("rect") and each.find("{*}title") is not None]
    assert len(bars) == 4


def test_a_test_text_that_the_run_has_seen_is_refused_by_its_line(icm, write, run):
    write("test.jsonl", [*rows("test", 3), {"id": "x", "text": "OLD  7", "gold": "positive"}])
    done = icm("eval", "run", "--test", "test.jsonl")
    assert done.code == 2
    assert "test.jsonl:4: the text of 'x' stands in the run's data too (old.jsonl:8)" in done.err


def test_without_gold_in_the_run_s_data_that_bar_is_left_out_and_said(icm, write, run):
    assert icm("run", "old.jsonl", *SETTINGS, *WEAK, "--run-dir", "blind").code == 0
    done = icm("eval", "blind", "--test", "test.jsonl", "--gold-column", "gold")
    assert done.code == 0
    assert "the run's data have no gold labels" in done.out
    assert "plan: 240 requests" in done.err


def test_rows_without_gold_are_left_out_and_counted(icm, write, run):
    some = list(rows("test", 10))
    write("test.jsonl", [row | {"gold": None} if k < 4 else row for k, row in enumerate(some)])
    found = icm("eval", "run", "--test", "test.jsonl", "--json").json
    assert (found["test"], found["without_gold"]) == (6, 4)
    write("test.jsonl", [row | {"gold": None} for row in some])
    none = icm("eval", "run", "--test", "test.jsonl")
    assert (none.code, "no row has a gold label" in none.err) == (2, True)


def test_labels_made_with_gold_are_not_compared_with_gold(icm, run):
    arguments = ("--method", "gold-few-shot", "--gold-column", "gold", "--run-dir", "ceiling")
    assert icm("run", "old.jsonl", *SETTINGS, *arguments).code == 0
    done = icm("eval", "ceiling", "--test", "test.jsonl")
    assert (done.code, "made with gold labels" in done.err) == (2, True)


def test_all_conditions_show_the_same_examples_in_the_same_order(icm, run, monkeypatch):
    asked: dict[str, list[tuple[tuple[str, str], ...]]] = {}
    real = Synthetic._next_token

    async def recording(self, request):
        asked.setdefault(request.prompt.query, []).append(request.prompt.demonstrations)
        return await real(self, request)

    monkeypatch.setattr(Synthetic, "_next_token", recording)
    assert icm("eval", "run", "--test", "test.jsonl", "--n", "5", "--demonstrations", "12", "--no-cache").code == 0
    assert len(asked) == 5
    for shown in asked.values():
        bare, *few = sorted(shown, key=len)
        assert bare == ()
        assert [len(each) for each in few] == [12] * 3
        assert len({tuple(text for text, _ in each) for each in few}) == 1


def test_not_even_when_the_run_was_killed_before_its_summary(icm, run):
    arguments = ("--method", "gold-few-shot", "--gold-column", "gold", "--run-dir", "ceiling")
    assert icm("run", "old.jsonl", *SETTINGS, *arguments).code == 0
    Path("ceiling/summary.json").unlink()
    done = icm("eval", "ceiling", "--test", "test.jsonl")
    assert (done.code, "made with gold labels" in done.err) == (2, True)
