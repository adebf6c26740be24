"""Classes of retention on Redis, where several nodes share one log and one set of settings. FAULTS S4."""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from feed import EARLIEST, Event, Feed, FeedError, FeedOptions, InsufficientStorage, Retention, select
from feed.event import Draft, deletion, on_terms, text_draft
from feed.log import Log, lanes, open_log
from feed.log.classes import parse_retain
from feed.log.paging import read_back, read_on
from feed.log.redis.log import RedisLog
from feed.pattern import EVERYTHING
from feed.terms import Terms
from tests.support.crowd import until
from tests.support.redis_server import RedisServer, Stream

pytestmark = pytest.mark.anyio

Open = Callable[..., Awaitable[RedisLog]]


@pytest.fixture
def stream(shared_redis: RedisServer) -> Stream:
    return Stream(shared_redis)


@pytest.fixture
async def opened(stream: Stream) -> AsyncIterator[Open]:
    """Opens nodes on one log, with classes that are given as text."""
    logs: list[RedisLog] = []

    async def new(retain: str, **more: Any) -> RedisLog:
        log = await open_log(stream.url, retention(retain, **more), f"node {len(logs)}")
        assert isinstance(log, RedisLog)
        logs.append(log)
        return log

    yield new
    for log in logs:
        await log.close()


def retention(retain: str, **more: Any) -> Retention:
    return Retention(classes=tuple(parse_retain(retain).items()), **more)


async def put(log: Log, *topics: str) -> None:
    for topic in topics:
        await log.append([text_draft(topic, "x")])


async def seqs(log: Log, after: int = 0, limit: int = 1_000) -> list[int]:
    found: list[int] = []
    while after < log.position:
        page = await read_on(log, after, log.position, EVERYTHING, limit)
        assert page.start == after, "no hole"
        found += [event.seq for event in page.events]
        after = page.end
    return found


def marks(log: Log) -> list[tuple[str, int, int]]:
    return [(mark.pattern, mark.first, mark.taken) for mark in log.classes.marks]


# The same as in memory.


async def seen(log: Log) -> dict[str, Any]:
    """What a log shows of itself."""
    at_once, one_by_one, backward = await seqs(log), await seqs(log, limit=1), list[int]()
    before = log.position + 1
    while before > log.oldest:
        page = await read_back(log, before, EVERYTHING, 3)
        backward = [event.seq for event in page.events] + backward
        before = page.start + 1
    assert at_once == one_by_one == backward
    fetched = await log.fetch(range(1, log.position + 1))
    assert [event.seq for event in fetched] == at_once
    for event in fetched[::3]:
        place = await log.before_time(event.time_ms)
        assert [other.seq for other in fetched if other.time_ms >= event.time_ms] == await seqs(log, place)
    assert await log.before_time(0) < (at_once[0] if at_once else 1)
    return {
        "events": [(event.seq, event.topic, event.type, event.text) for event in fetched],
        "oldest": log.oldest,
        "retained": log.retained,
        "marks": [(mark.pattern, mark.taken, mark.ended) for mark in log.classes.marks],
        "topics": sorted((topic.name, topic.newest) for topic in await log.topics()),
        "ended": sorted(topic.name for topic in await log.topics() if topic.ended and topic.name.startswith("s/")),
        "taken": [
            (await log.read(0, log.position, select(pattern), 10)).taken
            for pattern in ("**", "a", "s/*", "s/1", "runs/**", "runs/1", "b/1")
        ],
    }


TOPICS = ["a", "c", "s/1", "s/2", "s/3", "s/4", "runs/1", "runs/2/x", "b/1", "b/ü"]


