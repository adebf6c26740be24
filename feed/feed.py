"""The feed: publish into the log, follow the log into the broadcaster, subscribe without a seam.

One event goes straight through: `Feed.publish` → `Log.append`, where it gets its id → `Log.follow` → the one relay
task → `Broadcaster.push` → the queue of each subscription that wants it. What this process published and what came
from elsewhere take the same road.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from functools import lru_cache
from types import TracebackType
from typing import Literal

import msgspec

from feed import control
from feed.backoff import Backoff, Reminder
from feed.broadcaster import Broadcaster, Queues
from feed.control import Gap
from feed.errors import Draining, FeedError, FeedUnavailable, Invalid, LogRefused, Overloaded, TooLarge
from feed.event import DEFAULT_TYPE, Draft, Event, check_pattern, check_type, event_size, value_draft
from feed.figures import Delivered, Figures, Histogram, transport_of
from feed.from_thread import FromThread
from feed.log import Appended, IdempotencyKey, Log, Page, Retention, is_shared, open_log, without_password
from feed.log.contract import FileBytes, LogLost, Loss, Retained
from feed.log.paging import read_back, read_on, runs
from feed.log.window import Window
from feed.pattern import EVERYTHING, Selection
from feed.peer import Peer
from feed.subscription import Limits, Subscription
from feed.survey import Subscribers, Survey
from feed.turnstile import Turnstile

logger = logging.getLogger(__name__)

EARLIEST = "earliest"
"""Instead of an id: from the oldest retained event on."""

MAX_PATTERNS = 100
"""What may be asked for in one subscription, unless the options say less."""

MAX_SEGMENTS = 1_000
"""Of all patterns with wildcards of one subscription: each is a node to be looked at for topics that begin like it."""

MAX_LAST = 1_000
MAX_BATCH = 10_000

_MAX_BACKLOG = 0.5  # of a queue: what may be passed on while the pump is still busy with what was passed on before
_MAX_HELD_BYTES = 64 << 20  # of publishes that wait until others have been passed on
_ENTER = 50  # subscriptions that begin in one turn of the event loop
_BEAT = 0.5  # seconds between two looks for streams that are quiet, or whose right to read has ended
_PAGE_BYTES = 1 << 20  # of a page of history
_LOOKING_BACK = 1_000  # who ask for a page of history, or for the newest events, at once


class FeedOptions(msgspec.Struct, frozen=True):
    """How much of everything. Sizes are in bytes.

    `node` is what this process is called among those that share the log; unless said, host and process number.
    Subscribers are counted in one process; by address, as `feed.peer.counted_as` says. `max_patterns` is for each
    subscription, 100 at most. `max_replays` is how many pages of the log are read at once for those who look back; all
    others wait for their turn, which comes after each page.
    """

    node: str = ""

    max_data: int = 256 * 1024
    window_events: int = 10_000
    window_bytes: int = 32 << 20
    max_subscribers: int | None = None
    max_subscribers_per_address: int | None = None
    max_patterns: int = MAX_PATTERNS
    max_replays: int = 4
    retention: Retention = Retention()
    limits: Limits = Limits()


class HistoryPage(msgspec.Struct, frozen=True):
    """Past events, oldest first. `next` is the position scanned to: reading goes on there, also if there are none."""

    events: Sequence[Event]
    next: str
    gap: Gap | None = None


class Feed:
    """A feed on the log that `log` names: `memory:`, `sqlite:PATH` or `redis://HOST:PORT/DB?stream=NAME`.

    It opens at `async with`, which also closes it, or else at its first use; where Redis is not there yet it goes on
    trying, and raises `FeedUnavailable` meanwhile. Several may hold it by `async with`: the last one out closes it. It
    belongs to one event loop; from other threads see `from_thread`.

    `log` is the URL as it was given. `figures` is what the feed has counted since it was made.
    """

    def __init__(self, log: str, options: FeedOptions = FeedOptions()) -> None:  # noqa: B008  immutable
        self.options = options
        self.draining = False
        self._drained_at = 0.0  # by the monotonic clock: when its readers are back, here or elsewhere
        self.figures = Figures()
        self.log = log
        self.from_thread = FromThread(self)
        self._holders = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._held_bytes = 0
        self._past_reconnects = 0  # while it was open before
        self._past_commits = Histogram()
        self._entrance = Turnstile(_ENTER)
        self._start: asyncio.Task[_Running] | None = None
        self._tried = asyncio.Event()
        self._end: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Feed:
        while self._end is not None:
            await asyncio.shield(end := self._end)
            if self._end is end:  # else somebody else has opened it again meanwhile
                self._end, self.draining = None, False
        self._holders += 1
        try:
            with contextlib.suppress(FeedUnavailable):  # it is tried again, and what needs the log says so meanwhile
                await self._opened()
        except BaseException:
            self._holders -= 1
            if not self._holders:
                self._close_in_background()  # cancelled, it may still be opening
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holders -= 1
        if not self._holders:
            await self.close()

    async def _opened(self) -> _Running:
        if (running := self._running_now()) is not None:
            return running
        if self._start is None:
            self._tried = asyncio.Event()
            self._loop = asyncio.get_running_loop()
            self._start = asyncio.create_task(self._begin(self._tried), name="feed-start")
        start = self._start
        await self._tried.wait()
        if not start.done():
            raise FeedUnavailable("the log cannot be reached yet")
        try:
            return start.result()
        except Exception:
            if self._start is start:
                self._start = None  # the next use tries again
            raise

    async def _begin(self, tried: asyncio.Event) -> _Running:
        """Open the log. If its server is not there yet say so by `tried`, and in the log once a minute, and go on
        trying."""
        backoff, reminder = Backoff(), Reminder()
        what = "Redis" if is_shared(self.log) else "the log"
        try:
            while True:
                try:
                    running = await _Running.start(self.log, self.options, self.figures)
                except FeedUnavailable as error:
                    tried.set()
                    if reminder.is_due(str(error)):
                        logger.warning("waiting for %s, %s: %s", what, without_password(self.log), error)
                else:
                    if tried.is_set():
                        logger.warning("%s is there", what)
                    return running
                await asyncio.sleep(backoff.next())
        finally:
            tried.set()

    async def _running(self) -> _Running:
        """The opened log and all that runs on it. Raises `FeedUnavailable`."""
        if self._end is not None:
            raise FeedUnavailable("the feed is closed")
        try:
            return await self._opened()
        except LogRefused as error:
            # Only who opens the feed with `async with` is told the details: others may be anybody.
            logger.error("%s", error)
            raise FeedUnavailable("the log cannot be opened", 30) from error

    def _running_now(self) -> _Running | None:
        start = self._start
        if start is None or not start.done() or start.cancelled() or start.exception() is not None:
            return None
        return start.result()

    def drain(self) -> None:
        """Let every stream say `feed.closing` and end, and take on no new ones. Publishing goes on.

        Their clients are told to come back spread over `Limits.drain` seconds.
        """
        if not self.draining:
            self.draining = True
            self._drained_at = time.monotonic() + self.options.limits.drain
        if (running := self._running_now()) is not None:
            running.broadcaster.drain(self.options.limits)

    async def close(self) -> None:
        """End all streams, commit what waits, and let the log go. To do so twice does no harm, and both wait for it;
        cancelled, it goes on."""
        await asyncio.shield(self._close_in_background())

    def _close_in_background(self) -> asyncio.Task[None]:
        if self._end is None:
            self.drain()
            self._end = asyncio.create_task(self._stop())
        return self._end

    async def _stop(self) -> None:
        start, self._start = self._start, None
        if start is not None:
            if not start.done() and self._tried.is_set():
                start.cancel()  # it waits for a server that is not there
            # That it could not be opened was told to those who waited for it.
            with contextlib.suppress(FeedError, asyncio.CancelledError):
                running = await start
                running.broadcaster.drain(self.options.limits)
                await running.stop()
                self._past_reconnects += running.log.reconnects
                self._past_commits.add(running.log.commits)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop it was opened in; None before it is opened for the first time, and once it is closed."""
        return None if self._end is not None else self._loop

    @property
    def subscribers(self) -> int:
        """How many streams are open."""
        running = self._running_now()
        return 0 if running is None else len(running.broadcaster)

    @property
    def subscribers_by_transport(self) -> dict[str, int]:
        """The same, each transport by itself. This looks at each of them, as do the next two."""
        running = self._running_now()
        found = dict.fromkeys(self.figures.subscribed, 0)
        for subscription in () if running is None else running.broadcaster:
            found[transport_of(subscription.peer.transport)] += 1
        return found

    @property
    def delivered(self) -> dict[str, Delivered]:
        """How many events, and bytes of body, were handed to connections since the feed was made, by transport; and as
        pages of history. A long poll counts as the page that it is answered with."""
        running = self._running_now()
        found = {name: Delivered(past.events, past.bytes) for name, past in self.figures.delivered.items()}
        for subscription in () if running is None else running.broadcaster:
            found[transport_of(subscription.peer.transport)].add(subscription.events, subscription.sent)
        del found["poll"]
        return found

    @property
    def queues(self) -> Queues:
        """What waits in the queues of the streams that are open, and how many of those are behind. This looks at each
        of them: 15,000 take a millisecond."""
        running = self._running_now()
        return Queues(0, 0, 0) if running is None else running.broadcaster.queues

    @property
    def retained(self) -> Retained | None:
        """How much the log holds, as far as it is known here; None while the log is not open."""
        running = self._running_now()
        return None if running is None else running.log.retained

    @property
    def oldest_time(self) -> int | None:
        """When the log's oldest event was committed, in milliseconds since 1970, as far as it is known here; None if
        there is none, and while the log is not open."""
        running = self._running_now()
        return None if running is None else running.log.oldest_time

    @property
    def commits(self) -> Histogram:
        """How long the log's commits took, in seconds, since the feed was made."""
        commits = Histogram()
        commits.add(self._past_commits)
        if (running := self._running_now()) is not None:
            commits.add(running.log.commits)
        return commits

    @property
    def file_bytes(self) -> FileBytes | None:
        """How large the log's files are, 0 for a log without them; None while it is not open. Looks at the disk."""
        running = self._running_now()
        return None if running is None else running.log.file_bytes

    @property
    def position(self) -> int:
        """The seq of the log's newest event, as far as it is known here; 0 before the first one, and while the log is
        not open."""
        running = self._running_now()
        return 0 if running is None else running.log.position

    @property
    def lag(self) -> int:
        """How many events are known to be in the log, and not passed on to the subscriptions here yet."""
        running = self._running_now()
        return 0 if running is None else max(0, running.log.position - running.broadcaster.window.position)

    @property
    def reconnects(self) -> int:
        """How often the log's follower has lost its server and found it again, since the feed was made."""
        running = self._running_now()
        return self._past_reconnects + (0 if running is None else running.log.reconnects)

    async def check(self) -> None:
        """Raises `FeedUnavailable` if the log does not answer, or what it holds is not passed on. Whether there is room
        for an event, publishing tells."""
        running = await self._running()
        await running.log.check()
        if running.relay_fails and self.lag:
            raise FeedUnavailable("events are not passed on now")

    # Publishing.

    async def publish(self, topic: str, data: object, *, type: str = DEFAULT_TYPE, key: str | None = None) -> str:
        """Commit one event, and give its id. A `str` is text, any other value is published as JSON.

        `key` makes it safe to repeat: for 24 hours the same publish with the same key gives the first id again.

        Raises `Invalid`, `Malformed` and `TooLarge` for what the caller has to change, `FeedUnavailable` if the log
        cannot take it. In each case nothing was published.
        """
        drafts = [value_draft(topic, data, type)]
        return (await self.append(drafts, idempotency_key("", key, drafts) if key is not None else None)).ids[0]

    async def publish_all(self, drafts: Sequence[Draft], *, key: str | None = None) -> list[str]:
        """Commit several events, made by `draft`, whole or not at all and in this order, and give their ids. Raises
        what `publish` raises."""
        return (await self.append(drafts, None if key is None else idempotency_key("", key, drafts, "batch"))).ids

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """Commit a batch, whole and in order. Raises what `publish` raises."""
        if not drafts:
            raise Invalid("batch", "holds no event")
        if len(drafts) > MAX_BATCH:
            raise Invalid("batch", f"may hold {MAX_BATCH:,} events at most, not {len(drafts):,}")
        size = 0
        for draft in drafts:
            if draft.data_bytes > self.options.max_data:
                raise TooLarge("data", self.options.max_data)
            size += draft.data_bytes
        running = await self._running()
        if running.broadcaster.pump.busy:
            await self._wait_for_readers(running, drafts)
        appended = await running.log.append(drafts, key)
        figures = self.figures
        if appended.repeated:
            figures.publishes["repeated"] += 1
        else:
            figures.publishes["created"] += 1
            figures.published += appended.count
            figures.published_bytes += size
        return appended

    async def _wait_for_readers(self, running: _Running, drafts: Sequence[Draft]) -> None:
        size = sum(event_size(draft.topic, draft.type, draft.data) for draft in drafts)
        if self._held_bytes and self._held_bytes + size > _MAX_HELD_BYTES:
            raise Overloaded("more is being published than can be passed on to the subscribers")
        self._held_bytes += size
        try:
            await running.broadcaster.pump.admit()
        finally:
            self._held_bytes -= size

    # Subscribing.

    @contextlib.asynccontextmanager
    async def subscribe(
        self, *patterns: str, types: Iterable[str] = (), after: str | None = None, last: int | None = None
    ) -> AsyncIterator[Subscription]:
        """A stream of events, for as long as the block lasts: `async with feed.subscribe("orders/*") as events`.

        It begins after the id `after` (`EARLIEST`: with the oldest retained event), or with the newest `last` ones,
        else with what is published from now on. Iterating gives `Event`s, and a `Gap` where events may be missing;
        it ends when the feed is closed. Raises `Invalid` for a bad pattern or type.
        """
        subscription = await self.attach(self.select(patterns, types), after=after, last=last)
        try:
            yield subscription
        finally:
            self.detach(subscription)

    def select(self, patterns: Sequence[str], types: Iterable[str] = ()) -> Selection:
        """What one subscription asks for. Raises `Invalid` for none, too many, or a bad pattern or type."""
        return select(patterns, types, self.options.max_patterns)

    async def attach(
        self,
        selection: Selection,
        *,
        after: str | None,
        last: int | None,
        peer: Peer = Peer(),  # noqa: B008  immutable
    ) -> Subscription:
        """What `subscribe` does at the beginning of its block, for callers whose stream is not a block of code."""
        await self._entrance.enter()
        running = await self._running()
        log, window = running.log, running.broadcaster.window
        cursor, gap = None, None
        check_last(last)
        self._check_room(running, peer)
        with running.without_loss():
            if after is not None:
                cursor, gap = await running.resume_at(after)
            elif last is not None:
                with running.looking_back():
                    cursor = await running.before_last(selection, last)
        # From here to `register` there is no `await`: what is committed after the position was taken is passed on.
        if self.draining:
            left = self._drained_at - time.monotonic()
            raise Draining("this server is being stopped", max(1, math.ceil(left)))
        self._check_room(running, peer)
        replay = cursor is not None
        if cursor is None:
            cursor = max(log.position, window.position)
        broadcaster = running.broadcaster
        limits = self.options.limits
        resumed = after if gap is None and after != EARLIEST else None
        subscription = Subscription(
            log,
            window,
            broadcaster.pump,
            selection,
            limits,
            peer,
            running.replays,
            cursor=cursor,
            replay=replay,
            resumed=resumed,
        )
        if gap is not None and after is not None:
            subscription.announce_gap(after, gap)
        broadcaster.register(subscription)
        return subscription

    def _check_room(self, running: _Running, peer: Peer) -> None:
        broadcaster, options = running.broadcaster, self.options
        if options.max_subscribers is not None and len(broadcaster) >= options.max_subscribers:
            raise FeedUnavailable("this server holds as many subscribers as it may")
        most = options.max_subscribers_per_address
        if most is not None and broadcaster.count_of(peer.address) >= most:
            raise FeedUnavailable("this address has as many subscribers here as it may")

    def detach(self, subscription: Subscription) -> None:
        """Let go of a subscription, and note why it has ended. To do so twice does no harm."""
        if subscription.ended is None:
            broken = subscription.closed and subscription.reason is None
            subscription.ended = "error" if broken else subscription.reason or "client"
            figures, transport = self.figures, transport_of(subscription.peer.transport)
            figures.ended[subscription.ended] += 1
            figures.delivered[transport].add(subscription.events, subscription.sent)
        subscription.close()
        if (running := self._running_now()) is not None:
            running.broadcaster.unregister(subscription)

    # Looking around.

    async def subscribers_everywhere(self, *, after: str = "", limit: int = 100) -> Subscribers:
        """Who listens now, on all nodes: the first `limit` whose id comes after `after`. Raises `FeedUnavailable`."""
        return await (await self._running()).survey.subscribers(after, limit)

    async def kick(self, id: str) -> bool:
        """End a subscription, on whichever node it is. Whether there was one; it may come back.

        Raises `FeedUnavailable` if nobody had it, and some node did not answer.
        """
        ended, silent = await (await self._running()).survey.end(id)
        if not ended and silent:
            raise FeedUnavailable(f"these nodes did not answer: {', '.join(silent)}")
        return ended

    # Looking back.

    async def history(
        self,
        selection: Selection,
        *,
        limit: int = 100,
        after: str | None = None,
        before: str | None = None,
        last: int | None = None,
        since: int | None = None,
    ) -> HistoryPage:
        """A page of past events, at most `limit`, from one of: the end backwards from the id `before`; forward after
        the id `after`; the newest `last`; what was committed at `since` (milliseconds since 1970) or later; else
        the oldest retained.

        A page may be shorter than `limit` although there is more: it ends at 1 MiB. Raises `FeedUnavailable`, also
        when too many ask at once.
        """
        running = await self._running()
        log = running.log
        check_last(last)
        with running.looking_back(), running.without_loss():
            if before is not None:
                return await running.page_before(selection, before, limit)
            gap = None
            if after is not None:
                cursor, gap = await running.resume_at(after)
            elif last is not None:
                cursor = await running.before_last(selection, last)
            elif since is not None:
                async with running.replays:
                    cursor = await log.before_time(since)
            else:
                cursor = log.oldest - 1
            found = None if gap is None or after is None else control.gap(after, log.id_at(cursor), gap)
            losses = log.losses_beyond(after) if after is not None and gap is None else ()
            return await running.page_after(selection, cursor, limit, found, losses)


