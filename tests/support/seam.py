"""P7: readers come, lag, drop and come back while events are published, at every step of the seam.

A state machine drives a real feed. Barriers hold the log's reads and the relay, so that events fall between any two
steps of register, replay, catch up and go live. Queues, windows and retention are tiny, so that every edge is met.
Some readers take, others have an outlet, which is blocked now and then, and the pump writes to it.
At the end every reader must have got every event, once, in order, but for what a gap announced.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import feed.running
from feed import EARLIEST, Event, Feed, FeedOptions, Gap, Limits, Retention, Subscription, select
from feed.batch import Chunk, Item
from feed.control import Control, Reason
from feed.event import Placed, text_draft
from feed.log import Log, open_log
from feed.pattern import Selection
from tests.support.judge import Announced, Entry, Got, judge

TOPICS = ["a/1", "a/2", "b"]
PATTERNS = [["**"], ["a/*"], ["b"], ["a/1", "b"], ["nothing"]]


def items_of(items: Sequence[Item]) -> Chunk:
    """An encoder that changes nothing."""
    return Chunk(items, len(items))


class HeldLog:
    """A log whose reads and whose following wait at barriers. Everything else is the log's own."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.reads = asyncio.Event()
        self.relay = asyncio.Event()
        self.reads.set()
        self.relay.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, *arguments: Any) -> Any:
        await self.reads.wait()
        page = await self._log.read(*arguments)
        await self.reads.wait()
        return page

    async def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        async for batch in self._log.follow(after):
            await self.relay.wait()
            yield batch


class Faucet:
    """An outlet that hands the items themselves on, and can be blocked."""

    def __init__(self, write: Callable[[Sequence[Item]], None], finished: Callable[[], None]) -> None:
        self.blocked = False
        self.fills = False  # at each write, as a socket's buffer does
        self.block: Callable[[], None]
        self._write = write
        self._finished = finished

    def write(self, chunk: Sequence[Item]) -> None:
        assert not self.blocked, "what is blocked takes nothing"
        self._write(chunk)
        if self.fills:
            self.blocked = True
            self.block()

    def finish(self, reason: Reason | None) -> None:
        assert reason is not None, "writing broke"
        self._finished()


@dataclass
class Reader:
    """What a client knows: what it asked for, the last id it was told, and what it got."""

    selection: Selection
    after: str | None
    last: int | None
    outlet: Faucet | None = None
    start: int | None = None
    latest_start: int = 0
    place: int | None = None
    account: list[Entry] = field(default_factory=list)
    subscription: Subscription | None = None
    taking: asyncio.Task[Sequence[Item]] | None = None


