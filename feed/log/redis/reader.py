"""Reads the stream: one script call for each page, which ends at its bytes, and few calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from feed.errors import FeedUnavailable, Indeterminate
from feed.event import Event
from feed.log.contract import PAGE_BYTES, Page, Topic
from feed.log.paging import Scan, leading_run
from feed.log.redis.entries import last_seq, parse_entries
from feed.log.redis.link import Argument, Link, Script
from feed.log.redis.state import State
from feed.pattern import Selection

_LOOKS = 2  # reads of a range before its result counts
_TOPICS = 1_000  # of one page
_SCAN_EVENTS = 500  # of one page: about as many as may be parsed without holding up the loop


class Reader:
    """Reads over a few links, each of which does one thing at a time."""

    def __init__(self, links: Sequence[Link], state: State) -> None:
        self._links = links
        self._state = state
        self._idle: asyncio.Queue[Link] = asyncio.Queue()
        for link in links:
            self._idle.put_nowait(link)
        self._page, self._search = Script("page"), Script("search")
        self._fetch, self._topics = Script("fetch"), Script("topics")

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        if self._state.classes:
            return await self._read_classed(after, until, selection, limit)
        if until <= after:
            return Page([], after, after)
        events = await self._events("forward", after + 1, until, selection, limit)
        if not events:
            return Page([], until, until)  # the events are gone
        scan = await _scanned(events, selection, limit)
        start = events[0].seq - 1
        return Page(scan.wanted, start, start + scan.looked)

    async def read_backward(self, oldest: int, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        if self._state.classes:
            return await self._read_classed_backward(oldest, before, selection, limit)
        events = await self._events("backward", oldest, before - 1, selection, limit) if before > oldest else []
        if not events:
            gone = min(before, oldest) - 1
            return Page([], gone, gone)
        scan = await _scanned(events, selection, limit)
        scan.wanted.reverse()
        end = events[0].seq
        return Page(scan.wanted, end - scan.looked, end)

    async def _read_classed(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """Read forward where events may be missing between others, because their class does not keep them."""
        if until <= after:
            return Page([], after, after, self._state.classes.taken(selection, after))
        events, start, end = await self._looked_at("forward", after + 1, until, selection, limit)
        taken = self._state.classes.taken(selection, after)  # after the events were read: at least as new as they are
        if end <= after:
            return Page([], until, until, taken)  # the events are gone
        scan = await _scanned(events, selection, limit)
        return Page(scan.wanted, start, end if scan.looked == len(events) else events[scan.looked - 1].seq, taken)

    async def _read_classed_backward(self, oldest: int, before: int, selection: Selection, limit: int) -> Page:
        if before <= oldest:
            return Page([], before - 1, before - 1)
        events, start, end = await self._looked_at("backward", oldest, before - 1, selection, limit)
        if start >= before - 1:
            return Page([], oldest - 1, oldest - 1)
        scan = await _scanned(events, selection, limit)
        scan.wanted.reverse()
        return Page(scan.wanted, start if scan.looked == len(events) else events[scan.looked - 1].seq - 1, end)

    async def _looked_at(
        self, direction: str, low: int, high: int, selection: Selection, limit: int
    ) -> tuple[Sequence[Event], int, int]:
        """Return the retained events of a part of `low` to `high` without a hole, and the part: the seq before it, and
        its last one. It is empty if they are all gone."""
        count = _count(selection, limit)
        for _ in range(_LOOKS):
            entries, *classed = await self._run(self._page, direction, low, high, count, PAGE_BYTES)
            if classed:
                start, end, told = classed
                events = parse_entries(entries)
                if self._state.told(told) and self._state.knows(events) and start < end:
                    return events, start, end
            # There are other classes, or events are missing, or of an epoch that is not known here.
            await self._check()
        if self._state.news is not None or not classed:
            raise FeedUnavailable("the log has changed, and this node is still finding out how")
        return self._state.known(events), start, end

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        if not seqs:
            return ()
        events = parse_entries(await self._run(self._fetch, PAGE_BYTES, *seqs))
        return self._state.known(events)

    async def topics(self) -> Sequence[Topic]:
        """See `Log`. Read in pages, in the order of the newest events: a topic that gets one meanwhile comes again."""
        found: dict[str, Topic] = {}
        reached = 0
        while True:
            names, *told = await self._run(self._topics, reached, _TOPICS)
            if told and not self._state.told(told[0]):
                await self._check()
            for name, newest, first, ended in zip(names[::4], names[1::4], names[2::4], names[3::4], strict=True):
                found[name.decode()] = Topic(name.decode(), first, newest, bool(ended))
                reached = newest
            if len(names) < 4 * _TOPICS:
                return list(found.values())

    async def first_since(self, time: int, oldest: int, position: int) -> int:
        """Return the seq of the first event committed at `time` or later."""
        return int(await self._run(self._search, time, oldest, position))

    async def close(self) -> None:
        """Close the connections."""
        for link in self._links:
            await link.close()

    async def _events(self, direction: str, low: int, high: int, selection: Selection, limit: int) -> Sequence[Event]:
        """Return some of the events from `low` to `high`, up to the next hole; none if they are all gone."""
        count = _count(selection, limit)
        for _ in range(_LOOKS):
            events = leading_run(await self._found(direction, low, high, count))
            if self._state.knows(events) if events else high < self._state.oldest:
                return events
            # Events are missing, or are of an epoch that is not known here: they may not be the events that were meant.
            await self._check()
        if self._state.news is not None:
            raise FeedUnavailable("the log has changed, and this node is still finding out how")
        return leading_run(self._state.known(events))

    async def _found(self, direction: str, low: int, high: int, count: int) -> Sequence[Event]:
        """Return events from this range. If pages hold nothing but entries of other writers, look beyond those."""
        while low <= high:
            entries, *classed = await self._run(self._page, direction, low, high, count, PAGE_BYTES)
            if classed:
                await self._check()
                raise FeedUnavailable("the log has just got classes of retention: try again")
            events = parse_entries(entries)
            reached = last_seq(entries) if entries else None
            if events or reached is None:
                return events
            low, high = (reached + 1, high) if direction == "forward" else (low, reached - 1)
        return []

    async def _run(self, script: Script, *arguments: Argument) -> Any:
        return await self._over_a_link(lambda link: link.run(script, *arguments))

    async def _check(self) -> None:
        await self._over_a_link(lambda link: link.use(self._state.check))

    async def _over_a_link(self, work: Callable[[Link], Awaitable[Any]]) -> Any:
        link = await self._idle.get()
        try:
            return await work(link)
        except Indeterminate as error:
            raise FeedUnavailable("Redis does not answer") from error
        finally:
            self._idle.put_nowait(link)


def _count(selection: Selection, limit: int) -> int:
    """Return how many events to ask for, for one page."""
    all_wanted = selection.everything and not selection.types
    return min(limit, _SCAN_EVENTS) if all_wanted else _SCAN_EVENTS


async def _scanned(events: Sequence[Event], selection: Selection, limit: int) -> Scan:
    """Make a page from events without a hole. It gives the loop back now and then. It does not end the page there,
    because the rest of these events would have to be fetched again."""
    scan = Scan(events, selection, limit)
    while scan.go_on():
        await asyncio.sleep(0)
    return scan
