"""The log on Redis beyond the common contract: other servers behind the same address, losses, epochs, links, nodes.

What Redis forgets is brought about with its own commands: keys are put back to what they were, and `DEBUG
CHANGE-REPL-ID` makes of it what a restart or a failover would. `test_redis_faults.py` does it with processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from feed import EARLIEST, Event, Feed, FeedUnavailable, LogRefused, Retention
from feed.control import Gap
from feed.event import text_draft
from feed.log import IdempotencyKey, check_log_url, without_password
from feed.log.contract import LogLost
from feed.log.redis.address import parse_address
from feed.log.redis.link import Ask, Link, Renewal
from feed.log.redis.log import RedisLog
from feed.pattern import EVERYTHING
from feed.subscription import Subscription
from tests.redis_server import RedisServer, Stream, free_port, running_redis

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis whose replication id can be changed by hand."""
    with running_redis(tmp_path_factory.mktemp("redis"), appendonly="no", enable_debug_command="yes") as server:
        yield server


class Nodes(Stream):
    """Nodes on it, which are closed in the end."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__(server)
        self._logs: list[RedisLog] = []

    async def node(self, **retention: float) -> RedisLog:
        """Another one."""
        log = await RedisLog.open(self.url, Retention(**retention), "node")  # type: ignore[arg-type]
        self._logs.append(log)
        return log

    async def close(self) -> None:
        for log in self._logs:
            await log.close()


@pytest.fixture
async def stream(server: RedisServer) -> AsyncIterator[Nodes]:
    stream = Nodes(server)
    yield stream
    await stream.close()


async def append(log: RedisLog, count: int = 1, topic: str = "a") -> list[str]:
    return (await log.append([text_draft(topic, "x") for _ in range(count)])).ids


async def follow(log: RedisLog, after: int, until: int) -> list[str]:
    """The ids from `after` to `until`."""
    ids: list[str] = []
    async with asyncio.timeout(10):
        async for batch in log.follow(after):
            ids += [event.id for event in batch]
            if batch[-1].seq >= until:
                break
    return ids


async def loss(log: RedisLog, after: int) -> LogLost:
    """What a follower that stands at `after` is told."""
    with pytest.raises(LogLost) as raised:
        await follow(log, after, 1 << 50)
    return raised.value


# Epochs.


async def test_nodes_that_join_a_log_share_its_epoch(stream: Nodes) -> None:
    first, second = await stream.node(), await stream.node()
    ids = [*await append(first), *await append(second), *await append(first)]
    epoch = ids[0].partition("-")[0]
    assert ids == [f"{epoch}-{seq}" for seq in (1, 2, 3)]
    assert stream.epochs == [f"{epoch} 1"]


async def test_another_server_with_all_events_is_a_new_epoch_and_no_loss(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    before = await append(log, 3)
    followed = asyncio.create_task(follow(other, 1, 5))
    stream.change_server()
    after = await append(log, 2)
    assert after[0].partition("-")[0] != before[0].partition("-")[0]
    assert await followed == [*before[1:], *after]
    assert [await other.locate(id) for id in (*before, *after)] == [1, 2, 3, 4, 5]
    assert [entry.split()[1:] for entry in stream.epochs] == [["1"], ["4"]]


async def test_nodes_that_notice_at_the_same_moment_agree_on_one_epoch(stream: Nodes) -> None:
    logs = [await stream.node() for _ in range(8)]
    await append(logs[0], 3)
    stream.change_server()
    await asyncio.gather(*(log.check() for log in logs), *(append(log) for log in logs))
    assert len(stream.epochs) == 2
    ids = [(await append(log))[0] for log in logs]
    assert len({id.partition("-")[0] for id in ids}) == 1


async def test_an_append_to_another_server_takes_a_new_epoch_by_itself(stream: Nodes) -> None:
    log = await stream.node()
    old = await append(log, 3)
    saved = stream.save()
    await append(log, 2)
    stream.restore(saved)
    new = await append(log)
    assert new[0].endswith("-4")
    assert new[0].partition("-")[0] != old[0].partition("-")[0], "no id is given twice"


async def test_events_that_vanish_from_the_same_server_are_noticed_too(stream: Nodes) -> None:
    log = await stream.node()
    old = await append(log, 3)
    saved = stream.save()
    await append(log, 2)
    stream.restore(saved, another_server=False)
    new = await append(log)
    assert new[0].partition("-")[0] != old[0].partition("-")[0]


async def test_a_stream_that_somebody_removed_begins_anew_and_old_ids_are_unknown(stream: Nodes) -> None:
    log = await stream.node()
    old = await append(log, 3)
    stream.command("DEL", "events")
    lost = await loss(log, 3)
    assert lost.position == 0
    assert await log.locate(old[2]) is None
    assert (await append(log))[0].endswith("-1")


# Losses.


async def test_a_flushed_log_is_told_once_and_followed_from_its_beginning(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    old = await append(log, 5)
    stream.forget()
    new = await append(other, 2)
    lost = await loss(log, 5)
    assert (lost.position, lost.id) == (0, f"{new[0].partition('-')[0]}-0")
    assert not lost.kept(5)
    assert await follow(log, 0, 2) == new
    assert await log.locate(old[4]) is None
    assert [await log.locate(id) for id in new] == [1, 2]


async def test_ids_mean_what_they_meant_until_the_follower_is_told(stream: Nodes) -> None:
    log = await stream.node()
    (old,) = await append(log)
    follower = log.follow(0)
    await anext(follower)
    stream.forget()
    await log.check()
    assert log.id_at(1) == old
    with pytest.raises(LogLost):
        await anext(follower)
    assert log.id_at(1) != old


@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_a_lost_tail_is_told_to_nodes_that_had_not_seen_it_too(stream: Nodes, behind: int) -> None:
    log, other = await stream.node(), await stream.node()
    await append(log, 4)
    saved = stream.save()
    old = await append(log, 2)
    stream.restore(saved)
    assert (await loss(log, 6)).position == 4
    lost = await loss(other, 4 - behind)
    assert (lost.position, lost.id) == (4, f"{stream.epochs[-1].split()[0]}-4")
    assert lost.kept(4)
    assert await other.locate(old[0]) is None
    assert await log.locate(old[0]) is None


async def test_who_notices_first_without_having_lost_anything_hears_it_from_who_has(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    old = await append(log, 4)
    assert await follow(other, 0, 4) == old
    saved = stream.save()
    async with asyncio.timeout(10):
        follower = other.follow(4)
        first = asyncio.ensure_future(anext(follower))
        await asyncio.sleep(0)
        lost_ids = await append(log, 2)
        await first  # it has seen them
        stream.restore(saved)
        third = await stream.node()  # it knows of no loss
        new = await append(third, 3)
        with pytest.raises(LogLost) as raised:
            await anext(follower)
    assert raised.value.position == 4
    assert await follow(other, 4, 7) == new
    assert not set(new) & set(lost_ids)


async def test_a_node_that_has_gone_on_is_told_without_going_back(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    await append(log, 4)
    await other.check()
    saved = stream.save()
    await append(log, 2)  # only this node knows
    log_away = log
    stream.restore(saved)
    new = await append(other, 3)
    follower = other.follow(4)
    assert [event.id for event in await anext(follower)] == new
    await log_away.check()
    async with asyncio.timeout(10):
        with pytest.raises(LogLost) as raised:
            await anext(follower)
    lost = raised.value
    assert lost.position == 4
    assert lost.kept(7)


async def test_who_comes_back_later_is_told_where_events_were_lost(stream: Nodes) -> None:
    async with Feed(stream.url) as feed:
        ids = [await feed.publish("a", str(number)) for number in range(4)]
        saved = stream.save()
        lost = [await feed.publish("a", "lost") for _ in range(2)]
        async with feed.subscribe("a", after=ids[-1]) as events:
            assert [(await read(events)).id for _ in range(2)] == lost
            stream.restore(saved)
            gap = await read(events)
            assert isinstance(gap, Gap)
            assert (gap.requested, gap.reason) == (lost[1], "unknown")
            new = [await feed.publish("a", "new") for _ in range(2)]
            assert [(await read(events)).id for _ in range(2)] == new
        async with feed.subscribe("a", after=ids[1]) as events:
            found = [await read(events) for _ in range(5)]
        assert [item.id for item in found] == [ids[2], ids[3], gap.resumed_from, *new]
        told = found[2]
        assert isinstance(told, Gap)
        assert (told.requested, told.resumed_from) == (ids[3], gap.resumed_from)
        async with feed.subscribe("a", after=gap.resumed_from) as events:
            assert [(await read(events)).id for _ in range(2)] == new, "told once is enough"


async def test_a_page_of_history_stops_at_a_loss_and_the_next_one_begins_with_it(stream: Nodes) -> None:
    async with Feed(stream.url) as feed:
        ids = [await feed.publish("a", str(number)) for number in range(4)]
        saved = stream.save()
        lost = await feed.publish("a", "lost")
        stream.restore(saved)
        new = await feed.publish("a", "new")
        while (page := await feed.history(EVERYTHING, after=lost)).gap is None:
            await asyncio.sleep(0.01)
        assert page.gap.reason == "unknown"
        first = await feed.history(EVERYTHING, after=ids[0])
        assert ([event.id for event in first.events], first.gap, first.next) == (ids[1:], None, ids[3])
        second = await feed.history(EVERYTHING, after=first.next)
        assert second.gap is not None
        assert (second.gap.requested, [event.id for event in second.events]) == (ids[3], [new])
        assert (await feed.history(EVERYTHING, after=second.gap.resumed_from)).gap is None


async def test_a_reader_that_has_gone_on_is_told_of_the_loss_and_keeps_its_place(stream: Nodes) -> None:
    log = await stream.node()
    await append(log, 4)
    async with Feed(stream.url) as feed, feed.subscribe("a", after=EARLIEST) as events:
        before = [await read(events) for _ in range(4)]
        saved = stream.save()
        stream.restore(saved)
        new = [await feed.publish("a", "new") for _ in range(2)]
        assert [(await read(events)).id for _ in range(2)] == new
        await lose_in_the_record(stream, 4)
        gap = await read(events)
        assert isinstance(gap, Gap)
        assert (gap.requested, gap.resumed_from) == (before[3].id, new[1])
        more = await feed.publish("a", "more")
        assert (await read(events)).id == more


async def lose_in_the_record(stream: Stream, position: int) -> None:
    """As a node would that knows of events after `position`."""
    entry = stream.epochs[-1]
    assert entry.split()[1] == str(position + 1)
    stream.command("LSET", "epochs", -1, f"{entry} lossy")


async def read(events: Subscription) -> Event | Gap:
    async with asyncio.timeout(10):
        return await anext(events)


async def test_a_queue_that_waited_when_the_log_was_lost_is_not_delivered_under_new_ids(stream: Nodes) -> None:
    async with Feed(stream.url) as feed, feed.subscribe("a") as events:
        old = [await feed.publish("a", str(number)) for number in range(3)]
        while events.queued < 3:
            await asyncio.sleep(0.01)
        stream.forget()
        new = await feed.publish("a", "new")
        while not events.behind:
            await asyncio.sleep(0.01)
        gap = await read(events)
        assert isinstance(gap, Gap)
        assert (gap.requested, gap.resumed_from) == (f"{old[0].partition('-')[0]}-0", f"{new.partition('-')[0]}-0")
        assert (await read(events)).id == new


# Retention, pages, scripts.


async def test_retention_of_one_node_is_seen_by_the_others(stream: Nodes) -> None:
    small, large = await stream.node(events=10), await stream.node(events=1_000)
    await append(small, 50)
    await large.check()
    assert (small.oldest, large.oldest) == (41, 41)
    page = await large.read(0, 50, EVERYTHING, 100)
    assert (page.start, len(page.events)) == (40, 10)


async def test_bytes_are_counted_across_epochs(stream: Nodes) -> None:
    log = await stream.node(bytes=50 * 73)
    await append(log, 30)  # of 64 bytes for itself, and 1 + 7 + 1
    stream.change_server()
    await append(log, 30)
    await log.check()
    assert log.oldest == 11


async def test_what_is_too_old_goes_though_nothing_is_published_or_followed(stream: Nodes) -> None:
    log = await stream.node(age=0.2)
    await append(log, 3)
    async with asyncio.timeout(10):
        while log.oldest <= log.position:
            await asyncio.sleep(0.05)
    assert (log.position, log.oldest, stream.command("XLEN", "events")) == (3, 4, 0)


async def test_scripts_that_redis_has_forgotten_are_taught_again(stream: Nodes, server: RedisServer) -> None:
    log = await stream.node()
    ids = await append(log)
    server.command("SCRIPT", "FLUSH")
    ids += await append(log)
    assert [event.id for event in (await log.read(0, 2, EVERYTHING, 10)).events] == ids


async def test_a_key_is_known_on_every_node_and_after_a_restart_of_redis(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    key = IdempotencyKey("somebody", "k", b"print")
    first = await log.append([text_draft("a", "x")], key)
    stream.change_server()
    again = await other.append([text_draft("a", "x")], key)
    assert (again.ids, again.repeated) == (first.ids, True)
    assert other.position == 1


async def test_answers_that_count_no_more_are_removed(stream: Nodes) -> None:
    log = await stream.node(keys=5)
    for number in range(9):
        await log.append([text_draft("a", "x")], IdempotencyKey("s", str(number), b"p"))
    assert stream.command("HLEN", "answers") == stream.command("ZCARD", "expiries") == 5


async def test_a_node_hands_on_what_others_and_itself_append_at_once_together(stream: Nodes) -> None:
    log, other = await stream.node(), await stream.node()
    batches = log.follow(0)
    together = 0
    async with asyncio.timeout(20):
        for _ in range(30):
            # The other's append comes first, and wakes the follower, which waits already.
            batch, *_ = await asyncio.gather(anext(batches), append(other), append(log))
            together += len(batch) == 2
            if len(batch) == 1:
                await anext(batches)
    assert together > 20


async def test_large_events_are_followed_and_read_in_bounded_pieces(stream: Nodes) -> None:
    log = await stream.node()
    for _ in range(10):
        await log.append([text_draft("a", "x" * 200_000) for _ in range(10)])
    page = await log.read(0, 100, EVERYTHING, 100)
    assert sum(event.size for event in page.events) < 1_300_000
    assert len(await follow(log, 0, 100)) == 100


# What is refused.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "names no Redis"),
        ("redis:", "names no Redis"),
        ("redis://host:0", "names no Redis"),
        ("redis://host:99999", "names no Redis"),
        ("redis://host/zero", "number of a database"),
        ("redis://host/0/1", "number of a database"),
        ("redis://host?stream=a{b}", "stream's name"),
        ("redis://host?stream=", "stream's name"),
        ("redis://host?streams=a", "unknown option 'streams'"),
        ("unix://?stream=a", "names no Redis"),
    ],
)
def test_a_url_that_names_no_stream_says_what_is_wrong(url: str, said: str) -> None:
    with pytest.raises(LogRefused, match=said):
        check_log_url(url)


@pytest.mark.parametrize("url", ["redis://h", "redis://h:1/2?stream=a-b.c:d_1", "rediss://u:p@h/0?ssl_cert_reqs=none"])
def test_urls_of_redis_are_logs(url: str) -> None:
    assert check_log_url(url) == url


def test_all_keys_share_one_hash_tag() -> None:
    address = parse_address("redis://h?stream=s")
    assert all(key.startswith("{s}:") for key in [*address.keys, address.key("nodes")])


def test_a_password_is_not_shown() -> None:
    shown = without_password("redis://user:s3cret@host:1/0?stream=a")
    assert shown == "redis://user:***@host:1/0?stream=a"
    with pytest.raises(LogRefused) as raised:
        check_log_url("redis://user:s3cret@host/x")
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (["SET", "{KEY}:events", "x"], "somebody else's"),
        (["XADD", "{KEY}:events", "*", "a", "b"], "somebody else's"),
    ],
)
async def test_keys_of_somebody_else_are_left_alone(
    stream: Nodes, server: RedisServer, prepare: list[str], said: str
) -> None:
    server.command(*(argument.replace("KEY", stream.name) for argument in prepare))
    with pytest.raises(LogRefused, match=said):
        await stream.node()


async def test_a_redis_that_may_evict_is_refused_with_the_setting(stream: Nodes, server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(LogRefused, match="set maxmemory-policy noeviction"):
            await stream.node()
        server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")  # no key of ours has a time to live
        await stream.node()
    finally:
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_in_a_redis_cluster_the_node_that_has_the_keys_is_found_and_followed(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        buses = [free_port(), free_port()]  # unless told, ten thousand above the port, which may be beyond the last one
        cluster = [
            stack.enter_context(running_redis(tmp_path / str(bus), cluster_enabled="yes", cluster_port=str(bus)))
            for bus in buses
        ]
        cluster[0].command("CLUSTER", "ADDSLOTSRANGE", 0, 8_191)
        cluster[1].command("CLUSTER", "ADDSLOTSRANGE", 8_192, 16_383)
        cluster[0].command("CLUSTER", "MEET", "127.0.0.1", cluster[1].port, buses[1])
        for server in cluster:
            while b"cluster_state:ok" not in server.command("CLUSTER", "INFO"):
                await asyncio.sleep(0.02)
        for stream in ("a", "b", "c", "d"):  # some on each
            first, second = [await RedisLog.open(server.url(stream), Retention(), "node") for server in cluster]
            ids = [*await append(first), *await append(second)]
            assert await follow(first, 0, 2) == await follow(second, 0, 2) == ids
            assert (await first.ask_others(b"")).silent == ()
            await first.close()
            await second.close()


async def test_a_wrong_password_is_refused_and_a_missing_redis_is_waited_for(tmp_path: Path) -> None:
    with running_redis(tmp_path / "locked", requirepass="s3cret") as locked:
        with pytest.raises(LogRefused, match="does not let us in"):
            await RedisLog.open(locked.url(), Retention(), "node")
        url = f"redis://:s3cret@127.0.0.1:{locked.port}"
        log = await RedisLog.open(url, Retention(), "node")
        await log.close()
        locked.kill()
        with pytest.raises(FeedUnavailable):
            await RedisLog.open(url, Retention(), "node")


async def test_what_is_said_while_a_connection_is_greeted_is_not_taken_for_an_answer(server: RedisServer) -> None:
    greeting, said = asyncio.Event(), asyncio.Event()
    answers = []

    async def greet(ask: Ask) -> bool:
        greeting.set()
        await said.wait()
        answers.append(await ask("ECHO", "hello"))
        return True

    link = Link(parse_address(server.url()), "test", greet, Renewal())
    opening = asyncio.create_task(link.open())
    await greeting.wait()
    await link.say("PING")
    said.set()
    await opening
    await link.close()
    assert answers == [b"hello"]
