"""The log on Redis beyond the common contract: other servers behind the same address, losses, epochs, links, nodes.

What Redis forgets is brought about with its own commands: keys are put back to what they were, and `DEBUG
CHANGE-REPL-ID` makes of it what a restart or a failover would. `test_redis_faults.py` does it with processes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from feed import EARLIEST, Event, Feed, FeedUnavailable, Keep, LogRefused, Retention
from feed.control import Gap
from feed.event import text_draft
from feed.log import IdempotencyKey, check_log_url, without_password
from feed.log.contract import LogLost
from feed.log.redis.address import parse_address
from feed.log.redis.link import Ask, Link, Renewal
from feed.log.redis.log import RedisLog
from feed.pattern import EVERYTHING
from feed.subscription import Subscription
from tests.support.redis_server import RedisServer, Stream, free_port, running_redis

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

    async def node(self, **retention: Any) -> RedisLog:
        """Another one."""
        log = await RedisLog.open(self.url, Retention(**retention), "node")
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
        while (page := await feed.page("**", after=lost)).gap is None:
            await asyncio.sleep(0.01)
        assert page.gap.reason == "unknown"
        first = await feed.page("**", after=ids[0])
        assert ([event.id for event in first.events], first.gap, first.next) == (ids[1:], None, ids[3])
        second = await feed.page("**", after=first.next)
        assert second.gap is not None
        assert (second.gap.requested, [event.id for event in second.events]) == (ids[3], [new])
        assert (await feed.page("**", after=second.gap.resumed_from)).gap is None


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


async def test_scripts_are_run_however_often_redis_is_made_to_forget_them(stream: Nodes, server: RedisServer) -> None:
    log = await stream.node()
    ids = await append(log)
    async with forgetting(server):
        for _ in range(50):
            ids += await append(log)
            assert (await log.read(0, 1, EVERYTHING, 1)).end == 1
            await log.check()
    assert len(set(ids)) == 51


@contextlib.asynccontextmanager
async def forgetting(server: RedisServer) -> AsyncIterator[None]:
    """Scripts are forgotten as soon as they are taught."""
    with server.client() as client, server.client() as watched:

        def forget() -> None:
            while not ended:
                client.script_flush()

        ended: list[bool] = []
        task = asyncio.create_task(asyncio.to_thread(forget))
        try:
            yield
        finally:
            ended.append(True)
            await task
        assert watched.ping()


async def test_a_node_says_that_it_lives_and_listens_whatever_goes_wrong(
    stream: Nodes, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.log.redis.nodes._BEAT", 0.01)
    monkeypatch.setattr("feed.log.redis.log._LOOK_SECONDS", 0.01)
    log, other = await stream.node(), await stream.node()
    methods: list[Callable[..., Any]] = [Link.run, Link.say, Link.listen, Link.use]
    broken = dict.fromkeys(methods, 2)
    with pytest.MonkeyPatch.context() as patched:
        for method in broken:
            patched.setattr(Link, method.__name__, breaking(method, broken))
        for each in (log, other):
            each.answer_others(bytes.upper)
        async with asyncio.timeout(10):
            while any(broken.values()):
                await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        while (await log.ask_others(b"a")).given != [b"A"]:
            await asyncio.sleep(0.01)
    assert log._nodes is not None
    for channel in ("questions", f"replies:{log._nodes._name}"):
        server.command("PUBLISH", parse_address(stream.url).key(channel), "nonsense")
    assert (await log.ask_others(b"a")).given == [b"A"]
    assert (await other.ask_others(b"a")).given == [b"A"]
    assert log._watch is not None
    assert not log._watch.done()


def breaking(method: Callable[..., Any], broken: dict[Any, int]) -> Callable[..., Any]:
    """It breaks as often as that, as nobody has foreseen, and then works."""

    async def call(*arguments: Any, **options: Any) -> Any:
        if broken[method]:
            broken[method] -= 1
            raise RuntimeError
        return await method(*arguments, **options)

    return call


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


# Epochs without end.


async def test_an_epoch_that_covers_retained_events_outlives_any_number_of_epochs(stream: Nodes) -> None:
    log = await stream.node()
    first = await append(log, 3)
    stream.command("RPUSH", "epochs", *(f"empty{number} 4" for number in range(1_005)))
    stream.change_server()
    second = await append(log, 2)
    assert len(stream.epochs) == 1_000
    for _ in range(3):  # they go on beginning, whatever nodes know
        stream.change_server()
        other = await stream.node()
        second += await append(other)
    assert len(stream.epochs) == 1_000
    page = await other.read(0, 8, EVERYTHING, 10)
    assert [event.id for event in page.events] == first + second
    assert [await other.locate(id) for id in first] == [1, 2, 3]
    assert await follow(log, 0, 8) == first + second


async def test_a_loss_is_remembered_when_epochs_are_forgotten(stream: Nodes) -> None:
    log = await stream.node()
    first = await append(log, 3)
    stream.command("RPUSH", "epochs", "lost 3 lossy", *(f"empty{number} 3" for number in range(1_005)))
    stream.change_server()
    (loss,) = (await stream.node()).losses_beyond(first[0])
    assert (loss.position, loss.before) == (2, first[1])


async def test_epochs_of_events_are_bounded_and_the_events_go_with_them(stream: Nodes) -> None:
    log = await stream.node()
    await append(log, 3)
    stream.command("DEL", "epochs")
    for start in range(1, 10_003, 1_000):
        stream.command("RPUSH", "epochs", *(f"e{seq} {seq}" for seq in range(start, min(start + 1_000, 10_003))))
    stream.command("XSETID", "events", "0-10001")
    stream.command("HSET", "state", "last", 10_001)
    stream.change_server()
    (id,) = await append(await stream.node())
    assert len(stream.epochs) == 10_000
    assert id.endswith("-10002")
    assert stream.epochs[0].split()[:2] == ["e3", "3"]
    assert stream.command("XRANGE", "events", "-", "+")[0][0] == b"0-3"


# What others write.


async def test_a_foreign_entry_is_passed_over_and_told_as_a_gap(stream: Nodes) -> None:
    async with Feed(stream.url) as feed, feed.subscribe("a") as events:
        ids = [await feed.publish("a", "1")]
        assert (await read(events)).id == ids[0]
        epoch = ids[0].partition("-")[0]
        ours = {"epoch": epoch, "time": "1", "start": "0", "topic": "a", "type": "message", "json": "0", "data": "x"}
        for fields in FOREIGN:
            written = [part for pair in {**ours, **fields}.items() for part in pair] if fields else ["x", "y"]
            stream.command("XADD", "events", "0-*", *written)
            ids.append(await feed.publish("a", "2"))
            gap = await read(events)
            assert isinstance(gap, Gap)
            assert (gap.requested, gap.reason) == (ids[-2], "expired")
            assert (await read(events)).id == ids[-1]
        await feed.check()
        assert [event.id for event in (await pages(feed))] == ids
        async with Feed(stream.url) as other:
            assert [event.id for event in (await pages(other))] == ids
            assert other.statistics().position == feed.statistics().position == 2 * len(FOREIGN) + 1


FOREIGN: list[dict[str, str | bytes]] = [{}, {"data": b"\xff"}, {"time": "soon"}, {"epoch": "nobodys"}, {"more": "1"}]


async def pages(feed: Feed) -> list[Event]:
    """All that it has."""
    found: list[Event] = []
    after = EARLIEST
    while True:
        page = await feed.page("**", after=after, limit=2)
        found += page.events
        if page.next == after or page.next.endswith(f"-{feed.statistics().position}"):
            return found
        after = page.next


async def test_retention_goes_on_over_foreign_entries(stream: Nodes) -> None:
    log = await stream.node(bytes=5 * 73, age=0.5)
    for _ in range(10):
        stream.command("XADD", "events", "0-*", "x", "y")
        await append(log)
    await log.check()
    assert (log.position, log.oldest) == (20, 12)
    async with asyncio.timeout(10):
        while log.oldest <= log.position:
            await asyncio.sleep(0.05)


async def test_a_count_that_nothing_can_follow_is_not_ready_and_says_why(
    stream: Nodes, caplog: pytest.LogCaptureFixture
) -> None:
    log = await stream.node()
    ids = await append(log, 2)
    stream.command("XADD", "events", "*", "x", "y")
    following = asyncio.create_task(follow(log, 0, 3))
    for refused in (append(log), log.check()):
        with pytest.raises(FeedUnavailable, match="cannot be used"):
            await refused
    (entry,) = stream.command("XREVRANGE", "events", "+", "-", "COUNT", 1)
    stream.command("XDEL", "events", entry[0])
    with pytest.raises(FeedUnavailable):
        await log.check()
    assert "belong to another program" in caplog.text
    stream.command("XSETID", "events", "0-2")
    ids += await append(log)
    assert await following == ids


async def test_a_count_that_was_set_ahead_is_where_events_go_on(stream: Nodes) -> None:
    async with Feed(stream.url) as feed, feed.subscribe("a") as events:
        first = await feed.publish("a", "1")
        stream.command("XSETID", "events", "0-500")
        second = await feed.publish("a", "2")
        assert second.endswith("-501")
        assert [(await read(events)).id for _ in range(3)][::2] == [first, second]
        await feed.check()
        assert [event.id for event in await pages(feed)] == [first, second]


@pytest.mark.parametrize("how", [("MAXLEN", 0), ("MINID", "0-4")])
async def test_a_stream_that_somebody_else_has_trimmed_is_a_gap(stream: Nodes, how: tuple[str, str | int]) -> None:
    async with Feed(stream.url) as feed:
        ids = [await feed.publish("a", str(number)) for number in range(5)]
        kept = ids[3:] if how[0] == "MINID" else []
        stream.command("XTRIM", "events", *how)
        async with Feed(stream.url) as other, other.subscribe("a", after=ids[0]) as events:
            page = await other.page("**", after=ids[0])
            assert page.gap is not None
            assert [event.id for event in page.events] == kept
            assert isinstance(await read(events), Gap)
            new = await feed.publish("a", "new")
            assert [(await read(events)).id for _ in range(len(kept) + 1)] == [*kept, new]


async def test_events_that_were_deleted_before_they_were_followed_are_given_up(
    stream: Nodes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("feed.log.redis.follower._DEAF_SECONDS", 0.05)
    monkeypatch.setattr("feed.log.redis.follower._LOOK_SECONDS", 0.05)
    log = await stream.node()
    ids = await append(log, 3)
    stream.command("XDEL", "events", "0-3")
    following = asyncio.create_task(follow(log, 0, 4))
    async with asyncio.timeout(10):
        while "up to 3, are no longer in Redis" not in caplog.text:
            await asyncio.sleep(0.01)
    await log.check()
    ids += await append(log)
    assert await following == [*ids[:2], ids[3]]
    assert caplog.text.count("does not deliver events") == 1


def count_ahead(stream: Nodes) -> None:
    stream.command("XADD", "events", "*", "x", "y")


def unknown_epoch(stream: Nodes) -> None:
    fields = ("epoch", "nobodys", "time", 1, "start", 0, "topic", "a", "type", "t", "json", 0, "data", "x")
    stream.command("XADD", "events", "0-*", *fields)


def trim_all(stream: Nodes) -> None:
    stream.command("XTRIM", "events", "MAXLEN", 0)


def shorten(stream: Nodes) -> None:
    trim_all(stream)
    stream.command("XSETID", "events", "0-1")


@pytest.mark.parametrize("change", [count_ahead, unknown_epoch, trim_all, shorten])
async def test_nothing_spins_whatever_somebody_does_to_the_stream(
    stream: Nodes, server: RedisServer, change: Callable[[Nodes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Feed(stream.url) as feed, feed.subscribe("a") as events:
        first = await feed.publish("a", "1")
        for _ in range(4):
            await feed.publish("a", "2")
        async with Feed(stream.url) as other, feed.subscribe("a", after=first) as resumed:
            change(stream)
            taking = [asyncio.create_task(read_all(each)) for each in (events, resumed)]
            server.command("CONFIG", "RESETSTAT")
            asked = 0
            while asked < 50:
                asked += 1
                with contextlib.suppress(FeedUnavailable):
                    await other.page("**", after=first)
                with contextlib.suppress(FeedUnavailable):
                    await feed.page("**", after=first, limit=3)
                await asyncio.sleep(0.01)
            calls = {
                name: figures["calls"]
                for name, figures in server.command("INFO", "commandstats").items()
                if "x" in name
            }
            assert calls.get("cmdstat_xread", 0) < 30
            assert calls.get("cmdstat_evalsha", 0) < 600
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)


async def read_all(events: Subscription) -> None:
    async for _ in events:
        pass


async def test_times_never_go_back_whatever_the_clocks_do(stream: Nodes) -> None:
    log = await stream.node()
    await append(log)
    stream.command("HSET", "state", "last_time", 9_999_999_999_999)  # as after a clock that was set back
    await append(log, 2)
    stream.command("HDEL", "state", "last_time")  # as where a node of before has written
    await append(log)
    times = [event.time_ms for event in (await log.read(0, 4, EVERYTHING, 10)).events]
    assert times[1:] == [9_999_999_999_999] * 3
    assert times == sorted(times)


# What is refused.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "does not name a Redis"),
        ("redis:", "does not name a Redis"),
        ("redis://host:0", "does not name a Redis"),
        ("redis://host:99999", "does not name a Redis"),
        ("redis://host/zero", "number of a database"),
        ("redis://host/0/1", "number of a database"),
        ("redis://host?stream=a{b}", "stream's name"),
        ("redis://host?stream=", "stream's name"),
        ("redis://host?streams=a", "there is no option 'streams'"),
        ("unix://?stream=a", "does not name a Redis"),
        ("redis://[::1", "is not a valid URL"),
        ("redis://host?db=x", "'db' cannot be 'x'"),
        ("rediss://host?ssl_cert_reqs=maybe", "'ssl_cert_reqs' cannot be 'maybe'"),
        ("redis://host?ssl_ca_certs=ca.pem", "works with rediss:// only"),
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
        (["SET", "{KEY}:events", "x"], "belong to another program"),
        (["XADD", "{KEY}:events", "*", "a", "b"], "belong to another program"),
    ],
)
async def test_keys_of_somebody_else_are_left_alone(
    stream: Nodes, server: RedisServer, prepare: list[str], said: str
) -> None:
    server.command(*(argument.replace("KEY", stream.name) for argument in prepare))
    with pytest.raises(LogRefused, match=said):
        await stream.node()


async def test_a_command_that_redis_does_not_know_or_does_not_allow_is_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running_redis(tmp_path / "redis", rename_command=("XREAD", "")) as redis:
        log = await RedisLog.open(redis.url(), Retention(), "node")
        following = asyncio.create_task(follow(log, 0, 1))
        for command in ("XADD", "EVALSHA"):
            redis.command("ACL", "SETUSER", "default", f"-{command}")
            with pytest.raises(FeedUnavailable) as refused:
                await append(log)
            assert str(refused.value) == "the log cannot be used: the server's messages say why"
            assert f"does not allow {command}" in caplog.text
        with pytest.raises(FeedUnavailable, match="cannot follow the log"):
            redis.command("ACL", "SETUSER", "default", "+EVALSHA")
            await log.check()
        assert "no command XREAD" in caplog.text
        following.cancel()
        await log.close()


async def test_a_redis_that_is_away_at_the_start_is_waited_for_and_that_is_said_again_and_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.backoff._REMIND_SECONDS", 0.01)
    port = free_port()
    async with Feed(f"redis://:s3cret@127.0.0.1:{port}/0") as feed, asyncio.timeout(20):
        while caplog.text.count(f"waiting for Redis, redis://:***@127.0.0.1:{port}/0: Redis cannot be reached") < 3:
            await asyncio.sleep(0.01)
        with running_redis(tmp_path / "redis", port, requirepass="s3cret"):
            while "Redis is there" not in caplog.text:
                await asyncio.sleep(0.01)
            await feed.publish("a", "x")
    assert "s3cret" not in caplog.text


async def test_a_redis_that_may_evict_is_refused_with_the_setting(stream: Nodes, server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(LogRefused, match="set maxmemory-policy noeviction"):
            await stream.node()
        server.command("CONFIG", "SET", "maxmemory-policy", "volatile-lru")  # no key of ours has a time to live
        await stream.node()
    finally:
        server.command("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.mark.parametrize("retention", [Retention(), Retention(classes=(("**", Keep(events=1)),))], ids=["", "classes"])
async def test_in_a_redis_cluster_the_node_that_has_the_keys_is_found_and_followed(
    tmp_path: Path, retention: Retention
) -> None:
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
            first, second = [await RedisLog.open(server.url(stream), retention, "node") for server in cluster]
            ids = [*await append(first), *await append(second)]
            assert await follow(first, 0, 2) == await follow(second, 0, 2) == ids
            assert (await first.ask_others(b"")).silent == ()
            await first.close()
            await second.close()


async def test_a_wrong_password_is_refused_and_a_missing_redis_is_waited_for(tmp_path: Path) -> None:
    with running_redis(tmp_path / "locked", requirepass="s3cret") as locked:
        with pytest.raises(LogRefused, match="refuses the login"):
            await RedisLog.open(locked.url(), Retention(), "node")
        url = f"redis://:s3cret@127.0.0.1:{locked.port}"
        log = await RedisLog.open(url, Retention(), "node")
        await log.close()
        locked.kill()
        with pytest.raises(FeedUnavailable):
            await RedisLog.open(url, Retention(), "node")


OUR_WORDS = {
    "Redis refuses: it cannot take a command now",
    "Redis refuses: it is a read-only replica",
    "Redis refuses: it is loading its data",
    "Redis refuses: its memory is full",
    "the log cannot be used: the server's messages say why",
}


@pytest.mark.parametrize(
    ("words", "renewed"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("MISCONF Redis is configured to save RDB snapshots", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("BUSY Redis is busy running a script.", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("NOAUTH Authentication required.", False),
        ("ERR somebody's own words", False),
    ],
)
async def test_an_answer_that_says_that_the_other_end_is_no_primary_makes_all_connections_old(
    server: RedisServer, words: str, renewed: bool
) -> None:
    async def greet(ask: Ask) -> bool:
        ids.append(await ask("CLIENT", "ID"))
        return True

    ids: list[int] = []
    renewal = Renewal()
    links = [Link(parse_address(server.url()), "test", greet, renewal) for _ in range(2)]
    for link in links:
        await link.open()
    with pytest.raises(FeedUnavailable) as refused:
        await links[0].ask("EVAL", "return redis.error_reply(ARGV[1])", 0, words)
    assert str(refused.value) in OUR_WORDS
    assert await links[1].ask("ECHO", "x") == b"x"
    assert len(ids) == 2 + renewed
    for link in links:
        await link.close()


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
