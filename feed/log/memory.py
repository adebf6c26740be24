"""The log in memory: the fastest one, and gone with the process, together with its ids."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from feed.errors import Invalid
from feed.event import Draft, Event, size_of
from feed.histogram import Histogram
from feed.log.clock import Clock, now
from feed.log.conditions import Newest, has_terms, judged
from feed.log.contract import (
    Answers,
    Appended,
    FileBytes,
    Loss,
    Page,
    Retained,
    Retention,
    Topic,
    appended_as,
)
from feed.log.epochs import Epochs, new_epoch
from feed.log.idempotency import KEY_LIFETIME_MS, KEY_REUSED, IdempotencyKey
from feed.log.paging import up_to_page
from feed.log.tail import Tails
from feed.log.topics import LogTopics
from feed.log.window import Window
from feed.pattern import Selection
from feed.terms import DELETED

_RETAIN_BYTES = 256 << 20


class MemoryLog:
    """`memory:`. Each method does its work in one step of the event loop."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._epochs = Epochs([(new_epoch(), 1)])
        self._window = Window(0, max_events=retention.events, max_bytes=retention.bytes or _RETAIN_BYTES)
        self._topics = LogTopics()
        self._clock = Clock()
        self._tails = Tails()
        self.commits = Histogram()  # see `Log`: empty here
        self._answers: OrderedDict[tuple[str, str], tuple[bytes, int, Appended]] = OrderedDict()

    @property
    def position(self) -> int:
        """See `Log`."""
        return self._window.position

    @property
    def oldest(self) -> int:
        """See `Log`."""
        expired = now() - int(self._retention.age * 1000)
        while (event := self._window.oldest()) is not None and event.time_ms < expired:
            self._window.drop_before(event.seq + 1)
        self._topics.forget_before(self._window.first)
        return self._window.first

    @property
    def retained(self) -> Retained:
        """See `Log`."""
        self.oldest  # noqa: B018  drops what is too old
        return Retained(len(self._window), self._window.bytes)

    @property
    def oldest_time(self) -> int | None:
        """See `Log`."""
        self.oldest  # noqa: B018  drops what is too old
        event = self._window.oldest()
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
        time = self._clock.next()
        if key is not None and (answer := self._answer(key, time)) is not None:
            return answer
        window, epoch = self._window, self._epochs.current
        first = window.position + 1
        if has_terms(drafts):
            drafts, ids = judged(drafts, epoch, first, self._newest_of)
            appended = appended_as(ids, len(drafts))
        else:
            appended = Appended(epoch, first, len(drafts))
        events = [
            Event(epoch, seq, draft.topic, draft.type, draft.text, draft.is_json, time)
            for seq, draft in enumerate(drafts, first)
        ]
        if events:
            size = size_of(events)
            window.extend(events, size)
            self._topics.note(events)
            self._topics.forget_before(window.first)
            self._tails.push(events, size)
        if key is not None:
            self._answers[key.principal, key.key] = (key.fingerprint, time + KEY_LIFETIME_MS, appended)
        return appended

    def _newest_of(self, topic: str) -> Newest | None:
        self.oldest  # noqa: B018  drops what is too old
        seq = self._topics.newest(topic)
        return None if seq is None else Newest(self.id_at(seq), self._window.at(seq).type == DELETED)

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
        start = max(after, self.oldest - 1)
        page = self._window.page(start, selection, limit)
        await asyncio.sleep(0)  # many pages in a row must not hold up other tasks
        if page is None or until <= start:
            return Page([], start, start)
        events = [_bare(event) for event in page.events if event.seq <= until]
        return Page(events, start, min(page.end, until))

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log`."""
        oldest = self.oldest
        before = min(before, self.position + 1)
        page = self._window.page_backward(before, selection, limit)
        await asyncio.sleep(0)
        if page is None:
            return Page([], min(before, oldest) - 1, before - 1)
        return Page([_bare(event) for event in page.events], page.start, page.end)

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """See `Log`."""
        oldest, position = self.oldest, self.position
        await asyncio.sleep(0)
        return up_to_page(_bare(self._window.at(seq)) for seq in seqs if oldest <= seq <= position)

    async def topics(self) -> Sequence[Topic]:
        """See `Log`."""
        self.oldest  # noqa: B018  drops what is too old
        return self._topics.all()

    async def before_time(self, time: int) -> int:
        """See `Log`."""
        self.oldest  # noqa: B018  drops what is too old
        return self._window.before_time(time)

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """See `Log`."""
        return self._tails.follow(self, after)

    def forget_followers(self) -> None:
        """Hand no more events to the followers: their event loop has ended."""
        self._tails = Tails()

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
        """See `Log`: there is nothing to release."""


def _bare(event: Event) -> Event:
    """Return the event without wire formats. Only recent events keep those; a replay would otherwise leave them on
    all."""
    return msgspec.structs.replace(event)
