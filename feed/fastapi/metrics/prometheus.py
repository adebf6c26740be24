"""Make the `/metrics` page, in Prometheus's format, from the table of metrics (`feed.fastapi.metrics.table`).

**Nothing here is done per event.** The feed counts in plain numbers, which are read on request. The lengths of the
queues are summed up on request too, which takes a millisecond with 15,000 streams. There are two ways:

- `OwnMetrics`, one process: the values are read while the answer is written;
- `SharedMetrics`, several workers behind one port: each writes its values twice a second to a file that the others
  read, by prometheus-client's multiprocess mode, so that any worker answers for all.

The library chooses its mode when it is imported (see `METRICS_FOLDER`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, values
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from feed import Feed
from feed.fastapi.metrics import METRICS_FOLDER
from feed.fastapi.metrics.table import FIGURES, Distribution, Figure, LoopDelay, Snapshot
from feed.histogram import Histogram

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_Share = Callable[[Snapshot], None]

_SHARE_SECONDS = 0.5


class Metrics(Protocol):
    """What the application needs: the page, and a task that keeps its values current."""

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page and its media type, chosen by a request's `Accept`."""

    async def keep(self) -> None:
        """Run until cancelled: measure the event loop's delay, and share this worker's values with the others."""

    def share(self) -> None:
        """Share the values once. Call it after the feed is closed to share the final ones."""


def metrics_of(feed: Feed, node: str, *, dropped_lines: Callable[[], int] | None = None) -> Metrics:
    """Return the metrics of one feed, labelled with the node's name. They have a registry of their own, apart from
    those of other feeds in the process and of the application around.

    `dropped_lines` returns how many lines the program's own log has lost; without it that metric is left out.
    """
    loop = LoopDelay()
    kind = SharedMetrics if METRICS_FOLDER in os.environ else OwnMetrics
    return kind(partial(Snapshot, feed, loop, dropped_lines), loop, node)


class OwnMetrics(Collector):
    """The metrics of this process alone."""

    def __init__(self, snapshot: Callable[[], Snapshot], loop: LoopDelay, node: str) -> None:
        self._snapshot = snapshot
        self._loop = loop
        self._node = node
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, as prometheus-client asks of a collector."""
        now = self._snapshot()
        for figure in FIGURES:
            if isinstance(figure, Distribution):
                yield self._histogram(figure, now)
            elif found := figure.values(now):
                yield self._metric(figure, found)

    def _metric(self, figure: Figure, found: Mapping[str, float]) -> Metric:
        metric = Metric(figure.name, figure.documentation, figure.kind)
        name = f"{figure.name}_total" if figure.kind == "counter" else figure.name
        for of_label, value in found.items():
            labels = dict(zip(_labels(figure), _labelled(figure, self._node, of_label), strict=True))
            metric.add_sample(name, labels, value)
        return metric

    def _histogram(self, figure: Distribution, now: Snapshot) -> Metric:
        family = HistogramMetricFamily(figure.name, figure.documentation, labels=_labels(figure))
        for of_label, value in figure.values(now).items():
            family.add_metric(_labelled(figure, self._node, of_label), _buckets(value), value.sum)
        return family

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `Metrics`."""
        return _page(self._registry, accept)

    async def keep(self) -> None:
        """See `Metrics`. There is no other process to share with."""
        await self._loop.watch()

    def share(self) -> None:
        """See `Metrics`."""


class SharedMetrics:
    """The metrics of all processes that share the folder. The counters of a dead process stay; its gauges go when the
    supervisor of the workers calls `mark_process_dead`."""

    def __init__(self, snapshot: Callable[[], Snapshot], loop: LoopDelay, node: str) -> None:
        self._snapshot = snapshot
        self._loop = loop
        self._shares = [_share(figure, node) for figure in FIGURES]
        self._registry = CollectorRegistry()
        FilledFiles(self._registry)  # type: ignore[no-untyped-call]

    async def page(self, accept: str) -> tuple[bytes, str]:
        """See `Metrics`."""
        self.share()
        return await asyncio.to_thread(_page, self._registry, accept)  # a millisecond for each worker

    async def keep(self) -> None:
        """See `Metrics`."""
        watching = asyncio.create_task(self._loop.watch(), name="feed-loop-delay")
        try:
            while True:
                try:
                    self.share()
                except Exception:
                    logger.exception("the metrics were not shared with the other workers this time")
                await asyncio.sleep(_SHARE_SECONDS)
        finally:
            watching.cancel()

    def share(self) -> None:
        """See `Metrics`."""
        now = self._snapshot()
        for share in self._shares:
            share(now)


