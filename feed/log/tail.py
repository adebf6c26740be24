"""Committed events that a follower has not taken yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from feed.event import Event, size_of
from feed.log.backlog import MAX_BYTES, MAX_EVENTS
from feed.log.contract import Log
from feed.log.paging import read_on
from feed.pattern import EVERYTHING

_GATHER_SECONDS = 0.001  # that an event may wait for others, while more come in each turn of the loop
_GATHER_EVENTS = 64  # that are passed on without waiting for more


class Tails:
    """The followers of a log in this process: each of them is handed every commit as it is.

    A follower that does not come for its events does not hold them in memory: beyond the bound they are dropped, and it
    reads them from the log when it comes.
    """

    def __init__(self) -> None:
        self._tails: set[_Tail] = set()

    def push(self, events: Sequence[Event], size: int | None = None) -> None:
        """Hand newly committed events to all followers. `size` is that of all events, if it is known."""
        size = size_of(events) if size is None else size
        for tail in self._tails:
            tail.push(events, size)

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
                await tail.quiet()
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

    def push(self, events: Sequence[Event], size: int) -> None:
        self._events.extend(events)
        self._bytes += size
        if len(self._events) > MAX_EVENTS or self._bytes > MAX_BYTES:
            self._events = []
            self._bytes = 0
        self.changed.set()

    async def quiet(self) -> None:
        """Wait for a turn of the loop in which nothing was committed, but not for long. What is passed on together
        costs each reader one write, which takes as long as all the rest of a publish."""
        end = time.perf_counter() + _GATHER_SECONDS
        count = 0
        while count < len(self._events) < _GATHER_EVENTS and time.perf_counter() < end:
            count = len(self._events)
            await asyncio.sleep(0)

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
