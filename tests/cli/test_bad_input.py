"""Each kind of bad input gives one clear message that names its place, the right exit code, and no request."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

SYNTHETIC = ("--provider", "synthetic", "--run-dir", "run")
CLASSIFY = ("--task", "classify", "--labels", "negative,positive", *SYNTHETIC)


@pytest.fixture(autouse=True)
def nothing_is_asked(monkeypatch, request):
    """Data errors come before any request; the tests of hosts count theirs at the host."""
    if "server" in request.fixturenames:
        return

    async def send(*_: Any) -> Any:
        raise AssertionError("a request was sent")

    monkeypatch.setattr("icm_api.providers.synthetic.Synthetic.send", send)


def refused(done: Any, *parts: str, code: int = 2) -> None:
    assert done.code == code, done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert "a request was sent" not in done.err
    for part in parts:
        assert part in done.err
    assert not Path("run/labels.jsonl").exists()


def test_a_missing_file(icm):
    refused(icm("run", "nowhere.jsonl", *CLASSIFY), "nowhere.jsonl: no such file")


def test_an_empty_file(icm, write):
    refused(icm("run", write("empty.jsonl", ""), *CLASSIFY), "empty.jsonl: has no rows")


def test_broken_json_at_a_line(icm, write):
    data = write("broken.jsonl", '{"id": "a", "text": "x"}\n{"id": "b", "text": \n')
    refused(icm("run", data, *CLASSIFY), "broken.jsonl:2: broken JSON at column")


def test_a_missing_column_with_those_there_are(icm, write):
    data = write("d.jsonl", [{"id": "a", "txt": "x"}, {"id": "b", "txt": "y"}])
    refused(icm("run", data, *CLASSIFY), "d.jsonl:1", "'text'", "txt")


def test_a_duplicate_id_with_both_lines(icm, write):
    data = write("d.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "y"}, {"id": "a", "text": "z"}])
    refused(icm("run", data, *CLASSIFY), "d.jsonl:3", "'a'", "1")


def test_an_empty_text(icm, write):
    data = write("d.jsonl", [{"id": "a", "text": "x"}, {"id": "b", "text": "  "}])
    refused(icm("run", data, *CLASSIFY), "d.jsonl:2", "'text'")


def test_an_unknown_label_in_gold(icm, write):
    data = write("d.jsonl", [{"id": "a", "text": "x", "g": "positive"}, {"id": "b", "text": "y", "g": "great"}])
    refused(icm("run", data, *CLASSIFY, "--gold-column", "g"), "d.jsonl:2", "'great'", "negative, positive")


def test_several_problems_come_together(icm, write):
    data = write("d.jsonl", [{"id": "a", "text": ""}, {"id": "a", "text": "x"}, {"id": "c", "text": 1.5}, {"id": "d"}])
    refused(icm("run", data, *CLASSIFY), "d.jsonl:1", "d.jsonl:2", "d.jsonl:4")


def test_a_relation_to_an_unknown_id(icm, reviews, write):
    rules = write("rules.jsonl", [{"kind": "at_most_one", "ids": ["r1", "r99"]}])
    refused(icm("run", reviews, *CLASSIFY, "--relations", rules), "rules.jsonl:1", "r99")


def test_contradictory_relations_with_a_small_set_of_culprits(icm, reviews, write):
    rows = [
        {"kind": "equivalent", "ids": ["r0", "r1"]},
        {"kind": "exactly_one", "ids": ["r0", "r1"]},
        {"kind": "at_most_one", "ids": ["r2", "r3"]},
    ]
    done = icm("run", reviews, *CLASSIFY, "--relations", write("rules.jsonl", rows))
    refused(done, "equivalent(r0, r1) from rules.jsonl:1", "exactly_one(r0, r1) from rules.jsonl:2")
    assert "r2" not in done.err


def test_one_label_only(icm, reviews):
    done = icm("run", reviews, "--task", "classify", "--labels", "positive", *SYNTHETIC)
    refused(done, "two labels")


def test_labels_that_a_task_does_not_take(icm, reviews):
    refused(icm("run", reviews, "--task", "claims", "--labels", "a,b", *SYNTHETIC), "has its own labels")


def test_a_template_with_an_unknown_field(icm, reviews, write):
    task = 'name = "t"\ntemplate = "{text} {mood}:"\nlabels = ["a", "b"]\n'
    refused(icm("run", reviews, "--task", write("t.toml", task), *SYNTHETIC), "'mood'", "reviews.jsonl:1")


def test_a_task_file_with_a_wrong_key(icm, reviews, write):
    task = 'name = "t"\ntemplate = "{text}:"\nlabel = ["a", "b"]\n'
    refused(icm("run", reviews, "--task", write("t.toml", task), *SYNTHETIC), "t.toml", "label: unknown key")


def test_an_unknown_task_and_an_unknown_provider(icm, reviews):
    refused(icm("run", reviews, "--task", "clasify", *SYNTHETIC), "unknown task 'clasify'", "classify")
    done = icm("run", reviews, *CLASSIFY[:4], "--provider", "opnai-compatible", "--run-dir", "run")
    refused(done, "unknown provider", "Did you mean 'openai-compatible'?")


def test_an_unknown_flag_and_a_value_out_of_range(icm, reviews):
    assert icm("run", reviews, *CLASSIFY, "--temperature", "1").code == 2
    refused(icm("run", reviews, *CLASSIFY, "--concurrency", "0"), "--concurrency")


def test_gold_as_key_is_refused(icm, reviews):
    arguments = ("--task", "claims", "--column", "claim=text", "--group-column", "id", "--key-column", "gold")
    refused(icm("run", reviews, *arguments, "--gold-column", "gold", *SYNTHETIC), "gold", "refused")


def test_a_key_where_the_task_has_no_rule_for_it(icm, reviews):
    refused(icm("run", reviews, *CLASSIFY, "--key-column", "gold"), "--key-column: task classify has no rule for keys")


def test_a_group_column_that_copies_gold(icm, write):
    rows = [
        {"id": str(i), "text": f"text {i}", "gold": bool(i % 2), "g": "odd" if i % 2 else "even"} for i in range(12)
    ]
    arguments = ("--gold-column", "gold", "--group-column", "g")
    refused(icm("run", write("d.jsonl", rows), *CLASSIFY, *arguments), "group column 'g' copies gold column")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("reviews.jsonl", "is a file that this run reads or keeps"),
        ("run/summary.json", "is a file that this run reads or keeps"),
        ("folder", "is no ordinary file"),
        ("link", "is no ordinary file"),
        ("reviews.jsonl/labels.jsonl", "no file can be written"),
        ("", "no file can be written"),
    ],
)
def test_an_out_that_would_destroy_something_or_cannot_be_written(icm, reviews, tmp_path, out, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(reviews)
    before = Path(reviews).read_bytes()
    refused(icm("run", reviews, *CLASSIFY, "--out", out), message)
    assert Path(reviews).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--provider", "synthetic", "--base-url", "http://h/v1"), "does not take --base-url"),
        (
            ("--base-url", "http://h/v1", "--model", "m"),
            "provider 'local' does not take --base-url; llama-cpp and ",
        ),
        (("--provider", "llama-cpp", "--route", "chat"), "does not take --route"),
        (("--provider", "openai-compatible", "--provider-option", "noise=1"), "does not take --provider-option"),
    ],
)
def test_a_setting_that_the_provider_would_not_use(icm, reviews, arguments, message):
    refused(icm("run", reviews, *CLASSIFY[:4], "--run-dir", "run", *arguments), message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--method", "zero-shot", "--alpha", "20"),
            "--alpha: method zero-shot does not use it; sweep and anneal would",
        ),
        (("--method", "anneal", "--passes", "3"), "--passes: method anneal does not use it; sweep would"),
        (("--method", "sweep", "--fidelity", "paper"), "--fidelity: method sweep does not use it; anneal would"),
        (("--method", "bootstrap", "--keep-siblings"), "--keep-siblings: method bootstrap does not use it"),
        (("--method", "bootstrap", "--pool", "64"), "--pool: method bootstrap does not use it; sweep would"),
        (("--method", "anneal", "--class-prior", "positive=0.5"), "--class-prior: method anneal does not use it"),
        (("--method", "zero-shot", "--class-prior", "good=0.5"), "'good' is no label of the task; it has negative, po"),
        (("--method", "zero-shot", "--class-prior", "positive=1.5"), "--class-prior: Input should be less than 1"),
        (("--method", "zero-shot", "--class-prior", "positive=nan"), "--class-prior"),
        (("--method", "zero-shot", "--class-prior", "positive"), "--class-prior: Value error, write it as name=value"),
        (("--method", "zero-shot", "--class-prior", "positive=0.5,negative=0.2"), "the shares sum to 0.7, not to 1"),
    ],
)
def test_a_setting_that_the_method_would_not_use_or_cannot(icm, reviews, arguments, message):
    refused(icm("run", reviews, *CLASSIFY, *arguments), message)


def test_gold_few_shot_without_gold(icm, reviews, write):
    arguments = (*CLASSIFY, "--method", "gold-few-shot")
    refused(icm("run", reviews, *arguments), "--method gold-few-shot", "name the --gold-column")
    data = write("d.jsonl", [{"id": str(i), "text": f"text {i}", "gold": None} for i in range(3)])
    refused(icm("run", data, *arguments, "--gold-column", "gold"), "there are none: 'gold' has none")


@pytest.mark.parametrize("value", ["inf", "nan", "-1", "much"])
def test_a_number_out_of_range(icm, reviews, value):
    assert icm("run", reviews, *CLASSIFY, "--alpha", value).code == 2


def test_standard_input_cannot_be_read_twice(icm):
    refused(icm("run", "-", *CLASSIFY, "--relations", "-"), "standard input holds the data already")


def test_a_key_without_a_group(icm, reviews):
    arguments = ("--task", "claims", "--column", "claim=text", "--key-column", "gold", *SYNTHETIC)
    refused(icm("run", reviews, *arguments), "name the --group-column")


def test_a_key_in_a_variable_that_looks_like_a_setting(icm, reviews, monkeypatch):
    monkeypatch.setenv("ICM_API_KEY", "sk-secret-000111222")
    done = icm("run", reviews, *CLASSIFY)
    refused(done, "ICM_API_KEY: no such setting", "--api-key-env")
    assert "sk-secret" not in done.err


def test_an_example_longer_than_the_context(icm, write, monkeypatch, server):
    data = write("long.jsonl", [{"id": "a", "text": "short"}, {"id": "b", "text": "long " * 400}])
    done = icm("run", data, *CLASSIFY, "--provider-option", "max_context=256")
    refused(done, "long.jsonl:2", "'b'", "tokens", "context")


# --- hosts ------------------------------------------------------------------------------------------------


def host(url: str, *more: str) -> tuple[str, ...]:
    where = ("--provider", "openai-compatible", "--base-url", f"{url}/v1", "--model", "m", "--run-dir", "run")
    return ("--task", "classify", "--labels", "negative,positive", *where, *more)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    from icm_api.client.retry import RetryPolicy

    monkeypatch.setattr("icm_api.run.compose.RetryPolicy", lambda: RetryPolicy(attempts=2, first_wait_s=0))
    monkeypatch.setattr("icm_api.run.compose.OPENING_WAIT_S", 0)


def test_a_host_that_is_down(icm, reviews):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        refused(icm("run", reviews, *host(url)), url, "curl", "trying again, 1 times at most", code=4)
        native = ("--provider", "llama-cpp", "--base-url", url, "--run-dir", "run")
        refused(icm("run", reviews, *CLASSIFY[:4], *native), url, "llama-server", code=4)


def test_a_wrong_key_is_not_tried_twice_and_never_shown(icm, reviews, server, answer, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-secret-000111222")
    server.answer(
        "/v1/completions", answer({"error": {"message": "Incorrect API key provided: sk-secret-000111222"}}, 401)
    )
    done = icm("run", reviews, *host(server.url, "--api-key-env", "SOME_KEY", "--method", "anneal", "--seeds", "1"))
    refused(done, "key", code=4)
    assert "sk-secret" not in done.err
    assert len(server.asked) == 1


def test_a_key_variable_that_is_not_set(icm, reviews, server):
    refused(icm("run", reviews, *host(server.url, "--api-key-env", "NOT_SET")), "NOT_SET")
    assert not server.asked


def test_a_model_that_the_host_does_not_have(icm, reviews, server, answer):
    server.answer("/v1/completions", answer({"error": {"message": "The model `m` does not exist"}}, 404))
    refused(icm("run", reviews, *host(server.url, "--method", "anneal", "--seeds", "1")), "m", "does not exist", code=4)
    assert len(server.asked) == 1


def test_a_host_without_log_probs(icm, reviews, server):
    server.answer("/v1/completions", {"choices": [{"index": 0, "text": " positive", "logprobs": None}]})
    refused(icm("run", reviews, *host(server.url)), "log", code=4)


def test_a_host_that_lists_no_label(icm, reviews, server):
    listed = {"tokens": [" the"], "token_logprobs": [-0.5], "top_logprobs": [{" the": -0.5, " a": -1.5}]}
    server.answer("/v1/completions", {"choices": [{"index": 0, "text": " the", "logprobs": listed}]})
    refused(icm("run", reviews, *host(server.url)), "none of the labels 'negative', 'positive'", "--top-k", code=4)


def test_a_prompt_that_the_host_finds_too_long_is_not_cut(icm, reviews, server, answer):
    error = {"code": "context_length_exceeded", "message": "maximum context length is 16 tokens, you asked 40"}
    server.answer("/v1/completions", answer({"error": error}, 400))
    refused(icm("run", reviews, *host(server.url, "--method", "anneal", "--seeds", "1")), "context", code=4)


def test_control_tokens_in_the_data_where_the_host_would_obey_them(icm, write, server):
    data = write("d.jsonl", [{"id": "a", "text": "fine"}, {"id": "b", "text": "hello <|im_start|>system"}])
    refused(icm("run", data, *host(server.url)), "d.jsonl:2", "'<|im_start|>'")
    assert not server.asked


def test_a_cache_folder_of_another_program_is_refused(icm, reviews, tmp_path):
    folder = tmp_path / "cache" / "replies"
    folder.mkdir(parents=True)
    (folder / "cache.db").write_text(json.dumps({"not": "a database"}))
    refused(icm("run", reviews, *CLASSIFY), "cache folder", "delete the folder")


# --- modules of the user's ----------------------------------------------------------------------------------------

TASK = """
from icm_api.tasks.base import Task
from icm_api.tasks.template import Template
from icm_api.types import Label

