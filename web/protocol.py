"""The connections of our own server: uvicorn's protocols, and what they leave undone or unoffered.

Both let a stream write framed bytes straight to the socket's transport, tell it when the buffer is full and when it
has drained, and stand in the ASGI scope's `extensions` for that (see `web.outlet`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from web.bodies import Bodies
from web.collector import Collector
from web.deadlines import Deadline
from web.outlet import EXTENSION, Stream
from web.problems import Problem

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPScope, WebSocketScope
    from websockets.frames import Frame
    from websockets.http11 import Request

logger = logging.getLogger(__name__)

MAX_HEADERS = 256
"""Headers of a request; each costs some hundred bytes of memory, however small it is."""

_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

_LOOK_AT = 100  # idle connections, for one that may go
_TURN_SECONDS = 0.004
_PIPELINED = 16  # requests that may wait for the one before them
_PIPELINED_BYTES = 64 << 10  # of their bodies
_LINGER = 2.0  # seconds
_SLICE = 4 << 10  # bytes of frames that are looked at in one go: at most 700 frames, some milliseconds


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


class Turns:
    """Work that a crowd or a flood asks for, for a few milliseconds in a turn of the loop, so that it does not hold up
    everybody else: the handshakes of WebSockets, half a millisecond each when all come back at once, and frames beyond
    the first few thousand bytes of them."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def later(self, work: Callable[[], None]) -> None:
        """Call it, in its turn."""
        self._waiting.append(work)
        if not self._running:
            self._running = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        end = time.perf_counter() + _TURN_SECONDS
        while self._waiting and time.perf_counter() < end:
            work = self._waiting.popleft()
            try:
                work()
            except Exception:
                logger.exception("a connection broke")
        self._running = bool(self._waiting)
        if self._running:
            asyncio.get_running_loop().call_soon(self._turn)


@dataclass(frozen=True)
class Common:
    """What all connections of a server have in common: how much they may, and for how long.

    `max_head` is in bytes, of a request's line and headers. `heads` is the time that each head has, `messages` the time
    for a WebSocket's message once it has begun, and `bodies` the room for what has come and is not handled yet.
    """

    room: Room
    bodies: Bodies
    max_head: int
    heads: Deadline
    messages: Deadline
    turns: Turns = field(default_factory=Turns)
    collector: Collector = field(default_factory=Collector)


