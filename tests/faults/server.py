"""A host that fails on purpose: a real HTTP server on loopback that does to its replies what hosts and networks do.

Its answers depend on the prompt alone, so a reply that reached the wrong question is a wrong number in a test.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import log
from typing import Any, Literal, TypeAlias

MODEL = "m"


def share(prompt: str) -> float:
    """The probability that this host's model gives to " True": any number, but always the same."""
    return 0.05 + 0.9 * int.from_bytes(sha256(prompt.encode()).digest()[:4], "big") / 2**32


def good(body: Mapping[str, Any]) -> dict[str, Any]:
    """What `/completions` answers in full health."""
    true = share(body["prompt"])
    listed = {" True": log(0.99 * true), " False": log(0.99 * (1 - true)), " maybe": log(0.005)}
    usage = {"prompt_tokens": max(1, len(body["prompt"]) // 4), "completion_tokens": 1}
    choice = {"index": 0, "text": " True", "logprobs": {"top_logprobs": [listed]}, "finish_reason": "length"}
    return {"id": "cmpl-1", "object": "text_completion", "model": MODEL, "choices": [choice], "usage": usage}


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply and how it comes."""

    body: bytes | Mapping[str, Any] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    sent_bytes: int | None = None
    """How much of the body is sent before the end; None: all."""
    end: Literal["close", "reset", "hang"] = "close"
    """How it ends: a hang lasts until the server closes."""
    drip_s: float = 0.0
    """Pause after each byte."""
    delay_s: float = 0.0
    silent: bool = False
    """Not even a status line."""

    @property
    def payload(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


def refusal(status: int, message: str = "no", *, code: str | None = None, **headers: str) -> Reply:
    """An error reply in OpenAI's shape; header names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "type": "error", "code": code}}, status, named)


def changed(body: Mapping[str, Any], **choice: Any) -> Reply:
    """A healthy reply with other fields in its choice."""
    reply = good(body)
    return Reply(reply | {"choices": [reply["choices"][0] | choice]})


def gzip_bomb(megabytes: int) -> Reply:
    """So many megabytes of blanks, packed to a thousandth."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = [packer.compress(b" " * 2**20) for _ in range(megabytes)]
    return Reply(b"".join([*parts, packer.flush()]), headers={"Content-Encoding": "gzip"})


Fault: TypeAlias = "Reply | Callable[[Mapping[str, Any]], Reply] | None"
"""None: a healthy reply."""


class FaultServer:
    """Answers request number k (from 0) as `fault(k)` says; with none it is in full health."""

    def __init__(self) -> None:
        self.fault: Callable[[int], Fault] = lambda _: None
        self.prompts: list[str] = []
        """Of all requests, in the order in which they came."""
        self.answered: list[str] = []
        """Prompts that got their answer: what a host would charge for."""
        self.paths: list[str] = []
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._http = _Quiet(("127.0.0.1", 0), _handler(self))
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self.url = f"{self.address}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def once(self, fault: Fault) -> None:
        self.fault = lambda number: fault if number == 0 else None

    def always(self, fault: Fault) -> None:
        self.fault = lambda _: fault

    def from_the(self, first: int, fault: Fault) -> None:
        self.fault = lambda number: fault if number >= first else None

    def reply_to(self, path: str, body: Mapping[str, Any]) -> Reply:
        with self._lock:
            number = len(self.prompts)
            self.prompts.append(body["prompt"])
            self.paths.append(path)
            fault = self.fault(number)
            if fault is None:
                self.answered.append(body["prompt"])
        if fault is None:
            return Reply(good(body))
        return fault if isinstance(fault, Reply) else fault(body)

    def wait(self, seconds: float | None = None) -> None:
        self._closing.wait(seconds)

    def close(self) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no news."""


def _handler(server: FaultServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._send(server.reply_to(self.path, body))

        def _send(self, reply: Reply) -> None:
            if reply.delay_s:
                time.sleep(reply.delay_s)
            if not reply.silent:
                self._send_head(reply)
                self._send_body(reply)
            if reply.end == "hang":
                server.wait()
            if reply.end == "reset":
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True

        def _send_head(self, reply: Reply) -> None:
            self.send_response(reply.status)
            given = {"Content-Type": reply.content_type, "Content-Length": str(len(reply.payload)), **reply.headers}
            for name, value in given.items():
                self.send_header(name, value)
            self.end_headers()

        def _send_body(self, reply: Reply) -> None:
            payload = reply.payload[: reply.sent_bytes]
            if not reply.drip_s:
                self.wfile.write(payload)
                return
            for byte in payload:
                self.wfile.write(bytes((byte,)))
                server.wait(reply.drip_s)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler
