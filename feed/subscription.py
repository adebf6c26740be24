"""One reader: what it asked for, its queue, its cursor in the log, and the one road by which it catches up.

A subscription is either *live*, and the broadcaster puts each event into its queue, or *behind*, and it reads the log
from its cursor. One that begins at an old id begins behind. One whose queue overflows is emptied, and is behind. It
turns live at a moment when its cursor has reached what the broadcaster has passed on, and between looking and turning
there is no `await`: so there is neither a gap nor a double where the log ends and the queue begins, and a slow reader
costs a cursor, not memory. The queue is for the fast and the log for the slow.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from typing import Literal

import msgspec

from feed import control
from feed.control import Control, Gap, Heartbeat, Reason
from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log.contract import Log, Page
from feed.log.window import Window
from feed.pattern import Selection

Item = Event | Control | Heartbeat
"""What a subscription hands out. All have the wire formats `sse`, `envelope`, `line` and `text`."""

_PAGE_EVENTS = 500  # handed on at a time while behind
_WAKE = Heartbeat("")  # in the queue of a reader that may be waiting there, and has to look again; never handed out


class Limits(msgspec.Struct, frozen=True):
    """What one subscription may hold and how often it is heard of. `queue_bytes` counts as `Event.size` does; times
    are in seconds."""

    queue_events: int = 256
    queue_bytes: int = 1 << 20
    heartbeat: float = 15.0
    retry: float = 3.0

    def jittered_retry(self) -> int:
        """When one client is to come back, in milliseconds: jittered by half, so that a crowd comes back spread out."""
        return int(self.retry * random.uniform(0.5, 1.5) * 1000)


class Subscription:
    """One reader of a feed. `Feed.attach` makes it and puts it where the broadcaster finds it.

    For its owner: `take` until it gives nothing, or `async for`; then `close`.
    """

    def __init__(
        self, log: Log, window: Window, selection: Selection, limits: Limits, *, cursor: int, replay: bool
    ) -> None:
        self.id = secrets.token_hex(8)
        self.selection = selection
        self.cursor = cursor  # all up to here was handed out, or was not wanted
        self.behind = cursor < window.position or replay
        self.closed = False
        self.reason: Reason | None = None  # why the server ends it, once it does
        self.queue: asyncio.Queue[Item] = asyncio.Queue()  # bounded by `offer`
        self._log = log
        self._window = window
        self._limits = limits
        self._queued_bytes = 0
        self._replayed: int | None = 0 if replay else None
        self._told = cursor  # the position the client knows
        self._opening: list[Item] = [control.opened(self.id, log.id_at(cursor), limits.jittered_retry())]
        self._end: Control | None = None
        self._quiet_since = asyncio.get_running_loop().time()
        self._patience = limits.heartbeat * random.uniform(0.85, 1.0)  # so that not all are due at once
        self._handed: list[Item] = []
        self._reading: asyncio.Future[Page] | None = None

    # What the broadcaster calls, without ever waiting.

    def offer(self, event: Event) -> None:
        """Put an event that was just committed into the queue, or note that the reader is behind."""
        if self.behind or event.seq <= self.cursor or (self.selection.types and event.type not in self.selection.types):
            return
        queue = self.queue
        if not queue.empty() and (
            queue.qsize() >= self._limits.queue_events or self._queued_bytes + event.size > self._limits.queue_bytes
        ):
            self.fall_behind()
            return
        queue.put_nowait(event)
        self._queued_bytes += event.size

    def fall_behind(self) -> None:
        """Go on from the log. What waits in the queue is read from there again."""
        if self.behind:
            return
        first = self._clear()
        if isinstance(first, Event):
            self.cursor = first.seq - 1  # all before the queue's first was handed out
        self.behind = True
        # Whoever waits for the queue has to wake up and find that it is behind.
        self.queue.put_nowait(_WAKE)

    def note_position(self) -> None:
        """Of a live reader whose queue is empty all that was passed on and wanted was handed out."""
        if not self.behind and self.queue.empty():
            self.cursor = max(self.cursor, self._window.position)

    def beat(self, now: float) -> None:
        """Give a sign of life if nothing was sent for as long as the heartbeat allows."""
        if self.behind or now - self._quiet_since < self._patience or not self.queue.empty():
            return
        self._quiet_since = now
        self.note_position()
        id = self._log.id_at(self.cursor)
        self.queue.put_nowait(control.moved(id) if self.cursor > self._told else Heartbeat(id))
        self._told = self.cursor

    def end(self, reason: Reason, retry: int | None = None) -> None:
        """Let the stream say `feed.closing` and end. What waits in the queue is not lost: the client resumes."""
        if self._end is None:
            self.reason = reason
            self._end = control.closing(reason, self._limits.jittered_retry() if retry is None else retry)
            self._clear()
            self.queue.put_nowait(self._end)

    # What its owner calls.

    async def take(self) -> Sequence[Item]:
        """Wait for what comes next, and take all of it. Nothing comes after `feed.closing`: an empty sequence.

        Safe to cancel: what was not returned is still there.
        """
        items: Sequence[Item]
        if self._opening:
            items, self._opening = self._opening, []
            return items
        while not self.closed:
            if self._end is not None:
                self.closed = True
                return [self._end]
            try:
                items = await self._catch_up() if self.behind else self._drain(await self.queue.get())
            except FeedUnavailable:
                self.end("busy")  # the client comes back and goes on where it was
                continue
            if items:
                self._quiet_since = asyncio.get_running_loop().time()
                return items
        return []

    def close(self) -> None:
        """Its owner has no more use for it."""
        self.closed = True
        if self._reading is not None and not self._reading.cancel():
            self._reading.exception()  # if it failed, nobody needs to be told

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event | Gap:
        """The next event, or a `Gap` where events may be missing. It ends when the feed is closed. Raises
        `FeedUnavailable` when it ends for another reason, such as a log that cannot be read."""
        while True:
            while self._handed:
                item = self._handed.pop()
                if isinstance(item, (Event, Gap)):
                    return item
            self._handed = list(reversed(await self.take()))
            if not self._handed:
                if self.reason not in (None, "shutdown"):
                    raise FeedUnavailable(f"the stream was ended: {self.reason}")
                raise StopAsyncIteration

    def announce_gap(self, requested: str, reason: Literal["expired", "unknown"]) -> None:
        """Let the stream begin with the news that it cannot go on where the client asked for."""
        self._opening.append(control.gap(requested, self._log.id_at(self.cursor), reason))

    # The road.

    def _drain(self, first: Item) -> list[Item]:
        items = [first]
        while not self.queue.empty():
            items.append(self.queue.get_nowait())
        self._queued_bytes = 0
        if self._end is not None or self.behind:
            return []  # what was taken out was only there to wake us
        last = items[-1]
        if isinstance(last, Event):
            self.cursor = self._told = last.seq
        return items

    async def _catch_up(self) -> Sequence[Item]:
        """The next page of the log, or the moment at which the reader is live again."""
        oldest = self._log.oldest
        if self.cursor + 1 < oldest:
            return [self._gap(oldest - 1)]  # at once: cancelled at an `await` further down, it would be lost
        if self.cursor >= self._window.position:
            # No `await` between this look and the change: the next event that is passed on goes into the queue.
            self.behind = False
            self._clear()
            replayed, self._replayed = self._replayed, None
            return [] if replayed is None else [control.live(replayed)]
        self._window.drop_before(oldest)
        page = self._window.page(self.cursor, self.selection, _PAGE_EVENTS)
        if page is None:
            page = await self._read()
            if page is None:
                return [Heartbeat(self._log.id_at(self._told))]
        elif not page.events:
            await asyncio.sleep(0)  # a reader that wants little must not hold up the others
        if page.start > self.cursor:
            return [self._gap(page.start)]
        self.cursor = page.end
        if page.events:
            self._told = page.events[-1].seq
            if self._replayed is not None:
                self._replayed += len(page.events)
        return page.events

    async def _read(self) -> Page | None:
        """The next page from the log; None if it takes so long that the client should be given a sign of life. The
        read then goes on, and the next call waits for the same one."""
        if self._reading is None:
            read = self._log.read(self.cursor, self._window.position, self.selection, _PAGE_EVENTS)
            self._reading = asyncio.ensure_future(read)
        await asyncio.wait([self._reading], timeout=self._patience)
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        return reading.result()

    def _gap(self, position: int) -> Gap:
        before, self.cursor, self._told = self.cursor, position, position
        return control.gap(self._log.id_at(before), self._log.id_at(position), "expired")

    def _clear(self) -> Item | None:
        first = None
        while not self.queue.empty():
            item = self.queue.get_nowait()
            first = first or item
        self._queued_bytes = 0
        return first
