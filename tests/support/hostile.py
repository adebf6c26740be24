"""What an attacker needs: a connection on which anything may be sent; and what a defender looks at afterwards."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed

WAIT_SECONDS = 10.0
MEGABYTE = 1 << 20

KEY = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
HANDSHAKE = (
    b"GET %b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\n" + KEY + b"\r\n"
)
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Raw:
    """A TCP connection to a server."""

    def __init__(self, server: RunningServer, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_SECONDS)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", server.port))

    def send(self, data: bytes) -> bool:
        """Send all of it. False if the server does not take it: it has closed, or reads nothing."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def receive(self) -> bytes:
        """What comes next; nothing at the end."""
        try:
            return self.socket.recv(65536)
        except ConnectionError:
            return b""

    def until(self, wanted: bytes) -> bytes:
        """All up to where `wanted` is there."""
        received = b""
        while wanted not in received:
            piece = self.receive()
            assert piece, f"closed after {received[-300:]!r}"
            received += piece
        return received

    def until_times(self, wanted: bytes, times: int) -> bytes:
        """All up to where `wanted` is there so many times."""
        received = b""
        while received.count(wanted) < times:
            piece = self.receive()
            assert piece, f"closed after {received.count(wanted)}: {received[-300:]!r}"
            received += piece
        return received

    def rest(self) -> bytes:
        """All until the server closes."""
        received = b""
        while piece := self.receive():
            received += piece
        return received

    @property
    def is_closed(self) -> bool:
        """Whether the server has closed it, and said all that it will."""
        self.socket.setblocking(False)
        try:
            return self.socket.recv(1) == b""
        except BlockingIOError:
            return False
        finally:
            self.socket.settimeout(WAIT_SECONDS)

    def finish(self) -> None:
        """Say that nothing more comes."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def ask(self, request: bytes) -> bytes:
        """What is answered, until the server closes."""
        self.send(request)
        return self.rest()

    def flood(self, data: bytes, size: int, seconds: float = 5.0) -> int:
        """Send it again and again, `size` bytes or as long as the server takes any. Gives how much it took."""
        self.socket.settimeout(0.3)
        sent, end = 0, time.monotonic() + seconds
        with contextlib.suppress(OSError):
            while sent < size and time.monotonic() < end:
                # All of `data` before it begins again: half a frame would be another attack.
                view = memoryview(data)
                while view:
                    count = self.socket.send(view)
                    sent += count
                    view = view[count:]
        self.socket.settimeout(WAIT_SECONDS)
        return sent


@contextlib.contextmanager
def raw(server: RunningServer, **options: int) -> Iterator[Raw]:
    """A connection for as long as the block lasts."""
    connection = Raw(server, **options)
    with connection.socket:
        yield connection


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    masked: bool = True,
    reserved: int = 0,
    length: int | None = None,
    wide: int | None = None,
) -> bytes:
    """A frame as a client sends it, or in one point as none may: `length` is what it says of its length, `wide` in how
    many bytes (0, 2 or 8). The mask is zero, which is as good as any."""
    length = len(payload) if length is None else length
    if wide is None:
        wide = 0 if length < 126 else 2 if length < 1 << 16 else 8
    head = bytes([fin << 7 | reserved << 4 | opcode])
    head += bytes([masked << 7 | (length if wide == 0 else 126 if wide == 2 else 127)])
    head += length.to_bytes(wide, "big") if wide else b""
    return head + (bytes(4) if masked else b"") + payload


def frames(received: bytes) -> list[tuple[int, bytes]]:
    """The whole frames in what a server has sent: opcode and payload."""
    found, place = [], 0
    while len(received) >= place + 2:
        size, start = received[place + 1] & 127, place + 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            size, start = int.from_bytes(received[start : start + wide], "big"), start + wide
        if len(received) < start + size:
            break
        found.append((received[place] & 15, received[start : start + size]))
        place = start + size
    return found


class Socket(Raw):
    """A WebSocket without any rules, that has been opened."""

    def __init__(self, server: RunningServer, path: str = "/ws/hostile", *, receive_buffer: int | None = None) -> None:
        super().__init__(server, receive_buffer=receive_buffer)
        self.send(HANDSHAKE % path.encode())
        head, _, self._received = self.until(b"feed.open").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head

    def close_code(self) -> int | None:
        """Read on until the server says that it closes; None if it says no code."""
        received = self._received
        while not (closes := [payload for opcode, payload in frames(received) if opcode == CLOSE]):
            piece = self.receive()
            assert piece, f"closed without a word, after {received[-300:]!r}"
            received += piece
        return struct.unpack("!H", closes[0][:2])[0] if closes[0] else None


@contextlib.contextmanager
def opened(server: RunningServer, path: str = "/ws/hostile", *, receive_buffer: int | None = None) -> Iterator[Socket]:
    """A WebSocket for as long as the block lasts."""
    connection = Socket(server, path, receive_buffer=receive_buffer)
    with connection.socket:
        yield connection


def without_keep_alive(server: RunningServer) -> RunningServer:
    """Where the server closes idle connections soon, the tests' own client must not find one closed just as it uses
    it."""
    server.http.close()
    server.http = httpx.Client(verify=False, timeout=30, limits=httpx.Limits(max_keepalive_connections=0))
    return server


def memory(server: RunningServer) -> int:
    """Bytes of the server that are in memory."""
    return _status(server, "VmRSS")


def peak_memory(server: RunningServer) -> int:
    """The most that there ever were."""
    return _status(server, "VmHWM")


def _status(server: RunningServer, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{server.pid}/status").read_text())
    assert found
    return int(found[1]) << 10


@contextlib.contextmanager
def unharmed(server: RunningServer, *, growth: int | None = None) -> Iterator[None]:
    """Whatever the block does: afterwards the server serves, nothing was stored, a watcher of everything saw nothing
    but what was published afterwards, and nothing was logged. With `growth` memory is not larger by more than that."""
    before, said, size = server.history(last=1)["next"], len(server.output), memory(server)
    with subscribed(f"{server.url}/events/**") as watcher:
        yield
        if growth is not None:
            eventually(lambda: memory(server) < size + growth, 3)
        assert server.history(last_event_id=before)["events"] == []
        id = server.publish("unharmed")
        frame = watcher.frame()
        while frame.event == "feed.position":
            frame = watcher.frame()
        assert frame.id == id
    assert server.output[said:] == ""
