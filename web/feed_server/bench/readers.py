"""A process that holds many readers, with raw sockets in one epoll loop, so that they are no bottleneck.

While it reads it only notes when how many events came to whom; what that means is worked out when it is asked to
finish. The first reader's bytes are kept whole, to be audited then.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from feed_server.bench.checker import Checker, Sequences
from feed_server.bench.framing import Form, Garbled, audit, frame
from feed_server.bench.payload import sent_at
from feed_server.bench.worker import BenchError, Control, Progress, now

OPEN_SECONDS = 60.0
_CONNECTING = 256  # at a time, so that the server's backlog never overflows
_PER_ADDRESS = 10_000  # connections from one source address: there are 28,000 ports
_RECEIVE = 64 << 10
_REPORT_MICROSECONDS = 250_000
_DONE_SECONDS = 0.2  # for what should not come any more
_BIND_ADDRESS_NO_PORT = 24  # missing from Python's socket module


@dataclass(frozen=True)
class Open:
    """Connect so many more readers, and say `Opened` when all are registered."""

    count: int
    after: str | None = None
    """Last-Event-ID; then a reader counts as opened when its replay is done."""
    at_once: bool = False


@dataclass(frozen=True)
class Opened:
    """All are registered."""


@dataclass(frozen=True)
class Drop:
    """Close all readers at once, and say `Dropped`."""


@dataclass(frozen=True)
class Dropped:
    """All are closed."""


@dataclass(frozen=True)
class Finish:
    """Wait until everybody has so many events, or nothing comes any more, and say `Result`."""

    expected: int
    begin: int
    end: int
    patience: float
    """Seconds without any event until what is missing is taken for lost."""


@dataclass(frozen=True)
class Result:
    """What the readers of a process saw. Times are in microseconds of the monotonic clock."""

    sequences: Sequences
    audited: list[bytes]
    """The first reader's keys, read in full."""
    garbled: str
    """What was wrong with its bytes."""
    ended: int
    """How many streams the server ended."""
    deliveries: int
    """Within the window."""
    receives: int
    latencies: Counter[int]
    """Of the events that were meant to be sent within the window, how many deliveries took so long."""
    last: array[int]
    """When each event of the reference came to the last of these readers."""


@dataclass(frozen=True)
class ReadersJob:
    """Which streams to hold, and where."""

    host: str
    port: int
    path: str
    form: Form
    size: int
    rest: float
    """Seconds between two looks at the sockets, for more to be there at the next."""
    first_address: int
    """Which of the loopback addresses to begin with."""
    headers: str = ""
    """In whole lines."""

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""
        readers = Readers(self, control)
        while True:
            match control.recv():
                case Open() as command:
                    readers.open(command)
                    control.send(Opened())
                case Drop():
                    readers.drop()
                    control.send(Dropped())
                case Finish() as command:
                    readers.read(until=command)
                    control.send(readers.result(command))
            readers.read()


@dataclass
class _Notes:
    """When how many events came to whom. Arrays, as they are long; the time is in nanoseconds."""

    at: array[int] = field(default_factory=lambda: array("q"))
    reader: array[int] = field(default_factory=lambda: array("i"))
    count: array[int] = field(default_factory=lambda: array("i"))

    def note(self, at: int, reader: int, count: int) -> None:
        """So many, just now."""
        self.at.append(at)
        self.reader.append(reader)
        self.count.append(count)


