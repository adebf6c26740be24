"""The protocol of an HTTP connection."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from feed.fastapi.http.problems import LINGER_SECONDS, Problem
from feed.fastapi.logging.requests import log_unreadable
from feed.fastapi.outlet import EXTENSION, Steppable
from feed_server.server.protocol.common import ServerLimits, Streaming, unlink_scope, unread

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope

MAX_HEADERS = 256
"""Headers of a request. Each takes some hundred bytes of memory, however small it is."""

_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)

_SMALL_HEAD = 4 << 10  # bytes of a head that do not count among the bodies
_PIPELINED = 16  # requests that may wait for the one before them
_PIPELINED_BYTES = 64 << 10  # of the bodies of these requests


class _Unacceptable(Exception):
    """A request that is refused while it is read."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HttpProtocol(Streaming, HttpToolsProtocol):
    """An HTTP connection. A request that breaks the rules is refused while it arrives, a head must arrive in time, and
    when the connection is lost, every request on it is told, also those that wait for the one before.

    The connection itself keeps at most a head of `max_head` bytes and what one read brings beyond it, 256 KiB, as much
    as it keeps of a body that the application does not read; and the next 16 requests while one is being answered. An
    unfinished head that is larger than most counts among the bodies: there is not room for such heads on all
    connections.
    """

    __slots__ = (
        "_early",
        "_head",
        "_held",
        "_idle_bytes",
        "_limits",
        "_piped",
        "_refused",
        "_reread",
        "_running",
        "_steps",
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self._limits
        limits.collector.connected(len(self.connections))
        limits.heads.begin(self)
        limits.connections.enter(self, len(self.connections))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        limits = self._limits
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
        if self._head:
            self._refuse(408, "the head of the request did not come in time")
        elif unread(self.transport):
            self._limits.heads.begin(self)  # it arrives just now
        else:
            self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, on which no request has come for as long as it is kept. Overrides uvicorn's."""
        if not unread(self.transport):  # else one arrives just now, and a proxy could not tell whether it was handled
            super().timeout_keep_alive_handler()

    def last_answer(self) -> None:
        """Make the answers under way the last ones, as the server is being stopped, and say so to proxies that would
        use the connection again. Later requests see `ConnectionLimit.closing`."""
        for cycle in (self._running, *(cycle for cycle, _ in self.pipeline)):
            if cycle is not None:
                cycle.keep_alive = False

    def shutdown(self) -> None:
        """Close the connection unless a request is under way. Overrides uvicorn's."""
        if not unread(self.transport):
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
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
            self._limits.heads.begin(self)
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
                _head_too_large(self._limits.max_head)
                if self._head
                else _Unacceptable(400, "too many bytes between a body's own, or before a request")
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
                _Unacceptable(503, "this server already reads as many bytes at once as it may: try again")
            )
            return
        self._held = size

    def _read(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            why = error.__context__
            self._unacceptable(
                why if isinstance(why, _Unacceptable) else _Unacceptable(400, "this is not an HTTP request")
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
            raise _Unacceptable(431, f"a request may have at most {MAX_HEADERS} headers")

    def on_headers_complete(self) -> None:
        self._steps += 1
        self._check_head()
        self._take_authority()
        self._head = False
        if self.parser.should_upgrade() and not self._should_upgrade():
            self._reread = True
            return
        if len(self.pipeline) >= _PIPELINED:
            raise _Unacceptable(400, "too many requests wait for the one before them")
        self._limits.heads.end(self)
        super().on_headers_complete()
        self.flow.resume_reading()  # else it would go unnoticed that a client leaves its stream
        if self._limits.connections.closing and self.cycle is not None:  # None before a WebSocket
            self.cycle.keep_alive = False
        if self.scope["method"] == "POST" and not self.parser.should_upgrade():
            self.cycle.transport = cast("asyncio.Transport", _HeadWithBody(self.transport, self.loop))

    def _check_head(self) -> None:
        """Refuse what the parser accepts but proxies read in another way than we would (RFC 9112, 2.3, 3.2, 6.1)."""
        version = self.parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise _Unacceptable(400, "send HTTP/1.1")
        if self.parser.get_method() == b"CONNECT":
            raise _Unacceptable(400, "this server is not a proxy")
        size = len(self.url) + 16
        hosts = 0
        for name, value in self.headers:
            size += len(name) + len(value) + 4
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and (version == "1.0" or value.lower() != b"chunked"):
                raise _Unacceptable(400, "Transfer-Encoding may only be chunked, and only in HTTP/1.1")
        if size > self._limits.max_head:
            raise _head_too_large(self._limits.max_head)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise _Unacceptable(400, "a request must have one Host header")

    def _take_authority(self) -> None:
        """Take the host from a target that is a whole URL, whatever the Host header says (RFC 9112, 3.2.2): else a
        proxy that checks the one would let a request pass that is answered for the other."""
        if self.url.startswith(b"/") or (self.url == b"*" and self.parser.get_method() == b"OPTIONS"):
            return
        found = _ABSOLUTE.fullmatch(self.url)
        if found is None or not found[1] or b"@" in found[1]:
            raise _Unacceptable(400, "the target of a request must be a path, or a whole http:// URL without a user")
        self.url = found[2] if found[2].startswith(b"/") else b"/" + found[2]
        self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        self.headers.append((b"host", found[1]))

    def on_body(self, body: bytes) -> None:
        self._steps += 1
        if self.cycle is not self._running:
            self._piped += len(body)
            if self._piped > _PIPELINED_BYTES:
                raise _Unacceptable(400, "a body that is too large waits for the request before it")
        super().on_body(body)

    def _unacceptable(self, why: _Unacceptable) -> None:
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


def _head_too_large(most: int) -> _Unacceptable:
    return _Unacceptable(431, f"the head of the request is larger than {most:,} bytes, the limit here")


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
