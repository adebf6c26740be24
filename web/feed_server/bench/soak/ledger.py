"""What was committed, and whether each reader got what it should of it: checked while it runs, and then forgotten.

The publishers' answers fill the ledger: which event has which id. As far as it has no hole it is *settled*, and only
so far readers are checked. A reader's events are kept until then, about a second; the ledger keeps what a reader that
comes back may still be sent. So a soak of hours needs no more memory than one of minutes.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlencode

from feed_server.bench.checker import judge

TOPICS = tuple(f"soak/{room}/{number}" for room in "abcde" for number in range(8))
TYPES = ("message", "created", "gone")

_EXAMPLES = 5  # of a kind
_FORGET_EVERY = 1_000  # events


class Wish(NamedTuple):
    """What a reader asks for. No types are all."""

    patterns: tuple[str, ...]
    types: tuple[str, ...] = ()

    def query(self, **parameters: str) -> str:
        """As what a reader asks for, with more parameters."""
        pairs = [("topic", pattern) for pattern in self.patterns] + [("type", type) for type in self.types]
        return f"?{urlencode([*pairs, *parameters.items()])}"

    def wants(self, topic: str, type: str) -> bool:
        """Whether an event is asked for, by rules of this module's own: those of the server are what is tested."""
        return (not self.types or type in self.types) and any(_matches(pattern, topic) for pattern in self.patterns)


def _matches(pattern: str, topic: str) -> bool:
    segments = {"*": "[^/]+", "**": ".+"}
    expression = "/".join(segments.get(segment) or re.escape(segment) for segment in pattern.split("/"))
    return re.fullmatch(expression, topic) is not None


WISHES = (
    Wish(("soak/**",)),
    Wish(("**",), ("created",)),
    *(Wish((f"soak/{room}/*",)) for room in "abcde"),
    Wish(("soak/*/3", "soak/a/*")),
    Wish(("*/c/*", "soak/d/1"), ("message", "gone")),
    Wish(TOPICS[::8]),
    Wish(tuple(reversed(TOPICS)), ("gone",)),
    Wish(("soak/e/7",)),
)
"""Few, so that what a wish should get is worked out once for all who have it."""


class Committed(NamedTuple):
    """An event, by what was published. `serial` is there once in a run."""

    topic: str
    type: str
    serial: int


