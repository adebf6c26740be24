"""What this node knows about the log: which ids are valid, and which events it holds.

**What ids mean changes only in a step of a follower**, when it raises `LogLost`. There is no `await` between that and
the reaction of the caller, so no position is ever read with the wrong epochs. Until then the new record waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence

from feed.errors import FeedUnavailable
from feed.event import Event
from feed.log import lanes
from feed.log.classes import Classes, Retention
from feed.log.contract import Appended, Retained
from feed.log.epochs import Epochs, new_epoch
from feed.log.redis.classes import NodeClasses, Told, parse_told
from feed.log.redis.link import Argument, Ask, Script
from feed.log.redis.record import Record, parse_record

logger = logging.getLogger(__name__)

_RETAIN_BYTES = 1 << 30  # unless given
_LEARN_SECONDS = 3.0  # for the follower to react to a new record


class State:
    """One for each log. `news` is a record that the log's followers have not reacted to yet."""

    def __init__(self, retention: Retention) -> None:
        self.bounds: Sequence[Argument] = (
            retention.events,
            retention.bytes or _RETAIN_BYTES,
            int(retention.age * 1000),
            retention.keys,
        )
        self.record = Record([], frozenset(), False, 0, 1, 0, 0, 0, True)
        self._names = frozenset(self.record.names)  # of the record's epochs
        self.node_classes = NodeClasses(retention, _RETAIN_BYTES)
        self.news: Record | None = None
        self.epochs = Epochs([("", 1)])
        self.position = 0
        self.seen = 0.0  # when Redis last told the log's state, in the loop's time
        self.lease_due: float | None = None  # when the next lease runs out, in the loop's time
        self._retention = retention
        self._oldest = 1
        self._bytes = 0
        self._oldest_time = 0
        self._written = ("-", 0)
        self._told = self._written  # what of `_written` Redis has been told
        self._changes = 0
        self._adopted = asyncio.Event()
        self._look, self._enter, self._settle = Script("look"), Script("enter"), Script("settle")
        self._settled: int | None = None  # the generation that this node has made, or has found to be as it wants it
        self._complained = 0  # the generation of which it was logged that it is another one

    @property
    def classes(self) -> Classes:
        """See `Log`."""
        return self.node_classes.current

    @property
    def oldest(self) -> int:
        """See `Log`."""
        if self.classes:
            return self._oldest
        return max(self._oldest, self.position + 1 - self._retention.events)

    @property
    def retained(self) -> Retained:
        """See `Log`. Redis tells the bytes with each append of this node, and when it is asked for the log's state,
        once a second."""
        if (of_classes := self.node_classes.retained) is not None:
            return of_classes
        return Retained(self.position + 1 - self.oldest, self._bytes)

    @property
    def oldest_time(self) -> int | None:
        """See `Log`. For an event that has just become the oldest the time is known a second later."""
        return self._oldest_time if self.oldest <= self.position and self._oldest_time else None

    def knows(self, events: Sequence[Event]) -> bool:
        """Tell whether the epochs of all these events are known to this node."""
        return {event.epoch for event in events} <= self._names

    def known(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the events whose epochs are known. If the record is up to date, no id leads to the others: they do not
        belong to this log."""
        return [event for event in events if event.epoch in self._names]

    @property
    def written(self) -> tuple[str, int]:
        """The newest epoch and seq that this node knows of. The meaning of this epoch's ids may not be known here
        yet."""
        names = self.record.names
        epoch, seq = self._written
        if epoch not in names:
            return self._written
        return names[-1], max(self.position, seq) if epoch == names[-1] else self.position

    async def check(self, ask: Ask) -> bool:
        """Ask for the log's state. If this node knows otherwise, or events are too old, tell Redis. Returns whether a
        primary has answered."""
        return await self._learn(ask, self._looked)

    async def check_writable(self, ask: Ask) -> bool:
        """The same, but it fails if Redis takes no writes."""
        return await self._learn(ask, self._entered)

    async def _looked(self, ask: Ask) -> Record:
        record = parse_record(await ask(self._look))
        if not record.current or not record.has_same_epochs(self.record) or record.position < self.position:
            return await self._entered(ask)
        if self._is_due(record):
            with contextlib.suppress(FeedUnavailable):  # Redis takes no writes now, and retention can wait
                return await self._entered(ask)
        return record

    def _is_due(self, record: Record) -> bool:
        """Tell whether there is an event that is too old."""
        if (told := record.told) is None:
            return record.oldest <= record.position and record.oldest_time < record.now - self._retention.age * 1000
        return told.due <= record.now or 0 <= told.tombstone < record.now - lanes.TOMBSTONE_MS

    async def _entered(self, ask: Ask) -> Record:
        names = self.record.names
        lossy = self.record.lossy if self.news is None else self.record.lossy | self.news.lossy
        kept = *self.bounds, lanes.TOMBSTONE_MS
        arguments = (new_epoch(), *self.written, self.position, *kept, len(names), *names, *lossy)
        told = self._written
        record = parse_record(await ask(self._enter, *arguments))
        self._told = told
        return record

    async def _with_classes(self, ask: Ask, record: Record) -> Record:
        """Make the classes what the settings of this node say, once when it is started, and again if Redis has lost
        them. Return the record as it is then."""
        generation = 0 if record.told is None else record.told.generation
        if self._settled is None:
            if not (record.told or self.node_classes.is_named):
                self._settled = 0  # whoever names classes from now on was started later
                return record
        elif generation >= self._settled:
            return record
        try:
            answer = await ask(self._settle, self.node_classes.settings, self._retention.keys, lanes.TOMBSTONE_MS)
        except FeedUnavailable:
            if record.told is None:
                raise
            return record  # Redis takes no writes now: what it has counts until it does
        record = parse_record(answer)
        if record.told is not None:
            self._settled = record.told.generation
        return record

    def _note_classes(self, record: Record) -> None:
        classes, told = self.node_classes, record.told
        if not classes.note(told):
            classes.adopt(told, record.settings)
        if told is None or self._settled is None or told.generation in (self._settled, self._complained):
            return
        self._complained = told.generation
        if record.settings != classes.settings:
            logger.warning(
                "a node that was started later has other settings of what is retained (retain, retention): they count "
                "for all nodes, and those of this node do not"
            )

    def told(self, told: Sequence[int]) -> bool:
        """Note what a script said about the classes. Return False if this node does not know their settings."""
        parsed = parse_told(told)
        if not self.node_classes.note(parsed):
            return False
        if parsed is not None:
            self._note_told(parsed)
        return True

    def _note_told(self, told: Told) -> None:
        self._oldest = max(self._oldest, told.oldest)
        self._oldest_time = told.oldest_time

    async def _learn(self, ask: Ask, question: Callable[[Ask], Awaitable[Record]]) -> bool:
        while True:
            changes = self._changes
            record = await self._with_classes(ask, await question(ask))
            if changes == self._changes:
                break  # otherwise another connection may have brought a newer answer meanwhile
        self.seen = asyncio.get_running_loop().time()
        self._bytes = record.bytes
        self._oldest_time = record.oldest_time if record.told is None else record.told.oldest_time
        self.lease_due = None if record.lease_due < 0 else self.seen + (record.lease_due - record.now) / 1000
        if record.has_same_epochs(self.record):
            self.position = max(self.position, record.position)
            self._oldest = max(self._oldest, record.oldest)
            self._note_classes(record)
        elif self.record.recorded and record.loss_since(self.record, self.position) is not None:
            if self.news is None or not record.has_same_epochs(self.news):
                self._changes += 1
            self.news = record
        else:
            self.adopt(record)
        return record.primary

    def adopt(self, record: Record, news: Record | None = None) -> None:
        """From now on ids mean what they mean in this record. If it is a part only, `news` is the whole record."""
        if record.loss_since(self.record, self.position) is None:
            self.position = max(self.position, record.position)
        else:
            self.position = record.position
            self.node_classes.adopt(record.told, record.settings)  # the marks may be lower than before
        self._oldest = record.oldest
        self._note_classes(record)
        self.record = record
        self._names = frozenset(record.names)
        self.epochs = record.epochs
        self.news = news
        self._changes += 1
        if news is not None:
            return
        if self._written[0] == self.epochs.current:
            self.position = max(self.position, self._written[1])  # committed after the record was made
        if self._written == self._told and self._written[0] not in record.names:
            self._written = ("-", 0)  # its loss is in the record
        self._adopted.set()
        self._adopted = asyncio.Event()

    async def up_to_date(self) -> None:
        """Wait until all followers have reacted to the new record. Raises `FeedUnavailable` if that takes long."""
        try:
            async with asyncio.timeout(_LEARN_SECONDS):
                while self.news is not None:
                    await self._adopted.wait()
        except TimeoutError:
            raise FeedUnavailable("the log has just changed, and this node is still finding out how") from None

    def appended(self, appended: Appended, oldest: int, size: int) -> None:
        """Note a commit. If its epoch is not known here yet, its seq says nothing."""
        self._written = appended.epoch, appended.first + appended.count - 1
        if self.news is None and appended.epoch == self.epochs.current:
            self.position = max(self.position, appended.first + appended.count - 1)
            self._oldest = max(self._oldest, oldest)
            self._bytes = size
            if appended.first <= self._oldest:
                self._oldest_time = 0  # not known until Redis is asked again

    def reached(self, position: int) -> None:
        """Note that a follower has come to this event."""
        self.position = max(self.position, position)
