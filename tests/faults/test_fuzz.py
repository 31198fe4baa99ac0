"""Every parser of bytes from outside, fed good input with something wrong in it, by the hundred.

Only errors of this package may come out, or a value that is fit for use. `make fuzz` runs thousands of each
(FUZZ_EXAMPLES says how many); `benchmarks/fuzz.py` lets atheris look for inputs that reach new code.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import icm_api
from icm_api.client.cache import Cached, open_cache
from icm_api.client.codec import check_identity, encode_reply, request_key
from icm_api.config import RunConfig, load_config
from icm_api.core.replies import list_faults, share_faults
from icm_api.data.answers import load_answers
from icm_api.data.dataset import Columns, load_dataset
from icm_api.data.relations_file import load_relations
from icm_api.errors import IcmError
from icm_api.providers import anthropic, gemini, llama_cpp, ollama, sglang, tgi, together, vllm
from icm_api.providers.echo import echoed_positions
from icm_api.providers.http import Host, Refusal, retry_after_s
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.run.journal import FILES, JOURNAL, existing_folder
from icm_api.run.load import load_run
from icm_api.run.probe_record import ProbeRecord, find_record, save_record
from icm_api.run.resume import list_runs, read_run
from icm_api.tasks.toml_task import load_task
from icm_api.types import (
    ChoiceReply,
    ChoiceRequest,
    NextTokenReply,
    NextTokenRequest,
    Prompt,
    Request,
    SequenceReply,
    SequenceRequest,
    TokenCountReply,
    TokenCountRequest,
)
from tests.conftest import Answer
from tests.faults.mangled import Unwired, finish, leaves, mangled, mangled_bytes, values
from tests.servers.gemini import Gemini
from tests.servers.learner import Learner
from tests.servers.ollama import Ollama
from tests.servers.sglang import Sglang
from tests.servers.tgi import Tgi
from tests.servers.together import Together
from tests.servers.vllm import Vllm
from tests.unit.client.scripted import Scripted, answer, ask
from tests.unit.providers.test_llama_cpp import MODELS, PROPS, TinyModel
from tests.unit.testing import toy
from tests.unit.testing.test_adapters import _chosen, _message

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "100"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    database=None,
    phases=(Phase.generate, Phase.shrink),
)
FOLDER = Path(tempfile.mkdtemp(prefix="icm-fuzz-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
LABELS = ("False", "True")


def on_disk(name: str, content: bytes) -> Path:
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def attempt(work: Callable[[], Any]) -> Any:
    """What comes of it; None for a refusal, which is an error of this package with a text of its own."""
    try:
        return work()
    except IcmError as error:
        refusal = error
    assert str(refusal).strip()
    return None


# --- what users bring -------------------------------------------------------------------------------------

JSONL = (
    b'{"id": "a", "text": "fine", "gold": true, "group": "g", "key": 1}\n{"id": 2, "text": "poor", "gold": "False"}\n',
    b'{"id": "1", "text": "\\u00e9 {x}", "gold": null}\r\n\r\n{"id": "2", "text": 5}\n',
)
CSV = (b'id,text,gold,group,key\na,"fine, ""really""",True,g,1\n2,"two\nlines",False,,\n', b"id,text\r\n1,x\r\n2,y\r\n")
RELATIONS = (
    b'{"kind": "implies", "ids": ["a", 2], "price": 1.5, "source": "me"}\n{"kind": "equivalent", "ids": ["a", "2"]}\n',
    b'{"kind": "transitive", "ids": ["a", "2", "c"], "label": "True"}\n{"kind": "and", "ids": ["a", "2", "c"]}\n',
)
TASK = (
    b'name = "mine"\ntemplate = """\nText: {text}\nBy: {by}\nLabel:"""\nlabels = ["no", {name = "yes", text = " y"}]\n'
    b'positive = "yes"\nmay_be_empty = ["by"]\n[columns]\ntext = "body"\n[[relations]]\nrule = "swapped"\n'
    b'fields = ["text", "by"]\n[key_from]\nfield = "text"\nrule = "final_answer"\n',
)
CONFIG = (
    b'data = "d.jsonl"\ntask = "claims"\nprovider = "mine"\nseed = 3\nmax_usd = 1.5\nlabels = ["a", "b"]\n'
    b'class_prior = {a = 0.5}\nextra_body = {x = [1]}\n[providers.mine]\nbase_url = "http://127.0.0.1:1/v1"\n'
    b'model = "m"\ndialect = "openai-compatible"\napi_key_env = "K"\n',
)
COLUMNS = Columns(gold="gold", group="group", key="key")


