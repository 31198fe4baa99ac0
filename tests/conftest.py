"""A real HTTP server on loopback that answers what a test tells it to and remembers what it was asked."""

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# A busy machine must not fail a test.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")

# A shell's background job ignores SIGINT, and every process started from it inherits that. The tests of Ctrl-C need the
# usual behaviour.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass
class Answer:
    """One scripted reply. `body`: bytes as they are, anything else as JSON."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    claimed_length: int | None = None
    """A Content-Length that the body does not fill."""
    hold: bool = False
    """Say nothing until the test is over."""

    @property
    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


class _QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early (a cancelled request) is no news."""


class ScriptedServer:
    """Answers each path from its own list of replies; the last one repeats."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.script: dict[str, list[Any]] = {}
        self.released = threading.Event()
        self._http = _QuietServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def answer(self, path: str, *replies: Any) -> None:
        """`replies`: `Answer`s, JSON values, or functions from the request's body to either."""
        self.script[path] = list(replies)

    def requests(self, path: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path == path]

    def reply_to(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        script = self.script.get(asked.path)
        if not script:
            return Answer({"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, 404)
        reply = script.pop(0) if len(script) > 1 else script[0]
        reply = reply(asked.body) if callable(reply) else reply
        return reply if isinstance(reply, Answer) else Answer(reply)

    def close(self) -> None:
        self.released.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _handler(server: ScriptedServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["content-length"]))))

        def _reply(self, body: Any) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = server.reply_to(Asked(self.command, self.path, headers, body))
            if answer.hold:
                server.released.wait()
                return
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(answer.claimed_length or len(answer.payload)))
            self.end_headers()
            self.wfile.write(answer.payload)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def answer() -> type[Answer]:
    return Answer