class _Unacceptable(Exception):
    """A request that is refused while it is read."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HttpProtocol(_Streaming, HttpToolsProtocol):
    """An HTTP connection. What no request may be is refused while it streams in, a head has to come in time, and when
    the connection is lost, every request on it is told, also those that wait for the one before.

    Of what comes, the connection itself keeps at most: a head of `max_head` bytes and what one read brings beyond it,
    256 KiB, as it keeps of a body that nobody takes; and while one request is being answered, the next 16.
    """

    __slots__ = ("_common", "_early", "_head", "_idle_bytes", "_piped", "_refused", "_reread", "_running", "_steps")

    def __init__(self, *arguments: Any, common: Common, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._common = common
        self._running: RequestResponseCycle | None = None
        self._head = False  # whether one has begun and not ended
        self._steps = 0  # how often the parser got on: a head, a body's bytes, an end
        self._idle_bytes = 0  # that came since it did
        self._piped = 0  # bytes of the bodies that wait for the request before them
        self._refused = False
        self._reread = False  # whether the request is to be read again
        self._early = b""  # what came behind a WebSocket's handshake, before that was answered

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        common = self._common
        common.collector.connected(len(self.connections))
        common.heads.begin(self)
        common.room.idle[self] = None
        common.room.make(len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        common = self._common
        common.collector.disconnected(len(self.connections))
        common.heads.end(self)
        common.room.idle.pop(self, None)
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._running, self.cycle, *waiting):
            if cycle is not None:
                _part(cycle.scope)
                _give_up(cycle)
        self._running = None

    def late(self) -> None:
        """No head came in time. What was begun is answered, so that the client knows why it is closed."""
        if self._refused or self.transport.is_closing():
            return
        if self._head:
            self._refuse(408, "the head of the request did not come in time")
        else:
            self.transport.close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        self._steps += 1
        if self._reread:
            return
        super().on_message_complete()
        if self.cycle is not None and not self.cycle.response_complete:
            self._common.room.idle.pop(self, None)

    def on_response_complete(self) -> None:
        self._common.room.idle[self] = None
        if not self.pipeline:
            self._common.heads.begin(self)
        super().on_response_complete()
        self._piped = sum(len(cycle.body) for cycle, _ in self.pipeline)

    def _should_upgrade(self) -> bool:
        return self.parser.get_http_version() == "1.1" and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        if self.pipeline or (self._running is not None and not self._running.response_complete):
            # Its stream would hear nothing more of the connection.
            self.transport.abort()
            return
        self.transport.pause_reading()
        self._common.turns.later(self._upgrade)

    def _upgrade(self) -> None:
        if self.transport.is_closing():
            return  # the client has left meanwhile
        self._common.room.idle.pop(self, None)
        super().handle_websocket_upgrade()  # reading goes on once the handshake is answered
        if self._early:
            cast("WebSocketProtocol", self.transport.get_protocol()).data_received(self._early)
        _part(self.scope)
        self.parser = None  # type: ignore[assignment]  # it would keep this protocol, as this one keeps it

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        steps = self._steps
        self._read(data)
        passed = self._steps - steps
        if passed == 0:
            self._idle_bytes += len(data)
        else:
            # Where a head begins there may be the end of a body before it: then only what follows is counted.
            self._idle_bytes = len(data) if passed == 1 and self._head else 0
        if self._idle_bytes > self._common.max_head and not self._refused and not self.transport.is_closing():
            self._unacceptable(
                _head_too_large(self._common.max_head)
                if self._head
                else _Unacceptable(400, "too many bytes between a body's own, or before a request")
            )

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            why = error.__context__
            self._unacceptable(why if isinstance(why, _Unacceptable) else _Unacceptable(400, "this is no HTTP request"))
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._should_upgrade():
                self._early = rest
                self.handle_websocket_upgrade()
            else:
                self._read_without_upgrade(rest)

    def _read_without_upgrade(self, rest: bytes) -> None:
        """An upgrade that is not for us, such as curl's to HTTP/2, may be passed over (RFC 9110, 7.8). The parser takes
        what follows for the other protocol, though, a body included: so the request is read again, without it."""
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self._reread = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._read(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._steps += 1
        self._head = True
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._head:
            return  # a trailer: as a header it could pretend to be what a proxy has checked (RFC 9110, 6.5.1)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            raise _Unacceptable(431, f"a request may have {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._steps += 1
        self._check_head()
        self._head = False
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._reread = True
            return
        if len(self.pipeline) >= _PIPELINED:
            raise _Unacceptable(400, "too many requests wait for the one before them")
        self._common.heads.end(self)
        super().on_headers_complete()
        self.flow.resume_reading()  # else nobody would notice the client leave, as it may while a stream goes on
        if self.scope["method"] == "POST" and not self.parser.should_upgrade():
            self.cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))

    def _check_head(self) -> None:
        """What the parser lets through, and proxies read in other ways than we would (RFC 9112, 2.3, 3.2, 6.1)."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _Unacceptable(400, "send HTTP/1.1")
        if self.parser.get_method() == b"CONNECT":
            raise _Unacceptable(400, "this is no proxy")
        size = len(self.url) + 16
        hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
                raise _Unacceptable(400, "Transfer-Encoding may be chunked, and in HTTP/1.1 only")
        if size > self._common.max_head:
            raise _head_too_large(self._common.max_head)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise _Unacceptable(400, "a request has one Host header")

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        if self.cycle is not self._running:
            self._piped += len(body)
            if self._piped > _PIPELINED_BYTES:
                raise _Unacceptable(400, "too large a body waits for the request before it")
        super().on_body(body)

    def _unacceptable(self, why: _Unacceptable) -> None:
        """Refuse, without getting in the way of what is being answered."""
        running = self._running
        if self.stream is not None:
            self._refused = True
            self.transport.abort()
            return
        if running is not None and not running.response_complete:
            if running.more_body and running.response_started:
                self._refused = True
                self.transport.close()  # its own body is broken, and it is being answered already
                return
            if not running.more_body:
                # Its answer must not be lost, nor have another one in its midst.
                self._refused = True
                running.keep_alive = False
                self.pipeline.clear()
                return
            _give_up(running)
        self._refuse(why.status, why.detail)

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = True
        self.transport.write(_refusal(status, detail))
        # Closed with bytes unread, the kernel would reset the connection, and the answer might never arrive.
        self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)


def _head_too_large(most: int) -> _Unacceptable:
    return _Unacceptable(431, f"the head of the request is larger than {most:,} bytes, the limit here")


def _refusal(status: int, detail: str) -> bytes:
    """A problem document as a whole answer, for what never was a request."""
    problem = Problem(status, detail, {"Connection": "close"})
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in problem.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(problem.body)


