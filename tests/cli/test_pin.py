"""Labels that a person gave (`--pin`), and labels that nobody gives (`--abstain-below`)."""

import csv
import json
import os
from pathlib import Path

import pytest

from icm_api.providers.synthetic import Synthetic

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")
METHODS = ["sweep", "anneal", "zero-shot", "random-few-shot", "bootstrap"]


def rows(folder="run"):
    return {row["id"]: row for row in map(json.loads, Path(folder, "labels.jsonl").read_text().splitlines())}


def opposite(label):
    return {"negative": "positive", "positive": "negative"}[label]


@pytest.fixture
def pinned(icm, reviews, write):
    """Two labels that the model would not give."""
    assert icm("run", reviews, *SETTINGS, "--run-dir", "free").code == 0
    wrong = {name: opposite(row["label"]) for name, row in list(rows("free").items())[:2]}
    write("pins.csv", "id,label,text\n" + "".join(f"{name},{label},\n" for name, label in wrong.items()) + "r5,,\n")
    return wrong


@pytest.mark.parametrize("method", METHODS)
def test_every_method_keeps_the_labels_that_a_person_gave(icm, reviews, pinned, method):
    done = icm("run", reviews, *SETTINGS, "--method", method, "--pin", "pins.csv", "--run-dir", "run", "--json")
    assert done.code == 0
    found = rows()
    assert {name: row["label"] for name, row in found.items() if row["pinned"]} == pinned
    assert (done.json["pinned"], done.json["labelled"], done.json["violations"]) == (2, 12, 0)
    assert all(found[name]["forced_by"] is None for name in pinned)


@pytest.mark.parametrize("method", ["sweep", "random-few-shot"])
def test_other_examples_see_a_pinned_label_and_no_other_in_its_place(icm, reviews, pinned, method, monkeypatch):
    shown = []
    real = Synthetic._sequence

    async def recording(self, request):
        shown.extend(request.prompt.demonstrations)
        return await real(self, request)

    monkeypatch.setattr(Synthetic, "_sequence", recording)
    arguments = ("--method", method, "--pin", "pins.csv", "--run-dir", "run", "--no-cache")
    assert icm("run", reviews, *SETTINGS, *arguments).code == 0
    for name, label in pinned.items():
        seen = {each for text, each in shown if f"review number {name[1:]}\n" in text}
        assert seen == {f" {label}"}


def test_the_accuracy_is_of_labels_that_were_found(icm, reviews, pinned):
    gold = ("--gold-column", "gold", "--json")
    free = icm("run", reviews, *SETTINGS, "--run-dir", "again", *gold).json
    held = icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--run-dir", "run", *gold)
    assert (free["accuracy_n"], held.json["accuracy_n"]) == (12, 10)
    assert "12 of 12 examples labelled, 2 of them pinned" in held.err


def test_all_problems_of_the_pins_are_told_before_anything_is_asked(icm, reviews, write):
    write("pins.jsonl", [{"id": "r1", "label": "maybe"}, {"id": "nobody", "label": "positive"}])
    done = icm("run", reviews, *SETTINGS, "--pin", "pins.jsonl", "--run-dir", "run")
    assert done.code == 2
    assert "pins.jsonl:1: unknown label 'maybe'; labels: negative, positive" in done.err
    assert "pins.jsonl:2: unknown id 'nobody'" in done.err
    assert not Path("run").exists()
    write("none.csv", "id,label\nr1,\n")
    none = icm("run", reviews, *SETTINGS, "--pin", "none.csv")
    assert (none.code, "no row has a label" in none.err) == (2, True)


def test_a_pin_that_contradicts_a_rule_is_named(icm, reviews, write):
    write("rules.jsonl", [{"kind": "asymmetric", "ids": ["r0", "r1"]}])
    write("pins.jsonl", [{"id": "r0", "label": "positive"}, {"id": "r1", "label": "positive"}])
    done = icm("run", reviews, *SETTINGS, "--relations", "rules.jsonl", "--pin", "pins.jsonl")
    assert done.code == 2
    assert "pinned(r0) from pins.jsonl" in done.err
    assert "asymmetric(r0, r1)" in done.err


