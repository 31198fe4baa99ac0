"""`make record`, against stand-ins on loopback: nothing secret is written, and only whole recordings are."""

import gzip
import json
from typing import Any

import httpx2
import pytest
import yaml
from pytest_recording.network import blocking_context

from icm_api.config import ProviderConfig
from icm_api.errors import AuthError, BudgetError, ConfigError, DataError
from tests.conftest import Answer
from tests.recorded.__main__ import main
from tests.recorded.recording import ELSEWHERE, SECRET, _elsewhere, _is_own, play, record, without_ids
from tests.servers.gemini import Gemini
from tests.servers.learner import Learner
from tests.servers.openai_shaped import OpenAIShaped
from tests.servers.together import Together, limited, refused

KEY = "planted-key-0123456789"
PLANTED = "planted-name"
GZIP = {"content-encoding": "gzip", "content-type": "application/json"}
LABELS = (" True", " False")
ROUTE = "/v1/completions"
ENVIRON = {"MY_KEY": KEY}


@pytest.fixture
def config(server) -> ProviderConfig:
    settings = {"provider": "together", "model": "open-model", "base_url": f"{server.url}/v1", "api_key_env": "MY_KEY"}
    return ProviderConfig.model_validate({**settings, "max_usd": "0.05", "price": "0.1/0.1"})


@pytest.fixture
def file(tmp_path):
    return tmp_path / "cassettes" / "together.yaml"


async def no_wait(_seconds: float) -> None:
    pass


def tagged(body: dict[str, Any]) -> Answer:
    """A reply with all that must not be kept."""
    ids = {"id": PLANTED, "request_id": PLANTED, "organization": PLANTED, "user": {"email": PLANTED}}
    headers = dict.fromkeys(("set-cookie", "x-request-id", "openai-organization", "cf-ray"), PLANTED)
    return Answer({**Together(LABELS).completion(body), **ids}, headers=headers)


async def play_alone(server, file) -> None:
    server.close()
    with blocking_context():
        await play(file)


async def test_what_is_recorded_plays_with_the_network_shut_and_tells_nothing_of_who_asked(server, config, file):
    server.answer(ROUTE, tagged)
    spent = await record(config, ENVIRON, file)
    text = file.read_text()
    assert {asked.headers["authorization"] for asked in server.asked} == {f"Bearer {KEY}"}
    assert not [word for word in (KEY, PLANTED, "127.0.0.1") if word in text]
    assert not SECRET.search(text)
    assert spent.requests == len(server.asked) == len(yaml.safe_load(text)["interactions"])
    assert yaml.safe_load(text)["metadata"]["checks"]["prompt log-probs"].startswith("ok")
    await play_alone(server, file)


@pytest.mark.parametrize(
    ("provider", "route"),
    [("together", "chat"), ("openai", "chat"), ("openai", "votes"), ("fireworks", None), ("azure", "chat")],
)
async def test_every_dialect_is_recorded_and_played(server, config, file, provider, route):
    host = Together(LABELS) if provider == "together" else OpenAIShaped(Learner(LABELS))
    host.serve(server)
    await record(config.model_copy(update={"provider": provider, "route": route}), ENVIRON, file)
    await play_alone(server, file)


async def test_a_host_that_is_no_openai_is_recorded_and_played(server, config, file):
    Gemini(Learner(LABELS), model="open-model").serve(server)
    address = {"provider": "gemini", "base_url": f"{server.url}/v1beta"}
    await record(config.model_copy(update=address), ENVIRON, file)
    await play_alone(server, file)


async def test_a_host_without_usable_numbers_is_recorded_without_the_account_it_names(server, config, file):
    server.answer("/v1/chat/completions", refused(400, "logprobs are not open to org-abcdef0123"))
    await record(config.model_copy(update={"provider": "openai"}), ENVIRON, file)
    recorded = yaml.safe_load(file.read_text())["metadata"]["checks"]
    assert recorded["log-probs"].startswith("fail: ")
    assert "abcdef" not in file.read_text()
    await play_alone(server, file)


async def test_a_compressed_reply_is_kept_as_text(server, config, file):
    def packed(body: dict[str, Any]) -> Answer:
        return Answer(gzip.compress(json.dumps(Together(LABELS).completion(body)).encode()), headers=GZIP)

    server.answer(ROUTE, packed)
    await record(config, ENVIRON, file)
    assert '"token_logprobs"' in file.read_text()
    await play_alone(server, file)


