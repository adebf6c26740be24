"""Reading a log page by page. The one rule for missing events: a hole ends a page, and the reader is told.

A *hole* is where committed events are gone or unreadable though retention has not removed them. Somebody deleted them,
or put an older copy in the log's place, or a byte is broken. No page spans a hole (see `Page`), so a loop over pages
sees each hole between two pages, and can tell its reader.

Loops read with `read_on` and `read_back`: a log that did not advance would keep such a loop running for ever. `Scan`
makes a page of events that are in memory.
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
    """`Log.read` that is sure to advance where `after < until`: what the log cannot get past is treated as a hole."""
    page = await log.read(after, until, selection, limit)
    if page.end > after or until <= after:
        return page
    logger.error("the log cannot be read after %d: skipping everything up to %d", after, until)
    return Page([], until, until)


async def read_back(log: Log, before: int, selection: Selection, limit: int) -> Page:
    """`Log.read_backward` that is sure to advance while retained events lie before `before`."""
    page = await log.read_backward(before, selection, limit)
    start = log.oldest - 1
    if page.start + 1 < before or before <= start + 1:
        return page
    logger.error("the log cannot be read before %d: skipping everything down to %d", before, start)
    return Page([], start, start)


class Scan:
    """Collects a page from `events`, which go up or down without a hole. `wanted` are the wanted ones, until they are
    `limit` or a page's bytes. `looked` is how many events were looked at, wanted or not.

    It runs in the event loop. SQLite's reader has a loop of its own, which checks topics and types in a thread, before
    there are events.
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
        """Look at events until the page is full, the events end, or `PAGE_SECONDS` are over. Return True in the last
        case: then call it again."""
        events, wants, wanted, limit, size = self._events, self._selection.wants, self.wanted, self._limit, self._size
        until = time.perf_counter() + PAGE_SECONDS
        while some := tuple(islice(events, LOOK_AT_CLOCK)):
            for event in some:
                if wants(event.topic, event.type):
                    wanted.append(event)
                    size += event.size
                    if len(wanted) == limit or size > PAGE_BYTES:
                        self.looked += [each is event for each in some].index(True) + 1  # counting would cost work
                        return False
            self.looked += len(some)
            if time.perf_counter() > until:
                self._size = size
                return True
        return False


def up_to_page(events: Iterable[Event]) -> Sequence[Event]:
    """Return the events up to the one that exceeds a page's bytes."""
    taken: list[Event] = []
    size = 0
    for event in events:
        taken.append(event)
        size += event.size
        if size > PAGE_BYTES:
            break
    return taken


def leading_run(events: Sequence[Event]) -> Sequence[Event]:
    """Return the events up to the first hole. They may go up or down."""
    if _is_run(events):
        return events
    step = 1 if events[1].seq > events[0].seq else -1
    for place in range(1, len(events)):
        if events[place].seq != events[place - 1].seq + step:
            return events[:place]
    return events


def runs(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    """Split events that go up into parts without a hole."""
    while events:
        run = leading_run(events)
        yield run
        events = events[len(run) :]


def _is_run(events: Sequence[Event]) -> bool:
    return len(events) < 2 or abs(events[-1].seq - events[0].seq) == len(events) - 1
