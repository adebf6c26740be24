"""The classes of retention in the file: which there are, what was taken from each, and the lanes of all events."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from feed.event import event_size
from feed.log.classes import MAX_CLASSES, Classes, Mark, Retention, bounds_of
from feed.log.lanes import Lanes
from feed.terms import DELETED

_DEFAULT = ""  # the pattern of the default class in the file

_SIZED = "SELECT seq, topic, type, length(data), time, class FROM feed_events ORDER BY seq"


def load_classes(
    connection: sqlite3.Connection, retention: Retention, most_bytes: int, position: int, missing: int
) -> tuple[Classes, Sequence[int | None]]:
    """Write the classes that the settings name into the file, and return them with what was taken from each; and the
    number by which an event names each.

    In a file without classes, events up to `missing` may be gone. A class that is new begins behind `position`. One
    that is not named any more is forgotten: its events count in the default class. A file that has had classes goes on
    with the default class alone.
    """
    rows = {row[1]: row for row in connection.execute("SELECT id, pattern, first, taken, ended FROM feed_classes")}
    if not retention.classes and not rows:
        return Classes(), ()
    named = [pattern for pattern, _ in retention.classes]
    default = rows.get(_DEFAULT)
    taken = max([missing if default is None else default[3], *(row[3] for row in rows.values() if row[1] not in named)])
    connection.execute("INSERT OR REPLACE INTO feed_classes VALUES (0, ?, 1, ?, 0)", (_DEFAULT, taken))
    for pattern in set(rows) - {*named, _DEFAULT}:
        connection.execute("DELETE FROM feed_classes WHERE pattern = ?", (pattern,))
    for place, pattern in enumerate(named):
        if pattern not in rows:
            id = (position + 1) * 2 * MAX_CLASSES + place  # no event up to `position` can name it
            connection.execute("INSERT INTO feed_classes VALUES (?, ?, ?, 0, 0)", (id, pattern, position + 1))
    rows = {row[1]: row for row in connection.execute("SELECT id, pattern, first, taken, ended FROM feed_classes")}
    marks = [Mark(pattern, *rows[pattern][2:]) for pattern in named]
    bounds = bounds_of(retention, most_bytes)
    return Classes([*marks, Mark("**", 1, taken)], bounds), [*(rows[pattern][0] for pattern in named), None]


def load_lanes(
    connection: sqlite3.Connection, retention: Retention, classes: Classes, numbers: Sequence[int | None]
) -> tuple[Lanes, Sequence[int]]:
    """Read which events there are. Return the lanes, and the seqs of events that should have been deleted."""
    lanes, gone = Lanes(classes, retention), []
    place = {number: lane for lane, number in enumerate(numbers)}
    default = len(numbers) - 1
    for seq, topic, type_, length, time, number in connection.execute(_SIZED):
        size = event_size(topic, type_, "") + length
        superseded = lanes.add(seq, topic, size, time, type_ == DELETED, place.get(number, default))
        if superseded is not None:
            gone.append(superseded)
    return lanes, gone


def save_marks(connection: sqlite3.Connection, classes: Classes, saved: Sequence[Mark]) -> Sequence[Mark]:
    """Write what was taken from each class, where it is not what was `saved` before. Return what is saved now."""
    default = len(classes.marks) - 1
    for number, mark in enumerate(classes.marks):
        if not saved or saved[number] != mark:
            pattern = _DEFAULT if number == default else mark.pattern
            connection.execute(
                "UPDATE feed_classes SET taken = ?, ended = ? WHERE pattern = ?", (mark.taken, mark.ended, pattern)
            )
    return [msgspec.structs.replace(mark) for mark in classes.marks]