async def test_a_failure_that_passes_is_not_kept(server, config, file):
    Together(LABELS).serve(server, limited(0), refused(503, "overloaded"))
    await record(config, ENVIRON, file, sleep=no_wait)
    assert len(yaml.safe_load(file.read_text())["interactions"]) == len(server.asked) - 2
    await play_alone(server, file)


ACCOUNT = "0a1b2c3d4e5f"
ACCOUNTS = f"/client/v4/accounts/{ACCOUNT}/ai/v1"


@pytest.mark.parametrize("written", ["{}", "HTTP://{}", "{}/"])
async def test_the_account_in_a_path_is_not_kept(server, config, file, written):
    server.answer(f"{ACCOUNTS}/completions", Together(LABELS).completion)
    address = written.format(f"{server.url.removeprefix('http://') if '//' in written else server.url}{ACCOUNTS}")
    await record(config.model_copy(update={"base_url": address}), ENVIRON, file)
    text = file.read_text()
    assert not [word for word in (ACCOUNT, "127.0.0.1", "accounts") if word in text]
    assert yaml.safe_load(text)["metadata"]["settings"]["base_url"].rstrip("/") == "https://recorded.invalid/v1"
    await play_alone(server, file)


@pytest.mark.parametrize(
    "base_url", ["https://Models.ACME.example/team-7/v1", "https://models.acme.example:443/team-7/v1/"]
)
def test_an_address_is_found_in_capitals_and_with_the_port_that_goes_without_saying(base_url):
    kept = f"base_url: {base_url}\nuri: https://models.acme.example/team-7/v1/completions\n"
    cleaned = _elsewhere(kept, httpx2.URL(base_url))
    assert cleaned.replace("/v1/\n", "/v1\n") == f"base_url: {ELSEWHERE}/v1\nuri: {ELSEWHERE}/v1/completions\n"


@pytest.mark.parametrize(
    ("base_url", "own"),
    [
        (None, False),
        ("https://api.together.ai/v1", False),
        ("https://API.together.ai:443/v1/", False),
        ("https://api.together.ai/team-7/v1", True),
        ("https://api.together.ai.example/v1", True),
    ],
)
def test_the_public_address_of_a_listed_provider_is_nobodys_own(base_url, own):
    assert _is_own(base_url) is own


def test_a_host_named_by_a_common_word_may_be_a_providers_name_and_no_address():
    address = httpx2.URL("http://vllm:8000/v1")
    assert _elsewhere("provider: vllm\n", address) == "provider: vllm\n"
    with pytest.raises(ConfigError, match="a part of base_url"):
        _elsewhere("see http://vllm:9000/docs\n", address)


# --- what leaves no recording -----------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "the last recording"])
async def test_the_cap_ends_a_recording_that_would_pass_it_and_keeps_nothing_of_it(server, config, file, before):
    Together(LABELS).serve(server)
    if before:
        file.parent.mkdir()
        file.write_text(before)
    dear = config.model_copy(update={"price": "50/50"})
    with pytest.raises(BudgetError, match="max_usd"):
        await record(dear, ENVIRON, file)
    assert 0 < len(server.asked) < 6, "it ended on the way"
    assert [path.read_text() for path in file.parent.glob("*")] == ([before] if before else [])


async def test_without_a_known_price_nothing_is_asked(config, file):
    unknown = config.model_copy(update={"base_url": "https://unknown.example/v1", "price": None})
    with pytest.raises(ConfigError, match=r"no price is known.*--price"):
        await record(unknown, ENVIRON, file)
    assert not file.exists()


async def test_without_a_limit_nothing_is_asked(server, config, file):
    with pytest.raises(ConfigError, match="--max-usd"):
        await record(config.model_copy(update={"max_usd": None}), ENVIRON, file)
    assert server.asked == []


async def test_a_host_that_repeats_the_key_is_not_recorded(server, config, file):
    server.answer(ROUTE, lambda body: {**Together(LABELS).completion(body), "note": f"hello {KEY}"})
    with pytest.raises(ConfigError, match="repeats the key") as refusal:
        await record(config, ENVIRON, file)
    assert KEY not in str(refusal.value)
    assert not file.exists()


