"""A line for each request, and for each stream at its end: what is in it, and what never is."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.support.hostile import raw
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer, running
from tests.support.scraping import scrape
from tests.support.streams import eventually, subscribed
from tests.support.tokens import SECRET, bearer, token

EVERYTHING = token(["**"], ["**"], admin=True, sub="ann")
OWN = bearer(EVERYTHING)
EVIL = "a\r\n2026-11-21 ERROR forged\x1b[31m\u2028\u202e"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """One with a key, that logs what it does by default, and soon cuts off those that take nothing."""
    options = {"jwt_secret": SECRET, "metrics_public": 1, "stall": 1, "max_subscribers": 8}
    with running("--log", "memory:", log_level="info", **options) as shared:
        yield shared


class Lines:
    """What a server has logged since it was made. A line comes after its answer, but within moments."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self._begin = len(server.output)

    @property
    def all(self) -> list[dict[str, Any]]:
        """All of them, each a JSON object."""
        return [json.loads(line) for line in self._server.output[self._begin :].splitlines()]

    def take(self, count: int = 1) -> list[dict[str, Any]]:
        """Wait for so many, and see to it that there are no more once another request has had its line."""
        eventually(lambda: len(self.all) >= count)
        self._server.http.get(f"{self._server.url}/the-end")
        eventually(lambda: self.all and self.all[-1].get("path") == "/the-end")
        lines = self.all[:-1]
        assert len(lines) == count, lines
        self._begin = len(self._server.output)
        return lines


@pytest.fixture
def lines(server: RunningServer) -> Lines:
    """From here on, and nothing of what tests before have left."""
    eventually(lambda: not any(scrape(server)["feed_subscribers"].values()))
    lines = Lines(server)
    server.http.get(f"{server.url}/the-beginning")
    eventually(lambda: lines.all and lines.all[-1].get("path") == "/the-beginning")
    return Lines(server)


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    """What can be foretold of a line."""
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    for name in ("ms", "seconds"):
        assert 0 <= line.pop(name, 0) < 60
    return line


# Requests.


def test_a_publish_is_a_line(server: RunningServer, lines: Lines) -> None:
    answer = server.http.post(f"{server.url}/events/orders/42?type=made", content="12345", headers=OWN)
    (line,) = lines.take()
    assert without_times(line) == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": "/events/orders/42",
        "status": 201,
        "bytes_in": 5,
        "bytes_out": len(answer.content),
        "client": "127.0.0.1",
        "principal": "ann",
    }


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "principal"),
    [
        ("POST", "/events", {"Content-Type": "text/plain", **OWN}, 415, "ann"),
        ("POST", "/events/a", {}, 401, None),
        ("POST", "/events/a//b", OWN, 422, "ann"),
        ("POST", "/events/a", {"Origin": "http://evil.example", **OWN}, 403, None),
        ("POST", "/events/a", {"Authorization": "Bearer nonsense"}, 401, None),
        ("GET", "/events/a//b", OWN, 422, None),
        ("GET", "/events/a", {"Accept": "application/json", **OWN}, 200, "ann"),
        ("HEAD", "/events/a", OWN, 200, "ann"),
        ("GET", "/ws/a", OWN, 426, None),
        ("GET", "/", {}, 200, None),
        ("GET", "/assets/app.js", {}, 200, None),
        ("GET", "/nothing", {}, 404, None),
        ("PATCH", "/events/a", {}, 405, None),
        ("POST", "/session", OWN, 204, "ann"),
        ("DELETE", "/session", {}, 204, None),
        ("GET", "/subscriptions", OWN, 200, "ann"),
        ("DELETE", "/subscriptions/none", OWN, 404, "ann"),
    ],
)
def test_each_request_is_one_line(
    server: RunningServer,
    lines: Lines,
    method: str,
    path: str,
    headers: dict[str, str],
    status: int,
    principal: str | None,
) -> None:
    content = b"x" if method == "POST" and path != "/session" else None
    answer = server.http.request(method, f"{server.url}{path}", headers=headers, content=content)
    server.http.cookies.clear()
    assert answer.status_code == status
    (line,) = lines.take()
    assert (line["method"], line["path"], line["status"]) == (method, path, status)
    assert line["bytes_out"] == len(answer.content)
    assert line.get("principal") == principal


