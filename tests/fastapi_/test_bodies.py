"""L6: bodies at their limit, beyond it, without end, and all of them together."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from feed.fastapi.http.bodies import Bodies
from feed.fastapi.http.problems import Refused
from tests.support.hostile import MEGABYTE, Raw, memory, raw, unharmed
from tests.support.running import RunningServer, running
from tests.support.streams import eventually

pytestmark = pytest.mark.anyio

MAX_BODIES = 8 * MEGABYTE
POST = b"POST /events/%b HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running("--log", "memory:", max_bodies="8M", max_data="4M", max_body="4M", body_timeout="2s") as shared:
        shared.publish("warm", b"x" * 4_000_000)
        yield shared


def part_of_a_body(connection: Raw, size: int) -> None:
    connection.send(POST % b"hostile" + b"Content-Length: 4000000\r\n\r\n" + b"x" * size)


def test_bodies_in_sum_are_503_beyond_the_limit_and_small_ones_still_come_through(server: RunningServer) -> None:
    size = memory(server)
    with ExitStack() as stack:
        clients = [stack.enter_context(raw(server)) for _ in range(10)]
        for client in clients:
            part_of_a_body(client, 1_500_000)
        # Three quarters of 8 MiB hold four of these; which of them, is up to the order in which they are read.
        sockets = {client.socket: client for client in clients}
        answered = eventually(lambda: len(found := select.select(sockets, [], [], 0)[0]) >= 4 and found)
        refused = [sockets[socket].rest() for socket in answered]
        assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in refused)
        assert all(b"retry-after: 1" in answer.lower() for answer in refused)
        assert all(b"problem+json" in answer for answer in refused)
        server.publish("small", b"x" * 50_000)
        assert memory(server) - size < 40 * MEGABYTE
    server.publish("large", b"x" * 4_000_000)  # all have been let go
    assert server.history("hostile")["events"] == []


@pytest.mark.parametrize("how", ["left", "late", "broken", "too large"])
def test_the_room_is_given_back_however_a_body_ends(server: RunningServer, how: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(raw(server)) for _ in range(3)]
        for client in clients:
            if how in ("broken", "too large"):
                client.send(POST % b"hostile" + b"Transfer-Encoding: chunked\r\n\r\n177000\r\n" + b"x" * 0x177000)
                client.send(b"\r\nbroken\r\n" if how == "broken" else b"\r\n300000\r\n" + b"x" * 0x300000)
            else:
                part_of_a_body(client, 1_500_000)
            if how == "left":
                client.socket.close()
            else:
                answer = client.rest() if how != "late" else b""
                assert how == "late" or answer.startswith(b"HTTP/1.1 4")
        if how == "late":
            assert [client.rest()[:13] for client in clients] == [b"HTTP/1.1 408 "] * 3
        # Six of them would not fit beside each other.
        eventually(lambda: server.http.post(f"{server.url}/events/large", content=b"x" * 4_000_000).status_code == 201)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(4 * MEGABYTE, b"201"), (4 * MEGABYTE + 1, b"413")])
def test_l6_a_body_at_the_limit_and_one_byte_over(
    server: RunningServer, size: int, status: bytes, chunked: bool
) -> None:
    with raw(server) as client:
        if chunked:
            client.send(POST % b"limit" + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
            client.send(b"%x\r\n" % size + b"x" * size + b"\r\n0\r\n\r\n")
        else:
            client.send(POST % b"limit" + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        assert client.rest().startswith(b"HTTP/1.1 " + status)


ENDLESS = {
    "chunks": b"4000\r\n" + b"x" * 0x4000 + b"\r\n",
    "one chunk": b"x" * 0x4000,
    "chunks of one byte": b"1\r\nx\r\n" * 4_000,
    "a chunk extension": b";" + b"x" * 0x4000,
    "a chunk's size": b"0" * 0x4000,
    "trailers": b"X-Trailer: x\r\n" * 1_000,
    "one trailer": b"x" * 0x4000,
}
BEGIN = {
    "one chunk": b"ffffffffffff\r\n",
    "a chunk extension": b"1",
    "trailers": b"1\r\nx\r\n0\r\n",
    "one trailer": b"0\r\nX:",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_l6_what_has_no_end_is_refused_while_it_streams_in(server: RunningServer, name: str) -> None:
    with unharmed(server, growth=24 * MEGABYTE), raw(server) as client:
        client.send(POST % b"hostile" + b"Transfer-Encoding: chunked\r\n\r\n" + BEGIN.get(name, b""))
        client.flood(ENDLESS[name], 12 * MEGABYTE)
        assert client.receive().startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 ", b"HTTP/1.1 408 "))


# By itself, without a server.


def request(*messages: dict[str, Any], length: str = "") -> Request:
    waiting = list(messages)

    async def receive() -> dict[str, Any]:
        if not waiting:
            await asyncio.Event().wait()
        message = waiting.pop(0)
        if message.pop("later", False):
            await asyncio.sleep(0.01)
        return message

    headers = [(b"content-length", length.encode())] if length else []
    return Request({"type": "http", "method": "POST", "headers": headers}, receive)


def part(body: bytes, *, more: bool = False, later: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more, "later": later}


GONE = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"abc")],
        [part(b"abc", later=True)],
        [part(b"", more=True), part(b"ab", more=True, later=True), part(b"c", later=True)],
        [part(b"ab", more=True, later=True), part(b"c", more=True), part(b"")],
    ],
)
async def test_a_body_is_whole_however_it_comes_and_holds_its_room_while_it_is_handled(messages: Any) -> None:
    bodies = Bodies(100)
    async with bodies.read(request(*messages), "data", 3) as body:
        assert body == b"abc"
        assert bodies.held == 3
    assert bodies.held == 0


@pytest.mark.parametrize(
    ("messages", "length", "status"),
    [
        ([], "4", 413),
        ([], "9" * 30, 413),
        ([part(b"abcd")], "", 413),
        ([part(b"ab", more=True), part(b"cd", more=True)], "", 413),
        ([part(b"ab", more=True)], "", 408),
        ([], "", 408),
    ],
)
async def test_a_refusal_leaves_nothing_held(messages: Any, length: str, status: int) -> None:
    bodies = Bodies(100, seconds=0.05)
    with pytest.raises(Refused) as refused:
        async with bodies.read(request(*messages, length=length), "data", 3):
            pass
    assert refused.value.response.status_code == status
    assert bodies.held == 0


async def test_what_comes_in_pieces_leaves_a_quarter_to_what_comes_at_once() -> None:
    bodies = Bodies(100)
    async with bodies.read(request(part(b"x" * 40, more=True), part(b"x" * 35)), "data", 1_000):
        for messages, status in (([part(b"x", more=True)], 503), ([part(b"x" * 26)], 503)):
            with pytest.raises(Refused) as refused:
                async with bodies.read(request(*messages), "data", 1_000):
                    pass
            assert refused.value.response.status_code == status
            assert refused.value.response.headers["retry-after"] == "1"
        async with bodies.read(request(part(b"x" * 25)), "data", 1_000):
            assert bodies.held == 100
    assert bodies.held == 0


@pytest.mark.parametrize("messages", [[GONE], [part(b"ab", more=True), GONE]])
async def test_a_client_that_leaves_gives_back_its_room(messages: Any) -> None:
    bodies = Bodies(100)
    with pytest.raises(ClientDisconnect):
        async with bodies.read(request(*messages), "data", 10):
            pass
    assert bodies.held == 0


async def test_a_cancelled_reading_or_handling_gives_back_its_room() -> None:
    bodies = Bodies(100)

    async def handle(*messages: Any) -> None:
        async with bodies.read(request(*messages), "data", 10):
            await asyncio.Event().wait()

    for messages in ([part(b"ab", more=True)], [part(b"ab")], [part(b"ab", later=True)]):
        task = asyncio.create_task(handle(*messages))
        await asyncio.sleep(0.05)
        assert bodies.held == 2
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bodies.held == 0
