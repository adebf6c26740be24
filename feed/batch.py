"""Events that a group of readers gets together, and their bytes, made once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from feed.control import Control, Heartbeat
from feed.event import Event

Item = Event | Control | Heartbeat
"""What a subscription hands out. All have the wire formats `sse`, `envelope`, `line` and `message`."""


class Chunk(NamedTuple):
    """What is written at once, in whatever form an outlet takes it, and how many bytes of the stream's body that is."""

    written: Any
    size: int


Encoder = Callable[[Sequence[Item]], Chunk]
"""Encodes items into the chunk that an outlet writes. There is one function for each format: it is the key under which
a batch keeps what it made, for all readers of that format."""


class Batch:
    """Events in their order, at least one. Immutable, and the same object in every queue that it is put into."""

    __slots__ = ("_chunks", "_narrowed", "count", "events", "first", "last", "size")

    def __init__(self, events: Sequence[Event]) -> None:
        self.events = events
        self.count = len(events)
        self.first = events[0].seq
        self.last = events[-1].seq
        self.size = sum(event.size for event in events)
        self._chunks: dict[Encoder, Chunk] = {}
        self._narrowed: dict[frozenset[str], Batch | None] = {}

    def chunk(self, encoder: Encoder) -> Chunk:
        """What `encoder` makes of the events, made at the first use."""
        chunk = self._chunks.get(encoder)
        if chunk is None:
            chunk = self._chunks[encoder] = encoder(self.events)
        return chunk

    def of_types(self, types: frozenset[str]) -> Batch | None:
        """The events of these types, None if there are none; the same object for all who ask for the same."""
        if types not in self._narrowed:
            self._narrowed[types] = _batch([event for event in self.events if event.type in types])
        return self._narrowed[types]

    def after(self, seq: int) -> Batch | None:
        """The events beyond `seq`, None if there are none."""
        return self if self.first > seq else _batch([event for event in self.events if event.seq > seq])


def _batch(events: Sequence[Event]) -> Batch | None:
    return Batch(events) if events else None
