"""Committed events that a follower has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from feed.event import Event
from feed.log.backlog import MAX_BYTES, MAX_EVENTS
from feed.log.contract import Log
from feed.log.paging import read_on
from feed.pattern import EVERYTHING


class Tails:
    """The followers of a log in this process: each of them is handed every commit as it is.

    A follower that does not come for its events does not hold them in memory: beyond the bound they are dropped, and it
    reads them from the log when it comes.
    """

    def __init__(self) -> None:
        self._tails: set[_Tail] = set()

    def push(self, events: Sequence[Event]) -> None:
        """Hand newly committed events to all followers."""
        for tail in self._tails:
            tail.push(events)

    async def follow(self, log: Log, after: int) -> AsyncIterator[Sequence[Event]]:
        """`Log.follow` for `log`, which has to call `push` at each commit, after it has moved its position."""
        tail = _Tail()
        self._tails.add(tail)
        try:
            while True:
                while after < (target := log.position) and not tail.continues(after):
                    page = await read_on(log, after, target, EVERYTHING, 1_000)
                    after = page.end
                    if page.events:
                        yield page.events
                await tail.changed.wait()
                events = tail.take(after)
                if events:
                    after = events[-1].seq
                    yield events
        finally:
            self._tails.discard(tail)


class _Tail:
    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._events: list[Event] = []
        self._bytes = 0

    def push(self, events: Sequence[Event]) -> None:
        self._events.extend(events)
        self._bytes += sum(event.size for event in events)
        if len(self._events) > MAX_EVENTS or self._bytes > MAX_BYTES:
            self._events = []
            self._bytes = 0
        self.changed.set()

    def continues(self, after: int) -> bool:
        """Tell whether the event after `after` is here."""
        return bool(self._events) and self._events[0].seq <= after + 1

    def take(self, after: int) -> Sequence[Event]:
        """Take all events beyond `after`; none if there is a hole in between."""
        events, self._events, self._bytes = self._events, [], 0
        self.changed.clear()
        if not events or events[0].seq > after + 1:
            return ()
        return events if events[0].seq == after + 1 else [event for event in events if event.seq > after]
