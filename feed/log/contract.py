"""What every log keeps: the contract of the ordered, retained events that are the one source of truth.

In words:

- Events get the seqs 1, 2, 3 … without a hole. `append` is atomic: a batch is there whole and in order, or not at all.
- What `append` has returned for is durable, as far as that log can be.
- Events leave only at the old end, by retention. `oldest` is the first that is still there.
- Where others are gone all the same, or cannot be read, there is a *hole* (`feed.log.paging`). No page spans one.
- The times of events never go back, whatever the clock does (`feed.log.clock`).
- Each time a log is opened it takes a new *epoch*, and remembers which seqs the earlier ones cover. An id is
  `<epoch>-<seq>`, so that ids of a deleted, replaced or restored log are recognised, even where numbers recur.
- A *position* is the seq of the newest event somebody has seen: 0 before the first one.

`tests/feed/log/test_contract.py` holds every log to this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

import msgspec

from feed.event import Draft, Event
from feed.histogram import Histogram
from feed.log.epochs import Epochs
from feed.log.idempotency import IdempotencyKey
from feed.pattern import Selection

PAGE_BYTES = 1 << 20
"""A page ends at the event that goes beyond this (see `Event.size`): so no page is larger than this and one event."""

SCAN_EVENTS = 2_000
"""A page ends after so many events were looked at, wanted or not: so no read takes long."""

PAGE_SECONDS = 0.004
"""A page made in the event loop ends after this time. A hundred patterns with wildcards against long topics take 0.2 ms
an event: whoever asks for that may not hold up the others."""

LOOK_AT_CLOCK = 16
"""Events that are looked at between two looks at the clock, however slow."""


class Retention(msgspec.Struct, frozen=True):
    """What the log keeps; whichever bound is reached first counts. `age` is in seconds, `bytes` as by `Event.size`:
    1 GiB unless said, in memory 256 MiB.

    `keys` bounds the idempotency keys: beyond it the oldest are forgotten before their 24 hours are over.
    """

    events: int = 100_000
    age: float = 7 * 24 * 3600
    bytes: int | None = None
    keys: int = 1_000_000


class Retained(msgspec.Struct, frozen=True):
    """How much the log holds: how many events, and their sizes in sum, as by `Event.size`."""

    events: int
    bytes: int


class FileBytes(msgspec.Struct, frozen=True):
    """How large a log's files are together, and how much of that is the one that is written ahead."""

    total: int = 0
    ahead: int = 0


class Appended(msgspec.Struct, frozen=True):
    """Where a batch is: `count` events from `first` on, committed under `epoch`. `repeated` says that it was so before,
    under its key, and nothing was committed now."""

    epoch: str
    first: int
    count: int
    repeated: bool = False

    @property
    def ids(self) -> list[str]:
        """The events' ids, in order."""
        return [f"{self.epoch}-{seq}" for seq in range(self.first, self.first + self.count)]


class Page(msgspec.Struct, frozen=True):
    """The wanted ones among the events `start + 1` to `end`, oldest first. All of those were looked at, and there is no
    hole among them.

    Read forward, `start` is the position that was asked for, or a later one if what came after it is gone: retention
    has taken it, or there is a hole. A page ends before the next hole. Read backward, `start` is the position to go on
    before, and `end` lies before what was asked for if there is a hole between.
    """

    events: Sequence[Event]
    start: int
    end: int


class Loss(msgspec.Struct, frozen=True):
    """A place in the log, after the event at `position`, where others had stood that are gone. `before` is the id by
    which readers from before know the place, `after` the one that stands for it now."""

    position: int
    before: str
    after: str


class Answers(msgspec.Struct, frozen=True):
    """What other nodes said, and the names of those that did not answer in time."""

    given: Sequence[bytes] = ()
    silent: Sequence[str] = ()


class LogLost(Exception):
    """Events that had been committed after `position` are gone. `id` stands for that position in the log as it is now;
    what follows it are other events. `before` and `after` say what ids meant, and what they mean now."""

    def __init__(self, position: int, id: str, before: Epochs, after: Epochs) -> None:
        super().__init__(f"events after {id} are gone")
        self.position = position
        self.id = id
        self.before = before
        self.after = after

    def kept(self, cursor: int) -> bool:
        """Whether all that somebody had seen up to `cursor` is still there."""
        return self.after.locate(self.before.id_at(cursor), cursor) is not None


class Log(Protocol):
    """What a feed needs of its log. All positions are seqs."""

    @property
    def position(self) -> int:
        """The seq of the newest event that is known to be committed, 0 if there was none yet."""

    @property
    def oldest(self) -> int:
        """The seq of the oldest retained event; `position + 1` if none is."""

    @property
    def retained(self) -> Retained:
        """How much is retained, as far as is known here: nobody is asked for it. A log that several nodes share may
        know of what others have published a second later."""

    @property
    def oldest_time(self) -> int | None:
        """When the oldest retained event was committed, in milliseconds since 1970, as far as is known here; None if
        none is retained."""

    @property
    def file_bytes(self) -> FileBytes:
        """How large the log's files are now; 0 for a log that has none here."""

    @property
    def commits(self) -> Histogram:
        """How long commits took, in seconds: each is what several publishers have brought meanwhile. A log that keeps
        nothing outside of this process has none."""

    @property
    def reconnects(self) -> int:
        """How often whoever follows had to connect to the log's server again; 0 for a log without a server."""

    async def append(self, drafts: Sequence[Draft], key: IdempotencyKey | None = None) -> Appended:
        """Commit a batch of at least one event.

        With a key that was used before, nothing is committed and the first answer comes back.

        Raises `Invalid` if the key was used for another request, `Overloaded` at the bound of what may wait,
        `FeedUnavailable` if the log cannot take it: in each case nothing was committed. `Indeterminate` if that cannot
        be known.
        """

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        """The next page of what `selection` wants beyond `after`, up to and with `until`.

        It is empty if nothing was wanted among the events looked at; reading goes on from its `end`, which is beyond
        `after` whenever `after < until`. Raises `FeedUnavailable`. Whoever goes on does it by `feed.log.paging`.
        """

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        """The page of the newest wanted events before `before`. Reading goes on before `start + 1`."""

    async def before_time(self, time: int) -> int:
        """The position before the first event committed at `time` (milliseconds since 1970) or later: exact, as times
        never go back."""

    def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        """Every event beyond `after`, once, in order, in batches as they come, without end.

        Only where retention has overtaken the follower, or there is a hole, does a batch not begin with the next seq,
        or is one left out in it. Raises `LogLost` where the log has lost events that it had. What ids mean changes in
        that moment, and not before.
        """

    def id_at(self, position: int) -> str:
        """The id by which a client can resume after `position`."""

    async def locate(self, id: str) -> int | None:
        """The position an id stands for; None if it is not an id of this log, or of an event beyond its end. Raises
        `FeedUnavailable` if that cannot be found out now."""

    def losses_beyond(self, id: str) -> Sequence[Loss]:
        """The losses that somebody with this valid id has not been told of, in order. None in a log that lives and dies
        with one process, as it does not know."""

    async def check(self) -> None:
        """Raises `FeedUnavailable` if the log could not take an event now."""

    async def ask_others(self, question: bytes) -> Answers:
        """Ask all other nodes that are on this log now. Raises `FeedUnavailable`."""

    def answer_others(self, answer: Callable[[bytes], bytes]) -> None:
        """From now on answer the other nodes' questions by this. It must not wait."""

    async def close(self) -> None:
        """Commit what waits, then let everything go."""
