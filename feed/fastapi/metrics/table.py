"""Which figures `/metrics` shows, where each comes from, and what it is called.

Add one to `FIGURES`, and there it is, whichever way they are read (`feed.fastapi.metrics.prometheus`). The README says
of each when to worry, and a test sees to it that none is forgotten there. A label besides `node` has the few values
that the feed knows beforehand: none that a client could make up, or the figures would be without end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from feed import Feed
from feed.histogram import Histogram

_LOOP_LOOKS = 0.1  # seconds between two looks at how late the event loop is


class LoopDelay:
    """How late the event loop is, in seconds: how much longer than it should somebody sleeps who has asked for a tenth
    of a second."""

    def __init__(self) -> None:
        self.seen = Histogram()

    async def watch(self) -> None:
        """Look now and then, for ever."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_LOOP_LOOKS)
            self.seen.observe(max(0.0, time.perf_counter() - before - _LOOP_LOOKS))


class Snapshot:
    """What a process knows of itself at one moment. `dropped_lines` is how many lines its program's log has lost, where
    it knows."""

    def __init__(self, feed: Feed, loop: LoopDelay, dropped_lines: Callable[[], int] | None) -> None:
        self.statistics = feed.statistics()
        self.counters = feed.counters
        self.loop = loop
        self.dropped_lines = None if dropped_lines is None else dropped_lines()

    @property
    def oldest_age(self) -> float | None:
        """In seconds; 0 where nothing is retained."""
        if self.statistics.retained is None:
            return None
        oldest = self.statistics.oldest_time
        return 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)


class Figure(NamedTuple):
    """A number. A counter's name is given without the `_total` that it ends with.

    What is read is None where it is not known: then the page does without. With a `label` it is one for each of the
    label's values. `several` says what is made of a gauge where two processes have the same node's name: one that is
    being replaced, and its successor.
    """

    name: str
    kind: Literal["counter", "gauge"]
    documentation: str
    read: Callable[[Snapshot], float | Mapping[str, float] | None]
    label: str | None = None
    several: Literal["livesum", "livemax"] = "livesum"

    def values(self, now: Snapshot) -> Mapping[str, float]:
        """What it is now, by the label's values; by '' without a label."""
        value = self.read(now)
        if value is None:
            return {}
        return value if isinstance(value, Mapping) else {"": value}


class Distribution(NamedTuple):
    """A histogram, or one for each of the label's values."""

    name: str
    documentation: str
    read: Callable[[Snapshot], Histogram | Mapping[str, Histogram]]
    label: str | None = None

    def values(self, now: Snapshot) -> Mapping[str, Histogram]:
        """What it is now, by the label's values; by '' without a label."""
        value = self.read(now)
        return value if isinstance(value, Mapping) else {"": value}


