"""Follows the stream: reads what is there, and checks it before it is handed on.

A follower supervises itself. Whatever happens to the connection, it continues from where it was, and once a second it
makes sure that it hears of everything that is in the stream.
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
_DEAF_SECONDS = 4.0  # for which an event may be known here and not yet be read; then the connection is deaf
_STRANGE = 3  # checks after which events of unknown epochs are taken not to belong to this log
_FEWEST, _MOST = 32, 512  # events of one read: XREAD has no bound in bytes
_LARGE = 4 << 20
_TURNS = 2  # of the loop, from the arrival of a request to its append
_PATIENCE = 0.005  # seconds to wait for the answer to an append


class Follower:
    """Reads the stream after the position `after`. `away` tells that it cannot read now."""

    def __init__(self, state: State, link: Link, writer: Writer, stream: str, after: int) -> None:
        self._state = state
        self._writer = writer
        self._record = state.record
        self._link = link
        self._stream = stream
        self._after = after
        self._count = _FEWEST
        self._look_at = 0.0
        self._deaf_at = -1  # the position at which a connection was last dropped as deaf
        self._strange = 0  # consecutive reads with events of unknown epochs
        self._in_step = 0.0  # when it last was known to miss nothing
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff()
        self._complaint = Reminder()
        self.away = False

    async def next(self) -> Sequence[Event]:
        """Return the next events; none if none came for a while. Raises `LogLost`."""
        try:
            events = await self._next()
        except (FeedUnavailable, Indeterminate) as error:
            if self._complaint.is_due(str(error)) or not self.away:
                logger.warning("cannot follow the log (%s); trying again", error)
            self.away = True
            await asyncio.sleep(self._backoff.next())
            return ()
        if self.away:
            logger.warning("following the log again, after %d", self._after)
            self.away = False
            self._backoff.reset()
        return events

    async def _next(self) -> Sequence[Event]:
        now = self._loop.time()
        if now >= self._look_at:
            await self._link.use(self._state.check)
            self._look_at = now + _LOOK_SECONDS
        self._lost()
        # At least the time of a round trip, so that this loop cannot spin.
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
                self._after = lost.position  # no event before the loss is left
                return events
        if not events and (reached <= self._after or lost is not None):
            await self._listen_closely()
            return events
        if not self._state.knows(events):
            self._look_at = 0.0  # they stay in the stream until their epoch is known
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
        """Return events, and the last seq that was looked at, which counts entries of other writers too."""
        command = ("XREAD", "COUNT", self._count, *how, "STREAMS", self._stream, f"0-{after}")
        answer = await self._link.ask(*command, patience=patience)
        if not answer:
            return [], after
        entries = answer[0][1]
        events = parse_entries(entries)
        if (reached := last_seq(entries)) is not None:
            return events, reached
        if not events:
            raise FeedUnavailable("another program has written into the stream, and no event can follow")
        return events, events[-1].seq

    async def _rest_of(self, last: int) -> list[Event]:
        """Read what this node is appending just now, and whatever else has come by then. It goes out together with the
        events that woke the follower: otherwise every reader would be written to once for each node that publishes."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        await self._writer.settled(_PATIENCE)
        if self._state.position <= last:
            return []
        try:
            rest, _ = await self._read(last)
        except (FeedUnavailable, Indeterminate):
            return []  # the next read will say so
        # If retention removed events in between, that has to be seen between two batches.
        return rest if rest and rest[0].seq == last + 1 else []

    def _lost(self) -> LogLost | None:
        """Return the next loss if events before it are still to come. Raise a loss that has been reached, one at a
        time."""
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
        """Raise `FeedUnavailable` if this connection does not deliver events that are there. If another connection does
        not deliver them either, they are gone."""
        position, now = self._state.position, self._loop.time()
        if position <= self._after:
            self._in_step = now
        elif now - self._in_step > _DEAF_SECONDS:
            self._in_step = now
            if self._deaf_at == self._after:
                logger.error("the events after %d, up to %d, are no longer in Redis: skipped", self._after, position)
                self._after = position
                return
            self._deaf_at = self._after
            await self._link.drop()
            raise FeedUnavailable("the connection to Redis does not deliver events")
