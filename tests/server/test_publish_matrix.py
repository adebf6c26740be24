"""The same publishes to our own server, which answers most of them without the routes, and to the same application on
somebody else's uvicorn: the same bytes are answered, counted, logged and kept."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest

from feed import Feed, FeedUnavailable, Indeterminate, Overloaded
from feed.fastapi.logging.records import FactRecord
from feed.log.contract import Appended
from feed_server.app import create_app
from feed_server.publishing import Publishing
from feed_server.settings import Settings
from tests.support.inside import Inside, served_by_uvicorn, serving
from tests.support.tokens import OTHER_SECRET, SECRET, token

WAIT_SECONDS = 20.0

SERVERS: dict[str, dict[str, object]] = {
    "open": {"origins": "https://listed.example", "hosts": "feed.example"},
    "keyed": {"jwt_secret": SECRET, "public": "news/**", "origins": "https://listed.example"},
    "narrow": {"max_data": "100", "max_body": "1K"},
    "slow": {"publish_rate": "0.001"},
    "behind": {"proxies": "127.0.0.1", "jwt_secret": SECRET},
}
"""Settings of servers, each of which there is twice."""

ALL = token(["**"], ["**"], sub="ann")
SOME = token(["orders/*", "a/**"])
WRONG = token(["**"], secret=OTHER_SECRET)
EXPIRED = token(["**"], seconds=-60)
READS = token([], ["**"])

JSON = "Content-Type: application/json"
CLOUD = "Content-Type: application/cloudevents+json"
CLOUDEVENT = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"c/1","data":{"a":1}}'


class Case(NamedTuple):
    """A request to one of the servers. `status` is the answer's, and `is_short` says that no route is needed."""

    server: str
    status: int
    is_short: bool
    path: str
    body: bytes
    headers: Sequence[str] = ()
    method: str = "POST"
    host: str = "Host: localhost"

    @property
    def head(self) -> bytes:
        """All before the body."""
        length = f"Content-Length: {len(self.body)}"
        framed = self.headers if any("Transfer-Encoding" in line for line in self.headers) else [*self.headers, length]
        lines = [f"{self.method} {self.path} HTTP/1.1", self.host, *framed, "", ""]
        return "\r\n".join(lines).encode("latin-1")


def bearing(token: str) -> str:
    return f"Authorization: Bearer {token}"


def key(name: str) -> str:
    return f"Idempotency-Key: {name}"


SHORT, LONG = True, False

