"""The past: where a reader goes on in the log, and pages of past events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from feed import control
from feed.broadcaster import Broadcaster
from feed.control import Gap
from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log import Log
from feed.log.contract import Loss
from feed.log.contract import Page as LogPage
from feed.log.paging import read_back, read_on
from feed.log.window import Window
from feed.options import FeedOptions
from feed.pages import EARLIEST, Page, PageRequest, check_last
from feed.pattern import EVERYTHING, Selection

_PAGE_BYTES = 1 << 20  # of a page of history
_LOOKING_BACK = 1_000  # who ask for a page of history, or for the newest events, at once


class History:
    """The past of a feed that is open. Those who ask for it read in turn."""

    def __init__(self, log: Log, broadcaster: Broadcaster, replays: asyncio.Semaphore) -> None:
        self._log = log
        self._broadcaster = broadcaster
        self._replays = replays
        self._looking_back = 0

    async def page(self, selection: Selection, asked: PageRequest) -> Page:
        """Read one page. Raises `Invalid`, and `FeedUnavailable`, also when too many ask at once."""
        log, limit = self._log, asked.most
        check_last(asked.last)
        with self.looking_back(), self.without_loss():
            if asked.before is not None:
                return await self._page_before(selection, asked.before, limit)
            after, gap = asked.after, None
            if after is not None:
                cursor, gap = await self.resume_at(after)
            elif asked.last is not None:
                cursor = await self.before_last(selection, asked.last)
            elif asked.since is not None:
                async with self._replays:
                    cursor = await log.before_time(asked.since)
            else:
                cursor = log.oldest - 1
            found = None if gap is None or after is None else control.gap(after, log.id_at(cursor), gap)
            losses = log.losses_beyond(after) if after is not None and gap is None else ()
            return await self._page_after(selection, cursor, limit, found, losses)

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

    async def resume_at(self, after: str) -> tuple[int, Literal["expired", "unknown"] | None]:
        """Return the position from which a reader goes on who asks for what comes after the id `after`; and, if events
        may be missing there, the reason."""
        if after == EARLIEST:
            return self._log.oldest - 1, None
        position = await self._log.locate(after)
        if position is None:
            return self._log.oldest - 1, "unknown"
        if position + 1 < self._log.oldest:
            return self._log.oldest - 1, "expired"
        return position, None

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
            window = self._broadcaster.window
            window.drop_before(self._log.oldest)
            page = window.page(after, selection, limit)
            if page is None or page.end == after or page.end > until:
                return await read_on(self._log, after, until, selection, limit)
            await asyncio.sleep(0)  # many pages in a row must not delay the other readers
            return page

    async def _page_backward(self, before: int, selection: Selection, limit: int) -> LogPage:
        """`Log.read_backward`, from memory where it reaches, in its turn."""
        async with self._replays:
            window = self._broadcaster.window
            window.drop_before(self._log.oldest)
            page = window.page_backward(before, selection, limit)
            if page is None:
                return await read_back(self._log, before, selection, limit)
            await asyncio.sleep(0)
            return page

    async def _page_after(
        self, selection: Selection, cursor: int, limit: int, gap: Gap | None, losses: Sequence[Loss]
    ) -> Page:
        log, until = self._log, self._log.position
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
            cursor = page.end
            events += page.events
            size += sum(event.size for event in page.events)
        next_id = losses[0].before if losses and cursor == losses[0].position else log.id_at(cursor)
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
    before, count, size = log.position + 1, 0, 0
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
    return window
