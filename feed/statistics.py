"""What a feed counts of what it does, in plain numbers. Whoever shows them reads them when somebody asks.

They only ever grow. Nothing is counted for each event and reader but what a subscription adds up itself: a publish, a
fan-out, a replay is one addition. And nothing that a client can make up is a name here: what is counted apart is
fixed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from feed.control import Reason

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

_UP_TO_A_MINUTE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)  # seconds
_EVENTS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0)


class Histogram:
    """How often a value was up to each of `bounds`, and above the last: `counts`, one more than there are bounds; and
    the `sum` of all of them. For one thread that observes; others may read."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = _UP_TO_A_MINUTE) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Once this value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add(self, other: Histogram) -> None:
        """All that another one of the same bounds has observed."""
        self.counts = [own + more for own, more in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Figures:
    """What one feed has counted since it was made, over whatever it was opened in between.

    `published` counts events whose publishers were told that they are committed, and `published_bytes` their data, in
    UTF-8; what is repeated with its key does not count again. `publishes` are requests, a batch is one.

    `subscribed` are the subscriptions that began, by transport, and `ended` those that ended, by why. `delivered` are
    events and bytes of body that were handed to the connections of streams which have ended (`Feed.delivered` has those
    of open ones too), and of pages of history.

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


def transport_of(name: str) -> str:
    """The name under which a transport is counted."""
    return name if name in TRANSPORTS else "library"


def _zeros(names: Iterable[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)
