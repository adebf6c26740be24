"""One stream over one connection, in every form, read by this module's own few lines; and left in every way."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NamedTuple, cast

import orjson

from feed_server.bench.framing import Garbled

OPEN_SECONDS = 20.0
_SMALL_BUFFER = 4096  # as SO_RCVBUF
_LARGE_BUFFER = 1 << 20
_SLOW_SECONDS = 0.2  # between two reads of a slow reader
_NO_LINGER = struct.pack("ii", 1, 0)
_MAX_LENGTH = 1 << 20  # of what is not there in full; more is no stream of a feed
_FRAME = re.compile(
    rb"(?::\n|retry: (\d+)\n)*(?:id: ([0-9A-Za-z-]+)\n)?(?:event: ([^\n]+)\n)?data: ([^\n]*(?:\ndata: [^\n]*)*)"
)


class Form(StrEnum):
    """What a stream looks like on the wire."""

    SSE = "sse"
    ENVELOPE = "envelope"
    NDJSON = "ndjson"
    WS = "ws"
    WS_BATCH = "ws-batch"

    @property
    def is_websocket(self) -> bool:
        """Whether it is one."""
        return self in {Form.WS, Form.WS_BATCH}


class Item(NamedTuple):
    """What a stream says: an event, or a control event (`feed.…`).

    `data` is text where it came as text, as all of it does over SSE, and a value where it came as JSON within JSON.
    """

    type: str
    id: str | None
    data: Any

    @property
    def is_event(self) -> bool:
        """Whether somebody published it."""
        return not self.type.startswith("feed.")

    @property
    def json(self) -> Any:
        """The data as a value. Raises `Garbled`."""
        return _loads(self.data) if isinstance(self.data, str) else self.data


def request(form: Form, wanted: str, last_id: str | None = None, host: str = "localhost") -> bytes:
    """Make the request for a stream. `wanted` is `/pattern` or `?topic=…`."""
    lines = [f"Host: {host}"]
    if form.is_websocket:
        lines += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        if form is Form.WS_BATCH:
            lines += ["Sec-WebSocket-Protocol: feed.batch"]
    else:
        lines += ["Accept: application/x-ndjson" if form is Form.NDJSON else "Accept: text/event-stream"]
        if form is Form.ENVELOPE:
            wanted += ("&" if "?" in wanted else "?") + "envelope=1"
    if last_id is not None:
        lines.append(f"Last-Event-ID: {last_id}")
    path = "/ws" if form.is_websocket else "/events"
    return "\r\n".join([f"GET {path}{wanted} HTTP/1.1", *lines, "\r\n"]).encode()


def masked(opcode: int, payload: bytes) -> bytes:
    """A client's WebSocket frame. Its mask is zero, which a server cannot tell from any other."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload


class Parser:
    """Makes items of bytes as they come, in slices of any size. Raises `Garbled`.

    `status` is 0 until the head is there. `finished` says that the stream came to its own end.
    """

    def __init__(self, form: Form, reply: Callable[[bytes], None]) -> None:
        self.status = 0
        self.head = ""
        """The head of the answer, in lower case."""
        self.retry: int | None = None
        """Milliseconds after which the reader is to come back, where SSE has said so."""
        self.refusal = b""
        """The body of an answer that is no stream, as far as it is there."""
        self.finished = False
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
            self.status, self.head, self._raw = int(head[9:12]), head.decode("latin-1").lower(), rest
        if self.status not in {101, 200}:
            self.refusal, self._raw = (self.refusal + self._raw)[:500], b""
            return []
        if len(self._raw) + len(self._text) - len(data) > _MAX_LENGTH:
            raise Garbled("a frame that has no end")
        if self._form.is_websocket:
            return self._messages()
        self._unchunk()
        separator = b"\n" if self._form is Form.NDJSON else b"\n\n"
        *pieces, self._text = self._text.split(separator)
        return [_object(piece) if self._form is Form.NDJSON else self._frame(piece) for piece in pieces]

    def _unchunk(self) -> None:
        raw, place, chunks = self._raw, 0, [self._text]
        while (line_end := raw.find(b"\r\n", place)) >= 0:
            size = int(raw[place:line_end], 16)
            end = line_end + 2 + size
            if len(raw) < end + 2:
                break
            self.finished = self.finished or size == 0
            chunks.append(raw[line_end + 2 : end])
            place = end + 2
        self._raw, self._text = raw[place:], b"".join(chunks)

    def _frame(self, piece: bytes) -> Item:
        found = _FRAME.fullmatch(piece)
        if found is None:
            raise Garbled(f"no frame of SSE: {piece[:80]!r}")
        retry, id, type, data = found.groups()
        if retry is not None:
            self.retry = int(retry)
        data = data.replace(b"\ndata: ", b"\n")
        if self._form is Form.ENVELOPE and type is None:
            return _object(data)
        return Item("message" if type is None else type.decode(), None if id is None else id.decode(), data.decode())

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
                items += map(_object, payload.split(b"\n"))
            elif opcode == 8:
                self.finished = True
            elif opcode == 9:
                self._reply(masked(10, payload))
        self._raw = raw[place:]
        return items


