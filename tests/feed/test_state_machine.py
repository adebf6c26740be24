"""The promise of `latest`, for any order of what happens: whoever is told that the state is whole holds the state."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed import Feed, FeedOptions, Limits, NoEvents, Retention, subscription
from feed.event import deletion, text_draft
from feed.pattern import Selection
from tests.support.redis_server import RedisServer
from tests.support.state_reader import Published, StateReader

TOPICS = ["a", "b", "c/1", "c/2"]
SELECTIONS = [["**"], ["a", "c/*"], ["b"]]

_readers = st.integers(0, len(SELECTIONS) - 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 6)),
        st.tuples(st.just("publish"), st.sampled_from(TOPICS), st.integers(1, 3)),
        st.tuples(st.just("delete"), st.sampled_from(TOPICS), st.just(1)),
        st.tuples(st.just("connect"), _readers, st.just(1)),
        st.tuples(st.just("read"), _readers, st.integers(1, 4)),
        st.tuples(st.just("read"), _readers, st.integers(1, 4)),
        st.tuples(st.just("drop"), _readers, st.just(1)),
        st.tuples(st.just("pass on"), st.just(0), st.just(1)),
        st.tuples(st.just("restart"), st.just(0), st.just(1)),
    ),
    min_size=10,
    max_size=60,
)


async def run(url: str, steps: list[tuple[str, object, int]], events: int) -> None:
    options = FeedOptions(
        retention=Retention(events=events),
        window_events=6,
        limits=Limits(queue_events=4),
    )
    published, number = Published(), 0
    readers = [StateReader(Selection(patterns), published) for patterns in SELECTIONS]
    feed = Feed(url, options)
    async with asyncio.timeout(60):
        await feed.__aenter__()
        for verb, what, count in steps:
            match verb, what:
                case "publish", str(topic):
                    for _ in range(count):
                        number += 1
                        appended = await feed.append([text_draft(topic, str(number))])
                        published.events[appended.first] = topic, str(number)
                case "delete", str(topic):
                    try:
                        appended = await feed.append([deletion(topic)])
                    except NoEvents:
                        continue
                    if appended.count:
                        published.events[appended.first] = topic, None
                case "connect", int(reader):
                    readers[reader].drop(feed)
                    await readers[reader].connect(feed)
                case "read", int(reader):
                    await readers[reader].read(feed, count)
                case "drop", int(reader):
                    readers[reader].drop(feed)
                case "restart", _ if url != "memory:":
                    for each in readers:
                        each.drop(feed)
                    await feed.__aexit__(None, None, None)
                    feed = Feed(url, options)
                    await feed.__aenter__()
                case "pass on", _:
                    await settled(feed)
        for each in readers:
            if each.stream is None:
                await each.connect(feed)
        await settled(feed)
        for each in readers:
            while not each.has_all(feed):
                await each.read(feed)
            assert feed.running is not None
            each.judge(feed, feed.running.log.position)
            each.drop(feed)
        await feed.__aexit__(None, None, None)


async def settled(feed: Feed) -> None:
    """Everything that was published has been passed on."""
    running = feed.running
    assert running is not None
    while running.lag or not running.state.is_whole:
        await asyncio.sleep(0.001)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from([8, 1_000]))
def test_the_state_is_what_was_published_last_in_memory(steps: list[tuple[str, object, int]], events: int) -> None:
    asyncio.run(run("memory:", steps, events))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from([8, 1_000]))
def test_the_state_is_what_was_published_last_on_sqlite(
    tmp_path: Path, steps: list[tuple[str, object, int]], events: int
) -> None:
    asyncio.run(run(f"sqlite:{tmp_path / secrets.token_hex(8)}.db", steps, events))


@pytest.fixture(autouse=True, scope="module")
def _small_pages() -> Iterator[None]:
    """A round has several pages, between which the log goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscription, "_PAGE_EVENTS", 2)
        yield


@pytest.fixture(scope="module")
def redis(shared_redis: RedisServer) -> RedisServer:
    return shared_redis


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from([8, 1_000]))
def test_the_state_is_what_was_published_last_on_redis(
    redis: RedisServer, steps: list[tuple[str, object, int]], events: int
) -> None:
    asyncio.run(run(redis.url(secrets.token_hex(8)), steps, events))


@pytest.mark.only_soak
@settings(max_examples=1_000, deadline=None)
@given(STEPS, st.sampled_from([8, 20, 1_000]))
def test_the_state_is_what_was_published_last_in_many_more_ways(
    steps: list[tuple[str, object, int]], events: int
) -> None:
    asyncio.run(run("memory:", steps, events))