FIGURES: tuple[Figure | Distribution, ...] = (
    Figure("feed_subscribers", "gauge", "Streams that are open.", lambda now: now.statistics.subscribers),
    Figure(
        "feed_subscribers_by_transport",
        "gauge",
        "The same, by how they read: sse, websocket, ndjson, poll (a long poll), library (inside the process).",
        lambda now: now.statistics.subscribers_by_transport,
        "transport",
    ),
    Figure(
        "feed_subscriptions",
        "counter",
        "Streams that were opened.",
        lambda now: now.counters.subscribed,
        "transport",
    ),
    Figure(
        "feed_subscriptions_refused",
        "counter",
        "Requests to read that were refused: invalid, denied (401, 403), busy (no room, or the log is away), shutdown.",
        lambda now: now.counters.refused,
        "reason",
    ),
    Figure(
        "feed_disconnects",
        "counter",
        "Streams that ended: client (it left), error (writing broke), or what feed.closing said.",
        lambda now: now.counters.ended,
        "reason",
    ),
    Figure(
        "feed_publishes",
        "counter",
        "Requests and messages to publish, a batch being one, by what became of them.",
        lambda now: now.counters.publishes,
        "outcome",
    ),
    Figure(
        "feed_published_events",
        "counter",
        "Events that were committed, and their publishers told so. What is repeated with its key does not count again.",
        lambda now: now.counters.published,
    ),
    Figure(
        "feed_published_bytes",
        "counter",
        "Bytes of their data.",
        lambda now: now.counters.published_bytes,
    ),
    Figure(
        "feed_delivered_events",
        "counter",
        "Events handed to connections: an event counts once for each reader. `history` are pages of it.",
        lambda now: {name: delivered.events for name, delivered in now.statistics.delivered.items()},
        "transport",
    ),
    Figure(
        "feed_delivered_bytes",
        "counter",
        "Bytes of body handed to connections, heartbeats and the like included.",
        lambda now: {name: delivered.bytes for name, delivered in now.statistics.delivered.items()},
        "transport",
    ),
    Distribution(
        "feed_fan_out_seconds",
        "How long it took to write what was published at once to all its readers.",
        lambda now: now.counters.fan_outs,
    ),
    Distribution(
        "feed_delivery_delay_seconds",
        "From the commit of the oldest event of a fan-out until it was written to its last reader.",
        lambda now: now.counters.delays,
    ),
    Figure(
        "feed_queued_events",
        "gauge",
        "Events that wait in the queues of all streams that are open, in sum: an event counts once for each.",
        lambda now: now.statistics.queues.events,
    ),
    Figure(
        "feed_queue_deepest_events",
        "gauge",
        "Events that wait in the queue of the stream for which most do.",
        lambda now: now.statistics.queues.deepest,
        several="livemax",
    ),
    Figure(
        "feed_queue_overflows",
        "counter",
        "How often a queue was full: its reader could not keep up, and went on from the log.",
        lambda now: now.counters.overflows,
    ),
    Figure(
        "feed_lagging_subscribers",
        "gauge",
        "Streams that read the log: they could not keep up, or have come back and not caught up yet.",
        lambda now: now.statistics.queues.lagging,
    ),
    Distribution(
        "feed_replay_events",
        "Events that a reader which came back was sent until it was live: from memory alone (window), or the log too.",
        lambda now: now.counters.replays,
        "source",
    ),
    Figure(
        "feed_gaps",
        "counter",
        "How often a reader was told that events may be missing: expired, or unknown.",
        lambda now: now.counters.gaps,
        "reason",
    ),
    Figure(
        "feed_log_position",
        "gauge",
        "The number of the log's newest event, as far as this node knows.",
        lambda now: now.statistics.position,
        several="livemax",
    ),
    Figure(
        "feed_log_events",
        "gauge",
        "Events that the log retains, as far as this node knows. Nodes on one log say the same.",
        lambda now: None if now.statistics.retained is None else now.statistics.retained.events,
        several="livemax",
    ),
    Figure(
        "feed_log_bytes",
        "gauge",
        "The sizes of those events, as retention counts them: roughly what they take in memory and on disk.",
        lambda now: None if now.statistics.retained is None else now.statistics.retained.bytes,
        several="livemax",
    ),
    Figure(
        "feed_log_file_bytes",
        "gauge",
        "How large the files of a log on SQLite are, all together; 0 for other logs.",
        lambda now: None if now.statistics.file_bytes is None else now.statistics.file_bytes.total,
        several="livemax",
    ),
    Figure(
        "feed_log_wal_bytes",
        "gauge",
        "The part of it that is written ahead: it grows while another program reads the log for long.",
        lambda now: None if now.statistics.file_bytes is None else now.statistics.file_bytes.ahead,
        several="livemax",
    ),
    Figure(
        "feed_log_oldest_age_seconds",
        "gauge",
        "The age of the oldest of those events; 0 if there is none.",
        lambda now: now.oldest_age,
        several="livemax",
    ),
    Distribution(
        "feed_log_commit_seconds",
        "How long commits took, each of what several publishers had brought: to disk, or to Redis and back.",
        lambda now: now.statistics.commits,
    ),
    Figure(
        "feed_log_lag_events",
        "gauge",
        "Events in the log, as far as this node knows, that it has not passed on yet.",
        lambda now: now.statistics.lag,
        several="livemax",
    ),
    Figure(
        "feed_log_reconnects",
        "counter",
        "How often this node lost the log's server and found it again.",
        lambda now: now.statistics.reconnects,
    ),
    Distribution(
        "feed_event_loop_delay_seconds",
        "How late the event loop was, looked at ten times a second.",
        lambda now: now.loop.seen,
    ),
    Figure(
        "feed_dropped_log_lines",
        "counter",
        "Lines for standard error that were dropped, as nobody took them in time.",
        lambda now: now.dropped_lines,
    ),
    Figure(
        "feed_time_seconds",
        "gauge",
        "This node's clock, in seconds since 1970. The latest of several workers' is that of the one that answered.",
        lambda _: time.time(),
        several="livemax",
    ),
)
