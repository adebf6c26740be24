"""The limits of a feed, and of one subscription."""

from __future__ import annotations

import random
from collections.abc import Mapping

import msgspec

from feed.control import Reason
from feed.log.classes import Keep, Retention
from feed.pattern import MAX_PATTERNS

MAX_BATCH = 10_000
"""How many events may be published at once."""

_NEVER_BEFORE = 0.1  # of the drain


class Limits(msgspec.Struct, frozen=True):
    """The limits of one subscription. Times are in seconds.

    `queue_events` and `queue_bytes` are how much waits for a slow reader in memory before it reads on from the log;
    bytes count as in `Event.size`. `heartbeat` is the longest silence on a stream. `retry` is when clients are told to
    come back after a broken stream. `drain` is the time over which the readers of a stopped feed come back.
    """

    queue_events: int = 256
    queue_bytes: int = 1 << 20
    heartbeat: float = 15.0
    retry: float = 3.0
    drain: float = 10.0

    def retry_after(self, reason: Reason) -> int:
        """Return after how many milliseconds a client comes back whose stream the server ends for this reason."""
        return self.drained_retry(random.random()) if reason == "shutdown" else self.jittered_retry()

    def jittered_retry(self) -> int:
        """Return after how many milliseconds a client comes back: jittered by half, so that a crowd is spread out."""
        return int(self.retry * random.uniform(0.5, 1.5) * 1000)

    def drained_retry(self, place: float) -> int:
        """Return after how many milliseconds a client of a stopped feed comes back, whose `place` among all clients is
        from 0 to 1.

        This is never 0: an `EventSource` that finds no server would try again at once, and for ever.
        """
        if not self.drain:
            return self.jittered_retry()
        return int(self.drain * (_NEVER_BEFORE + (1 - _NEVER_BEFORE) * place) * 1000)


class FeedOptions(msgspec.Struct, frozen=True):
    """The limits of a feed. Sizes are in bytes.

    `node` is the name of this process among those that share the log; if it is empty, host and process number.
    `max_data` is the largest data of one event. `window_events` and `window_bytes` are how many of the newest events
    are kept in memory, from which readers catch up without the log. `max_subscribers` counts the subscribers in this
    process, `max_subscribers_per_address` those of one address, as `feed.peer.address_key` makes it. `max_patterns` is
    for each subscription, 100 at most. `max_replays` is how many pages of the log are read at the same time for readers
    of the past; the others wait for their turn, which comes after each page. `retention` is what the log keeps, and
    `limits` what each subscription may use.

    `retain` says what is kept of the topics that a pattern matches, where that is not what `retention` says:
    `{"runs/**": Keep(age=3600)}`. The first pattern that matches a topic counts; there may be 32.
    """

    node: str = ""

    max_data: int = 256 * 1024
    window_events: int = 10_000
    window_bytes: int = 32 << 20
    max_subscribers: int | None = None
    max_subscribers_per_address: int | None = None
    max_patterns: int = MAX_PATTERNS
    max_replays: int = 4
    retention: Retention = Retention()
    retain: Mapping[str, Keep] = {}
    limits: Limits = Limits()