@fuzzed
@given(st.sampled_from(("jsonl", "csv")).flatmap(lambda kind: st.tuples(st.just(kind), mangled_bytes((*JSONL, *CSV)))))
def test_rows_of_text(drawn):
    kind, content = drawn
    check_dataset(on_disk(f"rows.{kind}", content))


@fuzzed
@given(st.data())
def test_rows_of_json_values(data):
    rows = mangled(data.draw, [json.loads(line) for line in JSONL[0].splitlines()])
    content = "\n".join(json.dumps(row) for row in rows) if isinstance(rows, list) else json.dumps(rows)
    check_dataset(on_disk("rows.jsonl", content.encode()))


def check_dataset(path: Path) -> None:
    for columns in (Columns(), COLUMNS):
        dataset = attempt(lambda: load_dataset(path, columns=columns, fields=("text",), labels=LABELS))  # noqa: B023
        if dataset is not None:
            assert len({example.id for example in dataset.examples}) == len(dataset.examples) > 0
            assert all(example.id.strip() and example.fields["text"].strip() for example in dataset.examples)
            assert all(gold in (None, 0, 1) for gold in dataset.gold or ())


@cache
def parquet_samples() -> tuple[bytes, ...]:
    written = []
    for compression in ("none", "snappy"):
        file = io.BytesIO()
        columns = {"id": ["a", "b"], "text": ["fine", "poor"], "gold": [True, None]}
        pyarrow.parquet.write_table(pyarrow.table(columns), file, compression=compression)
        written.append(file.getvalue())
    return tuple(written)


@fuzzed
@given(mangled_bytes(parquet_samples()))
def test_rows_of_parquet(content):
    check_dataset(on_disk("rows.parquet", content))


@fuzzed
@given(mangled_bytes(RELATIONS))
def test_relations(content):
    check_relations(content)


@fuzzed
@given(st.data())
def test_relations_of_json_values(data):
    rows = mangled(data.draw, [json.loads(line) for sample in RELATIONS for line in sample.splitlines()])
    check_relations("\n".join(json.dumps(row) for row in rows).encode() if isinstance(rows, list) else b"")


def check_relations(content: bytes) -> None:
    path, ids = on_disk("relations.jsonl", content), {"a": 0, "2": 1, "c": 2}
    loaded = attempt(lambda: load_relations(path, ids, positive=1, known_labels=LABELS))
    for relation in loaded.relations if loaded else ():
        assert set(relation.members) <= {0, 1, 2}
        assert len(set(relation.members)) == len(relation.members) >= 2
        assert relation.positive in (0, 1)
        assert relation.price is None or (math.isfinite(relation.price) and relation.price >= 0)


@fuzzed
@given(mangled_bytes((b"id,label,text\na,True,x\n2,False,y\n", b'{"id": "a", "label": "True"}\n')), st.booleans())
def test_answers_of_a_person(content, as_csv):
    path = on_disk("answers.csv" if as_csv else "answers.jsonl", content)
    found = attempt(lambda: load_answers(path, {"a": 0, "2": 1}, LABELS)) or {}
    assert set(found) <= {0, 1}
    assert set(found.values()) <= {0, 1}


@fuzzed
@given(mangled_bytes(TASK))
def test_task_files(content):
    path = on_disk("task.toml", content)
    task = attempt(lambda: load_task(path))
    assert task is None or (len(task.labels) >= 2 and task.fields)


@fuzzed
@given(mangled_bytes(CONFIG))
def test_configuration_files(content):
    path = on_disk("icm.toml", content)
    attempt(lambda: load_config(RunConfig, {}, {}, path))


@fuzzed
@given(st.dictionaries(st.sampled_from([*RunConfig.model_fields, "config", "x"]), leaves.map(str), max_size=3))
def test_environment_variables(chosen):
    variables = {f"ICM_API_{name.upper()}": value for name, value in chosen.items()}
    attempt(lambda: load_config(RunConfig, {"data": "d", "task": "claims"}, variables))


