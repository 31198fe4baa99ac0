"""`icm-api label`: new examples with a finished run as context."""

import json
import os
from pathlib import Path

import pytest

from icm_api.providers.synthetic import Synthetic

SETTINGS = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic")
NEW = [{"id": f"n{i}", "text": f"a new review {i}"} for i in range(40)]


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def truth(row):
    """What the offline learner takes the text for, as the prompt shows it."""
    return ("negative", "positive")[Synthetic().truth(row, 2)]


@pytest.fixture
def run(icm, write):
    """A finished run over sixty examples."""
    rows = [{"id": f"r{i}", "text": f"review number {i}", "group": str(i // 2)} for i in range(60)]
    write("old.jsonl", rows)
    assert icm("run", "old.jsonl", *SETTINGS, "--group-column", "group", "--run-dir", "run", "--seed", "1").code == 0
    return "run"


def label(icm, *arguments):
    return icm("label", "new.jsonl", "--from", "run", "--json", "--no-groups", *arguments)


def test_each_new_example_gets_a_row_like_those_of_a_run_for_one_request(icm, write, run):
    write("new.jsonl", NEW)
    done = label(icm)
    assert (done.code, done.json["requests"], done.json["labelled"]) == (0, 40, 40)
    assert "plan: 40 requests" in done.err
    rows = read("new.labels.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in NEW]
    assert set(rows[0]) == set(read("run/labels.jsonl")[0])
    assert all(0.5 <= row["confidence"] <= 1 for row in rows)


def test_the_labels_are_those_of_the_run_s_concept(icm, write, run):
    from icm_api.run.load import load_run

    write("new.jsonl", NEW)
    label(icm)
    task = load_run(Path("run"), os.environ).job.task
    right = 0
    for row, found in zip(NEW, read("new.labels.jsonl"), strict=True):
        text = task.template.render({"text": row["text"]}).rstrip()
        right += truth(text) == found["label"]
    assert right >= 34


def test_the_run_s_folder_stays_as_it_is(icm, write, run):
    before = {path.name: path.read_bytes() for path in Path("run").iterdir()}
    write("new.jsonl", NEW)
    assert label(icm).code == 0
    assert {path.name: path.read_bytes() for path in Path("run").iterdir()} == before
    refused = label(icm, "--out", "run/labels.jsonl")
    assert (refused.code, "holds the run's own labels" in refused.err) == (2, True)


def test_the_same_command_again_asks_nothing_and_says_the_same(icm, write, run):
    write("new.jsonl", NEW)
    label(icm)
    first = Path("new.labels.jsonl").read_bytes()
    again = label(icm)
    assert (again.json["requests"], again.json["cache_hits"]) == (0, 40)
    assert Path("new.labels.jsonl").read_bytes() == first


def test_a_few_examples_keep_the_model_s_own_answers_and_that_is_said(icm, write, run):
    write("new.jsonl", NEW[:3])
    few = label(icm)
    assert (few.json["shares"], few.json["labelled"]) == (None, 3)
    assert "3 new examples are too few" in few.err
    prior = label(icm, "--class-prior", "positive=0.9")
    assert prior.json["shares"]["positive"] == pytest.approx(0.9)


def test_a_limit_keeps_what_was_labelled_so_far(icm, write, run):
    write("new.jsonl", [{"id": f"n{i}", "text": f"a new review {i}"} for i in range(80)])
    done = label(icm, "--max-requests", "70", "--concurrency", "1")
    assert (done.code, done.json["labelled"]) == (3, 64)
    assert [row["label"] for row in read("new.labels.jsonl")[64:]] == [None] * 16
    assert "stopped before passing max_requests = 70" in done.err
    assert "the labels found so far are in new.labels.jsonl" in done.err
    rest = label(icm)
    assert (rest.json["labelled"], rest.json["requests"]) == (80, 10)


def test_an_example_is_not_shown_labels_of_its_own_group(icm, write, run, monkeypatch):
    asked = []
    real = Synthetic._next_token

    async def recording(self, request):
        asked.append(request.prompt)
        return await real(self, request)

    monkeypatch.setattr(Synthetic, "_next_token", recording)
    write("new.jsonl", [{"id": f"n{i}", "text": f"a new review {i}", "group": str(i)} for i in range(30)])
    assert icm("label", "new.jsonl", "--from", "run", "--demonstrations", "16").code == 0
    groups = {f"review number {i}": i // 2 for i in range(60)}
    sizes = set()
    for prompt in asked:
        own = int(prompt.query.split("a new review ")[1].split()[0])
        shown = [group for text, _ in prompt.demonstrations for name, group in groups.items() if f"{name}\n" in text]
        sizes.add(len(prompt.demonstrations))
        assert len(shown) == len(prompt.demonstrations)
        assert own not in shown
    assert 16 in sizes > {16}, "only the siblings are left out"


def test_demonstrations_are_as_many_of_each_label(icm, write, run, monkeypatch):
    asked = []
    real = Synthetic._next_token

    async def recording(self, request):
        asked.append([label for _, label in request.prompt.demonstrations])
        return await real(self, request)

    monkeypatch.setattr(Synthetic, "_next_token", recording)
    write("new.jsonl", NEW)
    assert label(icm, "--demonstrations", "16").json["demonstrations"] == 16
    assert all(labels.count(" positive") == labels.count(" negative") == 8 for labels in asked)


def test_a_rule_binds_new_examples_to_the_run_s_labels(icm, write):
    """Of two answers to one question one at most is right, also when the other was labelled in the run."""
    answers = [{"id": f"q{i}", "question": f"question {i}", "claim": f"answer {i}", "key": "a"} for i in range(24)]
    write("old.jsonl", answers)
    settings = ("--task", "truthfulqa", "--key-column", "key", "--provider", "synthetic", "--run-dir", "run")
    assert icm("run", "old.jsonl", *settings).code == 0
    write("new.jsonl", [{**row, "claim": f"another {row['claim']}", "key": "b"} for row in answers])
    assert icm("label", "new.jsonl", "--from", "run").code == 0
    pairs = list(zip(read("run/labels.jsonl"), read("new.labels.jsonl"), strict=True))
    assert {row["label"] for row, _ in pairs} == {"True", "False"}
    assert not any(old["label"] == new["label"] == "True" for old, new in pairs)
    forced = [new["forced_by"] for _, new in pairs if new["forced_by"]]
    assert forced
    assert all(reason.startswith("at_most_one(run:q") for reason in forced)


def test_a_missing_column_is_named(icm, write, run):
    write("new.jsonl", NEW)
    done = icm("label", "new.jsonl", "--from", "run")
    assert (done.code, "no column 'group'" in done.err) == (2, True)


def test_another_provider_is_asked_with_its_own_settings(icm, write, run):
    write("new.jsonl", NEW)
    votes = label(icm, "--provider-option", "choices=votes", "--votes", "2")
    assert (votes.code, votes.json["requests"]) == (0, 80)
    assert {row["kind"] for row in read("new.labels.jsonl")} == {"sampled"}


def test_a_run_that_is_not_there_is_named(icm, write):
    write("new.jsonl", NEW)
    done = label(icm)
    assert (done.code, "run: no run is kept there" in done.err) == (2, True)


def test_the_shares_are_those_of_all_that_the_run_found_also_where_it_abstained(icm, write, run):
    write("new.jsonl", NEW)
    assert icm("run", "old.jsonl", *SETTINGS, "--run-dir", "sure", "--seed", "1", "--abstain-below", "0.999").code == 0
    found = [max(row["logprobs"], key=row["logprobs"].get) for row in read("sure/labels.jsonl")]
    given = [row["label"] for row in read("sure/labels.jsonl") if row["label"]]
    assert given.count("positive") / len(given) != found.count("positive") / len(found)
    done = icm("label", "new.jsonl", "--from", "sure", "--json")
    assert done.json["shares"]["positive"] == pytest.approx(found.count("positive") / len(found))
    assert done.json["abstained"] == 40 - done.json["labelled"] > 0
    assert f"{done.json['abstained']} left unlabelled as too unsure" in done.err


def test_new_examples_are_asked_alone_where_the_run_s_were(icm, write, run):
    summary = Path("run/summary.json")
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"asked_alone": True}))
    write("new.jsonl", NEW)
    done = label(icm)
    assert (done.code, done.json["demonstrations"], done.json["labelled"]) == (0, 0, 40)
