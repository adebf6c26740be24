"""Readers of state who want what has changed only every so often: one batch for all who ask for the same.

While such a reader is live, nothing is done for an event. When its time has come, the batch of all who share its
patterns is made from the state: of each topic that has changed since the last one the newest event. A reader that is
behind catches up as any reader of state does.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Protocol

from feed.batch import Batch
from feed.log.window import Window
from feed.options import Limits
from feed.pattern import EVERYTHING, TopicIndex
from feed.pump import Pump
from feed.state import State

logger = logging.getLogger(__name__)

_TOGETHER = 1_000  # topics that are looked at in one turn of the event loop
_MAX_BACKLOG = 0.5  # of a queue: a batch waits while the pump is further behind than this
_STEP = 0.05  # seconds: times are rounded up to a multiple of this, so that there are not many tasks


class Paced(Protocol):
    """A reader: a subscription, for example."""

    def offer(self, batch: Batch) -> None:
        """Put newly committed events into the queue."""

    def fall_behind(self) -> None:
        """Continue from the log."""


class _Group:
    """The readers with the same patterns."""

    def __init__(self) -> None:
        self.readers: dict[Paced, None] = {}

    def fall_behind(self) -> None:
        for reader in self.readers:
            reader.fall_behind()

    def offer(self, window: Window, seqs: Sequence[int]) -> None:
        """Offer the events with these seqs, which are in order."""
        if seqs[0] < window.first:
            self.fall_behind()
            return
        batch = Batch([window.at(seq) for seq in seqs])
        for reader in self.readers:
            reader.offer(batch)


class Pace:
    """The readers of one time. All that has changed up to `position` was offered to those of them who are live."""

    def __init__(self, every: float, window: Window, state: State, pump: Pump, limits: Limits) -> None:
        self.position = window.position
        self._every = every
        self._window = window
        self._state = state
        self._pump = pump
        self._limits = limits
        self._groups: dict[Sequence[str], _Group] = {}
        self._index: TopicIndex[_Group] = TopicIndex()
        self._interrupted = False
        self._task = asyncio.create_task(self._run(), name="feed-pace")

    def add(self, patterns: Sequence[str], reader: Paced) -> None:
        """Offer this reader what it wants, from the next batch on."""
        group = self._groups.get(patterns)
        if group is None:
            group = self._groups[patterns] = _Group()
            for pattern in patterns:
                self._index.add(pattern, group)
        group.readers[reader] = None

    def remove(self, patterns: Sequence[str], reader: Paced) -> bool:
        """Offer this reader nothing more. Return whether it was the last one: then nothing runs any more."""
        group = self._groups[patterns]
        del group.readers[reader]
        if not group.readers:
            del self._groups[patterns]
            for pattern in patterns:
                self._index.remove(pattern, group)
        if not self._groups:
            self._task.cancel()
        return not self._groups

    def interrupt(self, position: int) -> None:
        """Note that all readers have fallen behind, and that the events beyond `position` may be others now."""
        self.position = min(self.position, position)
        self._interrupted = True

    def stop(self) -> None:
        """Offer nothing more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            if self.position < self._window.position:
                try:
                    await self._offer()
                except Exception:
                    logger.exception("a batch of what has changed failed; its readers go on from the log")
                    self._fall_behind()

    async def _offer(self) -> None:
        position, topics = self._window.position, self._state.topics
        if not self._state.is_whole or topics.purged(EVERYTHING, self.position) > self.position:
            self._fall_behind()  # readers may hold a value that is gone
            self.position = position
            return
        self._interrupted = False
        changed = topics.beyond(self.position)
        for start in range(0, len(changed), _TOGETHER):
            if start:
                await asyncio.sleep(0)
                while self._pump.backlog > _MAX_BACKLOG:
                    await asyncio.sleep(0)
                if self._interrupted:
                    return
            self._offer_some(changed[start : start + _TOGETHER])
        self.position = position

    def _offer_some(self, changed: Sequence[tuple[str, int]]) -> None:
        wanted: dict[_Group, list[int]] = {}
        for topic, seq in changed:
            for groups in self._index.find(topic):
                for group in groups:
                    seqs = wanted.setdefault(group, [])
                    if not seqs or seqs[-1] != seq:  # another one of its patterns has found it
                        seqs.append(seq)
        self._pump.passed += max(map(len, wanted.values()), default=0) / self._limits.queue_events
        for group, seqs in wanted.items():
            group.offer(self._window, seqs)

    def _fall_behind(self) -> None:
        for group in self._groups.values():
            group.fall_behind()


class Paces:
    """All readers who want what has changed only every so often, by how often."""

    def __init__(self, window: Window, state: State, pump: Pump, limits: Limits) -> None:
        self._shared = window, state, pump, limits
        self._paces: dict[float, Pace] = {}

    def of(self, every: float) -> Pace:
        """Return the pace of this time in seconds. The caller adds a reader at once."""
        every = math.ceil(round(every / _STEP, 6)) * _STEP
        if every not in self._paces:
            self._paces[every] = Pace(every, *self._shared)
        return self._paces[every]

    def forget(self, pace: Pace) -> None:
        """Forget a pace that has no readers any more."""
        self._paces = {every: each for every, each in self._paces.items() if each is not pace}

    def interrupt(self, position: int) -> None:
        """See `Pace.interrupt`."""
        for pace in self._paces.values():
            pace.interrupt(position)

    def stop(self) -> None:
        """Offer nothing more."""
        for pace in self._paces.values():
            pace.stop()
