import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest

from icm_api.data.card import MARK, CardFacts, card_text
from icm_api.data.exports import (
    FORMATS,
    Labelled,
    Shape,
    check_shape,
    csv_text,
    distinct,
    export,
    label_studio_config,
    safe_cell,
)
from icm_api.data.tables import write_parquet
from icm_api.errors import ConfigError
from icm_api.types import Json

PROVENANCE: dict[str, Json] = {"id": "a", "icm_confidence": 0.9, "icm_run": "r1", "icm_model": "m", "icm_gold": "False"}
REVIEWS = Shape("classify", ("text",), ("negative", "positive"))
PAIRS = Shape("preference", ("prompt", "response_a", "response_b"), ("False", "True"), "prompt")
ANSWERS = Shape("gsm8k", ("question", "solution"), ("False", "True"), "question")
REVIEW = Labelled("a", {"text": "fine"}, "Text: fine\nLabel:", "positive", " positive", True, 0.9, None, PROVENANCE)


def pair(a: str, b: str, *, holds: bool, prompt: str = "Why?") -> Labelled:
    fields = {"prompt": prompt, "response_a": a, "response_b": b}
    name = str(holds)
    return Labelled("a", fields, "...", name, f" {name}", holds, 0.9, None, PROVENANCE)


def without_provenance(name: str, shape: Shape, item: Labelled) -> list[dict[str, object]]:
    found = export(name, shape, [item]).records
    return [{key: value for key, value in record.items() if key not in PROVENANCE} for record in found]


@pytest.mark.parametrize("name", ["jsonl", "csv", "parquet"])
def test_a_table_has_the_fields_the_label_and_where_it_comes_from(name):
    (record,) = export(name, REVIEWS, [REVIEW]).records
    assert record == {"text": "fine", "label": "positive", **PROVENANCE}
    assert list(record)[:3] == ["id", "text", "label"]


def test_a_field_never_takes_the_place_of_another_column():
    item = replace(REVIEW, fields={"label": "a text", "id": "another", "field_id": "third", "icm_run": "fourth"})
    (record,) = export("jsonl", REVIEWS, [item]).records
    assert (record["label"], record["id"], record["icm_run"]) == ("positive", "a", "r1")
    assert (record["field_label"], record["field_icm_run"]) == ("a text", "fourth")
    assert (record["field_field_id"], record["field_id"]) == ("another", "third")


def test_supervised_records_ask_what_the_model_was_asked():
    assert without_provenance("trl-prompt-completion", REVIEWS, REVIEW) == [
        {"prompt": "Text: fine\nLabel:", "completion": " positive"}
    ]
    user, assistant = (
        {"role": "user", "content": "Text: fine\nLabel:"},
        {"role": "assistant", "content": "positive"},
    )
    assert without_provenance("trl-conversational", REVIEWS, REVIEW) == [{"prompt": [user], "completion": [assistant]}]
    assert export("chat", REVIEWS, [REVIEW]).records == ({"messages": [user, assistant]},)


@pytest.mark.parametrize("holds", [True, False])
def test_the_better_response_is_the_one_that_the_label_names(holds):
    item = pair("one", "two", holds=holds)
    best, other = ("one", "two") if holds else ("two", "one")
    (record,) = without_provenance("trl-preference", PAIRS, item)
    assert record["chosen"] == [{"role": "assistant", "content": best}]
    assert record["rejected"] == [{"role": "assistant", "content": other}]
    (record,) = without_provenance("preference", PAIRS, item)
    assert record == {
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [{"role": "assistant", "content": best}],
        "non_preferred_output": [{"role": "assistant", "content": other}],
    }
    judged = without_provenance("trl-unpaired-preference", PAIRS, item)
    assert {(r["completion"][0]["content"], r["label"]) for r in judged} == {(best, True), (other, False)}  # type: ignore[index]


def test_an_answer_to_a_question_is_good_where_its_label_holds():
    fields = {"question": "1+1?", "solution": "2"}
    item = replace(REVIEW, fields=fields, exchange=("1+1?", "2"), holds=False)
    (record,) = without_provenance("trl-unpaired-preference", ANSWERS, item)
    assert record == {
        "prompt": [{"role": "user", "content": "1+1?"}],
        "completion": [{"role": "assistant", "content": "2"}],
        "label": False,
    }


def test_both_orders_of_a_pair_are_one_preference():
    items = [pair("one", "two", holds=True), pair("two", "one", holds=False), pair("one", "two", holds=True)]
    kept, left_out = distinct("preference", PAIRS, items)
    assert (kept, left_out) == (items[:1], {"same pair again": 2})
    assert distinct("chat", PAIRS, items) == (items, {})


