"""Deadlines for what must arrive in time: the head of a request, the rest of a WebSocket's message.

There is no timer for each connection: there are many, and hardly one is ever late. All have the same time, so that they
are late in the order in which their waits began, and one look a second finds the late ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LOOKS = 4  # at least within the time, where that is short


class Awaited(Protocol):
    """A connection on which something must arrive."""

    def late(self) -> None:
        """Handle that nothing has arrived in time."""


class Deadline:
    """Gives each connection `seconds` from `begin` to `end`, and up to a second more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Awaited, float] = {}  # the longest wait first

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, awaited: Awaited) -> None:
        """Start, or restart, the time of a connection."""
        self._since.pop(awaited, None)  # else it would keep its place in the order
        self._since[awaited] = time.monotonic()

    def end(self, awaited: Awaited) -> None:
        """Stop the time: it has arrived, or is not needed any more."""
        self._since.pop(awaited, None)

    async def watch(self) -> None:
        """Look for late connections, until cancelled."""
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._seconds / _LOOKS))
            self.look()

    def look(self) -> None:
        """Call `late` on the connections that are late now. The work is in proportion to their number."""
        latest = time.monotonic() - self._seconds
        late = []
        for awaited, since in self._since.items():
            if since > latest:
                break
            late.append(awaited)
        for awaited in late:
            del self._since[awaited]
            try:
                awaited.late()
            except Exception:
                logger.exception("a late connection could not be closed")
