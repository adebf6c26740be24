"""The feed: publish into the log, follow the log into the broadcaster, subscribe without a gap or a double.

An event takes one road: `Feed.publish` → `Log.append`, where it gets its id → `Log.follow` → the one relay task →
`Broadcaster.push` → the queue of each subscription that wants it. Events that this process has published and those
that came from elsewhere take the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import overload

from feed.admission import Admission
from feed.arguments import check_text
from feed.backoff import Backoff, Reminder
from feed.errors import Draining, FeedError, FeedUnavailable, Invalid, LogRefused, Overloaded, TooLarge
from feed.event import (
    DEFAULT_TYPE,
    Draft,
    Event,
    check_topic,
    deletion,
    event_size,
    list_of_drafts,
    on_terms,
    value_draft,
)
from feed.from_thread import FromThread
from feed.histogram import Histogram
from feed.log import Appended, Log, check_log_url, is_shared, take_over, without_password
from feed.log.classes import check_retain
from feed.log.idempotency import IdempotencyKey, idempotency_key
from feed.options import MAX_BATCH, FeedOptions
from feed.pages import (
    EARLIEST,
    Page,
    PageRequest,
    Paging,
    TopicInfo,
    TopicsPage,
    check_after,
    check_every,
    check_last,
    check_latest,
    page_request,
)
from feed.pattern import Selection, select
from feed.peer import Peer
from feed.running import Running
from feed.statistics import TRANSPORTS, Counters, Delivered, Statistics, transport_of
from feed.subscription import Subscription
from feed.survey import SilentNodes, Subscribers
from feed.terms import check_ttl, terms_of

logger = logging.getLogger(__name__)

_MAX_HELD_BYTES = 64 << 20  # of publishes that wait until others have been passed on
_ENTER = 50  # subscriptions that begin in one turn of the event loop


class Feed:
    """A feed on the log that a URL names: `memory:`, `sqlite:PATH` or `redis://HOST:PORT/DB?stream=NAME`.

        async with Feed("sqlite:shop.db") as feed:
            await feed.publish("orders/1", {"total": 3}, type="created")

    Making a `Feed` opens nothing, but a URL that names no log raises `LogRefused` at once. The feed opens at
    `async with`, which also closes it, or at its first use. While Redis cannot be reached, the feed goes on trying and
    raises `FeedUnavailable`. Several blocks may hold the feed: the last one to end closes it. In the same event loop
    only `async with` opens it again. The logs `memory:` and `sqlite:` are for one process. Where several processes
    answer at one address, such as the workers of a server, they are refused with `LogRefused`.

    A feed belongs to one event loop. Other threads use `from_thread`. While the feed is open, using it in another loop
    raises `RuntimeError`. When the feed or its loop was closed, the next use in another loop opens it there, as tests
    need whose requests have a loop each. A log in memory loses its events when the feed is closed, and keeps them when
    only the loop was.

    A feed belongs to one process, too. In a fork of the process that has opened it, the first use raises
    `RuntimeError`, unless processes can share the log: then the fork opens it anew, with its own connections. Closing
    it there leaves the parent's feed open.

    `log` is the URL as it was given. `counters` counts what the feed has done since it was made. `statistics()` tells
    what it holds now.
    """

    def __init__(self, log: str, options: FeedOptions = FeedOptions()) -> None:  # noqa: B008  immutable
        self.options = options
        self.draining = False
        self._drained_at = 0.0  # by the monotonic clock: when its readers are back, here or elsewhere
        self.counters = Counters()
        self.log = check_log_url(log)
        check_retain(options.retain)
        self.from_thread = FromThread(self)
        self._past_reconnects = 0  # while it was open before
        self._past_commits = Histogram()
        self._left: Log | None = None  # open still, by a loop that has ended
        self._inherited: list[object] = []  # a parent process's: not to be used, nor cleaned up after, here
        self._belong_to(None)

    def _belong_to(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Start afresh, in this event loop of this process."""
        self._loop = loop
        self._pid = os.getpid()
        self._holders = 0
        self._held_bytes = 0
        self._entrance = Admission(_ENTER)
        self._start: asyncio.Task[Running] | None = None
        self._started: tuple[asyncio.Task[Running], Running] | None = None  # a start that has succeeded, and its result
        self._tried = asyncio.Event()
        self._end: asyncio.Task[None] | None = None

    def _settle(self) -> None:
        """Move to the event loop that runs here. Raises `RuntimeError` while the feed is open in another one."""
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
        """Forget what the parent process has opened, and touch none of it: the parent still uses its sockets and
        files."""
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
            running = start.result()
        except Exception:
            if self._start is start:
                self._start = None  # the next use tries again
            raise
        self._started = start, running
        return running

    async def _begin(self, tried: asyncio.Event) -> Running:
        """Open the log, and try again until it opens. After the first attempt `tried` is set. While the log's server
        cannot be reached, a warning says so once a minute."""
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
        """Return the opened log and all that runs on it. Raises `FeedUnavailable`, and `RuntimeError` in another event
        loop than the feed's."""
        self._settle()
        if self._end is not None:
            raise FeedUnavailable("the feed is closed: `async with feed` opens it again")
        try:
            return await self._opened()
        except LogRefused as error:
            # Only who opens the feed with `async with` is told the details: others may be anybody.
            logger.error("%s", error)
            raise FeedUnavailable("the log cannot be opened", 30) from error

    def _open_here(self) -> Running | None:
        """Return what runs if the feed is open in this event loop of this process, as nearly every publish finds it."""
        started = self._started
        if (
            started is None
            or started[0] is not self._start
            or self._end is not None
            or self._loop is not asyncio.get_running_loop()
            or self._pid != os.getpid()
        ):
            return None
        return started[1]

    @property
    def running(self) -> Running | None:
        """What runs while the feed is open, None while it is not. This is for tests and for the feed's own modules, not
        for applications: it may change with any version."""
        start = self._start
        if start is None or not start.done() or start.cancelled() or start.exception() is not None:
            return None
        if self._pid != os.getpid():
            return None  # it is the parent's
        return start.result()

    def drain(self) -> None:
        """End every stream with `feed.closing`, and refuse new ones. Publishing works until the feed is closed.

        The clients are told to come back within `Limits.drain` seconds, each after another time. Call this when the
        server around the feed is told to stop, as servers wait for streams to end and do not tell them. A second call
        does nothing. Other threads and signal handlers call `from_thread.drain`.
        """
        self.turn_away()
        if (running := self.running) is not None and self._loop is not None and not self._loop.is_closed():
            running.broadcaster.drain(self.options.limits)

    def turn_away(self) -> None:
        """Refuse new streams. This is the first half of `drain`, and any thread may call it."""
        if not self.draining:
            self._drained_at = time.monotonic() + self.options.limits.drain
            self.draining = True

    async def close(self) -> None:
        """End all streams, commit what waits, and close the log. A second call waits for the same end. When the call is
        cancelled, closing goes on. A feed that another event loop has left open is closed in this one."""
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
        """The event loop in which the feed was opened. None before it is opened for the first time, when it is closed,
        and in a fork of the process that has opened it."""
        return self._loop if self._end is None and self._pid == os.getpid() else None

    def check_process(self) -> None:
        """Raise `RuntimeError` in a fork of the process that has opened the feed: nothing of it runs there."""
        if self._pid != os.getpid() and self._start is not None:
            raise RuntimeError(
                f"this feed was opened by process {self._pid}, of which this one is a fork, and nothing of it runs "
                "here: publish over HTTP (feed.client), or open the feed in each process, after the fork, on a log "
                "that they share (redis:)"
            )

    def statistics(self) -> Statistics:
        """Return what the feed holds and has done, at this moment: see `Statistics`.

        The call looks at each open stream, which takes some milliseconds for 15,000, and at the log's files. Ask now
        and then, not for each event or request.
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
            topics=running.state.count(),
            oldest_time=log.oldest_time,
            file_bytes=log.file_bytes,
        )

    async def check(self) -> None:
        """Raise `FeedUnavailable` if the log does not answer, or its events are not passed on. Only publishing can tell
        whether there is room for another event."""
        running = await self._ready()
        await running.log.check()
        if running.relay.fails and running.lag:
            raise FeedUnavailable("events are not passed on to subscribers now")

    # Publishing.

    async def publish(
        self,
        topic: str,
        data: object,
        *,
        type: str = DEFAULT_TYPE,
        key: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        ttl: float | None = None,
    ) -> str:
        """Commit one event, and return its id.

        `topic` says what the event is about: segments joined by `/`, such as `orders/1`, 256 bytes of UTF-8 at most.
        `type` is the event's kind, 128 bytes at most. `draft` says what `data` may be: a text, or what JSON has a form
        for. `FeedOptions.max_data` is the largest data, in bytes.

        `key` is an idempotency key: 1 to 255 visible ASCII characters. It makes the call safe to repeat: for 24 hours
        the same event with the same key is committed once, and each call returns the id of the first.

        With `if_match` the event is committed only if the newest one of its topic has this id, or, for `"*"`, if the
        topic has a value. With `if_none_match`, which can only be `"*"`, it is committed only if the topic has none, or
        was deleted. So of several writers who know the same event one wins. `PreconditionFailed` tells the others of
        the newest event.

        With `ttl` the topic is deleted after so many seconds, 1 to 604,800 (7 days), if this is still its newest event
        then. `renew` begins the time anew. At most 100,000 topics may have such a lease.

        Raises `Invalid` for a bad topic, type or key, and for a key that was used for another event. Raises `Malformed`
        for data that JSON has no form for, and `TooLarge` for too much of it. Raises `FeedUnavailable` if the log
        cannot take the event now, and `Overloaded`, which is a kind of it, if too much waits already. In all these
        cases nothing was published. Raises `Indeterminate` if that cannot be known: repeat the call with the same key.
        """
        draft = on_terms(value_draft(topic, data, type), terms_of(if_match, if_none_match, ttl))
        return await self._append_one(draft, key)

    async def delete(self, topic: str, *, if_match: str | None = None, key: str | None = None) -> str:
        """Delete the value of `topic`, and return the id of the tombstone, an event of type `feed.deleted`. Readers of
        state are told of it; later readers find nothing. A topic that is deleted already stays as it is: the id is that
        of its tombstone.

        `if_match` and `key` are as for `publish`. Raises `NoEvents` for a topic without events, and what `publish`
        raises.
        """
        return await self._append_one(deletion(topic, terms_of(if_match, None, delete=True)), key)

    async def renew(self, topic: str, *, ttl: float) -> None:
        """Let the value of `topic` run out `ttl` seconds from now, whether it had a lease before or not. Nothing is
        published: readers notice nothing. So presence costs one event when it begins, and one when it ends.

        Raises `Invalid` for a bad topic or time. Raises `NoEvents` for a topic that has no value, or no longer: publish
        it again. Raises `Overloaded` for a lease too many, and `FeedUnavailable` if the log cannot be written now.
        """
        check_topic(topic)
        await (await self._ready()).log.renew(topic, check_ttl(ttl))

    async def _append_one(self, draft: Draft, key: str | None) -> str:
        return (await self.append([draft], idempotency_key("", key, [draft]) if key is not None else None)).ids[0]

    async def publish_batch(self, drafts: Iterable[Draft], *, key: str | None = None) -> list[str]:
        """Commit events, all of them or none, and return their ids, both in the order of `drafts`.

        `draft` makes each of the `drafts`, of which there may be 10,000. `key` is an idempotency key, as for `publish`,
        for the whole batch: the same events with the same key are committed once, and each call returns the first ids.

        Raises what `publish` raises, `Invalid` for an empty batch or one that is too long, and `TypeError` for what is
        not a draft.
        """
        drafts = list_of_drafts(drafts)
        return (await self.append(drafts, None if key is None else idempotency_key("", key, drafts, "batch"))).ids

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """Commit a batch for a principal's key, as the HTTP routes do. Raises what `publish` raises."""
        if not drafts:
            raise Invalid("batch", "has no event in it")
        if len(drafts) > MAX_BATCH:
            raise Invalid("batch", f"may have {MAX_BATCH:,} events at most, not {len(drafts):,}")
        size, max_data = 0, self.options.max_data
        for draft in drafts:
            if draft.data_bytes > max_data:
                raise TooLarge("data", max_data)
            size += draft.data_bytes
        running = self._open_here() or await self._ready()
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
        size = sum(event_size(draft.topic, draft.type, draft.text) for draft in drafts)
        if self._held_bytes and self._held_bytes + size > _MAX_HELD_BYTES:
            raise Overloaded("events are published faster than they can be passed on to the subscribers")
        self._held_bytes += size
        try:
            await running.broadcaster.pump.admit()
        finally:
            self._held_bytes -= size

    # Subscribing.

    def subscribe(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        last: int | None = None,
        latest: bool = False,
        every: float | None = None,
    ) -> Subscribing:
        """Subscribe for the length of a block: `async with feed.subscribe("orders/*") as events`.

        `patterns` are given one by one, or as a list. A pattern is a topic in which a segment may be `*` (any one), and
        the last one `**` (one or more). `FeedOptions.max_patterns` says how many there may be. With `types` only events
        of one of these types are wanted.

        `after` is an id: the stream begins with the event that follows it, with `EARLIEST` with the oldest retained
        event. Otherwise the stream begins with the newest `last` events (1 to 1,000), or, without both, with the next
        event that is published. Iterating yields each `Event`, and a `Gap` where events may be missing, such as after
        an id that is no longer retained. It ends when the feed is closed or drained.

        With `latest` the stream has the state: first the newest event of each topic, then each event that follows, less
        those that a later one of their topic has superseded before they were read. A topic that is deleted has an event
        of type `feed.deleted`. A `Gap` then means: forget all that you hold, as the whole state follows. `types` and
        `last` cannot be given. With `every`, 0.1 to 60 seconds, what changes later comes in batches, at most one in
        each such time, in which each topic stands once.

        Raises `Invalid` at once for a bad pattern, type or `last`. Entering the block raises `FeedUnavailable` if the
        log cannot be read now or there are too many subscribers, and `Draining`, which is a kind of it, after `drain`.
        """
        selection = self.select(patterns, types)
        check_last(last)
        check_latest(latest, {"types": selection.types, "last": last})
        return Subscribing(self, selection, check_after(after), last, latest, check_every(every, latest=latest))

    def select(self, patterns: str | Iterable[str | Iterable[str]], types: Iterable[str] = ()) -> Selection:
        """Check what one subscription asks for, as the HTTP routes do. Raises `Invalid` for no pattern, too many, or a
        bad pattern or type."""
        return select(patterns, types, self.options.max_patterns)

    async def attach(
        self,
        selection: Selection,
        *,
        after: str | None,
        last: int | None,
        latest: bool = False,
        every: float | None = None,
        peer: Peer = Peer(),  # noqa: B008  immutable
    ) -> Subscription:
        """Begin a subscription, as `subscribe` does at the beginning of its block. This is for the HTTP routes, whose
        streams are not blocks of code. The caller calls `detach` at the end."""
        self._settle()
        await self._entrance.enter()
        running = await self._ready()
        log, window, history = running.log, running.broadcaster.window, running.history
        cursor, gap, place, told, complete = None, None, None, None, True
        check_last(last)
        self._check_room(running, peer)
        with history.without_loss():
            if latest:
                await running.state.nearly_caught_up()
                place, gap = await history.place_of(after, selection)
                cursor = place.cursor
            elif after == EARLIEST:
                cursor, complete = history.beginning(selection)
            elif after is not None:
                cursor, gap, told = await history.resume_at(after)
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
        pace = None if every is None else running.broadcaster.paces.of(every)
        if told is None:
            told = history.taken(selection, cursor)
        subscription = Subscription(
            running.shared,
            selection,
            peer,
            cursor=cursor,
            replay=replay,
            resumed=resumed,
            complete=complete,
            told=told,
            place=place,
            pace=pace,
        )
        if gap is not None and after is not None:
            subscription.announce_gap(after, gap)
        running.broadcaster.register(subscription)
        return subscription

    def _check_room(self, running: Running, peer: Peer) -> None:
        broadcaster, options = running.broadcaster, self.options
        if options.max_subscribers is not None and len(broadcaster) >= options.max_subscribers:
            raise FeedUnavailable("this server has as many subscribers as it may have")
        most = options.max_subscribers_per_address
        if most is not None and broadcaster.count_of(peer.address) >= most:
            raise FeedUnavailable("this address has as many subscribers here as it may have")

    def detach(self, subscription: Subscription) -> None:
        """End a subscription that `attach` has begun, and count why. A second call does nothing."""
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
        """Return who listens now, on all nodes, in the order of the subscriptions' ids.

        The result has the first `limit` subscriptions whose id comes after `after`, which is empty for the first page
        and `next` of the page before for each other one. `next` is None at the end. `silent` are the names of the nodes
        that did not answer in time.

        Raises `FeedUnavailable` if the nodes cannot be asked.
        """
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
        Raises `Invalid` for an empty subject, and `TypeError` for what is not a text: nobody has such a subject.
        """
        if id is not None:
            check_text(id, "kick: id")
        if subject is not None and not check_text(subject, "kick: subject"):
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

    # The past.

    def history(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
        latest: bool = False,
    ) -> AsyncGenerator[Page, None]:
        """Read page after page up to the newest event: `async for page in feed.history("orders/*")`.

        `patterns` and `types` choose the events, as for `subscribe`. Give at most one of `after`, `since`, `before` and
        `last`, which mean what they mean for `page`. Without any of them the pages begin with the oldest retained
        event. With `before` the pages go backwards to the oldest event. With `last` there is one page. `limit` is how
        many events a page holds at most: 1 to 1,000, 100 unless given. With `latest` the pages are of state (see
        `page`), and end when it is whole. Each page is read when it is asked for, and a page without events or a gap is
        left out.

        Raises `Invalid` at once for a bad pattern, type, time or number, and for two of `after`, `since`, `before` and
        `last` together. Iterating raises `FeedUnavailable`.
        """
        selection = self.select(patterns, types)
        check_latest(latest, {"types": selection.types})
        request = page_request(after=after, before=before, since=since, last=last, limit=limit, latest=latest)
        return self._pages(selection, request)

    async def _pages(self, selection: Selection, request: PageRequest) -> AsyncGenerator[Page, None]:
        paging = Paging(request)
        while not paging.ended:
            page = await self.read_page(selection, paging.request)
            paging.turn(page)
            if page.events or page.gap:
                yield page

    async def page(
        self,
        *patterns: str | Iterable[str],
        types: Iterable[str] = (),
        after: str | None = None,
        before: str | None = None,
        since: str | datetime | None = None,
        last: int | None = None,
        limit: int | None = None,
        latest: bool = False,
    ) -> Page:
        """Read one page of past events, the oldest first.

        `patterns` and `types` choose the events, as for `subscribe`. At most one of these says where the page begins or
        ends. `after` is an id: the page begins with the event that follows it. `since` is a time, an aware datetime or
        a text as in RFC 3339: the page begins with the first event that was committed then or later. `before` is an id:
        the page ends with the event in front of it. `last` is a number: the page holds the newest events, as many as
        that. Without any of them the page begins with the oldest retained event.

        `limit` is how many events the page holds at most. `limit` and `last` may be 1 to 1,000; without both, the limit
        is 100. A page can be shorter although there is more: it ends at 1 MiB. `Page.next` is the id to go on from.
        `Page.gap` says that events may be missing, as after an id that is no longer retained.

        With `latest` it is a page of state: of each topic the newest event only. Without `after` it begins anew; with
        `after`, the `next` of the page before, it goes on. `Page.live` tells that the state is whole. A gap means here:
        forget all of the pages before.

        Raises `Invalid` for a bad pattern, type, time or number, and for two of `after`, `since`, `before` and `last`
        together. Raises `FeedUnavailable` if the log cannot be read now, also because too many ask at once.
        """
        selection = self.select(patterns, types)
        check_latest(latest, {"types": selection.types})
        request = page_request(after=after, before=before, since=since, last=last, limit=limit, latest=latest)
        return await self.read_page(selection, request)

    async def read_page(self, selection: Selection, request: PageRequest) -> Page:
        """Read one page for a request that was checked already, as the HTTP routes do. Raises what `page` raises."""
        return await (await self._ready()).history.page(selection, request)

    async def latest(self, topic: str) -> Event | None:
        """Return the newest event of `topic`, None if it has none, or was deleted.

        Raises `Invalid` for a bad topic, and `FeedUnavailable` if the log cannot be read now.
        """
        return await (await self._ready()).history.newest(check_topic(topic))

    async def topics(
        self, *patterns: str | Iterable[str], after: str = "", limit: int = 1_000
    ) -> AsyncGenerator[TopicInfo, None]:
        """Iterate over the topics that have retained events, by name: `async for topic in feed.topics("orders/*")`.

        `patterns` are as for `subscribe`. `after` is the name of a topic: those behind it follow. `limit` is how many
        are looked up at once, 1 to 1,000.
        Iterating raises `Invalid` for a bad pattern or limit, and `FeedUnavailable`.
        """
        selection = self.select(patterns)
        check_last(limit, "limit")
        following: str | None = after
        while following is not None:
            page = await self.read_topics(selection, following, limit)
            for topic in page.topics:
                yield topic
            following = page.next

    async def read_topics(self, selection: Selection, after: str, limit: int) -> TopicsPage:
        """Read one page of topics, as the HTTP route does. Raises `FeedUnavailable`."""
        return await (await self._ready()).history.topics(selection, after, limit)

    async def now(self) -> str:
        """Return the id for `after` from which on everything is new: what is committed later comes after it.

        Load your data after this call, and subscribe with `after` this id: then nothing is missed in between.

        Raises `FeedUnavailable` if the log cannot be read now.
        """
        running = await self._ready()
        return running.log.id_at(max(running.log.position, running.broadcaster.window.position))


class Subscribing(contextlib.AbstractAsyncContextManager[Subscription]):
    """A subscription for the length of a block, which `Feed.subscribe` makes: `async with … as events`."""

    def __init__(
        self,
        feed: Feed,
        selection: Selection,
        after: str | None,
        last: int | None,
        latest: bool,
        every: float | None,
    ) -> None:
        self._attach = partial(feed.attach, selection, after=after, last=last, latest=latest, every=every)
        self._feed = feed
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> Subscription:
        if self._subscription is not None:
            raise RuntimeError("this subscription has been entered already: call subscribe for each block")
        self._subscription = await self._attach()
        return self._subscription

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._subscription is not None:
            self._feed.detach(self._subscription)


def _done(task: asyncio.Task[None] | None) -> bool:
    return task is None or task.done()