class Readers:
    """The readers of this process."""

    def __init__(self, job: ReadersJob, control: Control) -> None:
        self._job = job
        self._control = control
        self._checker = Checker(job.form)
        self._sockets: dict[int, socket.socket] = {}
        self._numbers: dict[int, int] = {}
        self._connecting: dict[int, bytes] = {}  # the request, to be sent
        self._opening: dict[int, bytes] = {}  # the answer, as far as it is there
        self._replaying: set[int] = set()
        self._special = {control.fileno()}  # whatever is not simply read
        self._epoll = select.epoll()
        self._epoll.register(control.fileno(), select.EPOLLIN)
        self._notes = _Notes()
        self._received = 0
        self._reported = 0
        self._ended = 0
        self._audited: int | None = None
        self._stream: list[bytes] = []
        self._after: str | None = None

    # Connecting.

    def open(self, command: Open) -> None:
        """Connect `count` more readers, and wait until each is registered, and has its replay."""
        request = self._request(command.after)
        self._after = command.after
        wanted = command.count
        deadline = time.monotonic() + OPEN_SECONDS
        while wanted or self._pending:
            while wanted and (command.at_once or self._pending < _CONNECTING):
                self._connect(request)
                wanted -= 1
            if self._turn(0.1):
                self._control.recv()  # which can only be the end
            if time.monotonic() > deadline:
                missing = wanted + self._pending
                raise BenchError(f"{missing:,} of {command.count:,} readers are not served after {OPEN_SECONDS:g} s")

    @property
    def _pending(self) -> int:
        return len(self._special) - 1

    def _connect(self, request: bytes) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        if self._job.host.startswith("127."):
            number = self._job.first_address + len(self._sockets) // _PER_ADDRESS
            connection.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
            connection.bind((f"127.0.0.{1 + number}", 0))
        code = connection.connect_ex((self._job.host, self._job.port))
        if code not in {0, errno.EINPROGRESS}:
            raise BenchError(f"cannot connect to {self._job.host}:{self._job.port}: {errno.errorcode[code]}")
        number = connection.fileno()
        self._sockets[number] = connection
        self._connecting[number] = request
        self._special.add(number)
        self._epoll.register(number, select.EPOLLIN | select.EPOLLOUT)

    def _request(self, after: str | None) -> bytes:
        job = self._job
        lines = [f"GET {job.path} HTTP/1.1", f"Host: localhost:{job.port}", *job.headers.splitlines()]
        if job.form.is_websocket:
            lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
            lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
            if job.form.subprotocol:
                lines += [f"Sec-WebSocket-Protocol: {job.form.subprotocol}"]
        else:
            lines += ["Accept: text/event-stream"]
        if after is not None:
            lines += [f"Last-Event-ID: {after}"]
        return "\r\n".join([*lines, "", ""]).encode()

    def _begin(self, number: int) -> None:
        """A connection is there: send the request."""
        connection = self._sockets[number]
        if code := connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise BenchError(f"cannot connect to {self._job.host}:{self._job.port}: {errno.errorcode[code]}")
        connection.send(self._connecting.pop(number))
        self._opening[number] = b""
        self._epoll.modify(number, select.EPOLLIN)

    def _read_head(self, number: int, data: bytes) -> bytes | None:
        """What follows the answer's head, once it is there and the reader is registered."""
        form = self._job.form
        data = self._opening[number] + data
        self._opening[number] = data
        head, ended, body = data.partition(b"\r\n\r\n")
        status = b"101" if form.is_websocket else b"200"
        if not ended:
            return None
        if head.split(b" ", 2)[1] != status:
            line = head.split(b"\r\n", 1)[0]
            raise BenchError(f"a reader was answered {line.decode()}: {body[:200].decode(errors='replace')}")
        if form.subprotocol and f"\r\nsec-websocket-protocol: {form.subprotocol}" not in head.decode().lower():
            raise BenchError(f"the server does not grant the WebSocket subprotocol {form.subprotocol}")
        if b"feed.closing" in body:
            raise BenchError(f"a reader was turned away: {body[:200].decode(errors='replace')}")
        if form.opening not in data:
            return None
        del self._opening[number]
        if self._after is None:
            self._special.remove(number)
        else:
            self._replaying.add(number)
        reader = self._numbers[number] = self._checker.add()
        if reader == 0:
            self._audited = number
            self._stream = [data]
        return body

    # Reading.

    def read(self, until: Finish | None = None) -> None:
        """Read what comes, until there is a command, or everybody has so many events, or nothing comes any more."""
        progress, heard = -1, time.monotonic()
        while True:
            if self._turn(0.1):
                if until is None:
                    return
                self._control.recv()  # which can only be the end
            if self._received != progress:
                progress, heard = self._received, time.monotonic()
            elif until is not None:
                done = self._checker.slowest >= until.expected and not self._checker.strays
                if time.monotonic() > heard + (_DONE_SECONDS if done else until.patience):
                    return

    def _turn(self, timeout: float) -> bool:
        """One look at all sockets. Says whether a command is there."""
        special, numbers, sockets, audited = self._special, self._numbers, self._sockets, self._audited
        take, note = self._checker.take, self._notes.note
        clock = time.monotonic_ns
        received = 0
        commanded = False
        for number, _ in self._epoll.poll(timeout, 4096):
            if number in special:
                commanded |= self._attend(number)
                continue
            try:
                data = sockets[number].recv(_RECEIVE)
            except OSError:
                data = b""
            at = clock()
            if not data:
                self._end(number)
                continue
            reader = numbers[number]
            piece = take(reader, data)
            if piece.count:
                received += piece.count
                note(at, reader, piece.count)
            if piece.pings:
                self._answer(number, piece.pings)
            if number == audited:
                self._stream.append(data)
        self._received += received
        if self._job.rest and received:
            time.sleep(self._job.rest)
        if (at := now()) > self._reported + _REPORT_MICROSECONDS:
            self._reported = at
            self._control.send(Progress(len(numbers), self._received))
        return commanded

    def _attend(self, number: int) -> bool:
        """What is not simply read: the control, and readers that are not there yet, or have their replay."""
        if number == self._control.fileno():
            return True
        if number in self._connecting:
            self._begin(number)
            return False
        try:
            data = self._sockets[number].recv(_RECEIVE)
        except OSError:
            data = b""
        at = time.monotonic_ns()
        if not data:
            raise BenchError("the server closed a connection before it was served")
        if number in self._opening:
            body = self._read_head(number, data)
            if body is None:
                return False
            data = body
        elif number == self._audited:
            self._stream.append(data)
        reader = self._numbers[number]
        piece = self._checker.take(reader, data)
        self._received += piece.count
        self._notes.note(at, reader, piece.count)
        if piece.live and number in self._replaying:
            self._replaying.remove(number)
            self._special.remove(number)
        return False

    def _answer(self, number: int, pings: Iterable[bytes]) -> None:
        for ping in pings:
            with contextlib.suppress(OSError):
                self._sockets[number].send(frame(0xA, ping))

    def _end(self, number: int) -> None:
        self._ended += 1
        self._epoll.unregister(number)
        self._sockets.pop(number).close()

    def drop(self) -> None:
        """Close all, and forget what they got."""
        for number, connection in self._sockets.items():
            self._epoll.unregister(number)
            # At the end of a run nothing must be left that keeps the ports.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        self._sockets.clear()
        self._special = {self._control.fileno()}
        self._numbers.clear()
        self._checker = Checker(self._job.form)
        self._notes = _Notes()
        self._received = 0
        self._audited = None

    # What it was.

    def result(self, window: Finish) -> Result:
        """What everybody got, and when."""
        checker = self._checker
        reference = checker.reference
        sent = [sent_at(key) for key in reference]
        counted = [window.begin <= moment < window.end for moment in sent]
        last = array("q", [0]) * len(reference)
        places = [0] * len(checker.positions)
        latencies: Counter[int] = Counter()
        pending: list[int] = []
        deliveries = receives = 0
        notes = self._notes
        for nanoseconds, reader, count in zip(notes.at, notes.reader, notes.count, strict=True):
            at = nanoseconds // 1000
            if window.begin <= at < window.end:
                deliveries += count
                receives += 1
            if reader in checker.strays:
                continue
            place = places[reader]
            end = places[reader] = place + count
            for number in range(place, end):
                if counted[number]:
                    pending.append(at - sent[number])
                if at > last[number]:
                    last[number] = at
            if len(pending) > 100_000:
                latencies.update(pending)
                pending.clear()
        latencies.update(pending)
        audited: list[bytes] = []
        garbled = ""
        try:
            audited = audit(self._job.form, b"".join(self._stream), self._job.size)
        except (Garbled, KeyError) as error:
            garbled = f"{error}"
        return Result(checker.sequences(), audited, garbled, self._ended, deliveries, receives, latencies, last)
