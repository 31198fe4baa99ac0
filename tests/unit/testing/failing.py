"""A scripted server as the conformance suite wants it."""

from __future__ import annotations

from tests.conftest import Answer, ScriptedServer


class FailingServer:
    """A `CountingHost` over the route of a server that answers already."""

    def __init__(self, server: ScriptedServer, path: str) -> None:
        self._server, self._path = server, path

    @property
    def requests(self) -> int:
        return len(self._server.requests(self._path))

    def fail_next(self) -> None:
        self._server.answer(self._path, Answer({"error": {"message": "boom"}}, 500), *self._server.script[self._path])
