"""Reading a log page after page, and the one rule for what is not there: a hole ends a page, and is told of.

A *hole* is where events were committed and are gone, or cannot be read, though retention has not taken them: somebody
deleted them, put an older copy in the log's place, or a byte of them is broken. No page spans one (see `Page`). So
whoever reads on sees each hole between two pages, and can tell its reader of it.

Whoever reads in a loop does it by `read_on` and `read_back`: a log that did not go on would keep that loop turning.
What a page takes of events that are in memory, `Scan` finds.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from feed.event import Event
from feed.log.contract import LOOK_AT_CLOCK, PAGE_BYTES, PAGE_SECONDS, Log, Page
from feed.pattern import Selection

logger = logging.getLogger(__name__)


async def read_on(log: Log, after: int, until: int, selection: Selection, limit: int) -> Page:
    """`Log.read`, which goes on for certain where `after < until`: what a log does not get beyond is a hole."""
    page = await log.read(after, until, selection, limit)
    if page.end > after or until <= after:
        return page
    logger.error("the log does not go on after %d: what is there up to %d is passed over", after, until)
    return Page([], until, until)


async def read_back(log: Log, before: int, selection: Selection, limit: int) -> Page:
    """`Log.read_backward`, which goes on for certain where something retained lies before `before`."""
    page = await log.read_backward(before, selection, limit)
    start = log.oldest - 1
    if page.start + 1 < before or before <= start + 1:
        return page
    logger.error("the log does not go back before %d: what is there down to %d is passed over", before, start)
    return Page([], start, start)


class Scan:
    """A page while it is made of `events`, which go up or down without a hole: the `wanted` ones, until they are
    `limit` or a page's bytes. `looked` is at how many it has looked, wanted or not.

    It works in the event loop. SQLite's reader has a loop of its own: it looks at topics and types in a thread, before
    there is an event.
    """

    __slots__ = ("_events", "_limit", "_selection", "_size", "looked", "wanted")

    def __init__(self, events: Iterable[Event], selection: Selection, limit: int) -> None:
        self.wanted: list[Event] = []
        self.looked = 0
        self._events = iter(events)
        self._selection = selection
        self._limit = limit
        self._size = 0

    def go_on(self) -> bool:
        """Look at events until the page is full, or they end, or `PAGE_SECONDS` are over: then it may go on."""
        events, wants, wanted, limit, size = self._events, self._selection.wants, self.wanted, self._limit, self._size
        until = time.perf_counter() + PAGE_SECONDS
        while some := tuple(islice(events, LOOK_AT_CLOCK)):
            for event in some:
                if wants(event.topic, event.type):
                    wanted.append(event)
                    size += event.size
                    if len(wanted) == limit or size > PAGE_BYTES:
                        self.looked += abs(event.seq - some[0].seq) + 1  # to count would be work for each event
                        return False
            self.looked += len(some)
            if time.perf_counter() > until:
                self._size = size
                return True
        return False


def leading_run(events: Sequence[Event]) -> Sequence[Event]:
    """The events, which go up or down, as far as no hole is between them."""
    if _is_run(events):
        return events
    step = 1 if events[1].seq > events[0].seq else -1
    for place in range(1, len(events)):
        if events[place].seq != events[place - 1].seq + step:
            return events[:place]
    return events


def runs(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Events that go up, in parts without a hole."""
    while events:
        run = leading_run(events)
        yield run
        events = events[len(run) :]


def _is_run(events: Sequence[Event]) -> bool:
    return len(events) < 2 or abs(events[-1].seq - events[0].seq) == len(events) - 1