def drafts(chance: random.Random) -> list[Draft]:
    return [
        deletion(topic) if chance.random() < 0.2 else text_draft(topic, "ü" * chance.randrange(200))
        for topic in chance.choices(TOPICS, k=chance.choice([1, 1, 1, 2, 5, 40]))
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_a_log_on_redis_shows_what_one_in_memory_does(
    opened: Open, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(seed)
    settings: dict[str, Any] = {"events": chance.choice([3, 10, 60]), "kept_topics": 3, "kept_bytes": 800}
    retain = "s/*=latest,2; runs/**=5; b/*=1000B; x/*=1"
    log, model = await opened(retain, **settings), await open_log("memory:", retention(retain, **settings))
    for step in range(40):
        batch = drafts(chance)
        if step == 30:
            monkeypatch.setattr(lanes, "TOMBSTONE_MS", -1)
            await put(model, "a")
            await put(log, "a")
        outcomes: list[object] = []
        for each in (model, log):
            try:
                appended = await each.append(batch)
                outcomes.append([id.partition("-")[2] for id in appended.ids])
            except FeedError as error:
                outcomes.append((type(error), getattr(error, "topic", None)))
        assert outcomes[0] == outcomes[1]
        if step % 5 == 0 and log.position:
            assert await seen(log) == await seen(model)
    await model.close()


# Several nodes.


async def test_the_settings_of_the_node_started_last_count_and_the_others_say_so(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    one = await opened("noise/*=1")
    await put(one, "a", "noise/1", "noise/2", "noise/3")
    two = await opened("a=1; noise/*=1")
    await put(one, "a", "a")
    await until(lambda: marks(one) == [("a", 5, 5), ("noise/*", 1, 3), ("**", 1, 0)], 5)
    assert marks(two) == marks(one) or await seqs(two)
    assert await seqs(one) == await seqs(two) == [1, 4, 6], "what was there keeps its class"
    assert marks(two) == marks(one)
    assert [record.levelno for record in caplog.records if "started later" in record.message] == [logging.WARNING]
    three = await opened("a=1; noise/*=1")
    assert three.classes.marks == two.classes.marks
    await put(one, "noise/1")
    await until(lambda: marks(three) == marks(two) == marks(one), 5)
    assert len([record for record in caplog.records if "started later" in record.message]) == 1, "equal settings"


async def test_a_class_that_is_not_named_any_more_counts_in_the_default_one(opened: Open) -> None:
    async def reopened(retain: str, *topics: str) -> tuple[list[int], list[int]]:
        log = await opened(retain)
        await put(log, *topics)
        return await seqs(log), [mark.taken for mark in log.classes.marks]

    assert await reopened("noise/*=1", "a", "noise/1", "noise/2", "noise/3") == ([1, 4], [3, 0])
    assert await reopened("noise/*=1") == ([1, 4], [3, 0])
    assert await reopened("a=1; noise/*=1", "a", "a") == ([1, 4, 6], [5, 3, 0])
    assert await reopened("a=1", "noise/1", "noise/1") == ([1, 4, 6, 7, 8], [5, 3])
    assert await reopened("") == ([1, 4, 6, 7, 8], [5])
    assert await reopened("noise/*=1", "noise/1") == ([1, 4, 6, 7, 8, 9], [0, 5])


async def test_what_latest_has_kept_stays_when_the_settings_change(opened: Open) -> None:
    log = await opened("s/*=latest,1", events=2)
    await put(log, "s/1", "s/2", "a", "a", "s/3")
    assert await seqs(log) == [1, 2, 3, 4, 5]
    log = await opened("t=1", events=9)
    assert await seqs(log) == [1, 2, 3, 4, 5]
    log = await opened("s/*=latest,1", events=2)
    assert await seqs(log) == [4, 5], "they count in the default class since"
    await put(log, "s/1", "s/2")
    assert await seqs(log) == [4, 5, 6, 7]
    assert marks(log) == [("s/*", 6, 0), ("**", 1, 3)]


async def test_a_log_without_classes_gets_some_and_says_what_was_gone_before(opened: Open) -> None:
    plain = await opened("", events=2)
    await put(plain, *"abcde")
    assert not plain.classes
    log = await opened("x=1", events=2)
    assert (await log.read(0, 5, EVERYTHING, 10)).taken == 3
    assert await seqs(log) == [4, 5]
    await put(plain, "x", "x", "x", "d")
    await until(lambda: bool(plain.classes) and log.position == 9, 5)
    assert await seqs(plain) == await seqs(log) == [5, 8, 9]


async def test_who_does_not_name_classes_has_none_in_redis(opened: Open, stream: Stream) -> None:
    log = await opened("")
    await put(log, "a", "b")
    for key in ("classes", "old", "values", "ends", "lanes:1"):
        assert stream.command("EXISTS", key) == 0
    assert stream.command("XRANGE", "events", "-", "+")[0][1].keys() == {
        b"epoch", b"time", b"start", b"topic", b"type", b"json", b"data"
    }  # fmt: skip


async def test_values_too_many_are_refused_on_all_nodes(opened: Open) -> None:
    one, two = await opened("s/*=latest,1", kept_topics=2), await opened("s/*=latest,1", kept_topics=2)
    await put(one, "s/1")
    await put(two, "s/2")
    with pytest.raises(InsufficientStorage):
        await put(one, "s/3")
    await two.append([deletion("s/1")])
    await put(one, "s/3")


async def test_classes_that_redis_has_lost_come_back_with_the_settings(stream: Stream) -> None:
    async with Feed(stream.url, options("noise/*=1")) as feed:
        running = feed.running
        assert running is not None
        for topic in ("a", "noise/1", "noise/1"):
            await feed.publish(topic, "x")
        await until(lambda: not running.lag)
        stream.forget()
        await until(lambda: running.log.position == 0, 5)
        for topic in ("noise/1", "noise/1", "a"):
            await feed.publish(topic, "x")
        await until(lambda: not running.lag)
        assert await seqs(running.log) == [2, 3]
        assert marks(running.log) == [("noise/*", 1, 1), ("**", 1, 0)]


async def test_events_that_redis_has_lost_leave_their_class(stream: Stream) -> None:
    async with Feed(stream.url, options("s/*=latest,1; noise/*=2", retention=Retention(events=3))) as feed:
        running = feed.running
        assert running is not None
        for topic in ("s/1", "a", "noise/1", "s/2", "s/1"):
            await feed.publish(topic, "x")
        saved = stream.save()
        for topic in ("noise/1", "noise/1", "s/2", "b", "s/3"):
            await feed.publish(topic, "x")
        await until(lambda: not running.lag)
        stream.restore(saved, another_server=False)
        await until(lambda: running.log.position == 5, 5)
        assert await seqs(running.log) == [2, 3, 4, 5]
        assert marks(running.log) == [("s/*", 1, 1), ("noise/*", 1, 0), ("**", 1, 0)]
        await feed.publish("s/2", "x")
        await until(lambda: not running.lag)
        assert [event.seq for event in (await feed.page("s/*", latest=True)).events] == [5, 6]


@pytest.mark.parametrize("events", [5, 50])
@pytest.mark.parametrize("command", ["XDEL", "XTRIM"])
async def test_what_another_program_deletes_is_told(opened: Open, stream: Stream, command: str, events: int) -> None:
    log = await opened("s/*=latest,1; noise/*=2", events=events)
    await put(log, "s/1", "a", "noise/1", "s/2", "a", "b", "c", "noise/1")
    stream.command(command, "events", *{"XDEL": ["0-6"], "XTRIM": ["MINID", "0-7"]}[command])
    await put(log, "s/2", "d")
    found: list[int] = []
    after = 0
    told: list[int] = []
    while after < log.position:
        page = await read_on(log, after, log.position, select("a"), 10)
        if page.start > after:
            told.append(page.start)
        elif page.taken > after:
            told.append(page.taken)
        found += [event.seq for event in page.events]
        after = page.end
    assert 6 in told
    if command == "XDEL":
        assert found == [2, 5]


async def test_a_stream_that_another_program_deletes_is_a_loss(stream: Stream) -> None:
    async with Feed(stream.url, options("s/*=latest,1; noise/*=2", retention=Retention(events=5))) as feed:
        running = feed.running
        assert running is not None
        for topic in ("s/1", "a", "noise/1", "s/2", "a", "b", "c", "noise/1"):
            await feed.publish(topic, "x")
        stream.command("DEL", "events")
        await feed.publish("s/2", "x")
        await feed.publish("d", "x")
        await until(lambda: running.log.position == 2 and not running.lag, 5)
        assert await seqs(running.log) == [1, 2]
        assert [topic.name async for topic in feed.topics("**")] == ["d", "s/2"]


async def test_an_epoch_that_covers_a_kept_event_is_not_forgotten(opened: Open, stream: Stream) -> None:
    log = await opened("s/*=latest,1", events=1)
    await put(log, "s/1", "s/2", "a", "a")
    first = log.id_at(1)
    stream.command("RPUSH", "epochs", *(f"e{number} {3 + number // 600}" for number in range(1_200)))
    stream.command("HSET", "state", "server", "another one")
    later = await opened("s/*=latest,1", events=1)
    await put(later, "a", "a")
    assert len(stream.epochs) == 1_000
    assert later.id_at(1) == first
    assert await later.locate(first) == 1


async def test_a_value_that_runs_out_leaves_a_tombstone_in_its_class(opened: Open) -> None:
    log = await opened("s/*=latest,1", events=2)
    await log.append([on_terms(text_draft("s/1", "x"), Terms(ttl=50))])
    await put(log, "a", "s/2", "a", "a")
    await until(lambda: log.position == 6, 10)
    assert [(event.seq, event.type) for event in await log.fetch([1, 2, 3, 4, 5, 6])][-1] == (6, "feed.deleted")
    assert await seqs(log) == [3, 4, 5, 6]
    assert {topic.name: topic.ended for topic in await log.topics()} == {"a": False, "s/1": True, "s/2": False}


async def test_a_user_with_the_rights_that_the_docs_name_may_have_classes(shared_redis: RedisServer) -> None:
    name = secrets.token_hex(8)
    kinds = ("stream", "hash", "list", "sortedset", "scripting", "pubsub", "connection")
    rights = [*(f"+@{kind}" for kind in kinds), "+info", "+time", "+exists"]
    shared_redis.command("ACL", "SETUSER", name, "on", ">secret", f"~{{{name}}}:*", f"&{{{name}}}:*", *rights)
    url = f"redis://{name}:secret@127.0.0.1:{shared_redis.port}/0?stream={name}"
    for retain in ("s/*=latest,1; noise/*=1", "noise/*=1"):
        log = await RedisLog.open(url, retention(retain, events=2), "node")
        await put(log, "s/1", "s/2", "noise/1", "noise/1", "a", "a", "a")
        assert (await seqs(log))[-1] == log.position
        await log.close()


# Over feeds.


def options(retain: str, **more: Any) -> FeedOptions:
    return FeedOptions(retain=parse_retain(retain), **more)


@pytest.mark.parametrize("window", [10_000, 2])
async def test_noise_that_another_node_publishes_is_no_gap_for_a_quiet_reader(stream: Stream, window: int) -> None:
    choice = options("noise/**=10", window_events=window, retention=Retention(events=20))
    async with Feed(stream.url, choice) as noisy, Feed(stream.url, choice) as quiet:
        first = await quiet.publish("quiet", "1")
        for _ in range(30):
            await noisy.publish("noise/1", "x")
        last = await quiet.publish("quiet", "2")
        assert await taken_from(quiet, first, 1, "quiet") == [last]
        assert await taken_from(noisy, first, 1, "quiet") == [last]
        assert await taken_from(noisy, EARLIEST, 2, "quiet") == [first, last]
        page = await quiet.page("**", after=first)
        assert page.gap is not None


async def taken_from(feed: Feed, after: str, count: int, *patterns: str) -> Sequence[object]:
    found: list[object] = []
    async with feed.subscribe(*patterns, after=after) as events:
        while len(found) < count:
            item = await anext(events)
            found.append(item.id if isinstance(item, Event) else item)
    return found


async def test_a_feed_goes_on_when_another_node_changes_the_classes(stream: Stream) -> None:
    async with Feed(stream.url, options("noise/**=10")) as one:
        await one.publish("s/1", "1")
        async with Feed(stream.url, options("s/*=latest,1; noise/**=10")) as two:
            for _ in range(3):
                await two.publish("s/2", "x")
            ids = [await two.publish("s/1", "2"), await two.publish("s/3", "x"), await two.publish("s/4", "x")]
            running = one.running
            assert running is not None
            await until(lambda: len(running.log.classes.marks) == 3 and not running.lag, 5)
            await one.publish("s/5", "x")
            page = await one.page("s/*", latest=True)
            assert [event.topic for event in page.events] == ["s/2", "s/1", "s/3", "s/4", "s/5"]
            following = await one.page("s/*", latest=True, after=ids[0])
            assert (following.gap, len(following.events)) == (None, 3)
