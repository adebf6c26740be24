"""Classes of retention: which topics are kept how long, and what was taken from each class.

A class is a pattern. The first class whose pattern matches a topic is the topic's; the others belong to the default
class. Events leave at the old end of their class, so a noisy topic pushes out only the topics of its own class:

    runs/** keeps 3 events, the default class all:   a1 runs/x2 runs/x3 b4 runs/y5 runs/y6
    after it:                                        a1         runs/x3 b4 runs/y5 runs/y6
    taken from runs/**: 2

A reader whose position is 0 is told of a gap if it asked for `runs/*`, or for `**`. Who asked for `a` and `b` is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from feed.errors import Invalid
from feed.event import check_pattern
from feed.pattern import Selection, covers, matches, meets
from feed.units import duration_text, parse_duration, parse_size, size_text

MAX_CLASSES = 32

_REMEMBERED = 10_000  # topics whose class is looked up once, and selections


class Keep(msgspec.Struct, frozen=True):
    """How long the events of one class are kept; the bound that is reached first counts. `age` is in seconds, `bytes` a
    sum of `Event.size`. What is None is as in `Retention`. With `latest` the newest event of each topic outlives the
    others: it goes when a newer one comes.
    """

    age: float | None = None
    events: int | None = None
    bytes: int | None = None
    latest: bool = False


class Retention(msgspec.Struct, frozen=True):
    """The bounds of what the log keeps; the one that is reached first counts. `age` is in seconds. `bytes` is a sum of
    `Event.size`: 1 GiB unless given, in memory 256 MiB.

    `keys` bounds the idempotency keys: beyond it the oldest are forgotten before their 24 hours are over.

    `classes` are patterns, each with what is kept of the topics that it matches: the first pattern that matches a topic
    counts. The bounds above are those of the default class, to which all other topics belong. `kept_topics` and
    `kept_bytes` bound the values that `Keep.latest` keeps.
    """

    events: int = 100_000
    age: float = 7 * 24 * 3600
    bytes: int | None = None
    keys: int = 1_000_000
    classes: tuple[tuple[str, Keep], ...] = ()
    kept_topics: int = 100_000
    kept_bytes: int = 256 << 20


class Bounds(msgspec.Struct, frozen=True):
    """What one class keeps: how many events, how many bytes of them, and for how long, in milliseconds."""

    events: int
    bytes: int
    age: int
    latest: bool = False


class Mark(msgspec.Struct):
    """One class in a log. `first` is the seq of the first event that could be of this class. `taken` is the highest seq
    of an event that was taken from it, `ended` that of a tombstone that `latest` would have kept."""

    pattern: str
    first: int = 1
    taken: int = 0
    ended: int = 0


class Classes:
    """The classes of one log, in their order. The last one is the default class, which `**` stands for.

    Only the log changes the marks. Other threads may read them: each is one number.
    """

    def __init__(self, marks: Sequence[Mark] = (), bounds: Sequence[Bounds] = ()) -> None:
        """Without classes there is only the default one, and the log's `oldest` says what was taken."""
        self.marks = marks
        self.bounds = bounds
        self._of: dict[str, int] = {}
        self._met: dict[Sequence[str], Sequence[int]] = {}

    def __bool__(self) -> bool:
        return bool(self.marks)

    @property
    def settled(self) -> int:
        """The position beyond which each event is of the class that its topic has now."""
        return max((mark.first for mark in self.marks), default=1) - 1

    def of(self, topic: str) -> int:
        """Return the number of a topic's class."""
        found = self._of.get(topic)
        if found is None:
            if len(self._of) >= _REMEMBERED:
                self._of.clear()
            default = max(0, len(self.marks) - 1)
            found = next((place for place in range(default) if matches(self.marks[place].pattern, topic)), default)
            self._of[topic] = found
        return found

    def taken(self, selection: Selection, position: int) -> int:
        """Return the highest seq of an event that was taken and that the selection may have wanted, for a reader at
        this position."""
        return max([self.marks[number].taken for number in self.met(selection, position)], default=0)

    def met(self, selection: Selection, position: int) -> Sequence[int]:
        """Return the numbers of the classes that may have had an event which the selection wants, beyond a position."""
        if position < self.settled:
            return self._meets(selection.patterns, position)
        met = self._met.get(selection.patterns)
        if met is None:
            if len(self._met) >= _REMEMBERED:
                self._met.clear()
            met = self._met[selection.patterns] = self._meets(selection.patterns, position)
        return met

    def _meets(self, patterns: Sequence[str], position: int) -> Sequence[int]:
        return list(dict.fromkeys(number for pattern in patterns for number in self._meets_one(pattern, position)))

    def _meets_one(self, pattern: str, position: int) -> Iterator[int]:
        for number, mark in enumerate(self.marks):
            if meets(mark.pattern, pattern):
                yield number
                # What this class covers whole, no later class can have; but before it began, its topics were others'.
                if covers(mark.pattern, pattern) and position >= mark.first - 1:
                    return


