"""Finds connections whose peers read nothing at all any more, and aborts them.

A peer that reads slowly is not stalled: what counts is whether its system acknowledges anything. (A system acknowledges
in steps of a segment, or half its buffer: the time must be longer than the reader takes for that.) `TCP_USER_TIMEOUT`
does not tell these apart: it ended a reader that steadily read a kilobyte a second. A peer that has vanished
acknowledges nothing either.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import socket
import struct
import sys
import termios
from collections.abc import Collection
from typing import NamedTuple, Protocol

logger = logging.getLogger(__name__)

_LOOKS = 6  # within the time after which a peer counts as stalled
_SLICE = 500  # connections that are looked at in one turn of the loop: 2 µs each

_TCP_INFO_BYTES = 256
_BYTES_ACKED = struct.Struct("@Q")
_BYTES_ACKED_OFFSET = 120  # of tcpi_bytes_acked in Linux's struct tcp_info, since 4.1
_INT = struct.Struct("i")


class Connection(Protocol):
    """A connection that is watched."""

    transport: asyncio.Transport

    def cut_off(self) -> None:
        """Abort the connection at once."""


class _Seen(NamedTuple):
    taken: int
    since: float  # when that number was first seen


class Stalled:
    """Watches `connections` and aborts those whose peer has read nothing for `patience` seconds although there was
    something to read."""

    def __init__(self, connections: Collection[Connection], patience: float) -> None:
        self._connections = connections
        self._patience = patience
        self._seen: dict[Connection, _Seen] = {}

    async def watch(self) -> None:
        """Look at all connections now and then, until cancelled."""
        while True:
            await asyncio.sleep(self._patience / _LOOKS)
            try:
                cut = await self._look()
            except Exception:
                logger.exception("some connections were not looked at; trying again at the next look")
                continue
            if cut:
                logger.warning("%d clients read nothing for %g s: disconnected", cut, self._patience)

    async def _look(self) -> int:
        now = asyncio.get_running_loop().time()
        seen: dict[Connection, _Seen] = {}
        cut = 0
        for count, connection in enumerate(list(self._connections), 1):
            taken = _taken(connection.transport)
            if taken is not None:
                before = self._seen.get(connection)
                if before is None or before.taken != taken:
                    seen[connection] = _Seen(taken, now)
                elif now - before.since < self._patience:
                    seen[connection] = before
                else:
                    connection.cut_off()
                    cut += 1
            if count % _SLICE == 0:
                await asyncio.sleep(0)
        self._seen = seen
        return cut


def _taken(transport: asyncio.Transport) -> int | None:
    """Return a number that changes whenever the peer reads something; None if there is nothing to read."""
    try:
        connection: socket.socket = transport.get_extra_info("socket")
        unsent: int = _INT.unpack(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))[0]
        if unsent == 0:
            return None
        if sys.platform == "linux":
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) >= _BYTES_ACKED_OFFSET + _BYTES_ACKED.size:
                acked: int = _BYTES_ACKED.unpack_from(info, _BYTES_ACKED_OFFSET)[0]
                return acked
    except (OSError, AttributeError):
        return None
    return -unsent
