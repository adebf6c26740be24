"""Publishing from other threads than the feed's: `def` routes, worker threads, and what goes wrong there."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio.from_thread
import httpx
import pytest
from fastapi import FastAPI

from feed import EARLIEST, Draining, Feed, FeedUnavailable, Indeterminate, Invalid, draft
from feed.fastapi import feed_router
from feed.testing import AppServer


@pytest.fixture(scope="module")
def feed() -> Feed:
    return Feed("memory:")


@pytest.fixture(scope="module")
def server(feed: Feed) -> Iterator[AppServer]:
    app = FastAPI()
    app.include_router(feed_router(feed))

    @app.post("/blocking")
    def blocking() -> str:
        return feed.from_thread.publish("routes", {"n": 1}, type="created")

    @app.post("/anyio")
    def by_anyio() -> str:
        return anyio.from_thread.run(feed.publish, "routes", "x")

    @app.post("/on-the-loop")
    async def on_the_loop() -> str:
        try:
            return feed.from_thread.publish("routes", "x")
        except RuntimeError as error:
            return str(error)

    with AppServer(app, feed) as server:
        yield server


def test_a_def_route_publishes_and_has_the_id(server: AppServer) -> None:
    ids = [httpx.post(f"{server.url}/{path}").json() for path in ("blocking", "anyio")]
    page = httpx.get(f"{server.url}/events/routes", headers={"Accept": "application/json"}).json()
    assert [event["id"] for event in page["events"][:2]] == ids
    assert (page["events"][0]["type"], page["events"][0]["data"]) == ("created", {"n": 1})


def test_on_the_feeds_own_loop_it_is_refused_instead_of_waiting_for_ever(server: AppServer) -> None:
    assert "await feed.publish" in httpx.post(f"{server.url}/on-the-loop", timeout=5).json()


def test_many_threads_publish_at_once_and_each_has_its_own_ids(server: AppServer, feed: Feed) -> None:
    def one(number: int) -> list[str]:
        return [
            feed.from_thread.publish("many", number),
            *feed.from_thread.publish_batch([draft("many", number), draft("many", "x", "t")]),
        ]

    with ThreadPoolExecutor(16) as pool:
        ids = [id for found in pool.map(one, range(100)) for id in found]
    assert len(set(ids)) == 300


def test_a_key_makes_it_safe_to_repeat_and_errors_are_those_of_the_loop(server: AppServer, feed: Feed) -> None:
    first = feed.from_thread.publish("keys", "x", key="one")
    assert feed.from_thread.publish("keys", "x", key="one") == first
    batch = [draft("keys", "a"), draft("keys", "b")]
    assert feed.from_thread.publish_batch(batch, key="two") == feed.from_thread.publish_batch(batch, key="two")
    for wrong in (
        lambda: feed.from_thread.publish("a b", "x"),
        lambda: feed.from_thread.publish("keys", "y", key="one"),
        lambda: feed.from_thread.publish_batch([]),
    ):
        with pytest.raises(Invalid):
            wrong()


def test_another_loop_may_block_itself_if_it_wants(server: AppServer, feed: Feed) -> None:
    async def scenario() -> str:
        return feed.from_thread.publish("elsewhere", "x")

    assert asyncio.run(scenario())


def unopened() -> Feed:
    return Feed("memory:")


def closed() -> Feed:
    async def scenario() -> Feed:
        async with Feed("memory:") as feed:
            await feed.publish("a", "x")
        return feed

    return asyncio.run(scenario())


def left_open() -> Feed:
    """Its loop is gone, and nobody has closed it."""

    async def scenario() -> Feed:
        feed = Feed("memory:")
        await feed.publish("a", "x")
        return feed

    return asyncio.run(scenario())


@pytest.mark.parametrize("made", [unopened, closed, left_open])
def test_a_feed_that_is_not_open_is_not_waited_for(made: Callable[[], Feed]) -> None:
    feed = made()
    with pytest.raises(FeedUnavailable, match="not open"):
        feed.from_thread.publish("a", "x")


class Stuck:
    """A log whose commits wait until they may go on."""

    def __init__(self, feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered, self.free = threading.Event(), asyncio.Event()
        running: Any = feed.running
        append = running.log.append

        async def wait_and_append(*arguments: Any) -> Any:
            self.entered.set()
            await self.free.wait()
            return await append(*arguments)

        monkeypatch.setattr(running.log, "append", wait_and_append)


def test_when_the_time_is_over_it_is_left_open_and_the_same_key_makes_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed:
            with monkeypatch.context() as patched:
                Stuck(feed, patched)
                began = time.monotonic()
                with pytest.raises(Indeterminate, match="no answer after"):
                    await asyncio.to_thread(feed.from_thread.publish, "a", "x", key="k", timeout=0.05)
                assert time.monotonic() - began < 5
            ids = [await asyncio.to_thread(feed.from_thread.publish, "a", "x", key="k") for _ in range(2)]
            assert ids[0] == ids[1]
            async with feed.subscribe("a", after=EARLIEST) as events:
                assert (await anext(events)).id == ids[0]

    asyncio.run(scenario())


def test_a_loop_that_ends_while_a_thread_waits_lets_it_go(monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[BaseException] = []

    async def scenario() -> threading.Thread:
        feed = Feed("memory:")
        await feed.check()
        stuck = Stuck(feed, monkeypatch)

        def publish() -> None:
            try:
                feed.from_thread.publish("a", "x", timeout=20)
            except BaseException as error:  # noqa: BLE001  it is looked at below
                raised.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        assert await asyncio.to_thread(stuck.entered.wait, 10)
        return thread

    thread = asyncio.run(scenario())  # which cancels what is left
    thread.join(10)
    assert [type(error) for error in raised] == [Indeterminate]


def test_a_thread_lets_all_streams_end_while_publishing_goes_on() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a") as events:
            for _ in range(2):
                await asyncio.to_thread(feed.from_thread.drain)
                assert feed.draining
            async with asyncio.timeout(10):
                assert [event async for event in events] == []
            with pytest.raises(Draining):
                async with feed.subscribe("a"):
                    pass
            assert await asyncio.to_thread(feed.from_thread.publish, "a", "x")
            feed.drain()
        async with feed, feed.subscribe("a"):
            assert not feed.draining, "once it is opened again"

    asyncio.run(scenario())


def test_a_signal_handler_on_the_feeds_own_thread_may_drain() -> None:
    async def scenario() -> None:
        async with Feed("memory:") as feed, feed.subscribe("a") as events:
            before = signal.signal(signal.SIGUSR1, lambda *_: feed.from_thread.drain())
            try:
                signal.raise_signal(signal.SIGUSR1)
                async with asyncio.timeout(10):
                    assert [event async for event in events] == []
            finally:
                signal.signal(signal.SIGUSR1, before)

    asyncio.run(scenario())


@pytest.mark.parametrize("made", [unopened, closed, left_open])
def test_to_drain_a_feed_that_is_not_open_does_nothing(made: Callable[[], Feed]) -> None:
    feed = made()
    before = feed.draining
    feed.from_thread.drain()
    assert feed.draining == before
