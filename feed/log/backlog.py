"""The bound on what waits to be committed."""

from __future__ import annotations

from collections.abc import Sequence

from feed.errors import Overloaded
from feed.event import Draft, event_size

_MAX_EVENTS = 20_000
_MAX_BYTES = 64 << 20


class CommitBacklog:
    """How much all appends that wait for their commit hold. A single one may go beyond."""

    def __init__(self) -> None:
        self._events = 0
        self._bytes = 0

    def add(self, drafts: Sequence[Draft]) -> int:
        """Let a batch wait, and give its size. Raises `Overloaded` beyond the bound."""
        size = sum(event_size(draft.topic, draft.type, draft.data) for draft in drafts)
        if self._events and (self._events + len(drafts) > _MAX_EVENTS or self._bytes + size > _MAX_BYTES):
            raise Overloaded("more is being published than the log can take in")
        self._events += len(drafts)
        self._bytes += size
        return size

    def remove(self, drafts: Sequence[Draft], size: int) -> None:
        """It waits no more."""
        self._events -= len(drafts)
        self._bytes -= size
