import sys
from pathlib import Path
from types import ModuleType

import pytest

from icm_api.errors import ConfigError
from icm_api.tasks.base import Task
from icm_api.tasks.labels import labels_from_names
from icm_api.tasks.rules import GroupKey, Swapped
from icm_api.tasks.template import Template
from icm_api.tasks.toml_task import builtin_tasks, load_task
from icm_api.types import Example

EXAMPLE = Path(__file__).parents[3] / "examples" / "custom_task.toml"
MINIMAL = 'name = "t"\ntemplate = "{text} is"\nlabels = ["no", "yes"]\n'


@pytest.fixture
def load(tmp_path):
    def load(text, **options):
        path = tmp_path / "task.toml"
        path.write_text(text, encoding="utf-8")
        return load_task(path, **options)

    return load


def test_the_built_in_tasks_are_listed_with_what_they_need():
    listed = {task.name: task for task in builtin_tasks()}
    assert sorted(listed) == ["claims", "classify", "gsm8k", "preference", "truthfulqa"]
    assert all(task.description for task in listed.values())
    assert listed["gsm8k"].fields == ("question", "solution")
    assert listed["preference"].rules == ("swapped",)
    assert listed["claims"].labels == ("False", "True")
    assert listed["classify"].labels == ()


@pytest.mark.parametrize("name", ["claims", "gsm8k", "preference", "truthfulqa"])
def test_a_built_in_task_asks_whether_a_claim_holds(name):
    task = load_task(name)
    assert task.name == name
    assert task.label_names == ("False", "True")
    assert task.positive == 1
    text = task.text(Example("1", {field: f"<{field}>" for field in task.fields}))
    assert text.endswith("This claim is")
    assert all(f"<{field}>" in text for field in task.fields)


def test_classify_takes_its_labels_from_the_user():
    task = load_task("classify", labels=["bad", "fair", "good"])
    assert [label.text for label in task.labels] == [" bad", " fair", " good"]
    assert task.text(Example("1", {"text": "x"})) == "Text: x\nLabel:"


def test_classify_without_labels_says_what_to_do():
    with pytest.raises(ConfigError, match=r"task classify: the task has no labels of its own; name at least two"):
        load_task("classify")
    with pytest.raises(ConfigError, match="at least two labels, not 1"):
        load_task("classify", labels=["spam"])


def test_a_task_with_labels_takes_no_others():
    with pytest.raises(ConfigError, match=r"task claims: the task has its own labels \(False, True\)"):
        load_task("claims", labels=["no", "yes"])


def test_gsm8k_compares_final_answers_of_one_question():
    task = load_task("gsm8k")
    answers = ["so A: no\nA: 5", "it is #### 5.0", "A: 6", "no idea"]
    examples = task.prepare([Example(str(i), {"question": "q", "solution": s}) for i, s in enumerate(answers)])
    assert [example.key for example in examples] == ["5", "5", "6", None]
    assert [relation.kind for relation in task.relations(examples)] == ["equivalent", "at_most_one"]


def test_truthfulqa_has_groups_but_no_relations_without_keys():
    task = load_task("truthfulqa")
    examples = task.prepare([Example(str(i), {"question": "q", "claim": str(i)}) for i in range(3)])
    assert [example.group for example in examples] == ["q"] * 3
    assert task.relations(examples) == ()


def test_the_example_file_is_a_task():
    task = load_task(EXAMPLE)
    assert task.rules == (Swapped("summary_1", "summary_2", positive=1),)
    assert task.columns == {"article": "document"}
    assert task.labels[0].text == " No"


