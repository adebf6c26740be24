"""How long to wait before trying again: longer each time, and jittered, so that many do not come at once."""

from __future__ import annotations

import random

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