def test_a_pin_decides_the_labels_that_rules_tie_to_it(icm, reviews, pinned, write):
    name = next(iter(pinned))
    write("rules.jsonl", [{"kind": "equivalent", "ids": [name, "r7", "r8"]}])
    arguments = ("--relations", "rules.jsonl", "--pin", "pins.csv", "--run-dir", "run")
    assert icm("run", reviews, *SETTINGS, *arguments).code == 0
    assert {rows()[other]["label"] for other in (name, "r7", "r8")} == {pinned[name]}


def test_a_run_goes_on_with_the_pins_that_it_began_with_and_says_that_their_file_has_changed(
    icm, reviews, pinned, write
):
    arguments = ("--method", "anneal", "--pin", "pins.csv", "--run-dir", "run")
    assert icm("run", reviews, *SETTINGS, *arguments, "--max-requests", "10").code == 3
    write("pins.csv", "id,label\nr3,positive\n")
    done = icm("resume", "run", "--max-requests", "500")
    assert done.code == 0
    assert "notice: pins.csv has changed since the run began" in done.err
    assert {name: row["label"] for name, row in rows().items() if row["pinned"]} == pinned


def test_a_run_that_goes_on_with_unchanged_pins_says_nothing_of_them(icm, reviews, pinned):
    arguments = ("--method", "anneal", "--pin", "pins.csv", "--run-dir", "run")
    assert icm("run", reviews, *SETTINGS, *arguments, "--max-requests", "10").code == 3
    done = icm("resume", "run", "--max-requests", "500")
    assert (done.code, "pins.csv" in done.err) == (0, False)


def test_a_copy_of_the_pins_that_was_changed_is_noticed(icm, reviews, pinned, write):
    assert icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--run-dir", "run").code == 0
    kept = Path("run/pins.jsonl").read_text()
    assert [json.loads(line) for line in kept.splitlines()] == [
        {"id": name, "label": label} for name, label in pinned.items()
    ]
    write("run/pins.jsonl", '{"id": "r3", "label": "positive"}\n')
    done = icm("export", "run", "--format", "jsonl", "--out", "a.jsonl")
    assert (done.code, "relations changed since the run began" in done.err) == (2, True)


def test_a_run_that_has_no_copy_of_its_pins_reads_their_file(icm, reviews, pinned, write):
    assert icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--run-dir", "run").code == 0
    Path("run/pins.jsonl").unlink()
    assert icm("export", "run", "--format", "jsonl", "--out", "a.jsonl").code == 0
    write("pins.csv", "id,label\nr3,positive\n")
    done = icm("export", "run", "--format", "jsonl", "--out", "a.jsonl")
    assert (done.code, "relations changed since the run began" in done.err) == (2, True)


def test_labels_of_a_person_are_never_where_a_run_writes_its_copy(icm, reviews, pinned, write):
    Path("run").mkdir()
    kept = write("run/pins.jsonl", [{"id": "r1", "label": "positive", "note": "mine"}])
    done = icm("run", reviews, *SETTINGS, "--pin", kept, "--run-dir", "run")
    assert (done.code, "name another file or folder" in done.err) == (2, True)
    assert "mine" in Path(kept).read_text()


