import pytest

from benchmarks.label_tasks import PUBLIC as FOLDER
from icm_api.data.dataset import Columns, load_dataset
from icm_api.data.relations_file import load_relations

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the public data sets are not there (BENCHMARK_DATA)")
LABELS = ("False", "True")
RESPONSES = ("prompt", "response_a", "response_b")
POLITICAL = "controls/political_normative_no_truth.jsonl"

FILES = [
    ("truthfulqa/claims.jsonl", ("question", "claim"), 6026, 2775, "truthfulqa/relations.jsonl"),
    (
        "gsm8k_verification/openai_model_solutions.jsonl",
        ("question", "solution"),
        5272,
        2001,
        "gsm8k_verification/openai_relations.jsonl",
    ),
    ("preference/pandalm_binary_swapped.jsonl", RESPONSES, 1788, 894, "preference/pandalm_binary_relations.jsonl"),
    ("sentiment/mr_rotten_tomatoes.jsonl", ("text",), 3000, None, None),
    ("sentiment/customer_reviews.jsonl", ("text",), 1683, None, None),
    ("spam/sms_spam_balanced.jsonl", ("text",), 1200, 600, None),
    ("facts/capitals.jsonl", ("claim",), 1040, None, "facts/capitals_relations.jsonl"),
    ("facts/country_area_comparison.jsonl", ("claim",), 698, None, "facts/country_area_relations.jsonl"),
    ("facts/arithmetic_generated.jsonl", ("claim",), 1200, 600, "facts/arithmetic_generated_relations.jsonl"),
    ("poems/mentions_sun.jsonl", ("text",), 1000, None, None),
    ("poems/sun_preference_pairs.jsonl", ("poem_a", "poem_b"), 1000, None, "poems/sun_preference_relations.jsonl"),
    ("names/first_names.jsonl", ("text",), 3000, 1500, None),
    (POLITICAL, ("question", "claim"), 558, 0, None),
]


@pytest.mark.parametrize(("file", "fields", "rows", "true", "relations"), FILES, ids=[each[0] for each in FILES])
def test_a_real_file_loads_with_its_relations(file, fields, rows, true, relations):
    dataset = load_dataset(
        FOLDER / file,
        columns=Columns(group="group", gold="label"),
        fields=fields,
        labels=LABELS,
        may_be_empty={"response_a", "response_b"},
    )
    assert len(dataset.examples) == rows
    assert dataset.gold is not None
    assert true is None or dataset.gold.count(1) == true
    assert dataset.gold.count(None) == (rows if file == POLITICAL else 0)
    if relations:
        ids = {example.id: index for index, example in enumerate(dataset.examples)}
        loaded = load_relations(FOLDER / relations, ids, positive=1, known_labels=LABELS)
        lines = (FOLDER / relations).read_text(encoding="utf-8").splitlines()
        assert (len(loaded.relations), loaded.dropped) == (len(lines), 0)


def test_the_first_rows_keep_the_relations_that_still_follow():
    dataset = load_dataset(
        FOLDER / "gsm8k_verification/openai_model_solutions.jsonl",
        columns=Columns(group="group", key="key"),
        fields=("question", "solution"),
        labels=LABELS,
        limit=6,
    )
    ids = {example.id: index for index, example in enumerate(dataset.examples)}
    loaded = load_relations(
        FOLDER / "gsm8k_verification/openai_relations.jsonl",
        ids,
        positive=1,
        known_labels=LABELS,
        cut_ids=dataset.cut_ids,
    )
    assert [(relation.kind, relation.members) for relation in loaded.relations] == [
        ("at_most_one", (0, 1, 2, 3)),
        ("equivalent", (4, 5)),
    ]
    assert loaded.dropped == 2595
