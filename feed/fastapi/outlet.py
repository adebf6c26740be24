"""Write a stream's bytes, for the pump, as directly as the server allows.

There are three ways, from the fastest to the one that always works:

- `FramedOutlet` writes framed bytes to a connection of our own server (`feed serve`);
- `SteppedOutlet` steps uvicorn's own `send` in place, where nothing wraps it (our application on any uvicorn);
- any other `send`, such as a middleware's, must be awaited by the stream's own task: there is no outlet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

from starlette.types import Message, Scope, Send

from feed.batch import Chunk, Encoder, Item
from feed.control import Reason
from feed.fastapi.stepping import resume_stepped

logger = logging.getLogger(__name__)

MOST_JOINED = 512 << 10
"""Most bytes of several events in one message. A larger event goes alone: many clients accept a megabyte by default,
and would close the connection at the same place again and again."""

_HELD = 16 << 10  # bytes for a slow reader of state

EXTENSION = "feed.connection"
"""Key in the scope's `extensions` that our own server sets: its `connection` is a `Connection`."""


class Stream(Protocol):
    """What a connection calls on its stream, which is a subscription."""

    def block(self) -> None:
        """Stop writing: the buffer is full, or the connection is lost."""

    def unblock(self) -> None:
        """Write on: the buffer has room again."""

    def end(self, reason: Reason) -> None:
        """End the stream: the connection is about to be cut off."""


class Listener(Protocol):
    """What a WebSocket of our own server calls for a text message that comes while nothing is waiting."""

    def heard(self, text: str) -> bool:
        """Handle a message, and return whether that was begun; else it goes the way of ASGI, as do all that follow
        until it was received there."""

    def is_busy(self) -> bool:
        """Return whether the last message is still being handled: no other one may come meanwhile."""


class Connection(Protocol):
    """A connection of our own server, as a stream sees it: the transport takes bytes as they go onto the wire, and
    `write_paused` tells when it takes none. `listener` is for a WebSocket."""

    transport: asyncio.Transport
    stream: Stream | None
    listener: Listener | None
    write_paused: bool

    def go_on(self) -> None:
        """Read on, after a listener was busy."""


class Steppable:
    """Base of classes, other than uvicorn's, whose bound `send` may be stepped."""

    __slots__ = ()


UVICORN = {
    "uvicorn.protocols.http.h11_impl": "RequestResponseCycle",
    "uvicorn.protocols.http.httptools_impl": "RequestResponseCycle",
    "uvicorn.protocols.http.zttp_h2_impl": "RequestResponseCycle",
    "uvicorn.protocols.http.zttp_impl": "RequestResponseCycle",
    "uvicorn.protocols.websockets.websockets_impl": "WebSocketProtocol",
    "uvicorn.protocols.websockets.websockets_sansio_impl": "WebSocketsSansIOProtocol",
    "uvicorn.protocols.websockets.wsproto_impl": "WSProtocol",
}
"""The classes to which uvicorn's own `send` is bound. They share no base, and uvicorn may not be installed."""


@lru_cache(maxsize=64)  # few classes, and called for each stream
def _is_steppable(owner: type) -> bool:
    """Return whether a `send` that is bound to an instance of this class may be stepped.

    If the class is uvicorn's, or derived from one of its classes, that module is loaded: others are not imported.
    """
    loaded = ((sys.modules.get(module), name) for module, name in UVICORN.items())
    return issubclass(owner, (Steppable, *(getattr(module, name) for module, name in loaded if module is not None)))


class Encoders(NamedTuple):
    """The encoders of one format, one for each kind of outlet."""

    framed: Encoder
    messages: Encoder


def _http(format: str) -> Encoders:
    def payload(items: Sequence[Item]) -> bytes:
        return b"".join([getattr(item, format) for item in items])

    def framed(items: Sequence[Item]) -> Chunk:
        body = payload(items)
        return Chunk(chunk(body), len(body))

    def messages(items: Sequence[Item]) -> Chunk:
        body = payload(items)
        return Chunk(({"type": "http.response.body", "body": body, "more_body": True},), len(body))

    return Encoders(framed, messages)