def test_a_long_poll_is_one_line_and_no_stream(server: RunningServer, lines: Lines) -> None:
    at = server.http.get(f"{server.url}/events/a", headers={"Accept": "application/json", **OWN}).json()["next"]
    poll = {"wait": "0.05", "last_event_id": at}
    server.http.get(f"{server.url}/events/a", params=poll, headers={"Accept": "application/json", **OWN})
    assert [line["event"] for line in lines.take(2)] == ["request", "request"]


def test_a_websocket_that_is_refused_is_a_line(server: RunningServer, lines: Lines) -> None:
    with pytest.raises(InvalidStatus), connect(f"{server.url.replace('http', 'ws')}/ws/a?token=nonsense"):
        pass
    (line,) = lines.take()
    assert (line["method"], line["path"], line["status"]) == ("GET", "/ws/a", 401)


def test_what_never_was_a_request_is_a_line(server: RunningServer, lines: Lines) -> None:
    with raw(server) as client:
        client.ask(b"\x16\x03\x01 forged\r\n\r\n")
    (line,) = lines.take()
    assert without_times(line) == {
        "level": "info",
        "event": "request",
        "method": None,
        "path": None,
        "status": 400,
        "refused": "this is not an HTTP request",
        "client": "127.0.0.1",
    }


def test_health_checks_are_no_lines(server: RunningServer, lines: Lines) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert server.http.get(f"{server.url}{path}").status_code == 200
    assert lines.take(0) == []


def test_where_publishes_are_quiet_those_that_succeed_are_no_lines_and_others_are() -> None:
    with running("--log", "memory:", log_level="info", quiet_publishes=1) as server:
        server.publish("a")
        assert server.http.post(f"{server.url}/events/a//b", content="x").status_code == 422
        said = eventually(lambda: server.remarks.splitlines())
        assert [json.loads(line)["status"] for line in said] == [422]


# Streams.


def stream(line: dict[str, Any], **expected: Any) -> None:
    """That it is the line of a stream, of which this was expected."""
    assert line["event"] == "stream"
    assert re.fullmatch("[0-9a-f]{16}", line["subscription"])
    assert {name: line.get(name) for name in expected} == expected


def test_a_stream_is_a_line_at_its_end_with_what_it_got(server: RunningServer, lines: Lines) -> None:
    received = b""
    with httpx.stream("GET", f"{server.url}/events/s/*?type=made", headers=OWN, timeout=10) as response:
        for number in range(2):
            server.http.post(f"{server.url}/events/s/{number}?type=made", content="x", headers=OWN)
        for chunk in response.iter_raw():
            received += chunk
            if received.count(b"event: made") == 2:
                break
    one, other, ended = lines.take(3)
    assert (one["path"], other["path"]) == ("/events/s/0", "/events/s/1")
    last_id = re.findall(rb"id: (\S+)", received)[-1].decode()
    opened = json.loads(re.findall(rb"data: (.*)", received)[0])
    assert without_times(ended) == {
        "level": "info",
        "event": "stream",
        "subscription": opened["subscription"],
        "transport": "sse",
        "patterns": ["s/*"],
        "ended": "client",
        "events": 2,
        "bytes_out": len(received),
        "last_id": last_id,
        "client": "127.0.0.1",
        "principal": "ann",
    }


def test_so_are_a_websocket_and_lines(server: RunningServer, lines: Lines) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/ws/a?topic=b&token={EVERYTHING}") as socket:
        socket.send("published by it")
        while "published by it" not in str(socket.recv(10)):
            pass
    (line,) = lines.take()
    stream(line, transport="websocket", patterns=["a", "b"], ended="client", events=1, principal="ann")
    with subscribed(f"{server.url}/events/a", OWN, Accept="application/x-ndjson"):
        pass
    (line,) = lines.take()
    stream(line, transport="ndjson", patterns=["a"], ended="client", events=0)