def test_what_is_unsure_is_left_out_but_not_what_a_person_gave(icm, reviews, pinned):
    assert icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--run-dir", "run").code == 0
    assert all(rows()[name]["confidence"] < 0.5 for name in pinned)
    arguments = ("--format", "jsonl", "--out", "a.jsonl", "--min-confidence", "0.6", "--card", "--json")
    done = icm("export", "run", *arguments)
    sure = {name for name, row in rows().items() if row["confidence"] >= 0.6}
    written = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert {row["id"] for row in written} == sure | set(pinned)
    assert {row["id"]: row["label"] for row in written if row["icm_pinned"]} == pinned
    assert done.json["left_out"] == {"confidence too low": 12 - len(written)}
    card = Path("README.md").read_text()
    assert "No person has checked these labels" not in card
    assert "without human labels" not in card
    assert "with 2 labels that a person gave" in card
    assert "A person gave the labels of 2 examples (`icm_pinned`); no person has checked the others" in card
    assert "confidence at least 0.6 or given by a person" in card


def test_new_examples_are_shown_what_a_person_gave_as_the_surest(icm, reviews, pinned):
    from icm_api.run.load import load_run
    from icm_api.run.transfer import demonstrations

    assert icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--run-dir", "run").code == 0
    loaded = load_run(Path("run"), os.environ)
    places = {example.id: i for i, example in enumerate(loaded.job.examples)}
    labels = [row.label for row in loaded.rows]
    halves = {label: -(-labels.count(label) // 2) for label in set(labels)}
    shown = demonstrations(loaded, 2 * min(halves.values()))
    assert all(places[name] in shown for name, label in pinned.items() if halves[label] == min(halves.values()))


def test_the_answers_of_an_audit_can_be_pinned(icm, reviews, write):
    assert icm("run", reviews, *SETTINGS, "--run-dir", "first").code == 0
    icm("audit", "first", "--n", "4", "--csv", "sheet.csv")
    with Path("sheet.csv").open(newline="") as file:
        asked = [row["id"] for row in csv.DictReader(file)]
    write("sheet.csv", "id,label\n" + "".join(f"{name},positive\n" for name in asked))
    assert icm("audit", "first", "--answers", "sheet.csv").code == 0
    done = icm("run", reviews, *SETTINGS, "--pin", "first/answers.jsonl", "--run-dir", "run", "--json")
    assert (done.code, done.json["pinned"]) == (0, len(asked))
    more = next(name for name in rows() if name not in asked)
    write("more.csv", f"id,label\n{more},negative\n")
    assert icm("audit", "first", "--answers", "more.csv").code == 0
    assert more in Path("first/answers.jsonl").read_text()
    after = icm("export", "run", "--format", "jsonl", "--out", "a.jsonl")
    assert after.code == 0, after.err


def test_a_label_below_the_wanted_confidence_is_not_given(icm, reviews):
    assert icm("run", reviews, *SETTINGS, "--run-dir", "whole").code == 0
    confidences = sorted(row["confidence"] for row in rows("whole").values())
    least = (confidences[3] + confidences[4]) / 2
    done = icm(
        "run", reviews, *SETTINGS, "--abstain-below", str(least), "--run-dir", "run", "--gold-column", "gold", "--json"
    )
    assert (done.json["labelled"], done.json["abstained"], done.json["accuracy_n"]) == (8, 4, 8)
    assert "4 left unlabelled as too unsure" in done.err
    for name, row in rows().items():
        whole = rows("whole")[name]
        assert row["abstained"] == (whole["confidence"] < least)
        assert row["label"] == (None if row["abstained"] else whole["label"])
        assert row["logprobs"] == whole["logprobs"]


def test_a_pinned_label_is_given_however_unsure_the_model_is(icm, reviews, pinned):
    done = icm("run", reviews, *SETTINGS, "--pin", "pins.csv", "--abstain-below", "1", "--run-dir", "run", "--json")
    assert (done.json["labelled"], done.json["abstained"]) == (2, 10)


def test_labels_for_new_examples_can_be_withheld_too(icm, reviews, write):
    assert icm("run", reviews, *SETTINGS, "--run-dir", "run").code == 0
    write("new.jsonl", [{"id": f"n{i}", "text": f"new {i}"} for i in range(6)])
    done = icm("label", "new.jsonl", "--from", "run", "--abstain-below", "1", "--json")
    assert (done.code, done.json["labelled"]) == (0, 0)
