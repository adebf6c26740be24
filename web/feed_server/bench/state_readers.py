"""A process that holds readers of state, on raw sockets: one that loads it once, some who read all that comes, and slow
ones.

A slow reader takes a few bytes at a time, so what it reads was written long ago. How long is worked out from the
kernel's queues: what the server has written is what the reader has read, and what lies unread at either end.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from feed_server.bench.worker import BenchError, Control, Progress, now

LOAD_SECONDS = 60.0
END_SECONDS = 60.0
_TOO_LONG = 2  # rounds: the times in which a reader reads the whole state
_TICK = 0.05  # seconds between two reads of a slow reader
_RECEIVE = 256 << 10
_REPORT_MICROSECONDS = 250_000
_SLOW_BUFFER = 16 << 10  # as SO_RCVBUF
_MOST_SAVED = 1.0  # seconds for which a slow reader may catch up at once with what it has not read
_TABLE = Path("/proc/net/tcp")

_OPEN, _LIVE, _CLOSING = b"event: feed.open\n", b"event: feed.live\n", b"event: feed.closing\n"
_EVENT = re.compile(
    rb'data: \{"id":"[^"]+-(\d+)",(?:"resume":"[^"]+",)?"topic":"([^"]+)","type":"message",'
    rb'"data":\{"n":"\d{3}-\d{8}-(\d{15})"[^\n]*\n'
)

Newest = Mapping[bytes, int]
"""The seq of each topic's newest event."""


@dataclass(frozen=True)
class LoadOnce:
    """Load the state once, and say `Loaded`."""

    pattern: str


@dataclass(frozen=True)
class Loaded:
    """What a first load gave."""

    microseconds: int
    """From the request to `feed.live`."""
    size: int
    """Bytes."""
    newest: Newest
    turned_back: int


@dataclass(frozen=True)
class Attend:
    """Open readers who read all that comes, say `Attending` when their state is whole, and read until `Leave`."""

    pattern: str
    count: int


@dataclass(frozen=True)
class Attending:
    """All are there."""


@dataclass(frozen=True)
class Leave:
    """Close all readers, and say `Left`."""


@dataclass(frozen=True)
class Left:
    """All are gone."""


@dataclass(frozen=True)
class Crawl:
    """Open readers who read so many bytes a second each, say `Attending` when all have begun, and read until
    `Finish`."""

    pattern: str
    count: int
    rate: float


@dataclass(frozen=True)
class Finish:
    """Nothing more is published: read all there is, until everybody holds this, and say `Crawled`."""

    newest: Newest
    size: int
    """Bytes of the whole state."""
    end: int
    """When publishing ended, in microseconds of the monotonic clock."""


@dataclass(frozen=True)
class Crawled:
    """What the slow readers saw while something was published."""

    events: int
    oldest: int
    """Microseconds: the greatest age of a value when it was written to a reader, of those sent since it came."""
    unsent: int | None
    """The most bytes of one reader that lay in the server's kernel; None if that cannot be seen here."""
    rate: float
    """Bytes a second that a reader has read, on average, which is less than was asked for where the load is slow."""
    left_out: int
    """How many topics were left out, of all readers: written no value for longer than two rounds."""
    turned_back: int
    """How often an older value came after a newer one, or the same again."""
    wrong: int
    """How many readers whose stream goes on do not hold what they should in the end."""
    ended: int
    """How many streams the server ended."""


@dataclass(frozen=True)
class StateReadersJob:
    """Where to read."""

    host: str
    port: int

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""
        readers = _Readers(self, control)
        while True:
            match control.recv():
                case LoadOnce() as command:
                    control.send(readers.load(command))
                case Attend() as command:
                    readers.attend(command)
                case Leave():
                    readers.leave()
                    control.send(Left())
                case Crawl() as command:
                    readers.crawl(command)
                case Finish() as command:
                    control.send(readers.finish(command))


class Told(NamedTuple):
    """An event that a reader was told of."""

    topic: bytes
    sent_at: int
    end: int
    """How many bytes of the stream there are up to its end."""


class Account:
    """What one reader of state holds, found in its bytes as they come, in slices of any size."""

    def __init__(self) -> None:
        self.newest: dict[bytes, int] = {}
        self.received = 0
        self.events = 0
        self.turned_back = 0
        self.is_open = False
        self.is_live = False
        self.is_closing = False
        self._rest = b""

    def take(self, data: bytes) -> Iterator[Told]:
        """Note what is complete with these bytes."""
        start = self.received - len(self._rest)
        self.received += len(data)
        data = self._rest + data
        cut = data.rfind(b"\n") + 1
        lines, self._rest = data[:cut], data[cut:]
        self.is_open = self.is_open or _OPEN in lines
        self.is_live = self.is_live or _LIVE in lines
        self.is_closing = self.is_closing or _CLOSING in lines
        for found in _EVENT.finditer(lines):
            seq, topic = int(found[1]), found[2]
            self.turned_back += seq <= self.newest.get(topic, 0)
            self.newest[topic] = seq
            self.events += 1
            yield Told(topic, int(found[3]), start + found.end())

    def note(self, data: bytes) -> None:
        """Note what is complete with these bytes, and nothing more."""
        for _ in self.take(data):
            pass


