"""What the tests that send nonsense have in common: a client that sends whatever bytes it is given, an audience that
hears all there is to hear, and what the contract says of a text before the server has its say.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPResponse
from typing import Any, NamedTuple

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from feed import Invalid
from feed.json_rules import MAX_DEPTH
from tests.support.running import RunningServer
from tests.support.streams import WAIT_SECONDS, Frame, eventually, subscribed

Head = Iterable[tuple[bytes, bytes]]


@dataclass
class Answer:
    """An answer; of a stream's body there is nothing. `headers` have names in lower case."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def checked(self) -> Answer:
        """Itself, if it is one that nonsense may get: no fault of the server's, and a problem document if an error."""
        assert self.status < 500, self
        if self.status >= 400:
            assert self.headers["content-type"] == "application/problem+json", self
            assert set(self.json) == {"type", "title", "status", "detail"}
            assert self.json["status"] == self.status
            assert self.json["title"]
            assert self.json["detail"]
        if self.status == 401:
            assert self.headers["www-authenticate"].startswith("Bearer")
        return self


def ask(server: RunningServer, method: bytes, target: bytes, head: Head = (), body: bytes | None = None) -> Answer:
    """One request in just these bytes, on a connection of its own."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Connection: close"]
    head = list(head)
    if not any(name.lower() == b"host" for name, _ in head):
        lines.append(b"Host: localhost")
    lines += [b"%b: %b" % pair for pair in head]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # it may have answered before it had it all
            connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + (body or b""))
        response = HTTPResponse(connection, method=method.decode("latin-1"))
        response.begin()
        with contextlib.closing(response):
            headers = {name.lower(): value for name, value in response.getheaders()}
            kind = headers.get("content-type", "")
            is_stream = response.status in {101, 200} and not kind.startswith(("application/json", "text/plain"))
            return Answer(response.status, headers, b"" if is_stream else response.read())


def encoded(text: bytes) -> bytes:
    """Percent-encoded, every byte of it."""
    return b"".join(b"%%%02X" % byte for byte in text)


# What the contract says.


def is_valid(check: Callable[[str], str], text: str | bytes) -> bool:
    """Whether one of `feed.event`'s rules lets it pass. Bytes have to be UTF-8."""
    try:
        check(text if isinstance(text, str) else text.decode())
    except (Invalid, UnicodeDecodeError):
        return False
    return True


class Data(NamedTuple):
    """Data as it is to come back: text, or JSON as it was written."""

    text: str
    is_json: bool


class _Object(list[Any]):
    """A JSON object with all its members, also those of the same name."""


def _finite(number: str) -> float:
    if abs(value := float(number)) == float("inf"):
        raise ValueError("beyond a double")
    return value


def no_constant(name: str) -> float:
    """Raises `ValueError`: Python's parser takes NaN and Infinity, unless it is told."""
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    if isinstance(value, _Object):
        value = [member for _, member in value]
    elif not isinstance(value, list):
        return 0
    return 1 + max(map(_depth, value), default=0)