def test_it_says_why_a_stream_ended(server: RunningServer, lines: Lines) -> None:
    with subscribed(f"{server.url}/events/a", OWN, opened=False) as kicked:
        id = kicked.frame().json["subscription"]
        server.http.delete(f"{server.url}/subscriptions/{id}", headers=OWN)
        kicked.rest()
    assert {line.get("ended") for line in lines.take(2)} == {None, "kicked"}
    brief = bearer(token([], ["**"], seconds=1.5))
    with subscribed(f"{server.url}/events/a", brief) as expiring:
        expiring.rest()
    (line,) = lines.take()
    stream(line, ended="token-expired", patterns=["a"])
    with subscribed(f"{server.url}/events/slow", OWN):
        while all(line.get("ended") is None for line in lines.all):
            server.http.post(f"{server.url}/events/slow", content="x" * 250_000, headers=OWN)
    (line,) = (line for line in lines.all if line.get("event") == "stream")
    stream(line, ended="slow", patterns=["slow"])
    assert line["events"] > 0


def test_a_stream_that_there_is_no_room_for_is_a_line_of_its_request(server: RunningServer, lines: Lines) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(subscribed(f"{server.url}/events/a", OWN))
        with subscribed(f"{server.url}/events/b", OWN, opened=False) as refused:
            refused.rest()
        (sse,) = lines.take()  # which may be later than the answer to another request
        server.http.get(f"{server.url}/events/b", headers={"Accept": "application/x-ndjson", **OWN})
        (ndjson,) = lines.take()
    assert (sse["event"], sse["status"], sse["refused"]) == ("request", 200, "busy")
    assert (ndjson["event"], ndjson["status"]) == ("request", 503)
    assert [line["event"] for line in lines.take(8)] == ["stream"] * 8


def test_of_many_and_long_patterns_some_are_shown(server: RunningServer, lines: Lines) -> None:
    query = "&".join(f"topic={number:02}{'x' * 250}" for number in range(40))
    with subscribed(f"{server.url}/events?{query}", OWN):
        pass
    (line,) = lines.take()
    assert [len(pattern) for pattern in line["patterns"]] == [128] * 10
    assert line["more_patterns"] == 30


def test_the_streams_of_a_server_that_stops_have_their_lines() -> None:
    with running("--log", "memory:", log_level="info", drain="1") as server:
        with subscribed(f"{server.url}/events/a") as stopped:
            server.signal(15)
            assert stopped.until("feed.closing")
            stopped.rest()
        assert server.wait() == 0
        (line,) = (json.loads(line) for line in server.remarks.splitlines())
        stream(line, ended="shutdown", patterns=["a"])


# What is in no line.


def test_no_token_is_in_any_line_wherever_it_was(server: RunningServer, lines: Lines) -> None:
    bad = EVERYTHING[:-4] + "AAAA"
    for used in (EVERYTHING, bad):
        places: list[dict[str, Any]] = [
            {"headers": bearer(used)},
            {"params": {"token": used}},
            {"cookies": {"feed_token": used}},
        ]
        for place in places:
            with httpx.Client(verify=False, base_url=server.url, **place) as http:
                http.post("/events/a", content="x")
                http.post("/events/a//b", content="x")
                http.post("/session")
                http.get("/subscriptions")
                http.get("/nothing")
                http.get("/events/a", headers={"Accept": "application/json"})
                with http.stream("GET", "/events/a") as response:
                    next(response.iter_raw())
        with contextlib.suppress(InvalidStatus), connect(f"{server.url.replace('http', 'ws')}/ws/a?token={used}"):
            pass
    lines.take(2 * (3 * 7 + 1))
    parts = {part for used in (EVERYTHING, bad) for part in used.split(".")} - {EVERYTHING.split(".")[0]}
    assert not any(part[:20] in server.output for part in (*parts, EVERYTHING.split(".")[0]))
    assert SECRET not in server.output


