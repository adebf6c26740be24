"""The events of a log in memory. Without classes of retention they are a window, without a gap; with classes there are
gaps between them. Both keep the index of topics in step."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from feed.event import Draft, Event
from feed.log.contract import SCAN_EVENTS, Page, Retained
from feed.log.lanes import Lanes
from feed.log.paging import Scan
from feed.log.topics import LogTopics
from feed.log.window import Window
from feed.pattern import Selection

_MANY_GONE = 1_024


class DenseEvents:
    """The newest events, within three bounds. `age` is in milliseconds."""

    def __init__(self, topics: LogTopics, *, events: int, bytes: int, age: int) -> None:
        self._topics = topics
        self._age = age
        self._window = Window(0, max_events=events, max_bytes=bytes)

    @property
    def position(self) -> int:
        """The seq of the newest event, 0 before the first."""
        return self._window.position

    @property
    def retained(self) -> Retained:
        """How much there is."""
        return Retained(len(self._window), self._window.bytes)

    @property
    def first(self) -> int:
        """The seq of the oldest event; `position + 1` if there is none."""
        return self._window.first

    def oldest(self) -> Event | None:
        """Return the oldest event."""
        return self._window.oldest()

    def at(self, seq: int) -> Event | None:
        """Return the event with this seq, None if it is gone."""
        return self._window.at(seq) if self._window.first <= seq <= self._window.position else None

    def check_room(self, drafts: Sequence[Draft]) -> None:
        """Do nothing: there is always room, as the oldest events go."""

    def extend(self, events: Sequence[Event], size: int, now: int) -> None:
        """Add the next events, and remove those that go."""
        self._window.extend(events, size)
        self._topics.note(events)
        self._topics.forget_before(self._window.first)

    def retain(self, now: int) -> None:
        """Remove the events that are too old."""
        window, expired = self._window, now - self._age
        while (event := window.oldest()) is not None and event.time_ms < expired:
            window.drop_before(event.seq + 1)
        self._topics.forget_before(window.first)

    def page(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """See `Log.read`."""
        start = max(after, self.first - 1)
        page = self._window.page(start, selection, limit)
        if page is None or until <= start:
            return Page([], start, start)
        return Page([event for event in page.events if event.seq <= until], start, min(page.end, until))

    def page_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """See `Log.read_backward`."""
        before = min(before, self.position + 1)
        page = self._window.page_backward(before, selection, limit)
        return Page([], min(before, self.first) - 1, before - 1) if page is None else page

    def before_time(self, time: int) -> int:
        """See `Log`."""
        return self._window.before_time(time)


class ClassedEvents:
    """The retained events, by seq. `position` is the seq of the newest one that ever was."""

    def __init__(self, topics: LogTopics, lanes: Lanes) -> None:
        self.position = 0
        self._topics = topics
        self._lanes = lanes
        self._events: dict[int, Event] = {}
        self._seqs: list[int] = []  # in order, with some that are gone

    def __len__(self) -> int:
        return len(self._events)

    @property
    def retained(self) -> Retained:
        """How much there is."""
        return self._lanes.retained

    @property
    def first(self) -> int:
        """The seq of the oldest event; `position + 1` if there is none."""
        event = self.oldest()
        return self.position + 1 if event is None else event.seq

    def oldest(self) -> Event | None:
        """Return the oldest event."""
        return next(self._from(0), None)

    def at(self, seq: int) -> Event | None:
        """Return the event with this seq, None if it is gone."""
        return self._events.get(seq)

    def check_room(self, drafts: Sequence[Draft]) -> None:
        """Raise `InsufficientStorage` for a value too many."""
        self._lanes.room().take(drafts)

    def extend(self, events: Sequence[Event], size: int, now: int) -> None:
        """Add the next events, and remove those that go."""
        self._topics.note(events)
        for event in events:
            self._events[event.seq] = event
            self._seqs.append(event.seq)
            if (superseded := self._lanes.add_event(event)) is not None:
                self._remove(superseded)
        self.position = events[-1].seq
        self.retain(now)

    def retain(self, now: int) -> None:
        """Remove what is beyond the bounds of its class."""
        for seq in self._lanes.take(now):
            self._remove(seq)
        if len(self._seqs) > 2 * len(self._events) + _MANY_GONE:
            self._seqs = [seq for seq in self._seqs if seq in self._events]

    def _remove(self, seq: int) -> None:
        self._topics.forget(self._events.pop(seq).topic, seq)

    def page(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """Return the next page, as `Log.read` does, without what was taken."""
        place = bisect_right(self._seqs, after)
        scanned = [event for event in islice(self._from(place), SCAN_EVENTS) if event.seq <= until]
        scan = Scan(scanned, selection, limit)
        scan.go_on()
        if scan.looked < len(scanned):
            end = scanned[scan.looked - 1].seq
        elif len(scanned) < SCAN_EVENTS:
            end = max(after, min(until, self.position))
        else:
            end = scanned[-1].seq
        return Page(scan.wanted, after, end, self._lanes.classes.taken(selection, after))

    def page_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """Return the page before `before`, as `Log.read_backward` does."""
        place = bisect_left(self._seqs, before)
        scanned = list(islice(self._back_from(place), SCAN_EVENTS))
        scan = Scan(scanned, selection, limit)
        scan.go_on()
        scan.wanted.reverse()
        before = min(before, self.position + 1)
        start = scanned[scan.looked - 1].seq - 1 if scanned else min(before, self.first) - 1
        return Page(scan.wanted, start, before - 1)

    def before_time(self, time: int) -> int:
        """Return the position before the first event committed at `time` or later."""
        low, high = 0, len(self._seqs)
        while low < high:
            middle = (low + high) // 2
            event = next(self._from(middle), None)
            if event is not None and event.time_ms < time:
                low = bisect_right(self._seqs, event.seq)
            else:
                high = middle
        event = next(self._from(low), None)
        return self.position if event is None else event.seq - 1

    def _from(self, place: int) -> Iterator[Event]:
        for number in range(place, len(self._seqs)):
            if (event := self._events.get(self._seqs[number])) is not None:
                yield event

    def _back_from(self, place: int) -> Iterator[Event]:
        for number in range(place - 1, -1, -1):
            if (event := self._events.get(self._seqs[number])) is not None:
                yield event
