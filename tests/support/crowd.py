"""Many readers and publishers in one event loop, as raw connections: cheap enough to be no bottleneck, and rude enough
to leave, stall and take a kilobyte a second.

What comes is parsed here, by this module's own few lines, and not by the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import orjson
import psutil

from tests.support.running import RunningServer

WAIT_SECONDS = 20.0
LEAST_BUFFER = 1  # as SO_RCVBUF: the system makes the least it has of it, 2,304 bytes on Linux
_NO_LINGER = struct.pack("ii", 1, 0)


class Form(StrEnum):
    """What a stream looks like on the wire."""

    SSE = "sse"
    ENVELOPE = "envelope"
    NDJSON = "ndjson"
    WEBSOCKET = "websocket"
    BATCH = "feed.batch"


class Item(NamedTuple):
    """What a stream says: an event, or a control event (`feed.…`)."""

    type: str
    id: str | None
    data: str

    @property
    def is_event(self) -> bool:
        """Whether somebody published it."""
        return not self.type.startswith("feed.")


def subscribe_request(form: Form, wanted: str, last_id: str | None = None) -> bytes:
    """The request for a stream. `wanted` is `/pattern` or `?topic=…`."""
    lines = ["Host: localhost"]
    if form in (Form.WEBSOCKET, Form.BATCH):
        path = f"/ws{wanted}"
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        if form is Form.BATCH:
            lines.append("Sec-WebSocket-Protocol: feed.batch")
    else:
        path = f"/events{wanted}"
        if form is Form.ENVELOPE:
            path += ("&" if "?" in path else "?") + "envelope=1"
        lines.append("Accept: application/x-ndjson" if form is Form.NDJSON else "Accept: text/event-stream")
    if last_id is not None:
        lines.append(f"Last-Event-ID: {last_id}")
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, "\r\n"]).encode()


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's WebSocket frame. Its mask is zero, which a server cannot tell from any other."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


class Parser:
    """Makes items of bytes as they come, in slices of any size.

    `status` is 0 until the head is there. `finished` says that the stream came to its own end: the last chunk, or a
    close frame.
    """

    def __init__(self, form: Form, reply: Callable[[bytes], None]) -> None:
        self.status = 0
        self.head = ""
        self.refusal = b""  # the body of an answer that is no stream
        self.finished = False
        self.retry: str | None = None
        self._form = form
        self._reply = reply
        self._raw = b""
        self._text = b""

    def feed(self, data: bytes) -> list[Item]:
        """What is complete with these bytes."""
        self._raw += data
        if not self.status:
            head, end, rest = self._raw.partition(b"\r\n\r\n")
            if not end:
                return []
            self.head, self._raw = head.decode().lower(), rest
            self.status = int(head[9:12])
        if self.status not in (101, 200):
            self.refusal, self._raw = self.refusal + self._raw, b""
            return []
        if self.status == 101:
            return self._messages()
        self._text += self._unchunked()
        return self._lines() if self._form is Form.NDJSON else self._frames()

    def _unchunked(self) -> bytes:
        raw, place, chunks = self._raw, 0, []
        while (line_end := raw.find(b"\r\n", place)) >= 0:
            size = int(raw[place:line_end], 16)
            end = line_end + 2 + size
            if len(raw) < end + 2:
                break
            if size == 0:
                self.finished = True
            chunks.append(raw[line_end + 2 : end])
            place = end + 2
        self._raw = raw[place:]
        return b"".join(chunks)

    def _frames(self) -> list[Item]:
        *frames, self._text = self._text.split(b"\n\n")
        return [self._item(frame.decode()) for frame in frames]

    def _item(self, frame: str) -> Item:
        id, type, data = None, "message", []
        for line in frame.split("\n"):
            if line.startswith("data: "):
                data.append(line[6:])
            elif line.startswith("id: "):
                id = line[4:]
            elif line.startswith("event: "):
                type = line[7:]
            elif line.startswith("retry: "):
                self.retry = line[7:]
            else:
                assert line.startswith(":"), f"no line of a frame: {line!r}"
        text = "\n".join(data)
        if self._form is Form.ENVELOPE and type == "message":
            return _object_item(text.encode())
        return Item(type, id, text)

    def _lines(self) -> list[Item]:
        *lines, self._text = self._text.split(b"\n")
        return [_object_item(line) for line in lines]

    def _messages(self) -> list[Item]:
        raw, place = self._raw, 0
        items: list[Item] = []
        while len(raw) >= place + 2:
            size, start = raw[place + 1], place + 2
            if size >= 126:
                wide = 2 if size == 126 else 8
                if len(raw) < start + wide:
                    break
                size, start = int.from_bytes(raw[start : start + wide], "big"), start + wide
            if len(raw) < start + size:
                break
            opcode, payload, place = raw[place] & 15, raw[start : start + size], start + size
            if opcode == 1:
                items += [_object_item(line) for line in payload.split(b"\n")]
            elif opcode == 8:
                self.finished = True
            elif opcode == 9:
                self._reply(masked(10, payload))
        self._raw = raw[place:]
        return items


def _object_item(text: bytes) -> Item:
    value = orjson.loads(text)
    data = value["data"]
    return Item(value["type"], value.get("id"), data if isinstance(data, str) else orjson.dumps(data).decode())


class Reader(asyncio.Protocol):
    """One stream, over one connection. `take` gets each item as it comes.

    `gone` is done when the connection is.
    """

    def __init__(self, form: Form, wanted: str, take: Callable[[Item], None], last_id: str | None = None) -> None:
        self.opened = asyncio.Event()  # with its first item, or a refusal
        self.gone = asyncio.Event()
        self.parser = Parser(form, self.send)
        self._request = subscribe_request(form, wanted, last_id)
        self._take = take
        self._transport: asyncio.Transport | None = None
        self._half_closed = False

    async def open(self, port: int, buffer: int | None = None) -> Self:
        """Connect, and wait until the stream is open, or refused. `buffer` is its SO_RCVBUF."""
        connection = socket.socket()
        try:
            connection.setblocking(False)
            if buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, ("127.0.0.1", port))
            await loop.create_connection(lambda: self, sock=connection)
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await self.opened.wait()
        except BaseException:
            self.reset()
            raise
        return self

    @property
    def status(self) -> int:
        """That of the answer."""
        return self.parser.status

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        for item in self.parser.feed(data):
            self._take(item)
            self.opened.set()
        if self.status not in (0, 101, 200):
            self.opened.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.opened.set()
        self.gone.set()

    def send(self, data: bytes) -> None:
        """Send bytes as they are. Who has said that nothing more comes sends nothing, pongs included."""
        if self._transport is not None and not self._transport.is_closing() and not self._half_closed:
            self._transport.write(data)

    def stall(self) -> None:
        """Read nothing more."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def leave(self) -> None:
        """Close it as a program does."""
        if self._transport is not None:
            self._transport.close()

    def half_close(self) -> None:
        """Say that nothing more comes from here, and read on."""
        if self._transport is not None and not self._transport.is_closing():
            self._half_closed = True
            self._transport.write_eof()

    def reset(self) -> None:
        """Go without a goodbye."""
        if self._transport is not None:
            if not self._transport.is_closing():
                connection = self._transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            self._transport.abort()


