"""The clock for commit times: the machine's, but it never goes back."""

from __future__ import annotations

import time


class Clock:
    """`last` is the time of the log's newest event, in milliseconds since 1970.

    A machine's clock may be set back. Events committed then take the time of the event before them, until the clock has
    caught up. So times are in the order of the events, and a search for a time finds every later event.
    """

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self) -> int:
        """Return the time for a commit now."""
        today = time.time_ns() // 1_000_000
        if today > self.last:
            self.last = today
        return self.last


def now() -> int:
    """Return the machine's time, in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