def test_a_token_that_was_written_into_the_path_is_in_no_line(server: RunningServer, lines: Lines) -> None:
    path = f"/events/orders/42&token={EVERYTHING}"
    server.http.get(f"{server.url}{path}")
    server.http.post(f"{server.url}/events/a;token={EVERYTHING}", content="x")
    assert [line["path"] for line in lines.take(2)] == ["/events/orders/42&token=***", "/events/a;token=***"]
    with subscribed(f"{server.url}/events/a&token=eyJ.not.one", OWN):
        pass
    assert [line["patterns"] for line in lines.take()] == [["a&token=***"]]


def test_w10_what_a_client_sends_ends_no_line_and_steers_no_terminal(server: RunningServer, lines: Lines) -> None:
    quoted = httpx.URL("http://x", params={"x": EVIL}).query.removeprefix(b"x=")
    authorization = b"Authorization: " + OWN["Authorization"].encode()
    head = b"Host: localhost\r\nUser-Agent: \x9b31mforged\r\nLast-Event-ID: \x9b\xe2\x80\xa8\r\n" + authorization
    for method in (b"GET", b"POST", b"DELETE"):
        with raw(server) as client:
            target = b"/events/%b?token=%b&x=%b" % (quoted, quoted, quoted)
            client.ask(b"%b %b HTTP/1.1\r\n%b\r\nConnection: close\r\n\r\n" % (method, target, head))
    with raw(server) as client:
        client.ask(b"GET / HTTP/1.1\r\nX: \x1b[31m\r\n%b\r\n\r\n" % head)
    with raw(server) as client:
        client.send(b"GET /events/ok HTTP/1.1\r\n%b\r\n\r\n" % head)
        client.until(b"feed.open")
    *requests, stream = lines.take(5)
    assert [line["path"] for line in requests] == [*[f"/events/{quoted.decode()}"] * 3, None]
    assert stream["patterns"] == ["ok"]
    assert server.output.isascii()
    assert server.output.replace("\n", "").isprintable()


# How it is asked for.


def test_as_text_with_health_checks_and_nothing_of_the_libraries() -> None:
    with running("--log", "memory:", "--log-format", "text", "--log-level", "debug") as server:
        server.http.get(f"{server.url}/healthz?token=hush")
        server.publish("a", "12345")
        with connect(f"{server.url.replace('http', 'ws')}/ws/a?token=hush&x=%0aforged"):
            pass
        said = eventually(lambda: [*server.remarks.splitlines()] if len(server.remarks.splitlines()) >= 3 else None)
        assert "hush" not in server.output
    health, publish, socket = said
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert re.fullmatch(
        f"{date} DEBUG feed.requests: request GET /healthz 200 ms=[\\d.]+ bytes_in=0 bytes_out=19 client=127.0.0.1",
        health,
    )
    assert re.fullmatch(
        f"{date} INFO feed.requests: request POST /events/a 201 ms=[\\d.]+ bytes_in=5 bytes_out=32 client=127.0.0.1",
        publish,
    )
    assert re.match(
        f"{date} INFO feed.streams: stream subscription=\\w+ transport=websocket patterns=a ended=client ", socket
    )


def test_workers_say_which_they_are(shared_redis: RedisServer) -> None:
    log = shared_redis.url("exchange")
    with running("--log", log, "--workers", "2", log_level="info") as server:
        for _ in range(20):
            httpx.post(f"{server.url}/events/a", content=b"x", verify=False)  # over a connection of its own
        found = eventually(lambda: server.remarks.splitlines() if len(server.remarks.splitlines()) == 20 else None)
        assert {json.loads(line)["worker"] for line in found} == {1, 2}
        assert server.stop() == 0


def test_a_level_or_format_that_there_is_not_is_refused() -> None:
    from pydantic import ValidationError

    from feed_server.setting_errors import problems
    from feed_server.settings import Settings

    with pytest.raises(ValidationError) as raised:
        Settings.model_validate({"log_level": "loud", "log_format": "xml"})
    assert list(problems(raised.value)) == [
        "--log-format (FEED_LOG_FORMAT): must be one of auto, text or json",
        "--log-level (FEED_LOG_LEVEL): must be one of debug, info, warning or error",
    ]
