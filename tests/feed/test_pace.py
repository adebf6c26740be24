"""Batches of what has changed, at most one in each time, shared by all who ask for the same."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from feed import Event, Feed, FeedOptions, Invalid, Limits, Retention, Subscription
from feed.batch import Batch
from feed.control import Heartbeat
from feed.terms import DELETED
from tests.support.crowd import until

pytestmark = pytest.mark.anyio

EVERY, NEVER = 0.1, 60.0


async def live(feed: Feed, *patterns: str, every: float = NEVER) -> Subscription:
    """A reader that has the state, and waits for what changes. Its time does not come by itself."""
    stream = await feed.attach(feed.select(patterns), after=None, last=None, latest=True, every=every)
    while stream.behind:
        await stream.take()
    return stream


async def its_time_comes(feed: Feed, *streams: Subscription) -> None:
    """All that was published has been passed on, and a batch is offered."""
    await until(lambda: feed.running is not None and not feed.running.lag)
    for pace in {stream.pace for stream in streams}:
        assert pace is not None
        await pace._offer()


async def next_batch(stream: Subscription) -> Batch:
    """Wait for the next batch in the queue, and take it as it is."""
    while not isinstance(entry := await stream.queue.get(), Batch):
        pass
    return entry


async def put(feed: Feed, *topics: str) -> None:
    for topic in topics:
        await feed.publish(topic, topic)


def values(events: Sequence[Any]) -> list[tuple[str, int]]:
    return [(event.topic, event.seq) for event in events if isinstance(event, Event)]


async def test_a_batch_has_each_topic_once_with_its_newest_event() -> None:
    async with Feed("memory:") as feed:
        stream = await live(feed, "**")
        await put(feed, "a", "b", "a", "c", "a", "b")
        await its_time_comes(feed, stream)
        assert values((await next_batch(stream)).events) == [("c", 4), ("a", 5), ("b", 6)]
        await feed.delete("a")
        await its_time_comes(feed, stream)
        assert [(event.topic, event.type) for event in (await next_batch(stream)).events] == [("a", DELETED)]


async def test_nothing_comes_before_its_time_and_one_batch_in_each() -> None:
    async with Feed("memory:") as feed:
        stream, loop = await live(feed, "**", every=EVERY), asyncio.get_running_loop()
        times: list[float] = []
        for _ in range(4):
            await put(feed, "a", "b")
            await next_batch(stream)
            times.append(loop.time())
        assert all(later - earlier > EVERY * 0.9 for earlier, later in pairwise(times))


async def test_the_first_load_is_not_held_back() -> None:
    async with Feed("memory:") as feed:
        await put(feed, "a", "b", "a")
        async with feed.subscribe("**", latest=True, every=60) as events, asyncio.timeout(30):
            assert [(await anext(events)).topic, (await anext(events)).topic] == ["b", "a"]


async def test_those_who_ask_for_the_same_share_one_batch() -> None:
    async with Feed("memory:") as feed:
        one, other = await live(feed, "a", "c/*"), await live(feed, "a", "c/*")
        all_, often = await live(feed, "**"), await live(feed, "a", "c/*", every=50)
        await put(feed, "a", "b", "c/1")
        await its_time_comes(feed, one, often)
        batches = [await next_batch(each) for each in (one, other, all_, often)]
        assert batches[0] is batches[1]
        assert [values(batch.events) for batch in batches] == [
            [("a", 1), ("c/1", 3)],
            [("a", 1), ("c/1", 3)],
            [("a", 1), ("b", 2), ("c/1", 3)],
            [("a", 1), ("c/1", 3)],
        ]


async def test_who_comes_between_two_batches_gets_only_what_is_new() -> None:
    async with Feed("memory:") as feed:
        first = await live(feed, "**")
        await put(feed, "a", "b")
        await until(lambda: feed.running is not None and not feed.running.lag)
        second = await live(feed, "**")
        await put(feed, "c", "b")
        await its_time_comes(feed, first)
        assert values((await next_batch(first)).events) == [("a", 1), ("c", 3), ("b", 4)]
        assert values((await next_batch(second)).events) == [("c", 3), ("b", 4)]


async def test_an_event_that_several_patterns_match_comes_once() -> None:
    async with Feed("memory:") as feed:
        stream = await live(feed, "a/*", "a/b", "**")
        await put(feed, "a/b")
        await its_time_comes(feed, stream)
        assert values((await next_batch(stream)).events) == [("a/b", 1)]


async def test_what_the_window_has_not_any_more_is_read_from_the_log() -> None:
    async with Feed("memory:", FeedOptions(window_events=2)) as feed:
        stream = await live(feed, "**")
        await put(feed, "a", "b", "c", "d")
        await its_time_comes(feed, stream)
        taken: list[Any] = []
        while len(values(taken)) < 4:
            taken += [getattr(item, "event", item) for item in await stream.take()]
        assert values(taken) == [("a", 1), ("b", 2), ("c", 3), ("d", 4)]


async def test_a_reader_that_may_hold_what_is_gone_begins_anew() -> None:
    options = FeedOptions(retention=Retention(events=3))
    async with Feed("memory:", options) as feed:
        await put(feed, "a")
        stream = await live(feed, "**")
        await put(feed, "a", "b", "c", "d")  # the value that the reader holds was replaced, and that one is gone
        await its_time_comes(feed, stream)
        taken: list[Any] = []
        while "feed.live" not in [item.type for item in taken]:
            taken += [getattr(item, "event", item) for item in await stream.take()]
        assert "feed.gap" in [item.type for item in taken]
        assert values(taken) == [("b", 3), ("c", 4), ("d", 5)]


async def test_many_changes_go_in_portions_and_a_slow_reader_catches_up() -> None:
    options = FeedOptions(limits=Limits(queue_events=100))
    async with Feed("memory:", options) as feed:
        stream = await live(feed, "**")
        names = [f"t/{number}" for number in range(2_500)]
        for start in range(0, len(names), 500):
            await put(feed, *names[start : start + 500])
        await its_time_comes(feed, stream)
        held: dict[str, int] = {}
        async with asyncio.timeout(30):
            while len(held) < len(names):
                for item in await stream.take():
                    event = getattr(item, "event", item)
                    if isinstance(event, Event):
                        assert held.get(event.topic, 0) < event.seq
                        held[event.topic] = event.seq


async def test_an_idle_reader_is_told_only_of_positions_that_it_has_come_to() -> None:
    async with Feed("memory:", FeedOptions(limits=Limits(heartbeat=0.05))) as feed:
        stream = await live(feed, "**")
        await put(feed, "a")
        await until(lambda: feed.running is not None and not feed.running.lag)
        stream.beat(asyncio.get_running_loop().time() + 1)
        assert isinstance((await stream.take())[0], Heartbeat)
        assert stream.cursor == 0


async def test_nothing_runs_for_readers_who_have_left() -> None:
    async with Feed("memory:") as feed:
        streams = [await live(feed, "**"), await live(feed, "a"), await live(feed, "**", every=1)]
        assert {task.get_name() for task in asyncio.all_tasks()} >= {"feed-pace"}
        for stream in streams:
            feed.detach(stream)
            feed.detach(stream)
        await until(lambda: "feed-pace" not in {task.get_name() for task in asyncio.all_tasks()})
        stream = await live(feed, "a", every=EVERY)
        await put(feed, "a")
        assert values((await next_batch(stream)).events) == [("a", 1)]
    await until(lambda: "feed-pace" not in {task.get_name() for task in asyncio.all_tasks()})


async def test_times_are_rounded_up_so_that_there_are_not_many() -> None:
    async with Feed("memory:") as feed:
        for number in range(100):
            await live(feed, "a", every=0.1 + number / 1_000)
        assert [task.get_name() for task in asyncio.all_tasks()].count("feed-pace") == 3


async def test_a_batch_that_fails_is_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Feed("memory:") as feed:
        stream = await live(feed, "**", every=EVERY)

        def broken(*arguments: object) -> None:
            raise RuntimeError("on purpose")

        monkeypatch.setattr("feed.pace.Pace._offer_some", broken)
        await put(feed, "a")
        taken: list[Any] = []
        while not values(taken):
            taken += await stream.take()
        assert values(taken) == [("a", 1)]


@pytest.mark.parametrize("every", [0, 0.09, 61, "soon", -1])
def test_a_time_is_from_100_ms_to_a_minute_and_only_for_state(every: Any) -> None:
    feed = Feed("memory:")
    with pytest.raises(Invalid, match="100 ms to 60 seconds"):
        feed.subscribe("a", latest=True, every=every)
    with pytest.raises(Invalid, match="only for latest"):
        feed.subscribe("a", every=1)