# --- what hosts say ---------------------------------------------------------------------------------------

WANTED = (" True", " False")
PROMPT = Prompt("Text: a\nLabel:", (("Text: b\nLabel:", " True"), ("Text: a\nLabel:", " False")))
REQUESTS: tuple[Request[Any], ...] = (
    NextTokenRequest(PROMPT, WANTED),
    NextTokenRequest(PROMPT, ("s",), continuation=" Ye"),
    SequenceRequest(PROMPT, WANTED, first=1),
    ChoiceRequest(PROMPT, WANTED),
    TokenCountRequest(("Text: a\nLabel:", " True")),
)
V1 = f"{Unwired.url}/v1"


def compatible(**settings: Any) -> Callable[[], Any]:
    return lambda: OpenAICompatible(base_url=V1, model="m", api_key=None, **settings)


def responses(body: Any) -> Any:
    (choice,) = toy.chat({"messages": body["input"]})["choices"]
    part = {"type": "output_text", "text": "True", "logprobs": choice["logprobs"]["content"]}
    message = {"type": "message", "role": "assistant", "content": [part]}
    return {"model": "m", "output": [{"type": "reasoning"}, message], "usage": {"input_tokens": 7, "output_tokens": 1}}


def decisions(body: Any) -> Any:
    names = [choice["value"] for choice in body["questions"][0]["choices"]]
    stated = [{"value": name, "probability": 1 / len(names)} for name in names]
    return {"model": "m", "answers": [{"type": "choice", "probabilities": stated}], "usage": {"input_tokens": 7}}


def serve_openai(host: Unwired) -> None:
    host.answer("/v1/completions", toy.complete)
    host.answer("/v1/chat/completions", toy.chat)
    host.answer("/v1/responses", responses)
    host.answer("/v1/decisions", decisions)


def serve_llama_cpp(host: Unwired) -> None:
    model = TinyModel()
    for path, reply in {"/props": PROPS, "/v1/models": MODELS, "/tokenize": model.tokenise}.items():
        host.answer(path, reply)
    host.answer("/completion", model.complete)


HOSTS: dict[str, tuple[Callable[[Unwired], None], Callable[[], Any]]] = {
    "openai completions": (serve_openai, compatible(echo=True)),
    "openai chat": (serve_openai, compatible(route="chat")),
    "openai responses": (serve_openai, compatible(route="responses")),
    "openai decisions": (serve_openai, compatible(route="decisions")),
    "openai votes": (lambda host: host.answer("/v1/chat/completions", _chosen), compatible(route="votes")),
    "together": (Together(WANTED).serve, lambda: together.Together(base_url=V1, model="m", api_key=None)),
    "together chat": (
        Together(WANTED).serve,
        lambda: together.Together(base_url=V1, model="m", api_key=None, route="chat"),
    ),
    "anthropic": (
        lambda host: host.answer("/v1/messages", _message),
        lambda: anthropic.Anthropic(base_url=Unwired.url, model="m", api_key=None),
    ),
    "gemini": (
        lambda host: Gemini(Learner(WANTED)).serve(host),
        lambda: gemini.Gemini(base_url=f"{Unwired.url}/v1beta", model="m", api_key=None),
    ),
    "gemini votes": (
        lambda host: Gemini(Learner(WANTED)).serve(host),
        lambda: gemini.Gemini(base_url=f"{Unwired.url}/v1beta", model="m", api_key=None, route="votes"),
    ),
    "ollama": (
        lambda host: Ollama(Learner(WANTED)).serve(host),
        lambda: ollama.Ollama.connect(base_url=Unwired.url, model="tiny"),
    ),
    "vllm": (lambda host: Vllm().serve(host), lambda: vllm.Vllm.connect(base_url=Unwired.url)),
    "vllm, old": (lambda host: Vllm(forces=False).serve(host), lambda: vllm.Vllm.connect(base_url=Unwired.url)),
    "sglang": (lambda host: Sglang().serve(host), lambda: sglang.Sglang.connect(base_url=Unwired.url)),
    "tgi": (lambda host: Tgi().serve(host), lambda: tgi.Tgi.connect(base_url=Unwired.url)),
    "llama-cpp": (serve_llama_cpp, lambda: llama_cpp.LlamaCpp.connect(base_url=Unwired.url)),
}


