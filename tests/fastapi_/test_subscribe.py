"""The contract of subscribing over HTTP: SSE, NDJSON, and the parameters they share with everything else."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from tests.conftest import Serve
from tests.support.awkward_texts import AWKWARD
from tests.support.running import RunningServer
from tests.support.streams import Frame, Stream, eventually, subscribed

NDJSON = "application/x-ndjson"


def lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


# The SSE stream.


def test_the_stream_has_these_headers_and_begins_at_once(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/begin", opened=False) as stream:
        headers = stream.response.headers
        assert stream.response.status_code == 200
        assert headers["content-type"] == "text/event-stream"
        assert headers["cache-control"] == "no-store, no-transform"
        assert headers["x-accel-buffering"] == "no"
        opening = stream.frame()
        assert opening.event == "feed.open"
        assert opening.retry is not None
        assert 1_500 <= int(opening.retry) <= 4_500
        assert re.fullmatch(r"[A-Za-z0-9]+-\d+", opening.id or "")
        assert list(opening.json) == ["subscription"]


def test_retry_differs_from_reader_to_reader(server: RunningServer) -> None:
    def retry() -> str | None:
        with subscribed(f"{server.url}/events/retry", opened=False) as stream:
            return stream.frame().retry

    assert len({retry() for _ in range(8)}) > 1


def test_an_event_has_id_event_and_data_and_message_is_left_out(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/shape/*") as stream:
        first = server.publish("shape/1", "two\nlines")
        second = server.publish("shape/2?type=created", "x")
        assert stream.frames(2) == [
            Frame(id=first, data="two\nlines"),
            Frame(id=second, event="created", data="x"),
        ]


def test_the_id_of_feed_open_resumes_before_the_first_event_to_come(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/first", opened=False) as stream:
        position = stream.frame().id
    missed = [server.publish("first", str(number)) for number in range(3)]
    with subscribed(f"{server.url}/events/first", Last_Event_ID=str(position)) as stream:
        frames = stream.until("feed.live")
        assert [frame.id for frame in frames[:-1]] == missed
        assert frames[-1].json == {"replayed": 3}


def test_resuming_gives_every_event_since_once_and_in_order_then_goes_on_live(server: RunningServer) -> None:
    ids = [server.publish("resume/1", str(number)) for number in range(20)]
    server.publish("resume-not", "x")
    with subscribed(f"{server.url}/events/resume/*", last_event_id=ids[4]) as stream:
        frames = stream.until("feed.live")
        assert [frame.id for frame in frames[:-1]] == ids[5:]
        assert frames[-1].json == {"replayed": 15}
        live = server.publish("resume/2", "live")
        assert stream.frame() == Frame(id=live, data="live")


@pytest.mark.parametrize("name", ["last_event_id", "lastEventId"])
def test_the_query_resumes_and_the_header_wins_over_it(server: RunningServer, name: str) -> None:
    ids = [server.publish(f"wins/{name}", str(number)) for number in range(5)]
    url = f"{server.url}/events/wins/{name}?{name}={ids[0]}"
    with subscribed(url) as stream:
        assert [frame.id for frame in stream.until("feed.live")][:-1] == ids[1:]
    with subscribed(url, Last_Event_ID=ids[2]) as stream:
        assert [frame.id for frame in stream.until("feed.live")][:-1] == ids[3:]


def test_space_around_an_id_is_no_part_of_it_and_an_empty_one_is_none(server: RunningServer) -> None:
    ids = [server.publish("space", str(number)) for number in range(3)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"GET /events/space HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: \t {ids[0]} \t\r\n\r\n"
        connection.sendall(head.encode())
        received = b""
        while b"feed.live" not in received:
            received += connection.recv(65536)
        assert b"feed.gap" not in received
        assert f"id: {ids[1]}\n".encode() in received
    with subscribed(f"{server.url}/events/space?last_event_id=") as stream:
        assert server.publish("space", "live") == stream.frame().id


def test_earliest_begins_with_the_oldest_retained(server: RunningServer) -> None:
    ids = [server.publish("earliest/1", str(number)) for number in range(3)]
    with subscribed(f"{server.url}/events/earliest/1?last_event_id=earliest") as stream:
        frames = stream.until("feed.live")
        assert [frame.id for frame in frames[:-1]] == ids


@pytest.mark.parametrize(("last", "expected"), [(1, 1), (3, 3), (1000, 10)])
def test_last_begins_with_the_newest_matching_events(server: RunningServer, last: int, expected: int) -> None:
    topic = f"last/{last}"
    ids = []
    for number in range(10):
        ids.append(server.publish(topic, str(number)))
        server.publish("last-other", "x")
    with subscribed(f"{server.url}/events/{topic}?last={last}") as stream:
        frames = stream.until("feed.live")
        assert [frame.id for frame in frames[:-1]] == ids[-expected:]
        assert frames[-1].json == {"replayed": expected}


def test_last_counts_only_wanted_types(server: RunningServer) -> None:
    ids = [server.publish(f"last-types?type={'a' if number % 3 else 'b'}") for number in range(12)]
    with subscribed(f"{server.url}/events/last-types?type=b&last=2") as stream:
        assert [frame.id for frame in stream.until("feed.live")][:-1] == [ids[6], ids[9]]


def test_an_id_makes_last_irrelevant(server: RunningServer) -> None:
    ids = [server.publish("both", str(number)) for number in range(5)]
    with subscribed(f"{server.url}/events/both?last=1&last_event_id={ids[0]}") as stream:
        assert [frame.id for frame in stream.until("feed.live")][:-1] == ids[1:]


def test_without_an_id_there_is_no_feed_live(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/no-live") as stream:
        id = server.publish("no-live", "x")
        assert stream.frame().id == id


def test_several_patterns_may_be_mixed_and_an_event_comes_once(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/mix/1?topic=mix/*&topic=mox&topic=mix/1") as stream:
        ids = [server.publish(topic, topic) for topic in ("mix/1", "mox", "mex", "mix/2", "mix/2/3")]
        assert [frame.id for frame in stream.frames(3)] == [ids[0], ids[1], ids[3]]
    with subscribed(f"{server.url}/events?topic=mix/**&topic=mox") as stream:
        ids = [server.publish(topic, topic) for topic in ("mix/1", "mox", "mix/2/3")]
        assert [frame.id for frame in stream.frames(3)] == ids


def test_only_the_wanted_types_come(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/types?type=a&type=b") as stream:
        ids = [server.publish(f"types?type={type}") for type in ("a", "c", "message", "b")]
        assert [frame.id for frame in stream.frames(2)] == [ids[0], ids[3]]


def test_envelope_puts_the_whole_event_into_data_and_leaves_the_name_out(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/env/*?envelope=1&last_event_id=earliest") as stream:
        assert stream.until("feed.live")[-1].event == "feed.live"
        id = server.publish("env/1?type=created", '{"a":1}', **{"Content-Type": "application/json"})
        frame = stream.frame()
        assert (frame.id, frame.event) == (id, None)
        assert frame.json.pop("time")
        assert {name: value for name, value in frame.json.items() if name != "time"} == {
            "id": id,
            "topic": "env/1",
            "type": "created",
            "data": {"a": 1},
        }


def test_what_is_published_by_somebody_else_comes_in_the_same_order_to_all(server: RunningServer) -> None:
    with ExitStack() as stack:
        streams = [stack.enter_context(subscribed(f"{server.url}/events/order/**")) for _ in range(3)]
        batch = "\n".join(json.dumps({"topic": f"order/{number % 7}", "data": number}) for number in range(2_000))
        answer = server.http.post(f"{server.url}/events", content=batch, headers={"Content-Type": NDJSON})
        for stream in streams:
            assert [frame.id for frame in stream.frames(2_000)] == answer.json()["ids"]


# Gaps: P5.


@pytest.mark.parametrize(
    "id", ["nonsense", "x" * 10_000, "nothere0-5", "-", "é日本", "a\tb", "{epoch}-999999999", "{epoch}-" + "9" * 40]
)
def test_p5_an_id_that_is_not_valid_is_a_gap_and_never_an_error(server: RunningServer, id: str) -> None:
    published = server.publish("gap/unknown", "x")
    id = id.format(epoch=published.partition("-")[0])
    with subscribed(f"{server.url}/events/gap/unknown", {b"Last-Event-ID": id.encode()}, opened=False) as stream:
        assert stream.response.status_code == 200
        opening, gap = stream.frames(2)
        assert (opening.event, gap.event) == ("feed.open", "feed.gap")
        assert gap.json["reason"] == "unknown"
        assert len(gap.json["requested"].encode()) <= 128
        assert id.startswith(gap.json["requested"])
        assert gap.json["resumed_from"] == opening.id == gap.id
        frames = stream.until("feed.live")
        assert frames[-2].id == published, "the replay begins at the oldest retained"


def test_p5_an_id_older_than_what_is_retained_is_a_gap_that_says_so(serve: Serve) -> None:
    server = serve("--log", "memory:", retain_events=5)
    ids = [server.publish("a", str(number)) for number in range(12)]
    with subscribed(f"{server.url}/events/a", last_event_id=ids[2]) as stream:
        gap = stream.frame()
        assert gap.event == "feed.gap"
        assert gap.json == {"requested": ids[2], "resumed_from": ids[6], "reason": "expired"}
        assert [frame.id for frame in stream.until("feed.live")][:-1] == ids[7:]
    with subscribed(f"{server.url}/events/a", last_event_id=ids[6]) as stream:
        assert [frame.event for frame in stream.until("feed.live")] == [None] * 5 + ["feed.live"]


def test_p4_an_id_from_a_log_that_is_gone_is_a_gap(serve: Serve) -> None:
    server = serve("--log", "memory:")
    old = [server.publish("a", str(number)) for number in range(3)]
    server.kill()
    server.start()
    new = [server.publish("a", f"new {number}") for number in range(9)]
    with subscribed(f"{server.url}/events/a", last_event_id=old[2]) as stream:
        assert stream.frame().json["reason"] == "unknown"
        assert [frame.id for frame in stream.until("feed.live")][:-1] == new


# Signs of life.


def test_a_quiet_stream_gets_a_comment_or_the_position_if_it_has_moved(serve: Serve) -> None:
    server = serve("--log", "memory:", heartbeat="300ms")
    with subscribed(f"{server.url}/events/quiet") as stream:
        assert stream.line().startswith(":")
        moved = server.publish("elsewhere", "x")
        frame = stream.frame()
        assert (frame.event, frame.id, frame.json) == ("feed.position", moved, {})
        assert stream.line().startswith(":")
        id = server.publish("quiet", "x")
        assert stream.frame().id == id
    with subscribed(f"{server.url}/events/quiet", last_event_id=moved) as stream:
        assert stream.frame().id == id


def test_a_quiet_ndjson_stream_gets_its_position(serve: Serve) -> None:
    server = serve("--log", "memory:", heartbeat="300ms")
    with subscribed(f"{server.url}/events/quiet", Accept=NDJSON) as stream:
        first, second = stream.object(), stream.object()
        assert first == second
        assert first["type"] == "feed.position"


# NDJSON, and who gets what.


def test_ndjson_has_the_same_events_as_objects(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/lines/*?last_event_id=earliest", Accept=NDJSON) as stream:
        assert stream.response.headers["content-type"] == NDJSON
        assert stream.object() == {"type": "feed.live", "data": {"replayed": 0}}
        id = server.publish("lines/1?type=t", "text")
        event = stream.object()
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event.pop("time"))
        assert event == {"id": id, "topic": "lines/1", "type": "t", "data": "text"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, "text/event-stream"),
        ("*/*", "text/event-stream"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", "text/event-stream"),
        ("text/event-stream", "text/event-stream"),
        ("text/event-stream, application/json;q=0.5", "text/event-stream"),
        ("application/x-ndjson", NDJSON),
        ("APPLICATION/X-NDJSON; q=1", NDJSON),
        ("application/json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("application/json;q=0.1, application/x-ndjson;q=0.2", NDJSON),
        ("nonsense;q=x,,;", "text/event-stream"),
    ],
)
def test_accept_chooses_the_form(server: RunningServer, accept: str | None, content_type: str) -> None:
    headers = {} if accept is None else {"Accept": accept}
    with httpx.Client() as client:
        client.headers.pop("accept")
        with client.stream("GET", f"{server.url}/events/accept", headers=headers) as response:
            assert response.headers["content-type"] == content_type


@pytest.mark.parametrize(
    "path",
    [
        "/events",
        "/events/",
        "/events/a//b",
        "/events/a*b",
        "/events/**/a",
        "/events/$SYS",
        "/events/a%20b",
        "/events/a%FF",
        "/events/a?topic=",
        "/events/a?type=",
        "/events/a?type=feed.gap",
        "/events/a?last=0",
        "/events/a?last=1001",
        "/events/a?last=x",
        "/events/a?last=-1",
        "/events?" + "&".join(f"topic=t{number}" for number in range(101)),
    ],
)
@pytest.mark.parametrize("accept", ["text/event-stream", NDJSON, "application/json"])
def test_a_bad_pattern_type_or_number_is_422(server: RunningServer, path: str, accept: str) -> None:
    answer = server.http.get(f"{server.url}{path}", headers={"Accept": accept}, follow_redirects=False)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 422


def test_a_hundred_patterns_are_taken(server: RunningServer) -> None:
    topics = "&".join(f"topic=hundred/{number}" for number in range(100))
    with subscribed(f"{server.url}/events?{topics}") as stream:
        id = server.publish("hundred/99", "x")
        assert stream.frame().id == id


def test_a_query_that_is_not_utf_8_is_400(server: RunningServer) -> None:
    assert server.http.get(f"{server.url}/events?topic=%FF").status_code == 400


def test_head_says_what_get_would_and_opens_nothing(server: RunningServer) -> None:
    answer = server.http.head(f"{server.url}/events/head")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
    assert server.http.head(f"{server.url}/events/a*b").status_code == 422


# W2: awkward data, the same text for everybody.


@pytest.fixture(scope="module")
def awkward(server: RunningServer) -> str:
    """A topic with all awkward texts."""
    for text in AWKWARD:
        server.publish("awkward", text)
    return f"{server.url}/events/awkward"


def test_w2_httpx_sse_decodes_the_same_texts(awkward: str) -> None:
    with httpx.Client() as client, connect_sse(client, "GET", f"{awkward}?last_event_id=earliest") as source:
        texts = []
        for event in source.iter_sse():
            if event.event == "feed.live":
                break
            if not event.event.startswith("feed."):
                texts.append(event.data)
    assert texts == [lf(text) for text in AWKWARD]


def test_w2_curl_gets_the_very_bytes_of_the_standard(awkward: str, curl_program: str) -> None:
    with subprocess.Popen([curl_program, "-sN", f"{awkward}?last_event_id=earliest"], stdout=subprocess.PIPE) as curl:
        assert isinstance(curl.stdout, io.BufferedReader)
        received = b""
        while b"event: feed.live\n" not in received:
            received += curl.stdout.read1()
        curl.send_signal(signal.SIGKILL)
    frames = [frame for frame in received.split(b"\n\n") if b"event: feed." not in frame]
    texts = []
    for frame in frames[: len(AWKWARD)]:
        lines = [line.removeprefix(b"data:") for line in frame.split(b"\n") if line.startswith(b"data:")]
        texts.append(b"\n".join(line.removeprefix(b" ") for line in lines).decode())
    assert texts == [lf(text) for text in AWKWARD]


def test_w2_ndjson_and_history_give_the_exact_texts(awkward: str) -> None:
    with subscribed(f"{awkward}?last_event_id=earliest", Accept=NDJSON) as stream:
        assert [stream.object()["data"] for _ in AWKWARD] == AWKWARD
    page = httpx.get(awkward, headers={"Accept": "application/json"}).json()
    assert [event["data"] for event in page["events"]] == AWKWARD


def test_json_comes_out_as_it_went_in_over_every_form(server: RunningServer) -> None:
    raw = '{"n":123456789012345678901234567890,"f":1.10,"a":1,"a":2,"deep":' + '{"x":[' * 40 + "0" + "]}" * 40 + "}"
    server.publish("as-is", raw, **{"Content-Type": "application/json"})
    url = f"{server.url}/events/as-is?last_event_id=earliest"
    with subscribed(url) as stream:
        assert stream.frame().data == raw
    with subscribed(url, Accept=NDJSON) as stream:
        assert f'"data":{raw},' in stream.line()
    assert f'"data":{raw},' in httpx.get(url, headers={"Accept": "application/json"}).text


# Ends.


def test_a_stopping_server_says_so_and_when_to_come_back(serve: Serve) -> None:
    server = serve("--log", "memory:", drain=2)
    with subscribed(f"{server.url}/events/a") as sse, subscribed(f"{server.url}/events/a", Accept=NDJSON) as ndjson:
        server.signal(signal.SIGTERM)
        (closing,) = sse.rest()
        assert closing.event == "feed.closing"
        assert closing.json == {"reason": "shutdown", "retry": int(closing.retry or 0)}
        assert 200 <= closing.json["retry"] <= 2_000
        assert ndjson.object()["type"] == "feed.closing"
    assert server.wait() == 0


def test_while_draining_publishes_are_served_and_streams_are_turned_away_gently(serve: Serve) -> None:
    server = serve("--log", "memory:", drain=20, queue_events=1_000_000, queue_bytes="1G")
    with socket.create_connection(("127.0.0.1", server.port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stuck.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(100):  # more than the sockets hold: this reader keeps the server from ending
            server.publish("a", "x" * 200_000)
        server.signal(signal.SIGTERM)
        eventually(lambda: server.http.get(f"{server.url}/readyz").status_code == 503)
        assert server.http.get(f"{server.url}/healthz").status_code == 200
        assert server.publish("b", "still")
        with subscribed(f"{server.url}/events/a", opened=False) as stream:
            assert stream.response.status_code == 200
            (closing,) = stream.rest()
            assert (closing.event, closing.json["reason"]) == ("feed.closing", "shutdown")
            assert closing.retry == str(closing.json["retry"])
        answer = server.http.get(f"{server.url}/events/a", headers={"Accept": NDJSON})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/problem+json"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_reader_that_takes_nothing_is_cut_off_when_the_drain_is_over(serve: Serve) -> None:
    server = serve("--log", "memory:", drain=1)
    with socket.create_connection(("127.0.0.1", server.port)) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.sendall(b"GET /events/a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert stuck.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(60):
            server.publish("a", "x" * 200_000)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 3
    assert "1 streams did not end within 1 s: cut off" in server.output
    assert "Traceback" not in server.output


def test_a_reader_that_leaves_is_forgotten(serve: Serve) -> None:
    server = serve("--log", "memory:")

    def sockets() -> int:
        listing = subprocess.run(["ls", f"/proc/{server.pid}/fd"], capture_output=True, check=True).stdout
        return len(listing.split())

    with httpx.Client() as client:
        client.get(f"{server.url}/healthz")
        before = sockets()
        with ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(subscribed(f"{server.url}/events/leaving"))
            assert sockets() >= before + 10
        eventually(lambda: sockets() <= before)


@pytest.fixture
def nine(server: RunningServer) -> Iterator[list[Stream]]:
    """Nine well-behaved readers."""
    with ExitStack() as stack:
        yield [stack.enter_context(subscribed(f"{server.url}/events/ten/*")) for _ in range(9)]


@pytest.mark.parametrize("behaviour", ["stuck", "reset", "half-closed", "websocket stuck"])
def test_one_failing_or_stuck_reader_among_ten_delays_and_breaks_nobody(
    server: RunningServer, nine: list[Stream], behaviour: str
) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as tenth:
        tenth.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        upgrade = (
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        )
        path = b"/ws/ten/1" if "websocket" in behaviour else b"/events/ten/1"
        tenth.sendall(
            b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + (upgrade if b"/ws" in path else b"") + b"\r\n"
        )
        assert tenth.recv(9) == b"HTTP/1.1 "
        if behaviour == "reset":
            tenth.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            tenth.close()
        elif behaviour == "half-closed":
            tenth.shutdown(socket.SHUT_WR)
        ids: list[Any] = [server.publish("ten/1", "x" * 100_000) for _ in range(80)]
        for stream in nine:
            assert [frame.id for frame in stream.frames(80)] == ids


def test_patterns_with_wildcards_have_a_thousand_segments_in_sum(server: RunningServer) -> None:
    deep = "/".join(["*"] * 100)

    def status(count: int) -> int:
        topics = {"topic": [f"{deep[:-1]}{number}" for number in range(count)]}
        return server.http.get(
            f"{server.url}/events", params=topics, headers={"Accept": "application/json"}
        ).status_code

    assert [status(10), status(11)] == [200, 422]
