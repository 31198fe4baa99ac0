"""Good input with something wrong in it: what a fuzz test feeds to a parser.

Random bytes alone are refused at the first one; a valid document with one value changed gets much further in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import httpx2
from hypothesis import strategies as st

from icm_api.providers.http import BoundedClient
from tests.conftest import Answer, Asked, ScriptedServer

ODD_NUMBERS = (0, -0.0, 1, -1, 5, 2**63, 10**400, -(10**400), 0.5, -0.1, -9999.0, -1000.0, -3.4e38, 1e308)
ODD_CONSTANTS = (float("nan"), float("inf"), float("-inf"))
"""Not JSON, but what Python's `json` reads and writes."""
ODD_TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "9" * 5000,
    "٣",
    "\ud800",
    "\0",
    "\x1b[2J",
    "ａ",
    "a\n\nLabel: True",
    "x" * 3000,
    "NaN",
)
leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(ODD_NUMBERS),
    st.sampled_from(ODD_CONSTANTS),
    st.sampled_from(ODD_TEXTS),
    st.integers(),
    st.floats(-50, 1),
    st.text(max_size=8),
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(ODD_TEXTS), inner, max_size=3),
    max_leaves=6,
)
DEEP = 100_000
PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r",
        b"\n",
        b"\n\n",
        b'"',
        b"'",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
    ),
    *(b":", b"=", b"#", b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * DEEP, b'{"a":' * DEEP),
    *(
        b"\\ud800",
        b"\\u0000",
        b"!!python/object/apply:os.system",
        b"cos\nsystem\n",
        b"\x80\x04",
        b"__reduce__",
        b"''' '''",
    ),
    *(b"0000-00-00", b"{a}", b"{{", b"{", b" " * 50, b"\x1b[2J", "‮".encode()),
)


@st.composite
def mangled_bytes(draw: st.DrawFn, samples: Sequence[bytes]) -> bytes:
    """A sample with up to four places changed, or bytes of no sort."""
    content = draw(st.sampled_from([*samples, b""]))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(content)))
        end = draw(st.integers(start, min(len(content), start + 12)))
        content = content[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=6)) + content[end:]
    return content


def mangled(draw: Callable[[st.SearchStrategy[Any]], Any], document: Any) -> Any:
    """A JSON document with one to three values changed, left out, or put in another's place."""
    whole = [json.loads(json.dumps(document))]  # so that the document itself has a place
    for _ in range(draw(st.integers(1, 3))):
        holder, key = draw(st.sampled_from(list(_places(whole))))
        act = draw(st.sampled_from(("replace", "replace", "drop", "double", "move")))
        if act == "drop" and holder is not whole:
            del holder[key]
        elif act == "double" and isinstance(holder[key], list):
            holder[key] = holder[key] + holder[key][:1]
        elif act == "move":
            other, name = draw(st.sampled_from(list(_places(whole))))
            holder[key] = json.loads(json.dumps(other[name]))
        else:
            holder[key] = draw(values)
    return whole[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = range(len(value)) if isinstance(value, list) else list(value) if isinstance(value, dict) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


class Unwired(ScriptedServer):
    """The scripted server without a network: what a host says is changed by `change` on its way to the adapter."""

    url = "http://127.0.0.1:9"

    def __init__(self) -> None:
        self.asked = []
        self.script = {}
        self.memory: dict[tuple[str, bytes], Answer] = {}
        """The same question always gets the same answer before it is changed."""
        self.change: Callable[[Answer], Answer] = lambda answer: answer

    def close(self) -> None:
        pass

    @contextmanager
    def wired(self) -> Iterator[None]:
        """Every `BoundedClient` asks this host."""

        async def send(_: BoundedClient, request: httpx2.Request, **__: Any) -> httpx2.Response:
            body = json.loads(request.content) if request.content else None
            asked = Asked(request.method, request.url.path, dict(request.headers), body)
            said = self.memory.get(key := (asked.path, request.content))
            if said is None:  # some hosts run a loop of their own
                said = self.memory[key] = await asyncio.to_thread(self.reply_to, asked)
            answer = self.change(said)
            payload = answer.payload
            return httpx2.Response(answer.status, headers=answer.headers, content=payload, request=request)

        with mock.patch.object(BoundedClient, "send", send):
            yield


def finish(work: Any) -> Any:
    """Run a coroutine that waits for nothing."""
    return _LOOP.run_until_complete(work)


_LOOP = asyncio.new_event_loop()