class Queues(NamedTuple):
    """What lies in the kernel of one connection, in bytes."""

    unsent: int
    """Not sent by the server, or not acknowledged yet."""
    unread: int
    """Not read by the reader."""


def queues(table: str, port: int) -> dict[int, Queues]:
    """Return the queues of all connections to a server's port, by the reader's port, from the kernel's table
    (`/proc/net/tcp`)."""
    unsent: dict[int, int] = {}
    unread: dict[int, int] = {}
    for line in table.splitlines()[1:]:
        fields = line.split(maxsplit=5)
        here, there = (int(fields[place].rpartition(":")[2], 16) for place in (1, 2))
        waiting = fields[4].split(":")
        if here == port:
            unsent[there] = int(waiting[0], 16)
        elif there == port:
            unread[here] = int(waiting[1], 16)
    return {reader: Queues(unsent.get(reader, 0), waiting) for reader, waiting in unread.items()}


@dataclass
class _Reader:
    connection: socket.socket
    account: Account = field(default_factory=Account)
    is_gone: bool = False

    def fileno(self) -> int:
        return self.connection.fileno()

    def receive(self, size: int) -> bytes:
        """The bytes that are there, so many at most."""
        try:
            data = self.connection.recv(size)
        except BlockingIOError:
            return b""
        except ConnectionError:
            data = b""
        self.is_gone = self.is_gone or not data
        return data

    @property
    def is_ended(self) -> bool:
        """Whether the server has ended the stream, or has said that it does."""
        return self.is_gone or self.account.is_closing


class Crawler:
    """What is known of a slow reader: when the server has written how many bytes to it, and so when each value."""

    def __init__(self, begin: int) -> None:
        self.account = Account()
        self.oldest = 0
        self._written: dict[bytes, int] = {}  # when each topic was written a value last
        self._longest: dict[bytes, int] = {}  # for how long it was written none
        self._begin = begin
        self._looks: deque[tuple[int, int]] = deque()

    def look(self, at: int, waiting: Queues) -> None:
        """Note what lies in the kernel now. Has to be called before each read."""
        self._looks.append((at, self.account.received + waiting.unsent + waiting.unread))

    def take(self, data: bytes, end: int | None = None) -> None:
        """Note what was read. What was written after `end` is not judged."""
        for topic, sent_at, place in self.account.take(data):
            at = self._written_at(place)
            if end is not None and at > end:
                continue
            if sent_at >= self._begin:  # others were there before this reader came, and may be as old as they like
                self.oldest = max(self.oldest, at - sent_at)
            self._note_silence(topic, at)
            self._written[topic] = at

    def _note_silence(self, topic: bytes, until: int) -> None:
        silence = until - self._written.get(topic, self._begin)
        self._longest[topic] = max(self._longest.get(topic, 0), silence)

    def rate(self, at: int) -> float:
        """How many bytes a second it has read until now."""
        return self.account.received * 1e6 / max(1, at - self._begin)

    def left_out(self, topics: Newest, too_long: float, end: int) -> int:
        """Return how many topics were written no value for longer than so many microseconds, or are not yet at the
        end."""
        for topic in topics:
            self._note_silence(topic, end)
        return sum(silence > too_long for silence in self._longest.values())

    def _written_at(self, place: int) -> int:
        """When the server had written so many bytes: at the latest, to the accuracy of a tick."""
        while len(self._looks) > 1 and self._looks[0][1] < place:
            self._looks.popleft()
        return self._looks[0][0]


