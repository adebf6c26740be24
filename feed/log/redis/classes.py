"""The classes of retention of a log on Redis. They are in Redis, and its scripts take the events; a node has a copy.

The settings of the node that was started last count. Each change has a *generation*, by which the other nodes notice
that they have to ask for the settings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from feed.log.classes import Bounds, Classes, Mark, Retention, bounds_of
from feed.log.contract import Retained

Settings = bytes
"""What all nodes' settings say about classes, as it stands in Redis."""

_NUMBERS = 5  # of each class


class Told(msgspec.Struct, frozen=True):
    """What a script says about the classes (`classes_now`). `due` is when the next event is too old for its class, and
    `tombstone` the time of the oldest one that is kept beyond its class, or -1. `classes` has first, taken, ended,
    events and bytes of each class, in turn."""

    generation: int
    oldest: int
    oldest_time: int
    due: int
    tombstone: int
    retained: Retained
    classes: Sequence[int]


def parse_told(answer: Sequence[int]) -> Told | None:
    """Return what a script said; None if the log has no classes."""
    if not answer:
        return None
    generation, oldest, oldest_time, due, tombstone, events, size, *classes = answer
    return Told(generation, oldest, oldest_time, due, tombstone, Retained(events, size), classes)


class NodeClasses:
    """The copy of one node. `current` is replaced when the settings change."""

    def __init__(self, retention: Retention, most_bytes: int) -> None:
        self.current = Classes()
        self.told: Told | None = None
        self.settings = _settings(retention, most_bytes)
        self.is_named = bool(retention.classes)

    @property
    def generation(self) -> int:
        """Which settings the copy has; 0 if the log has no classes."""
        return 0 if self.told is None else self.told.generation

    @property
    def retained(self) -> Retained | None:
        """How much is retained, and of that in each class; None if the log has no classes."""
        if self.told is None:
            return None
        numbers, all_ = self.told.classes, self.told.retained
        names = [*(mark.pattern for mark in self.current.marks[:-1]), "default"]
        held = zip(names, numbers[3::_NUMBERS], numbers[4::_NUMBERS], strict=False)
        each = {name: Retained(events, size) for name, events, size in held}
        return Retained(all_.events, all_.bytes, each)

    def note(self, told: Told | None) -> bool:
        """Note what was taken. Return False if the settings are other ones than those known here: then nothing has
        changed, and the node has to ask for them."""
        if told is None or self.told is None or told.generation != self.told.generation:
            return told is self.told
        if told.oldest >= self.told.oldest:
            self.told = told
        for place, mark in enumerate(self.current.marks):
            _, taken, ended = told.classes[place * _NUMBERS : place * _NUMBERS + 3]
            mark.taken = max(mark.taken, taken)  # another connection may have brought a newer answer
            mark.ended = max(mark.ended, ended)
        return True

    def adopt(self, told: Told | None, settings: Settings) -> None:
        """From now on the classes are these, with these marks."""
        self.told = told
        if told is None:
            self.current = Classes()
            return
        marks, bounds = [], []
        for place, (pattern, _, events, size, age, latest) in enumerate(msgspec.msgpack.decode(settings)[2]):
            marks.append(Mark(pattern, *told.classes[place * _NUMBERS : place * _NUMBERS + 3]))
            bounds.append(Bounds(events, size, age, latest))
        self.current = Classes(marks, bounds)


def _settings(retention: Retention, most_bytes: int) -> Settings:
    patterns = [*(pattern for pattern, _ in retention.classes), "**"]
    bounds = bounds_of(retention, most_bytes)
    return msgspec.msgpack.encode(
        (
            retention.kept_topics,
            retention.kept_bytes,
            [
                (pattern, _lua_pattern(pattern), each.events, each.bytes, each.age, each.latest)
                for pattern, each in zip(patterns, bounds, strict=True)
            ],
        )
    )


def _lua_pattern(pattern: str) -> str:
    """Return the pattern of topics as one of Lua."""
    segments = ({"*": "[^/]+", "**": ".+"}.get(segment) or _escaped(segment) for segment in pattern.split("/"))
    return f"^{'/'.join(segments)}$"


def _escaped(segment: str) -> str:
    return re.sub(r"([^A-Za-z0-9\u0080-\U0010ffff])", r"%\1", segment)