def _loads(text: bytes | str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Garbled(f"no JSON: {text[:80]!r}: {error}") from None


def _object(text: bytes) -> Item:
    value = _loads(text)
    return Item(value["type"], value.get("id"), value["data"])


class Stream(asyncio.Protocol):
    """One stream. `take` gets each item as it comes; after `leave` and `reset` none comes any more.

    A `slow` one reads a few kilobytes, through a small buffer, and rests.
    """

    def __init__(self, form: Form, request: bytes, take: Callable[[Item], None], *, slow: bool = False) -> None:
        self.opened = asyncio.Event()
        """Set with its first item, a refusal or its end."""
        self.gone = asyncio.Event()
        self.garbled = ""
        self.parser = Parser(form, self.send)
        self._form = form
        self._request = request
        self._take = take
        self._slow = slow
        self.left = False
        """Whether it is we who ended it."""
        self._said_all = False
        self._transport: asyncio.Transport | None = None

    async def open(self, host: str, port: int, buffer: int | None = None) -> None:
        """Connect, and wait until the stream is open or refused. `buffer` is its SO_RCVBUF. Raises `OSError`, which a
        timeout is too."""
        loop = asyncio.get_running_loop()
        connection = socket.socket()
        try:
            connection.setblocking(False)
            if buffer is not None or self._slow:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer or _SMALL_BUFFER)
            async with asyncio.timeout(OPEN_SECONDS):
                await loop.sock_connect(connection, (host, port))
                await loop.create_connection(lambda: self, sock=connection)
                await self.opened.wait()
        except BaseException:
            self.reset()
            connection.close()
            raise

    @property
    def status(self) -> int:
        """That of the answer; 0 until it is there."""
        return self.parser.status

    @property
    def is_open(self) -> bool:
        """Whether it is served."""
        return self.status in {101, 200} and not self.gone.is_set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none of asyncio's
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.left:
            return
        try:
            items = self.parser.feed(data)
            for item in items:
                self._take(item)
        except (Garbled, ValueError, KeyError, TypeError) as error:
            self.garbled = f"{type(error).__name__}: {error}"
            self.reset()
            return
        if items or self.status not in {0, 101, 200}:
            self.opened.set()
        if self._slow and self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_SLOW_SECONDS, self.go_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.opened.set()
        self.gone.set()

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        if (transport := self._open_transport) is not None and not self._said_all:
            transport.write(data)

    def stall(self) -> None:
        """Read nothing more."""
        if (transport := self._open_transport) is not None:
            transport.pause_reading()

    def go_on(self) -> None:
        """Read again."""
        if (transport := self._open_transport) is not None:
            transport.resume_reading()

    def hurry(self) -> None:
        """Be slow no more: megabytes may be on their way, which take a minute through a small buffer."""
        self._slow = False
        if (transport := self._open_transport) is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LARGE_BUFFER)
        self.go_on()

    def leave(self) -> None:
        """Close it as a program does."""
        self.left = True
        if self._form.is_websocket:
            self.send(masked(8, b"\x03\xe8"))
        if self._transport is not None:
            self._transport.close()

    def half_close(self) -> None:
        """Say that nothing more comes from here, and read on to the end."""
        if (transport := self._open_transport) is not None:
            transport.write_eof()
            self._said_all = True

    def reset(self) -> None:
        """Go without a goodbye."""
        self.left = True
        if (transport := self._open_transport) is not None:
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        if self._transport is not None:
            self._transport.abort()

    @property
    def _open_transport(self) -> asyncio.Transport | None:
        transport = self._transport
        return None if transport is None or transport.is_closing() else transport