def chunk(payload: bytes) -> bytes:
    """Return the payload as a chunk of HTTP's chunked coding (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def text_frame(payload: bytes) -> bytes:
    """Return the payload as an unmasked text frame of the WebSocket protocol (RFC 6455, 5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 1 << 16:
        return b"\x81\x7e%b%b" % (size.to_bytes(2, "big"), payload)
    return b"\x81\x7f%b%b" % (size.to_bytes(8, "big"), payload)


# The bytes that count as sent on a WebSocket are those of its text messages, without the frames' heads.


def _one_a_message_framed(items: Sequence[Item]) -> Chunk:
    payloads = [payload for item in items if (payload := item.message)]
    return Chunk(b"".join(map(text_frame, payloads)), sum(map(len, payloads)))


def _one_a_message(items: Sequence[Item]) -> Chunk:
    payloads = [payload for item in items if (payload := item.message)]
    return Chunk([_text_message(payload) for payload in payloads], sum(map(len, payloads)))


def _text_message(payload: bytes) -> Message:
    return {"type": "websocket.send", "text": payload.decode()}


def _joined(items: Sequence[Item]) -> list[bytes]:
    """Join items into as few messages as `MOST_JOINED` allows, one JSON object a line."""
    joined: list[bytes] = []
    lines: list[bytes] = []
    size = -1  # of the lines, with a line break between each two
    for item in items:
        line = item.message
        if lines and size + 1 + len(line) > MOST_JOINED:
            joined.append(b"\n".join(lines))
            lines, size = [], -1
        if line:
            lines.append(line)
            size += 1 + len(line)
    if lines:
        joined.append(b"\n".join(lines))
    return joined


def _batch_framed(items: Sequence[Item]) -> Chunk:
    payloads = _joined(items)
    return Chunk(b"".join(map(text_frame, payloads)), sum(map(len, payloads)))


def _batch(items: Sequence[Item]) -> Chunk:
    payloads = _joined(items)
    return Chunk([_text_message(payload) for payload in payloads], sum(map(len, payloads)))


HTTP = {format: _http(format) for format in ("sse", "envelope", "line")}
ONE_A_MESSAGE = Encoders(_one_a_message_framed, _one_a_message)
BATCH = Encoders(_batch_framed, _batch)


class SteppedOutlet:
    """Calls `send` and steps its coroutine in place. The coroutine suspends only while the socket's buffer is full;
    only then a task awaits it, until the socket has drained.

    `last` makes the message that ends the response or the WebSocket.
    """

    def __init__(self, send: Send, stream: Stream, last: Callable[[Reason | None], Message]) -> None:
        self._send = send
        self._stream = stream
        self._last = last
        self._task: asyncio.Task[None] | None = None
        self._broken = False

    def encoder_of(self, encoders: Encoders) -> Encoder:
        """Choose the encoder whose chunks this outlet writes."""
        return encoders.messages

    def write(self, chunk: Sequence[Message]) -> None:
        """See `Outlet`. Call it only while the stream is not blocked."""
        for place, message in enumerate(chunk):
            if self._broken:
                return
            # uvicorn's `send` is a coroutine function, though ASGI says less.
            coroutine = cast("Coroutine[Any, Any, None]", self._send(message))
            try:
                waiting = coroutine.send(None)
            except StopIteration:
                continue
            except OSError:  # the client is gone, which `receive` tells the stream's owner
                self._broken = True
                return
            self._task = asyncio.create_task(self._go_on(coroutine, waiting, chunk[place + 1 :]))
            self._task.add_done_callback(self._gone_on)
            self._stream.block()
            return

    async def _go_on(self, coroutine: Coroutine[Any, Any, None], waiting: Any, rest: Sequence[Message]) -> None:
        try:
            await resume_stepped(coroutine, waiting)
            for message in rest:
                await self._send(message)
        except OSError:  # as above
            self._broken = True

    def _gone_on(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and task.exception() is not None:
            logger.error("a stream broke", exc_info=task.exception())
            self._broken = True
        self._stream.unblock()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or broken."""
        return self._broken

    def finish(self, reason: Reason | None) -> None:
        """See `Outlet`."""
        self.write((self._last(reason),))

    def close(self) -> None:
        """Let go: the stream's owner does not write any more."""
        if self._task is not None:
            self._task.cancel()


class FramedOutlet:
    """Writes framed bytes to a connection of our own server. Only the end of the stream goes through ASGI."""

    def __init__(self, connection: Connection, stream: Stream, end: SteppedOutlet) -> None:
        self._connection = connection
        self._end = end
        self.write = (
            connection.transport.write
        )  # direct: a function between would cost a call for each event and reader
        connection.stream = stream
        if connection.write_paused:
            stream.block()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed or broken."""
        return self._connection.transport.is_closing()

    def encoder_of(self, encoders: Encoders) -> Encoder:
        """Choose the encoder whose chunks this outlet writes."""
        return encoders.framed

    def hold_little(self) -> None:
        """Let few bytes wait for a slow client, here and in the system: what a reader of state gets should be new."""
        transport = self._connection.transport
        transport.set_write_buffer_limits(high=_HELD, low=_HELD // 4)
        connection = transport.get_extra_info("socket")
        if connection is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            with contextlib.suppress(OSError):  # the client has left
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _HELD)

    def listen(self, listener: Listener) -> None:
        """Have this listener called for the messages of a WebSocket."""
        self._connection.listener = listener

    def go_on(self) -> None:
        """Read on, after the listener was busy."""
        self._connection.go_on()

    @property
    def is_left(self) -> bool:
        """Whether the connection has no stream any more: it is being closed."""
        return self._connection.stream is None

    @property
    def is_full(self) -> bool:
        """Whether nothing can be written now."""
        return self._connection.write_paused or self.closed

    def finish(self, reason: Reason | None) -> None:
        """See `Outlet`."""
        self._end.finish(reason)

    def close(self) -> None:
        """Let go: the stream's owner does not write any more."""
        self._connection.stream = self._connection.listener = None
        self._end.close()


def outlet_for(
    scope: Scope, send: Send, stream: Stream, last: Callable[[Reason | None], Message]
) -> FramedOutlet | SteppedOutlet | None:
    """Return the fastest outlet that `send` allows, None if only the stream's own task may await it."""
    # If `send` is a method bound to the server's own object, nothing wraps it.
    owner: Any = type(getattr(send, "__self__", None))
    if not _is_steppable(owner):
        return None
    stepped = SteppedOutlet(send, stream, last)
    connection: Connection | None = scope.get("extensions", {}).get(EXTENSION, {}).get("connection")
    if connection is None or scope["http_version"] != "1.1":
        return stepped
    return FramedOutlet(connection, stream, stepped)
