"""The protocol of an HTTP connection."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from feed.fastapi.http.problems import LINGER_SECONDS, Problem
from feed.fastapi.logging.requests import log_unreadable
from feed.fastapi.outlet import EXTENSION, Steppable
from feed_server.server.protocol.common import ServerLimits, Streaming, unlink_scope, unread
from feed_server.server.protocol.heads import (
    HEAD_END,
    MAX_HEADERS,
    LastHead,
    PublishHead,
    Unacceptable,
    authority_of,
    check_head,
    head_too_large,
)

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope

_SMALL_HEAD = 4 << 10  # bytes of a head that do not count among the bodies
_PIPELINED = 16  # requests that may wait for the one before them in the parser, which it reaches by chunks only
_PIPELINED_BYTES = 64 << 10  # of requests that wait; then no more are read
_KEPT_ANEW = 0.1  # seconds: connections are closed in the order in which they were used, if not to the last moment
_AT_ONCE = 16  # requests of a connection that are handled before others have their turn


class HttpProtocol(Streaming, HttpToolsProtocol):
    """An HTTP connection. A request that breaks the rules is refused while it arrives, a head must arrive in time, and
    when the connection is lost, every request on it is told, also those that wait for the one before.

    The connection itself keeps at most a head of `max_head` bytes and what one read brings beyond it, 256 KiB, as much
    as it keeps of a body that the application does not read; and as much of the requests that come while one is being
    answered, after which it is not read. An unfinished head that is larger than most counts among the bodies: there is
    not room for such heads on all connections.
    """

    __slots__ = (
        "_answered_at",
        "_awaited",
        "_begun",
        "_early",
        "_going_on",
        "_head",
        "_held",
        "_idle_bytes",
        "_left",
        "_limits",
        "_part",
        "_piped",
        "_publishing",
        "_refused",
        "_reread",
        "_running",
        "_steps",
        "_upgrading",
        "_waiting",
        "last_head",
        "place",
    )

    def __init__(self, *arguments: Any, limits: ServerLimits, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._limits = limits
        self._running: RequestResponseCycle | None = None
        self._head = False  # whether a head has begun and not ended
        self._steps = 0  # how often the parser has advanced: a head, bytes of a body, an end
        self._idle_bytes = 0  # bytes since it last advanced
        self._held = 0  # of these, the bytes that count among the bodies
        self._piped = 0  # bytes of bodies whose requests wait for the one before
        self._refused = False
        self._reread = False  # whether the request must be read again
        self._early = b""  # what came after a WebSocket's handshake, before the answer
        self._upgrading = False
        self._left: int | None = None  # bytes of the body that the parser has not had yet, None where that is not known
        self._waiting = b""  # what has come and has to wait for an answer, or for others' turn
        self._going_on = False  # whether what waits has its turn soon
        self._awaited: PublishHead | None = None  # of a publish whose body has not come yet
        self._part = b""  # this head, and what has come of its body
        self._publishing = False  # whether a publish that was begun here is not answered
        self.place = b""
        self.last_head: LastHead | None = None
        self._begun = 0.0  # when the head of the one whose body is awaited had come
        self._answered_at = 0.0  # when one of these was, by the loop's clock, give or take `_KEPT_ANEW`

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self._limits
        if limits.publishes is not None:
            self.place = limits.publishes.place_of(self.server, self.client)
        limits.collector.connected(len(self.connections))
        limits.heads.begin(self)
        limits.connections.enter(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave_body_to_routes()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves the timer, and what it holds, after a reset
        limits = self._limits
        self._waiting = b""
        limits.collector.disconnected(len(self.connections))
        limits.heads.end(self)
        limits.connections.leave(self)
        limits.bodies.release(self._held)
        self._held = 0
        waiting = [cycle for cycle, _ in self.pipeline]
        self.pipeline.clear()
        for cycle in (self._running, self.cycle, *waiting):
            if cycle is not None:
                unlink_scope(cycle.scope)
                give_up(cycle)
        self._running = None

    def late(self) -> None:
        """Close the connection: no head has come in time. If one has begun, the client is told why."""
        if self._refused or self.transport.is_closing():
            return
        if self._awaited is not None:
            self._leave_body_to_routes()
        elif self._head:
            self._refuse(408, "the head of the request did not come in time")
        elif unread(self.transport):
            self._limits.heads.begin(self)  # it arrives just now
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, on which no request has come for as long as it is kept. Overrides uvicorn's."""
        self.timeout_keep_alive_task = None
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        # What arrives just now counts too: a proxy could not tell whether that was handled.
        if self._publishing or self._waiting or self._awaited is not None or unread(self.transport):
            left = self.timeout_keep_alive
        if left > 0:  # publishes do not start the time anew: that would cost as much as a fifth of one
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def last_answer(self) -> None:
        """Make the answers under way the last ones, as the server is being stopped, and say so to proxies that would
        use the connection again. Later requests see `ConnectionLimit.closing`."""
        self._leave_body_to_routes()
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection unless a request is under way. Overrides uvicorn's."""
        if not (self._publishing or self._waiting or unread(self.transport)):
            super().shutdown()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        if cycle.scope["http_version"] == "1.0":
            cycle.send = _Unchunked(cycle).send  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, partial(_run, cycle, app))

    def on_message_complete(self) -> None:
        self._steps += 1
        if self._reread:
            return
        super().on_message_complete()
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._limits.connections.leave(self)
        elif cycle is not None and cycle.more_body and not self.transport.is_closing():
            cycle.more_body = False  # it was answered before all of its body had come
            self._limits.heads.end(self)
            self._limits.connections.leave(self)
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._limits.connections.keep(self)

    def on_response_complete(self) -> None:
        is_last = not self.pipeline and not self.transport.is_closing()
        super().on_response_complete()
        self._go_on_soon()
        self._piped = sum(len(cycle.body) for cycle, _ in self.pipeline)
        if not is_last:
            return
        if self._head or self.cycle.more_body:  # a request that has begun must end in time
            self._unset_keepalive_if_required()
            self._limits.heads.begin(self)
            self._limits.connections.idle[self] = None
        else:
            self._limits.connections.keep(self)

    def _should_upgrade(self) -> bool:
        return self.parser.get_http_version() == "1.1" and super()._should_upgrade()

    def handle_websocket_upgrade(self) -> None:
        if self.pipeline or (self._running is not None and not self._running.response_complete):
            # The stream that is being answered would not be told that the connection is lost.
            self.transport.abort()
            return
        self._upgrading = True
        self.transport.pause_reading()
        self._limits.turns.later(self._upgrade)

    def _upgrade(self) -> None:
        if self.transport.is_closing():
            return  # the client has left meanwhile
        self._limits.connections.leave(self)
        super().handle_websocket_upgrade()  # reading goes on once the handshake is answered
        if self._early:
            cast("asyncio.Protocol", self.transport.get_protocol()).data_received(self._early)
        unlink_scope(self.scope)
        self.parser = None  # type: ignore[assignment]  # parser and protocol refer to each other

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._busy or self._going_on:
            self._keep(data)
        else:
            data, self._waiting = self._waiting + data, b""
            self._handle(data)

    @property
    def _busy(self) -> bool:
        """Whether what comes has to wait until a request is answered, or the client has read its answers. A stream has
        no end for which anything could wait."""
        running = self._running
        return self.stream is None and (
            self._publishing
            or self.write_paused
            or (running is not None and not running.response_complete and not running.more_body)
        )

    def _keep(self, data: bytes) -> None:
        """Keep what has to wait. Beyond a bound no more is read until it has had its turn: a client that does not wait
        for answers is read no faster than it is served."""
        self._waiting += data
        if len(self._waiting) <= _PIPELINED_BYTES:
            return
        if self.stream is not None:
            self._refused = True
            self.transport.abort()
        else:
            self.flow.pause_reading()

    def _go_on_soon(self) -> None:
        """Handle what waits, in its turn among those of other connections."""
        if self._waiting and not self._going_on:
            self._going_on = True
            self._limits.turns.later(self._go_on)

    def _go_on(self) -> None:
        self._going_on = False
        if self._busy or self._refused or self.transport.is_closing():
            return
        data, self._waiting = self._waiting, b""
        self.flow.resume_reading()
        self._handle(data)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._go_on_soon()

    def _handle(self, data: bytes) -> None:
        """Handle what has come, as far as nothing has to wait: plain publishes here, all else by the parser."""
        start = handled = 0
        head = self._awaited
        if head is not None:
            self._part += data
            if head.end + head.length > len(self._part):  # the body comes in many pieces
                self._leave_body_to_routes()
                return
            self._limits.begun.end(self)
            data, self._part, self._awaited = self._part, b"", None
        while True:
            stop = self._publish(head, data, start)
            head = None
            if stop == start:
                stop = self._parse(data, start)
            start = stop
            handled += 1
            if start == len(data) or self._refused or self.transport.is_closing():
                return
            if self._upgrading:
                self._early += data[start:]
                return
            if self._busy or handled >= _AT_ONCE:
                self._keep(data[start:])
                if not self._busy:
                    self._go_on_soon()
                return

    def _publish(self, head: PublishHead | None, data: bytes, start: int) -> int:
        """Publish what begins at `start`, whose head may be known, if that can be done without the routes. Return where
        it ends, or `start`."""
        limits, cycle, begun = self._limits, self.cycle, None
        publishes = limits.publishes
        if publishes is None or self._head or (cycle is not None and cycle.more_body) or self.stream is not None:
            return start
        if limits.connections.closing:
            return start
        if head is not None:
            begun = self._begun
        elif (head := publishes.read(data, start, self)) is None:
            return start
        stop = head.end + head.length
        if stop > len(data):
            if len(data) - head.end > _SMALL_HEAD:
                return start
            limits.heads.end(self)
            limits.begun.begin(self)
            self._begun = time.perf_counter()
            self._awaited, self._part = head._replace(end=head.end - start), data[start:]
            return len(data)
        if self.timeout_keep_alive_task is None:
            limits.heads.end(self)
        self._publishing = True
        if not publishes.publishing.publish(head.accepted, data[head.end : stop], head.keys, self, begun):
            self._publishing = False
            return start
        if self._publishing:
            limits.connections.leave(self)
        self._idle_bytes = 0
        if self._held:
            self._hold(0)
        return stop

    def answered(self, status: int, headers: bytes, body: bytes) -> None:
        """Write the answer to a publish that was begun here."""
        self._publishing = False
        state, transport = self.server_state, self.transport
        state.total_requests += 1
        if transport.is_closing():
            return
        connections, publishes = self._limits.connections, self._limits.publishes
        own = publishes.own_lines(state.default_headers) if publishes is not None else b""
        end = b"connection: close\r\n\r\n" if connections.closing else b"\r\n"
        transport.write(b"".join((STATUS_LINE[status], own, headers, end, body)))
        if connections.closing:
            transport.close()
            return
        at = self.loop.time()
        if at - self._answered_at > _KEPT_ANEW or self not in connections.idle:
            connections.keep(self)
            self._answered_at = at
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        if self._waiting:
            self._go_on_soon()

    def _leave_body_to_routes(self) -> None:
        """Let the routes wait for the body of a publish: they know how long, and what to say."""
        if self._awaited is not None:
            part, self._awaited, self._part = self._part, None, b""
            self._limits.begun.end(self)
            start = 0
            while start < len(part):
                start = self._parse(part, start)

    def _parse(self, data: bytes, start: int) -> int:
        """Give the parser what begins at `start`, up to the end of a head or a body, and return where that is. So what
        follows a request waits here and not in the parser, which would go on with it at once."""
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
            self._limits.heads.begin(self)
        stop = len(data)
        if self._head or self.cycle is None or not self.cycle.more_body:
            end = data.find(HEAD_END, start)
            if end >= 0:
                stop = end + len(HEAD_END)
        elif self._left:
            stop = min(stop, start + self._left)
        self._advance(data[start:stop])
        return stop

    def _advance(self, data: bytes) -> None:
        """Give the parser some bytes, and see how far they get it."""
        steps = self._steps
        self._read(data)
        passed = self._steps - steps
        if passed == 0:
            self._idle_bytes += len(data)
        else:
            # Before the start of a head there may be the end of a body: then only what follows is counted.
            self._idle_bytes = len(data) if passed == 1 and self._head else 0
        if self._idle_bytes > self._limits.max_head and not self._refused and not self.transport.is_closing():
            self._unacceptable(
                head_too_large(self._limits.max_head)
                if self._head
                else Unacceptable(400, "too many bytes between a body's own, or before a request")
            )
        elif self._idle_bytes > _SMALL_HEAD or self._held:
            self._hold(self._idle_bytes if self._idle_bytes > _SMALL_HEAD else 0)

    def _hold(self, size: int) -> None:
        """Count this many bytes among the bodies, or refuse the request."""
        if size <= self._held:
            self._limits.bodies.release(self._held - size)
        elif self._refused or self.transport.is_closing():
            return
        elif not self._limits.bodies.take(size - self._held, piece=True):
            self._unacceptable(
                Unacceptable(503, "this server already reads as many bytes at once as it may: try again")
            )
            return
        self._held = size

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            why = error.__context__
            self._unacceptable(
                why if isinstance(why, Unacceptable) else Unacceptable(400, "this is not an HTTP request")
            )
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
            if self._should_upgrade():
                self._early = rest
                self.handle_websocket_upgrade()
            else:
                self._read_without_upgrade(rest)

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Ignore an upgrade that is not for us, such as curl's to HTTP/2, as RFC 9110, 7.8 allows. The parser takes all
        that follows for the other protocol, a body too: so the request is read again, without the upgrade."""
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
            return  # a trailer: as a header it could pretend to be one that a proxy has checked (RFC 9110, 6.5.1)
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))
        if len(self.headers) > MAX_HEADERS:
            raise Unacceptable(431, f"a request may have at most {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._steps += 1
        parser = self.parser
        check_head(parser.get_method(), self.url, parser.get_http_version(), self.headers, self._limits.max_head)
        self._take_authority()
        self._head = False
        self._left = next((int(value) for name, value in self.headers if name == b"content-length"), None)
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._reread = True
            return
        if len(self.pipeline) >= _PIPELINED:
            raise Unacceptable(400, "too many requests wait for the one before them")
        self._limits.heads.end(self)
        super().on_headers_complete()
        self.flow.resume_reading()  # else it would go unnoticed that a client leaves its stream
        if self._limits.connections.closing and self.cycle is not None:  # None before a WebSocket
            self.cycle.keep_alive = False
        if self.scope["method"] == "POST" and not self.parser.should_upgrade():
            self.cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))

    def _take_authority(self) -> None:
        """Take the host from a target that is a whole URL, whatever the Host header says (RFC 9112, 3.2.2): else a
        proxy that checks the one would let a request pass that is answered for the other."""
        if self.url.startswith(b"/") or (self.url == b"*" and self.parser.get_method() == b"OPTIONS"):
            return
        host, self.url = authority_of(self.url)
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", host))

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        if self._left is not None:
            self._left -= len(body)
        if self.cycle is not self._running:
            self._piped += len(body)
            if self._piped > _PIPELINED_BYTES:
                raise Unacceptable(400, "a body that is too large waits for the request before it")
        super().on_body(body)

    def _unacceptable(self, why: Unacceptable) -> None:
        """Refuse the request, without disturbing the answer that is under way."""
        running = self._running
        if self.stream is not None:
            self._refused = True
            self.transport.abort()
            return
        if running is not None and not running.response_complete:
            if running.more_body and running.response_started:
                self._refused = True
                self.transport.close()  # its own body is wrong, and its answer has begun
                return
            if not running.more_body:
                # Its answer must not be lost, and no other one may be written into it.
                self._refused = True
                running.keep_alive = False
                self.pipeline.clear()
                return
            give_up(running)
        self._refuse(why.status, why.detail)

    def _refuse(self, status: int, detail: str) -> None:
        self._refused = True
        log_unreadable(self.client, status, detail)
        waiting = cast("object", None if self._running is None else self._running.transport)
        if isinstance(waiting, _HeadWithBody):
            waiting.flush()  # a 100 Continue may wait: behind the end below it could not be written
        self.transport.write(_refusal(status, detail))
        # A close with unread bytes would make the kernel reset the connection, and the answer might not arrive.
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)


def _refusal(status: int, detail: str) -> bytes:
    """Return a whole answer with a problem document, for bytes that never became a request."""
    headers = {"Connection": "close"}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "1"
    problem = Problem(status, detail, headers)
    lines = [b"HTTP/1.1 %d %b" % (status, HTTPStatus(status).phrase.encode())]
    lines += [b"%b: %b" % header for header in problem.raw_headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(problem.body)


async def _run(
    cycle: RequestResponseCycle,
    app: ASGI3Application,
    scope: HTTPScope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
) -> None:
    """Run the application. uvicorn learns a turn of the loop later than the transport that a client has left, and would
    take an answer that was abandoned meanwhile for a mistake of the application."""
    await app(scope, receive, send)
    if cycle.transport.is_closing():
        cycle.disconnected = True


def give_up(cycle: RequestResponseCycle) -> None:
    """Tell a request that its client is gone."""
    if not cycle.response_complete:
        cycle.disconnected = True
        cycle.waiting_for_100_continue = False  # uvicorn would write it behind what the connection ends with
        cycle.message_event.set()


class _Unchunked(Steppable):
    """Answers an HTTP/1.0 client, which does not know chunks (RFC 9112, 7.1): where the length is unknown, the body
    ends with the connection. nginx is such a client of its upstreams, unless configured otherwise."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._endless = False

    async def send(self, message: ASGISendEvent) -> None:
        """Send an ASGI message."""
        cycle = self._cycle
        if message["type"] == "http.response.start":
            headers = [header for header in message.get("headers", ()) if header[0].lower() != b"connection"]
            self._endless = all(name.lower() != b"content-length" for name, _ in headers)
            if self._endless:
                cycle.chunked_encoding = False
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and self._endless:
            cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)


class _HeadWithBody:
    """A transport that delays a response's head until its body comes, at most to the next turn of the loop. uvicorn
    writes the two separately, and a system call costs as much as all the rest of a publish."""

    __slots__ = ("_flushing", "_head", "_loop", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._flushing: asyncio.Handle | None = None

    def write(self, data: bytes) -> None:
        """Write `data`, or keep it back if it is the head."""
        if self._flushing is None:
            self._head = data
            self._flushing = self._loop.call_soon(self.flush)
        elif self._head:
            self._flushing.cancel()
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write the head if it still waits."""
        head, self._head = self._head, b""
        if head and not self._transport.is_closing():
            self._transport.write(head)

    def close(self) -> None:
        """Write the head if it still waits, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closed, or being closed."""
        return self._transport.is_closing()
