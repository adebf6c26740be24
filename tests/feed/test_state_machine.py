"""The promise of `latest`, for any order of what happens: whoever is told that the state is whole holds the state."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feed import Feed, FeedOptions, Limits, NoEvents, PreconditionFailed, Retention, latest, pace, subscription
from feed.event import deletion, on_terms, text_draft
from feed.log.classes import parse_retain
from feed.pattern import Selection
from feed.terms import Terms
from tests.support.redis_server import RedisServer
from tests.support.state_reader import Published, StateReader

TOPICS = ["a", "b", "c/1", "c/2"]
READERS: list[tuple[list[str], float | None]] = [(["**"], None), (["a", "c/*"], None), (["b"], None), (["**"], 0.002)]
"""Patterns and `every`."""

_readers, _topics, _nodes = st.integers(0, len(READERS) - 1), st.sampled_from(TOPICS), st.integers(0, 1)
_STEPS = [
    st.tuples(st.just("publish"), _topics, st.integers(1, 6)),
    st.tuples(st.just("publish"), _topics, st.integers(1, 3)),
    st.tuples(st.just("publish"), _topics, st.integers(1, 3)),
    st.tuples(st.just("lease"), _topics, st.integers(1, 20)),
    st.tuples(st.just("delete"), _topics, st.just(1)),
    st.tuples(st.just("change"), _topics, st.just(1)),
    st.tuples(st.just("node"), _nodes, st.just(1)),
    st.tuples(st.just("connect"), _readers, st.just(1)),
    st.tuples(st.just("read"), _readers, st.integers(1, 4)),
    st.tuples(st.just("read"), _readers, st.integers(1, 4)),
    st.tuples(st.just("drop"), _readers, st.just(1)),
    st.tuples(st.just("pass on"), st.just(0), st.just(1)),
    st.tuples(st.just("wait"), st.just(0), st.integers(1, 10)),
    st.tuples(st.just("restart"), st.just(0), st.just(1)),
]
Kept = tuple[int, str]
KEPT: list[Kept] = [
    (8, ""),
    (1_000, ""),
    (8, "c/*=latest,1; a=2"),
    (3, "a=latest,1"),
    (5, "**=latest,2"),
]
"""How many events, and the classes."""
STEPS = st.lists(st.one_of(*_STEPS), min_size=10, max_size=60)


class Machine:
    """Feeds on one log, of which one is used at a time, and readers. After a restart, and on the other node, a reader
    resumes with the id that it has."""

    def __init__(self, url: str, events: int, retain: str = "", nodes: int = 1) -> None:
        self.published = Published()
        self.readers = [StateReader(Selection(patterns), self.published, every=every) for patterns, every in READERS]
        self._url = url
        self._options = FeedOptions(
            retention=Retention(events=events),
            retain=parse_retain(retain),
            window_events=6,
            limits=Limits(queue_events=4),
        )
        self._nodes: list[Feed] = [Feed(url, self._options) for _ in range(nodes)]
        self._number = 0
        self._leased: dict[str, None] = {}
        self._at: dict[int, Feed] = {}  # at which feed a reader is
        self.feed = self._nodes[0]

    async def run(self, steps: list[tuple[str, object, int]]) -> None:
        """Take the steps, then judge what every reader holds in the end."""
        async with asyncio.timeout(60):
            for node in self._nodes:
                await self._open(node)
            for verb, what, count in steps:
                await self._step(verb, what, count)
            await self._end()

    async def _open(self, feed: Feed) -> None:
        await feed.__aenter__()
        self.published.watch(feed)

    async def _step(self, verb: str, what: object, count: int) -> None:
        match verb, what:
            case "publish", str(topic):
                for _ in range(count):
                    await self._put(topic)
            case "lease", str(topic):
                self._leased[topic] = None
                await self._put(topic, Terms(ttl=count))
            case "change", str(topic):
                newest = await self.feed.latest(topic)
                terms = Terms(if_none_match=True) if newest is None else Terms(if_match=newest.id)
                with contextlib.suppress(PreconditionFailed):  # it has run out meanwhile
                    await self._put(topic, terms)
            case "delete", str(topic):
                with contextlib.suppress(NoEvents):
                    appended = await self.feed.append([deletion(topic)])
                    if appended.count:
                        self.published.events[appended.first] = topic, None
            case "node", int(node):
                self.feed = self._nodes[node % len(self._nodes)]
            case "connect", int(reader):
                self._drop(reader)
                await self._connect(reader)
            case "read", int(reader) if reader in self._at:
                await self.readers[reader].read(self._at[reader], count)
            case "drop", int(reader):
                self._drop(reader)
            case "wait", _:
                await asyncio.sleep(count / 1000)
            case "pass on", _:
                await settled(self.feed)
            case "restart", _ if self._url != "memory:":
                await self._restart()

    async def _put(self, topic: str, terms: Terms | None = None) -> None:
        self._number += 1
        text = str(self._number)
        appended = await self.feed.append([on_terms(text_draft(topic, text), terms)])
        self.published.events[appended.first] = topic, text

    async def _connect(self, reader: int) -> None:
        self._at[reader] = self.feed
        await self.readers[reader].connect(self.feed)

    def _drop(self, reader: int) -> None:
        if (feed := self._at.pop(reader, None)) is not None:
            self.readers[reader].drop(feed)

    async def _restart(self) -> None:
        place = self._nodes.index(self.feed)
        for reader in [reader for reader, feed in self._at.items() if feed is self.feed]:
            self._drop(reader)
        await self.feed.__aexit__(None, None, None)
        self.feed = self._nodes[place] = Feed(self._url, self._options)
        await self._open(self.feed)

    async def _end(self) -> None:
        for topic in self._leased:
            await self._put(topic)  # nothing runs out any more
        for reader, each in enumerate(self.readers):
            if reader not in self._at:
                await self._connect(reader)
            feed = self._at[reader]
            await settled(feed)
            while not each.has_all(feed):
                await each.read(feed)
            assert feed.running is not None
            each.judge(feed, feed.running.log.position)
            self._drop(reader)
        for node in self._nodes:
            await node.__aexit__(None, None, None)


async def run(url: str, steps: list[tuple[str, object, int]], kept: Kept, nodes: int = 1) -> None:
    await Machine(url, *kept, nodes).run(steps)


async def settled(feed: Feed) -> None:
    """Everything that was published has been passed on."""
    running = feed.running
    assert running is not None
    while running.lag or not running.state.is_whole:
        await asyncio.sleep(0.001)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.sampled_from(KEPT))
def test_the_state_is_what_was_published_last_in_memory(steps: list[tuple[str, object, int]], kept: Kept) -> None:
    asyncio.run(run("memory:", steps, kept))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from(KEPT))
def test_the_state_is_what_was_published_last_on_sqlite(
    tmp_path: Path, steps: list[tuple[str, object, int]], kept: Kept
) -> None:
    asyncio.run(run(f"sqlite:{tmp_path / secrets.token_hex(8)}.db", steps, kept))


@pytest.fixture(autouse=True, scope="module")
def _small_pages() -> Iterator[None]:
    """A round has several pages, between which the log goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subscription, "_PAGE_EVENTS", 2)
        patch.setattr(latest, "_PAGE_BYTES", 150)
        patch.setattr(pace, "_STEP", 0.001)
        patch.setattr(pace, "_TOGETHER", 2)
        yield


@pytest.fixture(scope="module")
def redis(shared_redis: RedisServer) -> RedisServer:
    return shared_redis


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, st.sampled_from(KEPT[:2]))
def test_the_state_is_what_was_published_last_on_redis(
    redis: RedisServer, steps: list[tuple[str, object, int]], kept: Kept
) -> None:
    asyncio.run(run(redis.url(secrets.token_hex(8)), steps, kept, nodes=2))


@pytest.mark.only_soak
@settings(max_examples=1_000, deadline=None)
@given(STEPS, st.sampled_from([*KEPT, (20, "")]))
def test_the_state_is_what_was_published_last_in_many_more_ways(
    steps: list[tuple[str, object, int]], kept: Kept
) -> None:
    asyncio.run(run("memory:", steps, kept))
