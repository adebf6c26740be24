"""The newest events of a log in memory: consecutive, and bounded in count and bytes.

A window begins after the last hole of the log. Earlier events are read from the log, where holes are seen.

The memory log consists of one. A feed keeps one of any other log, so that a storm of reconnecting readers does not read
the disk.
"""

from __future__ import annotations

from collections.abc import Sequence

from feed.event import Event, size_of
from feed.log.contract import SCAN_EVENTS, Page
from feed.log.paging import Scan
from feed.pattern import Selection

_MANY_LEFT = 64
_GONE = Event("", 0, "", "", "", False, 0)


class Window:
    """Events `first` to `position`, without a hole. `position` is that of the newest event, even when none is kept.

    Beyond the bounds the oldest events leave. For one thread only.
    """

    def __init__(self, position: int, *, max_events: int, max_bytes: int) -> None:
        self.position = position
        self.bytes = 0
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._events: list[Event] = []
        self._left = 0  # how many at the start of the list have left; now and then they are cut off together

    @property
    def first(self) -> int:
        """The seq of the oldest event that is kept; `position + 1` if there is none."""
        return self.position + 1 - len(self)

    def __len__(self) -> int:
        return len(self._events) - self._left

    def skip_to(self, position: int) -> None:
        """Drop all events, and continue after `position`, which may be ahead or back."""
        self.drop_before(self.position + 1)
        self._events.clear()
        self._left = 0
        self.position = position

    def extend(self, events: Sequence[Event], size: int | None = None) -> None:
        """Add the next events. After a hole the window starts anew. `size` is that of all events, if it is known.
        Raises `ValueError` for events that came before."""
        self.bytes += size_of(events) if size is None else size
        for place, event in enumerate(events):
            seq = event.seq
            if seq != self.position + 1:
                if seq <= self.position:
                    self.bytes -= size_of(events[place:])
                    raise ValueError(f"event {seq} cannot follow {self.position}")
                self.skip_to(seq - 1)
                self.bytes = size_of(events[place:])
            self._events.append(event)
            self.position = seq
        kept = len(self._events) - self._left
        while kept > self._max_events or (self.bytes > self._max_bytes and kept):
            self._drop_oldest()
            kept -= 1
        if self._left > _MANY_LEFT:
            self._compact()

    def drop_before(self, seq: int) -> None:
        """Drop the events before `seq`."""
        while self and self.first < seq:
            self._drop_oldest()
        self._compact()

    def oldest(self) -> Event | None:
        """Return the oldest event that is kept."""
        return self._events[self._left] if self else None

    def at(self, seq: int) -> Event:
        """Return the event with this seq, which has to be kept."""
        return self._events[self._left + seq - self.first]

    def after(self, seq: int, limit: int) -> Sequence[Event] | None:
        """Return the events that follow `seq`, at most `limit`; None if the window does not reach back that far."""
        if seq + 1 < self.first:
            return None
        start = self._left + seq + 1 - self.first
        return self._events[start : start + limit]

    def before(self, seq: int, limit: int) -> Sequence[Event]:
        """Return the newest events before `seq`, at most `limit`, oldest first."""
        end = self._left + max(0, min(seq, self.position + 1) - self.first)
        return self._events[max(self._left, end - limit) : end]

    def before_time(self, time: int) -> int:
        """Return the position before the first event committed at `time` or later. A binary search: times never go
        back."""
        low, high = self.first - 1, self.position  # the answer is in low..high
        while low < high:
            middle = (low + high) // 2
            if self._events[self._left + middle + 1 - self.first].time_ms < time:
                low = middle + 1
            else:
                high = middle
        return low

    def page(self, after: int, selection: Selection, limit: int) -> Page | None:
        """`Log.read` from memory, up to the newest event; None if the window does not reach back that far."""
        scanned = self.after(after, SCAN_EVENTS)
        if scanned is None:
            return None
        scan = Scan(scanned, selection, limit)
        scan.go_on()
        return Page(scan.wanted, after, after + scan.looked)

    def page_backward(self, before: int, selection: Selection, limit: int) -> Page | None:
        """`Log.read_backward` from memory; None if none of the events just before `before` is here."""
        scanned = self.before(before, SCAN_EVENTS)
        if not scanned or before > self.position + 1:
            return None
        scan = Scan(reversed(scanned), selection, limit)
        scan.go_on()
        scan.wanted.reverse()
        return Page(scan.wanted, before - 1 - scan.looked, before - 1)

    def _drop_oldest(self) -> None:
        event = self._events[self._left]
        self.bytes -= event.size
        event.forget_wire_formats()
        self._events[self._left] = _GONE  # the event must not stay in memory until the list is cut
        self._left += 1

    def _compact(self) -> None:
        if self._left > _MANY_LEFT and self._left * 4 > len(self._events):
            del self._events[: self._left]
            self._left = 0
