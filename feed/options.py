"""How much of everything a feed allows, and what one subscription may hold."""

from __future__ import annotations

import random

import msgspec

from feed.control import Reason
from feed.log.contract import Retention
from feed.pattern import MAX_PATTERNS

MAX_BATCH = 10_000
"""Events that may be published at once."""

_NEVER_BEFORE = 0.1  # of the drain


class Limits(msgspec.Struct, frozen=True):
    """What one subscription may hold and how often it is heard of. `queue_bytes` counts as `Event.size` does; times
    are in seconds. `drain` is the time over which the readers of a feed that is stopped come back."""

    queue_events: int = 256
    queue_bytes: int = 1 << 20
    heartbeat: float = 15.0
    retry: float = 3.0
    drain: float = 10.0

    def retry_after(self, reason: Reason) -> int:
        """When one client whose stream the server ends for this reason is to come back, in milliseconds."""
        return self.drained_retry(random.random()) if reason == "shutdown" else self.jittered_retry()

    def jittered_retry(self) -> int:
        """When one client is to come back, in milliseconds: jittered by half, so that a crowd comes back spread out."""
        return int(self.retry * random.uniform(0.5, 1.5) * 1000)

    def drained_retry(self, place: float) -> int:
        """The same for a client of a feed that is stopped, whose `place` among all is from 0 to 1.

        It is never at once, as an `EventSource` that finds nobody tries again after the same time, and for ever.
        """
        if not self.drain:
            return self.jittered_retry()
        return int(self.drain * (_NEVER_BEFORE + (1 - _NEVER_BEFORE) * place) * 1000)


class FeedOptions(msgspec.Struct, frozen=True):
    """How much of everything. Sizes are in bytes.

    `node` is what this process is called among those that share the log; unless said, host and process number.
    Subscribers are counted in one process; by address, as `feed.peer.address_key` says. `max_patterns` is for each
    subscription, 100 at most. `max_replays` is how many pages of the log are read at once for those who look back; all
    others wait for their turn, which comes after each page.
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
    limits: Limits = Limits()
