"""Many readers and publishers in one event loop, as raw connections: cheap enough to be no bottleneck, and rude enough
to leave, stall and take a kilobyte a second.

The streams are those of `feed bench --soak`, which parses what comes by a few lines of its own,
and not by the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import psutil

from feed_server.bench.soak.streams import Form, Item, Parser, Stream, request
from tests.support.running import RunningServer

WAIT_SECONDS = 20.0
LEAST_BUFFER = 1  # as SO_RCVBUF: the system makes the least it has of it, 2,304 bytes on Linux


class SlowReader:
    """A stream that is read a kilobyte a second, through the smallest buffer there is: it is acknowledged in small
    steps. `hurry` ends that."""

    def __init__(self, form: Form, wanted: str, last_id: str | None = None) -> None:
        self.items: list[Item] = []
        self.ended = False
        self._parser = Parser(form, lambda _: None)
        self._request = request(form, wanted, last_id)
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
        self._readers: set[Stream] = set()
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
        if error is None:
            assert [reader.garbled for reader in self._readers if reader.garbled] == []

    async def reader(
        self,
        form: Form,
        wanted: str,
        take: Callable[[Item], None],
        last_id: str | None = None,
        buffer: int | None = None,
    ) -> Stream:
        """Open a stream. `wanted` is `/pattern` or `?topic=…`."""
        reader = Stream(form, request(form, wanted, last_id), take)
        await reader.open("127.0.0.1", self._port, buffer)
        self._readers.add(reader)
        return reader

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
