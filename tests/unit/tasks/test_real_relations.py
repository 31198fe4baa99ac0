"""What the rules derive from the inputs of real data agrees with the relations that come with it."""

import pytest

from benchmarks.label_tasks import PUBLIC as FOLDER
from icm_api.data.dataset import Columns, load_dataset
from icm_api.data.relations_file import load_relations
from icm_api.tasks.toml_task import load_task
from icm_api.types import Example, Relation

Relations = tuple[Relation, ...]

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the public data sets are not there (BENCHMARK_DATA)")


def derived_and_given(
    task_name: str, data: str, relations: str, columns: Columns
) -> tuple[tuple[Example, ...], Relations, Relations]:
    """(prepared examples, derived relations, relations of the file)"""
    task = load_task(task_name)
    dataset = load_dataset(
        FOLDER / data, columns=columns, fields=task.fields, labels=task.label_names, may_be_empty=task.may_be_empty
    )
    examples = task.prepare(dataset.examples)
    ids = {example.id: index for index, example in enumerate(examples)}
    given = load_relations(FOLDER / relations, ids, positive=task.positive, known_labels=task.label_names)
    return examples, task.relations(examples), given.relations


def shape(relations: Relations) -> list[tuple[str, tuple[int, ...], int]]:
    return sorted((relation.kind, relation.members, relation.positive) for relation in relations)


@pytest.mark.parametrize("columns", [Columns(group="group", key="key"), Columns()], ids=["named", "derived"])
def test_gsm8k_relations_are_the_files_with_keys_named_or_parsed(columns):
    _, derived, given = derived_and_given(
        "gsm8k", "gsm8k_verification/openai_model_solutions.jsonl", "gsm8k_verification/openai_relations.jsonl", columns
    )
    assert len(derived) == 2597
    assert shape(derived) == shape(given)


def test_preference_pairs_are_the_files_up_to_identical_rows():
    examples, derived, given = derived_and_given(
        "preference",
        "preference/pandalm_binary_swapped.jsonl",
        "preference/pandalm_binary_relations.jsonl",
        Columns(group="group"),
    )

    def texts(relations: Relations, kind: str) -> set[frozenset[tuple[str, ...]]]:
        """The pairs as sets of inputs, so that rows with the same inputs count as one."""
        inputs = [tuple(example.fields.values()) for example in examples]
        return {frozenset(inputs[i] for i in relation.members) for relation in relations if relation.kind == kind}

    pairs = {frozenset(relation.members) for relation in given if relation.kind == "exactly_one"}
    assert {frozenset(relation.members) for relation in derived if relation.kind == "asymmetric"} <= pairs
    assert texts(derived, "asymmetric") == texts(given, "exactly_one")
    assert all(len(pair) == 1 for pair in texts(derived, "equivalent"))


def test_prompts_group_the_preferences_as_the_file_does():
    named, _, _ = derived_and_given(
        "preference",
        "preference/pandalm_binary_swapped.jsonl",
        "preference/pandalm_binary_relations.jsonl",
        Columns(group="group"),
    )
    task = load_task("preference")
    derived = task.prepare([Example(example.id, example.fields) for example in named])
    assert len({(a.group, b.group) for a, b in zip(named, derived, strict=True)}) == len({e.group for e in named})
