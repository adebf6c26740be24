"""One reader: what it asked for, its queue, its cursor in the log, and the one way by which it catches up.

A subscription is *live* or *behind*. While it is live the broadcaster puts each batch of events into its queue; while
it is behind it reads the log from its cursor. A subscription that starts at an old id starts behind. One whose queue
overflows is emptied, and is behind. It turns live when its cursor has reached the last event that was passed on. There
is no `await` between this check and the change, so there is neither a gap nor a duplicate where the log ends and the
queue begins. A slow reader costs a cursor, not memory: the queue is for fast readers, the log for slow ones.

Its owner either *takes* what comes (`take`, or `async for`), or lets it *flow into* an outlet, driven by the pump.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, cast

from feed import control
from feed.batch import Batch, Encoder, Item
from feed.control import Control, Gap, Heartbeat, Reason
from feed.errors import FeedUnavailable
from feed.event import Event, Placed
from feed.latest import Latest, Place, StatePage, resume_id
from feed.log import clock
from feed.log.contract import Log, LogLost, Page
from feed.log.paging import read_on
from feed.log.window import Window
from feed.options import Limits
from feed.pace import Pace
from feed.pattern import Selection
from feed.peer import Peer
from feed.pump import Pump
from feed.state import State
from feed.statistics import Ending

Entry = Batch | Control | Heartbeat
"""An entry of a queue."""

_PAGE_EVENTS = 500  # handed on at a time while behind
_READ_AGAIN = (0.5, 1.5)  # seconds until a failed read of the log is repeated; random, so that readers spread out
_WAKE = Heartbeat("")  # wakes a reader that waits for its queue, so that it checks its state; never handed out


class Shared(NamedTuple):
    """What all subscriptions of a feed share. `replays` limits how many of them read the log at once."""

    log: Log
    window: Window
    state: State
    pump: Pump
    replays: asyncio.Semaphore
    limits: Limits


class _Loss(NamedTuple):
    """When the cursor comes to `stop`, the reader is told that events after the id `requested` are gone."""

    stop: int
    requested: str


class Outlet(Protocol):
    """Where a subscription's bytes go. No method waits: an outlet that has taken enough calls `Subscription.block`, and
    later `Subscription.unblock`."""

    @property
    def write(self) -> Callable[[Any], None]:
        """Takes one chunk of its encoder, whole."""

    def finish(self, reason: Reason | None) -> None:
        """Nothing more comes: the server has ended the stream for this reason; None if writing failed."""


class _Queue(asyncio.Queue[Entry]):
    """An `asyncio.Queue` without bound and without `join`. Leaving out what only serves those saves 2.4 KiB for each
    idle reader, and half of what an event for one reader costs here."""

    # `get` and `repr` read these, in Python 3.13 too.
    _is_shutdown = False
    _putters = ()
    _unfinished_tasks = 0

    def __init__(self) -> None:
        self._maxsize = 0
        self._queue: deque[Entry] = deque()
        self._getters: deque[asyncio.Future[None]] = deque()

    def put_nowait(self, item: Entry) -> None:
        self._queue.append(item)
        if self._getters:
            self._wakeup_next(self._getters)  # type: ignore[attr-defined]

    def get_nowait(self) -> Entry:
        if not self._queue:
            raise asyncio.QueueEmpty
        return self._queue.popleft()


class Subscription:
    """One reader of a feed. `Feed.attach` makes it and registers it with the broadcaster.

    Its owner calls `take` until that returns nothing, or uses `async for`, or calls `flow_into`; then `close`.
    """

    __slots__ = (
        "_awake",
        "_blocked",
        "_encoder",
        "_end",
        "_from_log",
        "_gap_after",
        "_handed",
        "_latest",
        "_limits",
        "_log",
        "_losses",
        "_opening",
        "_outlet",
        "_patience",
        "_pump",
        "_queued_bytes",
        "_queued_events",
        "_quiet_since",
        "_reading",
        "_replayed",
        "_replays",
        "_state",
        "_taken",
        "_told",
        "_window",
        "behind",
        "closed",
        "cursor",
        "ended",
        "events",
        "id",
        "pace",
        "peer",
        "queue",
        "reason",
        "selection",
        "sent",
        "since",
    )

    def __init__(
        self,
        shared: Shared,
        selection: Selection,
        peer: Peer,
        *,
        cursor: int,
        replay: bool,
        resumed: str | None,
        complete: bool = True,
        told: int = 0,
        place: Place | None = None,
        pace: Pace | None = None,
    ) -> None:
        """`place` is where a reader of state begins, whose `cursor` is that of the place. At the beginning it holds
        nothing. `told` is up to where the reader knows that events are gone, and `complete` that none are that it has
        asked for. `pace` is from whom it gets its events while it is live, if that is not the broadcaster itself."""
        log, limits = shared.log, shared.limits
        self.id = secrets.token_hex(8)
        self.selection = selection
        self.peer = peer
        self.pace = pace
        self.cursor = cursor  # all events up to here were handed out, or not wanted
        self.behind = cursor < shared.window.position or replay
        self.since = clock.now()
        self.sent = 0  # bytes of the stream's body that were handed to the connection
        self.events = 0  # how many were handed out
        self.closed = False
        self.reason: Reason | None = None  # why the server ends the stream, once it does
        self.ended: Ending | None = None  # why the stream has ended, once `Feed.detach` knows
        self.queue: asyncio.Queue[Entry] = _Queue()  # bounded by `offer`
        # Each in its own slot, because `offer` and `flush` read them for each event and reader.
        self._log = log
        self._window = shared.window
        self._pump = shared.pump
        self._limits = limits
        self._replays = shared.replays
        self._queued_events = 0
        self._queued_bytes = 0
        self._replayed: int | None = 0 if replay else None
        self._from_log = False  # whether any page of the replay came from the log, not from the window
        self._told = cursor  # the position the client knows
        self._taken = told  # up to where the client knows that events are gone
        self._gap_after: int | None = None  # where the reader was before events that are gone, until it is told
        self._state = shared.state
        self._latest = None if place is None else Latest(shared.state, selection, place, is_empty=not place.cursor)
        id = resumed or self._id_here()
        self._opening: list[Item] = [control.opened(self.id, id, limits.jittered_retry(), complete=complete)]
        self._end: Control | None = None
        self._quiet_since = asyncio.get_running_loop().time()
        self._patience = limits.heartbeat * random.uniform(0.85, 1.0)  # random, so that not all are due at once
        self._handed: list[Item] = []
        self._reading: asyncio.Future[Any] | None = None  # a `Page`, or for a reader of state a `StatePage`
        self._losses: tuple[_Loss, ...] = ()  # that the reader has not been told of yet, in order
        if resumed is not None:
            self._expect_losses_beyond(resumed)
        self._outlet: Outlet | None = None
        self._encoder: Encoder
        self._blocked = False
        self._awake = True  # already woken in the pump, or not flowing into an outlet

    @property
    def queued(self) -> int:
        """How many events wait in the queue."""
        return self._queued_events

    @property
    def is_of_state(self) -> bool:
        """Whether the reader gets of each topic the newest event only."""
        return self._latest is not None

    @property
    def told(self) -> str:
        """The last id that the client knows, of an event or a position."""
        return self._id_here() if self.behind and self._latest is not None else self._log.id_at(self._told)

    def _id_here(self) -> str:
        """Return the id with which a client resumes at the cursor."""
        latest = self._latest
        return self._log.id_at(self.cursor) if latest is None else resume_id(self._log, latest.place)

    def _sign_of_life(self) -> Heartbeat:
        """Return what is sent while the log is slow to answer."""
        return Heartbeat(None if self._latest is not None else self._log.id_at(self._told))

    # Called by the broadcaster; nothing here waits.

    def offer(self, batch: Batch) -> None:
        """Put newly committed events into the queue, or fall behind if the queue would overflow."""
        if self.behind:
            return
        types = self.selection.types
        if types or batch.first <= self.cursor:
            narrowed = batch.of_types(types) if types else batch
            narrowed = narrowed and narrowed.after(self.cursor)
            if narrowed is None:
                return
            batch = narrowed
        limits = self._limits
        events = self._queued_events + batch.count
        size = self._queued_bytes + batch.size
        if (events > limits.queue_events or size > limits.queue_bytes) and not self.queue.empty():
            self._pump.counters.overflows += 1
            self.fall_behind()
            return
        self._queued_events = events
        self._queued_bytes = size
        self.queue.put_nowait(batch)
        if not self._awake:
            self._awake = True
            self._pump.wake(self)

    def fall_behind(self) -> None:
        """Continue from the log. What waits in the queue will be read from there again."""
        if self.behind:
            return
        first = self._clear()
        if isinstance(first, Batch):
            self.cursor = first.first - 1  # all events before the first in the queue were handed out
        self.behind = True
        # A `take` that waits for the queue has to wake up and see that the reader is behind.
        self.queue.put_nowait(_WAKE)
        self.wake()

    def lose(self, lost: LogLost) -> None:
        """Note that the log has lost events, and tell the reader when it comes to where they were. A reader that has
        seen some of them goes back to that place, and reads what the log has now."""
        self.fall_behind()
        self._stop_reading()
        stop, requested = lost.position, lost.before.id_at(max(self.cursor, lost.position))
        if lost.kept(self.cursor):
            stop, requested = max(stop, self.cursor), lost.before.id_at(lost.position)
        else:
            self.cursor = lost.position
        earlier = [loss for loss in self._losses if loss.stop <= stop]  # losses beyond went with the events
        if earlier and earlier[-1].stop == stop:
            requested = earlier.pop().requested  # one gap tells of two losses at one place
        self._losses = (*earlier, _Loss(stop, requested))
        self._taken, self._gap_after = min(self._taken, lost.position), None

    def note_position(self) -> None:
        """A live reader with an empty queue has seen everything that was passed on: move its cursor there."""
        if not self.behind and self.queue.empty():
            passed_on = self._window if self.pace is None else self.pace
            self.cursor = max(self.cursor, passed_on.position)

    def beat(self, now: float) -> None:
        """Send a sign of life if nothing was sent for the time that the heartbeat allows."""
        if now - self._quiet_since < self._patience:
            return
        outlet = self._outlet
        if self.behind:
            if outlet is not None and not self._blocked and self._reading is not None:  # the log is slow to answer
                self._write(outlet, [self._sign_of_life()], now)
            return
        if not self.queue.empty():
            return
        self._quiet_since = now
        self.note_position()
        id = self._log.id_at(self.cursor)
        self.queue.put_nowait(control.moved(id) if self.cursor > self._told else Heartbeat(id))
        self._told = self.cursor
        self.wake()

    def end(self, reason: Reason, retry: int | None = None) -> None:
        """Send `feed.closing` and end the stream. What waits in the queue is not lost: the client resumes `retry`
        milliseconds later."""
        if self._end is None:
            self.reason = reason
            self._end = control.closing(reason, self._limits.retry_after(reason) if retry is None else retry)
            self._stop_reading()  # a reader must not go on waiting for a log that cannot be reached
            self._clear()
            self.queue.put_nowait(self._end)
            self.wake()

    # Called by the owner, to take what comes.

    async def take(self) -> Sequence[Item]:
        """Wait for what comes next, and take all of it. After `feed.closing` nothing comes: the sequence is empty.

        Safe to cancel: what was not returned is still there.
        """
        items: Sequence[Item] | None
        if self._opening:
            items, self._opening = self._opening, []
            return items
        while not self.closed:
            if self._end is not None:
                self.closed = True
                return [self._end]
            if self.behind:
                items = self._catch_up()
                if items is None:
                    items = await self._wait_for_page()
                elif not items:
                    await asyncio.sleep(0)  # a reader that wants few of many events must not hold up the others
            else:
                items = self._drain(await self.queue.get())
            if items:
                self._quiet_since = asyncio.get_running_loop().time()
                return items
        return []

    def close(self) -> None:
        """Let go of everything; the owner needs the subscription no more."""
        self.closed = True
        self._outlet, self._awake = None, True
        self._clear()
        self._stop_reading()
        self._note_replay()

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> Event | Gap:
        """Return the next event, or a `Gap` where events may be missing. The iteration ends when the feed is closed.

        Raises `FeedUnavailable` when the stream ends for another reason.
        """
        while True:
            while self._handed:
                item = self._handed.pop()
                if isinstance(item, Placed):
                    return item.event
                if isinstance(item, (Event, Gap)):
                    return item
            self._handed = list(reversed(await self.take()))
            if not self._handed:
                if self.reason not in (None, "shutdown"):
                    raise FeedUnavailable(f"the feed ended this stream ({self.reason}): subscribe again to go on")
                raise StopAsyncIteration

    def announce_gap(self, requested: str, reason: Literal["expired", "unknown"]) -> None:
        """Begin the stream with a gap: it cannot continue where the client asked."""
        id = self._id_here()
        self._note_gap(reason)
        self._opening.append(control.gap(requested, id, reason))
        if self._latest is None:
            self._expect_losses_beyond(id)

    # Called by the owner, to let it flow.

    def flow_into(self, outlet: Outlet, encoder: Encoder) -> None:
        """From now on the pump writes what comes to `outlet`, encoded by `encoder`, until `close`."""
        self._outlet = outlet
        self._encoder = encoder
        self._awake = False
        opening, self._opening = self._opening, []
        self._write(outlet, opening, asyncio.get_running_loop().time())
        self.wake()

    def wake(self) -> None:
        """Let the pump flush this subscription: something waits."""
        if not self._awake:
            self._awake = True
            if self._replayed is None:
                self._pump.wake(self)
            else:
                self._pump.wake_replay(self)

    def block(self) -> None:
        """Write nothing for now: the outlet has taken enough."""
        self._blocked = True

    def unblock(self) -> None:
        """Write again."""
        self._blocked = False
        self.wake()

    def flush(self, now: float) -> int:
        """Write what waits, as much as the outlet takes. Called by the pump."""
        self._awake = False
        outlet = self._outlet
        if self._blocked or outlet is None:
            return 0
        if self._end is not None:
            self._write(outlet, [self._end], now)
            self.closed, self._outlet = True, None
            outlet.finish(self.reason)
            return 0
        if self.behind:
            items = self._catch_up()
            if items is None:
                return 0  # the page wakes this subscription when it is there
            size = self._write(outlet, items, now) if items else 0
            self.wake()
            return size
        if self.queue.empty():
            return 0
        size = self._queued_bytes
        first = self.queue.get_nowait()
        if isinstance(first, Batch) and first.count == self._queued_events:  # the queue held this batch only
            self.events += self._queued_events
            self._queued_events = self._queued_bytes = 0
            self.cursor = self._told = first.last
            self._quiet_since = now
            written, sent = first.chunk(self._encoder)
            self.sent += sent
            outlet.write(written)
        elif items := self._drain(first):
            self._write(outlet, items, now)
        return size

    def break_off(self) -> None:
        """End without `feed.closing`."""
        outlet, self.closed, self._outlet = self._outlet, True, None
        if outlet is not None:
            outlet.finish(None)

    def _write(self, outlet: Outlet, items: Sequence[Item], now: float) -> int:
        self._quiet_since = now
        written, sent = self._encoder(items)
        self.sent += sent
        outlet.write(written)
        return sent

    # From the log to the queue.

    def _drain(self, first: Entry) -> list[Item]:
        """Empty the queue and return its items; none of them if the reader has fallen behind or is ending."""
        items: list[Item] = []
        entry = first
        while True:
            if isinstance(entry, Batch):
                items += entry.events
            else:
                items.append(entry)
            if self.queue.empty():
                break
            entry = self.queue.get_nowait()
        count, self._queued_events, self._queued_bytes = self._queued_events, 0, 0
        if self._end is not None or self.behind:
            return []  # the entries only served to wake this reader
        self.events += count
        last = items[-1]
        if isinstance(last, Event):
            self.cursor = self._told = last.seq
        return items

    def _catch_up(self) -> Sequence[Item] | None:
        """Return the next page that the reader missed, or turn live. None while a page is being read from the log."""
        if self._latest is not None:
            return self._catch_up_on_state(self._latest)
        reading = self._reading
        if reading is None:
            if self._losses and self.cursor >= self._losses[0].stop:
                return [self._tell_loss()]
            oldest = self._log.oldest
            if self.cursor + 1 < oldest and not self._log.classes:
                return [self._gap(oldest - 1)]
            if self.cursor >= self._window.position:
                since = self._gap_after
                return self._turn_live() if since is None else [self._gap_between(since, self.cursor, self._taken)]
            page = None
            if not self._losses:
                page = self._state.page(self.cursor, self.selection, _PAGE_EVENTS)
            if page is None:
                self._reading = asyncio.ensure_future(self._read_page())
                self._reading.add_done_callback(lambda _: self.wake())
                self._from_log = True
                return None
        elif reading.done():
            self._reading = None
            page = cast("Page", reading.result())
        else:
            return None
        return self._hand_on(page)

    def _hand_on(self, page: Page) -> Sequence[Item]:
        """Return what the reader gets of a page, after a gap where events are gone, and move the cursor."""
        if page.start > self.cursor:
            return [self._gap(page.start)]
        if page.taken > max(self.cursor, self._taken) and self._gap_after is None:
            self._gap_after = self.cursor
        gap = None
        if page.events and (since := self._gap_after) is not None:
            gap = self._gap_between(since, page.events[0].seq - 1, page.taken)
        self.cursor = page.end
        if page.events:
            self._told = page.events[-1].seq
            self.events += len(page.events)
            if self._replayed is not None:
                self._replayed += len(page.events)
        return page.events if gap is None else [gap, *page.events]

    def _turn_live(self) -> Sequence[Item]:
        # No `await` between the caller's check and the change: the next event that is passed on goes into the queue.
        self.behind = False
        self._clear()
        replayed, id = self._note_replay(), None
        if self._latest is not None:
            self._told, id = self.cursor, self._log.id_at(self.cursor)
        return [] if replayed is None else [control.live(replayed, id)]

    def _catch_up_on_state(self, latest: Latest) -> Sequence[Item] | None:
        """The same for a reader of state, which goes in rounds (see `feed.latest`)."""
        reading = self._reading
        if reading is None:
            if self.cursor > latest.place.cursor:  # it was live meanwhile
                latest.move_to(self.cursor)
            self._state.forget_old()
            if self._losses:
                loss, self._losses = self._losses[0], ()
                return [self._begin_state_anew(latest, loss.requested, "unknown")]
            if latest.has_lost():
                return [self._begin_state_anew(latest, self._id_here(), "expired")]
            if not latest.is_behind(self._window.position):
                return self._turn_live()
            page = latest.page_in_memory(self._window)
            if page is None:
                self._reading = asyncio.ensure_future(self._read_state(latest))
                self._reading.add_done_callback(lambda _: self.wake())
                self._from_log = True
                return None
        elif reading.done():
            self._reading = None
            page = cast("StatePage", reading.result())
            if latest.has_lost():  # what was read is good, but others are gone
                return [self._begin_state_anew(latest, self._id_here(), "expired")]
        else:
            return None
        self.cursor = page.end
        self.events += len(page.events)
        if self._replayed is not None:
            self._replayed += len(page.events)
        as_of, log = latest.place.as_of, self._log
        return [
            event if place == event.seq and place >= as_of else Placed(event, resume_id(log, Place(place, as_of)))
            for event, place in page.events
        ]

    def _begin_state_anew(self, latest: Latest, requested: str, reason: Literal["expired", "unknown"]) -> Gap:
        latest.begin_anew(self._window.position)
        self.cursor = 0
        self._replayed = 0
        self._note_gap(reason)
        return control.gap(requested, self._id_here(), reason)

    async def _read_state(self, latest: Latest) -> StatePage:
        """Read the next page of the state. While the log cannot be read the stream stays open, and the read is
        repeated."""
        while True:
            try:
                async with self._replays:
                    return await latest.page(self._log, self._window)
            except FeedUnavailable:
                await asyncio.sleep(random.uniform(*_READ_AGAIN))

    def _note_replay(self) -> int | None:
        """If there was a replay it is over: return how many events it had."""
        replayed, self._replayed = self._replayed, None
        if replayed is not None and not self._is_poll:
            self._pump.counters.replays["log" if self._from_log else "window"].observe(replayed)
        return replayed

    def _note_gap(self, reason: Literal["expired", "unknown"]) -> None:
        if not self._is_poll:
            self._pump.counters.gaps[reason] += 1

    @property
    def _is_poll(self) -> bool:
        """Whether this reader is a long poll: it only waits for the first event; what counts is the page that answers
        it."""
        return self.peer.transport == "poll"

    async def _read_page(self) -> Page:
        """Read the next page of the log. While the log cannot be read the stream stays open, and the read is
        repeated."""
        until = self._losses[0].stop if self._losses else self._window.position
        while True:
            try:
                async with self._replays:
                    return await read_on(self._log, self.cursor, until, self.selection, _PAGE_EVENTS)
            except FeedUnavailable:
                await asyncio.sleep(random.uniform(*_READ_AGAIN))

    def _stop_reading(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None and not reading.cancel() and not reading.cancelled():
            reading.exception()  # retrieved, so that asyncio does not log it: nobody needs this page any more

    async def _wait_for_page(self) -> Sequence[Item]:
        """Wait for the log, but no longer than the client may be without a sign of life."""
        if self._reading is None:
            return ()
        done, _ = await asyncio.wait([self._reading], timeout=self._patience)
        return () if done else [self._sign_of_life()]

    def _gap(self, position: int) -> Gap:
        before, self.cursor, self._told = self.cursor, position, position
        self._note_gap("expired")
        return control.gap(self._log.id_at(before), self._log.id_at(position), "expired")

    def _gap_between(self, since: int, position: int, taken: int) -> Gap:
        """Tell that events are gone beyond `since`. The reader goes on at `position`, before the next event that it
        gets. Of what was taken up to `taken` it need not be told again."""
        self._gap_after, self._told, self._taken = None, position, max(self._taken, taken)
        self._note_gap("expired")
        return control.gap(self._log.id_at(since), self._log.id_at(position), "expired")

    def _tell_loss(self) -> Gap:
        loss, *rest = self._losses
        self._losses = tuple(rest)
        self._told = self.cursor
        self._note_gap("unknown")
        return control.gap(loss.requested, self._log.id_at(self.cursor), "unknown")

    def _expect_losses_beyond(self, id: str) -> None:
        """The reader continues after this id: tell it of later losses when it comes to where they happened."""
        self._losses = tuple(_Loss(loss.position, loss.before) for loss in self._log.losses_beyond(id))

    def _clear(self) -> Entry | None:
        first = None
        while not self.queue.empty():
            entry = self.queue.get_nowait()
            first = first or entry
        self._queued_events = self._queued_bytes = 0
        return first
