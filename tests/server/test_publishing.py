"""Publishes that our own server answers without its routes: many on one connection, slow ones, and those that end in
the middle."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from feed import Feed
from feed.log.contract import Appended
from tests.support.crowd import until
from tests.support.inside import Inside, serving
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.anyio

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The server's own loop."""
    return "asyncio", {"use_uvloop": True}


def post(topic: str, body: bytes = b"x", *headers: str) -> bytes:
    lines = [f"POST /events/{topic} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextlib.asynccontextmanager
async def connected(inside: Inside) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection for as long as the block lasts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", inside.port, limit=1 << 22)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The next one: its head and its body."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
    found = re.search(rb"content-length: (\d+)", head)
    assert found, head
    return head, await asyncio.wait_for(reader.readexactly(int(found[1])), 20)


class Held:
    """Holds up what a feed appends, until `go`."""

    def __init__(self, feed: Feed) -> None:
        self.go = asyncio.Event()
        self.begun = 0
        append = feed.append

        async def held(drafts: Any, key: Any = None) -> Appended:
            self.begun += 1
            await self.go.wait()
            return await append(drafts, key)

        feed.append = held  # type: ignore[method-assign]


@pytest.mark.parametrize(("log", "count"), [("memory:", 10_000), ("sqlite:", 300)])
async def test_many_publishes_on_one_connection_are_answered_in_order_and_hold_up_nobody(
    log: str, count: int, tmp_path: Path
) -> None:
    """In between there are requests for the routes, and heads that differ."""
    log = f"{log}{tmp_path / 'feed.db'}" if log == "sqlite:" else log
    async with serving(log=log) as inside, connected(inside) as (reader, writer), connected(inside) as other:
        requests = [
            HEALTH
            if number % 100 == 50
            else post(f"a/{number % 7}", b"%d" % number, *([f"Idempotency-Key: {number}"] if number % 10 == 3 else []))
            for number in range(count)
        ]
        writer.write(b"".join(requests))
        other[1].write(HEALTH)
        assert b" 200 OK" in (await answer(other[0]))[0]
        assert inside.feed.running is not None
        assert inside.feed.running.log.position < count * 0.9, "the others had their turn"
        seqs = []
        for request in requests:
            head, body = await answer(reader)
            if request is HEALTH:
                assert b" 200 OK" in head
            else:
                assert b" 201 Created" in head
                seqs.append(int(body.split(b'"')[3].rpartition(b"-")[2]))
        assert seqs == list(range(1, len(seqs) + 1))
        page = await inside.feed.page("**", last=1)
        assert page.events[0].text == str(count - 1)


async def test_a_client_that_reads_no_answers_is_not_served_on() -> None:
    async with serving() as inside, connected(inside) as (reader, writer):
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        request = post("a" * 250)
        for _ in range(40):
            writer.write(request * 1_000)
        running = inside.feed.running
        assert running is not None
        log = running.log
        await until(lambda: log.position)
        before, unchanged = 0, 0
        while unchanged < 50:
            await asyncio.sleep(0.005)
            unchanged = unchanged + 1 if log.position == before else 0
            before = log.position
        assert before < 40_000
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(40_000):
            await answer(reader)
        assert running.log.position == 40_000


async def test_a_publish_that_waits_is_answered_before_what_comes_behind_it() -> None:
    async with serving() as inside, connected(inside) as (reader, writer):
        held = Held(inside.feed)
        writer.write(post("a") + HEALTH + post("b"))
        await until(lambda: held.begun)
        await asyncio.sleep(0.05)
        assert held.begun == 1
        held.go.set()
        assert [(await answer(reader))[0][9:12] for _ in range(3)] == [b"201", b"200", b"201"]


async def test_a_publish_behind_a_stream_is_neither_done_nor_answered_into_the_stream() -> None:
    async with serving() as inside, connected(inside) as (reader, writer):
        writer.write(b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\n" + post("a", b"at once"))
        await reader.readuntil(b"feed.open")
        writer.write(post("a", b"later"))
        await asyncio.sleep(0.1)
        await inside.feed.publish("a", "by somebody else")
        received = await asyncio.wait_for(reader.readuntil(b"by somebody else"), 10)
        assert b"HTTP/1.1" not in received
        assert (await inside.feed.page("**")).events[0].text == "by somebody else"


async def test_a_publish_that_waits_when_the_server_stops_is_answered_and_is_the_last() -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with serving() as inside:
            reader, writer = await stack.enter_async_context(connected(inside))
            held = Held(inside.feed)
            writer.write(post("a"))
            await until(lambda: held.begun)
            asyncio.get_running_loop().call_later(0.3, held.go.set)
        # The block has stopped the server, and waited for its end.
        head, _ = await answer(reader)
        assert head.startswith(b"HTTP/1.1 201 ")
        assert b"connection: close\r\n" in head
        assert await reader.read() == b""


@pytest.mark.parametrize("sent", [len(post("a")) - 1, len(post("a", b"x" * 100)) - 50], ids=["head", "half"])
async def test_a_client_that_leaves_before_its_body_has_come_is_counted_as_refused(sent: int) -> None:
    async with serving() as inside:
        async with connected(inside) as (_, writer):
            writer.write(post("a", b"x" * (1 if sent < 100 else 100))[:sent])
            await writer.drain()
            await asyncio.sleep(0.05)
        await until(lambda: inside.feed.counters.publishes["invalid"] == 1)
        assert inside.feed.counters.publishes["created"] == 0


async def test_a_client_that_leaves_while_its_publish_waits_has_published() -> None:
    async with serving() as inside:
        held = Held(inside.feed)
        async with connected(inside) as (_, writer):
            writer.write(post("a") + post("b"))
            await until(lambda: held.begun)
        await asyncio.sleep(0.05)  # the server reads the end in the next turn of this loop
        held.go.set()
        await until(lambda: inside.feed.counters.publishes["created"] == 1)
        await asyncio.sleep(0.05)
        assert held.begun == 1, "what came behind it has nobody who waits for it"


async def test_a_body_that_follows_its_head_late_is_published() -> None:
    """The routes have waited for it."""
    async with serving() as inside, connected(inside) as (reader, writer):
        request = post("late", b"Hello")
        writer.write(request[:-5])
        await asyncio.sleep(1.6)
        writer.write(b"Hello")
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 201 ")
        writer.write(request)
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 201 ")


async def test_a_connection_on_which_is_published_is_kept_and_closed_when_nobody_publishes_any_more() -> None:
    async with serving(idle=1.5) as inside, connected(inside) as (reader, writer):
        for _ in range(6):
            writer.write(post("a"))
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 201 ")
            await asyncio.sleep(0.3)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_token_that_expires_is_refused_on_the_connection_that_has_published_with_it() -> None:
    async with serving(jwt_secret=SECRET) as inside, connected(inside) as (reader, writer):
        request = post("a", b"x", f"Authorization: Bearer {token(['**'], seconds=2)}")
        statuses: list[bytes] = []
        while not statuses or statuses[-1] == b"201":
            writer.write(request)
            statuses.append((await answer(reader))[0][9:12])
            await asyncio.sleep(0.05)
        assert statuses[-1] == b"401"
        assert len(statuses) > 2


async def test_a_body_for_which_there_is_no_room_is_left_to_the_routes() -> None:
    async with serving(max_bodies="1000") as inside, connected(inside) as (reader, writer):
        writer.write(post("a", b"x" * 1_001))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 503 ")


HANDSHAKE = (
    b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def message(ref: int, size: int = 1) -> bytes:
    """A frame with a message whose answer has this `ref`."""
    text = b'{"ref":%d,"data":"%b"}' % (ref, b"x" * size)
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
    return b"\x81" + length + bytes(4) + text


async def refs(reader: asyncio.StreamReader, count: int) -> list[int]:
    """Those of the next acknowledgements."""
    received = b""
    while len(found := re.findall(rb'feed\.ack","data":\{"ref":(\d+)', received)) < count:
        received += await asyncio.wait_for(reader.read(1 << 20), 20)
    return [int(ref) for ref in found]


async def test_messages_of_any_size_are_read_on_while_the_log_waits(tmp_path: Path) -> None:
    """Two come together, so that the second one goes the way of ASGI; and a large one while that is committed."""
    async with serving(log=f"sqlite:{tmp_path / 'feed.db'}") as inside, connected(inside) as (reader, writer):
        writer.write(HANDSHAKE)
        await reader.readuntil(b"feed.open")
        sent = 0
        for _ in range(20):
            for wave in ([1, 1], [5_000], [1, 3_800, 1_000], [9_000, 1]):
                writer.write(b"".join(message(sent + place, size) for place, size in enumerate(wave)))
                sent += len(wave)
                await asyncio.sleep(0)
        assert await refs(reader, sent) == list(range(sent))


async def test_nothing_is_written_behind_the_close_of_a_stream_that_ends_while_a_message_waits() -> None:
    async with serving() as inside, connected(inside) as (reader, writer):
        held = Held(inside.feed)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"feed.open")
        writer.write(message(1))
        await until(lambda: held.begun)
        assert await inside.feed.kick(inside.subscriptions[0].id)
        received = await asyncio.wait_for(reader.readuntil(b"\x88"), 10)
        held.go.set()
        writer.write(b"\x88\x80" + bytes(4))
        received += await asyncio.wait_for(reader.read(), 10)
        assert b"feed.closing" in received
        assert b"feed.ack" not in received


async def test_line_breaks_between_publishes_are_not_counted_for_ever_and_leave_the_time_of_a_connection() -> None:
    async with serving(max_head="1K", idle=1.5) as inside, connected(inside) as (reader, writer):
        for _ in range(600):  # twice as many bytes as a head may have
            writer.write(post("a") + b"\r\n")
            assert (await answer(reader))[0].startswith(b"HTTP/1.1 201 ")
        writer.write(post("a"))
        assert (await answer(reader))[0].startswith(b"HTTP/1.1 201 ")
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_messages_that_are_heard_and_messages_of_asgi_are_answered_in_one_order() -> None:
    """A message that is refused goes the way of ASGI, and those behind it follow."""
    async with serving() as inside, connected(inside) as (reader, writer):
        writer.write(HANDSHAKE)
        await reader.readuntil(b"feed.open")
        elsewhere = ',"topic":"b//"'
        texts = [f'{{"data":1,"ref":{number}{"" if number % 5 else elsewhere}}}' for number in range(60)]
        frames = b"".join(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode() for text in texts)
        writer.write(frames)
        received = b""
        while len(refs := re.findall(rb'feed\.(ack|error)","data":\{"ref":(\d+)', received)) < 60:
            received += await asyncio.wait_for(reader.read(65536), 20)
        assert [int(ref) for _, ref in refs] == list(range(60))
        assert [kind for kind, _ in refs] == [b"ack" if number % 5 else b"error" for number in range(60)]
