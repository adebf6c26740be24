"""Keeps Python's garbage collector from looking at every connection again and again.

A full collection looks at all live objects, some 40 µs a connection: with ten thousand connections it would stop the
event loop for half a second. The objects of a connection are freed by reference counting: there is no garbage to find.
"""

from __future__ import annotations

import gc

_FEW = 200  # connections that cost a full collection less than 10 ms
_STEP = 200  # new connections after which all live objects are frozen again


class Collector:
    """Freezes the objects of connections while there are many (`gc.freeze`, which takes no time). When there are few
    again they are unfrozen, in case there was garbage among them."""

    def __init__(self) -> None:
        self._new = 0
        self._frozen = False

    def connected(self, connections: int) -> None:
        """Note that a connection was opened; `connections` is the new total."""
        self._new += 1
        if self._new >= _STEP and connections > _FEW:
            gc.freeze()
            self._new, self._frozen = 0, True

    def disconnected(self, connections: int) -> None:
        """Note that a connection was closed; `connections` is the new total."""
        if self._frozen and connections < _FEW // 2:
            gc.unfreeze()
            self._new, self._frozen = 0, False
