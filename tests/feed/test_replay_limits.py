"""How much work those can cause who ask for the past: hundreds at once, for what is not there, on every log.

Others are served meanwhile: the loop turns, publishes are answered, live readers get their events, and who asks for
little gets it.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from feed import EARLIEST, Feed, FeedOptions, FeedUnavailable, select
from feed.event import Event, text_draft
from feed.history import _LOOKING_BACK
from feed.log.contract import LOOK_AT_CLOCK, Page
from feed.log.window import Window
from feed.pattern import EVERYTHING, Selection
from feed.pump import Pump
from feed_server.bench.soak.streams import Form, Item
from tests.conftest import Serve
from tests.support.crowd import Crowd, Probe, Watched, many_descriptors, one_in_ten, until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

SOAK = bool(os.environ.get("FEED_SOAK"))
EVENTS = 100_000 if SOAK else 10_000
CROWD = 300 if SOAK else 60
MEGABYTE = 1 << 20
STALL = 0.25  # seconds that the event loop may not turn

# What no event matches, and no index finds: each event has to be looked at, and for each of a hundred patterns, as not
# all of them begin alike.
NOTHING = "&".join(["topic=nothing/**", *(f"topic=*/*/*/nothing-{number}" for number in range(99))])


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with many_descriptors(4_000):
        yield


@pytest.fixture(params=["memory", "sqlite", "redis"])
def new_log(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Names a log that is empty, of each kind."""

    def named() -> str:
        name = secrets.token_hex(8)
        if request.param == "redis":
            redis: RedisServer = request.getfixturevalue("shared_redis")
            return redis.url(name)
        return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / name}"

    return named


class Siege(NamedTuple):
    """What others had of it while a crowd asked for the past: for how long the server computed while they waited, in
    seconds, which does not depend on how fast it got on; of those who asked again and again, what one in ten had to
    bear. `memory` is in bytes."""

    health: float
    publish: float
    delivery: float
    return_: float
    page: float
    memory: int


async def fill(crowd: Crowd) -> None:
    """Many events, and almost as many topics."""
    http = crowd.http()
    for start in range(0, EVENTS, 2_000):
        lines: list[dict[str, object]] = [
            {"topic": f"t/{number}/b/c", "data": "x" * 20} for number in range(start, start + 2_000)
        ]
        assert (await http.publish_lines(lines)).status == 201


async def test_a_crowd_that_asks_for_what_is_not_there_holds_up_nobody(
    serve: Serve, new_log: Callable[[], str]
) -> None:
    siege = await besieged(serve, new_log())
    assert siege.health < STALL, siege
    assert max(siege.publish, siege.delivery) < 2 * STALL, siege
    assert max(siege.return_, siege.page) < 5, siege
    assert siege.memory < 100 * MEGABYTE, siege


