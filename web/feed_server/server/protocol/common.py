"""What HTTP and WebSocket connections have in common: writing of streams, limits, and taking turns."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from feed.fastapi.http.bodies import Bodies
from feed.fastapi.outlet import EXTENSION, Listener, Stream
from feed_server.server.deadlines import Deadline
from feed_server.server.gc import Collector
from feed_server.server.protocol.heads import PublishHeads

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope, WebSocketScope

logger = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""Connections that are kept open between two requests, some 8 KiB each. A proxy has hundreds at most; a browser that
finds a connection closed opens another."""

BODY_FOLLOWS_SECONDS = 1.0
"""In this time the body of a publish follows its head: many clients send the two apart."""

_INT = struct.Struct("i")
_LOOK_AT = 100  # idle connections that are looked at for one to close
_TURN_SECONDS = 0.004


class Streaming(asyncio.Protocol):
    """The part of both protocols that a stream uses: see `feed.fastapi.outlet.Connection`."""

    # Slots: with so many attributes instances would not share their dictionaries' keys, a kilobyte each.
    __slots__ = ("listener", "stream", "write_paused")

    transport: asyncio.Transport

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stream: Stream | None = None
        self.listener: Listener | None = None
        self.write_paused = False

    def go_on(self) -> None:
        """Read on, after a listener was busy."""

    def cut_off(self) -> None:
        """Abort the connection: its peer reads nothing any more, and only an abort ends a connection whose buffer never
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
        self.listener = None
        super().connection_lost(exc)


class Idle(Protocol):
    """A connection that waits for a request and may be closed."""

    transport: asyncio.Transport


class ConnectionLimit:
    """Limits the number of connections, and closes those that are not missed.

    When there are more connections than `most`, the one that has waited longest for a whole request is closed: so there
    are descriptors left for publishers and health checks, even if a client opens connections and abandons them. Of the
    connections that were answered and wait for their next request, at most `most_kept` are kept open.

    `closing` says that the server is being stopped: the next answer on a connection is its last one.
    """

    def __init__(self, most: int, most_kept: int = MOST_KEPT) -> None:
        self.most = most
        self.most_kept = most_kept
        self.closing = False
        self.idle: dict[Idle, None] = {}  # the longest idle first
        self._kept: dict[Idle, None] = {}  # those of them that were answered before

    def enter(self, connection: Idle, connections: int) -> None:
        """Note a new connection; `connections` is the new total. Close another one if there are too many."""
        self.idle[connection] = None
        if connections > self.most and len(self.idle) > 1:
            self._let_go(self.idle)

    def keep(self, connection: Idle) -> None:
        """Note that a connection was answered and waits for its next request."""
        self.leave(connection)
        self.idle[connection] = self._kept[connection] = None
        if len(self._kept) > self.most_kept:
            self._let_go(self._kept)

    def leave(self, connection: Idle) -> None:
        """Note that a connection has a request, or is closed."""
        self.idle.pop(connection, None)
        self._kept.pop(connection, None)

    def _let_go(self, connections: dict[Idle, None]) -> None:
        for oldest in islice(connections, _LOOK_AT):
            # Else it still reads an answer, or its next request has come: a close would lose that.
            if oldest.transport.get_write_buffer_size() == 0 and not unread(oldest.transport):
                self.leave(oldest)
                oldest.transport.abort()
                break


class Turns:
    """Runs the work that a crowd causes for at most a few milliseconds in each turn of the event loop, so that other
    connections do not wait: the handshakes of WebSockets, half a millisecond each when all reconnect at once, and
    frames beyond the first few thousand bytes."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = False

    def later(self, work: Callable[[], None]) -> None:
        """Call `work` in its turn."""
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
                logger.exception("a connection has failed")
        self._running = bool(self._waiting)
        if self._running:
            asyncio.get_running_loop().call_soon(self._turn)


@dataclass(frozen=True)
class ServerLimits:
    """The limits that the connections of a server share.

    `max_head` is in bytes, of a request's line and headers. `heads` is the deadline of each head, from the start of the
    connection or of the head (between two requests uvicorn's `timeout_keep_alive` counts). `messages` is the deadline
    of a WebSocket's message from its first byte. `bodies` is the room for bytes that have come and are not handled yet.
    `publishes` reads the heads of plain publishes. `begun` is the deadline of the body of one: after it the routes wait
    for the body.
    """

    connections: ConnectionLimit
    bodies: Bodies
    max_head: int
    heads: Deadline
    messages: Deadline
    publishes: PublishHeads | None = None
    begun: Deadline = field(default_factory=lambda: Deadline(BODY_FOLLOWS_SECONDS))
    turns: Turns = field(default_factory=Turns)
    collector: Collector = field(default_factory=Collector)


def unread(transport: asyncio.Transport) -> int:
    """Return how many bytes wait in the socket to be read."""
    try:
        descriptor: int = transport.get_extra_info("socket").fileno()
        waiting: int = _INT.unpack(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(_INT.size)))[0]
    except (OSError, AttributeError, ValueError):  # it is closed
        return 0
    return waiting


def unlink_scope(scope: HTTPScope | WebSocketScope) -> None:
    """Break the reference cycle scope -> connection -> scope, so that reference counting frees both."""
    if scope["extensions"] is not None:
        scope["extensions"].pop(EXTENSION, None)
