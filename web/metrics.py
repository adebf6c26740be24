"""What `/metrics` says, in Prometheus's format.

**Nothing here is done per event.** The feed counts in plain integers, and they are read when somebody asks; what waits
in queues is summed up then, which takes a millisecond with 15,000 streams. Add a figure to `_FIGURES`, and there it is,
whichever way it is read:

- one process: the integers are read while the answer is written (`OwnMetrics`);
- several workers behind one port: each shares its own twice a second in a file that the others read, by
  prometheus-client's multiprocess mode, so that whichever answers, answers for all (`SharedMetrics`).

The library chooses its mode when it is imported (see `METRICS_FOLDER`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from feed import Feed, FeedUnavailable
from feed.broadcaster import Queues
from feed.log.contract import Retained
from web.settings import METRICS_FOLDER

logger = logging.getLogger(__name__)

_SHARE_SECONDS = 0.5
_TRIES, _TRY_AGAIN = 5, 0.002  # seconds; the loop stands still meanwhile


class _Now:
    """What a feed knows of itself at one moment. What is not one integer is asked for once for all figures."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    @cached_property
    def queues(self) -> Queues:
        return self.feed.queues

    @cached_property
    def retained(self) -> Retained | None:
        return self.feed.retained


class _Figure(NamedTuple):
    """A number that a feed knows of itself. A counter's name is given without the `_total` that it ends with. What is
    read is None where it is not known: then the page does without.

    `several` says what is made of a gauge where two processes have the same node's name: one that is being replaced,
    and its successor.
    """

    name: str
    kind: Literal["counter", "gauge"]
    documentation: str
    read: Callable[[_Now], float | None]
    several: Literal["livesum", "livemax"] = "livesum"


_FIGURES = (
    _Figure("feed_subscribers", "gauge", "Streams that are open.", lambda now: now.feed.subscribers),
    _Figure(
        "feed_published_events",
        "counter",
        "Events whose publishers were told that they are committed.",
        lambda now: now.feed.published,
    ),
    _Figure(
        "feed_log_position",
        "gauge",
        "The number of the log's newest event, as far as this node knows.",
        lambda now: now.feed.position,
        "livemax",
    ),
    _Figure(
        "feed_log_reconnects",
        "counter",
        "How often this node lost the log's server and found it again.",
        lambda now: now.feed.reconnects,
    ),
    _Figure(
        "feed_log_lag_events",
        "gauge",
        "Events in the log, as far as this node knows, that it has not passed on yet.",
        lambda now: now.feed.lag,
        "livemax",
    ),
    _Figure(
        "feed_queued_events",
        "gauge",
        "Events that wait in the queues of all streams that are open, in sum: an event counts once for each.",
        lambda now: now.queues.events,
    ),
    _Figure(
        "feed_queue_deepest_events",
        "gauge",
        "Events that wait in the queue of the stream for which most do.",
        lambda now: now.queues.deepest,
        "livemax",
    ),
    _Figure(
        "feed_lagging_subscribers",
        "gauge",
        "Streams that read the log: they could not keep up, or have come back and not caught up yet.",
        lambda now: now.queues.lagging,
    ),
    _Figure(
        "feed_log_events",
        "gauge",
        "Events that the log retains, as far as this node knows. Nodes on one log say the same.",
        lambda now: None if now.retained is None else now.retained.events,
        "livemax",
    ),
    _Figure(
        "feed_log_bytes",
        "gauge",
        "The sizes of those events, as retention counts them: roughly what they take in memory and on disk.",
        lambda now: None if now.retained is None else now.retained.bytes,
        "livemax",
    ),
    _Figure(
        "feed_time_seconds",
        "gauge",
        "This node's clock, in seconds since 1970. The latest of several workers' is that of the one that answered.",
        lambda _: time.time(),
        "livemax",
    ),
)


class Metrics(Protocol):
    """What the application needs: an answer, and somebody to keep it true."""

    def page(self, accept: str) -> tuple[bytes, str]:
        """All figures, and their media type, by a request's `Accept`."""

    async def keep(self) -> None:
        """Share with the other workers what this one knows, for ever."""

    def share(self) -> None:
        """The same once. After the feed is closed it is the last word."""


def metrics_of(feed: Feed, node: str) -> Metrics:
    """The metrics of one feed, under the node's name. They have a registry of their own: several in one process, or
    those of an application around them, do not get in each other's way."""
    return SharedMetrics(feed, node) if METRICS_FOLDER in os.environ else OwnMetrics(feed, node)


class OwnMetrics(Collector):
    """Of this process alone."""

    def __init__(self, feed: Feed, node: str) -> None:
        self._feed = feed
        self._node = node
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """What the library asks of a collector."""
        now = _Now(self._feed)
        for figure in _FIGURES:
            if (value := figure.read(now)) is None:
                continue
            metric = Metric(figure.name, figure.documentation, figure.kind)
            name = f"{figure.name}_total" if figure.kind == "counter" else figure.name
            metric.add_sample(name, {"node": self._node}, value)
            yield metric

    def page(self, accept: str) -> tuple[bytes, str]:
        """See `Metrics`."""
        return _page(self._registry, accept)

    async def keep(self) -> None:
        """See `Metrics`: there is nobody to share with."""

    def share(self) -> None:
        """See `Metrics`."""


class SharedMetrics:
    """Of all processes that have the same folder. What a process that died has counted stays, its gauges go once the
    one that looks after the workers has said so (`mark_process_dead`)."""

    def __init__(self, feed: Feed, node: str) -> None:
        self._feed = feed
        self._shares = [(figure, _share(figure, node)) for figure in _FIGURES]
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]

    def page(self, accept: str) -> tuple[bytes, str]:
        """See `Metrics`. A worker that is just beginning may have made its file and not filled it yet."""
        self.share()
        for _ in range(_TRIES):
            with contextlib.suppress(OSError, ValueError, struct.error):
                return _page(self._registry, accept)
            time.sleep(_TRY_AGAIN)
        raise FeedUnavailable("the workers are sharing their figures just now")

    async def keep(self) -> None:
        """See `Metrics`."""
        while True:
            try:
                self.share()
            except Exception:
                logger.exception("the metrics were not shared; the next time comes")
            await asyncio.sleep(_SHARE_SECONDS)

    def share(self) -> None:
        """See `Metrics`."""
        now = _Now(self._feed)
        for figure, share in self._shares:
            if (value := figure.read(now)) is not None:
                share(value)


def _share(figure: _Figure, node: str) -> Callable[[float], None]:
    if figure.kind == "gauge":
        gauge = Gauge(figure.name, figure.documentation, ["node"], registry=None, multiprocess_mode=figure.several)
        # Its sample is made at the first value: before it is known it would say 0.
        return lambda value: gauge.labels(node).set(value)
    counter = Counter(figure.name, figure.documentation, ["node"], registry=None).labels(node)
    counted = 0.0

    def count(value: float) -> None:
        nonlocal counted
        counter.inc(max(0.0, value - counted))
        counted = max(counted, value)

    return count


def _page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    encode, media_type = choose_encoder(accept)
    return encode(registry), media_type