class Seam(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.readers: list[Reader] = []
        self.published: list[tuple[str, str]] = []  # (id, topic), in the order of the log
        self.bases: dict[str, int] = {}
        self.names = itertools.count()

    @initialize(kind=st.sampled_from(["memory:", "sqlite"]), retained=st.sampled_from([12, 1_000]))
    def open(self, kind: str, retained: int) -> None:
        self.url = kind if kind == "memory:" else f"sqlite:{Path(self.folder.name) / 'feed.db'}"
        self.options = FeedOptions(
            window_events=3,
            retention=Retention(events=retained),
            limits=Limits(queue_events=6, queue_bytes=900, heartbeat=0.001),
        )
        self.start()

    def start(self) -> None:
        async def held(url: str, retention: Retention, node: str) -> HeldLog:
            self.log = HeldLog(await open_log(url, retention, node))
            return self.log

        async def begin() -> Feed:
            self.feed = Feed(self.url, self.options)
            return await self.feed.__aenter__()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(feed.running, "open_log", held)
            self.runner.run(begin())
        self.note_epochs()

    def note_epochs(self) -> None:
        """Where the positions of this opening of the log begin."""
        epoch = self.log.id_at(self.log.position).partition("-")[0]
        self.bases[self.log._epochs.current] = self.bases[epoch] = len(self.published) - self.log.position

    def place_of(self, id: str) -> int:
        """Where a position of whatever log stands among all that was published."""
        epoch, _, seq = id.partition("-")
        return self.bases[epoch] + int(seq)

    def settle(self, turns: int = 5) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.runner.run(turn())
        for reader in self.readers:
            if reader.taking is not None and reader.taking.done():
                taking, reader.taking = reader.taking, None
                self.note(reader, taking.result())

    def note(self, reader: Reader, items: Sequence[Item]) -> None:
        for item in items:
            assert isinstance(item, Placed) or item.id != "", "what only wakes a reader is never handed out"
            if isinstance(item, Gap):
                place = self.place_of(item.resumed_from) if reader.place is None else reader.place
                reader.account.append(Announced(place, self.place_of(item.resumed_from)))
            if isinstance(item, Event):
                reader.account.append(Got(item.id))
            if isinstance(item, (Event, Control)) and item.id is not None:
                reader.after, reader.last = item.id, None
                if reader.start is None:
                    reader.start = self.place_of(item.id)
                    assert reader.start <= reader.latest_start, "what was published after the connect is to come"
                if item.type != "feed.open" or reader.place is None:
                    reader.place = self.place_of(item.id)  # a resumed stream's gap is told after its open
        if not items:
            reader.subscription = None

    @rule(topics=st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6))
    def publish(self, topics: list[str]) -> None:
        drafts = [text_draft(topic, str(next(self.names))) for topic in topics]
        appended = self.runner.run(self.feed.append(drafts))
        self.published += zip(appended.ids, topics, strict=True)
        self.settle()

    @precondition(lambda self: len(self.readers) < 5)
    @rule(
        patterns=st.sampled_from(PATTERNS),
        begin=st.sampled_from([None, EARLIEST, "nonsense", "newest"]),
        last=st.none() | st.integers(1, 9),
        flows=st.booleans(),
    )
    def connect(self, patterns: list[str], begin: str | None, last: int | None, flows: bool) -> None:
        if begin == "newest":  # an id just given by a 201, which the relay may not have passed on yet
            begin = self.published[-1][0] if self.published else EARLIEST
        reader = Reader(select(patterns), begin, last if begin is None else None)
        if flows:
            reader.outlet = Faucet(lambda items: self.note(reader, items), lambda: self.note(reader, ()))
        self.readers.append(reader)
        self.attach(reader)

    def attach(self, reader: Reader) -> None:
        if reader.last is not None:
            self.log.reads.set()  # it reads before it has a place, where nothing else can happen in between
        self.runner.run(self.attached(reader))

    async def attached(self, reader: Reader) -> None:
        reader.latest_start = len(self.published)
        reader.subscription = await self.feed.attach(reader.selection, after=reader.after, last=reader.last)
        if reader.outlet is not None:
            reader.outlet.blocked = False
            reader.outlet.block = reader.subscription.block
            reader.subscription.flow_into(reader.outlet, items_of)

    @rule(which=st.integers(0, 4))
    def take(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.subscription is not None and reader.taking is None and reader.outlet is None:
                reader.taking = self.runner.get_loop().create_task(reader.subscription.take())
        self.settle()

    @rule(which=st.integers(0, 4))
    def give_up_waiting(self, which: int) -> None:
        """What `asyncio.timeout` does to a reader: nothing may be lost by it."""
        for reader in self.readers[which : which + 1]:
            if reader.taking is not None:
                reader.taking.cancel()
                self.runner.run(self.finished(reader.taking))
                if reader.taking.cancelled():
                    reader.taking = None

    async def finished(self, task: asyncio.Task[Any]) -> None:
        await asyncio.wait([task])

    @rule(which=st.integers(0, 4))
    def block(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.outlet is not None:
                reader.outlet.blocked = True
                if reader.subscription is not None:
                    reader.subscription.block()

    @rule(which=st.integers(0, 4), fills=st.booleans())
    def fill(self, which: int, fills: bool) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.outlet is not None:
                reader.outlet.fills = fills

    @rule(which=st.integers(0, 4))
    def end(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.subscription is not None:
                reader.subscription.end("kicked")
        self.settle()

    @rule(which=st.integers(0, 4))
    def unblock(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.outlet is not None:
                reader.outlet.blocked = False
                if reader.subscription is not None:
                    reader.subscription.unblock()
        self.settle()

    @rule(which=st.integers(0, 4))
    def drop(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.taking is not None:
                reader.taking.cancel()
                self.runner.run(self.finished(reader.taking))
                reader.taking = None
            if reader.subscription is not None:
                self.feed.detach(reader.subscription)
                reader.subscription = None

    @rule(which=st.integers(0, 4))
    def resume(self, which: int) -> None:
        for reader in self.readers[which : which + 1]:
            if reader.subscription is None and reader.taking is None:
                self.attach(reader)

    @rule()
    def hold_reads(self) -> None:
        self.log.reads.clear()

    @rule()
    def release_reads(self) -> None:
        self.log.reads.set()
        self.settle()

    @rule()
    def hold_relay(self) -> None:
        self.log.relay.clear()

    @rule()
    def release_relay(self) -> None:
        self.log.relay.set()
        self.settle(20)

    @rule()
    def beat(self) -> None:
        """What the heartbeat does once a stream was quiet for long enough."""
        for reader in self.readers:
            if reader.subscription is not None and not reader.subscription.closed:
                reader.subscription.beat(self.runner.get_loop().time() + 1)

    @rule()
    def restart(self) -> None:
        self.log.reads.set()
        self.log.relay.set()
        for which in range(len(self.readers)):
            self.drop(which)
        self.runner.run(self.feed.close())
        self.start()

    def teardown(self) -> None:
        try:
            if hasattr(self, "feed"):
                self.finish()
        finally:
            self.runner.close()
            self.folder.cleanup()

    def finish(self) -> None:
        self.log.reads.set()
        self.log.relay.set()
        self.runner.run(self.caught_up())
        for reader in self.readers:
            assert reader.start is not None
            wanted = [
                (place, id)
                for place, (id, topic) in enumerate(self.published, 1)
                if place > reader.start and reader.selection.wants_topic(topic)
            ]
            verdict = judge(wanted, reader.account)
            assert verdict.good, (verdict, reader.account)
        self.runner.run(self.feed.close())

    async def caught_up(self) -> None:
        """Every reader reads until there is nothing left for it."""
        async with asyncio.timeout(20):
            while self.feed.statistics().lag:
                await asyncio.sleep(0)
            for reader in self.readers:
                while not await self.read_to_the_end(reader):
                    pass

    async def read_to_the_end(self, reader: Reader) -> bool:
        """Until there is nothing left for it; false if its stream was ended before, and it has to come back."""
        if reader.subscription is None and reader.taking is None:
            await self.attached(reader)
        subscription = reader.subscription
        assert subscription is not None
        if reader.outlet is not None:
            reader.outlet.fills = False
            if reader.outlet.blocked:
                reader.outlet.blocked = False
                subscription.unblock()
            while reader.subscription and (subscription.behind or not subscription.queue.empty()):
                await asyncio.sleep(0)
            return reader.subscription is not None
        if reader.taking is not None:
            if not subscription.behind and subscription.queue.empty():
                reader.taking.cancel()  # it waits for an event that will never come
            await asyncio.wait([reader.taking], timeout=5)
            assert reader.taking.done(), "a reader for whom there is something was not woken"
            taking, reader.taking = reader.taking, None
            if not taking.cancelled():
                self.note(reader, taking.result())
        while reader.subscription and (subscription.behind or not subscription.queue.empty() or subscription._opening):
            with contextlib.suppress(TimeoutError):  # it went live, and there was nothing more
                async with asyncio.timeout(0.005):
                    self.note(reader, await subscription.take())
        return reader.subscription is not None
