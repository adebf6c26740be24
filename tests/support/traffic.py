"""Publishers and readers that go on over whatever happens to the servers, and keep account of it by ids."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from tests.support.judge import Announced, Entry, Got
from tests.support.streams import Stream, eventually

ANSWER_SECONDS = 20.0


class Server(Protocol):
    """Whatever has an address: `http://…`, without a slash at the end."""

    @property
    def url(self) -> str: ...


@dataclass
class Publisher(threading.Thread):
    """Publishes numbered events for as long as it is let, over whatever happens to the server.

    `acknowledged` are the ids it was given, `sent` the data of each; `unanswered` the data of requests that broke
    before their answer or were answered by 504 or 502, `refused` that of those that were answered by 503. `surprises`
    are answers that should not have been.

    One that `insists` repeats what was not acknowledged, with the same idempotency key, until it is.
    """

    server: Server
    name_: str
    pause: float = 0.0
    insists: bool = False
    acknowledged: list[str] = field(default_factory=list)
    sent: dict[str, str] = field(default_factory=dict)
    unanswered: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    surprises: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(daemon=True)
        self.stopping = threading.Event()

    def __hash__(self) -> int:
        return id(self)

    def run(self) -> None:
        number = 0
        with httpx.Client(verify=False, timeout=ANSWER_SECONDS) as http:
            while not self.stopping.is_set():
                number += 1
                data = f"{self.name_} {number}"
                headers = {"Idempotency-Key": data.replace(" ", "-")} if self.insists else {}
                while not self._publish(http, data, headers) and self.insists:
                    self.stopping.wait(0.02)
                    if self.stopping.is_set():
                        break
                self.stopping.wait(self.pause)

    def _publish(self, http: httpx.Client, data: str, headers: dict[str, str]) -> bool:
        try:
            answer = http.post(f"{self.server.url}/events/p/{self.name_}", content=data, headers=headers)
        except httpx.ConnectError:
            self.stopping.wait(0.01)  # nobody is there: nothing was sent
            return False
        except httpx.HTTPError:
            self.unanswered.add(data)
            return False
        match answer.status_code:
            case 201:
                id = answer.json()["id"]
                self.acknowledged.append(id)
                self.sent[id] = data
                return True
            case 503:
                self.refused.add(data)
                if "retry-after" not in answer.headers or answer.json()["status"] != 503:
                    self.surprises.append(f"503 {answer.headers} {answer.text}")
                self.stopping.wait(0.01)
            case 502 | 504:  # 502 is how a proxy says that the connection broke
                self.unanswered.add(data)
            case status:
                self.surprises.append(f"{status} {answer.text}")
        return False


@dataclass(frozen=True)
class Told:
    """A `feed.gap`, as it was told."""

    requested: str
    resumed_from: str
    reason: str


class Follower(threading.Thread):
    """A reader that always comes back with the last id it was told, like an `EventSource`.

    `account` is what it got, in order; `got` the data by id. It comes back `pause` seconds after a stream has ended.
    """

    def __init__(self, server: Server, after: str = "earliest", patience: float = 2.0) -> None:
        super().__init__(daemon=True)
        self.server = server
        self.last_id = after
        self.patience = patience
        self.pause = 0.01
        self.got: dict[str, str] = {}
        self.account: list[Got | Told] = []
        self.connections = 0
        self.heartbeats = 0
        self.stopping = threading.Event()
        self.failed: BaseException | None = None

    @property
    def gaps(self) -> list[Told]:
        """The gaps it was told of."""
        return [entry for entry in self.account if isinstance(entry, Told)]

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                with contextlib.suppress(httpx.HTTPError, EOFError, OSError, ConnectionClosed, InvalidHandshake):
                    self.read()
                self.stopping.wait(self.pause)
        except BaseException as error:  # noqa: BLE001  told to the test, which would wait in vain
            self.failed = error

    def read(self) -> None:
        """One connection, to its end."""
        url = f"{self.server.url}/events/p/*"
        headers = {"Last-Event-ID": self.last_id}
        with httpx.stream("GET", url, headers=headers, timeout=self.patience, verify=False) as response:
            assert response.status_code == 200, "an EventSource would never come back"
            stream = _Stream(response, self)
            while True:
                frame = stream.frame()
                self.take(frame.event or "message", frame.id, frame.data or "")

    def take(self, type: str, id: str | None, data: str) -> None:
        """Note what has come."""
        match type:
            case "feed.open":
                self.connections += 1
            case "feed.position":
                self.heartbeats += 1
            case "feed.gap":
                self.account.append(Told(**json.loads(data)))
            case "message":
                assert id is not None
                self.account.append(Got(id))
                self.got[id] = data
        self.last_id = id or self.last_id

    def has(self, id: str) -> bool:
        """Whether it has got the event; raises what it failed with."""
        if self.failed is not None:
            raise self.failed
        return id in self.got


class _Stream(Stream):
    """Looks up at each line: a stream that is quiet but for heartbeats has no frames."""

    def __init__(self, response: httpx.Response, follower: Follower) -> None:
        super().__init__(response)
        self._follower = follower

    def line(self) -> str:
        if self._follower.stopping.is_set():
            raise EOFError
        line = super().line()
        self._follower.heartbeats += line.startswith(":")
        return line


class WebSocketFollower(Follower):
    """The same over a WebSocket."""

    def read(self) -> None:
        url = f"{self.server.url.replace('http', 'ws', 1)}/ws/p/*?last_event_id={self.last_id}"
        with connect(url, ping_interval=None) as connection:
            while not self.stopping.is_set():
                try:
                    message = json.loads(connection.recv(0.2))
                except TimeoutError:
                    continue  # quiet: a WebSocket has pings for signs of life
                data = message["data"]
                self.take(message["type"], message.get("id"), data if isinstance(data, str) else json.dumps(data))


@contextlib.contextmanager
def threads_stopped(*threads: Publisher | Follower) -> Iterator[None]:
    """They run for as long as the block lasts."""
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.stopping.set()
        for thread in threads:
            thread.join(ANSWER_SECONDS + 5)


def wait_for_more(publishers: Sequence[Publisher], count: int, seconds: float = 30) -> None:
    """Until so many more events are acknowledged, to all of them together."""

    def acknowledged() -> int:
        return sum(len(publisher.acknowledged) for publisher in publishers)

    enough = acknowledged() + count
    eventually(lambda: acknowledged() >= enough, seconds)


class Chronicle:
    """In which order ids stand that are of several epochs, lost ones included."""

    def __init__(self) -> None:
        self.epochs: list[str] = []

    def note(self, epochs: Sequence[str]) -> None:
        """Those that the log records now: what is new among them is newer than all that was noted before."""
        self.epochs += [name for name in epochs if name not in self.epochs]

    def key(self, id: str) -> tuple[int, int]:
        """What ids are ordered by."""
        epoch, seq = id.split("-")
        return self.epochs.index(epoch), int(seq)

    def account(self, follower: Follower, ids: Sequence[str]) -> list[Entry]:
        """A reader's account for the judge, where places count in `ids`, which are all there are, in order."""
        keys = [self.key(id) for id in ids]

        def place(id: str) -> int:
            return sum(key <= self.key(id) for key in keys)

        return [
            Announced(place(entry.requested), place(entry.resumed_from)) if isinstance(entry, Told) else entry
            for entry in follower.account
        ]


def data_of(*accounts: Publisher | Follower | dict[str, str]) -> dict[str, str]:
    """The data by id, of all of them. Fails if one knows an id as another event."""
    known: dict[str, str] = {}
    for account in accounts:
        match account:
            case Publisher():
                data: dict[str, Any] = account.sent
            case Follower():
                data = account.got
            case _:
                data = account
        for id, text in data.items():
            assert known.setdefault(id, text) == text, f"{id} is {known[id]!r} and {text!r}"
    return known
