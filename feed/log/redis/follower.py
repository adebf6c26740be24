"""Following the stream: what is there is taken in one read, and looked at before it is handed on.

It supervises itself: whatever becomes of the connection, it goes on where it was, and once a second it makes sure that
what it hears is what is there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from feed.backoff import Backoff, Reminder
from feed.errors import FeedUnavailable, Indeterminate
from feed.event import Event
from feed.log.contract import LogLost
from feed.log.redis.entries import last_seq, parse_entries
from feed.log.redis.link import ANSWER_SECONDS, Argument, Link
from feed.log.redis.state import State
from feed.log.redis.writer import Writer

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_DEAF_SECONDS = 4.0  # that an event may be known here, and not heard of
_STRANGE = 3  # looks after which events of epochs that nobody knows are none of this log
_FEWEST, _MOST = 32, 512  # events of one read: XREAD knows no bound in bytes
_LARGE = 4 << 20
_TURNS = 2  # of the loop, from a request that has come to its append
_PATIENCE = 0.005  # for an append to be answered


class Follower:
    """Reads on after the position `after`. `away` is whether it cannot now."""

    def __init__(self, state: State, link: Link, writer: Writer, stream: str, after: int) -> None:
        self._state = state
        self._writer = writer
        self._record = state.record
        self._link = link
        self._stream = stream
        self._after = after
        self._count = _FEWEST
        self._look_at = 0.0
        self._deaf_at = -1  # where it was when a connection was given up as deaf
        self._strange = 0  # reads in a row that had events of unknown epochs
        self._in_step = 0.0  # when it was last known to miss nothing
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff()
        self._complaint = Reminder()
        self.away = False

    async def next(self) -> Sequence[Event]:
        """The next events; none if there were none for a while. Raises `LogLost`."""
        try:
            events = await self._next()
        except (FeedUnavailable, Indeterminate) as error:
            if self._complaint.is_due(str(error)) or not self.away:
                logger.warning("cannot follow the log, and keep trying: %s", error)
            self.away = True
            await asyncio.sleep(self._backoff.next())
            return ()
        if self.away:
            logger.warning("following the log again, from %d on", self._after)
            self.away = False
            self._backoff.reset()
        return events

    async def _next(self) -> Sequence[Event]:
        now = self._loop.time()
        if now >= self._look_at:
            await self._link.use(self._state.check)
            self._look_at = now + _LOOK_SECONDS
        self._lost()
        # At least as long as a round trip, so that it cannot spin.
        block = max(5, int((self._look_at - self._loop.time()) * 1000))
        events, reached = await self._read(self._after, "BLOCK", block, patience=block / 1000 + ANSWER_SECONDS)
        if 0 < len(events) < self._count:
            rest = await self._rest_of(events[-1].seq)
            events += rest
            reached = rest[-1].seq if rest else reached
        lost = self._lost()
        self._adapt(events)
        if lost is not None:
            events = [event for event in events if event.seq <= lost.position]
            if not events:
                self._after = lost.position  # of what comes before the loss nothing is left
                return events
        if not events and (reached <= self._after or lost is not None):
            await self._listen_closely()
            return events
        if not self._state.knows(events):
            self._look_at = 0.0  # they wait in the stream until it is known what they are
            self._strange += 1
            if self._strange < _STRANGE or self._state.news is not None:
                if self._strange > 1:
                    await asyncio.sleep(self._backoff.next())
                return ()
            events = list(self._state.known(events))
        if self._strange:
            self._strange = 0
            self._backoff.reset()
        if lost is None:
            self._after = reached
        elif events:
            self._after = events[-1].seq
        self._state.reached(self._after)
        self._in_step = self._loop.time()
        return events

    async def _read(self, after: int, *how: Argument, patience: float = ANSWER_SECONDS) -> tuple[list[Event], int]:
        """Events, and how far is looked: beyond what others have written, too."""
        command = ("XREAD", "COUNT", self._count, *how, "STREAMS", self._stream, f"0-{after}")
        answer = await self._link.ask(*command, patience=patience)
        if not answer:
            return [], after
        entries = answer[0][1]
        events = parse_entries(entries)
        if (reached := last_seq(entries)) is not None:
            return events, reached
        if not events:
            raise FeedUnavailable("somebody else has written into the stream, and nothing can follow")
        return events, events[-1].seq

    async def _rest_of(self, last: int) -> list[Event]:
        """What this node is appending just now, and whatever else is there by then: it goes out together with what
        woke us, or every reader would be written to once for each node that publishes."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._writer.settled(_PATIENCE)
        if self._state.position <= last:
            return []
        try:
            rest, _ = await self._read(last)
        except (FeedUnavailable, Indeterminate):
            return []  # the next read will say so
        # What retention has taken in between has to be seen between two batches.
        return rest if rest and rest[0].seq == last + 1 else []

    def _lost(self) -> LogLost | None:
        """What is lost, but only after events that are still to come. Raises what is lost here, one loss at a time."""
        state = self._state
        record = state.news or state.record
        if record is self._record:
            return None
        lost = record.loss_since(self._record, self._after)
        known = record.up_to(self._after if lost is None else min(lost.position, self._after), self._record)
        here = known.loss_since(self._record, self._after)
        if state.news is None:
            self._record = known
        elif known is record or not known.has_same_epochs(self._record):
            state.adopt(known, None if known is record else record)
            self._record = known
        if here is not None:
            raise here
        return lost

    def _adapt(self, events: Sequence[Event]) -> None:
        size = sum(event.size for event in events)
        if size > _LARGE:
            self._count = max(_FEWEST, self._count // 2)
        elif len(events) >= self._count and size < _LARGE // 4:
            self._count = min(_MOST, self._count * 2)

    async def _listen_closely(self) -> None:
        """Raises `FeedUnavailable` if there are events that this connection does not tell of. Those that no other one
        tells of either are gone."""
        position, now = self._state.position, self._loop.time()
        if position <= self._after:
            self._in_step = now
        elif now - self._in_step > _DEAF_SECONDS:
            self._in_step = now
            if self._deaf_at == self._after:
                logger.error("the events after %d, up to %d, are in Redis no more", self._after, position)
                self._after = position
                return
            self._deaf_at = self._after
            await self._link.drop()
            raise FeedUnavailable("the connection to Redis is deaf")
