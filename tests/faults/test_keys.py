"""A planted key is searched for in every byte that the tool leaves behind, plain and in the usual encodings."""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import vcr  # type: ignore[import-untyped]

from icm_api.errors import ProviderError
from icm_api.providers.openai_compat import OpenAICompatible
from icm_api.providers.registry import ENTRIES, ProviderEntry, ProviderSettings, open_provider
from icm_api.types import ChoiceRequest, NextTokenRequest, Prompt, Request, SequenceRequest
from tests.conftest import Answer, Asked, ScriptedServer
from tests.recorded.recording import VCR_CONFIG
from tests.unit.testing import toy

KEY = "sk-planted/0123+4567=89%MARK~key"
VARIABLE = "PLANTED_KEY"
COMPLETIONS = "/v1/completions"
LOUD = """
import logging, sys
logging.basicConfig(level=logging.DEBUG, filename="debug.log")
from icm_api.cli import main
sys.argv[0] = "icm-api"
main()
"""
"""The command line with every logger at its loudest."""


def forms(key: str) -> dict[str, bytes]:
    """How a key may be written. Its letters in base64 depend on where it begins: three cases, less their edges."""
    inner = {
        f"base64 after {lead} bytes": base64.b64encode(b"x" * lead + key.encode() + b"x" * (-(lead + len(key)) % 3))
        for lead in range(3)
    }
    cut = {name: text[4:-4] for name, text in inner.items()}
    return {
        "plain": key.encode(),
        "in JSON": json.dumps(key)[1:-1].encode(),
        "in a URL": quote(key, safe="").encode(),
        "in a form": quote_plus(key).encode(),
        "in hex": key.encode().hex().encode(),
        "its tail": key[-12:].encode(),
        **cut,
        **{f"{name}, URL-safe": text.translate(bytes.maketrans(b"+/", b"-_")) for name, text in cut.items()},
    }


def found(data: bytes) -> list[str]:
    return [name for name, form in forms(KEY).items() if form in data]


@dataclass(frozen=True)
class Left:
    """What a command left behind: its output and every file below its folder."""

    code: int
    output: bytes
    folder: Path

    def places(self) -> list[str]:
        """Where the key stands."""
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        names = "\n".join(str(path) for path in self.folder.rglob("*")).encode()
        said = {"output": self.output, "names of files": names, **{str(path): path.read_bytes() for path in files}}
        return [f"{place}: {form}" for place, data in said.items() for form in found(data)]


class Leaky(ScriptedServer):
    """Fails at times, and then repeats the headers it was sent, as debugging proxies do."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: dict[int, int] = {}
        """Number of a request -> the status that it gets."""
        self.always: int | None = None

    def reply_to(self, asked: Asked) -> Answer:
        status = self.always or self.failing.get(len(self.asked))
        answer = super().reply_to(asked)
        if status is None:
            return answer
        message = f"no: {json.dumps(asked.headers)}"
        return Answer({"error": {"message": message, "type": "server_error", "code": message}}, status)


@pytest.fixture
def leaky() -> Iterator[Leaky]:
    server = Leaky()
    server.answer(COMPLETIONS, toy.complete)
    yield server
    server.close()


def run(folder: Path, *arguments: str) -> Left:
    """A command in a process and home folder of its own."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV") if name in os.environ}
    environ = {
        **kept,
        "HOME": str(folder),
        "ICM_API_CACHE_DIR": str(folder / "cache"),
        VARIABLE: KEY,
        "OPENAI_LOG": "debug",
    }
    done = subprocess.run(
        [sys.executable, "-c", LOUD, *arguments], cwd=folder, env=environ, capture_output=True, check=False, timeout=120
    )
    return Left(done.returncode, done.stdout + done.stderr, folder)


def host(server: Leaky) -> list[str]:
    return [
        "--provider",
        "openai-compatible",
        "--base-url",
        f"{server.url}/v1",
        "--model",
        "toy",
        "--api-key-env",
        VARIABLE,
    ]


