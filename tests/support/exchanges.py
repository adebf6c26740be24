"""A TCP proxy in front of a server that keeps what was asked through it and how that was answered: what a browser
really sends, preflights and reconnects included, and what its scripts never get to see."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx

_HEAD = re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)
_STATUS = re.compile(rb"HTTP/1\.1 ([2-5]\d\d|101) ")
_CHUNK = 65536


@dataclass
class Exchange:
    """One request, with its header names in lower case. `status` is None until it is answered."""

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    status: int | None = None


class Exchanges:
    """Listens on a port of its own and passes to `target`, both on this machine. A server behind it sees its `Host`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(verify=False, timeout=30)  # for the test itself; see `RunningServer.http`
        self._thread = threading.Thread(target=self._accept, name="exchanges", daemon=True)
        self._thread.start()

    @property
    def all(self) -> list[Exchange]:
        """What was asked so far, in the order in which it came."""
        with self._lock:
            asked = [entry for connection in self._connections for entry in connection.asked]
        return [exchange for _, exchange in sorted(asked, key=lambda entry: entry[0])]

    def of(self, method: str, target: str = "") -> list[Exchange]:
        """Those with this method whose target begins so."""
        return [each for each in self.all if each.method == method and each.target.startswith(target)]

    def cut(self) -> None:
        """End all connections. New ones are passed."""
        with self._lock:
            for connection in self._connections:
                connection.end()

    def close(self) -> None:
        """Leave nothing behind."""
        self.http.close()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)
        self.cut()
        for connection in self._connections:
            connection.join()

    def _accept(self) -> None:
        count = iter(range(1 << 30))
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._connections.append(_Connection(client, server, count))


class _Connection:
    """One connection. What is asked on it is answered in the same order, as browsers do not pipeline."""

    def __init__(self, client: socket.socket, server: socket.socket, count: Iterator[int]) -> None:
        self.asked: list[tuple[int, Exchange]] = []
        self._client, self._server, self._count = client, server, count
        self._requests = self._answers = b""
        self._threads = [
            threading.Thread(target=self._pass, args=(client, server, self._see_request), daemon=True),
            threading.Thread(target=self._pass, args=(server, client, self._see_answer), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        for each in (self._client, self._server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(10)
        self._client.close()
        self._server.close()

    def _pass(self, source: socket.socket, target: socket.socket, see: Callable[[bytes], None]) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                see(chunk)
                target.sendall(chunk)
        self.end()

    def _see_request(self, chunk: bytes) -> None:
        self._requests += chunk
        while (found := _HEAD.search(self._requests)) is not None:
            self._requests = self._requests[found.end() :]
            lines = [line.partition(":") for line in found[3].decode("latin-1").split("\r\n")]
            headers = {name.lower(): value.strip() for name, _, value in lines}
            self.asked.append((next(self._count), Exchange(found[1].decode(), found[2].decode(), headers)))

    def _see_answer(self, chunk: bytes) -> None:
        self._answers += chunk
        while (found := _STATUS.search(self._answers)) is not None:
            self._answers = self._answers[found.end() :]
            for _, exchange in self.asked:
                if exchange.status is None:
                    exchange.status = int(found[1])
                    break
        self._answers = self._answers[-16:]


@contextlib.contextmanager
def exchanges_with(port: int) -> Iterator[Exchanges]:
    """A proxy for as long as the block lasts."""
    proxy = Exchanges(port)
    try:
        yield proxy
    finally:
        proxy.close()
