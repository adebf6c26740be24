"""The table of metrics that `/metrics` shows: the name and text of each, and where its value comes from.

Add a metric to `FIGURES` and the page shows it, however it is read (`feed.fastapi.metrics.prometheus`). The page
docs/reference/metrics.md says when to worry about each, and a test makes sure that none is missing there. A label other
than `node` has few values, all known beforehand: clients must not be able to make up values, or the number of time
series would have no bound.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from feed import Feed
from feed.histogram import Histogram

_LOOP_LOOKS = 0.1  # seconds between two measurements of the event loop's delay


class LoopDelay:
    """Measures how late the event loop is, in seconds: by how much a sleep of a tenth of a second takes too long."""

    def __init__(self) -> None:
        self.seen = Histogram()

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            before = time.perf_counter()
            await asyncio.sleep(_LOOP_LOOKS)
            self.seen.observe(max(0.0, time.perf_counter() - before - _LOOP_LOOKS))


class Snapshot:
    """The values of one process at one moment. `dropped_lines` is how many lines the program's log has lost, None if it
    does not count them."""

    def __init__(self, feed: Feed, loop: LoopDelay, dropped_lines: Callable[[], int] | None) -> None:
        self.statistics = feed.statistics()
        self.counters = feed.counters
        self.loop = loop
        self.dropped_lines = None if dropped_lines is None else dropped_lines()

    @property
    def oldest_age(self) -> float | None:
        """The age of the oldest retained event in seconds: 0 if there is none, None if the feed is not open."""
        if self.statistics.retained is None:
            return None
        oldest = self.statistics.oldest_time
        return 0.0 if oldest is None else max(0.0, time.time() - oldest / 1000)

    def classes(self, what: Literal["events", "bytes"]) -> Mapping[str, float] | None:
        """How much each class of retention holds, by its pattern; None if there are no classes."""
        retained = self.statistics.retained
        if retained is None or not retained.classes:
            return None
        return {pattern: getattr(each, what) for pattern, each in retained.classes.items()}


class Figure(NamedTuple):
    """A counter or a gauge. A counter's name is given without its ending `_total`.

    `read` returns None for an unknown value, which the page leaves out. With a `label` it returns a value for each of
    the label's values. `several` says how a gauge combines two processes with the same node's name, such as a process
    and its successor: their sum, or the larger value.
    """

    name: str
    kind: Literal["counter", "gauge"]
    documentation: str
    read: Callable[[Snapshot], float | Mapping[str, float] | None]
    label: str | None = None
    several: Literal["livesum", "livemax"] = "livesum"

    def values(self, now: Snapshot) -> Mapping[str, float]:
        """Return the current values, keyed by the label's values, or by '' without a label."""
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
        """Return the current values, keyed by the label's values, or by '' without a label."""
        value = self.read(now)
        return value if isinstance(value, Mapping) else {"": value}


