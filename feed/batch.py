"""Events that a group of readers receives together, and their bytes, encoded once for all of these readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from feed.control import Control, Heartbeat
from feed.event import Event, Placed, size_of

Item = Event | Placed | Control | Heartbeat
"""One thing that a subscription hands out. Each kind has the wire formats `sse`, `envelope`, `line` and `message`."""


class Chunk(NamedTuple):
    """One write: the bytes or messages in the form that the outlet takes, and how many bytes of the stream's body they
    are."""

    written: Any
    size: int


Encoder = Callable[[Sequence[Item]], Chunk]
"""Encodes items into the chunk that an outlet writes. Use one function object for each format: the function is the key
under which a batch caches its chunk for all readers of that format."""


class Batch:
    """Events in order, at least one. Immutable; the same object is in the queue of every reader that receives it."""

    __slots__ = ("_chunks", "_narrowed", "count", "events", "first", "last", "size")

    def __init__(self, events: Sequence[Event], size: int | None = None) -> None:
        """`size` is that of all events, if it is known."""
        self.events = events
        self.count = len(events)
        self.first = events[0].seq
        self.last = events[-1].seq
        self.size = size_of(events) if size is None else size
        self._chunks: dict[Encoder, Chunk] = {}
        self._narrowed: dict[frozenset[str], Batch | None] = {}

    def chunk(self, encoder: Encoder) -> Chunk:
        """Return the events encoded by `encoder`, which is called at the first use only."""
        chunk = self._chunks.get(encoder)
        if chunk is None:
            chunk = self._chunks[encoder] = encoder(self.events)
        return chunk

    def of_types(self, types: frozenset[str]) -> Batch | None:
        """Return the events of these types, None if there are none. All who ask for the same types share one object."""
        if types not in self._narrowed:
            self._narrowed[types] = _batch([event for event in self.events if event.type in types])
        return self._narrowed[types]

    def after(self, seq: int) -> Batch | None:
        """Return the events beyond `seq`, None if there are none."""
        return self if self.first > seq else _batch([event for event in self.events if event.seq > seq])


def _batch(events: Sequence[Event]) -> Batch | None:
    return Batch(events) if events else None
