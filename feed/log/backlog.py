"""The appends that wait for their commit, and the bound on them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from feed.errors import Overloaded
from feed.event import Draft, event_size
from feed.log.conditions import has_terms
from feed.log.contract import Appended
from feed.log.idempotency import IdempotencyKey

MAX_EVENTS = 20_000
"""The most events that a log keeps in memory: waiting for their commit, or for a follower to take them."""

MAX_BYTES = 64 << 20
"""The same bound for the sum of their sizes."""


class Append(msgspec.Struct, frozen=True, eq=False):
    """A batch that waits for its commit. `bytes` is its size; its publisher waits for `future`. `has_terms` is whether
    any draft has terms."""

    drafts: Sequence[Draft]
    key: IdempotencyKey | None
    bytes: int
    future: asyncio.Future[Appended]
    has_terms: bool


class CommitBacklog:
    """Bounds how much waits for commit. A single append may be larger than the bound."""

    def __init__(self) -> None:
        self._events = 0
        self._bytes = 0

    def add(self, drafts: Sequence[Draft], key: IdempotencyKey | None) -> Append:
        """Let a batch wait. Raises `Overloaded` beyond the bound."""
        size = sum(event_size(draft.topic, draft.type, draft.text) for draft in drafts)
        if self._events and (self._events + len(drafts) > MAX_EVENTS or self._bytes + size > MAX_BYTES):
            raise Overloaded("more is being published than the log can take in: publish again later")
        self._events += len(drafts)
        self._bytes += size
        return Append(drafts, key, size, asyncio.get_running_loop().create_future(), has_terms(drafts))

    def remove(self, append: Append) -> None:
        """Remove an append that waits no more."""
        self._events -= len(append.drafts)
        self._bytes -= append.bytes