def test_a_file_says_everything_about_a_task(load):
    task = load(
        """
        name = "t"
        description = "d"
        preamble = "p"
        template = '{q} {a}'
        labels = ["Yes", { name = "no", text = " Nay", variants = ["nay"] }]
        positive = "Yes"
        may_be_empty = ["a"]
        group_from = "q"
        [key_from]
        field = "a"
        rule = "final_answer"
        [columns]
        a = "answer"
        [[relations]]
        rule = "group_key"
        """
    )
    assert (task.description, task.preamble, task.positive, task.group_from) == ("d", "p", 0, "q")
    assert task.labels[1].variants == ("nay",)
    assert task.rules == (GroupKey(positive=0),)
    assert task.may_be_empty == {"a"}
    assert task.key_from is not None
    assert task.key_from(Example("1", {"a": "A: 4"})) == "4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML: Invalid value"),
        (MINIMAL + "lables = []", "lables: unknown key"),
        ('template = "{text}"\nlabels = ["a", "b"]', "name: must be given"),
        (MINIMAL.replace('"t"', "3"), "name: Input should be a valid string"),
        (MINIMAL + "preamble = ['x']", "preamble: Input should be a valid string"),
        ('name = "t"\ntemplate = "{text}"\nlabels = "ab"', "labels: Input should be a valid list"),
        ('name = "t"\ntemplate = "{text}"\nlabels = [1, 2]', r"labels\.0: must be a name or a table \{name, text"),
        ('name = "t"\ntemplate = "{text}"\nlabels = [{name = "a", txt = "b"}]', r"labels\.0\.txt: unknown key"),
        (MINIMAL + "columns = 3", "columns: must be a table"),
        (MINIMAL + "key_from = 'text'", "key_from: must be a table"),
        (MINIMAL + "[key_from]\nfield = 'text'\nrule = 'x'", "unknown key rule 'x'; known: final_answer"),
        (MINIMAL + "[columns]\nclaim = 'text'", "columns: the template has no field 'claim'; it has: text"),
        (MINIMAL + "positive = 'maybe'", "positive = 'maybe' is no label; labels: no, yes"),
        (MINIMAL + "[[relations]]\nrule = 'x'", r"relations\.0: Input tag 'x' .* 'group_key', 'swapped'"),
        (MINIMAL + "[[relations]]", r"relations\.0: must name its rule"),
        (MINIMAL + "[[relations]]\nrule = 'group_key'\nkey = 'x'", r"relations\.0\.group_key\.key: unknown key"),
        (MINIMAL + "[[relations]]\nrule = 'swapped'\nfields = ['text']", r"relations\.0\.swapped\.fields: .* 2 items"),
        (MINIMAL.replace("{text} is", "{text} "), "the template ends in whitespace"),
        (MINIMAL.replace("{text} is", "{text.x}"), "the template has a stray brace"),
        (MINIMAL.replace('"yes"', '"No"'), "two labels are alike: 'no'"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_key(load, text, message):
    with pytest.raises(ConfigError, match=rf"task\.toml: {message}"):
        load(text)


def test_every_wrong_key_is_told_at_once(load):
    with pytest.raises(ConfigError) as caught:
        load("nam = 'x'\nlabels = 3")
    assert len(str(caught.value).splitlines()) == 4


def test_a_missing_file_an_unknown_name_and_bad_bytes_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_task(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"unknown task 'claim'\. Did you mean 'claims'\? Built in: claims, classify"):
        load_task("claim")
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"bad\.toml: not valid TOML"):
        load_task(tmp_path / "bad.toml")
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_task(tmp_path / "folder.toml")


class Own(Task):
    def __init__(self) -> None:
        super().__init__(name="own", template=Template("{x}"), labels=labels_from_names(["no", "yes"]))


class NeedsMore(Own):
    def __init__(self, more: str) -> None:
        super().__init__()


@pytest.fixture
def module(monkeypatch):
    module = ModuleType("tasks_of_a_user")
    module.__dict__.update(Own=Own, NeedsMore=NeedsMore, Task=Task, other=3)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.usefixtures("module")
def test_a_class_of_ones_own_is_loaded_by_module_and_name():
    assert load_task("tasks_of_a_user:Own").name == "own"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_module:Own", "cannot be loaded: No module named"),
        ("tasks_of_a_user:Gone", "cannot be loaded: .* no attribute 'Gone'"),
        ("tasks_of_a_user:other", "is not a subclass of"),
        ("tasks_of_a_user:Task", "is not a subclass of"),
        (":Own", "cannot be loaded"),
        ("tasks_of_a_user:NeedsMore", "cannot be made without arguments: .* 'more'"),
    ],
)
def test_a_class_that_cannot_be_used_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        load_task(path)


@pytest.mark.usefixtures("module")
def test_a_class_brings_its_own_labels():
    with pytest.raises(ConfigError, match="has its own labels"):
        load_task("tasks_of_a_user:Own", labels=["a", "b"])
