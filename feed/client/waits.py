"""Times in seconds: waits before the next attempt, and the longest silence of a stream."""

from __future__ import annotations

import random

PATIENCE = 60.0
"""The time in seconds for which a client repeats a call, unless its `patience` says otherwise."""

SILENCE = 45.0  # three heartbeats: a stream that is silent for longer is dead, and opened again
CONNECT = 10.0
ANSWER = 30.0  # for the answer to one attempt of a call, and to the opening of a stream

FIRST_CALL, LONGEST_CALL = 0.2, 5.0  # between two attempts of a call
FIRST_STREAM, LONGEST_STREAM = 1.0, 30.0  # between two attempts to open a stream
COME_BACK = 3.0  # after a stream that was open, unless the server has named another time

LONGEST_OBEYED = 300.0  # the longest that a server can send a client away: a longer time is a mistake

_SHORTEST = 0.05  # the shortest wait that a server can ask for
_SPREAD = 0.25  # of a wait, in both directions


class Waits:
    """Waits between attempts: each about twice the one before, up to a bound, and spread by a quarter, so that a crowd
    that has lost its server at one moment does not come back at one moment. A first wait above the bound, which a
    server has asked for, raises the bound."""

    def __init__(self, first: float, longest: float) -> None:
        self._longest = longest
        self.begin(first)

    def begin(self, first: float) -> None:
        """Start again with the first wait, after a success."""
        self._next = obeyed(first)
        self._most = max(self._longest, min(self._next * (1 + _SPREAD), LONGEST_OBEYED))

    def next(self) -> float:
        """Return the next wait."""
        wait = min(self._next * random.uniform(1 - _SPREAD, 1 + _SPREAD), self._most)
        self._next = min(self._next * 2, self._most)
        return wait


def obeyed(asked: float) -> float:
    """Return the wait that a server asks for, within bounds."""
    return min(max(asked, _SHORTEST), LONGEST_OBEYED)