def data(folder: Path) -> str:
    rows = [{"id": f"r{i}", "text": f"review number {i}", "gold": bool(i % 2)} for i in range(6)]
    (folder / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "reviews.jsonl"


def test_the_search_finds_a_key_in_every_form(tmp_path):
    for name, form in forms(KEY).items():
        (tmp_path / "left").write_bytes(b"before" + form + b"after")
        assert any(place.endswith(f": {name}") for place in Left(0, b"", tmp_path).places())
    header = b"Basic " + base64.b64encode(b"user:" + KEY.encode())
    assert found(header), "also where it stands inside something longer"
    assert not found(b"an output without it")


def test_a_probe_and_a_run_with_failures_leave_no_key_behind(tmp_path, leaky):
    probe = run(tmp_path, "probe", *host(leaky), "--echo", "--json")
    assert probe.code == 0, probe.output.decode()
    leaky.failing = {len(leaky.asked): 500, len(leaky.asked) + 1: 429}
    labels = ["--task", "classify", "--labels", "False,True", "--method", "zero-shot"]
    done = run(tmp_path, "run", data(tmp_path), *host(leaky), *labels, "--gold-column", "gold", "--json")
    assert done.code == 0, done.output.decode()
    kept = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert kept >= {"debug.log", "labels.jsonl", "summary.json", "cache.db"}
    assert list((tmp_path / "cache" / "probes").iterdir())
    assert json.loads(done.output[done.output.index(b'{"') :].splitlines()[0])["retries"] == 2
    assert all(KEY in asked.headers["authorization"] for asked in leaky.asked), "the key was really sent"
    assert [*probe.places(), *done.places()] == []


@pytest.mark.parametrize("command", ["run", "probe"])
def test_a_refused_key_is_not_shown_even_when_the_host_repeats_it(tmp_path, leaky, command):
    leaky.always = 401
    task = [] if command == "probe" else [data(tmp_path), "--task", "classify", "--labels", "False,True"]
    done = run(tmp_path, command, *task, *host(leaky))
    assert done.code == 4, done.output.decode()
    assert b"[key]" in done.output
    assert done.places() == []


def test_a_key_given_where_only_its_variables_name_belongs_is_not_kept(tmp_path, leaky):
    """A user who writes the key into the flag is told so; the message may name what was typed to nobody but them."""
    arguments = [KEY if each == VARIABLE else each for each in host(leaky)]
    done = run(tmp_path, "run", data(tmp_path), "--task", "classify", "--labels", "False,True", *arguments)
    assert done.code == 2
    assert [place for place in done.places() if not place.startswith("output")] == []
    assert leaky.asked == []


# --- every adapter ------------------------------------------------------------------------------------------

ADAPTERS = [row for row in ENTRIES if row.open and {"base_url", "api_key_env"} <= set(row.takes)]
PROMPT = Prompt("Text: b\nLabel:", (("Text: a\nLabel:", " True"),))
WANTED = (" True", " False")
REQUESTS: tuple[Request[Any], ...] = (
    NextTokenRequest(PROMPT, WANTED),
    SequenceRequest(PROMPT, WANTED),
    ChoiceRequest(PROMPT, WANTED),
)


STATUSES = (200, 401, 500)
NEEDED = {"openrouter": {"order": "somebody"}}
"""Options without which an adapter is not opened."""


@pytest.mark.parametrize("row", ADAPTERS, ids=lambda row: row.name)
async def test_no_adapter_shows_its_key(leaky, caplog, row):
    """Neither in errors and their tracebacks, nor in what it says of itself, nor in any log."""
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    for leaky.always in STATUSES:
        said += await all_that_it_says(row, f"{leaky.url}/v1")
    assert any(KEY in value for asked in leaky.asked for value in asked.headers.values()), "the key was really sent"
    logged = [record.getMessage() + repr(record.exc_info) for record in caplog.records]
    assert found("\n".join([*said, *logged]).encode()) == []


async def all_that_it_says(row: ProviderEntry, base_url: str) -> list[str]:
    """Of an adapter and of its failures, one for each kind of request."""
    settings = ProviderSettings(
        model="m" if "model" in row.takes else None,
        base_url=base_url,
        api_key_env=VARIABLE,
        options=NEEDED.get(row.name, {}),
    )
    try:
        provider = await open_provider(row.name, settings, {VARIABLE: KEY})
    except ProviderError as error:
        return all_of(error)
    said = [repr(provider), repr(provider.identity), repr(provider.capabilities), repr(settings)]
    for request in REQUESTS:
        with pytest.raises(ProviderError) as failure:
            await provider.send(request)
        said += all_of(failure.value)
    await provider.aclose()
    return said


def all_of(error: Exception) -> list[str]:
    return ["".join(traceback.format_exception(error)), repr(error), repr(vars(error))]


# --- cassettes ----------------------------------------------------------------------------------------------


async def test_a_recording_keeps_no_key(leaky, tmp_path):
    cassette = tmp_path / "recorded.yaml"
    recorder = vcr.VCR(**VCR_CONFIG, record_mode="all")
    provider = OpenAICompatible(base_url=f"{leaky.url}/v1", model="toy", api_key=KEY)
    with recorder.use_cassette(str(cassette)):
        await provider.send(NextTokenRequest(PROMPT, WANTED))
    await provider.aclose()
    assert KEY in leaky.asked[0].headers["authorization"]
    assert "Label:" in cassette.read_text(), "the exchange was recorded"
    assert found(cassette.read_bytes()) == []
