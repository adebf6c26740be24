"""The three ways to a socket: framed bytes, a stepped `send`, and a task that awaits whatever `send` there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect

from feed.control import Reason
from tests.streams import Stream, eventually, subscribed
from web.outlet import SteppedOutlet, chunk, outlet_for, text_frame

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
    assert told.blocked
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


SERVERS = {
    "uvicorn with uvloop": ["--loop", "uvloop", "--http", "httptools"],
    "uvicorn with asyncio": ["--loop", "asyncio", "--http", "h11"],
}


@pytest.fixture(scope="module", params=SERVERS.values(), ids=SERVERS)
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """Our application on a uvicorn that is not ours, where `send` is stepped."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "web.app:create_app", "--factory", "--port", str(port), *request.param],
        env={"FEED_LOG": "memory:", "PATH": "/usr/bin:/bin", "FEED_QUEUE_EVENTS": "50"},
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
        process.terminate()
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


def test_a_stream_that_is_left_is_let_go(elsewhere: str) -> None:
    url = elsewhere.replace("http", "ws")
    for _ in range(3):
        with subscribed(f"{elsewhere}/events/left"):
            pass
        with connect(f"{url}/ws/left") as websocket:
            websocket.recv(10)
    with subscribed(f"{elsewhere}/events/left") as stream:
        ids = publish(elsewhere, "left", ["x"])
        assert stream.frame().id == ids[0]


def test_the_batch_protocol_brings_several_events_in_one_message(serve: Any) -> None:
    server = serve()
    url = server.url.replace("http", "ws")
    with connect(f"{url}/ws/a", subprotocols=["feed.batch"]) as batches, connect(f"{url}/ws/a") as single:  # type: ignore[list-item]
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


def test_http_1_0_gets_the_stream_too(serve: Any) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /events/a HTTP/1.0\r\n\r\n")
        received = b""
        while b"feed.open" not in received:
            received += client.recv(65536)
        id = server.publish("a", "x")
        while id.encode() not in received:
            received += client.recv(65536)


def test_a_stream_behind_which_a_request_waits_is_let_go_when_its_client_leaves(serve: Any) -> None:
    server = serve(max_subscribers=1)
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
    server = serve()
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
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(2_000):
                client.sendall(b"x" * 10_000)
        with contextlib.suppress(OSError):
            assert client.recv(100).startswith(b"HTTP/1.1 431 ")
    assert httpx.get(f"{server.url}/healthz").status_code == 200
