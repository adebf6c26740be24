"""Reading page after page goes on for certain, and a hole is between two of them, whatever a log gives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from feed import Event, Feed, Gap, Retention
from feed.event import text_draft
from feed.log.contract import Page
from feed.log.memory import MemoryLog
from feed.log.paging import leading_run, read_back, read_on, runs
from feed.log.tail import Tails
from feed.pattern import EVERYTHING, Selection

pytestmark = pytest.mark.anyio


def events(*seqs: int) -> list[Event]:
    return [Event("e", seq, "a", "message", "", False, 0) for seq in seqs]


@pytest.mark.parametrize(
    ("seqs", "parts"),
    [
        ([], []),
        ([7], [[7]]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([1, 2, 4, 5, 9], [[1, 2], [4, 5], [9]]),
        ([1, 3, 5], [[1], [3], [5]]),
    ],
)
async def test_events_are_taken_apart_at_holes(seqs: list[int], parts: list[list[int]]) -> None:
    assert [[event.seq for event in run] for run in runs(events(*seqs))] == parts
    if seqs:
        assert [event.seq for event in leading_run(events(*seqs))] == parts[0]
        downward = leading_run(events(*reversed(seqs)))
        assert [event.seq for event in downward] == list(reversed(parts[-1]))


class StuckLog(MemoryLog):
    """A log that does not get beyond a position, as if it were shorter than it says."""

    def __init__(self, stuck: int) -> None:
        super().__init__(Retention())
        self._stuck = stuck
        self.reads = 0

    async def read(self, after: int, until: int, selection: Selection, limit: int) -> Page:
        self.reads += 1
        assert self.reads < 100, "it is read again and again"
        if after >= self._stuck:
            return Page([], after, after)
        return await super().read(after, min(until, self._stuck), selection, limit)

    async def read_backward(self, before: int, selection: Selection, limit: int) -> Page:
        self.reads += 1
        assert self.reads < 100, "it is read again and again"
        return Page([], before - 1, before - 1)


async def test_what_a_log_does_not_get_beyond_is_passed_over_and_said(caplog: pytest.LogCaptureFixture) -> None:
    log = StuckLog(5)
    await log.append([text_draft("a", "x")] * 10)
    page = await read_on(log, 2, 10, EVERYTHING, 100)
    assert ([event.seq for event in page.events], page.start, page.end) == ([3, 4, 5], 2, 5)
    assert await read_on(log, 5, 10, EVERYTHING, 100) == Page([], 10, 10)
    assert await read_back(log, 8, EVERYTHING, 100) == Page([], 0, 0)
    assert [record.getMessage() for record in caplog.records] == [
        "the log cannot be read after 5: skipping everything up to 10",
        "the log cannot be read before 8: skipping everything down to 0",
    ]


async def test_nobody_who_reads_a_log_that_does_not_go_on_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    log = StuckLog(5)

    async def opened(*_: object) -> StuckLog:
        return log

    monkeypatch.setattr("feed.running.open_log", opened)
    async with Feed("memory:") as feed:
        await feed.publish_batch([text_draft("a", "x")] * 10)
        running = feed.running
        assert running is not None
        while running.broadcaster.window.position < 10:
            await asyncio.sleep(0)
        running.broadcaster.window.skip_to(10)  # so that the log is read
        first = log.id_at(3)
        page = await feed.page("a", after=first)
        assert ([event.seq for event in page.events], page.gap) == ([4, 5], None)
        page = await feed.page("a", after=page.next)
        assert page.events == []
        assert page.gap is not None
        assert (page.gap.requested, page.gap.resumed_from) == (log.id_at(5), log.id_at(10))
        assert (await feed.page("a", before=log.id_at(8))).events == []
        assert (await feed.page("a", last=5)).events == []
        async with feed.subscribe("a", after=first) as stream:
            found: list[int | str] = []
            async for item in stream:
                found.append(item.resumed_from if isinstance(item, Gap) else item.seq)
                if isinstance(item, Gap):
                    break
        assert found == [4, 5, log.id_at(10)]


async def test_a_follower_of_a_log_that_does_not_go_on_hears_what_comes_next() -> None:
    log = StuckLog(0)
    await log.append([text_draft("a", "x")] * 3)
    tails = Tails()
    heard: list[Sequence[int]] = []

    async def follow() -> None:
        async for batch in tails.follow(log, 0):
            heard.append([event.seq for event in batch])
            return

    following = asyncio.create_task(follow())
    while not tails._tails or log.reads == 0:
        await asyncio.sleep(0)
    await log.append([text_draft("a", "x")])
    tails.push(events(4))
    await following
    assert heard == [[4]]


class LeavingOutLog(MemoryLog):
    """A log whose follower is handed batches that an event is missing from."""

    async def follow(self, after: int) -> AsyncIterator[Sequence[Event]]:
        async for batch in super().follow(after):
            yield [event for event in batch if event.seq != 4]


async def test_what_is_left_out_in_a_batch_is_read_from_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*_: object) -> LeavingOutLog:
        return LeavingOutLog(Retention())

    monkeypatch.setattr("feed.running.open_log", opened)
    async with Feed("memory:") as feed, feed.subscribe("a") as stream:
        await feed.publish_batch([text_draft("a", "x")] * 6)
        found = []
        async for item in stream:
            assert isinstance(item, Event)
            found.append(item.seq)
            if item.seq == 6:
                break
        assert found == [1, 2, 3, 4, 5, 6]
