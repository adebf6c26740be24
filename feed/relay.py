"""The two tasks that serve all streams of a feed: one passes on what the log commits, the other is their heartbeat."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from feed.backoff import Backoff
from feed.broadcaster import Broadcaster
from feed.errors import FeedUnavailable
from feed.event import Event, size_of
from feed.log import Log
from feed.log.contract import LogLost
from feed.log.paging import runs
from feed.options import Limits
from feed.state import State

logger = logging.getLogger(__name__)

_MAX_BACKLOG = 0.5  # of a queue: passing on pauses while the pump is further behind than this
_BEAT = 0.5  # seconds between two checks for streams that are quiet, or whose right to read has ended


class Relay:
    """Passes events from a log to the broadcaster, and keeps `state` in step with it. While `fails` is true, committed
    events are not passed on."""

    def __init__(self, log: Log, broadcaster: Broadcaster, state: State, limits: Limits) -> None:
        self._log = log
        self._broadcaster = broadcaster
        self._state = state
        self.fails = False
        self._limits = limits

    async def follow(self) -> None:
        """Pass on what the log commits, until cancelled.

        After any error it continues from where it was: a feed with a dead relay looks healthy and is silent.
        """
        window = self._broadcaster.window
        backoff = Backoff()
        while True:
            try:
                await self._read_state(backoff)
                async for batch in self._log.follow(window.position):
                    await self._pass_on(batch)
                    self.fails = False
                    backoff.reset()
            except LogLost as lost:
                logger.error("the log has lost events: %s; all subscribers receive feed.gap", lost)
                self._state.distrust()
                self._broadcaster.lose(lost)
                continue
            except Exception:
                self.fails = True
                logger.exception("passing on events failed after %d; it continues from there", window.position)
                self._broadcaster.distrust()
                self._state.distrust()
            await asyncio.sleep(backoff.next())

    async def _read_state(self, backoff: Backoff) -> None:
        while self._state.is_stale():
            try:
                await self._state.read()
            except FeedUnavailable:  # the follower would say so, too
                self.fails = True
                await asyncio.sleep(backoff.next())

    async def _pass_on(self, batch: Sequence[Event]) -> None:
        """Pass on events in portions. A fan-out to thousands must not hold up publishes and other streams, and a
        portion has to fit into a queue."""
        broadcaster, pump, limits = self._broadcaster, self._broadcaster.pump, self._limits
        for portion, size in _portions(batch, limits):
            if portion[0].seq > broadcaster.window.position + 1:
                self._state.distrust()
                broadcaster.skip_to(portion[0].seq - 1)
                await self._state.read()
            elif self._state.is_sorted_otherwise():
                self._state.distrust()
                await self._state.read()
            while pump.backlog > _MAX_BACKLOG:
                await asyncio.sleep(0)  # the pump works in every turn of the loop
            pump.passed += max(len(portion) / limits.queue_events, size / limits.queue_bytes)
            broadcaster.push(portion, size)
            self._state.note(portion)  # no `await` in between: the state is as of the window's position
            self._state.forget_old()
            pump.carry(portion[0].time_ms)
            if len(portion) < len(batch):
                await asyncio.sleep(0)

    async def beat(self) -> None:
        """Until cancelled: give quiet streams a sign of life, and end those whose right to read has ended."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_BEAT)
            today = time.time()
            for count, subscription in enumerate(list(self._broadcaster), 1):
                try:
                    if subscription.peer.expires <= today:
                        subscription.end("token-expired")
                    subscription.beat(loop.time())
                except Exception:
                    logger.exception("the heartbeat of a stream failed; the next one will be tried")
                if count % 1_000 == 0:
                    await asyncio.sleep(0)


def _portions(events: Sequence[Event], limits: Limits) -> Iterator[tuple[Sequence[Event], int]]:
    """Split events at holes, and so that each portion fits into half a queue, or is a single event. Yields each portion
    and its size."""
    for run in runs(events):
        if len(run) <= limits.queue_events // 2 and (size := size_of(run)) <= limits.queue_bytes // 2:
            yield run, size
            continue
        start, size = 0, 0
        for place, event in enumerate(run):
            more = event.size
            if place > start and (place - start >= limits.queue_events // 2 or size + more > limits.queue_bytes // 2):
                yield run[start:place], size
                start, size = place, 0
            size += more
        yield (run[start:] if start else run), size
