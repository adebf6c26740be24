"""How long a client waits: before it tries again, and until it takes a silence for a death. All in seconds."""

from __future__ import annotations

import random

PATIENCE = 60.0  # for which a call is repeated before it is given up
SILENCE = 45.0  # three heartbeats: a stream that says nothing for longer is dead, and opened anew
CONNECT = 10.0
ANSWER = 30.0  # to one try of a call, and to the opening of a stream

FIRST_CALL, LONGEST_CALL = 0.2, 5.0  # between two tries of a call
FIRST_STREAM, LONGEST_STREAM = 1.0, 30.0  # between two tries to open a stream
COME_BACK = 3.0  # after a stream that was open, where the server has not named another time

LONGEST_OBEYED = 300.0  # that a server can send a client away for: what is beyond is a mistake

_SHORTEST = 0.05  # that a server can make a client hurry
_SPREAD = 0.25  # of a wait, either way


class Waits:
    """Waits between tries: each about twice the one before, up to a bound, and spread by a quarter, so that a crowd
    that lost its server at one moment does not come back at one moment. A first one beyond the bound, which a server
    has asked for, moves it."""

    def __init__(self, first: float, longest: float) -> None:
        self._longest = longest
        self.begin(first)

    def begin(self, first: float) -> None:
        """All is well: the next wait is the first again."""
        self._next = obeyed(first)
        self._most = max(self._longest, min(self._next * (1 + _SPREAD), LONGEST_OBEYED))

    def next(self) -> float:
        """How long to wait now."""
        wait = min(self._next * random.uniform(1 - _SPREAD, 1 + _SPREAD), self._most)
        self._next = min(self._next * 2, self._most)
        return wait


def obeyed(asked: float) -> float:
    """How long to stay away when a server asks for it, within reason."""
    return min(max(asked, _SHORTEST), LONGEST_OBEYED)
