"""How long to pause before the next try, and how often to log what is being waited for.

Pauses grow and are jittered, so that many clients do not come back at once.
"""

from __future__ import annotations

import random
import time

_REMIND_SECONDS = 60.0

_SHORTEST, _LONGEST = 0.05, 2.0  # seconds


class Backoff:
    """Pauses that double up to `longest` seconds; jitter then makes each shorter or longer by up to a half."""

    def __init__(self, longest: float = _LONGEST) -> None:
        self._longest = longest
        self._pause = _SHORTEST

    def next(self) -> float:
        """Return the next pause, in seconds."""
        pause = self._pause
        self._pause = min(self._longest, 2 * pause)
        return pause * random.uniform(0.5, 1.5)

    def reset(self) -> None:
        """Start with a short pause again, after a success."""
        self._pause = _SHORTEST


class Reminder:
    """Lets the same message be logged at most once a minute."""

    def __init__(self) -> None:
        self._said = ""
        self._at = -_REMIND_SECONDS

    def is_due(self, words: str) -> bool:
        """Tell whether to log these words now: they differ from the last ones, or a minute has passed."""
        now = time.monotonic()
        if words == self._said and now - self._at < _REMIND_SECONDS:
            return False
        self._said, self._at = words, now
        return True

    def reset(self) -> None:
        """Forget the last words, when the trouble is over: the next trouble is logged at once."""
        self._said = ""
