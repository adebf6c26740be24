"""The contract that every log keeps: ordered, retained events, the one source of truth.

- Events get the seqs 1, 2, 3 … without a hole. `append` is atomic: a batch is there whole and in order, or not at all.
- When `append` has returned, the batch is durable, as far as that log can make it.
- Events leave only at the old end, by retention. `oldest` is the first that is still there. With classes of retention
  (`feed.log.classes`) they leave at the old end of their class: seqs are then missing between others, which is no hole.
- If other events are missing or unreadable, there is a *hole* (`feed.log.paging`). No page spans a hole.
- The times of events never go back, whatever the clock does (`feed.log.clock`).
- Each time a log is opened it takes a new *epoch*, and remembers which seqs earlier epochs cover. An id is
  `<epoch>-<seq>`, so that ids of a deleted, replaced or restored log are recognised, even where numbers recur.
- A *position* is the seq of the newest event that a reader has seen: 0 before the first event.

`tests/feed/log/test_contract.py` holds every log to this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from feed.event import Draft, Event
from feed.histogram import Histogram
from feed.log.classes import Classes
from feed.log.epochs import Epochs
from feed.log.idempotency import IdempotencyKey
from feed.pattern import Selection

PAGE_BYTES = 1 << 20
"""A page ends with the event that exceeds this (see `Event.size`): no page is larger than this plus one event."""

SCAN_EVENTS = 2_000
"""A page ends after this many events were looked at, wanted or not, so that no read takes long."""

PAGE_SECONDS = 0.004
"""A page made in the event loop ends after this time. A hundred patterns with wildcards against long topics take 0.2 ms
for each event: a reader that asks for that may not hold up the others."""

LOOK_AT_CLOCK = 16
"""How many events are looked at between two looks at the clock, however slow they are."""


class Retained(msgspec.Struct, frozen=True):
    """How many events the log holds, and the sum of their sizes (`Event.size`). `classes` are the same of each class of
    retention, by its pattern; the default class is under `default`."""

    events: int
    bytes: int
    classes: Mapping[str, Retained] = {}


class FileBytes(msgspec.Struct, frozen=True):
    """The size of all files of a log, and how much of that is its write-ahead file."""

    total: int = 0
    ahead: int = 0


class Appended(msgspec.Struct, frozen=True):
    """Where a batch is: `count` events from seq `first` on, committed under `epoch`. If `repeated`, it was committed
    before, under the same key, and nothing was committed now.

    `others` are the ids of all drafts, where some were not committed, because a topic that is deleted is not deleted
    again. `first` is then the seq of the first id, and `epoch` its epoch.
    """

    epoch: str
    first: int
    count: int
    repeated: bool = False
    others: Sequence[str] = ()

    @property
    def ids(self) -> list[str]:
        """The events' ids, in order."""
        if self.others:
            return list(self.others)
        return [f"{self.epoch}-{seq}" for seq in range(self.first, self.first + self.count)]


def appended_as(ids: Sequence[str], count: int) -> Appended:
    """Return where the drafts with these ids are, of which `count` were committed now."""
    epoch, _, first = ids[0].partition("-")
    return Appended(epoch, int(first), count, others=() if len(ids) == count else tuple(ids))


class Page(msgspec.Struct, frozen=True):
    """The wanted events among `start + 1` to `end`, oldest first. All events in this range were looked at, and there is
    no hole among them.

    Read forward, `start` is the position that was asked for, or a later one if the next events are gone, by retention
    or in a hole. A page ends before the next hole. Read backward, reading goes on before `start + 1`, and `end` is
    before the position that was asked for if there is a hole between them.

    `taken` is for a log whose events are kept in classes, where events may be gone between others that are not: up to
    this seq, events that were asked for may have been taken by retention.
    """

    events: Sequence[Event]
    start: int
    end: int
    taken: int = 0


class Topic(NamedTuple):
    """A topic that has retained events: the seqs of its first one and of its newest one. `first` may be lower than
    that, if it is not known any better, but never higher. `ended` tells that the newest one is a tombstone; it has to
    be right only in a class that keeps the newest events."""

    name: str
    first: int
    newest: int
    ended: bool = False


class Loss(msgspec.Struct, frozen=True):
    """A place in the log, after the event at `position`, where events were lost. `before` is the id by which readers
    from before the loss know the place; `after` is its id now."""

    position: int
    before: str
    after: str


class Answers(msgspec.Struct, frozen=True):
    """The answers of other nodes, and the names of those that did not answer in time."""

    given: Sequence[bytes] = ()
    silent: Sequence[str] = ()


