"""`icm-api export`: every format is read by the code that it is for."""

import json
from pathlib import Path
from typing import Any

import pytest

from icm_api.data.exports import FORMATS

CLASSIFY = ("--task", "classify", "--labels", "negative,positive", "--provider", "synthetic", "--display", "none")
PREFERENCE = ("--task", "preference", "--provider", "synthetic", "--display", "none")


@pytest.fixture
def run(icm, write) -> str:
    """A finished run over twelve pairs of responses, each in both orders, with gold labels."""
    rows = [
        {"id": f"p{i}{side}", "prompt": f"Question {i}?", "response_a": a, "response_b": b, "gold": side == "a"}
        for i in range(12)
        for side, a, b in (("a", f"=good {i}", f"bad {i}"), ("b", f"bad {i}", f"=good {i}"))
    ]
    data = write("pairs.jsonl", rows)
    assert icm("run", data, *PREFERENCE, "--restarts", "1", "--gold-column", "gold", "--run-dir", "run").code == 0
    return "run"


def records(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def labels_of(run: str) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in records(f"{run}/labels.jsonl")}


def export(icm, run: str, name: str, *more: str) -> str:
    """The file that was written."""
    out = f"out/{name}/data{FORMATS[name].suffix}"
    done = icm("export", run, "--format", name, "--out", out, *more)
    assert (done.code, "wrote " in done.err) == (0, True), done.err
    return out


# --- read by those it is for --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chat", "preference", "trl-prompt-completion", "jsonl"])
def test_together_s_own_check_passes(icm, run, name):
    from together.lib.utils.files import check_file

    report = check_file(export(icm, run, name), purpose="fine-tune")
    assert (report["is_check_passed"], report["num_samples"]) == (True, 12 if name == "preference" else 24)


@pytest.mark.parametrize("name", ["chat", "preference"])
def test_together_knows_the_columns_as_one_of_its_formats_and_no_other(icm, run, name):
    from together.lib.constants import JSONL_REQUIRED_COLUMNS_MAP

    shapes = [set(columns) for columns in JSONL_REQUIRED_COLUMNS_MAP.values()]
    assert all(set(record) in shapes for record in records(export(icm, run, name)))


def test_messages_are_those_that_openai_takes(icm, run):
    from openai.types.chat import ChatCompletionAssistantMessageParam, ChatCompletionMessageParam
    from pydantic import TypeAdapter

    asked = TypeAdapter(list[ChatCompletionMessageParam])
    answered = TypeAdapter(list[ChatCompletionAssistantMessageParam])
    for record in records(export(icm, run, "chat")):
        asked.validate_python(record["messages"])
        answered.validate_python(record["messages"][-1:])
    for record in records(export(icm, run, "preference")):
        asked.validate_python(record["input"]["messages"])
        answered.validate_python(record["preferred_output"])
        answered.validate_python(record["non_preferred_output"])


def test_a_parquet_file_holds_what_the_jsonl_file_holds(icm, run):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert parquet.read_table(export(icm, run, "parquet")).to_pylist() == records(export(icm, run, "jsonl"))


