"""What this node knows of the log: which ids are valid, and from where to where it reaches.

**What ids mean changes in a follower's step only**, when it raises `LogLost`: between that and the reaction of whoever
follows there is no `await`, so that no position is ever read with the wrong epochs. Until then the news waits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log.contract import Appended, Retained, Retention
from feed.log.epochs import Epochs, new_epoch
from feed.log.redis.link import Argument, Ask, Script
from feed.log.redis.record import Record, parse_record

_RETAIN_BYTES = 1 << 30  # unless said
_LEARN_SECONDS = 3.0  # that the follower has for the news


class State:
    """One for a log. `news` is a record that its followers have not reacted to yet."""

    def __init__(self, retention: Retention) -> None:
        self.bounds: Sequence[Argument] = (
            retention.events,
            retention.bytes or _RETAIN_BYTES,
            int(retention.age * 1000),
            retention.keys,
        )
        self.record = Record([], frozenset(), False, 0, 1, 0, 0, 0, True)
        self._names = frozenset(self.record.names)  # of its epochs
        self.news: Record | None = None
        self.epochs = Epochs([("", 1)])
        self.position = 0
        self.seen = 0.0  # when Redis last answered what has become of the log; the loop's time
        self._retention = retention
        self._oldest = 1
        self._bytes = 0
        self._oldest_time = 0
        self._written = ("-", 0)
        self._told = self._written  # what Redis has been told of
        self._changes = 0
        self._adopted = asyncio.Event()
        self._look, self._enter = Script("look"), Script("enter")

    @property
    def oldest(self) -> int:
        """See `Log`."""
        return max(self._oldest, self.position + 1 - self._retention.events)

    @property
    def retained(self) -> Retained:
        """See `Log`. The bytes are what Redis has said with the last append of this node, or when it was last asked
        what has become of the log, which is done once a second."""
        return Retained(self.position + 1 - self.oldest, self._bytes)

    @property
    def oldest_time(self) -> int | None:
        """See `Log`. Of an event that has just become the oldest it is known a second later."""
        return self._oldest_time if self.oldest <= self.position and self._oldest_time else None

    def knows(self, events: Sequence[Event]) -> bool:
        """Whether they are all of epochs that this node knows."""
        return {event.epoch for event in events} <= self._names

    def known(self, events: Sequence[Event]) -> Sequence[Event]:
        """Those that are. To others, in a log that is known as it is now, no id leads: they are no events of it."""
        return [event for event in events if event.epoch in self._names]

    @property
    def written(self) -> tuple[str, int]:
        """The newest epoch and event that this node knows of; the epoch may be one whose meaning it has not learned."""
        names = self.record.names
        epoch, seq = self._written
        if epoch not in names:
            return self._written
        return names[-1], max(self.position, seq) if epoch == names[-1] else self.position

    async def check(self, ask: Ask) -> bool:
        """Ask what has become of the log. Where this node knows otherwise, or events are too old, say so to Redis.
        Gives whether it is a primary that has answered."""
        return await self._learn(ask, self._looked)

    async def check_writable(self, ask: Ask) -> bool:
        """The same, in such a way that it fails where Redis takes no writes."""
        return await self._learn(ask, self._entered)

    async def _looked(self, ask: Ask) -> Record:
        record = parse_record(await ask(self._look))
        if not record.current or not record.has_same_epochs(self.record) or record.position < self.position:
            return await self._entered(ask)
        if record.oldest <= record.position and record.oldest_time < record.now - self._retention.age * 1000:
            with contextlib.suppress(FeedUnavailable):  # it takes no writes now, and retention can wait
                return await self._entered(ask)
        return record

    async def _entered(self, ask: Ask) -> Record:
        names = self.record.names
        lossy = self.record.lossy if self.news is None else self.record.lossy | self.news.lossy
        arguments = (new_epoch(), *self.written, self.position, *self.bounds, len(names), *names, *lossy)
        told = self._written
        record = parse_record(await ask(self._enter, *arguments))
        self._told = told
        return record

    async def _learn(self, ask: Ask, question: Callable[[Ask], Awaitable[Record]]) -> bool:
        while True:
            changes = self._changes
            record = await question(ask)
            if changes == self._changes:
                break  # else the answer may be older than what another connection has brought meanwhile
        self.seen = asyncio.get_running_loop().time()
        self._bytes = record.bytes
        self._oldest_time = record.oldest_time
        if record.has_same_epochs(self.record):
            self.position = max(self.position, record.position)
            self._oldest = max(self._oldest, record.oldest)
        elif self.record.recorded and record.loss_since(self.record, self.position) is not None:
            if self.news is None or not record.has_same_epochs(self.news):
                self._changes += 1
            self.news = record
        else:
            self.adopt(record)
        return record.primary

    def adopt(self, record: Record, news: Record | None = None) -> None:
        """From now on ids mean what they mean in this record. `news` is what there is beyond, if it is a part."""
        if record.loss_since(self.record, self.position) is None:
            self.position = max(self.position, record.position)
        else:
            self.position = record.position
        self._oldest = record.oldest
        self.record = record
        self._names = frozenset(record.names)
        self.epochs = record.epochs
        self.news = news
        self._changes += 1
        if news is not None:
            return
        if self._written[0] == self.epochs.current:
            self.position = max(self.position, self._written[1])  # written since the record was
        if self._written == self._told and self._written[0] not in record.names:
            self._written = ("-", 0)  # it is gone, and that is in the record
        self._adopted.set()
        self._adopted = asyncio.Event()

    async def up_to_date(self) -> None:
        """Wait until the news is known to all. Raises `FeedUnavailable` if that takes long."""
        try:
            async with asyncio.timeout(_LEARN_SECONDS):
                while self.news is not None:
                    await self._adopted.wait()
        except TimeoutError:
            raise FeedUnavailable("the log has just changed, and this node is still finding out how") from None

    def appended(self, appended: Appended, oldest: int, size: int) -> None:
        """Something was committed. Under an epoch that is not known here yet its seq says nothing."""
        self._written = appended.epoch, appended.first + appended.count - 1
        if self.news is None and appended.epoch == self.epochs.current:
            self.position = max(self.position, appended.first + appended.count - 1)
            self._oldest = max(self._oldest, oldest)
            self._bytes = size
            if appended.first <= self._oldest:
                self._oldest_time = 0  # not known until Redis is asked again

    def reached(self, position: int) -> None:
        """A follower has come to this event."""
        self.position = max(self.position, position)