class LogLost(Exception):
    """Events that had been committed after `position` are gone. `id` is the id of that position in the log as it is
    now; the events that follow it are other ones. `before` and `after` say what ids meant before, and what they mean
    now."""

    def __init__(self, position: int, id: str, before: Epochs, after: Epochs) -> None:
        super().__init__(f"events after {id} are gone")
        self.position = position
        self.id = id
        self.before = before
        self.after = after

    def kept(self, cursor: int) -> bool:
        """Tell whether everything that a reader at `cursor` had seen is still there."""
        return self.after.locate(self.before.id_at(cursor), cursor) is not None


class Log(Protocol):
    """What a feed needs of its log. All positions are seqs."""

    @property
    def position(self) -> int:
        """The seq of the newest event that is known to be committed, 0 before the first one."""

    @property
    def oldest(self) -> int:
        """The seq of the oldest retained event; `position + 1` if there is none."""

    @property
    def classes(self) -> Classes:
        """The classes of retention, and what was taken from each."""

    @property
    def retained(self) -> Retained:
        """How much is retained, as far as this process knows: no server is asked. A log that several nodes share may
        learn of the others' events a second later."""

    @property
    def oldest_time(self) -> int | None:
        """When the oldest retained event was committed, in milliseconds since 1970, as far as this process knows; None
        if no event is retained."""

    @property
    def file_bytes(self) -> FileBytes:
        """How large the log's files are now; 0 for a log without files here."""

    @property
    def commits(self) -> Histogram:
        """How long commits took, in seconds. One commit may hold the batches of several publishers. Empty for a log
        that keeps nothing outside of this process."""

    @property
    def reconnects(self) -> int:
        """How often a follower had to connect to the log's server again; 0 for a log without a server."""

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """Commit a batch of at least one event.

        With a key that was used before, nothing is committed and the first answer comes back.

        Terms of drafts (`feed.terms`) are judged in the step that commits, in order, and after the key. Raises
        `PreconditionFailed` and `NoEvents` if they are not met: nothing was committed.

        Raises `Invalid` if the key was used for another request, `Overloaded` if too much waits already, and
        `FeedUnavailable` if the log cannot take the batch: in each case nothing was committed. Raises `Indeterminate`
        if it cannot be known whether the batch was committed.
        """

    async def renew(self, topic: str, ttl: int) -> None:
        """Let the value of a topic run out in `ttl` milliseconds from now. Nothing is appended.

        Raises `NoEvents` for a topic that has no value, `Overloaded` if there are too many leases (`feed.log.leases`),
        and `FeedUnavailable`.
        """

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """Return the next page of what `selection` wants, beyond `after` and up to `until`, inclusive.

        The page is empty if no event that was looked at is wanted. Go on reading from its `end`, which is beyond
        `after` whenever `after < until`. Raises `FeedUnavailable`. Loops use `feed.log.paging`.
        """

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """Return the page of the newest wanted events before `before`. Go on reading before `start + 1`."""

    async def fetch(self, seqs: Sequence[int]) -> Sequence[Event]:
        """Return the retained events with these seqs, which go up, in the same order. An event that exceeds a page's
        bytes is the last one. Events that are gone are left out. Raises `FeedUnavailable`."""

    async def topics(self) -> Sequence[Topic]:
        """Return all topics that have retained events, in any order. Raises `FeedUnavailable`."""

    async def before_time(self, time: int) -> int:
        """Return the position before the first event committed at `time` (milliseconds since 1970) or later. The answer
        is exact, because times never go back."""

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """Yield every event beyond `after`, once and in order, in batches as they come, without end.

        A batch starts after the next seq, or leaves out a seq, only if retention has overtaken the follower or there is
        a hole. Raises `LogLost` if the log has lost events that it had. What ids mean changes at that moment, and not
        before.
        """

    def id_at(self, position: int) -> str:
        """Return the id with which a client can resume after `position`."""

    async def locate(self, id: str) -> int | None:
        """Return the position of an id; None if it is not an id of this log, or is beyond the log's end. Raises
        `FeedUnavailable` if that cannot be found out now."""

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """Return the losses that a reader with this valid id has not been told of, in order. A log that lives and dies
        with one process has none that it knows of."""

    async def check(self) -> None:
        """Raise `FeedUnavailable` if the log could not take an event now."""

    async def ask_others(self, question: bytes) -> Answers:
        """Ask all other nodes that use this log now. Raises `FeedUnavailable`."""

    def answer_others(self, answer: Callable[[bytes], bytes]) -> None:
        """Answer other nodes' questions with this function from now on. It must not wait."""

    async def close(self) -> None:
        """Commit what waits, then release everything."""
