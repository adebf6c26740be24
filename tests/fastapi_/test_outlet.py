"""The three ways to a socket: framed bytes, a stepped `send`, and a task that awaits whatever `send` there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from feed import Feed
from feed.batch import Encoder
from feed.control import Reason
from feed.fastapi.outlet import BATCH, MOST_JOINED, SteppedOutlet, chunk, outlet_for, text_frame
from feed.fastapi.routes.router import feed_router
from feed_server.app import create_app
from feed_server.server.protocol import ConnectionLimit
from feed_server.settings import Settings
from tests.support.hostile import TEXT, frames
from tests.support.streams import Stream, eventually, subscribed

FRAMES = st.integers(0, 70_000).map(lambda size: b"x" * size)


@given(FRAMES)
def test_a_text_frame_is_the_librarys(payload: bytes) -> None:
    assert text_frame(payload) == Frame(Opcode.TEXT, payload).serialize(mask=False)


def test_a_chunk_is_its_length_in_hexadecimal_and_the_bytes() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


class Told:
    """A stream, and what its outlet tells it."""

    def __init__(self) -> None:
        self.blocked = False
        self.unblocked = 0

    def block(self) -> None:
        self.blocked = True

    def unblock(self) -> None:
        self.blocked = False
        self.unblocked += 1

    def end(self, reason: Reason) -> None:
        raise AssertionError


class Sender:
    """A server's `send` that waits while `full`."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.room = asyncio.Event()
        self.room.set()
        self.lost = False

    async def send(self, message: Message) -> None:
        await self.room.wait()
        if self.lost:
            raise OSError("gone")
        self.sent.append(message)


def last(reason: Reason | None) -> Message:
    return {"type": "last", "reason": reason}


MESSAGES: list[Message] = [{"type": "m", "place": place} for place in range(4)]


@pytest.mark.anyio
async def test_a_send_that_does_not_suspend_is_done_at_once() -> None:
    sender, told = Sender(), Told()
    outlet = SteppedOutlet(sender.send, told, last)
    outlet.write(MESSAGES)
    outlet.finish("shutdown")
    assert sender.sent == [*MESSAGES, {"type": "last", "reason": "shutdown"}]
    assert (told.blocked, told.unblocked) == (False, 0)


