"""L8: heads and bodies that come a byte at a time, or never, are cut off; streams and slow readers are not."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

import pytest

from feed_server.server.deadlines import Deadline
from tests.support.hostile import CLOSE, HANDSHAKE, TEXT, Raw, frame, opened, raw, unharmed, without_keep_alive
from tests.support.running import RunningServer, running
from tests.support.streams import subscribed

HEAD, BODY = 0.6, 1.0
EARLY = 0.3  # that the server's clock may have begun before the test's
PROBLEM = b"content-type: application/problem+json"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running("--log", "memory:", head_timeout=f"{HEAD}s", body_timeout=f"{BODY}s") as shared:
        yield without_keep_alive(shared)


class Dripped(NamedTuple):
    """What the server said to whom it cut off, and after how many seconds."""

    answer: bytes
    taken: float


def drip(connection: Raw, data: bytes, every: float = 0.05, seconds: float = 30) -> Dripped:
    """Send a byte at a time until the server says something or closes."""
    began = time.monotonic()
    place = 0
    while time.monotonic() - began < seconds:
        connection.socket.settimeout(every)
        try:
            received = connection.socket.recv(65536)
        except TimeoutError:
            connection.send(data[place : place + 1])
            place = min(place + 1, len(data))
            continue
        except ConnectionError:
            received = b""
        taken = time.monotonic() - began
        connection.socket.settimeout(10)
        return Dripped(received + connection.rest() if received else b"", taken)
    raise AssertionError("still open")


def drip_all(server: RunningServer, cases: Mapping[str, tuple[bytes, bytes, bytes]]) -> dict[str, Dripped]:
    """Of several connections at the same time: what each sends at once, what it is answered to that, and what it sends
    a byte at a time then."""

    def one(case: tuple[bytes, bytes, bytes]) -> Dripped:
        first, answered, dripped = case
        with raw(server) as client:
            client.send(first)
            if answered:
                client.until(answered)
            return drip(client, dripped)

    with unharmed(server), ThreadPoolExecutor(len(cases)) as pool:
        return dict(zip(cases, pool.map(one, cases.values()), strict=True))


def is_timed_out(answer: bytes) -> bool:
    """Whether it is a 408 that says that the connection is closed."""
    is_408 = answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    return is_408 and PROBLEM in answer and b"connection: close" in answer.lower()


LONG = b"x" * 1_000
HEADS = {
    "a request line": b"GET /events/" + LONG,
    "headers": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + LONG,
    "many headers": b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 200,
    "a WebSocket's handshake": (HANDSHAKE % b"/ws/a")[:-2] + b"X: " + LONG,
}


def test_l8_a_head_that_comes_a_byte_at_a_time_is_408_and_closed(server: RunningServer) -> None:
    for name, dripped in drip_all(server, {name: (b"", b"", head) for name, head in HEADS.items()}).items():
        assert is_timed_out(dripped.answer), (name, dripped)
        assert dripped.taken >= HEAD - EARLY, (name, dripped)


def test_l8_a_connection_without_a_request_is_closed_without_a_word(server: RunningServer) -> None:
    cases = {"nothing": (b"", b"", b""), "empty lines": (b"", b"", b"\r\n" * 500)}
    for name, dripped in drip_all(server, cases).items():
        assert dripped.answer == b"", name
        assert dripped.taken >= HEAD - EARLY, (name, dripped)


def test_between_two_requests_a_connection_is_kept_for_longer_than_a_head_may_take(server: RunningServer) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with raw(server) as used, raw(server) as silent:
        used.send(request)
        used.until(b"200 OK")
        with raw(server) as later:
            assert later.rest() == b"", "nothing came in time"
        assert silent.rest() == b""
        used.send(request)
        used.until(b"200 OK")


ANSWERED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
AFTER_AN_ANSWER = {
    "the next head": (ANSWERED + b"\r\n", b"GET /healthz HTTP/1.1\r\nX: " + LONG),
    "a body that nobody reads": (ANSWERED + b"Content-Length: 100000\r\n\r\n", LONG),
    "chunks that nobody reads": (
        b"DELETE /events/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"1\r\nx\r\n" * 200,
    ),
    "empty lines": (ANSWERED + b"\r\n", b"\r\n" * 500),
}


def test_l8_what_trickles_in_after_an_answer_ends_too(server: RunningServer) -> None:
    cases = {name: (first, b"\r\n\r\n{", dripped) for name, (first, dripped) in AFTER_AN_ANSWER.items()}
    for name, (answer, _) in drip_all(server, cases).items():
        assert answer.startswith(b"HTTP/1.1 408") if name == "the next head" else answer == b"", (name, answer)


BODIES = {
    "a length": (b"Content-Length: 1000\r\n\r\n", LONG),
    "nothing of it": (b"Content-Length: 1000\r\n\r\n", b""),
    "chunks": (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 200),
    "a chunk extension": (b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + LONG),
    "a trailer": (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X: " + LONG),
    "what was to be continued": (b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n", b""),
}


def test_l8_a_body_that_comes_a_byte_at_a_time_is_408_and_closed(server: RunningServer) -> None:
    cases = {}
    for path in ("/events/hostile", "/events"):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
        for name, (fields, body) in BODIES.items():
            answered = b"100 Continue\r\n\r\n" if b"Expect" in fields else b""
            cases[f"{path}: {name}"] = (head + fields, answered, body)
    for name, dripped in drip_all(server, cases).items():
        assert is_timed_out(dripped.answer), (name, dripped)
        assert dripped.taken >= BODY - EARLY, (name, dripped)


def test_a_message_that_does_not_come_in_time_is_closed_at_once_when_its_client_answers(server: RunningServer) -> None:
    with opened(server, "/ws/late") as silent, opened(server, "/ws/late") as client:
        for each in (silent, client):
            each.send(frame(TEXT, b"begun", fin=False))
        assert silent.close_code() == client.close_code() == 1008
        client.send(frame(CLOSE, b"\x03\xf0"))
        assert client.rest() == b""
        assert not silent.is_closed, "which is given its time"


def test_l8_a_thousand_slow_heads_keep_nobody_out_and_are_gone_in_time(server: RunningServer) -> None:
    with unharmed(server), ExitStack() as stack:
        clients = []
        for _ in range(1_000):
            clients.append(stack.enter_context(raw(server)))
            clients[-1].send(b"GET /healthz HTTP/1.1\r\nX: ")
        server.http.get(f"{server.url}/healthz").raise_for_status()
        for client in clients:
            # Without a word if it was given no processor between its first step and its second.
            assert client.rest()[:13] in (b"HTTP/1.1 408 ", b"")


def test_a_head_and_a_body_that_come_slowly_but_in_time_are_taken(server: RunningServer) -> None:
    with raw(server) as client:
        for piece in (
            b"POST /events/slow HTTP/1.1\r\n",
            b"Host: localhost\r\nContent-Length: 3\r\n",
            b"\r\n",
            b"a",
            b"bc",
        ):
            client.send(piece)
            time.sleep(0.05)
        client.until(b"201 Created")
    assert [event["data"] for event in server.history("slow")["events"]] == ["abc"]


def test_messages_of_which_each_ends_in_time_go_on_for_ever(server: RunningServer) -> None:
    message = frame(TEXT, b"in time")
    with opened(server, "/ws/steady") as client:
        client.send(message[:3])
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * BODY:  # no read ends where a message does
            client.send(message[3:] + message[:3])
            client.until(b"feed.ack")
            time.sleep(0.1)


def test_streams_and_their_readers_are_not_concerned(server: RunningServer) -> None:
    with (
        subscribed(f"{server.url}/events/quiet") as stream,
        opened(server, "/ws/quiet") as client,
        raw(server) as waiting,
    ):
        waiting.send(
            b"GET /events/quiet?wait=20 HTTP/1.1\r\nHost: localhost\r\n"
            b"Accept: application/json\r\nConnection: close\r\n\r\n"
        )
        time.sleep(1.5 * BODY)  # longer than anything may take here
        id = server.publish("quiet")
        assert stream.frame().id == id
        client.until(id.encode())
        assert id.encode() in waiting.rest()


def test_a_reader_that_takes_a_long_answer_slowly_gets_all_of_it(server: RunningServer) -> None:
    for _ in range(8):
        server.publish("long", b"x" * 200_000)
    with raw(server, receive_buffer=4096) as client:
        client.send(b"GET /events/long HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n")
        head = client.until(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        got = len(head.partition(b"\r\n\r\n")[2])
        time.sleep(1.5 * HEAD)
        while got < length:
            piece = client.receive()
            assert piece
            got += len(piece)


class Late:
    def __init__(self) -> None:
        self.count = 0

    def late(self) -> None:
        self.count += 1


def test_only_what_is_late_is_looked_at_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("feed_server.server.deadlines.time.monotonic", lambda: now)
    deadline = Deadline(10)
    first, again, come, fresh = Late(), Late(), Late(), Late()
    for each in (again, first, come):
        deadline.begin(each)
    now = 105.0
    deadline.begin(fresh)
    deadline.begin(again)  # it waits anew
    deadline.end(come)
    now = 110.0
    deadline.look()
    assert [each.count for each in (first, again, come, fresh)] == [1, 0, 0, 0]
    now = 115.0
    deadline.look()
    deadline.look()
    assert [each.count for each in (first, again, come, fresh)] == [1, 1, 0, 1]
    assert len(deadline) == 0


def test_one_that_fails_does_not_keep_the_others_from_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("feed_server.server.deadlines.time.monotonic", lambda: now)

    class Broken(Late):
        def late(self) -> None:
            raise OSError

    deadline, other = Deadline(10), Late()
    deadline.begin(Broken())
    deadline.begin(other)
    now = 111.0
    deadline.look()
    assert other.count == 1
