"""What is compared is the same: every route is answered, and the bare loop asks for what the adapter asked for."""

import asyncio
import json

import pytest

from benchmarks.client_overhead import AnswerAtOnce, asked
from benchmarks.route_overhead import LABELS, LARGE, READINGS, ROUTES, Route, recorded


@pytest.mark.parametrize("route", [route for route in ROUTES if route.sent_fewer < LARGE], ids=lambda route: route.name)
async def test_a_request_behind_the_first_is_one_exchange_with_a_reply_kept_for_it(route: Route):
    replies, exchanges = await recorded(route)
    assert len(exchanges) == 1
    assert replies[asked(exchanges[0].path, exchanges[0].document)] == exchanges[0].reply


@pytest.mark.parametrize("name", READINGS)
def test_a_reply_that_is_read_holds_the_labels_everywhere(name: str):
    document, read = READINGS[name]
    found = read(json.loads(json.dumps(document)))
    lists = [position.candidates for position in found] if "echo" in name else [found]
    assert all(set(LABELS) <= {candidate.text for candidate in listed} for listed in lists)
    assert len(lists) >= (256 if "echo" in name else 1)


async def test_the_loopback_server_answers_by_path_and_document_even_when_they_come_in_pieces():
    replies = {asked("/a", {"x": 1, "y": 2}): b"first", asked("/b", None): b"second"}
    server = await asyncio.get_running_loop().create_server(lambda: AnswerAtOnce(replies), "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        body = b'{"y":2,"x":1}'
        for piece in (b"POST /a HTTP/1.1\r\ncontent-le", b"ngth: %d\r\n\r\n" % len(body), body):
            writer.write(piece)
            await writer.drain()
        assert await reader.readexactly(5) == b"first"
        writer.write(b"GET /b HTTP/1.1\r\n\r\n")
        assert await reader.readexactly(6) == b"second"
        writer.close()
