"""What each class of retention holds, in the process that has the log: a few numbers for each event, in order.

`Lanes` says which events have to go; the log removes them. Nothing here knows where the events are.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from feed.errors import InsufficientStorage
from feed.event import Draft, Event, event_size
from feed.log.classes import Bounds, Classes, Retention
from feed.log.contract import Retained
from feed.terms import DELETED

TOMBSTONE_MS = 7 * 24 * 3600 * 1000
"""How long `latest` keeps a tombstone at least, so that who was away learns of it."""

_MANY_LEFT = 1_024


class _Lane:
    """The events of one class that are within its bounds, oldest first."""

    def __init__(self) -> None:
        self._seqs, self._sizes, self._times = array("Q"), array("Q"), array("q")
        self._left = 0
        self.bytes = 0
        self.kept = self.kept_bytes = 0  # newest events that are beyond the bounds

    def __len__(self) -> int:
        return len(self._seqs) - self._left

    @property
    def first(self) -> int:
        return self._seqs[self._left]

    @property
    def first_time(self) -> int:
        return self._times[self._left]

    def add(self, seq: int, size: int, time: int) -> None:
        self._seqs.append(seq)
        self._sizes.append(size)
        self._times.append(time)
        self.bytes += size

    def is_over(self, bounds: Bounds, now: int) -> bool:
        if not len(self):
            return False
        return len(self) > bounds.events or self.bytes > bounds.bytes or self._times[self._left] < now - bounds.age

    def pop(self) -> tuple[int, int, int]:
        left = self._left
        popped = self._seqs[left], self._sizes[left], self._times[left]
        self.bytes -= popped[1]
        self._left += 1
        if self._left > _MANY_LEFT and self._left * 2 > len(self._seqs):
            for numbers in (self._seqs, self._sizes, self._times):
                del numbers[: self._left]
            self._left = 0
        return popped


class _Value(NamedTuple):
    """The newest event of a topic in a class that keeps it."""

    seq: int
    size: int
    is_tombstone: bool


class _Kept(NamedTuple):
    """A newest event that is beyond the bounds of its class."""

    lane: int
    topic: str
    size: int
    time: int
    is_tombstone: bool


class Room:
    """How many further values may be kept, while one commit is put together."""

    def __init__(
        self, classes: Classes, retention: Retention, values: Mapping[str, _Value], topics: int, bytes: int
    ) -> None:
        self._classes = classes
        self._retention = retention
        self._values = values
        self._topics = topics
        self._bytes = bytes
        self._sizes: dict[str, int | None] = {}  # of the values in this commit; None for a tombstone

    def take(self, drafts: Sequence[Draft]) -> None:
        """Make room for a batch. Raises `InsufficientStorage` for a value too many: then nothing has changed. What is
        deleted always has room."""
        topics, size, here = self._topics, self._bytes, dict[str, int | None]()
        for place, draft in enumerate(drafts):
            topic = draft.topic
            if not self._classes.bounds[self._classes.of(topic)].latest:
                continue
            value = self._values.get(topic)
            before = None if value is None or value.is_tombstone else value.size
            before = here.get(topic, self._sizes.get(topic, before))
            after = None if draft.type == DELETED else event_size(topic, draft.type, draft.text)
            topics += (before is None and after is not None) - (before is not None and after is None)
            size += (after or 0) - (before or 0)
            if after is not None and (
                (before is None and topics > self._retention.kept_topics)
                or (after > (before or 0) and size > self._retention.kept_bytes)
            ):
                raise InsufficientStorage(topic, place if len(drafts) > 1 else None)
            here[topic] = after
        self._topics, self._bytes = topics, size
        self._sizes |= here


class Lanes:
    """The lanes of all classes, and the values that outlive them. For one thread only."""

    def __init__(self, classes: Classes, retention: Retention) -> None:
        self.classes = classes
        self._retention = retention
        self._lanes = [_Lane() for _ in classes.marks]
        self._values: dict[str, _Value] = {}
        self._newest: dict[int, str] = {}  # the topics of the values, by seq
        self._kept: dict[int, _Kept] = {}
        self._tombstones: deque[int] = deque()  # those of the kept ones, oldest first
        self._live = 0
        self._live_bytes = 0

    @property
    def retained(self) -> Retained:
        """How much is retained, and of that in each class."""
        names = [*(mark.pattern for mark in self.classes.marks[:-1]), "default"]
        classes = {
            name: Retained(len(lane) + lane.kept, lane.bytes + lane.kept_bytes)
            for name, lane in zip(names, self._lanes, strict=True)
        }
        each = classes.values()
        return Retained(sum(one.events for one in each), sum(one.bytes for one in each), classes)

    @property
    def oldest_time(self) -> int | None:
        """When the oldest event was committed, in milliseconds since 1970; None if there is none."""
        times = [lane.first_time for lane in self._lanes if len(lane)]
        times += [kept.time for kept in islice(self._kept.values(), 1)]
        return min(times, default=None)

    def next_expiry(self) -> int | None:
        """Return when the next event is too old for its class, in milliseconds since 1970; None if there is none."""
        lanes = zip(self._lanes, self.classes.bounds, strict=True)
        times = [lane.first_time + bounds.age for lane, bounds in lanes if len(lane)]
        times += [kept.time + TOMBSTONE_MS for seq in islice(self._tombstones, 1) if (kept := self._kept.get(seq))]
        return min(times, default=None)

    def room(self) -> Room:
        """Return how much room there is for further values."""
        return Room(self.classes, self._retention, self._values, self._live, self._live_bytes)

    def add_event(self, event: Event) -> int | None:
        """Add the next event, as `add` does."""
        return self.add(event.seq, event.topic, event.size, event.time_ms, event.type == DELETED)

    def add(
        self, seq: int, topic: str, size: int, time: int, is_tombstone: bool, lane: int | None = None
    ) -> int | None:
        """Add the next event. Return the seq of one that goes, because this one supersedes it. `lane` is the number of
        its class, if its topic had another one then."""
        lane = self.classes.of(topic) if lane is None else lane
        self._lanes[lane].add(seq, size, time)
        before, gone = self._values.pop(topic, None), None
        if before is not None:
            del self._newest[before.seq]
            self._live -= not before.is_tombstone
            self._live_bytes -= 0 if before.is_tombstone else before.size
            if (kept := self._kept.pop(before.seq, None)) is not None:
                gone = before.seq
                self._leave(kept)
                self._note_taken(kept.lane, gone)
        if not self.classes.bounds[lane].latest:
            return gone
        self._values[topic] = _Value(seq, size, is_tombstone)
        self._newest[seq] = topic
        self._live += not is_tombstone
        self._live_bytes += 0 if is_tombstone else size
        return gone

    def take(self, now: int) -> Iterator[int]:
        """Yield the seqs of the events that go, because they are beyond the bounds of their class."""
        for number, lane in enumerate(self._lanes):
            bounds = self.classes.bounds[number]
            while lane.is_over(bounds, now):
                seq, size, time = lane.pop()
                topic = self._newest.get(seq) if bounds.latest else None
                if topic is None:
                    self._note_taken(number, seq)
                    yield seq
                    continue
                is_tombstone = self._values[topic].is_tombstone
                lane.kept, lane.kept_bytes = lane.kept + 1, lane.kept_bytes + size
                self._kept[seq] = _Kept(number, topic, size, time, is_tombstone)
                if is_tombstone:
                    self._tombstones.append(seq)
        yield from self._take_tombstones(now)

    def _take_tombstones(self, now: int) -> Iterator[int]:
        tombstones = self._tombstones
        while tombstones:
            kept = self._kept.get(tombstones[0])
            if kept is not None and kept.time >= now - TOMBSTONE_MS:
                break
            seq = tombstones.popleft()
            if kept is not None:  # else it was superseded
                del self._kept[seq], self._newest[seq], self._values[kept.topic]
                self._leave(kept)
                self._note_taken(kept.lane, seq)
                self.classes.marks[kept.lane].ended = max(self.classes.marks[kept.lane].ended, seq)
                yield seq

    def _leave(self, kept: _Kept) -> None:
        lane = self._lanes[kept.lane]
        lane.kept, lane.kept_bytes = lane.kept - 1, lane.kept_bytes - kept.size

    def _note_taken(self, lane: int, seq: int) -> None:
        mark = self.classes.marks[lane]
        mark.taken = max(mark.taken, seq)
