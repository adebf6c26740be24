"""What a feed says of itself at one moment."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from feed import EARLIEST, Feed, FeedOptions, Retention, Statistics, select
from feed.log.contract import FileBytes
from feed.peer import Peer
from feed.statistics import Queues

pytestmark = pytest.mark.anyio


async def passed_on(feed: Feed) -> Statistics:
    """What it says once all that was published is with its streams."""
    async with asyncio.timeout(10):
        while (statistics := feed.statistics()).lag:
            await asyncio.sleep(0)
    return statistics


async def test_before_it_is_open_there_are_no_streams_and_nothing_is_known_of_the_log() -> None:
    statistics = Feed("memory:").statistics()
    assert (statistics.subscribers, set(statistics.subscribers_by_transport.values())) == (0, {0})
    assert (statistics.queues, statistics.position, statistics.lag) == (Queues(0, 0, 0), 0, 0)
    assert (statistics.retained, statistics.oldest_time, statistics.file_bytes) == (None, None, None)
    assert statistics.topics is None
    assert (statistics.reconnects, sum(statistics.commits.counts)) == (0, 0)


async def test_open_it_tells_streams_by_transport_and_what_the_log_holds() -> None:
    async with Feed("memory:") as feed, feed.subscribe("a"):
        await feed.attach(select(["b"]), after=None, last=None, peer=Peer(transport="sse"))
        began = time.time() * 1000
        await feed.publish("a", "x")
        statistics = await passed_on(feed)
        assert statistics.subscribers == 2
        assert {name: count for name, count in statistics.subscribers_by_transport.items() if count} == {
            "sse": 1,
            "library": 1,
        }
        assert statistics.queues == Queues(events=1, deepest=1, lagging=0)
        assert statistics.position == 1
        assert statistics.retained is not None
        assert statistics.retained.events == 1
        assert statistics.oldest_time is not None
        assert began - 1 <= statistics.oldest_time <= time.time() * 1000
        assert statistics.file_bytes == FileBytes(0, 0)


async def test_topics_are_counted_while_anything_of_them_is_retained() -> None:
    async with Feed("memory:", FeedOptions(retention=Retention(events=3))) as feed:
        counts = []
        for topic in ("a", "b", "a", "c"):
            await feed.publish(topic, "x")
            counts.append((await passed_on(feed)).topics)
        await feed.delete("c")
        counts.append((await passed_on(feed)).topics)
        await feed.publish("c", "x")
        counts.append((await passed_on(feed)).topics)
        assert counts == [1, 2, 2, 3, 2, 1], "a tombstone is an event of its topic"


async def test_it_is_of_one_moment_and_does_not_go_on() -> None:
    async with Feed("memory:") as feed, feed.subscribe("a", after=EARLIEST) as events:
        before = feed.statistics()
        await feed.publish("a", "x")
        await anext(events)
        assert (before.position, before.delivered["library"].events) == (0, 0)
        assert feed.statistics().delivered["library"].events == 1
        with pytest.raises(AttributeError):
            before.position = 1  # type: ignore[misc]


async def test_commits_count_on_over_what_it_was_opened_in_between(tmp_path: Path) -> None:
    feed = Feed(f"sqlite:{tmp_path / 'feed.db'}")
    for opened in (1, 2):
        async with feed:
            await feed.publish("a", "x")
            assert sum(feed.statistics().commits.counts) == opened
            assert feed.statistics().file_bytes not in (None, FileBytes(0, 0))
        closed = feed.statistics()
        assert (sum(closed.commits.counts), closed.retained, closed.file_bytes) == (opened, None, None)
