"""P7 on Redis, with R2 and R3: the seam's state machine on a log that forgets, is flushed and restarted meanwhile.

What was lost counts as published: each reader must have got it, or a gap that says so where it came to it, once.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

import feed.log.redis.follower
from feed import EARLIEST, FeedOptions, FeedUnavailable, Gap, Limits, Retention
from feed.batch import Item
from tests.support.judge import Announced, Entry, judge
from tests.support.redis_server import RedisServer, Stream, running_redis
from tests.support.seam import TOPICS, Reader, Seam

KEEP_ALL = 1_000
SOME = st.lists(st.sampled_from(TOPICS), min_size=1, max_size=6)


class RedisSeam(Seam):
    """`lost` are the places (after, until) of what is gone."""

    redis: ClassVar[RedisServer]

    @initialize(retained=st.sampled_from([12, KEEP_ALL, KEEP_ALL]))
    def open(self, retained: int) -> None:
        self.stream = Stream(self.redis)
        self.url = self.stream.url
        self.options = FeedOptions(
            window_events=3,
            retention=Retention(events=retained),
            limits=Limits(queue_events=6, queue_bytes=900, heartbeat=0.001),
        )
        self.lost: list[tuple[int, int]] = []
        self.start()
        self.publish(["a/1", "b"])
        for patterns, flows in itertools.product((["**"], ["a/*"]), (True, False)):
            self.connect(patterns, EARLIEST, None, flows)

    @rule(topics=SOME, seen=st.booleans(), another_server=st.booleans(), notice=st.booleans())
    def lose_the_tail(self, topics: list[str], seen: bool, another_server: bool, notice: bool) -> None:
        kept, saved = len(self.published), self.stream.save()
        if seen:
            self.publish(topics)
        else:
            self.publish_unseen(topics)
        self.stream.restore(saved, another_server=another_server)
        self.change(kept, notice)

    @rule(topics=SOME, others=SOME, more=SOME)
    def lose_the_tail_unheard(self, topics: list[str], others: list[str], more: list[str]) -> None:
        """The follower hears of it only after others stand where the lost ones stood, and readers have looked there."""
        kept, saved = len(self.published), self.stream.save()
        self.log.reads.clear()
        self.publish(topics)
        self.log.relay.clear()
        self.publish(others)
        self.stream.restore(saved)
        self.change(kept, notice=False)
        self.publish(more)
        self.log.reads.set()
        self.settle()
        self.log.relay.set()
        self.settle()

    def publish_unseen(self, topics: list[str]) -> None:
        """What is acknowledged, and lost before this node's readers have it."""
        relay = self.log.relay.is_set()
        self.log.relay.clear()
        self.publish(topics)
        if relay:
            self.log.relay.set()

    @rule(notice=st.booleans())
    def lose_everything(self, notice: bool) -> None:
        self.stream.forget()
        self.change(0, notice)

    @rule(notice=st.booleans())
    def restart_redis(self, notice: bool) -> None:
        self.stream.change_server()
        self.change(len(self.published), notice)

    def change(self, kept: int, notice: bool) -> None:
        if kept < len(self.published):
            self.lost.append((kept, len(self.published)))
        self.runner.run(self.log.check())  # so that it is known which epoch follows
        self.note_epochs()
        if notice:
            self.settle()

    def note_epochs(self) -> None:
        for entry in self.stream.epochs:
            name, first = entry.split()[:2]
            self.bases.setdefault(name, len(self.published) - (int(first) - 1))

    def place_of(self, id: str) -> int:
        if id.partition("-")[0] not in self.bases:
            self.note_epochs()  # readers may be told before `change` looks
        return super().place_of(id)

    def settle(self, turns: int = 5) -> None:
        self.runner.run(asyncio.sleep(0.003))
        super().settle(turns)

    async def attached(self, reader: Reader) -> None:
        if reader.start is None:
            reader.account += [Announced(*places) for places in self.lost]  # a new reader was promised nothing of it
        while True:
            try:
                await super().attached(reader)
            except FeedUnavailable:  # the node is still finding out: clients come back
                self.log.reads.set()
                self.log.relay.set()
                await asyncio.sleep(0.005)
            else:
                return

    def note(self, reader: Reader, items: Sequence[Item]) -> None:
        for item in items:
            if isinstance(item, Gap) and reader.place is not None and self.place_of(item.resumed_from) < reader.place:
                self.begin_again(reader, self.place_of(item.resumed_from))
            super().note(reader, [item])
        if not items:
            super().note(reader, items)

    def begin_again(self, reader: Reader, place: int) -> None:
        """Its id is not valid any more, and it gets all there is: what it had is judged now."""
        assert reader.place is not None
        self.judge(reader, until=reader.place)
        reader.start, reader.place = place, place
        reader.account = [Announced(after, until) for after, until in self.lost if after < place]

    def judge(self, reader: Reader, until: int) -> None:
        assert reader.start is not None
        wanted = [
            (place, id)
            for place, (id, topic) in enumerate(self.published, 1)
            if reader.start < place <= until and reader.selection.wants_topic(topic)
        ]
        account = reader.account
        if self.options.retention.events == KEEP_ALL:  # then a gap excuses nothing but what is lost
            account = [entry for told in account for entry in self.excused(told)]
        verdict = judge(wanted, account)
        assert verdict.good, (verdict, reader.account, self.lost)

    def excused(self, entry: Entry) -> Iterator[Entry]:
        if not isinstance(entry, Announced):
            yield entry
            return
        for after, until in self.lost:
            yield Announced(max(after, entry.after), min(until, entry.until))

    def finish(self) -> None:
        self.log.reads.set()
        self.log.relay.set()
        self.runner.run(self.found_out())
        self.runner.run(self.caught_up())
        for reader in self.readers:
            self.judge(reader, until=len(self.published))
        self.runner.run(self.feed.close())

    async def found_out(self) -> None:
        async with asyncio.timeout(20):
            await self.log.check()
            while self.log._state.news is not None:
                await asyncio.sleep(0.005)


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_p7_r2_r3_nothing_is_lost_in_silence_on_a_redis_that_forgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed.log.redis.follower, "_LOOK_SECONDS", 0.01)
    examples = 500 if os.environ.get("FEED_SOAK") else 40
    with running_redis(tmp_path / "redis", appendonly="no", enable_debug_command="yes") as server:
        RedisSeam.redis = server
        run_state_machine_as_test(
            RedisSeam,
            settings=settings(
                max_examples=examples,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                phases=[Phase.generate],  # what fails depends on timing too, and would not shrink
            ),
        )