@pytest.mark.anyio
async def test_a_send_that_suspends_goes_on_in_a_task_and_wakes_its_stream_when_done() -> None:
    sender, told = Sender(), Told()
    outlet = SteppedOutlet(sender.send, told, last)
    sender.room.clear()
    outlet.write(MESSAGES)
    assert (told.blocked, told.unblocked) == (True, 0)
    await asyncio.sleep(0)
    assert sender.sent == []
    sender.room.set()
    while told.blocked:
        await asyncio.sleep(0)
    assert (sender.sent, told.unblocked) == (MESSAGES, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("suspended", [False, True])
async def test_a_send_whose_peer_is_gone_is_no_error_and_takes_nothing_more(suspended: bool) -> None:
    sender, told = Sender(), Told()
    outlet = SteppedOutlet(sender.send, told, last)
    sender.lost = True
    if suspended:
        sender.room.clear()
    outlet.write(MESSAGES)
    sender.room.set()
    while told.blocked:
        await asyncio.sleep(0)
    outlet.write(MESSAGES)
    assert sender.sent == []


@pytest.mark.anyio
async def test_a_suspended_send_can_be_given_up() -> None:
    sender, told = Sender(), Told()
    outlet = SteppedOutlet(sender.send, told, last)
    sender.room.clear()
    outlet.write(MESSAGES)
    outlet.close()
    while told.blocked:
        await asyncio.sleep(0)
    sender.room.set()
    await asyncio.sleep(0)
    assert sender.sent == []


def test_a_send_that_anything_wraps_is_never_stepped() -> None:
    async def wrapped(message: Message) -> None: ...

    assert outlet_for({"type": "http", "http_version": "1.1"}, wrapped, Told(), last) is None


BATCHES = Subprotocol("feed.batch")

SERVERS = {
    "uvicorn with uvloop": ["--loop", "uvloop", "--http", "httptools"],
    "uvicorn with asyncio": ["--loop", "asyncio", "--http", "h11"],
}


@pytest.fixture(scope="module", params=list(SERVERS.values()), ids=list(SERVERS))
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """Our application on a uvicorn that is not ours, where `send` is stepped."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "uvicorn",
            "feed_server.app:create_app",
            "--factory",
            "--port",
            str(port),
            *request.param,
        ],
        env={"FEED_LOG": "memory:", "PATH": "/usr/bin:/bin", "FEED_QUEUE_EVENTS": "50", "FEED_MAX_SUBSCRIBERS": "8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            assert process.poll() is None, process.stdout and process.stdout.read()
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"{url}/healthz").status_code == 200
            return False

        eventually(answers, 30)
        yield url
        with subscribed(f"{url}/events/last") as stream:
            process.terminate()
            assert stream.frame().event == "feed.closing"
        output, _ = process.communicate(timeout=30)
        assert "Traceback" not in output, output
    finally:
        process.kill()
        process.wait()


def publish(url: str, topic: str, data: list[str]) -> list[str]:
    lines = "\n".join(json.dumps({"topic": topic, "data": one}) for one in data)
    answer = httpx.post(f"{url}/events", content=lines, headers={"Content-Type": "application/x-ndjson"})
    ids: list[str] = answer.json()["ids"]
    return ids


def test_sse_and_ndjson_stream_and_resume(elsewhere: str) -> None:
    with (
        subscribed(f"{elsewhere}/events/sse") as plain,
        subscribed(f"{elsewhere}/events/sse", Accept="application/x-ndjson") as lines,
        subscribed(f"{elsewhere}/events/sse?envelope=1") as envelope,
    ):
        ids = publish(elsewhere, "sse", ["one", "two"])
        assert [(frame.id, frame.data) for frame in plain.frames(2)] == list(zip(ids, ["one", "two"], strict=True))
        assert [lines.object()["id"] for _ in ids] == ids
        assert [frame.json["id"] for frame in envelope.frames(2)] == ids
    with subscribed(f"{elsewhere}/events/sse", Last_Event_ID=ids[0]) as resumed:
        assert resumed.frame().id == ids[1]
        assert resumed.frame().event == "feed.live"


def test_a_websocket_streams_and_publishes(elsewhere: str) -> None:
    url = elsewhere.replace("http", "ws")
    with connect(f"{url}/ws/sockets") as websocket, connect(f"{url}/ws/sockets") as other:
        for one in (websocket, other):
            assert json.loads(one.recv(10))["type"] == "feed.open"
        websocket.send("hello")
        messages = [json.loads(websocket.recv(10)) for _ in range(2)]
        assert {message["type"] for message in messages} == {"feed.ack", "message"}
        assert json.loads(other.recv(10))["data"] == "hello"


def test_a_reader_that_stalls_blocks_nobody_and_gets_everything_once_and_in_order(elsewhere: str) -> None:
    address = ("127.0.0.1", int(elsewhere.rpartition(":")[2]))
    with socket.socket() as slow, subscribed(f"{elsewhere}/events/much") as fast:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        slow.connect(address)
        slow.settimeout(10)
        slow.sendall(b"GET /events/much HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head = b""
        while b"feed.open" not in head:
            head += slow.recv(1)
        ids: list[str] = []
        for round in range(4):
            ids += publish(elsewhere, "much", [f"{round} {place} " + "x" * 60_000 for place in range(40)])
            assert [frame.id for frame in fast.frames(40)] == ids[-40:]
        received = b""
        while ids[-1].encode() not in received[-200_000:]:
            received += slow.recv(1 << 20)
    found = re.findall(rb"id: (\S+)\n", received)
    assert [id.decode() for id in found] == ids


def left_at_once(url: str) -> bool:
    """Whether one was let in. Those before may not be gone yet."""
    with subscribed(url, opened=False) as stream:
        return stream.frame().event == "feed.open"


def test_a_stream_that_is_left_is_let_go(elsewhere: str) -> None:
    url = elsewhere.replace("http", "ws")
    for _ in range(10):  # more than the server takes on at once
        eventually(lambda: left_at_once(f"{elsewhere}/events/left"))
        with connect(f"{url}/ws/left") as websocket:
            websocket.recv(10)
    with subscribed(f"{elsewhere}/events/left") as stream:
        ids = publish(elsewhere, "left", ["x"])
        assert stream.frame().id == ids[0]


def test_the_batch_protocol_brings_several_events_in_one_message(serve: Any) -> None:
    server = serve("--log", "memory:")
    url = server.url.replace("http", "ws")
    with connect(f"{url}/ws/a", subprotocols=[BATCHES]) as batches, connect(f"{url}/ws/a") as single:
        assert batches.subprotocol == "feed.batch"
        assert single.subprotocol is None
        assert json.loads(batches.recv(10))["type"] == json.loads(single.recv(10))["type"] == "feed.open"
        ids = publish(server.url, "a", [str(number) for number in range(100)])
        messages = [batches.recv(10)]
        while json.loads(messages[-1].splitlines()[-1])["id"] != ids[-1]:
            messages.append(batches.recv(10))
        assert len(messages) < 5
        assert [json.loads(line)["id"] for message in messages for line in message.splitlines()] == ids
        assert [json.loads(single.recv(10))["id"] for _ in ids] == ids


def test_events_are_joined_up_to_what_any_client_takes_and_a_larger_one_goes_alone(serve: Any) -> None:
    server = serve("--log", "memory:")
    url = f"{server.url.replace('http', 'ws')}/ws/large"
    sizes = [200_000] * 20 + [10] * 50 + [262_144, 10]
    with connect(url, subprotocols=[BATCHES]) as live:  # it takes a megabyte
        live.recv(10)
        events = [{"topic": "large", "data": "x" * size} for size in sizes]
        ids = server.http.post(f"{server.url}/events", json=events).json()["ids"]
        assert read_batches(live, ids[-1]) == ids
    with connect(f"{url}?last=100", subprotocols=[BATCHES]) as again:
        assert read_batches(again, ids[-1]) == ids


def read_batches(client: ClientConnection, last: str) -> list[str]:
    """The ids of all events up to the last, in messages of which none is too large."""
    ids: list[str] = []
    messages = 0
    while last not in ids:
        message = client.recv(10, decode=True)
        found = [json.loads(line) for line in message.split("\n")]
        assert len(message) <= MOST_JOINED or len(found) == 1
        events = [each["id"] for each in found if not each["type"].startswith("feed.")]
        ids += events
        messages += bool(events)
    assert messages < len(ids), "several are in one where there is room"
    return ids


@pytest.mark.parametrize("encoder", [BATCH.framed, BATCH.messages])
def test_what_is_joined_is_as_much_as_fits_and_nothing_is_left_out(encoder: Encoder) -> None:
    half = MOST_JOINED // 2
    exact = [half, MOST_JOINED - half - 1]  # with the line end between them
    for sizes, expected in (
        (exact, [2]),
        ([half, exact[1] + 1], [1, 1]),
        ([10, MOST_JOINED + 1, 10, 0, 10], [1, 1, 2]),
        ([0], []),
    ):
        lines: Any = [Line(each) for each in sizes]
        written, size = encoder(lines)
        found = texts_of(written)
        assert [len(text.split("\n")) for text in found] == expected
        assert [len(line) for text in found for line in text.split("\n")] == [each for each in sizes if each]
        assert size == sum(map(len, found))


class Line:
    """What has a message of so many bytes."""

    def __init__(self, size: int) -> None:
        self.message = b"x" * size


def texts_of(written: Any) -> list[str]:
    """What is in each message of a chunk."""
    if isinstance(written, bytes):
        return [payload.decode() for opcode, payload in frames(written) if opcode == TEXT]
    return [message["text"] for message in written]


def test_http_1_0_gets_the_stream_too(serve: Any) -> None:
    server = serve("--log", "memory:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /events/a HTTP/1.0\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"feed.open" not in received:
            received += client.recv(65536)
        id = server.publish("a", "x")
        while id.encode() not in received:
            received += client.recv(65536)


def test_a_stream_behind_which_a_request_waits_is_let_go_when_its_client_leaves(serve: Any) -> None:
    server = serve("--log", "memory:", max_subscribers=1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )
        received = b""
        while b"feed.open" not in received:
            received += client.recv(65536)

    def let_in() -> bool:
        with httpx.stream("GET", f"{server.url}/events/a", timeout=10) as response:
            return Stream(response).frame().event == "feed.open"

    eventually(let_in)


@pytest.mark.parametrize("pieces", [1, 40])
def test_a_head_beyond_64_kib_is_431_whatever_it_comes_in(serve: Any, pieces: int) -> None:
    server = serve("--log", "memory:")
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * (65 << 10) + b"\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        size = -(-len(head) // pieces)
        for start in range(0, len(head), size):
            client.sendall(head[start : start + size])
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 431 ")
    assert httpx.get(f"{server.url}/healthz", headers={"X": "x" * 60_000}).status_code == 200


def test_an_endless_head_is_431_and_costs_no_memory(serve: Any) -> None:
    server = serve("--log", "memory:")
    httpx.get(f"{server.url}/healthz")
    before = psutil.Process(server.pid).memory_info().rss
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        while not select.select([client], [], [], 0)[0]:
            sent += client.send(b"x" * 10_000)
            assert sent < 50 << 20
        assert client.recv(100).startswith(b"HTTP/1.1 431 ")
    assert psutil.Process(server.pid).memory_info().rss - before < 8 << 20
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_what_no_request_can_be_does_not_cost_the_answer_to_the_one_before(serve: Any) -> None:
    server = serve("--log", "memory:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"POST /events/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" + b"\0" * 100)
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"201", b"400"]
    assert [event["data"] for event in server.history("a")["events"]] == ["x"]


@pytest.mark.parametrize(
    "behind",
    [
        b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        b"\0" * 100,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5_000,
    ],
    ids=["an upgrade", "garbage", "very many requests"],
)
def test_a_stream_ends_with_what_cannot_follow_it_and_is_let_go(serve: Any, behind: bytes) -> None:
    server = serve("--log", "memory:", max_subscribers=1)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = b""
        while b"feed.open" not in received:
            received += client.recv(65536)
        client.sendall(behind)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    eventually(lambda: left_at_once(f"{server.url}/events/a"))
    assert server.stop() == 0
    assert "Traceback" not in server.output


def test_a_body_that_breaks_the_rules_is_400_and_its_request_does_not_wait_for_ever(serve: Any) -> None:
    server = serve("--log", "memory:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"POST /events/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        client.sendall(b"no chunk\r\n")
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 400 ")
    assert server.history("a")["events"] == []


def test_of_those_that_are_kept_between_requests_the_longest_idle_goes_beyond_a_bound() -> None:
    limit = ConnectionLimit(most=100, most_kept=2)
    new, busy, *kept = Idle(0), Idle(0), Idle(0), Idle(0), Idle(0)
    for each in (new, busy, *kept):
        limit.enter(each, 5)  # type: ignore[arg-type]
    for each in (busy, *kept[:2]):
        limit.leave(each)  # type: ignore[arg-type]
        limit.keep(each)  # type: ignore[arg-type]
    assert busy.aborted
    limit.leave(kept[0])  # type: ignore[arg-type]
    limit.keep(kept[2])  # type: ignore[arg-type]
    assert [each.aborted for each in (new, *kept)] == [False] * 4
    limit.keep(kept[0])  # type: ignore[arg-type]
    assert [each.aborted for each in (new, *kept)] == [False, False, True, False], "who has been used waits anew"


class Idle:
    """A connection without a request, as far as `ConnectionLimit` looks at it."""

    def __init__(self, unsent: int, socket: socket.socket | None = None) -> None:
        self.transport = self
        self.unsent = unsent
        self.socket = socket
        self.aborted = False

    def get_extra_info(self, name: str) -> socket.socket | None:
        return self.socket

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


def test_the_longest_idle_connection_makes_room_but_none_that_still_takes_its_answer() -> None:
    limit = ConnectionLimit(most=3)
    taking, oldest, newest = Idle(1_000), Idle(0), Idle(0)
    for count, each in enumerate((taking, oldest, newest), 1):
        limit.enter(each, count)  # type: ignore[arg-type]
    assert not oldest.aborted
    limit.enter(another := Idle(0), 4)  # type: ignore[arg-type]
    assert [one.aborted for one in (taking, oldest, newest)] == [False, True, False]
    kept: list[object] = list(limit.idle)
    assert kept == [taking, newest, another]


def test_one_whose_next_request_has_come_makes_no_room() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"GET /")
        limit = ConnectionLimit(most=1)
        asking, idle = Idle(0, ours), Idle(0)
        limit.enter(asking, 1)  # type: ignore[arg-type]
        limit.enter(idle, 2)  # type: ignore[arg-type]
        assert [one.aborted for one in (asking, idle)] == [False, True]


def test_a_client_that_leaves_while_its_replay_is_looked_up_is_no_error(serve: Any, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", window_events=1)
    publish(server.url, "a", ["x"] * 5_000)
    for _ in range(30):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"GET /events/a?last=900 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    eventually(lambda: left_at_once(f"{server.url}/events/a"))
    assert server.stop() == 0
    assert "Traceback" not in server.output


def test_a_message_and_one_that_is_not_utf_8_at_once_are_no_error(serve: Any) -> None:
    server = serve("--log", "memory:")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(
            b"GET /ws/a HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        received = b""
        while b"feed.open" not in received:
            received += client.recv(65536)
        client.sendall(b"\x81\x81\0\0\0\0x" + b"\x81\x81\0\0\0\0\xff")
        while piece := client.recv(65536):
            received += piece
    assert b"\x88" in received
    assert (1007).to_bytes(2, "big") in received
    assert server.stop() == 0
    assert "Exception in ASGI application" not in server.output


@pytest.mark.anyio
async def test_middleware_that_somebody_adds_is_not_passed_by() -> None:
    application = create_app(Settings(log="memory:"))

    class Guard:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await Response(status_code=401)(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    application.add_middleware(Guard)
    assert (await start_of(application, "POST", "/events/a"))["status"] == 401


@pytest.mark.anyio
async def test_headers_that_middleware_adds_to_a_stream_are_that_streams_alone() -> None:
    feed = Feed("memory:")
    application = FastAPI()
    application.include_router(feed_router(feed))

    class Cookie:
        def __init__(self, app: ASGIApp) -> None:
            self.app, self.count = app, 0

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def adding(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self.count += 1
                    message["headers"].append((b"set-cookie", b"%d" % self.count))
                await send(message)

            await self.app(scope, receive, adding)

    application.add_middleware(Cookie)
    async with feed:
        for count in range(1, 4):
            headers = (await start_of(application, "GET", "/events/a"))["headers"]
            assert [value for name, value in headers if name == b"set-cookie"] == [b"%d" % count]


async def start_of(application: ASGIApp, method: str, path: str) -> Message:
    """How an application begins its answer to a client that then leaves."""
    began = asyncio.Event()
    messages: list[Message] = []

    async def receive() -> Message:
        if began.is_set():
            return {"type": "http.disconnect"}
        await began.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        messages.append(message)
        began.set()

    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "raw_path": path.encode()}
    scope |= {"query_string": b"", "headers": [(b"host", b"localhost")], "root_path": "", "scheme": "http"}
    async with asyncio.timeout(10):
        await application(scope, receive, send)
    return messages[0]