CASES = {
    # What is published.
    "text": Case("open", 201, SHORT, "/events/a/text", b"Hello"),
    "text with a type": Case("open", 201, SHORT, "/events/a/typed?type=created", b"x"),
    "text in another script": Case("open", 201, SHORT, "/events/gr%C3%BC%C3%9Fe/1", "¡Grüße! 🦊\n".encode()),
    "no text": Case("open", 201, SHORT, "/events/a/none", b""),
    "json": Case("open", 201, SHORT, "/events/a/json", b' {"a": 1,\r\n "b": [2]} ', [JSON]),
    "json with a charset": Case("open", 201, SHORT, "/events/a/json", b"[1]", [f"{JSON}; charset=UTF-8"]),
    "json that is a text": Case("open", 201, SHORT, "/events/a/json", b'"a\\nb"', [JSON]),
    "json behind a byte order mark": Case("open", 201, SHORT, "/events/a/json", b"\xef\xbb\xbf{}", [JSON]),
    "a media type in capitals": Case("open", 201, SHORT, "/events/a/json", b"1", ["CONTENT-TYPE: APPLICATION/JSON"]),
    "a key": Case("open", 201, SHORT, "/events/a/key", b"once", [key("k-1")]),
    "a key in capitals": Case("open", 201, LONG, "/events/a/key", b"once", ["IDEMPOTENCY-KEY: k-2"]),
    "a parameter of somebody else": Case("open", 201, SHORT, "/events/a?utm_source=x", b"x"),
    "a path below": Case("open", 201, SHORT, "/events/a/b/c/d/e", b"x"),
    "a topic of one byte too many": Case("open", 422, LONG, f"/events/{'a' * 257}", b"x"),
    "the longest topic": Case("open", 201, SHORT, f"/events/{'a' * 256}", b"x"),
    "a large body": Case("open", 201, LONG, "/events/a/large", b"x" * 70_000),
    # What is published by the routes.
    "chunks": Case("open", 201, LONG, "/events/a", b"5\r\nHello\r\n0\r\n\r\n", ["Transfer-Encoding: chunked"]),
    "a batch": Case("open", 201, LONG, "/events", b'[{"topic":"a","data":1},{"topic":"b","data":2}]', [JSON]),
    "one event of a batch": Case("open", 201, LONG, "/events", b'{"topic":"a","data":1}', [JSON]),
    "lines": Case(
        "open",
        201,
        LONG,
        "/events",
        b'{"topic":"a","data":1}\n{"topic":"b","data":2}\n',
        ["Content-Type: application/x-ndjson"],
    ),
    "a cloudevent": Case("open", 201, LONG, "/events", CLOUDEVENT, [CLOUD]),
    "a cloudevent to a topic": Case("open", 201, LONG, "/events/a", CLOUDEVENT.replace(b'"1",', b'"2",'), [CLOUD]),
    "a cloudevent in headers": Case(
        "open", 201, LONG, "/events/a", b"x", ["ce-specversion: 1.0", "ce-id: 3", "ce-source: /s", "ce-type: t"]
    ),
    # What is refused.
    "no topic": Case("open", 422, LONG, "/events/", b"x"),
    "an empty segment": Case("open", 422, LONG, "/events/a//b", b"x"),
    "a wildcard": Case("open", 422, LONG, "/events/a/*", b"x"),
    "a reserved topic": Case("open", 422, LONG, "/events/$a", b"x"),
    "a space in the topic": Case("open", 422, LONG, "/events/a%20b", b"x"),
    "a topic that is not UTF-8": Case("open", 422, LONG, "/events/a%ff", b"x"),
    "a reserved type": Case("open", 422, LONG, "/events/a?type=feed.open", b"x"),
    "a slip in a parameter": Case("open", 422, LONG, "/events/a?typ=x", b"x"),
    "a parameter of another route": Case("open", 422, LONG, "/events/a?last=3", b"x"),
    "a query that is not UTF-8": Case("open", 400, LONG, "/events/a?type=%ff", b"x"),
    "json that is none": Case("open", 400, LONG, "/events/a", b"{", [JSON]),
    "json that is empty": Case("open", 400, LONG, "/events/a", b"", [JSON]),
    "json that is too deep": Case("open", 400, LONG, "/events/a", b"[" * 200 + b"]" * 200, [JSON]),
    "text that is not UTF-8": Case("open", 400, LONG, "/events/a", b"\xff"),
    "another charset": Case("open", 415, LONG, "/events/a", b"x", ["Content-Type: text/plain; charset=latin-1"]),
    "compression": Case("open", 415, LONG, "/events/a", b"x", ["Content-Encoding: gzip"]),
    "a form": Case("open", 415, LONG, "/events/a", b"x", ["Content-Type: multipart/form-data; boundary=x"]),
    "a batch of text": Case("open", 415, LONG, "/events", b"x"),
    "an empty key": Case("open", 422, LONG, "/events/a", b"x", ["Idempotency-Key:"]),
    "a key with a space": Case("open", 422, LONG, "/events/a", b"x", [key("a b")]),
    "two keys": Case("open", 422, LONG, "/events/a", b"x", [key("a"), key("b")]),
    "another path": Case("open", 404, LONG, "/eventsa", b"x"),
    "another method": Case("open", 405, LONG, "/events/a", b"x", method="PUT"),
    # Sizes.
    "the largest text": Case("narrow", 201, SHORT, "/events/a", b"x" * 100),
    "a text that is too large": Case("narrow", 413, LONG, "/events/a", b"x" * 101),
    "the largest json": Case("narrow", 201, SHORT, "/events/a", b"[" + b" " * 98 + b"]", [JSON]),
    "a json that is too large": Case("narrow", 413, LONG, "/events/a", b"[" + b" " * 99 + b"]", [JSON]),
    "a string whose text fits": Case("narrow", 201, SHORT, "/events/a", b'"' + b"\\u0041" * 100 + b'"', [JSON]),
    "a string whose text is too large": Case("narrow", 413, SHORT, "/events/a", b'"' + b"x" * 101 + b'"', [JSON]),
    # Hosts and origins.
    "a host that is listed": Case("open", 201, SHORT, "/events/a", b"x", host="Host: feed.example:8000"),
    "another host": Case("open", 403, LONG, "/events/a", b"x", host="Host: evil.example"),
    "the same origin": Case("open", 201, SHORT, "/events/a", b"x", ["Origin: http://localhost"]),
    "an origin that is listed": Case("open", 201, SHORT, "/events/a", b"x", ["Origin: https://listed.example"]),
    "another origin": Case("open", 403, LONG, "/events/a", b"x", ["Origin: https://evil.example"]),
    "no origin": Case("open", 403, LONG, "/events/a", b"x", ["Origin: null"]),
    "two origins": Case("open", 403, LONG, "/events/a", b"x", ["Origin: http://localhost", "Origin: http://localhost"]),
    # Access.
    "a token": Case("keyed", 201, SHORT, "/events/a/1", b"x", [bearing(ALL)]),
    "a token in the query": Case("keyed", 201, SHORT, f"/events/a?token={ALL}", b"x"),
    "a token in a cookie": Case("keyed", 201, SHORT, "/events/a", b"x", [f"Cookie: a=b; feed_token={ALL}"]),
    "a token without a subject": Case("keyed", 201, SHORT, "/events/orders/1", b"x", [bearing(SOME)]),
    "a token and a key": Case("keyed", 201, SHORT, "/events/a/1", b"x", [bearing(ALL), key("k")]),
    "a token and a listed origin": Case(
        "keyed", 201, SHORT, "/events/a/1", b"x", [bearing(ALL), "Origin: https://listed.example"]
    ),
    "any host with a token": Case("keyed", 201, SHORT, "/events/a", b"x", [bearing(ALL)], host="Host: any.example"),
    "no token": Case("keyed", 401, LONG, "/events/a", b"x"),
    "a token that was not signed here": Case("keyed", 401, LONG, "/events/a", b"x", [bearing(WRONG)]),
    "a token that has expired": Case("keyed", 401, LONG, "/events/a", b"x", [bearing(EXPIRED)]),
    "a token that is none": Case("keyed", 401, LONG, "/events/a", b"x", [bearing("x")]),
    "two tokens": Case("keyed", 401, LONG, "/events/a", b"x", [bearing(ALL), bearing(SOME)]),
    "another scheme": Case("keyed", 401, LONG, "/events/a", b"x", [f"Authorization: Token {ALL}"]),
    "a token for other topics": Case("keyed", 403, LONG, "/events/orders/1/lines", b"x", [bearing(SOME)]),
    "a token for reading": Case("keyed", 403, LONG, "/events/a", b"x", [bearing(READS)]),
    "a public topic": Case("keyed", 401, LONG, "/events/news/1", b"x"),
    # Behind a proxy.
    "a client behind a proxy": Case(
        "behind",
        201,
        SHORT,
        "/events/a/1",
        b"x",
        [bearing(SOME), "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https"],
    ),
    "a key of a client behind a proxy": Case(
        "behind", 201, SHORT, "/events/a/1", b"x", [bearing(SOME), key("k"), "X-Forwarded-For: 203.0.113.7"]
    ),
    "the same key of another client": Case(
        "behind", 201, SHORT, "/events/a/1", b"y", [bearing(SOME), key("k"), "X-Forwarded-For: 203.0.113.8"]
    ),
    # The log.
    "a log that has to wait": Case("open", 201, SHORT, "/events/log/waits", b"x"),
    "a log that takes nothing": Case("open", 503, SHORT, "/events/log/unavailable", b"x"),
    "a log that takes no more": Case("open", 429, SHORT, "/events/log/overloaded", b"x"),
    "a log that does not know": Case("open", 504, SHORT, "/events/log/indeterminate", b"x"),
    "a log that has a fault": Case("open", 500, SHORT, "/events/log/fault", b"x", ["Origin: https://listed.example"]),
}