def classes_of(retention: Retention, most_bytes: int) -> Classes:
    """Return the classes of a new log. `most_bytes` is as for `bounds_of`."""
    marks = [Mark(pattern) for pattern, _ in retention.classes]
    return Classes([*marks, Mark("**")], bounds_of(retention, most_bytes)) if marks else Classes()


def bounds_of(retention: Retention, most_bytes: int) -> Sequence[Bounds]:
    """Return the bounds of all classes, that of the default one last, which keeps `most_bytes` if nothing is said."""
    default = Bounds(retention.events, retention.bytes or most_bytes, int(retention.age * 1000))
    return [*(_within(keep, default) for _, keep in retention.classes), default]


def _within(keep: Keep, default: Bounds) -> Bounds:
    return Bounds(
        default.events if keep.events is None else keep.events,
        default.bytes if keep.bytes is None else keep.bytes,
        default.age if keep.age is None else int(keep.age * 1000),
        keep.latest,
    )


def check_retain(retain: Mapping[str, Keep]) -> Mapping[str, Keep]:
    """Raise `Invalid` for too many classes, a bad pattern, or a bound that keeps nothing."""
    if len(retain) > MAX_CLASSES:
        raise Invalid("retain", f"may have {MAX_CLASSES} classes at most, not {len(retain)}")
    for pattern, keep in retain.items():
        check_pattern(pattern)
        for name in ("age", "events", "bytes"):
            if (bound := getattr(keep, name)) is not None and not bound > 0:
                raise Invalid("retain", f"{pattern}: {name} has to be more than 0")
    return retain


def never_reached(retain: Mapping[str, Keep]) -> list[tuple[str, str]]:
    """Return the classes to which no topic can belong, each with the class in front of it that has all its topics."""
    patterns = list(retain)
    return [
        (pattern, earlier)
        for place, pattern in enumerate(patterns)
        if (earlier := next((each for each in patterns[:place] if covers(each, pattern)), None)) is not None
    ]


def parse_retain(text: str) -> dict[str, Keep]:
    """Return the classes that a text names: `runs/**=1h; system/**=10000; devices/*/state=latest; scores/**=1d,100MB`.

    A bound that ends in `B` is a size, one that ends in another unit a time, and one without a unit a count. Raises
    `ValueError`, whose text says which class is wrong, and why.
    """
    retain: dict[str, Keep] = {}
    for part in filter(None, map(str.strip, text.split(";"))):
        pattern, equals, bounds = (piece.strip() for piece in part.rpartition("="))
        if not equals or not pattern:
            raise ValueError(f"{part!r} has to be PATTERN=BOUNDS, such as runs/**=1h or scores/**=latest,1d,100MB")
        if pattern in retain:
            raise ValueError(f"{pattern} is there twice: put all its bounds into one class")
        retain[pattern] = _parse_keep(pattern, bounds)
    try:
        check_retain(retain)
    except Invalid as error:
        raise ValueError(str(error)) from None
    return retain


def parse_max_kept(text: str) -> tuple[int, int]:
    """Return topics and bytes for a text such as `100000,256MB`. Raises `ValueError`."""
    keep = _parse_keep("max_kept", text)
    if keep.events is None or keep.bytes is None or keep.age is not None or keep.latest:
        raise ValueError("a number of topics and a size that ends in B, such as 100000,256MB")
    return keep.events, keep.bytes


def max_kept_text(kept: tuple[int, int]) -> str:
    """Return topics and bytes as `parse_max_kept` reads them."""
    return _keep_text(Keep(events=kept[0], bytes=kept[1]))


def _parse_keep(pattern: str, bounds: str) -> Keep:
    found: dict[str, int | float | bool] = {}
    for bound in map(str.strip, bounds.split(",")):
        name, value = _parse_bound(pattern, bound)
        if name in found:
            raise ValueError(f"{pattern}: {bound!r} is the second bound of its kind")
        found[name] = value
    return msgspec.convert(found, Keep)


def _parse_bound(pattern: str, bound: str) -> tuple[str, int | float | bool]:
    if bound == "latest":
        return "latest", True
    if bound.isascii() and bound.isdigit():
        return "events", int(bound)
    try:
        if bound[-1:] in "bB":
            return "bytes", int(parse_size(bound))
        return "age", float(parse_duration(bound))
    except ValueError:
        raise ValueError(
            f"{pattern}: {bound!r} is not a bound: write a time (1h, 7d), a count (10000), a size that ends in B "
            "(100MB), or latest"
        ) from None


def retain_text(retain: Mapping[str, Keep]) -> str:
    """Return classes as `parse_retain` reads them."""
    return "; ".join(f"{pattern}={_keep_text(keep)}" for pattern, keep in retain.items())


def _keep_text(keep: Keep) -> str:
    bounds = ["latest"] if keep.latest else []
    if keep.age is not None:
        bounds.append(duration_text(keep.age))
    if keep.events is not None:
        bounds.append(str(keep.events))
    if keep.bytes is not None:
        bounds.append(f"{size_text(keep.bytes)}B")
    return ",".join(bounds)
