"""The connections of our own server: uvicorn's protocols, and what they leave undone or unoffered.

Both let a stream write framed bytes straight to the socket's transport, tell it when the buffer is full and when it
has drained, and stand in the ASGI scope's `extensions` for that (see `web.outlet`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from web.collector import Collector
from web.outlet import EXTENSION, Stream

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGISendEvent, HTTPScope, WebSocketScope
    from websockets.http11 import Request

MAX_HEAD = 64 << 10
"""Bytes of a request's line and headers; beyond it the answer is 431."""

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_HEAD_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_LOOK_AT = 100  # idle connections, for one that may go
_TURN_SECONDS = 0.004
_PIPELINED = 16  # requests that may wait for the one before them
_LINGER = 2.0  # seconds


class _Streaming(asyncio.Protocol):
    """What both protocols offer a stream: see `web.outlet.Connection`."""

    # Slots: with so many attributes the instance's dictionary would no more be shared, a kilobyte each.
    __slots__ = ("stream", "write_paused")

    transport: asyncio.Transport

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream: Stream | None = None
        self.write_paused = False

    def cut_off(self) -> None:
        """End at once: the peer takes nothing any more, and only an abort ends a connection whose buffer never
        empties."""
        if self.stream is not None:
            self.stream.end("slow")
        self.transport.abort()

    def pause_writing(self) -> None:
        self.write_paused = True
        super().pause_writing()
        if self.stream is not None:
            self.stream.block()

    def resume_writing(self) -> None:
        self.write_paused = False
        super().resume_writing()
        if self.stream is not None:
            self.stream.unblock()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.stream is not None:
            self.stream.block()
            self.stream = None  # the protocol below resumes writing
        super().connection_lost(exc)


