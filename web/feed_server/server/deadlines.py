"""What has to be there in time: the head of a request, the rest of a WebSocket's message.

There is no timer for each connection, as there are many and hardly one is ever late. All that are waited for have the
same time, so that they are late in the order in which the waiting began, and one look a second finds those that are.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_LOOKS = 4  # within the time, where that is short


class Awaited(Protocol):
    """A connection that something has to come on."""

    def late(self) -> None:
        """It did not come in time."""


class Deadline:
    """Everybody has `seconds` from `begin` to `end`, and up to a second more."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: dict[Awaited, float] = {}  # the longest awaited first

    def __len__(self) -> int:
        return len(self._since)

    def begin(self, awaited: Awaited) -> None:
        """From now on."""
        self._since.pop(awaited, None)  # else it would keep its place
        self._since[awaited] = time.monotonic()

    def end(self, awaited: Awaited) -> None:
        """It has come, or nobody waits for it any more."""
        self._since.pop(awaited, None)

    async def watch(self) -> None:
        """Tell those that are late, for ever."""
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._seconds / _LOOKS))
            self.look()

    def look(self) -> None:
        """Tell those that are late now. The work is as much as they are many."""
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
                logger.exception("a connection that was late could not be ended")
