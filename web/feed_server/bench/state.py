"""`feed bench state`: first loads of many topics, publishing beside readers of state, slow readers of hot topics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median
from typing import Final

from feed_server.bench.measure import Load, Round, Window, counted_within
from feed_server.bench.publishers import Publish, PublishCount, Published, PublishersJob
from feed_server.bench.state_readers import (
    Attend,
    Attending,
    Crawl,
    Crawled,
    Finish,
    Leave,
    Left,
    Loaded,
    LoadOnce,
    Newest,
    StateReadersJob,
)
from feed_server.bench.worker import BenchError, Ready, Worker, now

_LOADS = 5
_PAIRS = 3  # of slices of publishing, without and with readers
_BESIDE = 10  # readers of state beside the publishers
_SEEDED = 500  # events in one publish that fills the topics
_PUBLISHES = 500  # a second, at the most: beyond it events go in batches
_ROUNDS = 3.2  # of the state, while slow readers read: two, behind which a topic was left out, and some more
_LEAD: Final = 50_000  # microseconds between telling the publishers to begin and their beginning


def state(load: Load) -> Round:
    """Measure all three, one after the other, on the same server."""
    return _State(load).round()


class _State:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._plan = load.plan
        self._running = load.running
        self._readers = load.start(StateReadersJob(load.running.host, load.running.ports[0]))
        load.readers = [self._readers]
        self._figures: dict[str, float] = {}
        self._faults: list[str] = []

    def round(self) -> Round:
        wide, hot = f"{self._running.topic}/wide", f"{self._running.topic}/hot"
        newest = self._fill(wide, self._plan.topics)
        self._load_often(wide, newest)
        before = self._load.busy()
        newest |= self._publish_beside(wide)
        busy = self._load.busy().since(before)
        self._load_once(wide, newest)
        newest = self._fill(hot, self._plan.hot)
        self._crawl(hot, newest, self._load_once(hot, newest).size)
        return Round(self._running.target.name, 0, self._figures, self._faults, busy)

    # A first load.

    def _load_often(self, topic: str, newest: Newest) -> None:
        before = self._running.usage()
        loads = [self._load_once(topic, newest) for _ in range(_LOADS)]
        after = self._running.usage()
        seconds = [loaded.microseconds / 1e6 for loaded in loads]
        self._figures |= {"load_live": median(seconds), "load_live_max": max(seconds)}
        self._figures |= {"load_topics": len(loads[-1].newest), "load_bytes": median(each.size for each in loads)}
        if before is not None and after is not None:
            self._figures["load_cpu"] = (after.cpu - before.cpu) / _LOADS

    def _load_once(self, topic: str, newest: Newest) -> Loaded:
        self._readers.send(LoadOnce(f"{topic}/*"))
        [loaded] = self._load.answers([self._readers], Loaded, lambda: "loading the state", every=0.01)
        if loaded.newest != newest:
            wrong = len(dict(newest.items() ^ loaded.newest.items()))
            self._faults.append(f"a first load was wrong about {wrong:,} of {len(newest):,} topics")
        self._judge(loaded.turned_back)
        return loaded

    def _judge(self, turned_back: int) -> None:
        if turned_back:
            self._faults.append(f"{turned_back:,} values came again, or after a newer one of their topic")

    # Publishing.

    def _fill(self, topic: str, topics: int) -> dict[bytes, int]:
        """Publish to each of so many topics. Return what is their newest event."""
        batch = min(_SEEDED, topics)
        publishers = self._publishers(topic, topics, publishers=1, batch=batch, rate=None)
        publishers.send(PublishCount(math.ceil(topics / batch)))
        doing = f"filling {topics:,} topics"
        [published] = self._load.answers([publishers], Published, lambda: doing)
        return _by_name(topic, published.newest)

    def _publishers(self, topic: str, topics: int, *, publishers: int, batch: int, rate: float | None) -> Worker:
        plan, running = self._plan, self._running
        path = f"/events/{topic}" if batch == 1 else "/events"
        worker = self._load.start(
            PublishersJob(
                running.host,
                running.ports,
                path,
                running.headers,
                topic,
                publishers,
                plan.size,
                batch,
                rate,
                apart=plan.apart,
                spread=topics,
            )
        )
        self._load.answers([worker], Ready, lambda: "connecting publishers")
        return worker

    def _publish_beside(self, topic: str) -> dict[bytes, int]:
        """Publish as fast as it is answered, in slices: without readers of state, and with some, in turn."""
        plan = self._plan
        publishers = self._publishers(topic, plan.topics, publishers=plan.publishers, batch=plan.batch, rate=None)
        seconds = plan.seconds / (2 * _PAIRS)
        self._slice(publishers, plan.warmup)
        without: list[float] = []
        beside: list[float] = []
        for pair in range(_PAIRS):
            for attended in (False, True) if pair % 2 == 0 else (True, False):
                if attended:
                    self._readers.send(Attend(f"{topic}/*", _BESIDE))
                    self._load.answers([self._readers], Attending, lambda: "opening readers of state")
                published, rate = self._slice(publishers, seconds)
                (beside if attended else without).append(rate)
                if attended:
                    self._readers.send(Leave())
                    self._load.answers([self._readers], Left, lambda: "closing readers of state")
        pairs = zip(beside, without, strict=True)
        self._figures |= {"state_without": median(without), "state_beside": median(beside)}
        if all(without):
            self._figures["state_ratio"] = median(one / other for one, other in pairs)
        return _by_name(topic, published.newest)

    def _slice(self, publishers: Worker, seconds: float) -> tuple[Published, float]:
        """Publish for a while. Return what was published, and how many events a second."""
        begin = now() + _LEAD
        window = Window(begin, begin + int(seconds * 1e6))
        publishers.send(Publish(window.begin, window.end))
        doing = "publishing, with and without readers of state"
        [published] = self._load.answers([publishers], Published, lambda: doing)
        events = counted_within(published, window) * self._plan.batch
        return published, events / seconds if seconds else 0.0

    # Slow readers.

    def _crawl(self, topic: str, newest: dict[bytes, int], state_bytes: int) -> None:
        """Publish to hot topics at a rate, beside readers who read less than that."""
        plan, load = self._plan, self._load
        rate = plan.rate or 0.0
        batch = max(plan.batch, min(plan.hot, math.ceil(rate / _PUBLISHES)))
        publishers = self._publishers(topic, plan.hot, publishers=plan.publishers, batch=batch, rate=rate)
        self._figures["hot_memory"] = load.settled_memory()
        self._readers.send(Crawl(f"{topic}/*", plan.readers, plan.reading))
        load.answers([self._readers], Attending, lambda: "opening slow readers")
        begin = now() + _LEAD
        seconds = max(plan.seconds, _ROUNDS * state_bytes / plan.reading)
        window = Window(begin, begin + int(seconds * 1e6))
        publishers.send(Publish(window.begin, window.end))

        def doing() -> str:
            read = f"{self._readers.progress.events:,} read by {plan.readers:,} slow readers"
            return f"{publishers.progress.events:,} published, {read}, {max(0, window.end - now()) / 1e6:.0f} s left"

        load.until(begin + int(seconds * 1e6 / 3), doing)
        self._note_memory("hot_memory_third")
        load.until(window.end, doing)
        self._note_memory("hot_memory_end")
        [published] = load.answers([publishers], Published, doing)
        self._readers.send(Finish(newest | _by_name(topic, published.newest), state_bytes, window.end))
        [crawled] = load.answers([self._readers], Crawled, lambda: "reading the rest")
        self._figures["hot_events"] = counted_within(published, window) * batch / seconds
        self._figures |= {"hot_seconds": seconds, "hot_rate": crawled.rate, "hot_read": crawled.events}
        self._figures |= {"hot_oldest": crawled.oldest / 1e6, "hot_left_out": crawled.left_out}
        if crawled.unsent is not None:
            self._figures["hot_unsent"] = crawled.unsent
        self._judge(crawled.turned_back)
        if crawled.wrong:
            self._faults.append(f"{crawled.wrong:,} slow readers do not hold what was published last")
        if crawled.ended:
            self._faults.append(f"the server ended the streams of {crawled.ended:,} slow readers")

    def _note_memory(self, name: str) -> None:
        if (usage := self._running.usage()) is None:
            raise BenchError("state: the bench can measure the memory only of servers that it has started itself")
        self._figures[name] = usage.memory


def _by_name(topic: str, newest: Mapping[int, int]) -> dict[bytes, int]:
    return {f"{topic}/{number}".encode(): seq for number, seq in newest.items()}
