"""What a Redis that has lost something does to one node, step by step: the log and the feed in this process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feed import EARLIEST, Event, Feed, FeedOptions, FeedUnavailable, Gap, Limits, Retention
from feed.event import text_draft
from feed.log import Log, open_log
from feed.log.contract import LogLost
from feed.pattern import EVERYTHING
from tests.conftest import StartRedis
from tests.support.proxy import Proxy, proxy_to
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def redis(start_redis: StartRedis) -> RedisServer:
    """A Redis that keeps only what it is told to save."""
    return start_redis(appendonly="no")


@pytest.fixture
def proxy(redis: RedisServer) -> Iterator[Proxy]:
    """Stands between one node and Redis."""
    with proxy_to(redis.port) as proxy:
        yield proxy


@pytest.fixture
async def far(proxy: Proxy) -> AsyncIterator[Log]:
    """The log, as a node sees it that is behind the proxy."""
    log = await open_log(proxy.url(), Retention())
    yield log
    await log.close()


@pytest.fixture
async def near(redis: RedisServer) -> AsyncIterator[Log]:
    """The log, as a node sees it that is not."""
    log = await open_log(redis.url(), Retention())
    async with following(log):
        yield log
    await log.close()


@contextlib.asynccontextmanager
async def following(log: Log) -> AsyncIterator[list[str | LogLost]]:
    """What a node is told that follows the log from its beginning."""
    told: list[str | LogLost] = []

    async def follow() -> None:
        after = 0
        while True:
            try:
                async for batch in log.follow(after):
                    told.extend(event.id for event in batch)
                    after = batch[-1].seq
            except LogLost as lost:
                told.append(lost)
                after = lost.position

    task = asyncio.create_task(follow())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def append(log: Log, count: int, data: str = "x") -> list[str]:
    """Events one by one; a log that has just been cut off is asked again."""
    ids: list[str] = []
    while len(ids) < count:
        with contextlib.suppress(FeedUnavailable):
            ids += (await log.append([text_draft("a", data)])).ids
            continue
        await asyncio.sleep(0.02)
    return ids


async def told_so_many(told: list[str | LogLost], count: int) -> None:
    async with asyncio.timeout(10):
        while len(told) < count:
            await asyncio.sleep(0.01)


async def test_a_connection_that_was_reset_while_nobody_used_it_is_made_anew_and_nothing_is_left_open(
    far: Log, proxy: Proxy
) -> None:
    for _ in range(5):
        await far.append([text_draft("a", "x")])
        proxy.reset()
        while proxy.connections:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)  # until the reset is noticed here


async def lose(redis: RedisServer, saved: Path) -> None:
    redis.kill()
    redis.restore(saved)
    redis.start()


async def test_a_node_that_had_not_heard_of_all_that_was_kept_hears_of_that_before_it_hears_of_the_loss(
    redis: RedisServer, near: Log, far: Log, proxy: Proxy, tmp_path: Path
) -> None:
    async with following(far) as told:
        kept = await append(near, 5)
        await told_so_many(told, 5)
        proxy.cut()
        kept += await append(near, 5)
        redis.command("SAVE")
        redis.copy_data(tmp_path / "saved")
        await append(near, 5, "lost")
        await lose(redis, tmp_path / "saved")
        new = await append(near, 40)
        proxy.heal()
        await told_so_many(told, 51)
        lost = told.pop(10)
        assert isinstance(lost, LogLost)
        assert lost.position == 10
        assert told == [*kept, *new]


async def test_a_node_that_was_away_for_two_restarts_of_which_the_second_lost_something_is_told_where(
    redis: RedisServer, near: Log, far: Log, proxy: Proxy, tmp_path: Path
) -> None:
    async with following(far) as told:
        kept = await append(near, 5)
        await told_so_many(told, 5)
        proxy.cut()
        redis.command("SAVE")
        redis.kill()
        redis.start()
        kept += await append(near, 5)
        assert kept[4].split("-")[0] != kept[5].split("-")[0]
        redis.command("SAVE")
        redis.copy_data(tmp_path / "saved")
        await append(near, 5, "lost")
        await lose(redis, tmp_path / "saved")
        new = await append(near, 5)
        proxy.heal()
        await told_so_many(told, 16)
        lost = told.pop(10)
        assert isinstance(lost, LogLost)
        assert (lost.position, lost.before.id_at(10)) == (10, kept[-1])
        assert all(lost.kept(position) for position in range(11))
        assert told == [*kept, *new]


async def test_a_slow_reader_reads_nothing_of_the_new_log_before_it_is_told_that_the_old_one_is_gone(
    redis: RedisServer, near: Log, proxy: Proxy
) -> None:
    options = FeedOptions(window_events=5, limits=Limits(queue_events=2))
    async with Feed(proxy.url(), options) as feed, feed.subscribe("a", after=EARLIEST) as events:
        old = await append(near, 3)
        got = [await anext(events) for _ in range(3)]
        await append(near, 30)
        async with asyncio.timeout(10):
            while not events.behind:
                await asyncio.sleep(0.01)
        proxy.stall(purpose="follow", new=False)  # it notices last
        redis.command("FLUSHALL")
        new = await append(near, 40)
        async with asyncio.timeout(20):
            async for event in events:
                got.append(event)
                if isinstance(event, Event) and event.id == new[-1]:
                    break
    account = [event.id if isinstance(event, Event) else event for event in got]
    gaps = [event for event in account if isinstance(event, Gap)]
    assert [gap.reason for gap in gaps] == ["unknown"]
    place = account.index(gaps[0])
    assert account[:3] == old
    assert account[place + 1 :] == new
    assert not set(account[:place]) & set(new)


async def test_a_node_on_a_replica_looks_for_the_primary_by_itself_but_not_at_each_publish(
    redis: RedisServer, start_redis: StartRedis
) -> None:
    replica = start_redis(appendonly="no")
    replica.follow(redis)
    with proxy_to(redis.port) as proxy:
        log = await open_log(proxy.url(), Retention())
        ids = await append(log, 1)
        while replica.command("XLEN", "{feed}:events") < 1:
            await asyncio.sleep(0.01)
        proxy.target = replica.port
        proxy.reset()
        async with following(log) as told, asyncio.timeout(20):
            await told_so_many(told, 1)
            made = replica.command("INFO", "stats")["total_connections_received"]
            for _ in range(300):
                with pytest.raises(FeedUnavailable, match="read-only replica"):
                    await log.append([text_draft("a", "refused")])
            assert replica.command("INFO", "stats")["total_connections_received"] - made < 50
            assert (await log.read(0, 1, EVERYTHING, 10)).end == 1, "what is there can be read"
            proxy.target = redis.port
            while "follow" in replica.clients():  # nobody publishes
                await asyncio.sleep(0.01)
            ids += await append(log, 1)
            await told_so_many(told, 2)
            assert told == ids
        await log.close()


async def test_a_read_that_fails_is_not_called_a_publish(
    far: Log, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.lose_answer_to(b"XREAD")
    async with following(far) as told:
        ids = await append(far, 1)
        await told_so_many(told, 1)
    assert proxy.lost_answers == 1
    assert told == ids
    assert "cannot follow the log (Redis did not answer); trying again\n" in caplog.text