@dataclass
class Findings:
    """What was wrong, counted, and the first of it in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def note(self, kind: str, example: str, count: int = 1) -> None:
        """So many times."""
        self.counts[kind] += count
        if sum(each.startswith(f"{kind}: ") for each in self.examples) < _EXAMPLES:
            self.examples.append(f"{kind}: {example}")


class _Lane:
    """What one wish should get."""

    def __init__(self) -> None:
        self.seqs = array("Q")
        self.serials = array("Q")

    def forget(self, until: int) -> None:
        end = bisect_right(self.seqs, until)
        del self.seqs[:end]
        del self.serials[:end]


class Ledger:
    """The committed events after `begin`, of which the newest `keep` are remembered."""

    def __init__(self, begin: int, keep: int, findings: Findings, wishes: Sequence[Wish] = WISHES) -> None:
        self.settled = begin
        """Up to here every event is known."""
        self.forgotten = begin
        """Up to here none is known any more."""
        self.events = 0
        self.keep = keep
        self._findings = findings
        self._early: dict[int, Committed] = {}
        self._lanes = {wish: _Lane() for wish in wishes}
        self._table = {
            (topic, type): [lane for wish, lane in self._lanes.items() if wish.wants(topic, type)]
            for topic in TOPICS
            for type in TYPES
        }

    def commit(self, seqs: Sequence[int], events: Sequence[Committed]) -> None:
        """What an answer has said."""
        if len(seqs) != len(events):
            self._findings.note("ids", f"{len(events)} events were accepted, but {len(seqs)} ids given")
        early = self._early
        for seq, event in zip(seqs, events, strict=False):
            if seq <= self.settled or seq in early:
                self._findings.note("ids", f"{seq} was given twice")
                continue
            early[seq] = event
            self.events += 1
        while (known := early.pop(self.settled + 1, None)) is not None:
            self._settle(known)

    def _settle(self, event: Committed) -> None:
        self.settled += 1
        for lane in self._table[event.topic, event.type]:
            lane.seqs.append(self.settled)
            lane.serials.append(event.serial)
        if self.settled % _FORGET_EVERY == 0 and self.settled - self.keep > self.forgotten:
            self.forgotten = self.settled - self.keep
            for lane in self._lanes.values():
                lane.forget(self.forgotten)

    def follower(self, wish: Wish, name: str) -> Follower:
        """Make the account of one reader."""
        return Follower(self, wish, self._findings, name)

    def close(self) -> None:
        """All answers are there: what is still missing was committed, and its publisher never told."""
        while self._early:
            self.settled += 1
            if (known := self._early.pop(self.settled, None)) is None:
                self._findings.note("ids", f"{self.settled} was given to nobody")
            else:
                self.settled -= 1
                self._settle(known)

    def wanted(self, wish: Wish, after: int, until: int) -> tuple[array[int], array[int]]:
        """What somebody with this wish should get between two ids: the numbers in the ids, and the serials."""
        lane = self._lanes[wish]
        begin, end = bisect_right(lane.seqs, after), bisect_right(lane.seqs, until)
        return lane.seqs[begin:end], lane.serials[begin:end]

    def last(self, wish: Wish) -> int:
        """The number of the newest event for this wish; 0 if there is none that is remembered."""
        lane = self._lanes[wish]
        return lane.seqs[-1] if lane.seqs else 0


@dataclass
class _Stretch:
    """What came after `start` and up to `end`, in one piece."""

    start: int
    end: int
    seqs: array[int] = field(default_factory=lambda: array("Q"))
    serials: array[int] = field(default_factory=lambda: array("Q"))
    rising: bool = True

    def take(self, seq: int, serial: int) -> None:
        self.rising = self.rising and seq > self.end
        self.end = max(self.end, seq)
        self.seqs.append(seq)
        self.serials.append(serial)


class Follower:
    """What one reader is told, however often it comes back. An announced gap ends one stretch and begins another."""

    def __init__(self, ledger: Ledger, wish: Wish, findings: Findings, name: str = "a reader") -> None:
        self.wish = wish
        self.deliveries = 0
        self.checked = 0
        """Events that were compared with the ledger."""
        self._ledger = ledger
        self._findings = findings
        self._name = name
        self._stretches: deque[_Stretch] = deque()

    @property
    def frontier(self) -> int | None:
        """Up to where it was told everything; None before it was told anything."""
        return self._stretches[-1].end if self._stretches else None

    @property
    def reached(self) -> bool:
        """Whether it was told of everything there is for it."""
        return self.frontier is not None and self.frontier >= self._ledger.last(self.wish)

    @property
    def is_checked(self) -> bool:
        """Whether all that it got has been compared."""
        return not any(stretch.seqs for stretch in self._stretches)

    def opened(self, position: int) -> None:
        """The first `feed.open`: what comes after it is to come to this reader."""
        start = max(position, self._ledger.forgotten)
        self._stretches.append(_Stretch(start, start))

    def event(self, seq: int, serial: int) -> None:
        """An event."""
        self.deliveries += 1
        if self._stretches:
            self._stretches[-1].take(seq, serial)
        else:
            self._findings.note("stream", f"{self._name} was sent {seq} before it was told where its stream begins")

    def moved(self, position: int) -> None:
        """Told that there is nothing for it up to there."""
        if self._stretches:
            self._stretches[-1].end = max(self._stretches[-1].end, position)

    def gap(self, position: int) -> None:
        """Told that something may be missing up to there."""
        if self._stretches and position > self._stretches[-1].end:
            self._stretches.append(_Stretch(position, position))

    def check(self) -> None:
        """Compare what is settled, and forget it."""
        settled = self._ledger.settled
        while len(self._stretches) > 1 and self._stretches[0].end <= settled:
            self._compare(self._stretches.popleft(), settled)
        if len(self._stretches) == 1:
            self._compare(self._stretches[0], settled)

    def end(self) -> None:
        """No more comes to it, and no more was published: what it has not got is lost."""
        if self._stretches and self._stretches[-1].end < self._ledger.last(self.wish):
            self._stretches[-1].end = self._ledger.settled

    def _compare(self, stretch: _Stretch, settled: int) -> None:
        until = min(stretch.end, settled)
        if not stretch.rising and until < stretch.end:
            return  # which of it belongs where can be told once all of it is settled
        if until < stretch.start:
            return  # its stream began beyond what is settled yet
        if until == stretch.start and not stretch.seqs:
            return  # away, perhaps for longer than anything is remembered
        end = bisect_right(stretch.seqs, until) if stretch.rising else len(stretch.seqs)
        seqs, serials = stretch.seqs[:end], stretch.serials[:end]
        if stretch.start < self._ledger.forgotten:
            behind = f"{settled - stretch.start:,} events, and {self._ledger.keep:,} are remembered"
            self._findings.note("unchecked", f"{self._name} is behind by {behind}", end)
        else:
            self.checked += end
            wanted = self._ledger.wanted(self.wish, stretch.start, until)
            if (seqs, serials) != wanted:
                self._accuse(stretch, _keys(*wanted), seqs, serials)
        del stretch.seqs[:end], stretch.serials[:end]
        stretch.start, stretch.rising = until, True

    def _accuse(self, stretch: _Stretch, truth: list[bytes], seqs: array[int], serials: array[int]) -> None:
        old = [seq for seq in seqs if seq <= stretch.start]
        if old:
            self._findings.note("doubled", f"{self._name} got {old[0]} when it had been told {stretch.start}", len(old))
        got = [key for key, seq in zip(_keys(seqs, serials), seqs, strict=True) if seq > stretch.start]
        fault = judge(truth, got)
        for kind in ("lost", "doubled", "reordered", "unknown"):
            if keys := getattr(fault, kind):
                place = f"after {stretch.start} of {self.wish}"
                self._findings.note(kind, f"{self._name}: {keys[0].decode()} {place}", len(keys))


def _keys(seqs: Sequence[int], serials: Sequence[int]) -> list[bytes]:
    return [b"%d (%d)" % pair for pair in zip(seqs, serials, strict=True)]