def test_pairs_that_say_nothing_are_left_out_and_counted():
    contradicted = [pair("one", "two", holds=True), pair("two", "one", holds=True)]
    useless = [pair("same", "same", holds=True), pair("one", " ", holds=True, prompt="And?")]
    kept, left_out = distinct("trl-preference", PAIRS, [*contradicted, *useless])
    assert (kept, left_out) == ([], {"contradicted": 2, "nothing to prefer": 2})


@pytest.mark.parametrize("name", ["preference", "trl-preference", "trl-unpaired-preference"])
def test_a_format_names_what_it_needs_of_a_task(name):
    with pytest.raises(ConfigError) as error:
        check_shape(name, REVIEWS)
    assert "whose fields are prompt, response_a, response_b" in str(error.value)
    assert "task classify has the fields text" in str(error.value)


def test_a_misspelt_format_is_refused_with_the_one_that_was_meant():
    with pytest.raises(ConfigError, match="Did you mean 'parquet'"):
        check_shape("parket", REVIEWS)


@pytest.mark.parametrize("name", FORMATS)
def test_gold_is_never_something_to_learn(name):
    shape, item = (PAIRS, pair("one", "two", holds=True)) if FORMATS[name].of_preferences else (REVIEWS, REVIEW)
    item = replace(item, provenance={**PROVENANCE, "icm_gold": "THE GOLD"})
    for record in export(name, shape, [item]).records:
        kept: dict[str, Any] = dict(record)
        if name == "label-studio":
            kept = {**record["data"], "predictions": record["predictions"]}  # type: ignore[dict-item]
        kept.pop("icm_gold", None)
        assert "THE GOLD" not in json.dumps(kept)


@pytest.mark.parametrize("name", ["chat", "preference"])
def test_files_for_hosts_have_no_column_too_many_and_their_provenance_beside_them(name):
    items = [pair("one", "two", holds=True), pair("one", "three", holds=False)]
    found = export(name, PAIRS, items)
    assert found.provenance == (PROVENANCE, PROVENANCE)
    assert not any("icm_" in key or key == "id" for record in found.records for key in record)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_a_cell_that_a_spreadsheet_would_run_is_made_safe(start):
    records: list[dict[str, Json]] = [
        {"text": f"{start}cmd|' /C calc'!A0", "n": -1.5},
        {"text": "plain = text", "n": 2},
    ]
    text, made_safe = csv_text(records)
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert rows[0]["text"] == f"'{start}cmd|' /C calc'!A0"
    assert (rows[0]["n"], rows[1]["text"], made_safe) == ("-1.5", "plain = text", 1)


def test_numbers_and_nothing_are_no_formulas():
    assert [safe_cell(value) for value in (-1, None, True, "")] == [-1, None, True, ""]


def test_a_label_cannot_break_out_of_the_labelling_interface():
    shape = replace(REVIEWS, labels=('"/><Text value="$x', "a&b"))
    assert '<Choice value="&quot;/&gt;&lt;Text value=&quot;$x"/><Choice value="a&amp;b"/>' in label_studio_config(shape)


def test_a_parquet_file_keeps_types_and_leaves_nothing_half_written(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "new" / "labels.parquet"
    write_parquet(path, [{"text": "é", "icm_confidence": 0.5}])
    table = parquet.read_table(path)
    assert table.to_pylist() == [{"text": "é", "icm_confidence": 0.5}]
    assert [str(kind) for kind in table.schema.types] == ["string", "double"]
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ConfigError, match="cannot be written"):
        write_parquet(tmp_path / "folder.parquet", [{"text": "x"}])
    assert {entry.name for entry in tmp_path.iterdir()} == {"new", "folder.parquet"}


# --- the card -----------------------------------------------------------------------------------------------------

CARD = CardFacts(
    title='labels of "x": <script>.jsonl',
    splits={"train": "a.jsonl", "validation": "b: c.jsonl"},
    records={"train": 1200, "validation": 1},
    facts={"method": "a|b", "accuracy": "not known"},
    left_out={"not labelled": 3},
    warnings=["first line\nsecond <b>line</b>"],
)


def test_a_card_says_what_was_left_out_and_warns():
    text = card_text(CARD)
    assert "size_categories:\n  - 1K<n<10K" in text
    assert 'path: "b: c.jsonl"' in text
    for part in (
        MARK,
        "- 3 examples: not labelled",
        "- first line second &lt;b>line",
        "| method | a\\|b |",
        "## Limits",
    ):
        assert part in text


def test_texts_of_the_data_cannot_become_markup_in_a_card():
    assert "<script>" not in card_text(CARD).split("---", 2)[2]


def test_the_head_of_a_card_is_yaml():
    yaml = pytest.importorskip("yaml")
    head = yaml.safe_load(card_text(CARD).split("---")[1])
    assert head["pretty_name"] == CARD.title
    assert head["configs"][0]["data_files"][1] == {"split": "validation", "path": "b: c.jsonl"}
