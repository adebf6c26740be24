"""Which topics a subscriber asked for: a pattern against a topic or another pattern, and the index from a topic to who
wants it.

A pattern is a topic in which a segment may be `*` (any one segment), and the last may be `**` (one or more segments).
Whether a string is a pattern at all is decided in `feed.event`: `select` asks there, everything else takes patterns as
valid.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Generic, TypeVar

from feed.errors import Invalid
from feed.event import check_pattern, check_type

Reader = TypeVar("Reader")

MAX_PATTERNS = 100
"""What may be asked for in one subscription, unless the options say less."""

MAX_SEGMENTS = 1_000
"""Of all patterns with wildcards of one subscription: each is a node to be looked at for topics that begin like it."""


def matches(pattern: str, topic: str) -> bool:
    """Whether a subscriber of `pattern` gets the events of `topic`."""
    if "*" not in pattern:
        return pattern == topic
    wanted = pattern.split("/")
    segments = topic.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        if len(segments) <= len(wanted):
            return False
    elif len(segments) != len(wanted):
        return False
    return all(want in ("*", segment) for want, segment in zip(wanted, segments, strict=False))


def covers(wide: str, narrow: str) -> bool:
    """Whether `wide` matches every topic that `narrow` matches. A topic is a pattern too: of one topic.

    Segment by segment: a name is covered by itself and by `*`, `*` by `*` alone. A last `**` covers whatever is left,
    if that is at least one segment, and is itself covered only by a `**` that stands where it does or before.
    """
    if wide == narrow:
        return True
    outer, inner = wide.split("/"), narrow.split("/")
    if outer[-1] == "**":
        outer.pop()
        if len(inner) <= len(outer):
            return False
    elif inner[-1] == "**" or len(inner) != len(outer):
        return False
    return all(want in ("*", segment) for want, segment in zip(outer, inner, strict=False))


def literal_prefix(pattern: str) -> str:
    """What every matching topic begins with, up to the first wildcard: `orders/` for `orders/*`, '' for `**`."""
    return pattern[: pattern.index("*")] if "*" in pattern else pattern


def _expression(pattern: str) -> str:
    return "/".join(
        {"*": "[^/]+", "**": "(?s:.+)"}.get(segment) or re.escape(segment) for segment in pattern.split("/")
    )


class Selection:
    """What one subscriber asked for: patterns, and types if not all. Immutable."""

    __slots__ = ("_exact", "_wildcard", "_wildcards", "everything", "patterns", "types")

    def __init__(self, patterns: Iterable[str], types: Iterable[str] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self.types = frozenset(types)
        self.everything = "**" in self.patterns
        self._exact = frozenset(pattern for pattern in self.patterns if "*" not in pattern)
        self._wildcards = tuple(pattern for pattern in self.patterns if "*" in pattern)
        self._wildcard: Callable[[str], object] | None = None

    def wants_topic(self, topic: str) -> bool:
        """Whether one of the patterns matches."""
        if self.everything or topic in self._exact:
            return True
        if not self._wildcards:
            return False
        if self._wildcard is None:
            # One expression for all of them: looking at ten thousand events for a hundred patterns takes milliseconds.
            # Made when it is needed, as it costs some itself, and who only listens needs none.
            self._wildcard = re.compile("|".join(map(_expression, self._wildcards))).fullmatch
        return self._wildcard(topic) is not None

    def wants(self, topic: str, type: str) -> bool:
        """Whether an event of this topic and type is for this subscriber."""
        return (not self.types or type in self.types) and self.wants_topic(topic)

    def __repr__(self) -> str:
        return f"Selection({self.patterns!r}, {sorted(self.types)!r})"


EVERYTHING = Selection(["**"])


def select(
    patterns: str | Iterable[str | Iterable[str]], types: Iterable[str] = (), most: int = MAX_PATTERNS
) -> Selection:
    """Return what a subscriber asks for. A pattern or a type may stand alone, or in a list of them.

    Raises `Invalid` for no pattern, more than `most`, or a bad pattern or type, `TypeError` for what is not a text.
    """
    flat = tuple(_flat(patterns))
    names = (types,) if isinstance(types, str) else tuple(types)
    if not flat:
        raise Invalid("pattern", "is missing: name a topic, or ** for everything")
    for name in (*flat, *names):
        if not isinstance(name, str):
            raise TypeError(f"a pattern or a type has to be a str, not {type(name).__name__}")
    if len(flat) > most:
        raise Invalid("pattern", f"at most {most} may be given, not {len(flat)}")
    if sum(pattern.count("/") + 1 for pattern in flat if "*" in pattern) > MAX_SEGMENTS:
        raise Invalid("pattern", f"those with * or ** may have {MAX_SEGMENTS:,} segments in sum")
    return _selection(flat, names)


def _flat(patterns: str | Iterable[str | Iterable[str]]) -> Iterator[str]:
    if isinstance(patterns, str):
        yield patterns
        return
    for pattern in patterns:
        if isinstance(pattern, Iterable) and not isinstance(pattern, str):
            yield from pattern
        else:
            yield pattern


@lru_cache(maxsize=1024)  # so that many readers of the same share it
def _selection(patterns: tuple[str, ...], types: tuple[str, ...]) -> Selection:
    return Selection([check_pattern(pattern) for pattern in patterns], [check_type(name) for name in types])


class _Node(Generic[Reader]):
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Reader]] = {}
        self.here: dict[Reader, None] = {}  # whose pattern ends here
        self.rest: dict[Reader, None] = {}  # whose pattern goes on with `**`


class TopicIndex(Generic[Reader]):
    """From a topic to who wants it, at a cost that depends on the topic's depth and on how many want it.

    Topics that are asked for by name are one dictionary; patterns are a tree, a level a segment. Sets are
    dictionaries, so that readers are met in the order in which they came.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[Reader, None]] = {}
        self._tree: _Node[Reader] = _Node()

    def add(self, pattern: str, reader: Reader) -> None:
        """Let `reader` be found by the topics that `pattern` matches."""
        if "*" not in pattern:
            self._exact.setdefault(pattern, {})[reader] = None
            return
        node, rest = self._tree, pattern.split("/")
        last = rest.pop() if rest[-1] == "**" else None
        for segment in rest:
            node = node.children.setdefault(segment, _Node())
        (node.here if last is None else node.rest)[reader] = None

    def remove(self, pattern: str, reader: Reader) -> None:
        """Undo `add`. Branches that nobody needs any more go, so that the index does not grow with what has been."""
        if "*" not in pattern:
            readers = self._exact[pattern]
            del readers[reader]
            if not readers:
                del self._exact[pattern]
            return
        rest = pattern.split("/")
        last = rest.pop() if rest[-1] == "**" else None
        path = [self._tree]
        for segment in rest:
            path.append(path[-1].children[segment])
        del (path[-1].here if last is None else path[-1].rest)[reader]
        for parent, segment, node in zip(reversed(path[:-1]), reversed(rest), reversed(path), strict=False):
            if node.children or node.here or node.rest:
                break
            del parent.children[segment]

    def find(self, topic: str) -> Iterator[Iterable[Reader]]:
        """Everybody who wants `topic`, in groups: whose patterns are the same are in the same one, and the same object
        comes for each topic that the pattern matches. Who has several patterns may be in several."""
        if readers := self._exact.get(topic):
            yield readers
        if self._tree.children or self._tree.rest:
            yield from filter(None, self._walk(topic.split("/")))

    def _walk(self, segments: list[str]) -> Iterator[dict[Reader, None]]:
        nodes = [self._tree]
        for segment in segments:
            following: list[_Node[Reader]] = []
            for node in nodes:
                yield node.rest
                following.extend(child for key in (segment, "*") if (child := node.children.get(key)))
            nodes = following
        for node in nodes:
            yield node.here