def opened(made: Any) -> Any:
    """`connect` is a coroutine; the other adapters ask nothing when they are made."""
    return finish(made) if hasattr(made, "__await__") else made


@cache
def host_and_adapter(name: str) -> tuple[Unwired, Any]:
    """An adapter that was opened in full health."""
    host = Unwired()
    serve, make = HOSTS[name]
    serve(host)
    with host.wired():
        return host, opened(make())


@pytest.mark.parametrize("name", HOSTS)
def test_these_hosts_answer_in_full_health(name):
    host, adapter = host_and_adapter(name)
    host.change = lambda answer: answer
    with host.wired():
        answered = [reply for request in REQUESTS if (reply := send(adapter, request)) is not None]
    assert answered


def send(adapter: Any, request: Request[Any]) -> Any:
    reply = attempt(lambda: finish(adapter.send(request)))
    if reply is not None:
        check_reply(request, reply)
        attempt(lambda: encode_reply(request, reply))
    return reply


def check_reply(request: Request[Any], reply: Any) -> None:
    """What `icm_api.core.replies` demands."""
    match reply:
        case NextTokenReply():
            assert list_faults(reply.candidates, reply.floor_nats) == []
        case SequenceReply():
            assert isinstance(request, SequenceRequest)
            assert len(reply.positions) == len(request.prompt.demonstrations) - request.first + 1
            assert [list_faults(each.candidates, each.floor_nats) for each in reply.positions] == [[]] * len(
                reply.positions
            )
        case ChoiceReply():
            assert isinstance(request, ChoiceRequest)
            unread = getattr(reply, "said", "") and reply.shares == ()
            assert unread or share_faults(reply.shares, len(request.labels), votes=False) == []
        case TokenCountReply():
            assert isinstance(request, TokenCountRequest)
            assert len(reply.counts) == len(request.texts)
            assert min(reply.counts) >= 0
    if not isinstance(reply, TokenCountReply):
        usage = (reply.usage.prompt_tokens, reply.usage.cached_tokens, reply.usage.output_tokens)
        assert all(tokens is None or tokens >= 0 for tokens in usage)
        assert isinstance(reply.model, str)


def changed(data: st.DataObject, said: Answer) -> Answer:
    """What a broken host or something before it makes of a reply."""
    act = data.draw(st.sampled_from(("values", "values", "values", "bytes", "status", "none")))
    if act == "values":
        return Answer(mangled(data.draw, said.body), said.status, said.headers)
    if act == "bytes":
        return Answer(data.draw(mangled_bytes([said.payload])), said.status, said.headers)
    if act == "status":
        body = data.draw(st.sampled_from([said.body, {"error": {"message": "no", "code": 1}}]) | values)
        headers = {"retry-after": data.draw(st.sampled_from(("1", "1e999", "nan", "Mon, 99", "-5", "9" * 500)))}
        return Answer(mangled(data.draw, body), data.draw(st.integers(200, 599)), headers)
    return said


@pytest.mark.parametrize("name", HOSTS)
@fuzzed
@given(st.data())
def test_replies(name, data):
    host, adapter = host_and_adapter(name)
    host.change = lambda said: changed(data, said)
    with host.wired():
        send(adapter, data.draw(st.sampled_from(REQUESTS)))