class Shell(NamedTuple):
    """One of two servers that are the same but for who answers."""

    inside: Inside
    is_ours: bool


class Seen(NamedTuple):
    """What came of a request."""

    answer: bytes
    counted: dict[str, int]
    logged: list[dict[str, Any]]
    published: list[tuple[object, ...]]
    short: int


class Servers:
    """All servers, in a thread of their own."""

    def __init__(self, shells: dict[str, tuple[Shell, Shell]], loop: asyncio.AbstractEventLoop) -> None:
        self.shells = shells
        self.loop = loop
        self.logged: list[dict[str, Any]] = []
        self.short = 0

    def see(self, shell: Shell, case: Case, pieces: Callable[[Case], Sequence[bytes]]) -> Seen:
        """Send a request, and see what comes of it."""
        feed = shell.inside.feed
        assert feed.running is not None
        position, counted, short = feed.running.log.position, dict(feed.counters.publishes), self.short
        self.logged.clear()
        with socket.create_connection(("127.0.0.1", shell.inside.port), WAIT_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces(case):
                connection.sendall(piece)
                asyncio.run_coroutine_threadsafe(turns(), self.loop).result(WAIT_SECONDS)
            answer = answered(connection)
        published = asyncio.run_coroutine_threadsafe(published_after(feed, position), self.loop).result(WAIT_SECONDS)
        changed = {name: count - counted[name] for name, count in feed.counters.publishes.items()}
        return Seen(answer, changed, list(self.logged), published, self.short - short)


async def turns() -> None:
    """Let the servers see what has come."""
    for _ in range(5):
        await asyncio.sleep(0.001)


async def published_after(feed: Feed, position: int) -> list[tuple[object, ...]]:
    """The events that are new in the log. Before that, whoever logs a request has done so."""
    await turns()
    assert feed.running is not None
    page = await feed.page("**", after=feed.running.log.id_at(position))
    return [(event.topic, event.type, event.text, event.is_json) for event in page.events]


def answered(connection: socket.socket) -> bytes:
    """One answer, without what differs from server to server and from time to time: the date, the name of the server,
    and the epoch of the log."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += (piece := connection.recv(65536))
        assert piece, received
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"\r\ncontent-length: (\d+)", head)
    assert found
    while len(body) < int(found[1]):
        body += connection.recv(65536)
    head = re.sub(rb"\r\n(date|server): [^\r]*", b"", head)
    return head + b"\r\n\r\n" + re.sub(rb'"[0-9a-z]{8}-(\d+)"', rb'"epoch-\1"', body)


class Lines(logging.Handler):
    """Takes the lines of requests."""

    def __init__(self, taken: list[dict[str, Any]]) -> None:
        super().__init__()
        self._taken = taken

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record, FactRecord):
            self._taken.append({name: value for name, value in record.facts.items() if name != "ms"})


def with_faults(feed: Feed) -> Feed:
    """Make the log of a feed wait, refuse and fail, for some topics."""
    append = feed.append

    async def faulty(drafts: Any, key: Any = None) -> Appended:
        match drafts[0].topic:
            case "log/waits":
                await asyncio.sleep(0)
                await asyncio.sleep(0.01)
            case "log/unavailable":
                raise FeedUnavailable("the log is away", 7)
            case "log/overloaded":
                raise Overloaded("too much at once")
            case "log/indeterminate":
                raise Indeterminate("nobody knows")
            case "log/fault":
                raise RuntimeError("a fault")
        return await append(drafts, key)

    feed.append = faulty  # type: ignore[method-assign]
    return feed


@contextlib.asynccontextmanager
async def all_servers() -> AsyncIterator[dict[str, tuple[Shell, Shell]]]:
    """Each of the servers, twice."""
    async with contextlib.AsyncExitStack() as stack:
        shells = {}
        for name, settings in SERVERS.items():
            ours = await stack.enter_async_context(serving(**settings))
            with_faults(ours.feed)
            made = Settings.model_validate({"log": "memory:", **settings})
            feed = with_faults(Feed(made.log, made.options))
            options = {"proxy_headers": bool(made.proxies), "forwarded_allow_ips": ",".join(made.proxies)}
            others = await stack.enter_async_context(
                served_by_uvicorn(create_app(made, feed), feed, loop="uvloop", http="httptools", **options)
            )
            shells[name] = (Shell(ours, True), Shell(others, False))
        yield shells


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with pytest.MonkeyPatch.context() as patch:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="servers")
        thread.start()
        context = all_servers()
        try:
            shells = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(WAIT_SECONDS)
            found = Servers(shells, loop)
            publish = Publishing.publish

            def counted(self: Publishing, *arguments: Any) -> bool:
                is_short = publish(self, *arguments)
                found.short += is_short
                return is_short

            patch.setattr(Publishing, "publish", counted)
            lines, logger = Lines(found.logged), logging.getLogger("feed.requests")
            level = logger.level
            logger.addHandler(lines)
            logger.setLevel(logging.INFO)
            try:
                yield found
            finally:
                logger.removeHandler(lines)
                logger.setLevel(level)
                asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(WAIT_SECONDS)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(WAIT_SECONDS)
            loop.close()


def whole(case: Case) -> Sequence[bytes]:
    return [case.head + case.body]


def apart(case: Case) -> Sequence[bytes]:
    return [case.head, case.body] if case.body else [case.head]


def in_pieces(case: Case) -> Sequence[bytes]:
    """Cut within a line of the head, and within the body."""
    cut, middle = len(case.head) // 2, len(case.body) // 2
    return [piece for piece in (case.head[:cut], case.head[cut:] + case.body[:middle], case.body[middle:]) if piece]


@pytest.mark.parametrize("name", list(CASES))
def test_a_publish_is_answered_counted_logged_and_kept_alike(servers: Servers, name: str) -> None:
    """The first time that its head is seen, and when that is known; whole, in pieces, and with the body apart."""
    case = CASES[name]
    ours, others = servers.shells[case.server]
    for pieces in (whole, in_pieces, whole, apart):
        seen, wanted = servers.see(ours, case, pieces), servers.see(others, case, pieces)
        assert seen.answer.startswith(b"HTTP/1.1 %d " % case.status), seen.answer
        assert seen._replace(short=0) == wanted
        assert wanted.short == 0
        if pieces is apart:  # by now the token was verified
            assert bool(seen.short) == case.is_short


def test_a_key_that_was_used_for_another_event_is_refused_alike(servers: Servers) -> None:
    """By the log, and so on the short way too."""
    first = Case("open", 201, SHORT, "/events/a/used", b"one", [key("used")])
    second = first._replace(status=422, body=b"another")
    seen = [[servers.see(shell, case, whole) for case in (first, second)] for shell in servers.shells["open"]]
    assert [one.answer[9:12] for one in seen[0]] == [b"201", b"422"]
    assert [one.short for one in seen[0]] == [1, 1]
    ours, others = ([one._replace(short=0) for one in each] for each in seen)
    assert ours == others


def test_a_rate_is_counted_once_for_each_publish(servers: Servers) -> None:
    case = Case("slow", 0, SHORT, "/events/a", b"x")
    seen = [[servers.see(shell, case, whole) for _ in range(3)] for shell in servers.shells["slow"]]
    assert [one.answer[9:12] for one in seen[0]] == [b"201", b"429", b"429"]
    # The answer says how long to wait, by the clock.
    wait = re.compile(rb"retry-after: \d+|\d+ s")
    ours, others = ([one._replace(answer=wait.sub(b"", one.answer), short=0) for one in each] for each in seen)
    assert ours == others
