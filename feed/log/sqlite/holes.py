"""Where events are missing between those of the file. There may be as many holes as events, so all look-ups bisect."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from itertools import accumulate

Hole = tuple[int, int]
"""The first and the last seq of events that are missing."""


class Holes:
    """All holes, oldest first, with events between any two. The object never changes, so other threads may read it."""

    def __init__(self, holes: Iterable[Hole] = ()) -> None:
        holes = list(holes)
        self._firsts = [first for first, _ in holes]
        self._lasts = [last for _, last in holes]
        self._gone = [0, *accumulate(last + 1 - first for first, last in holes)]  # in all holes before each one

    def __len__(self) -> int:
        return len(self._lasts)

    @property
    def last(self) -> int:
        """The highest seq that is missing, 0 if none is."""
        return self._lasts[-1] if self._lasts else 0

    def gone_from(self, seq: int) -> int:
        """Return how many events from `seq` on are missing."""
        place = bisect_left(self._lasts, seq)
        begun = max(0, seq - self._firsts[place]) if place < len(self) else 0
        return self._gone[-1] - self._gone[place] - begun

    def are_before(self, seq: int) -> bool:
        """Return whether all holes end before `seq`."""
        return not self._lasts or self._lasts[-1] < seq

    def first_run(self, start: int, end: int) -> tuple[int, int]:
        """Return the first part of `start + 1 … end` without a hole: empty, at `end`, if all of it is missing."""
        place = bisect_left(self._lasts, start + 1)
        if place < len(self) and self._firsts[place] <= start + 1:
            start = min(end, self._lasts[place])
            place += 1
        return start, min(end, self._firsts[place] - 1) if place < len(self) else end

    def last_run(self, start: int, end: int) -> tuple[int, int]:
        """Return the last such part: empty, at `start`, if all of it is missing."""
        place = bisect_right(self._firsts, end) - 1
        if place >= 0 and self._lasts[place] >= end:
            end = max(start, self._firsts[place] - 1)
            place -= 1
        return max(start, self._lasts[place]) if place >= 0 else start, end