@pytest.mark.parametrize("note", [f"billed to {ACCOUNT.upper()}", "served by 127.0.0.1 today"])
async def test_a_host_that_repeats_a_part_of_the_users_address_is_not_recorded(server, config, file, note):
    answered = lambda body: {**Together(LABELS).completion(body), "note": note}  # noqa: E731
    server.answer(f"{ACCOUNTS}/completions", answered)
    with pytest.raises(ConfigError, match="a part of base_url: nothing was written"):
        await record(config.model_copy(update={"base_url": f"{server.url}{ACCOUNTS}"}), ENVIRON, file)
    assert not file.exists()


async def test_a_host_that_fails_on_the_way_leaves_nothing(server, config, file):
    completion = Together(LABELS).completion
    server.answer(ROUTE, completion, completion, refused(401, f"no such key: {KEY}"))
    with pytest.raises(AuthError):
        await record(config, ENVIRON, file)
    assert not file.exists()


async def test_a_provider_without_http_is_not_recorded(config, file):
    for provider in ("synthetic", "local", "my.module:Class"):
        with pytest.raises(ConfigError, match="cannot be recorded; those that can: llama-cpp"):
            await record(config.model_copy(update={"provider": provider}), ENVIRON, file)


def test_the_command_says_that_a_recording_ended_by_its_limit_begins_anew(server, monkeypatch, capsys, file):
    monkeypatch.setattr("tests.recorded.__main__.HOSTS", file.parent)
    Together(LABELS).serve(server)
    environ = {**ENVIRON, "ICM_API_API_KEY_ENV": "MY_KEY", "ICM_API_BASE_URL": f"{server.url}/v1"}
    command = ["--provider", "together", "--model", "m", "--price", "50/50"]
    assert main(command, environ) == 3
    assert "of the $0.05 allowed were spent" in capsys.readouterr().err
    assert main([*command, "--max-usd", "5"], environ) == 0
    assert f"{file}: 10 requests" in capsys.readouterr().out


def test_the_command_says_in_a_in_a_sentence_why_it_recorded_nothing(capsys):
    assert main(["--provider", "together"], {}) == 2
    assert capsys.readouterr().err == "nothing recorded: provider 'together' needs --model\n"
    assert main(["--provider", "together", "--model", "m"], {}) == 2
    assert "TOGETHER_API_KEY, which is not set" in capsys.readouterr().err


# --- what playing notices ---------------------------------------------------------------------------------


@pytest.fixture
async def changed(server, config, file):
    """A recording of which something is changed, with the network shut."""
    Together(LABELS).serve(server)
    await record(config, ENVIRON, file)
    server.close()

    def change(edit: Any) -> None:
        document = yaml.safe_load(file.read_text())
        edit(document)
        file.write_text(yaml.safe_dump(document))

    with blocking_context():
        yield change


def another_body(document: Any) -> None:
    request = document["interactions"][0]["request"]
    request["body"] = request["body"].replace("Water", "Milk").replace("number", "letter")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (another_body, "what is asked now is not what was recorded"),
        (lambda document: document["interactions"].pop(), "what is asked now is not what was recorded"),
        (lambda document: document["interactions"].append(document["interactions"][0]), "recorded replies were asked"),
        (lambda document: document["metadata"]["checks"].popitem(), "the replies are read as"),
        (lambda document: document.pop("metadata"), "says nothing of how it was recorded"),
    ],
)
async def test_a_recording_that_is_not_whole_or_not_as_it_was_does_not_play(changed, file, edit, said):
    changed(edit)
    with pytest.raises(DataError, match=said):
        await play(file)


def test_ids_go_and_what_the_model_said_stays():
    said: Any = {"id": "chatcmpl-1", "model": "m", "data": [{"id": "m", "object": "model"}], "tokens": [{"id": 7}]}
    error: Any = {"error": {"message": "no access for org-abcdef12 in proj_abcdef12", "type": "x"}, "requestId": "r"}
    assert without_ids([said, error]) == [
        {**said, "id": "removed"},
        {"error": {"message": "no access for removed in removed", "type": "x"}, "requestId": "removed"},
    ]