def test_a_csv_file_is_data_for_this_program_again(icm, run):
    from icm_api.data.readers import read_rows

    rows = [row.values for row in read_rows(export(icm, run, "csv"))]
    assert [row["id"] for row in rows] == list(labels_of(run))
    assert all(str(row["response_a"]).startswith(("'=good", "bad")) for row in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_datasets_loads_the_folder_by_its_card(icm, run, name, tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs 'icm-api[hf]'")
    path = export(icm, run, name, "--card", "--validation", "0.25")
    found = datasets.load_dataset(str(Path(path).parent), cache_dir=str(tmp_path / "hf"))
    pairs = 1 if name in ("preference", "trl-preference") else 2
    assert {split: part.num_rows for split, part in found.items()} == {"train": 9 * pairs, "validation": 3 * pairs}


def test_trl_takes_each_of_its_formats_for_what_it_is(icm, run):
    utils = pytest.importorskip("trl.data_utils", reason="needs trl, and that needs torch")
    for name in (name for name in FORMATS if name.startswith("trl-")):
        for record in records(export(icm, run, name)):
            assert utils.is_conversational(record) == (name != "trl-prompt-completion")
    unpaired = records(export(icm, run, "trl-unpaired-preference"))
    datasets = pytest.importorskip("datasets")
    pairs = datasets.Dataset.from_list(records(export(icm, run, "trl-preference")))
    taken_apart = utils.unpair_preference_dataset(pairs.select_columns(["prompt", "chosen", "rejected"]))
    known = ("prompt", "completion", "label")
    assert sorted(json.dumps([row[k] for k in known]) for row in taken_apart) == sorted(
        json.dumps([row[k] for k in known]) for row in unpaired
    )


def test_label_studio_s_own_check_passes(icm, run):
    interface = pytest.importorskip("label_studio_sdk.label_interface", reason="needs label-studio-sdk")
    out = "out/review.json"
    done = icm("export", run, "--format", "label-studio", "--out", out)
    config = done.err.split("labelling interface for Label Studio: ")[1].splitlines()[0]
    checker = interface.LabelInterface(config)
    for task in json.loads(Path(out).read_text()):
        assert checker.validate_task({"data": task["data"]})
        assert checker.validate_prediction(task["predictions"][0])


def test_predictions_are_as_label_studio_documents_them(icm, run):
    """labelstud.io/guide/predictions: `data`, and `predictions` of `model_version`, `score` and `result`."""
    tasks = json.loads(Path(export(icm, run, "label-studio")).read_text())
    labels = labels_of(run)
    assert len(tasks) == 24
    for task in tasks:
        (prediction,) = task["predictions"]
        (region,) = prediction["result"]
        assert set(task) == {"data", "predictions"}
        assert set(prediction) == {"model_version", "score", "result"}
        assert (region["from_name"], region["to_name"], region["type"]) == ("label", "text", "choices")
        assert region["value"] == {"choices": [labels[task["data"]["id"]]["label"]]}
        assert prediction["score"] == labels[task["data"]["id"]]["confidence"]


# --- what is chosen -----------------------------------------------------------------------------------------------


def test_what_is_left_out_is_counted_by_its_reason(icm, run):
    confident = [id for id, row in labels_of(run).items() if row["confidence"] >= 0.7]
    assert 0 < len(confident) < 24
    done = icm("export", run, "--format", "jsonl", "--out", "a.jsonl", "--min-confidence", "0.7", "--json")
    assert [record["id"] for record in records("a.jsonl")] == confident
    assert (done.json["examples"], done.json["left_out"]) == (
        len(confident),
        {"confidence too low": 24 - len(confident)},
    )
    assert f"left out: {24 - len(confident)} confidence too low" in done.err


def test_without_tension_whole_components_stay_away(icm, run):
    forced = {id[:-1] for id, row in labels_of(run).items() if row["forced_by"] is not None}
    assert 0 < len(forced) < 12
    done = icm("export", run, "--format", "jsonl", "--out", "a.jsonl", "--without-tension", "--json")
    kept = {record["id"][:-1] for record in records("a.jsonl")}
    assert kept.isdisjoint(forced)
    assert (len(kept), done.json["left_out"]) == (12 - len(forced), {"tension with a rule": 2 * len(forced)})


def test_validation_shares_no_group_and_no_text_with_training(icm, write):
    rows = [{"id": f"r{i}", "text": f"review {i // 2}", "author": f"w{i % 5}" if i < 20 else None} for i in range(40)]
    data = write("reviews.jsonl", rows)
    assert icm("run", data, *CLASSIFY, "--group-column", "author", "--run-dir", "run").code == 0
    done = icm("export", "run", "--format", "jsonl", "--out", "a.jsonl", "--validation", "0.2", "--json")
    assert done.json["records"] == {"train": 32, "validation": 8}
    sides = [{row["text"] for row in records(name)} for name in ("a.jsonl", "a.validation.jsonl")]
    assert sides[0].isdisjoint(sides[1])
    again = icm("export", "run", "--format", "jsonl", "--out", "b.jsonl", "--validation", "0.2")
    assert (again.code, Path("a.jsonl").read_bytes()) == (0, Path("b.jsonl").read_bytes())


def test_gold_is_a_column_of_its_own_and_only_when_asked_for(icm, run):
    assert "gold" not in Path(export(icm, run, "jsonl")).read_text()
    rows = records(export(icm, run, "jsonl", "--with-gold"))
    assert {row["id"]: row["icm_gold"] for row in rows} == {
        f"p{i}{side}": gold for i in range(12) for side, gold in (("a", "True"), ("b", "False"))
    }
    beside = records(Path(export(icm, run, "chat", "--with-gold")).with_name("data.provenance.jsonl"))
    assert all("icm_gold" in row for row in beside)


def test_a_run_cut_short_gives_its_labels_so_far_and_says_so(icm, reviews):
    assert icm("run", reviews, *CLASSIFY, "--method", "anneal", "--run-dir", "run", "--max-requests", "12").code == 3
    labelled = sum(row["label"] is not None for row in labels_of("run").values())
    assert 0 < labelled < 12
    done = icm("export", "run", "--format", "csv", "--out", "a.csv", "--card", "--json")
    assert (done.json["examples"], done.json["left_out"]) == (labelled, {"not labelled": 12 - labelled})
    assert "the run is not finished (stopped)" in done.err
    assert "the run is not finished (stopped)" in Path("README.md").read_text()


def test_labels_made_with_gold_are_called_so(icm, reviews):
    arguments = ("--method", "gold-few-shot", "--gold-column", "gold", "--run-dir", "run")
    assert icm("run", reviews, *CLASSIFY, *arguments).code == 0
    assert "these labels were made with gold labels" in icm("export", "run", "--format", "chat", "--out", "a.jsonl").err


# --- the card -----------------------------------------------------------------------------------------------------


def test_a_card_tells_how_the_labels_came_about(icm, run):
    export(icm, run, "trl-preference", "--card", "--validation", "0.25", "--min-confidence", "0.3")
    card = Path("out/trl-preference/README.md").read_text()
    summary = json.loads(Path("run/summary.json").read_text())
    for part in (
        'path: "data.jsonl"',
        'path: "data.validation.jsonl"',
        f"run | {summary['run_id']}",
        f"| accuracy | {summary['accuracy']:.3f} (",
        f"| utility | {summary['utility']:.2f}",
        "| filters | confidence at least 0.3; 0.25 set apart for validation by groups (seed 0) |",
        "same pair again",
        "No person has checked these labels",
    ):
        assert part in card


def test_only_a_card_is_replaced_by_a_card(icm, run):
    arguments = ("export", run, "--format", "jsonl", "--out", "a.jsonl", "--card")
    assert (icm(*arguments).code, icm(*arguments).code) == (0, 0)
    Path("README.md").write_text("mine")
    done = icm(*arguments)
    assert (done.code, Path("README.md").read_text()) == (2, "mine")
    assert "is no card of this program" in done.err


# --- what an earlier export left ----------------------------------------------------------------------------------


def test_an_older_validation_file_never_stays_beside_training_data_that_hold_its_rows(icm, run):
    arguments = ("export", run, "--format", "chat", "--out", "a.jsonl")
    assert icm(*arguments, "--validation", "0.25").code == 0
    before = {path.name: path.read_bytes() for path in Path().glob("a.*")}
    assert len(before) == 4
    done = icm(*arguments)
    assert (done.code, "a.validation.jsonl and a.validation.provenance.jsonl would be taken" in done.err) == (2, True)
    assert {path.name: path.read_bytes() for path in Path().glob("a.*")} == before
    assert icm(*arguments, "--validation", "0.5").code == 0
    for path in Path().glob("a.validation.*"):
        path.unlink()
    assert icm(*arguments).code == 0


def test_older_sources_never_stay_beside_other_records(icm, run):
    assert icm("export", run, "--format", "chat", "--out", "a.jsonl").code == 0
    done = icm("export", run, "--format", "jsonl", "--out", "a.jsonl")
    assert (done.code, "a.provenance.jsonl would be taken for part of this export" in done.err) == (2, True)


# --- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "jsonl", "--out", "a.csv"), "a file of format jsonl ends in .jsonl, not 'a.csv'"),
        (("--format", "jsonl", "--out", "pairs.jsonl"), "pairs.jsonl is a file of the run or of its data"),
        (("--format", "jsonl", "--out", "run/labels.jsonl"), "is a file of the run"),
        (("--format", "jsonl", "--out", "a.jsonl", "--min-confidence", "2"), "--min-confidence: 2 is no share"),
        (("--format", "jsonl", "--out", "a.jsonl", "--min-confidence", "nan"), "--min-confidence: nan is no share"),
        (("--format", "jsonl", "--out", "a.jsonl", "--validation", "1"), "--validation: 1 is no share"),
        (("--format", "jsonl", "--out", "a.jsonl", "--min-confidence", "1"), "nothing is left to export"),
        (("--format", "jsonl", "--out", "a.jsonl", "--validation", "0.01"), "take a larger share"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(icm, run, arguments, message):
    before = sorted(Path().rglob("*"))
    done = icm("export", run, *arguments)
    assert (done.code, message in done.err) == (2, True), done.err
    assert sorted(Path().rglob("*")) == before


def test_a_preference_file_of_another_task_is_refused_with_what_it_needs(icm, reviews):
    assert icm("run", reviews, *CLASSIFY, "--run-dir", "run").code == 0
    done = icm("export", "run", "--format", "preference", "--out", "a.jsonl")
    assert (done.code, "whose fields are prompt, response_a, response_b" in done.err) == (2, True)
    assert (
        "--with-gold: the run has no gold column"
        in icm("export", "run", "--format", "chat", "--out", "a.jsonl", "--with-gold").err
    )