def parsed(text: str) -> Any:
    """What may be published as JSON, by Python's parser. Raises `ValueError` for the rest."""
    try:
        value = json.loads(
            text, parse_int=_finite, parse_float=_finite, parse_constant=no_constant, object_pairs_hook=_Object
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _depth(value) > MAX_DEPTH:
        raise ValueError("nested too deeply")
    json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate
    return value


def json_data(raw: bytes) -> Data | None:
    """What is published of a JSON body, None if it is none."""
    try:
        text = raw.decode()
        value = parsed(text)
    except ValueError:
        return None
    if isinstance(value, str):
        return Data(value, False)
    return Data(re.sub("[\r\n]", " ", text.strip(" \t\r\n")), True)


# Who hears it.


@dataclass
class Accepted:
    """One event that was acknowledged."""

    id: str
    topic: str
    type: str
    data: Data


def _assert_message(message: bytes, event: Accepted) -> None:
    """It is this event's JSON object, to the byte where it was published as JSON."""
    head, _, rest = message.partition(b',"data":')
    raw, _, time = rest.rpartition(b',"time":')
    assert json.loads(head + b"}") == {"id": event.id, "topic": event.topic, "type": event.type}
    assert re.fullmatch(rb'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"}', time)
    assert (raw.decode() if event.data.is_json else json.loads(raw)) == event.data.text


def _assert_frame(frame: Frame, event: Accepted) -> None:
    assert (frame.id, frame.event or "message") == (event.id, event.type)
    assert frame.data == re.sub("\r\n|\r", "\n", event.data.text)


def _assert_envelope(frame: Frame, event: Accepted) -> None:
    assert (frame.id, frame.event) == (event.id, None)
    assert frame.data is not None
    _assert_message(frame.data.encode(), event)


class Listener:
    """One of the audience, who writes down in a thread of its own what it is told, for as long as its stream lasts."""

    def __init__(self, messages: Iterator[Any], check: Callable[[Any, Accepted], None]) -> None:
        self.heard: list[Any] = []
        self._messages = messages
        self._check = check
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._open.wait(WAIT_SECONDS)

    def _listen(self) -> None:
        with contextlib.suppress(httpx.HTTPError, EOFError, OSError, ConnectionClosed):
            for message in self._messages:
                self._open.set()
                if message is not None:
                    self.heard.append(message)

    @property
    def alive(self) -> bool:
        """Whether its stream goes on."""
        return self._thread.is_alive()

    def assert_heard(self, events: list[Accepted]) -> None:
        """These and no others, in this order, once each; then it forgets them."""
        eventually(lambda: len(self.heard) >= len(events) or not self.alive)
        assert self.alive
        heard, self.heard = self.heard[:], self.heard[len(self.heard) :]
        for message, event in zip(heard, events, strict=True):
            self._check(message, event)

    def join(self) -> None:
        """Wait for its end, after the server's."""
        self._thread.join(WAIT_SECONDS)


def _frames(server: RunningServer, query: str) -> Iterator[Frame | None]:
    with subscribed(f"{server.url}/events/**{query}") as stream:
        yield None
        while True:
            frame = stream.frame()
            if not (frame.event or "").startswith("feed."):
                yield frame


def _lines(server: RunningServer) -> Iterator[bytes | None]:
    with subscribed(f"{server.url}/events/**", Accept="application/x-ndjson") as stream:
        yield None
        while True:
            yield from _events([stream.line().encode()])


def _websocket(server: RunningServer) -> Iterator[bytes | None]:
    url = f"ws://127.0.0.1:{server.port}/ws/**"
    with connect(url, max_size=None, ping_interval=None) as websocket:
        websocket.recv()
        yield None
        while True:
            yield from _events([websocket.recv(decode=False)])


def _events(messages: Iterable[bytes]) -> Iterator[bytes]:
    return (message for message in messages if not message.startswith(b'{"type":"feed.'))


class Audience:
    """A server, all that it has acknowledged, and a listener to everything over each kind of stream."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self._accepted: list[Accepted] = []
        self._known: set[str] = set()
        self._position = server.history()["next"]
        self._rounds = itertools.count()
        self._listeners = [
            Listener(_frames(server, ""), _assert_frame),
            Listener(_frames(server, "?envelope=1"), _assert_envelope),
            Listener(_lines(server), _assert_message),
            Listener(_websocket(server), _assert_message),
        ]

    @property
    def newest(self) -> tuple[str, int]:
        """The log's epoch, and how many events were acknowledged."""
        return self._position.rpartition("-")[0], len(self._known)

    def acknowledged(self, id: str, topic: str, data: Data, type: str = "message") -> None:
        """The server says so. What is repeated with its key is no event of its own."""
        if id not in self._known:
            self._known.add(id)
            self._accepted.append(Accepted(id, topic, type, data))

    def post(self, target: bytes, head: Head = (), body: bytes = b"x") -> Answer:
        """A publish. What comes of it is for the caller to write down."""
        return ask(self.server, b"POST", target, head, body).checked()

    def settle(self) -> None:
        """Everybody has heard what was acknowledged and nothing else; the log holds just that; the server is well."""
        topic = f"settled/{next(self._rounds)}"
        self.acknowledged(self.server.publish(topic, "done"), topic, Data("done", False))
        events, self._accepted = self._accepted, []
        for listener in self._listeners:
            listener.assert_heard(events)
        for event, message in zip(events, self._past(), strict=True):
            _assert_message(message, event)
        assert self.server.alive
        assert self.server.remarks == ""

    def _past(self) -> Iterator[bytes]:
        """What the log holds of it, an object after the other."""
        while True:
            target = f"/events/**?limit=1000&last_event_id={self._position}".encode()
            page = ask(self.server, b"GET", target, [(b"Accept", b"application/json")])
            listed, _, after = page.body.rpartition(b'],"next":"')
            self._position = after.removesuffix(b'"}\n').decode()
            objects = listed.removeprefix(b'{"events":[')
            if not objects:
                return
            yield from re.split(rb'(?<=Z"}),(?={"id":"\w+-\d+","topic":)', objects)

    def leave(self) -> None:
        """After the server's end."""
        for listener in self._listeners:
            listener.join()
