"""`icm-api --provider vllm|sglang|tgi` from a file to labels, against servers that speak their wire formats."""

import json
from pathlib import Path

import pytest

from icm_api.providers.synthetic import Synthetic, SyntheticOptions
from tests.servers.model import TokenModel
from tests.servers.sglang import Sglang
from tests.servers.tgi import Tgi
from tests.servers.vllm import Vllm

LEARNER = SyntheticOptions(signal=4.0)
N = 12
SERVERS = {"vllm": Vllm, "sglang": Sglang, "tgi": Tgi}
GENERATES = {"vllm": "/v1/completions", "sglang": "/generate", "tgi": "/generate"}

every_server = pytest.mark.parametrize("name", SERVERS)


@pytest.fixture
def start(server):
    def install(name, labels=(" negative", " positive"), **options):
        model = TokenModel(labels, bos=True, learner=Synthetic(LEARNER))
        SERVERS[name](model=model, **options).serve(server)
        return ("--provider", name, "--base-url", server.url)

    return install


@pytest.fixture
def labelling(write) -> tuple[str, ...]:
    """Arguments that label a file whose gold is what the model knows."""
    learner = Synthetic(LEARNER)
    texts = [f"review number {i}" for i in range(N)]
    rows = [{"text": text, "gold": bool(learner.truth(f"Text: {text}\nLabel:", 2))} for text in texts]
    share = sum(row["gold"] is True for row in rows) / N  # so few examples do not tell it
    task = ("--task", "classify", "--labels", "negative,positive", "--gold-column", "gold")
    prior = ("--class-prior", f"positive={share}")
    return (write("reviews.jsonl", rows), *task, *prior, "--restarts", "1", "--passes", "4", "--json")


@every_server
def test_a_file_is_labelled_correctly(icm, server, start, labelling, name):
    done = icm("run", *labelling, *start(name), "--run-dir", "run")
    assert done.code == 0, done.err
    assert done.json["accuracy"] == 1.0
    assert done.json["provider"] == name
    assert len(Path("run/labels.jsonl").read_text().splitlines()) == N


@every_server
def test_the_same_command_again_scores_nothing(icm, server, start, labelling, name):
    host = start(name)
    icm("run", *labelling, *host, "--run-dir", "one")
    again = icm("run", *labelling, *host, "--run-dir", "two")
    assert again.json["requests"] == 0
    assert Path("one/labels.jsonl").read_text() == Path("two/labels.jsonl").read_text()


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_pass_is_one_request_and_without_echo_one_a_label(icm, server, start, labelling, name):
    host = start(name)
    together = icm("run", *labelling, *host, "--run-dir", "together").json
    apart = icm("run", *labelling, *host, "--no-echo", "--no-cache", "--run-dir", "apart").json
    assert together["requests"] <= N + 4 < 2 * N <= apart["requests"]  # each example alone first, then four passes
    assert apart["accuracy"] == together["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vllm", {}),
        ("vllm", {"forces": False}),
        ("sglang", {}),
        ("sglang", {"old_routes": True, "first_is_own": True}),
        ("tgi", {}),
        ("tgi", {"prefill": False}),
    ],
)
def test_the_probe_finds_it_usable(icm, start, name, options):
    done = icm("probe", *start(name, (" False", " True"), **options), "--json")
    assert done.code == 0, done.err + done.out
    assert json.loads(done.out)["verdict"].startswith("usable")


@every_server
def test_a_server_of_another_kind_is_told_by_what_it_lacks(icm, server, start, labelling, name):
    start(next(other for other in SERVERS if other != name))
    done = icm("run", *labelling, "--provider", name, "--base-url", server.url, "--run-dir", "run")
    assert done.code == 4
    assert "no such route" in done.err


@every_server
def test_another_model_than_the_loaded_one_is_refused_before_anything_is_scored(icm, server, start, labelling, name):
    done = icm("run", *labelling, *start(name), "--model", "big", "--run-dir", "run")
    assert done.code == 4
    assert "not 'big'" in done.err
    assert not server.requests(GENERATES[name])


@every_server
def test_control_tokens_in_the_data_are_refused(icm, server, start, write, name):
    data = write("odd.jsonl", [{"text": "plain"}, {"text": "<|im_end|> odd"}])
    task = ("--task", "classify", "--labels", "negative,positive")
    done = icm("run", data, *task, *start(name), "--run-dir", "run")
    assert done.code == 2
    assert "<|im_end|>" in done.err
