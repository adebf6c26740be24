"""Patterns of topics: matching them, comparing them, and finding the readers of a topic.

A pattern is a topic in which a segment may be `*` (exactly one segment, any name), and the last one may be `**` (one or
more segments). `feed.event` decides whether a string is a valid pattern: `select` asks there; everything else here
expects valid patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import Generic, TypeGuard, TypeVar

from feed.arguments import BYTES, check_text
from feed.errors import Invalid
from feed.event import check_pattern, check_type

Reader = TypeVar("Reader")

MAX_PATTERNS = 100
"""The most patterns in one subscription, unless the options allow fewer."""

MAX_SEGMENTS = 1_000
"""The most segments of all patterns with wildcards in one subscription, together: each may be a node that a topic with
the same beginning has to visit."""


def matches(pattern: str, topic: str) -> bool:
    """Tell whether a subscriber of `pattern` gets the events of `topic`."""
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
    """Tell whether `wide` matches every topic that `narrow` matches. A topic is a pattern that matches itself.

    Segments are compared one by one. A name is covered by the same name and by `*`; `*` is covered by `*` only. A last
    `**` covers all remaining segments, at least one. `**` is covered only by a `**` at the same place or before.
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


def meets(one: str, other: str) -> bool:
    """Tell whether there is a topic that both patterns match."""
    left, right = one.split("/"), other.split("/")
    open_left, open_right = left[-1] == "**", right[-1] == "**"
    if open_left:
        left.pop()
    if open_right:
        right.pop()
    # A last `**` stands for one segment at least.
    if len(left) + open_left > len(right) and not open_right:
        return False
    if len(right) + open_right > len(left) and not open_left:
        return False
    return all("*" in (here, there) or here == there for here, there in zip(left, right, strict=False))


def literal_prefix(pattern: str) -> str:
    """Return the beginning of every matching topic, up to the first wildcard: `orders/` for `orders/*`, '' for `**`."""
    return pattern[: pattern.index("*")] if "*" in pattern else pattern


def _expression(pattern: str) -> str:
    return "/".join(
        {"*": "[^/]+", "**": "(?s:.+)"}.get(segment) or re.escape(segment) for segment in pattern.split("/")
    )


class Selection:
    """What one subscriber asked for: patterns, and types (all types if there are none). Immutable."""

    __slots__ = ("_exact", "_wildcard", "_wildcards", "everything", "patterns", "types")

    def __init__(self, patterns: Iterable[str], types: Iterable[str] = ()) -> None:
        self.patterns = tuple(dict.fromkeys(patterns))
        self.types = frozenset(types)
        self.everything = "**" in self.patterns
        self._exact = frozenset(pattern for pattern in self.patterns if "*" not in pattern)
        self._wildcards = tuple(pattern for pattern in self.patterns if "*" in pattern)
        self._wildcard: Callable[[str], object] | None = None

    @property
    def is_exact(self) -> bool:
        """Whether no pattern has a wildcard: each is one topic."""
        return not self._wildcards

    def wants_topic(self, topic: str) -> bool:
        """Tell whether one of the patterns matches."""
        if self.everything or topic in self._exact:
            return True
        if not self._wildcards:
            return False
        if self._wildcard is None:
            # One expression for all patterns: testing ten thousand events for a hundred patterns takes milliseconds.
            # Compiled at the first use: compiling takes time too, and a reader that is only live does without.
            self._wildcard = re.compile("|".join(map(_expression, self._wildcards))).fullmatch
        return self._wildcard(topic) is not None

    def wants(self, topic: str, type: str) -> bool:
        """Tell whether an event of this topic and type is for this subscriber."""
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
    names = (types,) if _is_one(types) else tuple(types)
    if not flat:
        raise Invalid("pattern", "is missing: name a topic, or ** for everything")
    for pattern in flat:
        check_text(pattern, "pattern")
    for name in names:
        check_text(name, "type")
    if len(flat) > most:
        raise Invalid("pattern", f"at most {most} may be given, not {len(flat)}; use * or ** for many topics")
    if sum(pattern.count("/") + 1 for pattern in flat if "*" in pattern) > MAX_SEGMENTS:
        raise Invalid("pattern", f"those with * or ** may have {MAX_SEGMENTS:,} segments together; use fewer of them")
    return _selection(flat, names)


def _flat(patterns: str | Iterable[str | Iterable[str]]) -> Iterator[str]:
    if _is_one(patterns):
        yield patterns
        return
    for pattern in patterns:
        if _is_one(pattern):
            yield pattern
        else:
            yield from pattern


def _is_one(name: object) -> TypeGuard[str]:
    """Tell whether this is one name, rather than a list of them. Whether it is a text is checked later: bytes are one
    name, too, and not a list of numbers."""
    return isinstance(name, (str, *BYTES)) or not isinstance(name, Iterable)


@lru_cache(maxsize=1024)  # readers that ask for the same share one selection
def _selection(patterns: tuple[str, ...], types: tuple[str, ...]) -> Selection:
    return Selection([check_pattern(pattern) for pattern in patterns], [check_type(name) for name in types])


class _Node(Generic[Reader]):
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Reader]] = {}
        self.here: dict[Reader, None] = {}  # readers whose pattern ends here
        self.rest: dict[Reader, None] = {}  # readers whose pattern continues with `**`


class TopicIndex(Generic[Reader]):
    """Finds the readers of a topic, at a cost that depends on the depth of the topic and the number of its readers.

    Patterns without wildcards are in one dictionary; the others form a tree with a level for each segment. Sets of
    readers are dictionaries, so that readers keep the order in which they came.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[Reader, None]] = {}
        self._tree: _Node[Reader] = _Node()

    def add(self, pattern: str, reader: Reader) -> None:
        """Let `reader` be found for every topic that `pattern` matches."""
        if "*" not in pattern:
            self._exact.setdefault(pattern, {})[reader] = None
            return
        node, rest = self._tree, pattern.split("/")
        last = rest.pop() if rest[-1] == "**" else None
        for segment in rest:
            node = node.children.setdefault(segment, _Node())
        (node.here if last is None else node.rest)[reader] = None

    def remove(self, pattern: str, reader: Reader) -> None:
        """Undo `add`. Empty branches are removed, so that the index does not grow with past readers."""
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
        """Yield all readers of `topic`, in groups. Readers with the same pattern are in one group, which is the same
        object for every topic that the pattern matches. A reader with several patterns may be in several groups."""
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