class FilledFiles(MultiProcessCollector):
    """Read the workers' files, except those that are still empty: the library makes a file in two steps, and a worker
    that is just starting may be held up between them."""

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics, as prometheus-client asks of a collector."""
        found = [str(file) for file in Path(self._path).glob("*.db") if _is_filled(file)]
        metrics: Iterable[Metric] = self.merge(found)  # type: ignore[no-untyped-call]
        return metrics


def _is_filled(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:  # its process has just been marked as dead
        return False


def _labels(figure: Figure | Distribution) -> list[str]:
    return ["node"] if figure.label is None else ["node", figure.label]


def _labelled(figure: Figure | Distribution, node: str, of_label: str) -> list[str]:
    return [node] if figure.label is None else [node, of_label]


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Return the buckets, each counting all values up to its bound, as Prometheus wants them."""
    return list(zip(_bounds(histogram), accumulate(histogram.counts), strict=True))


def _bounds(histogram: Histogram) -> list[str]:
    return [*map(floatToGoString, histogram.bounds), "+Inf"]


def _share(figure: Figure | Distribution, node: str) -> _Share:
    """Return the function that writes a metric into this process's file. A sample is made at its first value: before
    that it would show 0."""
    if isinstance(figure, Distribution):
        return _each(figure.values, lambda of_label: _shared_histogram(figure, _labelled(figure, node, of_label)))
    share = _shared_gauge if figure.kind == "gauge" else _shared_counter
    return _each(figure.values, lambda of_label: share(figure, _labelled(figure, node, of_label)))


def _each(values_of: Callable[[Snapshot], Mapping[str, _T]], make: Callable[[str], Callable[[_T], None]]) -> _Share:
    made: dict[str, Callable[[_T], None]] = {}

    def share(now: Snapshot) -> None:
        for of_label, value in values_of(now).items():
            if of_label not in made:
                made[of_label] = make(of_label)
            made[of_label](value)

    return share


def _shared_gauge(figure: Figure, labelled: list[str]) -> Callable[[float], None]:
    mode = figure.several
    gauge = Gauge(figure.name, figure.documentation, _labels(figure), registry=None, multiprocess_mode=mode)
    return gauge.labels(*labelled).set


def _shared_counter(figure: Figure, labelled: list[str]) -> Callable[[float], None]:
    counter = Counter(figure.name, figure.documentation, _labels(figure), registry=None).labels(*labelled)
    counted = 0.0

    def count(value: float) -> None:
        nonlocal counted
        counter.inc(max(0.0, value - counted))
        counted = max(counted, value)

    return count


def _shared_histogram(figure: Distribution, labelled: list[str]) -> Callable[[Histogram], None]:
    """Return the function that writes a histogram. The library's own `Histogram` takes single values, but ours are
    sums of many: so write the samples that it would write, one for each bucket."""
    made: list[Any] = []
    counted = [0.0]

    def sample(suffix: str, labels: list[str], labelled: list[str]) -> Any:
        name = f"{figure.name}_{suffix}"
        return values.ValueClass("histogram", figure.name, name, labels, labelled, figure.documentation)

    def observe(histogram: Histogram) -> None:
        nonlocal counted
        if not made:
            labels = _labels(figure)
            made.append(sample("sum", labels, labelled))
            made.extend(sample("bucket", [*labels, "le"], [*labelled, bound]) for bound in _bounds(histogram))
            counted = [0.0] * len(made)
        now = [histogram.sum, *histogram.counts]  # another thread may go on counting meanwhile
        for place, (own, before) in enumerate(zip(made, counted, strict=True)):
            if now[place] > before:
                own.inc(now[place] - before)
        counted = now

    return observe


def _page(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    try:
        encode, media_type = choose_encoder(accept)
    except (TypeError, ValueError):  # for a version in `Accept` that is not a number
        encode, media_type = choose_encoder("")
    return encode(registry), media_type