FIGURES: tuple[Figure | Distribution, ...] = (
    Figure("feed_subscribers", "gauge", "Open streams.", lambda now: now.statistics.subscribers),
    Figure(
        "feed_subscribers_by_transport",
        "gauge",
        "Open streams by transport: sse, websocket, ndjson, poll (a long poll), library (inside the process).",
        lambda now: now.statistics.subscribers_by_transport,
        "transport",
    ),
    Figure(
        "feed_subscriptions",
        "counter",
        "Streams opened, by transport.",
        lambda now: now.counters.subscribed,
        "transport",
    ),
    Figure(
        "feed_subscriptions_refused",
        "counter",
        "Refused requests to read: invalid, denied (401, 403), busy (no room, or no log), shutdown, failed.",
        lambda now: now.counters.refused,
        "reason",
    ),
    Figure(
        "feed_disconnects",
        "counter",
        "Streams that ended: client (it left), error (writing failed), or the reason in feed.closing.",
        lambda now: now.counters.ended,
        "reason",
    ),
    Figure(
        "feed_publishes",
        "counter",
        "Requests and messages to publish, by outcome. A batch counts as one.",
        lambda now: now.counters.publishes,
        "outcome",
    ),
    Figure(
        "feed_published_events",
        "counter",
        "Events that were committed and acknowledged. A repetition with the same key does not count again.",
        lambda now: now.counters.published,
    ),
    Figure(
        "feed_published_bytes",
        "counter",
        "Bytes of data of the events that were committed and acknowledged.",
        lambda now: now.counters.published_bytes,
    ),
    Figure(
        "feed_delivered_events",
        "counter",
        "Events handed to connections. An event counts once for each reader. Transport history: in pages of history.",
        lambda now: {name: delivered.events for name, delivered in now.statistics.delivered.items()},
        "transport",
    ),
    Figure(
        "feed_delivered_bytes",
        "counter",
        "Bytes of body handed to connections, including heartbeats and control events.",
        lambda now: {name: delivered.bytes for name, delivered in now.statistics.delivered.items()},
        "transport",
    ),
    Distribution(
        "feed_fan_out_seconds",
        "Time to write events that were published together to all their readers.",
        lambda now: now.counters.fan_outs,
    ),
    Distribution(
        "feed_delivery_delay_seconds",
        "Time from the commit of a fan-out's oldest event until the last reader was written to.",
        lambda now: now.counters.delays,
    ),
    Figure(
        "feed_queued_events",
        "gauge",
        "Events waiting in the queues of all open streams. An event counts once for each queue.",
        lambda now: now.statistics.queues.events,
    ),
    Figure(
        "feed_queue_deepest_events",
        "gauge",
        "Events waiting in the longest queue of an open stream.",
        lambda now: now.statistics.queues.deepest,
        several="livemax",
    ),
    Figure(
        "feed_queue_overflows",
        "counter",
        "Times that a queue was full: its reader could not keep up, and continued from the log.",
        lambda now: now.counters.overflows,
    ),
    Figure(
        "feed_lagging_subscribers",
        "gauge",
        "Lagging streams: they read the log, as they could not keep up, or came back and have not caught up yet.",
        lambda now: now.statistics.queues.lagging,
    ),
    Distribution(
        "feed_replay_events",
        "Events sent to a reader that came back until it was live: from memory only (window), or also from the log.",
        lambda now: now.counters.replays,
        "source",
    ),
    Figure(
        "feed_gaps",
        "counter",
        "Times that a reader was told that events may be missing: expired, or unknown.",
        lambda now: now.counters.gaps,
        "reason",
    ),
    Figure(
        "feed_log_position",
        "gauge",
        "Sequence number of the log's newest event, as far as this node knows.",
        lambda now: now.statistics.position,
        several="livemax",
    ),
    Figure(
        "feed_log_events",
        "gauge",
        "Events retained in the log, as far as this node knows. Nodes on one log show the same number.",
        lambda now: None if now.statistics.retained is None else now.statistics.retained.events,
        several="livemax",
    ),
    Figure(
        "feed_topics",
        "gauge",
        "Topics that have retained events, as far as this node knows; those that were deleted count, too.",
        lambda now: now.statistics.topics,
        several="livemax",
    ),
    Figure(
        "feed_log_bytes",
        "gauge",
        "Size of the retained events, as retention counts it: roughly what they take in memory and on disk.",
        lambda now: None if now.statistics.retained is None else now.statistics.retained.bytes,
        several="livemax",
    ),
    Figure(
        "feed_class_events",
        "gauge",
        "Events retained in each class of retention (FEED_RETAIN); all other topics are in `default`.",
        lambda now: now.classes("events"),
        label="class",
        several="livemax",
    ),
    Figure(
        "feed_class_bytes",
        "gauge",
        "Size of the events retained in each class of retention, as retention counts it.",
        lambda now: now.classes("bytes"),
        label="class",
        several="livemax",
    ),
    Figure(
        "feed_log_file_bytes",
        "gauge",
        "Size of all files of a SQLite log; 0 for other logs.",
        lambda now: None if now.statistics.file_bytes is None else now.statistics.file_bytes.total,
        several="livemax",
    ),
    Figure(
        "feed_log_wal_bytes",
        "gauge",
        "Size of the SQLite log's write-ahead log: it grows while another program reads the log for long.",
        lambda now: None if now.statistics.file_bytes is None else now.statistics.file_bytes.ahead,
        several="livemax",
    ),
    Figure(
        "feed_log_oldest_age_seconds",
        "gauge",
        "Age of the oldest retained event; 0 if there is none.",
        lambda now: now.oldest_age,
        several="livemax",
    ),
    Distribution(
        "feed_log_commit_seconds",
        "Time of a commit, which may serve several publishers: to disk, or to Redis and back.",
        lambda now: now.statistics.commits,
    ),
    Figure(
        "feed_log_lag_events",
        "gauge",
        "Events in the log, as far as this node knows, that the node has not passed on to its streams yet.",
        lambda now: now.statistics.lag,
        several="livemax",
    ),
    Figure(
        "feed_log_reconnects",
        "counter",
        "Times that this node lost the log's server and found it again.",
        lambda now: now.statistics.reconnects,
    ),
    Distribution(
        "feed_event_loop_delay_seconds",
        "Delay of the event loop, measured ten times a second.",
        lambda now: now.loop.seen,
    ),
    Figure(
        "feed_dropped_log_lines",
        "counter",
        "Lines for standard error that were dropped, because nothing read them in time.",
        lambda now: now.dropped_lines,
    ),
    Figure(
        "feed_time_seconds",
        "gauge",
        "This node's clock, in seconds since 1970. Of several workers, that of the one that answered.",
        lambda _: time.time(),
        several="livemax",
    ),
)