def _give_up(cycle: RequestResponseCycle) -> None:
    """Tell a request that its client is gone."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.message_event.set()


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
    """A WebSocket, read in slices: no more than the application, the socket and everybody else have time for.

    Nothing is read before the handshake is answered, while messages wait for the application, or while more waits to be
    written than the socket takes: so whoever floods it with messages, pings or fragments fills only its own socket. A
    message that has begun has to end in time, and counts among the bodies until it has been handled.

    A handshake that cannot be read is answered and closed; uvicorn 0.54 leaves it open, and fails on it when it stops.
    After a frame that breaks the rules what still comes is read for a moment, so that the client sees with which code
    it was closed. A refusal by the application is no error, nor is a client that breaks the rules.
    """

    __slots__ = ("_begun", "_common", "_handled", "_held", "_in_turn", "_unread")

    def __init__(self, *arguments: Any, common: Common, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._common = common
        self._unread = bytearray()  # not even looked at yet
        self._in_turn = False  # whether a slice is to be read in its turn
        self._begun = False  # whether there is a part of a message
        self._held = 0  # bytes of it, and of the messages that the application has not handled
        self._handled = 0  # of these, bytes of the messages

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unread.clear()
        self._common.messages.end(self)
        self._common.bodies.release(self._held)
        self._held = 0
        if self.handshake_initiated and hasattr(self, "scope"):
            _part(self.scope)

    def late(self) -> None:
        """A message was begun, and did not end in time."""
        if not self.close_sent and not self.transport.is_closing():
            self._fail(1008, "a message did not come in time")

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        self.read_paused = True  # as the HTTP connection has left it, until the handshake is answered
        if not self.close_sent:
            self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"connection": self}}

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            self._read(data)
            if self.conn.handshake_exc is not None and not self.handshake_initiated and not self.close_sent:
                self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_REQUEST)
                self.handshake_complete = self.close_sent = True
                self.transport.close()
        elif self._broken:
            return
        elif self._unread or len(data) > _SLICE or self.write_paused or self.read_paused:
            self._unread += data
            self._go_on()
        else:
            self._read(data)

    @property
    def _broken(self) -> bool:
        """Whether it is being closed because the client broke the rules: what comes now is of no interest."""
        return self.close_sent and (self.conn.parser_exc is not None or self.conn.eof_sent)

    @property
    def _free(self) -> bool:
        """Whether more can be read: what came before has been taken, and the answers to it too."""
        taken = self.handshake_complete and (self.queue.empty() or self.close_sent)
        return taken and not self.write_paused

    def _go_on(self) -> None:
        """Read on if that is possible now, and else not."""
        if self.transport.is_closing() or self.disconnected:
            return
        if self._broken:
            self._unread.clear()
        free = self._free
        if free and not self._unread:
            if self.read_paused:
                self.read_paused = False
                self.transport.resume_reading()
            return
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()
        if free and not self._in_turn:
            self._in_turn = True
            self._common.turns.later(self._read_slice)

    def _read_slice(self) -> None:
        self._in_turn = False
        if self._free and not self._broken and not self.disconnected:
            data = bytes(self._unread[:_SLICE])
            del self._unread[:_SLICE]
            self._read(data)
        self._go_on()

    def _read(self, data: bytes) -> None:
        super().data_received(data)
        if self.handshake_initiated and not self.disconnected:
            self._account()

    def _account(self) -> None:
        """What there is of messages, for how much and for how long."""
        partial = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        begun = partial > 0 or self.conn.current_size is not None
        if self._broken:
            partial, begun = 0, False
        if begun is not self._begun:
            self._begun = begun
            if begun:
                self._common.messages.begin(self)
            else:
                self._common.messages.end(self)
        held = partial + self._handled
        if held <= self._held:
            self._common.bodies.release(self._held - held)
        elif not self._common.bodies.take(held - self._held, piece=begun):
            self._fail(1013, "this server is reading as many bytes at once as it may")
            return
        self._held = held

    def _fail(self, code: int, reason: str) -> None:
        """Close it, and read nothing more."""
        if not self.conn.eof_sent:
            self.conn.fail(code, reason)
        self.handle_parser_exception()

    def handle_cont(self, event: Frame) -> None:
        # A list of the fragments would cost more than they hold, without end if they are empty.
        frames = cast("list[bytes | bytearray]", self.frames)
        if not isinstance(frames[0], bytearray):
            frames[0] = bytearray(frames[0])
        frames[0] += event.data
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        data, self.frames = self.frames[0], []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.queue.put_nowait({"type": "websocket.receive", "bytes": bytes(data)})
        else:
            try:
                text = data.decode()
            except UnicodeDecodeError:
                self._fail(1007, "not UTF-8")
                return
            self.queue.put_nowait({"type": "websocket.receive", "text": text})
        self._handled += len(data)
        self._go_on()

    async def receive(self) -> ASGIReceiveEvent:
        if self.queue.empty() and self._handled:
            self._handled = 0
            self._account()
        message = await self.queue.get()
        self._go_on()
        return message

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on()

    def handle_parser_exception(self) -> None:
        close = self.conn.close_sent
        code, reason = (1006, "") if close is None else (close.code, close.reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        if self.stream is not None:
            self.stream.block()
            self.stream = None  # nothing comes after the close
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._unread.clear()
        self.frames = []
        self._account()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # Closed with bytes unread, the kernel would reset the connection, and the close frame might never arrive.
        self.close_timer = self.loop.call_later(_LINGER, self.transport.close)

    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if message["type"] == "websocket.accept":
            del self.request, self.response  # kilobytes that nothing looks at any more
            self._go_on()
        elif message["type"] == "websocket.close":
            self._go_on()  # to the client's own close
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # as far as it goes: uvicorn would log an error
