"""Reading a log page after page, and the one rule for what is not there: a hole ends a page, and is told of.

A *hole* is where events were committed and are gone, or cannot be read, though retention has not taken them: somebody
deleted them, put an older copy in the log's place, or a byte of them is broken. No page spans one (see `Page`). So
whoever reads on sees each hole between two pages, and can tell its reader of it.

Whoever reads in a loop does it by `read_on` and `read_back`: a log that did not go on would keep that loop turning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from feed.event import Event
from feed.log.contract import Log, Page
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