class Room:
    """How many connections there may be, and which of them nobody would miss.

    When one more comes than `most`, the one that has been without a whole request for longest makes room for it: so
    there are descriptors left for publishers and health checks, whoever opens connections and leaves them.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.idle: dict[HttpProtocol, None] = {}  # the longest idle first

    def make(self, connections: int) -> None:
        """Let one go if there are too many."""
        if connections > self.most and len(self.idle) > 1:
            for oldest in islice(self.idle, _LOOK_AT):
                if oldest.transport.get_write_buffer_size() == 0:  # else it is still taking an answer
                    del self.idle[oldest]
                    oldest.transport.abort()
                    break


class Handshakes:
    """The handshakes of WebSockets, for a few milliseconds in a turn of the loop: each takes half a one, and a crowd
    that comes back at once would hold up everybody else."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def later(self, shake_hands: Callable[[], None]) -> None:
        """Call it, in its turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)
        self._waiting.append(shake_hands)

    def _turn(self) -> None:
        end = time.perf_counter() + _TURN_SECONDS
        while self._waiting and time.perf_counter() < end:
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._turn)


class HttpProtocol(_Streaming, HttpToolsProtocol):
    """An HTTP connection. A head larger than `MAX_HEAD` is refused while it streams in, and when the connection is
    lost, every request on it is told, also those that wait for the one before."""

    __slots__ = ("_collector", "_handshakes", "_head", "_refused", "_room", "_running")

    def __init__(
        self, *arguments: Any, room: Room, handshakes: Handshakes, collector: Collector, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self._room = room
        self._handshakes = handshakes
        self._collector = collector
        self._running: RequestResponseCycle | None = None
        self._head: int | None = None  # bytes so far of a head that has not ended yet
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._collector.connected(len(self.connections))
        self._room.idle[self] = None
        self._room.make(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._collector.disconnected(len(self.connections))
        self._room.idle.pop(self, None)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._running, self.cycle, *waiting):
            if cycle is not None:
                _part(cycle.scope)
                if not cycle.response_complete:
                    cycle.disconnected = True
                    cycle.message_event.set()
        self._running = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._room.idle.pop(self, None)

    def on_response_complete(self) -> None:
        self._room.idle[self] = None
        super().on_response_complete()

    def handle_websocket_upgrade(self) -> None:
        if self.pipeline or (self._running is not None and not self._running.response_complete):
            # Its stream would hear nothing more of the connection.
            self.transport.abort()
            return
        self.transport.pause_reading()
        self._handshakes.later(self._upgrade)

    def _upgrade(self) -> None:
        if self.transport.is_closing():
            return  # the client has left meanwhile
        self.transport.resume_reading()
        self._room.idle.pop(self, None)
        super().handle_websocket_upgrade()
        _part(self.scope)
        self.parser = None  # type: ignore[assignment]  # it would keep this protocol, as this one keeps it

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        headers = self.headers
        super().data_received(data)
        # Where a head begins there may be the end of a body before it: only what follows is counted.
        if self._head is not None and self.headers is headers:
            self._head += len(data)
            if self._head > MAX_HEAD and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    def on_headers_complete(self) -> None:
        self._head = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if self._head > MAX_HEAD:
            raise ValueError("too large a head")  # which the parser turns into a call of `send_400_response`
        self._head = None
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many requests wait for the one before them")
        super().on_headers_complete()
        self.flow.resume_reading()  # else nobody would notice the client leave, as it may while a stream goes on
        if self.scope["method"] == "POST" and not self.parser.should_upgrade():
            self.cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))

    def send_400_response(self, msg: str) -> None:
        self._refused = True
        if self.stream is not None:
            self.transport.abort()
            return
        running = self._running
        if running is not None and not running.response_complete:
            if running.more_body and running.response_started:
                self.transport.close()  # its own body is broken, and it is being answered already
                return
            if not running.more_body:
                # Its answer must not be lost, nor have another one in its midst.
                running.keep_alive = False
                self.pipeline.clear()
                return
        if self._head is None or self._head <= MAX_HEAD:
            super().send_400_response(msg)
            return
        # Closed with bytes unread, the kernel would reset the connection, and the answer might never arrive.
        self.transport.write(_HEAD_TOO_LARGE)
        self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)


def _part(scope: HTTPScope | WebSocketScope) -> None:
    """Let the scope know its connection no more: in a circle they would be left to the garbage collector."""
    if scope["extensions"] is not None:
        scope["extensions"].pop(EXTENSION, None)


class _HeadWithBody:
    """A transport that keeps a response's head back until its body comes, at most to the next turn of the loop. uvicorn
    writes them one after the other, and a system call costs as much as all the rest of a publish."""

    __slots__ = ("_flushing", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._flushing: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write, or keep if it is the first."""
        if self._flushing is None:
            self._head = data
            self._flushing = self._loop.call_soon(self._flush)
        elif self._head:
            self._flushing.cancel()
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        head, self._head = self._head, b""
        if not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        """Close after what was written."""
        if self._head:
            self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether it is closed, or being closed."""
        return self._transport.is_closing()


class WebSocketProtocol(_Streaming, WebSocketsSansIOProtocol):
    """A handshake that cannot be read is answered and closed; uvicorn 0.54 leaves it open, and fails on it when it
    stops. After a frame that breaks the rules what still comes is read for a moment, so that the client sees with which
    code it was closed. A refusal by the application is no error."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.handshake_initiated and hasattr(self, "scope"):
            _part(self.scope)

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if not self.close_sent:
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"connection": self}}

    def data_received(self, data: bytes) -> None:
        if self.close_sent and self.conn.parser_exc is not None:
            return
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.stream is not None:
            self.stream.block()
            self.stream = None  # nothing comes after the close
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # Closed with bytes unread, the kernel would reset the connection, and the close frame might never arrive.
        self.close_timer = self.loop.call_later(_LINGER, self.transport.close)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # kilobytes that nothing looks at any more
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # as far as it goes: uvicorn would log an error
