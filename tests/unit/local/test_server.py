"""The parent's side, against a stand-in for the xllamacpp library: no model, no llama.cpp."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from icm_api.errors import ConfigError, ProviderError
from icm_api.local.server import ServerSettings, start_server

LIBRARY = """
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace as Part

ggml_type = Part(GGML_TYPE_F32="f32")
llama_flash_attn_type = Part(LLAMA_FLASH_ATTN_TYPE_DISABLED="off")

def CommonParams():
    return Part(model=Part(), cpuparams=Part(), cpuparams_batch=Part())

def get_system_info():
    return "CPU : STAND-IN = 1 | "

class Server:
    def __init__(self, params):
        print("loading", flush=True)  # C++ code writes to standard output too
        {fate}
        loading = [503, 503]
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                status = loading.pop() if self.path == "/health" and loading else 200
                context = min(params.n_ctx // params.n_parallel, 2048)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps({{"default_generation_settings": {{"n_ctx": context}}}}).encode())
            def log_message(self, *_): pass
        server = ThreadingHTTPServer(params.hostnames and (params.hostnames[0], params.port), Handler)
        self.listening_address = f"http://127.0.0.1:{{server.server_port}}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def library(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Puts the stand-in before the real library in the child; its fate is what happens while it loads."""

    def install(fate: str = "pass") -> None:
        (tmp_path / "xllamacpp.py").write_text(LIBRARY.format(fate=fate))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name)

    install()
    return install


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_server_runs_inside_its_context_and_no_longer(library, model):
    server = start_server(ServerSettings(model, context_tokens=1024))
    with server:
        pid = server.pid
        assert is_running(pid)
        assert server.base_url.startswith("http://127.0.0.1:")
        assert server.context_tokens == 1024
    assert not is_running(pid)


def test_an_exception_inside_ends_the_server(library, model):
    server = start_server(ServerSettings(model))
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    assert not is_running(server.pid)


def test_closing_twice_is_closing_once(library, model):
    with start_server(ServerSettings(model)) as server:
        server.close()
        server.close()


async def test_a_server_can_be_entered_without_blocking_the_loop(library, model):
    async with start_server(ServerSettings(model)) as server:
        pid = server.pid
        assert is_running(pid)
    assert not is_running(pid)


async def test_a_cancelled_start_leaves_no_server(library, model):
    library("time.sleep(60)")
    server = start_server(ServerSettings(model))
    start = asyncio.create_task(server.__aenter__())
    await asyncio.sleep(0)  # the task runs up to its first wait, with the process started
    assert is_running(server.pid)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert not is_running(server.pid)


def test_without_a_wish_the_context_is_what_the_model_has(library, model):
    with start_server(ServerSettings(model)) as server:
        assert server.context_tokens == 2048


def test_more_context_than_the_model_has_is_refused(library, model):
    server = start_server(ServerSettings(model, context_tokens=4096))
    with pytest.raises(ConfigError, match="trained for 2048 tokens of context: 4096 were asked for"), server:
        pass
    assert not is_running(server.pid)


def test_each_slot_has_the_whole_context(library, model):
    with start_server(ServerSettings(model, context_tokens=512, slots=3)) as server:
        assert server.context_tokens == 512


@pytest.mark.parametrize(
    ("fate", "words"),
    [
        (
            "raise RuntimeError('no room for the cache')",
            "stopped with exit code 1. Its last words:.*no room for the cac",
        ),
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL. Its last words:\nloading"),
        ("params.no_such", "AttributeError: .*no_such"),
    ],
    ids=["refusal", "kill", "crash"],
)
def test_a_server_that_dies_while_it_loads_is_told_with_the_end_of_its_log(library, model, fate, words):
    library(fate)
    with pytest.raises(ProviderError, match=f"(?s){words}"), start_server(ServerSettings(model)):
        pass


def test_the_log_that_an_error_repeats_is_bounded(library, model):
    library("sys.stderr.write('noise\\n' * 100_000); raise RuntimeError('the end')")
    with pytest.raises(ProviderError) as failure, start_server(ServerSettings(model)):
        pass
    assert str(failure.value).endswith("the end")
    assert len(str(failure.value).splitlines()) <= 21


def test_a_server_that_is_not_ready_in_time_is_ended(library, model):
    library("time.sleep(60)")
    server = start_server(ServerSettings(model), time_limit_s=0.3)
    with pytest.raises(ProviderError, match=r"was not ready within 0\.3 s"), server:
        pass
    assert not is_running(server.pid)


def test_waiting_tells_when_the_server_ends_by_itself(library, model):
    library("threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGABRT)).start()")
    with pytest.raises(ProviderError, match="was killed by SIGABRT"), start_server(ServerSettings(model)) as server:
        server.wait()


def test_a_missing_file_and_a_missing_library_are_wrong_settings(library, model, monkeypatch):
    with pytest.raises(ConfigError, match="no model file"), start_server(ServerSettings(model.with_name("none.gguf"))):
        pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'icm-api\[local\]'"), start_server(ServerSettings(model)):
        pass


@pytest.mark.parametrize("field", ["slots", "threads", "context_tokens"])
def test_settings_below_one_are_refused(model, field):
    with pytest.raises(ConfigError, match=f"{field} must be at least 1"):
        ServerSettings(model, **{field: 0})


async def identity(settings: ServerSettings) -> str:
    async with start_server(settings) as server:
        return json.dumps(server.identity, sort_keys=True)


async def test_the_identity_tells_what_changes_a_number_and_nothing_else(library, model, tmp_path):
    base = await identity(ServerSettings(model, threads=1))
    assert "STAND-IN" in base
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(model.read_bytes())
    assert await identity(ServerSettings(copy, threads=1)) == base, "neither the path nor the port counts"
    for other in (ServerSettings(model, threads=2), ServerSettings(model, threads=1, slots=2)):
        assert await identity(other) != base
    copy.write_bytes(b"GGUF too")
    assert await identity(ServerSettings(copy, threads=1)) != base