@pytest.mark.parametrize("name", ["ollama", "vllm", "sglang", "tgi", "llama-cpp"])
@settings(fuzzed, max_examples=max(1, EXAMPLES // 4))  # opening a client takes long
@given(st.data())
def test_replies_to_the_first_questions(name, data):
    serve, make = HOSTS[name]
    host = Unwired()
    serve(host)
    host.change = lambda said: changed(data, said)
    with host.wired():
        adapter = attempt(lambda: opened(make()))
        host.change = lambda said: said
        if adapter is not None:
            assert adapter.model
            assert adapter.capabilities.context_tokens is None or adapter.capabilities.context_tokens > 0
            attempt(lambda: check_identity(adapter))
            send(adapter, REQUESTS[0])


HOST = Host("p", "m", V1, "")


@fuzzed
@given(st.data())
def test_an_echo(data):
    (choice,) = toy.complete({"prompt": PROMPT.text, "echo": True})["choices"]
    request = SequenceRequest(PROMPT, WANTED)
    logprobs = mangled(data.draw, choice["logprobs"])
    positions = attempt(lambda: echoed_positions(logprobs, request, HOST))
    assert positions is None or all(list_faults(each.candidates, each.floor_nats) == [] for each in positions)


words = st.text(max_size=40) | leaves.map(str) | st.from_regex(r"[A-Z][a-z]{2}, \d\d? [A-Z][a-z]{2} \d{1,5} .*")


@fuzzed
@given(st.dictionaries(st.sampled_from(("retry-after", "retry-after-ms", "x-ratelimit-reset")), words))
def test_the_wish_to_wait(headers):
    wait = retry_after_s(headers, 1.8e9)
    assert wait is None or 0 <= wait <= 86_400


@fuzzed
@given(st.integers(200, 599), values)
def test_refusals(status, document):
    said = Refusal.read(status, document)
    error = HOST.refusal(status, {}, document)
    assert 300 <= said.status < 600
    assert str(error).isprintable()


# --- what this program kept -------------------------------------------------------------------------------


@cache
def store() -> Any:
    return open_cache(FOLDER / "cache")


@fuzzed
@given(st.data())
def test_rows_of_the_cache(data):
    request = data.draw(st.sampled_from(REQUESTS[:1]))
    good = json.loads(encode_reply(ask(), answer()))
    text = json.dumps(mangled(data.draw, good)) if data.draw(st.booleans()) else data.draw(st.text(max_size=80))
    host = Scripted()
    store().put(request_key(host.identity, request), text)
    reply = attempt(lambda: finish(Cached(host, store()).send(request)))
    assert host.sent == []
    if reply is not None:  # nothing tells that one plausible number stands for another
        assert all(candidate.logprob_nats <= 0 for candidate in reply.candidates)
        assert reply.floor_nats is None or reply.floor_nats <= 0


@cache
def finished_run() -> Path:
    """The folder of a small run, as this program left it."""
    rows = [{"id": f"r{i}", "text": f"review number {i}"} for i in range(6)]
    data = on_disk("data.jsonl", "\n".join(map(json.dumps, rows)).encode())
    pins = on_disk("pinned.jsonl", b'{"id": "r0", "label": "True"}\n')
    icm_api.label(
        str(data),
        pin=str(pins),
        task="classify",
        labels=["False", "True"],
        provider="synthetic",
        run_dir=FOLDER / "run",
        cache_dir=FOLDER / "replies",
        report=False,
    )
    return FOLDER / "run"


@fuzzed
@given(st.data())
def test_files_of_a_run(data):
    """Read by `show`, `runs`, `resume` and everything that comes after a run."""
    good = finished_run()
    folder = FOLDER / "runs" / "mangled"
    name = data.draw(st.sampled_from(FILES))
    for file in FILES:
        content = (good / file).read_bytes()
        on_disk(f"runs/mangled/{file}", other(data, content) if file == name else content)
    info = attempt(lambda: read_run(folder))
    if info is not None:
        attempt(info.as_json)
        attempt(lambda: info.summary)
        attempt(lambda: info.out)
    list_runs(FOLDER / "runs")
    attempt(lambda: load_run(folder, {}, trust=True))
    attempt(lambda: load_run(folder, {}, trust=True).journal())
    attempt(lambda: replay(folder, good))


def replay(folder: Path, good: Path) -> None:
    with existing_folder(folder) as (opened, _):
        for line in (good / JOURNAL).read_bytes().splitlines():
            opened.journal.add(json.loads(line))


def other(data: st.DataObject, content: bytes) -> bytes:
    if data.draw(st.booleans()):
        return data.draw(mangled_bytes([content]))
    lines = content.splitlines() if content.startswith(b'{"') else [content]
    number = data.draw(st.integers(0, len(lines) - 1))
    lines[number] = json.dumps(mangled(data.draw, json.loads(lines[number]))).encode()
    return b"\n".join(lines) + b"\n"


@fuzzed
@given(st.data())
def test_probe_records(data):
    host = Scripted()
    record = ProbeRecord("p", "m", {}, LABELS, "usable", (), 1, "2026-01-01", "1")
    path = save_record(FOLDER / "cache", host, record)
    good = path.read_bytes()
    path.write_bytes(other(data, good))
    found = attempt(lambda: find_record(FOLDER / "cache", host))
    assert found is None or json.dumps(asdict(found))