class SlowReader:
    """A stream that is read a kilobyte a second, through the smallest buffer there is: it is acknowledged in small
    steps. `hurry` ends that."""

    def __init__(self, form: Form, wanted: str, last_id: str | None = None) -> None:
        self.items: list[Item] = []
        self.ended = False
        self._parser = Parser(form, lambda _: None)
        self._request = subscribe_request(form, wanted, last_id)
        self._connection = socket.socket()
        self._connection.setblocking(False)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LEAST_BUFFER)
        self._hurried = False

    @property
    def ids(self) -> list[str | None]:
        """The ids of the events it got."""
        return [item.id for item in self.items if item.is_event]

    async def read(self, port: int) -> None:
        """Until it is cancelled, or the stream ends."""
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(self._connection, ("127.0.0.1", port))
            await loop.sock_sendall(self._connection, self._request)
            while data := await loop.sock_recv(self._connection, 65536 if self._hurried else 256):
                self.items += self._parser.feed(data)
                if not self._hurried:
                    await asyncio.sleep(0.25)
        except ConnectionError:
            pass
        finally:
            self.ended = True
            self._connection.close()

    def hurry(self) -> None:
        """Read as fast as it goes."""
        self._hurried = True
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)


class Answer(NamedTuple):
    """To an HTTP request."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def ids(self) -> list[str]:
        """What a publish has made."""
        value = orjson.loads(self.body)
        return value.get("ids") or [value["id"]]


class Http:
    """One keep-alive connection for requests that are answered with a length, within `patience` seconds. It connects
    when it is needed."""

    def __init__(self, port: int) -> None:
        self.patience = WAIT_SECONDS
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask, and wait for the answer."""
        if self._streams is not None and self._streams[0].at_eof():
            self.close()  # idle for too long
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        named = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in named.items())]
        writer.write("\r\n".join([*lines, "\r\n"]).encode() + body)
        async with asyncio.timeout(self.patience):
            status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().rstrip().split("\r\n")
            answered = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            answer = await reader.readexactly(int(answered["content-length"]))
        if answered.get("connection") == "close":
            self.close()
        return Answer(int(status.split()[1]), answered, answer)

    async def publish(self, topic: str, data: str | bytes = "x", **headers: str) -> Answer:
        """POST one event."""
        body = data.encode() if isinstance(data, str) else data
        return await self.request("POST", f"/events/{topic}", body, **headers)

    async def publish_lines(self, lines: list[dict[str, object]], **headers: str) -> Answer:
        """POST a batch, an event a line."""
        body = b"\n".join(map(orjson.dumps, lines))
        return await self.request("POST", "/events", body, Content_Type="application/x-ndjson", **headers)

    async def history(self, pattern: str, after: str = "earliest") -> list[dict[str, str]]:
        """All that is retained, page by page."""
        events: list[dict[str, str]] = []
        while True:
            path = f"/events/{pattern}?limit=1000&last_event_id={after}"
            page = orjson.loads((await self.request("GET", path, Accept="application/json")).body)
            assert "gap" not in page
            if not page["events"]:
                return events
            events += page["events"]
            after = page["next"]

    def close(self) -> None:
        """Leave. The next request connects again."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Crowd:
    """Everybody who talks to one server in an `async with` block. At its end all are gone, whatever has happened."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._readers: set[Reader] = set()
        self._https: list[Http] = []
        self._tasks: list[asyncio.Task[object]] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for http in self._https:
            http.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for reader in self._readers:
            reader.reset()
        for reader in self._readers:
            await reader.gone.wait()

    async def reader(
        self,
        form: Form,
        wanted: str,
        take: Callable[[Item], None],
        last_id: str | None = None,
        buffer: int | None = None,
    ) -> Reader:
        """Open a stream."""
        reader = Reader(form, wanted, take, last_id)
        await reader.open(self._port, buffer)
        self._readers.add(reader)
        return reader

    def forget(self, reader: Reader) -> None:
        """It is gone already."""
        self._readers.discard(reader)

    def http(self) -> Http:
        """A connection for requests."""
        http = Http(self._port)
        self._https.append(http)
        return http

    def slow_reader(self, form: Form, wanted: str) -> SlowReader:
        """Let somebody read a kilobyte a second."""
        slow = SlowReader(form, wanted)
        self.task(slow.read(self._port))
        return slow

    def task(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Let something run beside, at most until the end of the block."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task


async def until(condition: Callable[[], object], seconds: float = WAIT_SECONDS, what: str = "it") -> None:
    """Wait until it is so. Fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what} in vain"
        await asyncio.sleep(0.02)


class Probe(threading.Thread):
    """Asks `/healthz` again and again over one connection, from a thread of its own, and notes how long it took, and
    for how long the server computed meanwhile, which does not depend on what else the machine does."""

    def __init__(self, server: RunningServer) -> None:
        super().__init__(daemon=True)
        self.seconds: list[float] = []
        self.computed: list[float] = []
        self.failed: Exception | None = None
        self._port = server.port
        self._watched = Watched(server)
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_SECONDS) as connection:
                while not self._stopping.wait(0.003):
                    began, cpu = time.perf_counter(), self._watched.cpu
                    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    answer = b""
                    while not answer.endswith(b'{"status":"alive"}\n'):
                        part = connection.recv(4096)
                        assert part, "the health check's connection was closed"
                        answer += part
                    assert answer.startswith(b"HTTP/1.1 200 ")
                    self.seconds.append(time.perf_counter() - began)
                    self.computed.append(self._watched.cpu - cpu)
        except Exception as error:  # noqa: BLE001  told to the test
            self.failed = error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()
        if self.failed is not None:
            raise self.failed

    @property
    def slowest(self) -> float:
        """The longest that an answer took, in seconds."""
        return max(self.seconds)

    @property
    def worst(self) -> float:
        """For how long the server computed at least until one in ten had its answer."""
        return one_in_ten(self.computed)


def one_in_ten(computed: Sequence[float]) -> float:
    """What the worst tenth had to bear, at least, of the time for which a server computed while they waited.

    While a test is not given the processor itself, the server goes on computing, and what it has answered long ago
    seems to take its time. That comes now and then; a server whose loop stands still is late all the time, where
    somebody asks all the time.
    """
    return statistics.quantiles(computed, n=10)[-1]


class Watched:
    """A server's process, seen from outside."""

    def __init__(self, server: RunningServer) -> None:
        self._process = psutil.Process(server.pid)

    @property
    def memory(self) -> int:
        """Bytes that are resident."""
        return int(self._process.memory_info().rss)

    @property
    def descriptors(self) -> int:
        """How many are open, of whatever kind."""
        return int(self._process.num_fds())

    @property
    def threads(self) -> int:
        """How many there are."""
        return int(self._process.num_threads())

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = self._process.cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Let this process open so many, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
