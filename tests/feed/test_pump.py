"""The pump: who is woken is written to, in turns that give the loop back; and what flows through it into an outlet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from feed import Event, Feed, FeedOptions, Limits, Overloaded, select
from feed.batch import Chunk, Item
from feed.control import Control, Heartbeat, Reason
from feed.log.contract import Page
from feed.pump import _TURN_WRITES, Pump

pytestmark = pytest.mark.anyio


class Flushed:
    """Notes when it is flushed."""

    def __init__(self, flushed: list[Flushed], fault: Exception | None = None, size: int = 100) -> None:
        self.flushed, self.fault, self.size, self.broken = flushed, fault, size, False

    def flush(self, now: float) -> int:
        if self.fault is not None:
            raise self.fault
        self.flushed.append(self)
        return self.size

    def break_off(self) -> None:
        self.broken = True


async def turn_until(condition: Callable[[], object]) -> int:
    """How many turns of the loop it takes."""
    async with asyncio.timeout(5):
        turns = 0
        while not condition():
            await asyncio.sleep(0)
            turns += 1
        return turns


async def test_all_that_are_woken_in_one_turn_are_flushed_in_the_next_in_their_order() -> None:
    pump, flushed = Pump(), list[Flushed]()
    woken = [Flushed(flushed) for _ in range(10)]
    for one in woken:
        pump.wake(one)
    assert flushed == []
    await turn_until(lambda: flushed)
    assert flushed == woken


async def test_a_large_run_gives_the_loop_back_again_and_again() -> None:
    pump, flushed = Pump(), list[Flushed]()
    for _ in range(3 * _TURN_WRITES):
        pump.wake(Flushed(flushed))
    assert await turn_until(lambda: len(flushed) == 3 * _TURN_WRITES) >= 3
    await asyncio.sleep(0)
    assert len(flushed) == 3 * _TURN_WRITES, "each once"


async def test_a_run_of_large_writes_gives_it_back_sooner() -> None:
    pump, flushed = Pump(), list[Flushed]()
    for _ in range(10):
        pump.wake(Flushed(flushed, size=1 << 20))
    await asyncio.sleep(0)
    assert len(flushed) == 4
    await turn_until(lambda: len(flushed) == 10)


async def test_who_is_woken_alone_does_not_wait_for_the_end_of_a_large_run() -> None:
    pump, flushed = Pump(), list[Flushed]()
    for _ in range(10 * _TURN_WRITES):
        pump.wake(Flushed(flushed))
    await asyncio.sleep(0)
    alone = Flushed(flushed)
    pump.wake(alone)
    await turn_until(lambda: alone in flushed)
    assert len(flushed) <= 4 * _TURN_WRITES


async def test_one_whose_flush_fails_is_broken_off_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    pump, flushed = Pump(), list[Flushed]()
    broken, whole = Flushed(flushed, ValueError("no")), Flushed(flushed)
    pump.wake(broken)
    pump.wake(whole)
    await turn_until(lambda: flushed)
    assert (broken.broken, whole.broken) == (True, False)
    assert "writing to a stream failed" in caplog.text


async def test_the_backlog_is_what_was_passed_on_while_a_run_waited() -> None:
    pump, flushed = Pump(), list[Flushed]()
    for _ in range(2 * _TURN_WRITES):
        pump.wake(Flushed(flushed))
    await asyncio.sleep(0)
    assert pump.backlog == 0
    pump.passed += 0.75
    assert pump.backlog == 0.75
    await turn_until(lambda: pump.backlog == 0)
    assert len(flushed) == 2 * _TURN_WRITES


async def test_publishers_wait_their_turn_while_what_was_published_before_is_being_written() -> None:
    pump, flushed = Pump(), list[Flushed]()
    await pump.admit()
    for _ in range(4 * _TURN_WRITES):
        pump.wake(Flushed(flushed))
    await asyncio.sleep(0)
    pump.passed += 0.5
    admitted: list[int] = []

    async def publish(number: int) -> None:
        await pump.admit()
        admitted.append(number)

    tasks = [asyncio.create_task(publish(number)) for number in range(40)]
    await asyncio.sleep(0)
    tasks[5].cancel()
    assert admitted == []
    await turn_until(lambda: admitted)
    assert len(flushed) == 4 * _TURN_WRITES
    assert len(admitted) <= 16, "not all at once"
    await turn_until(lambda: len(admitted) == 39)
    assert admitted == [number for number in range(40) if number != 5]


class Faucet:
    """An outlet that keeps what comes."""

    def __init__(self) -> None:
        self.chunks: list[list[Item]] = []
        self.finished: list[Reason | None] = []

    def write(self, chunk: list[Item]) -> None:
        self.chunks.append(chunk)

    def finish(self, reason: Reason | None) -> None:
        self.finished.append(reason)

    def got(self) -> list[str]:
        """The data of the events so far."""
        return [item.text for chunk in self.chunks for item in chunk if isinstance(item, Event)]

    def controls(self) -> list[str]:
        """The types of the control events so far."""
        return [item.type for chunk in self.chunks for item in chunk if isinstance(item, Control)]


def items_of(items: Sequence[Item]) -> Chunk:
    """An encoder that changes nothing."""
    return Chunk(list(items), len(items))


async def publish(feed: Feed, count: int) -> list[str]:
    data = [f"{number}" for number in range(count)]
    for one in data:
        await feed.publish("a", one)
    return data


SMALL = FeedOptions(limits=Limits(queue_events=4), window_events=2)


async def test_what_waits_for_readers_of_one_format_is_made_once_and_shared() -> None:
    async with Feed("memory:") as feed:
        faucets = [Faucet() for _ in range(5)]
        for faucet in faucets:
            (await feed.attach(select(["a"]), after=None, last=None)).flow_into(faucet, items_of)
        await publish(feed, 3)
        await turn_until(lambda: all(len(faucet.got()) == 3 for faucet in faucets))
        first, *others = faucets
        for other in others:
            assert all(mine is theirs for mine, theirs in zip(first.chunks[1:], other.chunks[1:], strict=True))


async def test_a_blocked_reader_reads_on_from_the_log_once_it_takes_something_again() -> None:
    async with Feed("memory:", SMALL) as feed:
        faucet = Faucet()
        subscription = await feed.attach(select(["a"]), after=None, last=None)
        subscription.flow_into(faucet, items_of)
        subscription.block()
        data = await publish(feed, 20)
        await turn_until(lambda: subscription.behind)
        assert subscription.queue.qsize() <= 5
        subscription.unblock()
        await turn_until(lambda: faucet.got() == data)
        await turn_until(lambda: not subscription.behind)
        assert faucet.controls() == ["feed.open"], "it asked for no replay, and is told of none"


async def test_an_idle_reader_is_woken_when_the_relay_is_not_to_be_trusted() -> None:
    async with Feed("memory:") as feed:
        faucet = Faucet()
        (await feed.attach(select(["a"]), after=None, last=None)).flow_into(faucet, items_of)
        running = feed.running
        assert running is not None
        running.broadcaster.distrust()
        await publish(feed, 1)
        await turn_until(lambda: faucet.got() == ["0"])


async def test_the_end_is_said_once_the_reader_takes_something_and_nothing_comes_after_it() -> None:
    async with Feed("memory:") as feed:
        faucet = Faucet()
        subscription = await feed.attach(select(["a"]), after=None, last=None)
        subscription.flow_into(faucet, items_of)
        subscription.block()
        await publish(feed, 1)
        subscription.end("kicked")
        await turn_until(lambda: not subscription._awake)
        assert faucet.finished == []
        subscription.unblock()
        await turn_until(lambda: faucet.finished)
        await publish(feed, 1)
        assert faucet.controls() == ["feed.open", "feed.closing"]
        assert (faucet.got(), faucet.finished) == ([], ["kicked"])


async def test_a_wire_that_fails_ends_the_stream_rather_than_leave_it_silent() -> None:
    def broken(items: Sequence[Item]) -> Chunk:
        if any(isinstance(item, Event) for item in items):
            raise ValueError("no such form")
        return items_of(items)

    async with Feed("memory:") as feed:
        faucet, other = Faucet(), Faucet()
        (await feed.attach(select(["a"]), after=None, last=None)).flow_into(faucet, broken)
        (await feed.attach(select(["a"]), after=None, last=None)).flow_into(other, items_of)
        await publish(feed, 1)
        await turn_until(lambda: other.got() == ["0"])
        assert faucet.finished == [None]


async def test_a_reader_that_waits_for_the_disk_is_given_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Feed("memory:", FeedOptions(window_events=1, limits=Limits(heartbeat=10))) as feed:
        first = await feed.publish("a", "0")
        await publish(feed, 3)
        running = feed.running
        assert running is not None
        await turn_until(lambda: not running.lag)
        read, held = running.log.read, asyncio.Event()

        async def slow(*arguments: Any) -> Page:
            await held.wait()
            return await read(*arguments)

        monkeypatch.setattr(running.log, "read", slow)
        faucet = Faucet()
        subscription = await feed.attach(select(["a"]), after=first, last=None)
        subscription.flow_into(faucet, items_of)
        await turn_until(lambda: subscription._reading)
        subscription.beat(asyncio.get_running_loop().time() + 10)
        assert isinstance(faucet.chunks[-1][0], Heartbeat)
        held.set()
        await turn_until(lambda: "feed.live" in faucet.controls())
        assert faucet.got() == ["0", "1", "2"]
        assert faucet.controls() == ["feed.open", "feed.live"]


async def test_publishes_beyond_what_may_wait_for_readers_are_refused_and_those_that_wait_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("feed.feed._MAX_HELD_BYTES", 1_000)
    async with Feed("memory:") as feed:
        await feed.publish("a", "0")
        running = feed.running
        assert running is not None
        pump = running.broadcaster.pump
        for _ in range(10 * _TURN_WRITES):
            pump.wake(Flushed([]))
        await asyncio.sleep(0)
        pump.passed += 1  # a whole queue's worth since then
        results = await asyncio.gather(*(feed.publish("a", "x" * 400) for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results] == [str, str, Overloaded, Overloaded, Overloaded]
        assert feed._held_bytes == 0
        page = await feed.page("a")
        assert [event.id for event in page.events][1:] == results[:2]


async def test_readers_of_types_and_of_several_topics_get_what_they_want_in_order() -> None:
    async with Feed("memory:") as feed:
        everything, some_types, two_topics = Faucet(), Faucet(), Faucet()
        for faucet, patterns, types in (
            (everything, ["**"], []),
            (some_types, ["**"], ["even"]),
            (two_topics, ["a", "c/*"], []),
        ):
            (await feed.attach(select(patterns, types), after=None, last=None)).flow_into(faucet, items_of)
        topics = ["a", "b", "c/1", "a", "c/1", "b"]
        await asyncio.gather(
            *(
                feed.publish(topic, str(place), type="odd" if place % 2 else "even")
                for place, topic in enumerate(topics)
            )
        )
        await turn_until(lambda: len(everything.got()) == 6)
        await turn_until(lambda: len(two_topics.got()) == 4)
        assert everything.got() == ["0", "1", "2", "3", "4", "5"]
        assert some_types.got() == ["0", "2", "4"]
        assert two_topics.got() == ["0", "2", "3", "4"]
