"""Keeps Python's garbage collector from looking at every connection again and again.

A full collection looks at all that lives, some 40 µs a connection: with ten thousand it would stop the event loop for
half a second. What a connection consists of is freed by its reference counts, so there is nothing to be found there.
"""

from __future__ import annotations

import gc

_FEW = 200  # connections that cost a full collection less than 10 ms
_STEP = 200  # new ones after which all that lives is set aside again


class Collector:
    """While there are many connections, what they are made of is set aside (`gc.freeze`, which takes no time). When
    there are few again it is given back, should there have been garbage in it."""

    def __init__(self) -> None:
        self._new = 0
        self._frozen = False

    def connected(self, connections: int) -> None:
        """There is one more."""
        self._new += 1
        if self._new >= _STEP and connections > _FEW:
            gc.freeze()
            self._new, self._frozen = 0, True

    def disconnected(self, connections: int) -> None:
        """There is one less."""
        if self._frozen and connections < _FEW // 2:
            gc.unfreeze()
            self._new, self._frozen = 0, False