class _Running:
    """A feed that is open: its log, its broadcaster, and the two tasks that serve all streams."""

    def __init__(self, log: Log, broadcaster: Broadcaster, options: FeedOptions) -> None:
        self.log = log
        self.broadcaster = broadcaster
        self.survey = Survey(options.node, log, broadcaster)
        self.replays = asyncio.Semaphore(options.max_replays)
        self.relay_fails = False
        self._limits = options.limits
        self._looking_back = 0
        log.answer_others(self.survey.answer)
        self._tasks = [
            asyncio.create_task(self._relay(), name="feed-relay"),
            asyncio.create_task(self._beat(), name="feed-beat"),
        ]

    @classmethod
    async def start(cls, url: str, options: FeedOptions, figures: Figures) -> _Running:
        options = msgspec.structs.replace(options, node=options.node or f"{socket.gethostname()}:{os.getpid()}")
        log = await open_log(url, options.retention, options.node)
        try:
            return cls(log, Broadcaster(await _newest(log, options), figures), options)
        except BaseException:
            await log.close()
            raise

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.log.close()

    async def _relay(self) -> None:
        """Pass on what the log commits. Whatever goes wrong, it goes on where it was: a feed whose relay is dead looks
        well and is silent."""
        window = self.broadcaster.window
        backoff = Backoff()
        while True:
            try:
                async for batch in self.log.follow(window.position):
                    await self._pass_on(batch)
                    self.relay_fails = False
                    backoff.reset()
            except LogLost as lost:
                logger.error("the log has lost events: %s; all subscribers are told", lost)
                self.broadcaster.lose(lost)
                continue
            except Exception:
                self.relay_fails = True
                logger.exception("the relay stopped at %d; it goes on from there", window.position)
                self.broadcaster.distrust()
            await asyncio.sleep(backoff.next())

    async def _pass_on(self, batch: Sequence[Event]) -> None:
        """In portions: a fan-out to thousands must not hold up publishes and other streams, and one portion has to fit
        into a queue."""
        broadcaster, pump, limits = self.broadcaster, self.broadcaster.pump, self._limits
        for portion in _portions(batch, limits):
            if portion[0].seq > broadcaster.window.position + 1:
                broadcaster.skip_to(portion[0].seq - 1)
            while pump.backlog > _MAX_BACKLOG:
                await asyncio.sleep(0)  # the pump works in each turn of the loop
            pump.passed += max(
                len(portion) / limits.queue_events, sum(event.size for event in portion) / limits.queue_bytes
            )
            broadcaster.push(portion)
            pump.carry(portion[0].time)
            if len(portion) < len(batch):
                await asyncio.sleep(0)

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_BEAT)
            today = time.time()
            for count, subscription in enumerate(list(self.broadcaster), 1):
                try:
                    if subscription.peer.expires <= today:
                        subscription.end("token-expired")
                    subscription.beat(loop.time())
                except Exception:
                    logger.exception("a stream had no heartbeat; the next one comes")
                if count % 1_000 == 0:
                    await asyncio.sleep(0)

    @contextlib.contextmanager
    def looking_back(self) -> Iterator[None]:
        """Raises `FeedUnavailable` if too many look back already: pages are read in turn, and each would take long."""
        if self._looking_back >= _LOOKING_BACK:
            raise FeedUnavailable("too many ask for past events at once")
        self._looking_back += 1
        try:
            yield
        finally:
            self._looking_back -= 1

    @contextlib.contextmanager
    def without_loss(self) -> Iterator[None]:
        """Raises `FeedUnavailable` at its end if the log has lost events meanwhile: a position found before that does
        not mean now what it meant."""
        losses = self.broadcaster.losses
        yield
        if self.broadcaster.losses != losses:
            raise FeedUnavailable("the log has changed meanwhile")

    async def resume_at(self, after: str) -> tuple[int, Literal["expired", "unknown"] | None]:
        """The position to go on from for somebody who asks for what comes after the id `after`, and why it is not
        just that, if it is not."""
        if after == EARLIEST:
            return self.log.oldest - 1, None
        position = await self.log.locate(after)
        if position is None:
            return self.log.oldest - 1, "unknown"
        if position + 1 < self.log.oldest:
            return self.log.oldest - 1, "expired"
        return position, None

    async def before_last(self, selection: Selection, count: int) -> int:
        """The position after which the newest `count` wanted events are, or all that are retained if there are
        fewer."""
        position, before = self.log.position, self.log.position + 1
        while before > self.log.oldest:
            page = await self._page_backward(before, selection, count)
            count -= len(page.events)
            if page.events:
                position = page.events[0].seq - 1
            if count <= 0:
                break
            before = page.start + 1
        return position

    async def _page(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """`Log.read`, from memory where it reaches, in its turn."""
        async with self.replays:
            window = self.broadcaster.window
            window.drop_before(self.log.oldest)
            page = window.page(after, selection, limit)
            if page is None or page.end == after or page.end > until:
                return await read_on(self.log, after, until, selection, limit)
            await asyncio.sleep(0)  # many pages in a row must not hold up everybody else
            return page

    async def _page_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """`Log.read_backward`, from memory where it reaches, in its turn."""
        async with self.replays:
            window = self.broadcaster.window
            window.drop_before(self.log.oldest)
            page = window.page_backward(before, selection, limit)
            if page is None:
                return await read_back(self.log, before, selection, limit)
            await asyncio.sleep(0)
            return page

    async def page_after(
        self, selection: Selection, cursor: int, limit: int, gap: Gap | None, losses: Sequence[Loss]
    ) -> HistoryPage:
        log, until = self.log, self.log.position
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
        return self._counted(HistoryPage(events, next_id, gap))

    async def page_before(self, selection: Selection, before: str, limit: int) -> HistoryPage:
        log, gap = self.log, None
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
        return self._counted(HistoryPage(events, log.id_at(min(position, log.position)), gap))

    def _counted(self, page: HistoryPage) -> HistoryPage:
        if page.gap is not None:
            self.broadcaster.figures.gaps[page.gap.reason] += 1
        return page


def _portions(events: Sequence[Event], limits: Limits) -> Iterator[Sequence[Event]]:
    """The events in runs without a hole that each fit into half a queue, or are one event."""
    for run in runs(events):
        start, size = 0, 0
        for place, event in enumerate(run):
            size += event.size
            if place > start and (place - start >= limits.queue_events // 2 or size > limits.queue_bytes // 2):
                yield run[start:place]
                start, size = place, event.size
        yield run[start:] if start else run


async def _newest(log: Log, options: FeedOptions) -> Window:
    """The log's newest events, so that readers who come back right after a start do not read the disk either."""
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


def select(patterns: Sequence[str], types: Iterable[str] = (), most: int = MAX_PATTERNS) -> Selection:
    """What a subscriber asks for. Raises `Invalid` for none, more than `most`, or a bad pattern or type."""
    if not patterns:
        raise Invalid("pattern", "is missing: name a topic, or ** for everything")
    if isinstance(types, str):
        types = [types]
    if len(patterns) > most:
        raise Invalid("pattern", f"at most {most} may be given, not {len(patterns)}")
    if sum(pattern.count("/") + 1 for pattern in patterns if "*" in pattern) > MAX_SEGMENTS:
        raise Invalid("pattern", f"those with * or ** may have {MAX_SEGMENTS:,} segments in sum")
    return _selection(tuple(patterns), tuple(types))


@lru_cache(maxsize=1024)  # so that many readers of the same share it
def _selection(patterns: tuple[str, ...], types: tuple[str, ...]) -> Selection:
    return Selection([check_pattern(pattern) for pattern in patterns], [check_type(name) for name in types])


def check_last(last: int | None) -> None:
    """Raises `Invalid` for a `last` that cannot be given."""
    if last is not None and not 1 <= last <= MAX_LAST:
        raise Invalid("last", f"is a whole number from 1 to {MAX_LAST:,}")


def idempotency_key(principal: str, key: str, drafts: Sequence[Draft], form: str = "") -> IdempotencyKey:
    """The key under which these drafts are published once. `form` tells requests apart whose events are the same.

    Raises `Invalid` for what is not 1 to 255 visible ASCII characters.
    """
    if not 1 <= len(key) <= 255 or not all("!" <= character <= "~" for character in key):
        raise Invalid("Idempotency-Key", "is 1 to 255 visible ASCII characters")
    digest = hashlib.sha256(form.encode())
    for draft in drafts:
        for part in (draft.topic, draft.type, "json" if draft.is_json else "text", draft.data):
            encoded = part.encode()
            digest.update(b"%d:" % len(encoded))
            digest.update(encoded)
    return IdempotencyKey(principal, key, digest.digest())
