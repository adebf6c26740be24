"""What a feed counts of what it does, in plain numbers, and what it is at one moment. Whoever shows it reads it when
somebody asks.

Counters only ever grow. Nothing is counted for each event and reader but what a subscription adds up itself: a
publish, a fan-out, a replay is one addition. And nothing that a client can make up is a name here: what is counted
apart is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import msgspec

from feed.control import Reason
from feed.histogram import Histogram
from feed.log.contract import FileBytes, Retained

Outcome = Literal["created", "repeated", "invalid", "denied", "overloaded", "unavailable", "indeterminate", "failed"]
"""What becomes of a publish: committed; answered again for its key; wrong (`Invalid`, `Malformed`, `TooLarge`, or no
request to be understood); without the right to; one too many; not possible now; perhaps committed; broken."""

Refusal = Literal["invalid", "denied", "busy", "shutdown", "failed"]
"""Why a reader gets nothing: a wrong request; no right to; no room, or a log that is away; a server that is being
stopped; broken."""

Ending = Reason | Literal["client", "error"]
"""Why a stream ended: what `feed.closing` said, or its reader left, or writing broke."""

TRANSPORTS = ("sse", "websocket", "ndjson", "poll", "library")
"""What a `Peer` may call the way it reads; another name counts as the last."""

_EVENTS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


class Counters:
    """What one feed has counted since it was made, over whatever it was opened in between.

    `published` counts events whose publishers were told that they are committed, and `published_bytes` their data, in
    UTF-8; what is repeated with its key does not count again. `publishes` are requests, a batch is one.

    `subscribed` are the subscriptions that began, by transport, and `ended` those that ended, by why. `delivered` are
    events and bytes of body that were handed to the connections of streams which have ended (`Statistics.delivered`
    has those of open ones too), and of pages of history.

    `overflows` is how often a queue was full, and its reader has gone on from the log. `replays` is how many events a
    reader that began in the past was sent until it was live, or had left, by where they came from: the memory alone, or
    the log too. `gaps` is how often a reader was told of one.

    `fan_outs` is how long it took to write what was published at once to all its readers, in seconds, and `delays` the
    time from the commit of the oldest event of it until then, by the clocks of the log and of this machine.
    """

    def __init__(self) -> None:
        self.published = 0
        self.published_bytes = 0
        self.publishes: dict[str, int] = _zeros(get_args(Outcome))
        self.subscribed = _zeros(TRANSPORTS)
        self.refused: dict[str, int] = _zeros(get_args(Refusal))
        self.ended: dict[str, int] = _zeros((*get_args(Reason), "client", "error"))
        self.delivered = {name: Delivered() for name in (*TRANSPORTS, "history")}
        self.overflows = 0
        self.replays = {"window": Histogram(_EVENTS), "log": Histogram(_EVENTS)}
        self.gaps = _zeros(("expired", "unknown"))
        self.fan_outs = Histogram()
        self.delays = Histogram()


class Delivered:
    """Events, and bytes."""

    __slots__ = ("bytes", "events")

    def __init__(self, events: int = 0, bytes: int = 0) -> None:
        self.events = events
        self.bytes = bytes

    def add(self, events: int, bytes: int) -> None:
        """So much more."""
        self.events += events
        self.bytes += bytes


class Queues(NamedTuple):
    """What waits in the queues of all subscriptions in sum, and in the deepest one; and how many are behind: they read
    the log, because they could not keep up, or because they have come back and have not caught up yet. What they have
    still to read counts in no queue."""

    events: int
    deepest: int
    lagging: int


class Statistics(msgspec.Struct, frozen=True):
    """What a feed holds, and has done since it was made, at one moment: see `Feed.statistics`. Nothing in it goes on
    changing.

    `subscribers` is how many streams are open, `subscribers_by_transport` the same by how they read: `sse`,
    `websocket`, `ndjson`, `poll` (a long poll), `library` (inside the process). `queues` is what waits in their queues.

    `delivered` are the events and bytes of body that were handed to connections, of streams that have ended too, by
    transport; those of pages are under `history`, where a long poll counts as the page that it is answered with.

    Of the log, as far as this process knows: `position` is the seq of its newest event, 0 before the first one, and
    `lag` how many of its events were not passed on to the streams yet. `retained` is how many events it holds and
    their sizes in bytes, `oldest_time` when the oldest of them was committed, in milliseconds since 1970, and
    `file_bytes` how large its files are. `commits` is how long commits took, in seconds, and `reconnects` how often the
    log's server was lost and found again.

    While the feed is not open there are no streams, the log's `position` and `lag` are 0, and what it holds is None.
    So is `oldest_time` where it holds nothing.
    """

    subscribers_by_transport: Mapping[str, int]
    delivered: Mapping[str, Delivered]
    commits: Histogram
    reconnects: int
    subscribers: int = 0
    queues: Queues = Queues(0, 0, 0)
    position: int = 0
    lag: int = 0
    retained: Retained | None = None
    oldest_time: int | None = None
    file_bytes: FileBytes | None = None


def transport_of(name: str) -> str:
    """The name under which a transport is counted."""
    return name if name in TRANSPORTS else "library"


def _zeros(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)
