"""The log in memory: the fastest one, and gone with the process, together with its ids."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from time import monotonic

import msgspec

from feed.errors import Invalid, NoEvents
from feed.event import Draft, Event, size_of, tombstone
from feed.histogram import Histogram
from feed.log.classed import ClassedEvents, DenseEvents
from feed.log.classes import Classes, Retention, classes_of
from feed.log.clock import Clock, now
from feed.log.conditions import Newest, has_terms, judged
from feed.log.contract import Answers, Appended, FileBytes, Loss, Page, Retained, Topic, appended_as
from feed.log.epochs import Epochs, new_epoch
from feed.log.idempotency import KEY_LIFETIME_MS, KEY_REUSED, IdempotencyKey
from feed.log.lanes import Lanes
from feed.log.leases import Changes, Lease, Leases, check_room, lease_changes
from feed.log.paging import up_to_page
from feed.log.tail import Tails
from feed.log.topics import LogTopics
from feed.pattern import Selection
from feed.terms import DELETED

_RETAIN_BYTES = 256 << 20


class MemoryLog:
    """`memory:`. Each method does its work in one step of the event loop."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._epochs = Epochs([(new_epoch(), 1)])
        self.classes = classes_of(retention, _RETAIN_BYTES)
        self._topics = LogTopics()
        self._events = _events_of(retention, self.classes, self._topics)
        self._leases = Leases()
        self._timer: asyncio.TimerHandle | None = None  # for the next lease to run out
        self._clock = Clock()
        self._tails = Tails()
        self.commits = Histogram()  # see `Log`: empty here
        self._answers: OrderedDict[tuple[str, str], tuple[bytes, int, Appended]] = OrderedDict()

    @property
    def position(self) -> int:
        """See `Log`."""
        return self._events.position

    @property
    def oldest(self) -> int:
        """See `Log`."""
        self._events.retain(now())
        return self._events.first

    @property
    def retained(self) -> Retained:
        """See `Log`."""
        self._events.retain(now())
        return self._events.retained

    @property
    def oldest_time(self) -> int | None:
        """See `Log`."""
        self._events.retain(now())
        event = self._events.oldest()
        return None if event is None else event.time_ms

    @property
    def file_bytes(self) -> FileBytes:
        """See `Log`: there are no files."""
        return FileBytes()

    @property
    def reconnects(self) -> int:
        """See `Log`."""
        return 0

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """See `Log`."""
        return self._append(drafts, key)

    def _append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        time = self._clock.next()
        if key is not None and (answer := self._answer(key, time)) is not None:
            return answer
        epoch, first = self._epochs.current, self._events.position + 1
        asked = drafts
        changes: Changes = {}
        if has_terms(drafts):
            drafts, ids = judged(drafts, epoch, first, self._newest_of)
            appended = appended_as(ids, len(drafts))
            changes = lease_changes(self._leases, {}, zip(drafts, count(first)))
        else:
            appended = Appended(epoch, first, len(drafts))
            if self._leases:
                changes = {draft.topic: None for draft in drafts}
        self._events.check_room(asked)
        events = [
            Event(epoch, seq, draft.topic, draft.type, draft.text, draft.is_json, time)
            for seq, draft in enumerate(drafts, first)
        ]
        if events:
            size = size_of(events)
            self._events.extend(events, size, now())
            self._tails.push(events, size)
        if changes:
            self._leases.change(changes, monotonic())
            self._set_timer()
        if key is not None:
            self._answers[key.principal, key.key] = (key.fingerprint, time + KEY_LIFETIME_MS, appended)
        return appended

    async def renew(self, topic: str, ttl: int) -> None:
        """See `Log`."""
        newest, seq = self._newest_of(topic), self._topics.newest(topic)
        if newest is None or newest.is_deleted or seq is None:
            raise NoEvents(topic)
        if topic not in self._leases:
            check_room(self._leases)
        self._leases.set(topic, Lease(seq, ttl), monotonic())
        self._set_timer()

    def _set_timer(self) -> None:
        """Wake up when the next lease runs out, or earlier: a timer is set once for many renewals."""
        due, timer = self._leases.next_due(), self._timer
        if due is None or (timer is not None and timer.when() <= self._loop_time(due)):
            return
        if timer is not None:
            timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(self._loop_time(due), self._run_out)

    @staticmethod
    def _loop_time(moment: float) -> float:
        return moment - monotonic() + asyncio.get_running_loop().time()

    def _run_out(self) -> None:
        self._timer = None
        topics = self._leases.run_out(monotonic())
        there = [topic for topic in topics if self._newest_of(topic) is not None]
        for topic in topics:
            self._leases.end(topic)
        if there:
            self._append([tombstone(topic) for topic in there])
        self._set_timer()

    def _newest_of(self, topic: str) -> Newest | None:
        self._events.retain(now())
        seq = self._topics.newest(topic)
        event = None if seq is None else self._events.at(seq)
        return None if event is None else Newest(self.id_at(event.seq), event.type == DELETED)

    def _answer(self, key: IdempotencyKey, time: int) -> Appended | None:
        while self._answers:
            oldest = next(iter(self._answers))
            if self._answers[oldest][1] > time and len(self._answers) < self._retention.keys:
                break
            del self._answers[oldest]
        answer = self._answers.get((key.principal, key.key))
        if answer is None:
            return None
        if answer[0] != key.fingerprint:
            raise Invalid("Idempotency-Key", KEY_REUSED)
        return msgspec.structs.replace(answer[2], repeated=True)

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        self._events.retain(now())
        page = self._events.page(after, until, selection, limit)
        await asyncio.sleep(0)  # many pages in a row must not hold up other tasks
        return _bare_page(page)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        self._events.retain(now())
        page = self._events.page_backward(before, selection, limit)
        await asyncio.sleep(0)
        return _bare_page(page)

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        self._events.retain(now())
        await asyncio.sleep(0)
        return up_to_page(_bare(event) for seq in seqs if (event := self._events.at(seq)) is not None)

    async def topics(self) -> Sequence[Topic]:
        """See `Log`."""
        self._events.retain(now())
        return [topic._replace(ended=self._is_ended(topic.newest)) for topic in self._topics.all()]

    def _is_ended(self, seq: int) -> bool:
        event = self._events.at(seq)
        return event is not None and event.type == DELETED

    async def before_time(self, time: int) -> int:
        """See `Log`."""
        self._events.retain(now())
        return self._events.before_time(time)

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`."""
        return self._tails.follow(self, after)

    def forget_followers(self) -> None:
        """Hand no more events to the followers: their event loop has ended."""
        self._tails = Tails()
        self._timer = None
        self._set_timer()

    def id_at(self, position: int) -> str:
        """See `Log`."""
        return self._epochs.id_at(position)

    async def locate(self, id: str) -> int | None:
        """See `Log`."""
        return self._epochs.locate(id, self.position)

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """See `Log`: this log loses nothing while it is open."""
        return ()

    async def check(self) -> None:
        """See `Log`: always ready."""

    async def ask_others(self, question: bytes) -> Answers:
        """See `Log`: there are no others."""
        return Answers()

    def answer_others(self, answer: Callable[[bytes], bytes]) -> None:
        """See `Log`: there are no others."""

    async def close(self) -> None:
        """See `Log`."""
        if self._timer is not None:
            self._timer.cancel()


def _events_of(retention: Retention, classes: Classes, topics: LogTopics) -> DenseEvents | ClassedEvents:
    if classes:
        return ClassedEvents(topics, Lanes(classes, retention))
    most, age = retention.bytes or _RETAIN_BYTES, int(retention.age * 1000)
    return DenseEvents(topics, events=retention.events, bytes=most, age=age)


def _bare_page(page: Page) -> Page:
    return msgspec.structs.replace(page, events=[_bare(event) for event in page.events])


def _bare(event: Event) -> Event:
    """Return the event without wire formats. Only recent events keep those; a replay would otherwise leave them on
    all."""
    return msgspec.structs.replace(event)
