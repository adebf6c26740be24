"""What a feed counts, in plain numbers, and what it holds at one moment. They are read when they are asked for.

Counters only ever grow. Per event and reader only the subscription itself counts: a publish, a fan-out or a replay is
one addition here. No name of a counter comes from a client: the set of names is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import msgspec

from feed.control import Reason
from feed.histogram import Histogram
from feed.log.contract import FileBytes, Retained

Outcome = Literal["created", "repeated", "invalid", "denied", "overloaded", "unavailable", "indeterminate", "failed"]
"""The result of a publish: committed; answered again for its key; wrong (`Invalid`, `Malformed`, `TooLarge`, or not a
request that can be understood); not allowed; too many; not possible now; perhaps committed; failed by a bug."""

Refusal = Literal["invalid", "denied", "busy", "shutdown", "failed"]
"""Why a reader was refused: a wrong request; not allowed; no room, or a log that cannot be reached; a server that is
being stopped; a bug."""

Ending = Reason | Literal["client", "error"]
"""Why a stream ended: the reason that `feed.closing` gave, or the client left, or writing failed."""

TRANSPORTS = ("sse", "websocket", "ndjson", "poll", "library")
"""The values of `Peer.transport`; any other name counts as the last one."""

_EVENTS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


class Counters:
    """What one feed has counted since it was made, also over several times that it was open.

    `published` counts the events whose publishers were told that they are committed, and `published_bytes` their data
    in bytes of UTF-8. A publish repeated with its key does not count again. `publishes` counts requests by result; a
    batch is one request.

    `subscribed` counts subscriptions that began, by transport; `ended` those that ended, by reason; `refused` readers
    that were refused. `delivered` are the events and bytes of body handed to connections, of streams that have ended
    and of pages of history. `Statistics.delivered` includes open streams.

    `overflows` counts how often a queue was full, so that its reader continued from the log. `replays` are, for each
    reader that started in the past, the events sent until it was live or had left, by their source: the memory only
    (`window`), or the log too (`log`). `gaps` counts how often a reader was told of a gap.

    `fan_outs` is how long writing one run to all its readers took, in seconds. `delays` is the time from the commit of
    the oldest event of the run until then, by the clocks of the log and of this machine.
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
    """Events and bytes that were handed to connections."""

    __slots__ = ("bytes", "events")

    def __init__(self, events: int = 0, bytes: int = 0) -> None:
        self.events = events
        self.bytes = bytes

    def add(self, events: int, bytes: int) -> None:
        """Add these counts."""
        self.events += events
        self.bytes += bytes


class Queues(NamedTuple):
    """The events that wait in all queues together, and in the deepest one, and how many subscriptions are lagging.

    A lagging subscription reads the log, because it could not keep up, or has come back and not caught up yet. What it
    still has to read is in no queue.
    """

    events: int
    deepest: int
    lagging: int


class Statistics(msgspec.Struct, frozen=True):
    """A snapshot of what a feed holds, and has done since it was made (see `Feed.statistics`). It does not change.

    `subscribers` is how many streams are open. `subscribers_by_transport` is the same by how they read: `sse`,
    `websocket`, `ndjson`, `poll` (a long poll), `library` (inside the process). `queues` is what waits in their queues.

    `delivered` are the events and bytes of body handed to connections, by transport, of open and ended streams. Pages
    of history are under `history`, as is a long poll, which is answered with a page.

    The log, as far as this process knows: `position` is the seq of its newest event, 0 before the first one. `lag` is
    how many of its events were not passed on to the streams yet. `retained` is how many events it holds and their sizes
    in bytes. `topics` is how many topics they have, those that were deleted included; None until the log's index has
    been read. `oldest_time` is when the oldest of them was committed, in milliseconds since 1970. `file_bytes` is how
    large its files are. `commits` is how long commits took, in seconds. `reconnects` is how often the connection to the
    log's server was lost and made again.

    While the feed is not open there are no streams, `position` and `lag` are 0, and `retained`, `topics`, `oldest_time`
    and `file_bytes` are None. `oldest_time` is also None while the log holds no event.
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
    topics: int | None = None
    oldest_time: int | None = None
    file_bytes: FileBytes | None = None


def transport_of(name: str) -> str:
    """Return the name under which a transport is counted."""
    return name if name in TRANSPORTS else "library"


def _zeros(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)