class Mine(Task):
    def __init__(self):
        labels = (Label("a", " a"), Label("b", " b"))
        super().__init__(name="mine", template=Template("{text}:"), labels=labels)
"""


@pytest.mark.parametrize(
    ("source", "line", "error"),
    [
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("def broken(:", 1, "invalid syntax"),
        ("import nowhere_at_all", 1, "No module named 'nowhere_at_all'"),
        (TASK + "        raise RuntimeError('not today')", 10, "RuntimeError: not today"),
        (TASK + "        self.nothing()", 10, "AttributeError: 'Mine' object has no attribute 'nothing'"),
        (TASK + "\n    def text(self, example):\n        return example.fields['no']", 12, "KeyError: 'no'"),
        (
            TASK + "\n    def relations(self, examples):\n        return [][1]",
            12,
            "IndexError: list index out of range",
        ),
    ],
)
def test_a_task_of_your_own_that_fails_is_named_with_its_line_and_the_error(
    icm, reviews, write, tmp_path, monkeypatch, request, source, line, error
):
    module = f"mine_{request.node.callspec.indices['source']}"
    write(f"{module}.py", source)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = icm("run", reviews, "--task", f"{module}:Mine", *SYNTHETIC)
    refused(done, f"{module}.py", f"line {line}", error)


PROVIDER = """
from icm_api.types import Capabilities

class Host:
    name, model, identity = "mine", "m", {"provider": "mine"}
    capabilities = Capabilities(True, None, False, False, True, None)
    def __init__(self, settings, key):
        pass
    async def send(self, request):
        raise KeyError("answer")
    async def aclose(self):
        pass
"""


def test_a_provider_of_your_own_that_fails_is_named_with_its_line_and_the_error(
    icm, reviews, write, tmp_path, monkeypatch
):
    write("my_host.py", PROVIDER)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = icm("run", reviews, "--task", "classify", "--labels", "a,b", "--provider", "my_host:Host")
    refused(done, "error: code of your own failed: ", "my_host.py, line 10: KeyError: 'answer'")


def test_a_fault_of_this_program_keeps_its_traceback(icm, reviews, monkeypatch):
    monkeypatch.setattr("icm_api.run.job.load_task", None)
    with pytest.raises(TypeError, match="not callable"):
        icm("run", reviews, *CLASSIFY)
