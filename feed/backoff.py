"""How long to wait before trying again: longer each time, and jittered, so that many do not come at once. And how often
to say meanwhile what is waited for."""

from __future__ import annotations

import random
import time

_REMIND_SECONDS = 60.0

_SHORTEST, _LONGEST = 0.05, 2.0  # seconds


class Backoff:
    """Pauses that double, up to a bound: `longest` seconds, and half as much again by jitter."""

    def __init__(self, longest: float = _LONGEST) -> None:
        self._longest = longest
        self._pause = _SHORTEST

    def next(self) -> float:
        """The next pause, in seconds."""
        pause = self._pause
        self._pause = min(self._longest, 2 * pause)
        return pause * random.uniform(0.5, 1.5)

    def reset(self) -> None:
        """It worked: the next pause is a short one again."""
        self._pause = _SHORTEST


class Reminder:
    """Lets the same be said once a minute, however often it is met."""

    def __init__(self) -> None:
        self._said = ""
        self._at = -_REMIND_SECONDS

    def is_due(self, words: str) -> bool:
        """Whether to say it now: it is something else than what was said last, or that was long ago."""
        now = time.monotonic()
        if words == self._said and now - self._at < _REMIND_SECONDS:
            return False
        self._said, self._at = words, now
        return True

    def reset(self) -> None:
        """It is over: when it is met again it is said at once."""
        self._said = ""
