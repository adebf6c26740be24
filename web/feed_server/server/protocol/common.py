"""What connections have in common: how a stream writes to them, how many there may be, and whose turn it is."""

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
from feed.fastapi.outlet import EXTENSION, Stream
from feed_server.server.deadlines import Deadline
from feed_server.server.gc import Collector

if TYPE_CHECKING:
    from uvicorn._types import HTTPScope, WebSocketScope

logger = logging.getLogger(__name__)

MOST_KEPT = 10_000
"""Connections that are kept between two requests, some 8 KiB each. A proxy has hundreds at most; browsers that find one
closed take another."""

_INT = struct.Struct("i")
_LOOK_AT = 100  # idle connections, for one that may go
_TURN_SECONDS = 0.004


class Streaming(asyncio.Protocol):
    """What both protocols offer a stream: see `feed.fastapi.outlet.Connection`."""

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


class Idle(Protocol):
    """A connection that waits for a request, and may be closed instead."""

    transport: asyncio.Transport


class ConnectionLimit:
    """How many connections there may be, and which of them nobody would miss.

    When one more comes than `most`, the one that has been without a whole request for longest makes room for it: so
    there are descriptors left for publishers and health checks, whoever opens connections and leaves them. Of those
    that have had an answer and wait for the next request `most_kept` are kept.

    `closing` says that the server is being stopped: what a connection is answered now is its last answer.
    """

    def __init__(self, most: int, most_kept: int = MOST_KEPT) -> None:
        self.most = most
        self.most_kept = most_kept
        self.closing = False
        self.idle: dict[Idle, None] = {}  # the longest idle first
        self._kept: dict[Idle, None] = {}  # of these, those that have had an answer

    def enter(self, connection: Idle, connections: int) -> None:
        """A new one, of so many. Another is let go if there are too many."""
        self.idle[connection] = None
        if connections > self.most and len(self.idle) > 1:
            self._let_go(self.idle)

    def keep(self, connection: Idle) -> None:
        """It has had its answer, and waits for the next request."""
        self.idle[connection] = self._kept[connection] = None
        if len(self._kept) > self.most_kept:
            self._let_go(self._kept)

    def leave(self, connection: Idle) -> None:
        """It has a request, or is gone."""
        self.idle.pop(connection, None)
        self._kept.pop(connection, None)

    def _let_go(self, connections: dict[Idle, None]) -> None:
        for oldest in islice(connections, _LOOK_AT):
            # Else it is still taking an answer, or its next request is there: closed now, that would be lost.
            if oldest.transport.get_write_buffer_size() == 0 and not unread(oldest.transport):
                self.leave(oldest)
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
class ServerLimits:
    """What the connections of a server share: how much they may together, and for how long.

    `max_head` is in bytes, of a request's line and headers. `heads` is the time that each head has once the connection
    is there, or the head has begun (between two requests uvicorn's `timeout_keep_alive` counts), `messages` the time
    for a WebSocket's message once it has begun, and `bodies` the room for what has come and is not handled yet.
    """

    connections: ConnectionLimit
    bodies: Bodies
    max_head: int
    heads: Deadline
    messages: Deadline
    turns: Turns = field(default_factory=Turns)
    collector: Collector = field(default_factory=Collector)


def unread(transport: asyncio.Transport) -> int:
    """How many bytes have come that nobody has read."""
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