async def besieged(serve: Serve, log: str) -> Siege:
    server = serve("--log", log, window_events=5_000)
    async with Crowd(server.port) as crowd:
        await fill(crowd)
        watched, arrived, seconds = Watched(server), asyncio.Event(), list[float]()
        await crowd.reader(Form.SSE, "/live/a", lambda _: arrived.set())
        before = watched.memory
        replays, ids = list[Item](), list[str]()

        async def replay(form: Form, wanted: str, last_id: str | None) -> None:
            await crowd.reader(form, wanted, replays.append, last_id)

        async def look_back(parameters: str) -> int:
            http = crowd.http()
            http.patience = 120
            path = f"/events?{NOTHING}&{parameters}"
            return (await http.request("GET", path, Accept="application/json")).status

        with Probe(server) as probe:
            hostile = [crowd.task(replay(Form.SSE, f"?{NOTHING}", EARLIEST)) for _ in range(CROWD)]
            hostile += [crowd.task(replay(Form.WS, f"?{NOTHING}&last=1000", None)) for _ in range(CROWD // 4)]
            pages = [crowd.task(look_back("limit=1000")) for _ in range(CROWD // 4)]
            pages += [crowd.task(look_back("before=zzzzzz-1")) for _ in range(CROWD // 4)]
            pages += [crowd.task(look_back("since=2020-01-01T00:00:00Z&wait=1")) for _ in range(CROWD // 4)]
            http, answers = crowd.http(), list[float]()
            for number in range(30):
                arrived.clear()
                began = watched.cpu
                ids += (await http.publish("live/a", str(number))).ids
                answers.append(watched.cpu - began)
                await asyncio.wait_for(arrived.wait(), 60)
                seconds.append(watched.cpu - began)
                await asyncio.sleep(0.02)
            # Somebody who was away for a moment comes back: what they missed is in memory.
            back, began = list[Item](), watched.cpu
            await crowd.reader(Form.SSE, "/live/a", back.append, ids[10])
            await until(lambda: back[-1].type == "feed.live")
            caught_up = watched.cpu - began
            # An old event, where there is an index of topics: Redis has none.
            began = watched.cpu
            if not log.startswith("redis"):
                old = await http.request("GET", "/events/t/7/b/c?limit=1", Accept="application/json")
                assert len(orjson.loads(old.body)["events"]) == 1
            page = watched.cpu - began
            under_way = sum(not task.done() for task in (*hostile, *pages))
        assert under_way > 10, "the crowd was done before anything was measured"
        assert [item.id for item in back if item.is_event] == ids[11:]
        health, publish, delivery = map(one_in_ten, (probe.computed, answers, seconds))
        siege = Siege(health, publish, delivery, caught_up, page, watched.memory - before)
    server.kill()
    return siege


async def filled(feed: Feed, count: int) -> None:
    await feed.append([text_draft(f"t/{number}", "x") for number in range(count)])
    await until(lambda: feed.statistics().lag == 0)


async def test_no_more_pages_are_read_at_once_than_may_be_and_all_are_served_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with Feed("memory:", FeedOptions(window_events=1, max_replays=3)) as feed:
        await filled(feed, 10)
        running = feed.running
        assert running is not None
        read, at_once, most, order = running.log.read, 0, 0, list[str]()

        async def counted(after: int, until: int, selection: Selection, limit: int) -> Page:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            order.append(selection.patterns[0])
            await asyncio.sleep(0)
            page = await read(after, until, selection, limit)
            at_once -= 1
            return page

        monkeypatch.setattr(running.log, "read", counted)
        names = [f"t/{number}" for number in range(9)]
        pages = [feed.page(name) for name in names]
        streams = [feed.attach(select([name]), after=EARLIEST, last=None) for name in names]
        subscriptions = await asyncio.gather(*streams)
        read_pages, events = await asyncio.gather(
            asyncio.gather(*pages), asyncio.gather(*(anext(subscription) for subscription in subscriptions))
        )
        assert [page.events[0].topic for page in read_pages] == names
        assert [isinstance(event, Event) and event.topic for event in events] == names
        assert most == 3
        assert sorted(order[:18]) == sorted(names * 2), "nobody is served twice before all were served once"


async def test_beyond_what_may_look_back_at_once_they_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Feed("memory:", FeedOptions(window_events=1)) as feed:
        await filled(feed, 10)
        running = feed.running
        assert running is not None
        held = asyncio.Event()
        read, read_backward = running.log.read, running.log.read_backward

        async def later(*arguments: Any) -> Any:
            await held.wait()
            return await read(*arguments)

        async def later_backward(*arguments: Any) -> Any:
            await held.wait()
            return await read_backward(*arguments)

        monkeypatch.setattr(running.log, "read", later)
        monkeypatch.setattr(running.log, "read_backward", later_backward)
        waiting = [asyncio.create_task(feed.page("t/1")) for _ in range(_LOOKING_BACK)]
        await asyncio.sleep(0)
        with pytest.raises(FeedUnavailable, match="too many"):
            await feed.page("t/1")
        with pytest.raises(FeedUnavailable, match="too many"):
            await feed.attach(select(["t/1"]), after=None, last=5)
        live = await feed.attach(select(["t/1"]), after=EARLIEST, last=None)  # a stream waits, and is no page
        feed.detach(live)
        for task in waiting[:10]:
            task.cancel()
        held.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(outcome, BaseException) for outcome in outcomes) == 10
        assert running.history._looking_back == 0
        assert running.shared.replays._value == feed.options.max_replays
        assert len((await feed.page("t/1")).events) == 1


def test_a_page_from_memory_takes_milliseconds_whatever_is_asked_for() -> None:
    window = Window(0, max_events=20_000, max_bytes=1 << 30)
    topic = "/".join("a" * 128)
    window.extend([Event("e", seq, topic, "message", "x", False, 0) for seq in range(1, 20_001)])
    costly = Selection([f"{'*/' * 120}nothing-{number}" for number in range(99)] + ["b/**"])
    assert not costly.wants_topic(topic)  # what it is made into for that is made once
    took = []
    for _ in range(10):
        began, page = time.thread_time(), window.page(0, costly, 500)
        took.append(time.thread_time() - began)
        assert page is not None
        assert (page.events, page.start) == ([], 0)
        assert 0 < page.end < 2_000
        backward = window.page_backward(20_001, costly, 500)
        assert backward is not None
        assert (backward.events, backward.end) == ([], 20_000)
        assert 18_000 < backward.start < 20_000
    assert statistics.median(took) < 0.05


def test_pages_that_end_early_leave_nothing_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feed.log.paging.PAGE_SECONDS", -1.0)
    window = Window(0, max_events=1_000, max_bytes=1 << 30)
    window.extend([Event("e", seq, "a" if seq % 7 else "b", "message", "x", False, seq) for seq in range(1, 1_001)])
    for selection in (EVERYTHING, select(["b"])):
        found, position = list[int](), 0
        while position < 1_000:
            page = window.page(position, selection, 500)
            assert page is not None
            assert position < page.end <= position + LOOK_AT_CLOCK
            found += [event.seq for event in page.events]
            position = page.end
        assert found == [seq for seq in range(1, 1_001) if selection.wants("a" if seq % 7 else "b", "message")]
        backward, before = list[int](), 1_001
        while before > 1:
            page = window.page_backward(before, selection, 500)
            assert page is not None
            backward = [event.seq for event in page.events] + backward
            before = page.start + 1
        assert backward == found


def test_a_time_is_found_in_memory_without_looking_at_every_event() -> None:
    window = Window(0, max_events=1_000, max_bytes=1 << 30)
    window.extend([Event("e", seq, "a", "message", "x", False, seq // 3) for seq in range(1, 2_001)])
    for time_ in (0, 333, 334, 400, 666, 667, 10_000):
        expected = next((seq - 1 for seq in range(1_001, 2_001) if seq // 3 >= time_), 2_000)
        assert window.before_time(time_) == expected
    assert Window(5, max_events=1, max_bytes=1).before_time(1) == 5


async def test_live_readers_do_not_wait_for_those_that_replay() -> None:
    pump, written = Pump(), list[str]()

    class Slow:
        def __init__(self, name: str, seconds: float) -> None:
            self.name, self.seconds = name, seconds

        def flush(self, now: float) -> int:
            time.sleep(self.seconds)
            written.append(self.name)
            return 0

        def break_off(self) -> None: ...

    for number in range(50):
        pump.wake_replay(Slow(f"replay {number}", 0.005))
    await asyncio.sleep(0)
    pump.wake(Slow("live", 0))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert written.index("live") <= 3
    async with asyncio.timeout(10):
        while len(written) < 51:
            await asyncio.sleep(0)
    assert [name for name in written if name != "live"] == [f"replay {number}" for number in range(50)]