class _Readers:
    def __init__(self, job: StateReadersJob, control: Control) -> None:
        self._job = job
        self._control = control
        self._readers: list[_Reader] = []
        self._crawlers: list[Crawler] = []
        self._crawl = Crawl("", 0, 0.0)
        self._end: int | None = None
        self._reported = 0
        self._unsent: int | None = None
        self._saved = 0.0

    def _open(self, pattern: str, buffer: int | None = None) -> _Reader:
        """Send a request for the state. The answer is read without blocking."""
        connection = socket.socket()
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.settimeout(LOAD_SECONDS)
        connection.connect((self._job.host, self._job.port))
        head = f"GET /events/{pattern}?latest=1 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"
        connection.sendall(head.encode())
        connection.setblocking(False)
        return _Reader(connection)

    # Who reads all that comes.

    def load(self, command: LoadOnce) -> Loaded:
        """Load the state once. What came is looked into only when it is there, so as not to hold up the server."""
        begin = now()
        reader = self._open(command.pattern)
        pieces: list[bytes] = []
        tail = b""
        with contextlib.closing(reader.connection):
            while _LIVE not in tail:
                self._check(reader, begin)
                select.select([reader], [], [], 1.0)
                pieces.append(data := reader.receive(_RECEIVE))
                tail = tail[-len(_LIVE) :] + data
                reader.account.is_closing = _CLOSING in tail
            end = now()
        account = Account()
        account.note(b"".join(pieces))
        return Loaded(end - begin, account.received, account.newest, account.turned_back)

    def _check(self, reader: _Reader, begin: int) -> None:
        if reader.is_ended:
            raise BenchError("the server ended the stream of a first load")
        if now() > begin + LOAD_SECONDS * 1e6:
            raise BenchError(f"a first load was not whole within {LOAD_SECONDS:g} s")

    def attend(self, command: Attend) -> None:
        """Open readers, wait until their state is whole, and read until there is another command."""
        begin = now()
        poll = select.epoll()
        poll.register(self._control.fileno(), select.EPOLLIN)
        self._readers = [self._open(command.pattern) for _ in range(command.count)]
        by_descriptor = {reader.fileno(): reader for reader in self._readers}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.EPOLLIN)
        loading = set(by_descriptor)
        with poll:
            while True:
                for descriptor, _ in poll.poll(1.0):
                    if descriptor not in by_descriptor:
                        if not loading:
                            return
                        continue
                    reader = by_descriptor[descriptor]
                    data = reader.receive(_RECEIVE)
                    if descriptor in loading:
                        self._check(reader, begin)
                        reader.account.note(data)
                        if reader.account.is_live:
                            loading.remove(descriptor)
                            if not loading:
                                self._control.send(Attending())
                    elif reader.is_ended:
                        raise BenchError("the server ended the stream of a reader that was not slow")

    def leave(self) -> None:
        """Close all."""
        for reader in self._readers:
            reader.connection.close()
        self._readers, self._crawlers = [], []

    # Who is slow.

    def crawl(self, command: Crawl) -> None:
        """Open slow readers, and read until there is another command."""
        self._crawl, self._end, self._unsent, self._saved = command, None, None, 0.0
        self._readers = [self._open(command.pattern, _SLOW_BUFFER) for _ in range(command.count)]
        self._crawlers = [Crawler(now()) for _ in self._readers]
        for reader, crawler in zip(self._readers, self._crawlers, strict=True):
            reader.account = crawler.account
        deadline = time.monotonic() + LOAD_SECONDS
        self._read_slowly(
            lambda: (
                time.monotonic() > deadline
                or all(reader.account.is_open or reader.is_ended for reader in self._readers)
            )
        )
        self._control.send(Attending())
        self._read_slowly(self._control.poll)

    def _read_slowly(self, is_over: Callable[[], bool]) -> None:
        before = time.monotonic()
        while not is_over():
            time.sleep(_TICK)
            at = time.monotonic()
            self._saved += min(at - before, _MOST_SAVED) * self._crawl.rate
            before = at
            size = int(self._saved)
            self._saved -= size
            if size:
                self._read(size)
            if now() > self._reported + _REPORT_MICROSECONDS:
                self._reported = now()
                self._control.send(Progress(len(self._readers), sum(each.account.events for each in self._readers)))

    def _read(self, size: int) -> None:
        """Read so many bytes from each."""
        at, waiting = now(), self._queues()
        for reader, crawler in zip(self._readers, self._crawlers, strict=True):
            if reader.is_ended:
                continue
            here = waiting.get(reader.connection.getsockname()[1], Queues(0, 0))
            crawler.look(at, here)
            if waiting and self._end is None:
                self._unsent = max(self._unsent or 0, here.unsent)
            crawler.take(reader.receive(size), self._end)

    def _queues(self) -> dict[int, Queues]:
        try:
            return queues(_TABLE.read_text(encoding="ascii"), self._job.port)
        except OSError:
            return {}

    def finish(self, command: Finish) -> Crawled:
        """Read all there is, until everybody holds what was published, and judge."""
        self._end = command.end
        rates = [crawler.rate(now()) for crawler in self._crawlers]
        deadline = time.monotonic() + END_SECONDS
        for reader in self._readers:
            reader.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE)
        while self._wrong(command.newest) and time.monotonic() < deadline:
            select.select(_going_on(self._readers), [], [], _TICK)
            self._read(_RECEIVE)
        left_out = sum(
            crawler.left_out(command.newest, _TOO_LONG * command.size / max(1.0, rate) * 1e6, command.end)
            for crawler, rate in zip(self._crawlers, rates, strict=True)
        )
        wrong = self._wrong(command.newest)
        crawled = Crawled(
            sum(crawler.account.events for crawler in self._crawlers),
            max((crawler.oldest for crawler in self._crawlers), default=0),
            self._unsent,
            sum(rates) / max(1, len(rates)),
            left_out,
            sum(crawler.account.turned_back for crawler in self._crawlers),
            wrong,
            sum(reader.is_ended for reader in self._readers),
        )
        self.leave()
        return crawled

    def _wrong(self, newest: Newest) -> int:
        return sum(reader.account.newest != newest for reader in _going_on(self._readers))


def _going_on(readers: Sequence[_Reader]) -> list[_Reader]:
    return [reader for reader in readers if not reader.is_ended]
