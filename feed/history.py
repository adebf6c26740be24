"""The past: where a reader goes on in the log, and pages of past events."""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from feed import control
from feed.broadcaster import Broadcaster
from feed.control import Gap
from feed.errors import FeedUnavailable
from feed.event import Event
from feed.latest import Latest, Place, locate, resume_id
from feed.log import Log
from feed.log.contract import Loss
from feed.log.contract import Page as LogPage
from feed.log.paging import read_back, read_on
from feed.log.window import Window
from feed.options import FeedOptions
from feed.pages import EARLIEST, Page, PageRequest, TopicInfo, TopicsPage, check_last
from feed.pattern import EVERYTHING, Selection
from feed.state import State

Reason = Literal["expired", "unknown"] | None
"""Why events may be missing where a reader goes on; None if none are."""

_PAGE_BYTES = 1 << 20  # of a page of history
_LOOKED_AT = 2_000  # topics, for one page of them
_LOOKING_BACK = 1_000  # who ask for a page of history, or for the newest events, at once


class History:
    """The past of a feed that is open. Those who ask for it read in turn."""

    def __init__(self, log: Log, broadcaster: Broadcaster, state: State, replays: asyncio.Semaphore) -> None:
        self._log = log
        self._broadcaster = broadcaster
        self._state = state
        self._replays = replays
        self._looking_back = 0

    async def page(self, selection: Selection, asked: PageRequest) -> Page:
        """Read one page. Raises `Invalid`, and `FeedUnavailable`, also when too many ask at once."""
        log, limit = self._log, asked.most
        check_last(asked.last)
        with self.looking_back(), self.without_loss():
            if asked.latest:
                return await self._page_of_state(selection, asked.after, limit)
            if asked.before is not None:
                return await self._page_before(selection, asked.before, limit)
            after, gap, told, complete = asked.after, None, None, True
            if after is not None and after != EARLIEST:
                cursor, gap, told = await self.resume_at(after)
            elif asked.last is not None:
                cursor = await self.before_last(selection, asked.last)
            elif asked.since is not None:
                async with self._replays:
                    cursor = await log.before_time(asked.since)
            else:
                cursor, complete = self.beginning(selection)
            if told is None:
                told = self.taken(selection, cursor)  # nobody expects what is before it
            found = None if gap is None or after is None else control.gap(after, log.id_at(cursor), gap)
            losses = log.losses_beyond(after) if after is not None and gap is None else ()
            page = await self._page_after(selection, Place(cursor, told), limit, found, losses)
            return page if complete else msgspec.structs.replace(page, complete=False)

    @contextlib.contextmanager
    def looking_back(self) -> Iterator[None]:
        """Count a reader of the past while the block lasts. Raises `FeedUnavailable` if there are too many: pages are
        read in turn, and each would take long."""
        if self._looking_back >= _LOOKING_BACK:
            raise FeedUnavailable("too many readers ask for past events at once: try again")
        self._looking_back += 1
        try:
            yield
        finally:
            self._looking_back -= 1

    @contextlib.contextmanager
    def without_loss(self) -> Iterator[None]:
        """Raise `FeedUnavailable` at the end of the block if the log has lost events meanwhile: a position that was
        found before no longer means the same."""
        losses = self._broadcaster.losses
        yield
        if self._broadcaster.losses != losses:
            raise FeedUnavailable("the log has lost events meanwhile: try again")

    async def resume_at(self, after: str) -> tuple[int, Reason, int | None]:
        """Return the position from which a reader goes on who asks for what comes after the id `after`. If events may
        be missing there, return the reason, too; and up to where the reader was told already that events are missing,
        None if it need not be told at all."""
        log = self._log
        place = await locate(log, after)
        if place is None:
            return log.oldest - 1, "unknown", None
        if log.classes:
            return place.cursor, None, place.as_of
        if place.cursor + 1 < log.oldest:
            return log.oldest - 1, "expired", None
        return place.cursor, None, place.as_of

    def taken(self, selection: Selection, position: int) -> int:
        """Return up to where events that the selection wants may be gone from between others."""
        classes = self._log.classes
        return classes.taken(selection, position) if classes else 0

    def beginning(self, selection: Selection) -> tuple[int, bool]:
        """Return the position before the oldest event that a selection may want, and whether nothing that it would have
        wanted is gone. Of exact topics the index knows both."""
        log, state, oldest = self._log, self._state, self._log.oldest
        is_behind = self._broadcaster.window.position < log.position  # then the index may lack a topic
        if is_behind or not state.is_whole or not selection.is_exact:
            taken = self.taken(selection, 0) if log.classes else oldest - 1
            return oldest - 1, not taken
        state.forget_old()
        topics = state.topics
        firsts: list[int] = []
        complete = True
        for topic in selection.patterns:
            if (first := topics.first(topic)) is None:
                continue
            taken = log.classes.marks[log.classes.of(topic)].taken if log.classes else oldest - 1
            complete = complete and first > taken
            firsts.append(first)
        if not firsts:
            return self._broadcaster.window.position, True
        return max(min(firsts), oldest) - 1, complete

    async def topics(self, selection: Selection, after: str, limit: int) -> TopicsPage:
        """Read one page of the topics that match, by name, beyond the name `after`. Raises `FeedUnavailable`."""
        state, window = self._state, self._broadcaster.window
        await state.caught_up()
        state.forget_old()
        names = state.names()
        start = bisect_right(names, after)
        some = names[start : start + _LOOKED_AT]
        wanted = [name for name in some if selection.wants_topic(name)][:limit]
        last = wanted[-1] if len(wanted) == limit else some[-1] if some else None
        newest = {name: state.topics.newest(name) for name in wanted}
        seqs = sorted(seq for seq in newest.values() if seq is not None)
        events: dict[int, Event] = {}
        while missing := [seq for seq in seqs if seq not in events]:
            here = [window.at(seq) for seq in missing if seq >= window.first]
            async with self._replays:
                found = here or await self._log.fetch(missing)
            if not found:
                break  # they were superseded, or are gone, just now
            events |= {event.seq: event for event in found}
        topics = [
            TopicInfo(event.topic, event.id, event.time_ms, event.type)
            for name in wanted
            if (event := events.get(newest[name] or 0)) is not None
        ]
        return TopicsPage(topics, None if last is None or last == names[-1] else last)

    async def newest(self, topic: str) -> Event | None:
        """Return the newest event of a topic, None if it has none, or was deleted. Raises `FeedUnavailable`."""
        page = await self._page_of_state(Selection([topic]), None, 1)
        return page.events[0] if page.events else None

    async def place_of(self, after: str | None, selection: Selection) -> tuple[Place, Reason]:
        """Return the place in the log's state at which a reader goes on after an id, or the beginning. If topics may be
        gone that the reader holds, return the reason, too. Of other topics than those selected nothing is asked. The
        state has to be whole."""
        place = None if after is None or after == EARLIEST else await locate(self._log, after)
        self._state.forget_old()
        if after is not None and after != EARLIEST:
            if place is not None and place.knows_up_to >= self._state.topics.purged(selection, place.knows_up_to):
                return place, None
            return Place(0, self._broadcaster.window.position), "unknown" if place is None else "expired"
        return Place(0, self._broadcaster.window.position), None

    async def _page_of_state(self, selection: Selection, after: str | None, limit: int) -> Page:
        log, window = self._log, self._broadcaster.window
        await self._state.caught_up()
        place, reason = await self.place_of(after, selection)
        gap = None if reason is None or after is None else control.gap(after, resume_id(log, place), reason)
        latest = Latest(self._state, selection, place, is_empty=not place.cursor)
        events: list[Event] = []
        resumes: list[str | None] = []
        size = 0
        while (is_behind := latest.is_behind(window.position)) and len(events) < limit and size < _PAGE_BYTES:
            async with self._replays:
                page = latest.page_in_memory(window, limit - len(events))
                if page is None:
                    page = await latest.page(log, window, limit - len(events))
            for event, at in page.events:
                id = resume_id(log, Place(at, place.as_of))
                events.append(event)
                resumes.append(None if id == event.id else id)
                size += event.size
            await asyncio.sleep(0)
        return self._counted(Page(events, resume_id(log, latest.place), gap, not is_behind, resumes))

    async def before_last(self, selection: Selection, count: int) -> int:
        """Return the position after which the newest `count` wanted events are, or all that are retained if there are
        fewer."""
        position, before = self._log.position, self._log.position + 1
        while before > self._log.oldest:
            page = await self._page_backward(before, selection, count)
            count -= len(page.events)
            if page.events:
                position = page.events[0].seq - 1
            if count <= 0:
                break
            before = page.start + 1
        return position

    async def _page(self, after: int, until: int, selection: Selection, limit: int) -> LogPage:
        """`Log.read`, from memory where it reaches, in its turn."""
        async with self._replays:
            page = self._state.page(after, selection, limit)
            if page is None or page.end == after or page.end > until:
                return await read_on(self._log, after, until, selection, limit)
            await asyncio.sleep(0)  # many pages in a row must not delay the other readers
            return page

    async def _page_backward(self, before: int, selection: Selection, limit: int) -> LogPage:
        """`Log.read_backward`, from memory where it reaches, in its turn."""
        async with self._replays:
            page = self._state.page_backward(before, selection, limit)
            if page is None:
                return await read_back(self._log, before, selection, limit)
            await asyncio.sleep(0)
            return page

    async def _page_after(
        self, selection: Selection, place: Place, limit: int, gap: Gap | None, losses: Sequence[Loss]
    ) -> Page:
        """Read a page from a place on. Up to its `as_of` the reader knows that events are gone."""
        log, until = self._log, self._log.position
        begun, cursor, told = place.cursor, place.cursor, place.as_of
        is_missing = False  # events are gone, and the next one is not found yet
        if losses and cursor >= losses[0].position:
            gap = control.gap(losses[0].before, losses[0].after, "unknown")
            losses = losses[1:]
        if losses:
            until = min(until, losses[0].position)  # the next page begins with the gap
        events: list[Event] = []
        size = 0
        while cursor < until and len(events) < limit and size < _PAGE_BYTES:
            page = await self._page(cursor, until, selection, limit - len(events))
            if page.start > cursor:
                if events:
                    break  # the next page begins with the gap
                gap = control.gap(
                    gap.requested if gap else log.id_at(cursor), log.id_at(page.start), gap.reason if gap else "expired"
                )
            if page.taken > max(cursor, told):
                if events:
                    break  # as above
                is_missing, told = True, page.taken
            if is_missing and (page.events or page.end >= until):
                before = page.events[0].seq - 1 if page.events else page.end
                gap, is_missing = gap or control.gap(log.id_at(begun), log.id_at(before), "expired"), False
            cursor = page.end
            events += page.events
            size += sum(event.size for event in page.events)
        next_id = losses[0].before if losses and cursor == losses[0].position else resume_id(log, Place(cursor, told))
        return self._counted(Page(events, next_id, gap))

    async def _page_before(self, selection: Selection, before: str, limit: int) -> Page:
        log, gap = self._log, None
        position = await log.locate(before)
        if position is None:
            position = log.position + 1
            gap = control.gap(before, log.id_at(log.position), "unknown")
        pages: list[Sequence[Event]] = []
        count = size = 0
        while position > log.oldest and count < limit and size < _PAGE_BYTES:
            page = await self._page_backward(position, selection, limit - count)
            if page.end < min(position, log.position + 1) - 1:
                if pages:
                    break  # the next page begins with the gap
                gap = gap or control.gap(log.id_at(page.end), log.id_at(position - 1), "expired")
            position = page.start + 1
            pages.append(page.events)
            count += len(page.events)
            size += sum(event.size for event in page.events)
        events = [event for page_events in reversed(pages) for event in page_events]
        return self._counted(Page(events, log.id_at(min(position, log.position)), gap))

    def _counted(self, page: Page) -> Page:
        if page.gap is not None:
            self._broadcaster.counters.gaps[page.gap.reason] += 1
        return page


async def newest_window(log: Log, options: FeedOptions) -> Window:
    """Read the log's newest events, so that readers who come back right after a start need no disk either."""
    position = log.position
    before, count, size = position + 1, 0, 0
    pages: list[Sequence[Event]] = []
    while before > log.oldest and count < options.window_events and size < options.window_bytes:
        page = await read_back(log, before, EVERYTHING, 1_000)
        if not page.events or page.end < before - 1:
            break  # retention has just taken them, or they lie before a hole
        before = page.start + 1
        pages.append(page.events)
        count += len(page.events)
        size += sum(event.size for event in page.events)
    window = Window(before - 1, max_events=options.window_events, max_bytes=options.window_bytes)
    for events in reversed(pages):
        window.extend(events)
    if log.classes and window.position < position:
        window.skip_to(position)  # the newest events are gone
    return window
