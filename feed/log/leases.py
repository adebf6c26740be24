"""The leases of a log in one process: which topics' values run out, and when.

A lease belongs to its topic's newest event. A newer event ends it, unless that has a lease of its own. When it runs
out, the log appends a tombstone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from feed.errors import Overloaded
from feed.event import Draft

MAX_LEASES = 100_000
"""The most topics of one log whose values run out."""

MAX_EXPIRED = 500
"""The most leases that run out in one step, as a log does nothing else meanwhile."""

_MANY_STALE = 1_000


class Lease(NamedTuple):
    """A lease of `ttl` milliseconds on the value that the event `seq` gave its topic."""

    seq: int
    ttl: int


class Leases:
    """All leases. Times are those of a monotonic clock, in seconds: a machine's clock that is set forward ends none."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._due: dict[str, float] = {}
        self._queue: list[tuple[float, str]] = []  # a heap, with entries of leases that have been renewed or have ended

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, topic: str) -> bool:
        return topic in self._leases

    def get(self, topic: str) -> Lease | None:
        """Return the lease on a topic, None if there is none."""
        return self._leases.get(topic)

    def set(self, topic: str, lease: Lease, now: float) -> None:
        """Begin a lease, or begin it anew."""
        self._leases[topic] = lease
        self._due[topic] = due = now + lease.ttl / 1000
        heapq.heappush(self._queue, (due, topic))
        if len(self._queue) > 2 * len(self._leases) + _MANY_STALE:
            self._queue = [(due, topic) for topic, due in self._due.items()]
            heapq.heapify(self._queue)

    def end(self, topic: str) -> None:
        """End a lease before its time."""
        self._leases.pop(topic, None)
        self._due.pop(topic, None)

    def change(self, changes: Changes, now: float) -> None:
        """Do what a commit has brought (see `lease_changes`)."""
        for topic, lease in changes.items():
            if lease is None:
                self.end(topic)
            else:
                self.set(topic, lease, now)

    def next_due(self) -> float | None:
        """Return when the next one runs out, None if there is none."""
        queue = self._queue
        while queue and self._due.get(queue[0][1]) != queue[0][0]:
            heapq.heappop(queue)
        return queue[0][0] if queue else None

    def run_out(self, now: float) -> Sequence[str]:
        """Take topics whose leases have run out, some of them if they are many. They stay here until `end`: if their
        tombstones cannot be committed, call `delay`."""
        topics: list[str] = []
        while len(topics) < MAX_EXPIRED and (due := self.next_due()) is not None and due <= now:
            topics.append(heapq.heappop(self._queue)[1])
        return topics

    def delay(self, topics: Iterable[str], until: float) -> None:
        """Let these leases, which `run_out` has taken, run out at another time."""
        for topic in topics:
            if topic in self._leases:
                self._due[topic] = until
                heapq.heappush(self._queue, (until, topic))


Changes = dict[str, Lease | None]
"""What a commit changes of the leases: new ones by topic, None for those that it ends."""


def lease_changes(leases: Leases, earlier: Changes, events: Iterable[tuple[Draft, int]]) -> Changes:
    """Return what these events, given with their seqs, change. `earlier` are the changes of events in the same commit.
    Raises `Overloaded` for a lease too many."""
    changes: Changes = {}
    for draft, seq in events:
        topic, terms = draft.topic, draft.terms
        if terms is not None and terms.ttl is not None:
            if topic not in leases and topic not in earlier and topic not in changes:
                check_room(leases, len(earlier) + len(changes))
            changes[topic] = Lease(seq, terms.ttl)
        elif topic in leases or topic in earlier or topic in changes:
            changes[topic] = None
    return changes


def check_room(leases: Leases, more: int = 0) -> None:
    """Raise `Overloaded` if there may be no further lease, besides `more` new ones."""
    if len(leases) + more >= MAX_LEASES:
        raise too_many_leases()


def too_many_leases() -> Overloaded:
    """Return the refusal of a lease too many."""
    return Overloaded(f"{MAX_LEASES:,} topics have a ttl, which is the most there may be: publish without one")
