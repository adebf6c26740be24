"""The time of a log's commits: the machine's clock, but never back."""

from __future__ import annotations

import time


class Clock:
    """`last` is the time of the log's newest event, in milliseconds since 1970.

    A machine's clock may be set back. What is committed then has the time of the event before it, until the clock has
    come as far again: so times have the order of the events, and whoever asks for a time finds all since.
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self) -> int:
        """The time of what is committed now."""
        self.last = max(self.last, now())
        return self.last


def now() -> int:
    """What the machine's clock says, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
