"""W4 and W3: WebSocket clients that break the rules, or keep them and are a flood. By raw sockets."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed_server.server.protocol.websocket import ends_with_close
from tests.conftest import Serve
from tests.support.hostile import (
    BINARY,
    CLOSE,
    CONT,
    HANDSHAKE,
    MEGABYTE,
    PING,
    PONG,
    TEXT,
    frame,
    memory,
    opened,
    raw,
    unharmed,
)
from tests.support.running import RunningServer, running
from tests.support.streams import eventually, subscribed

MAX_MESSAGE = 6 * (256 << 10) + 4096


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server that is warm: what it needs at its first use it has taken."""
    with running("--log", "memory:") as shared:
        with opened(shared, "/ws/warm") as client:
            client.send(frame(TEXT, b"x" * 200_000) + frame(CLOSE))
            client.rest()
        yield shared


BROKEN = {
    "one frame over the limit": (frame(TEXT, length=MAX_MESSAGE + 1), 1009),
    "100 MB announced": (frame(TEXT, length=100 << 20), 1009),
    "the most that can be announced": (frame(TEXT, length=(1 << 63) - 1), 1009),
    "a length with its highest bit": (frame(TEXT, length=(1 << 64) - 1), 1009),
    "fragments over the limit in sum": (
        frame(TEXT, b"x" * 1_000_000, fin=False) + frame(CONT, b"x" * 1_000_000, fin=False),
        1009,
    ),
    "unmasked": (frame(TEXT, b"x", masked=False), 1002),
    **{f"opcode {opcode}": (frame(opcode, b"x"), 1002) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    **{f"reserved bits {bits:03b}": (frame(TEXT, b"x", reserved=bits), 1002) for bits in (1, 2, 4, 7)},
    "compressed without being agreed on": (frame(TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\x00", reserved=4), 1002),
    "a fragmented ping": (frame(PING, b"x", fin=False), 1002),
    "a fragmented close": (frame(CLOSE, b"\x03\xe8", fin=False), 1002),
    "a long ping": (frame(PING, b"x" * 126), 1002),
    "a long pong": (frame(PONG, b"x" * 70_000), 1002),
    "a long close": (frame(CLOSE, b"\x03\xe8" + b"x" * 124), 1002),
    "a continuation of nothing": (frame(CONT, b"x"), 1002),
    "a text within a text": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "a close of one byte": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"close code {code}": (frame(CLOSE, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "a close whose reason is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff\xfe"), 1007),
    "text that is no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "half a character": (frame(TEXT, "é".encode()[:1]), 1007),
    "half a character in fragments": (
        frame(TEXT, b"a", fin=False) + frame(CONT, b"\xc3", fin=False) + frame(CONT),
        1007,
    ),
    "a surrogate": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "text that is no UTF-8, and much more": (frame(TEXT, b"\xff") + frame(TEXT, b"x") * 1_000, 1007),
    "binary": (frame(BINARY, b"x"), 1003),
    "binary in fragments": (frame(BINARY, b"x", fin=False) + frame(CONT, b"y"), 1003),
    "HTTP": (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1002),
    "bytes without sense": (bytes(range(256)) * 40, 1002),
}


@pytest.mark.parametrize("name", BROKEN)
def test_w4_what_breaks_the_rules_is_closed_with_its_code(server: RunningServer, name: str) -> None:
    sent, code = BROKEN[name]
    with unharmed(server), opened(server) as client:
        client.send(sent)
        assert client.close_code() == code


def test_a_character_may_be_split_over_fragments_and_a_length_may_be_wider_than_needed(server: RunningServer) -> None:
    with opened(server, "/ws/within/rules") as client:
        client.send(frame(TEXT, b"\xc3", fin=False) + frame(PING) + frame(CONT, fin=False) + frame(CONT, b"\xa9"))
        client.until(b"feed.ack")
        client.send(frame(TEXT, b"wide", wide=8))
        client.until(b"feed.ack")
    assert [event["data"] for event in server.history("within/rules")["events"]] == ["é", "wide"]


@pytest.mark.parametrize(
    "payload", [b"", b"\x03\xe8", b"\x0b\xb8bye", b"\x03\xf3"], ids=["none", "1000", "3000", "1011"]
)
def test_a_close_is_echoed_and_what_comes_after_it_is_not_looked_at(server: RunningServer, payload: bytes) -> None:
    with unharmed(server), opened(server) as client:
        client.send(frame(CLOSE, payload) + frame(TEXT, b"too late") + b"\xff" * 1_000)
        assert client.close_code() == (int.from_bytes(payload[:2], "big") if payload else None)


@pytest.mark.parametrize("apart", [False, True], ids=["whole", "in pieces"])
def test_where_a_client_answers_the_close_with_its_own_the_connection_is_closed_at_once(
    server: RunningServer, apart: bool
) -> None:
    broken = {
        1002: frame(11, b"x"),
        1003: frame(BINARY, b"x"),
        1007: frame(TEXT, b"\xff"),
        1009: frame(TEXT, length=MAX_MESSAGE + 1) + b"x" * 10_000,
    }
    with opened(server) as silent, ExitStack() as stack:
        clients = {code: stack.enter_context(opened(server)) for code in broken}
        silent.send(broken[1002])
        assert silent.close_code() == 1002
        for code, client in clients.items():
            client.send(broken[code])
            assert client.close_code() == code
            answer = frame(CLOSE, code.to_bytes(2, "big"))
            for piece in (answer[:3], answer[3:]) if apart else (answer,):
                client.send(piece)
                time.sleep(0.01 * apart)  # or they are one
            assert client.rest() == b""
        assert not silent.is_closed, "which is given its time"


def test_where_a_client_has_said_close_behind_what_is_broken_the_connection_is_closed_at_once(
    server: RunningServer,
) -> None:
    with opened(server) as silent, opened(server) as client, opened(server) as flooding:
        silent.send(frame(11, b"x"))
        assert silent.close_code() == 1002
        client.send(frame(11, b"x") + frame(CLOSE))
        assert client.close_code() == 1002
        flooding.send(frame(11, b"x") + frame(TEXT, b"x") * 10_000 + frame(CLOSE))
        assert flooding.close_code() == 1002
        assert client.rest() == flooding.rest() == b""
        assert not silent.is_closed, "which is given its time"


@pytest.mark.parametrize("payload", [b"", b"\x03\xe8", b"\x03\xe9away"], ids=["none", "1000", "1001"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_close_between_two_fragments_is_echoed(server: RunningServer, payload: bytes, pieces: int) -> None:
    with unharmed(server), opened(server) as client:
        begun, close = frame(TEXT, b"begun", fin=False), frame(CLOSE, payload)
        for sent in (begun + close,) if pieces == 1 else (begun, close):
            client.send(sent)
        assert client.close_code() == (int.from_bytes(payload[:2], "big") if payload else None)
        assert client.rest() == b""


@given(st.binary(max_size=300), st.binary(max_size=125))
def test_a_close_at_the_end_is_found_whatever_is_before_it(before: bytes, payload: bytes) -> None:
    assert ends_with_close(before + frame(CLOSE, payload))
    assert not ends_with_close(frame(CLOSE, payload)[:-1])
    assert not ends_with_close(b"")


def test_messages_before_a_broken_one_are_either_acknowledged_or_not_published(server: RunningServer) -> None:
    with opened(server, "/ws/then/broken") as client:
        client.send(frame(TEXT, b"x") * 20 + frame(TEXT, b"\xff"))
        acknowledged = client.rest().count(b"feed.ack")
    # What was committed while it was closed has lost its answer; nothing was acknowledged that is not there.
    assert acknowledged <= len(server.history("then/broken")["events"]) <= 20


@pytest.mark.parametrize(
    "early",
    [frame(TEXT, b"early"), frame(TEXT, b"early") + frame(CLOSE), frame(PING), b"\xff" * 100, frame(CLOSE)],
    ids=["a message", "a message and a close", "a ping", "garbage", "a close"],
)
@pytest.mark.parametrize("pieces", [1, 2])
def test_what_is_sent_before_the_handshake_is_answered_waits_for_it(
    server: RunningServer, early: bytes, pieces: int
) -> None:
    said = len(server.output)
    with raw(server) as client:
        if pieces == 1:
            client.send(HANDSHAKE % b"/ws/early" + early)
        else:
            client.send(HANDSHAKE % b"/ws/early")
            client.send(early)
        received = client.until(b"feed.ack" if early == frame(TEXT, b"early") else b"feed.open")
    assert received.startswith(b"HTTP/1.1 101 ")
    assert server.output[said:] == ""


def settled(server: RunningServer) -> None:
    """Wait until nothing is published any more: of what a client has sent before it left, all may be."""

    def position() -> str:
        return str(server.history("**", last=1)["next"])

    before = None
    while (now := position()) != before:
        before = now
        time.sleep(0.1)


# Floods. Each is some megabytes: what was kept of them would be seen.

FLOODS = {
    "pings": frame(PING, b"x" * 10) * 1_000,
    "empty pings": frame(PING) * 1_000,
    "pongs": frame(PONG) * 1_000,
    "empty messages": frame(TEXT) * 1_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_w4_a_flood_by_who_reads_nothing_is_held_up_and_costs_no_memory(server: RunningServer, name: str) -> None:
    size = memory(server)
    with subscribed(f"{server.url}/events/other") as other, opened(server, "/ws/flood", receive_buffer=4096) as client:

        def round_trip() -> float:
            began = time.monotonic()
            id = server.publish("other")
            while other.frame().id != id:
                pass
            return time.monotonic() - began

        quiet = statistics.median(round_trip() for _ in range(5))
        flood = threading.Thread(target=client.flood, args=(FLOODS[name], 24 * MEGABYTE, 1.5))
        flood.start()
        delays = []
        while flood.is_alive():
            delays.append(round_trip())
        flood.join()
        grown = memory(server) - size
    settled(server)
    assert grown < 8 * MEGABYTE
    # On a busy machine all of it takes longer, with and without a flood.
    assert statistics.median(delays) < max(0.25, 10 * quiet), "others are served meanwhile"


@pytest.mark.parametrize("count", [1, 12], ids=["one", "twelve"])
def test_w4_endless_fragments_cost_no_memory(server: RunningServer, count: int) -> None:
    empty = frame(CONT, fin=False) * 2_000
    with unharmed(server), ExitStack() as stack:
        clients = [stack.enter_context(opened(server)) for _ in range(count)]
        size = memory(server)
        threads = []
        for client in clients:
            client.send(frame(TEXT, b"x", fin=False))
            threads.append(threading.Thread(target=client.send, args=(empty * (80 // count),)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        assert memory(server) - size < 6 * MEGABYTE
        for client in clients:
            client.send(frame(TEXT))
            assert client.close_code() == 1002


def test_half_frames_left_hanging_are_bounded_in_sum_and_in_time(serve: Serve) -> None:
    server = serve("--log", "memory:", max_bodies="4M", body_timeout="1s")
    with unharmed(server, growth=16 * MEGABYTE), ExitStack() as stack:
        clients = [stack.enter_context(opened(server)) for _ in range(10)]
        for client in clients:
            client.send(frame(TEXT, b"x" * 1_000_000, length=1_500_000))
        codes = [client.close_code() for client in clients]
        assert set(codes) == {1013, 1008}
        assert codes.count(1008) <= 3, "those for which there was room were late"
        with opened(server, "/ws/hostile/*") as client:  # there is room again
            client.send(frame(TEXT, b"x" * 1_500_000))
            client.until(b"feed.error")  # no topic; but it was read


@pytest.mark.parametrize(
    "sent", [frame(TEXT, b"x" * 2_000), frame(TEXT, b"x" * 2_000) + frame(TEXT, b"x")[:3]], ids=["alone", "and a part"]
)
def test_a_whole_message_for_which_there_is_no_room_is_closed_once_and_leaves_nothing_held(
    serve: Serve, sent: bytes
) -> None:
    server = serve("--log", "memory:", max_bodies="1000")
    said = len(server.output)
    for _ in range(3):
        with opened(server, "/ws/hostile") as client:
            client.send(sent)
            assert client.close_code() == 1013
    eventually(lambda: server.http.get(f"{server.url}/subscriptions").json()["subscriptions"] == [])
    server.publish("fits", b"x" * 1_000)
    assert server.output[said:] == ""


def test_a_message_that_comes_slowly_but_in_time_is_taken(serve: Serve) -> None:
    server = serve("--log", "memory:", body_timeout="3s")
    with opened(server, "/ws/slow") as client:
        message = frame(TEXT, b"slowly")
        for place in range(len(message)):
            client.send(message[place : place + 1])
            time.sleep(0.02)
        client.until(b"feed.ack")


def test_messages_faster_than_commits_are_all_answered_and_bounded(server: RunningServer) -> None:
    size = memory(server)
    count = 20_000
    with opened(server, "/ws/fast?topic=nobody") as client:
        sender = threading.Thread(target=client.send, args=(frame(TEXT, b"x") * count,))
        sender.start()
        answers = 0
        tail = b""
        while answers < count:
            tail += client.receive()
            answers += tail.count(b"feed.ack")
            tail = tail[-7:] if not tail.endswith(b"feed.ack") else b""
        sender.join()
    assert memory(server) - size < 32 * MEGABYTE, "20,000 events in the window are some megabytes themselves"


# Whatever comes, it is an answer or a close: never an error of the server's own.

PAYLOADS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=50).map(str.encode),
    st.sampled_from([b"", b"\x03\xe8", b"\x03", b"\xff\xff", b"{}", b'{"data":', b"x" * 5_000]),
    st.fixed_dictionaries(
        {"data": st.one_of(st.none(), st.text(max_size=5))},
        optional={
            "topic": st.text(max_size=5),
            "type": st.text(max_size=5),
            "key": st.text(max_size=5),
            "ref": st.none(),
        },
    ).map(lambda message: json.dumps(message).encode()),
)
FRAMES = st.builds(
    frame,
    st.sampled_from([TEXT] * 6 + [CONT] * 3 + [BINARY, CLOSE, PING, PING, PONG, 3, 11]),
    PAYLOADS,
    fin=st.sampled_from([True, True, False]),
    masked=st.sampled_from([True] * 9 + [False]),
    reserved=st.sampled_from([0] * 9 + [4, 1]),
    length=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 300), st.integers(0, (1 << 64) - 1)),
    wide=st.none(),
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=st.lists(st.one_of(FRAMES, FRAMES, st.binary(max_size=40)), max_size=12), pieces=st.integers(1, 3))
def test_w4_any_frames_are_answered_or_closed_and_never_an_error(
    server: RunningServer, sent: list[bytes], pieces: int
) -> None:
    with opened(server, "/ws/fuzz") as client:
        data = b"".join(sent)
        size = -(-len(data) // pieces) or 1
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
        client.finish()
        client.rest()
    assert server.alive
    assert server.remarks == ""


def test_w4_after_all_that_the_server_serves_and_holds_no_socket_of_it(server: RunningServer) -> None:
    eventually(lambda: server.http.get(f"{server.url}/subscriptions").json()["subscriptions"] == [])
    with unharmed(server):
        pass
