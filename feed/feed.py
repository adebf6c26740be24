"""The feed: publish into the log, follow the log into the broadcaster, subscribe without a seam.

One event goes straight through: `Feed.publish` → `Log.append`, where it gets its id → `Log.follow` → the one relay
task → `Broadcaster.push` → the queue of each subscription that wants it. What this process published and what came
from elsewhere take the same road.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import overload

from feed.admission import Admission
from feed.backoff import Backoff, Reminder
from feed.errors import Draining, FeedError, FeedUnavailable, Invalid, LogRefused, Overloaded, TooLarge
from feed.event import DEFAULT_TYPE, Draft, event_size, value_draft
from feed.from_thread import FromThread
from feed.histogram import Histogram
from feed.history import EARLIEST, HistoryPage, check_last
from feed.log import Appended, Log, is_shared, take_over, without_password
from feed.log.idempotency import IdempotencyKey, idempotency_key
from feed.options import MAX_BATCH, FeedOptions
from feed.pattern import Selection, select
from feed.peer import Peer
from feed.running import Running
from feed.statistics import TRANSPORTS, Counters, Delivered, Statistics, transport_of
from feed.subscription import Subscription
from feed.survey import SilentNodes, Subscribers

logger = logging.getLogger(__name__)

_MAX_HELD_BYTES = 64 << 20  # of publishes that wait until others have been passed on
_ENTER = 50  # subscriptions that begin in one turn of the event loop


class Feed:
    """A feed on the log that `log` names: `memory:`, `sqlite:PATH` or `redis://HOST:PORT/DB?stream=NAME`.

    It opens at `async with`, which also closes it, or else at its first use; where Redis is not there yet it goes on
    trying, and raises `FeedUnavailable` meanwhile. Several may hold it by `async with`: the last one out closes it, and
    in this event loop only `async with` opens it again. `memory:` and `sqlite:` are logs of one process: where several
    answer at one address, the workers of a server, they are refused with `LogRefused`.

    It belongs to one event loop; from other threads see `from_thread`. While it is open another loop that uses it gets
    a `RuntimeError`. Once it is closed, or its loop has, it opens in another loop at its next use, as tests need it
    whose requests have a loop each: closed, a log in memory has lost its events, else they are still there.

    It belongs to one process, too. In a fork of the one that has opened it the first use raises `RuntimeError`, unless
    the log is one that processes share: that is opened anew, with connections of its own. To close it there does
    nothing to the parent's.

    `log` is the URL as it was given. `counters` is what the feed has counted since it was made, and
    `statistics()` what else it can say of itself.
    """

    def __init__(self, log: str, options: FeedOptions = FeedOptions()) -> None:  # noqa: B008  immutable
        self.options = options
        self.draining = False
        self._drained_at = 0.0  # by the monotonic clock: when its readers are back, here or elsewhere
        self.counters = Counters()
        self.log = log
        self.from_thread = FromThread(self)
        self._past_reconnects = 0  # while it was open before
        self._past_commits = Histogram()
        self._left: Log | None = None  # open still, by a loop that has ended
        self._inherited: list[object] = []  # a parent process's: not to be used, nor cleaned up after, here
        self._belong_to(None)

    def _belong_to(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Begin anew in this event loop of this process."""
        self._loop = loop
        self._pid = os.getpid()
        self._holders = 0
        self._held_bytes = 0
        self._entrance = Admission(_ENTER)
        self._start: asyncio.Task[Running] | None = None
        self._tried = asyncio.Event()
        self._end: asyncio.Task[None] | None = None

    def _settle(self) -> None:
        """Move to the event loop that runs here. Raises `RuntimeError` where the feed is still another's."""
        here = asyncio.get_running_loop()
        if self._loop is here and self._pid == os.getpid():
            return
        if self._pid != os.getpid():
            self._leave_to_parent()
        elif self._loop is not None and not self._loop.is_closed() and (self._start or not _done(self._end)):
            raise RuntimeError(
                "this feed is open in another event loop: publish from here with feed.from_thread.publish(…), or use a "
                "Feed of this loop's own, or close it there first. In tests, all requests of a TestClient share one "
                "loop only within `with TestClient(app) as client:`"
            )
        elif (left := self.running) is not None:
            self._count_past(left.log)
            self._left = left.log
        self.draining = self.draining and self._loop is None
        self._belong_to(here)

    def _leave_to_parent(self) -> None:
        """Forget what a parent process has opened, and touch nothing of it: sockets and files are the parent's, too."""
        if self._start is None:
            return
        if not is_shared(self.log):
            self.check_process()
        self._inherited += [self._loop, self._start, self._end, self._left]
        self._left = None

    async def __aenter__(self) -> Feed:
        self._settle()
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
        if self._pid != os.getpid():
            return  # forked within the block: it is the parent's to close
        self._settle()
        self._holders -= 1
        if self._holders <= 0:
            await self.close()

    async def _opened(self) -> Running:
        if (running := self.running) is not None:
            return running
        if self._start is None:
            self._tried = asyncio.Event()
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

    async def _begin(self, tried: asyncio.Event) -> Running:
        """Open the log. If its server is not there yet say so by `tried`, and in the log once a minute, and go on
        trying."""
        backoff, reminder = Backoff(), Reminder()
        what = "Redis" if is_shared(self.log) else "the log"
        try:
            while True:
                try:
                    left = None if self._left is None else await take_over(self._left)
                    running = await Running.start(self.log, self.options, self.counters, left)
                except FeedUnavailable as error:
                    tried.set()
                    if reminder.is_due(str(error)):
                        logger.warning("waiting for %s, %s: %s", what, without_password(self.log), error)
                else:
                    self._left = None
                    if tried.is_set():
                        logger.warning("%s is there", what)
                    return running
                await asyncio.sleep(backoff.next())
        finally:
            tried.set()

    async def _ready(self) -> Running:
        """The opened log and all that runs on it. Raises `FeedUnavailable`, and `RuntimeError` in another loop than the
        feed's."""
        self._settle()
        if self._end is not None:
            raise FeedUnavailable("the feed is closed: `async with feed` opens it again")
        try:
            return await self._opened()
        except LogRefused as error:
            # Only who opens the feed with `async with` is told the details: others may be anybody.
            logger.error("%s", error)
            raise FeedUnavailable("the log cannot be opened", 30) from error

    @property
    def running(self) -> Running | None:
        """What runs while the feed is open; None while it is not. It is for tests and for what belongs to the feed,
        not for applications: it may change with any version."""
        start = self._start
        if start is None or not start.done() or start.cancelled() or start.exception() is not None:
            return None
        if self._pid != os.getpid():
            return None  # it is the parent's
        return start.result()

    def drain(self) -> None:
        """Let every stream say `feed.closing` and end, and take on no new ones. Publishing goes on until it is closed.

        Their clients are told to come back spread over `Limits.drain` seconds. It is for the moment in which the server
        around the feed is told to stop, as servers wait for streams and tell nobody: see the README. To do so twice
        does no harm. From other threads and in signal handlers: `from_thread.drain`.
        """
        self.turn_away()
        if (running := self.running) is not None and self._loop is not None and not self._loop.is_closed():
            running.broadcaster.drain(self.options.limits)

    def turn_away(self) -> None:
        """Take on no new streams: the first half of `drain`, which any thread may call."""
        if not self.draining:
            self._drained_at = time.monotonic() + self.options.limits.drain
            self.draining = True

    async def close(self) -> None:
        """End all streams, commit what waits, and let the log go. To do so twice does no harm, and both wait for it;
        cancelled, it goes on. A feed that another event loop has left open is closed in this one."""
        if self._pid != os.getpid():
            return  # it is the parent's to close
        self._settle()
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
                self._count_past(running.log)
        left, self._left = self._left, None
        if left is not None:
            await take_over(left)

    def _count_past(self, log: Log) -> None:
        self._past_reconnects += log.reconnects
        self._past_commits.add(log.commits)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop it was opened in; None before it is opened for the first time, once it is closed, and in a
        fork of the process that has opened it."""
        return self._loop if self._end is None and self._pid == os.getpid() else None

    def check_process(self) -> None:
        """Raises `RuntimeError` in a fork of the process that has opened it: nothing of what was open runs there."""
        if self._pid != os.getpid() and self._start is not None:
            raise RuntimeError(
                f"this feed was opened by process {self._pid}, of which this one is a fork, and nothing of it runs "
                "here: publish over HTTP (feed.client), or open the feed in each process, after the fork, on a log "
                "that they share (redis:)"
            )

    def statistics(self) -> Statistics:
        """What the feed holds and has done, at this moment: see `Statistics`.

        It looks at each stream that is open, some milliseconds for 15,000, and at the log's files. It is for whoever
        asks now and then, not for each event or request.
        """
        running = self.running
        streams = () if running is None else tuple(running.broadcaster)
        by_transport = dict.fromkeys(TRANSPORTS, 0)
        delivered = {name: Delivered(past.events, past.bytes) for name, past in self.counters.delivered.items()}
        for stream in streams:
            transport = transport_of(stream.peer.transport)
            by_transport[transport] += 1
            delivered[transport].add(stream.events, stream.sent)
        del delivered["poll"]  # a long poll counts as the page that it is answered with
        commits = Histogram()
        commits.add(self._past_commits)
        if running is None:
            return Statistics(by_transport, delivered, commits, self._past_reconnects)
        log = running.log
        commits.add(log.commits)
        return Statistics(
            by_transport,
            delivered,
            commits,
            self._past_reconnects + log.reconnects,
            subscribers=len(streams),
            queues=running.broadcaster.queues,
            position=log.position,
            lag=running.lag,
            retained=log.retained,
            oldest_time=log.oldest_time,
            file_bytes=log.file_bytes,
        )

    async def check(self) -> None:
        """Raises `FeedUnavailable` if the log does not answer, or what it holds is not passed on. Whether there is room
        for an event, publishing tells."""
        running = await self._ready()
        await running.log.check()
        if running.relay.fails and running.lag:
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

    async def publish_batch(self, drafts: Sequence[Draft], *, key: str | None = None) -> list[str]:
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
        running = await self._ready()
        if running.broadcaster.pump.busy:
            await self._wait_for_readers(running, drafts)
        appended = await running.log.append(drafts, key)
        counters = self.counters
        if appended.repeated:
            counters.publishes["repeated"] += 1
        else:
            counters.publishes["created"] += 1
            counters.published += appended.count
            counters.published_bytes += size
        return appended

    async def _wait_for_readers(self, running: Running, drafts: Sequence[Draft]) -> None:
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
        self._settle()
        await self._entrance.enter()
        running = await self._ready()
        log, window, history = running.log, running.broadcaster.window, running.history
        cursor, gap = None, None
        check_last(last)
        self._check_room(running, peer)
        with history.without_loss():
            if after is not None:
                cursor, gap = await history.resume_at(after)
            elif last is not None:
                with history.looking_back():
                    cursor = await history.before_last(selection, last)
        # From here to `register` there is no `await`: what is committed after the position was taken is passed on.
        if self.draining:
            left = self._drained_at - time.monotonic()
            raise Draining("this server is being stopped", max(1, math.ceil(left)))
        self._check_room(running, peer)
        replay = cursor is not None
        if cursor is None:
            cursor = max(log.position, window.position)
        resumed = after if gap is None and after != EARLIEST else None
        subscription = Subscription(running.shared, selection, peer, cursor=cursor, replay=replay, resumed=resumed)
        if gap is not None and after is not None:
            subscription.announce_gap(after, gap)
        running.broadcaster.register(subscription)
        return subscription

    def _check_room(self, running: Running, peer: Peer) -> None:
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
            counters, transport = self.counters, transport_of(subscription.peer.transport)
            counters.ended[subscription.ended] += 1
            counters.delivered[transport].add(subscription.events, subscription.sent)
        subscription.close()
        if (running := self.running) is not None:
            running.broadcaster.unregister(subscription)

    # Looking around.

    async def subscribers_everywhere(self, *, after: str = "", limit: int = 100) -> Subscribers:
        """Return who listens now, on all nodes: the first `limit` subscriptions whose id comes after `after`. Raises
        `FeedUnavailable`."""
        return await (await self._ready()).survey.subscribers(after, limit)

    @overload
    async def kick(self, id: str) -> bool: ...

    @overload
    async def kick(self, *, subject: str) -> int: ...

    async def kick(self, id: str | None = None, *, subject: str | None = None) -> bool | int:
        """End streams, on whichever node they are: one by its id, or all of a subject (`Grants.subject`, or the `sub`
        of a token), such as a user who has logged out.

        Returns whether there was such a stream, or how many the subject had. A kick is not a ban: a client may come
        back, and is judged anew. So end the session before.

        Raises `FeedUnavailable`, and names the nodes, if nodes did not answer and may still have such a stream.
        Raises `Invalid` for an empty subject.
        """
        if subject == "":
            raise Invalid("subject", "is empty")
        if id is not None and subject is None:
            ended, silent = await (await self._ready()).survey.end(id)
            if not ended and silent:
                raise SilentNodes(silent)
            return ended
        if subject is not None and id is None:
            count, silent = await (await self._ready()).survey.end_of(subject)
            if silent:
                raise SilentNodes(silent, count)
            return count
        raise TypeError("kick takes the id of one subscription, or subject=")

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
        running = await self._ready()
        return await running.history.page(selection, limit, after=after, before=before, last=last, since=since)


def _done(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
