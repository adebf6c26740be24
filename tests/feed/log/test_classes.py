"""Classes of retention: what each keeps, what is told to whom where something is gone. FAULTS S4."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from feed import (
    EARLIEST,
    Event,
    Feed,
    FeedOptions,
    Gap,
    InsufficientStorage,
    Invalid,
    Keep,
    NoEvents,
    Retention,
    draft,
    select,
)
from feed.event import deletion, on_terms, text_draft
from feed.log import Log, lanes, open_log
from feed.log.classes import parse_retain, retain_text
from feed.pattern import EVERYTHING
from feed.terms import Terms
from tests.support.crowd import until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.anyio

Open = Callable[..., Awaitable[Log]]


@pytest.fixture(params=["memory", "sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    match request.param:
        case "memory":
            return "memory:"
        case "sqlite":
            return f"sqlite:{tmp_path / 'feed.db'}"
    server: RedisServer = request.getfixturevalue("shared_redis")
    return server.url(secrets.token_hex(8))


@pytest.fixture
async def opened(url: str) -> AsyncIterator[Open]:
    """Opens a log whose classes are given as text."""
    logs: list[Log] = []

    async def new(retain: str, **more: Any) -> Log:
        log = await open_log(url, Retention(classes=tuple(parse_retain(retain).items()), **more))
        logs.append(log)
        return log

    yield new
    for log in logs:
        await log.close()


async def put(log: Log, *topics: str) -> None:
    for topic in topics:
        await log.append([text_draft(topic, "x")])


async def seqs(log: Log, *patterns: str, after: int = 0, limit: int = 1_000) -> list[int]:
    found: list[int] = []
    selection = select(patterns) if patterns else EVERYTHING
    while after < log.position:
        page = await log.read(after, log.position, selection, limit)
        assert page.start == after, "no hole"
        assert page.end > after
        found += [event.seq for event in page.events]
        after = page.end
    return found


async def back(log: Log, *patterns: str, limit: int = 1_000) -> list[int]:
    found: list[int] = []
    before = log.position + 1
    while before > log.oldest:
        page = await log.read_backward(before, select(patterns), limit)
        found = [event.seq for event in page.events] + found
        assert page.start + 1 < before
        before = page.start + 1
    return found


async def test_each_class_keeps_as_many_events_as_it_says(opened: Open) -> None:
    log = await opened("runs/**=2; system/*=1", events=3)
    await put(log, "a", "runs/1", "system/x", "runs/2", "a", "runs/3", "system/x", "b", "b", "b")
    assert await seqs(log) == [4, 6, 7, 8, 9, 10]
    assert await seqs(log, limit=1) == [4, 6, 7, 8, 9, 10]
    assert await back(log, "**") == await back(log, "**", limit=2) == [4, 6, 7, 8, 9, 10]
    assert await seqs(log, "runs/*") == [4, 6]
    assert [event.seq for event in await log.fetch([1, 4, 5, 10])] == [4, 10]
    assert {topic.name: topic.newest for topic in await log.topics()} == {
        "runs/2": 4,
        "runs/3": 6,
        "system/x": 7,
        "b": 10,
    }
    assert log.retained.events == 6


async def test_the_first_class_that_matches_counts(opened: Open) -> None:
    log = await opened("runs/keep/*=10; runs/**=1")
    await put(log, "runs/keep/1", "runs/a", "runs/keep/1", "runs/b", "runs/keep/2")
    assert await seqs(log) == [1, 3, 4, 5]


async def test_a_class_is_bounded_by_bytes(opened: Open) -> None:
    log = await opened("big/*=1000B")
    await log.append([text_draft("big/1", "x" * 400)])
    await log.append([text_draft("a", "x" * 4_000)])
    await log.append([text_draft("big/2", "x" * 400)])
    await log.append([text_draft("big/3", "x" * 400)])
    assert await seqs(log) == [2, 3, 4] or await seqs(log) == [2, 4]
    assert (await seqs(log, "big/*"))[-1] == 4
    assert 1 not in await seqs(log)


async def test_a_class_is_bounded_by_age_and_the_newest_event_may_go_too(opened: Open) -> None:
    log = await opened("short/*=300ms")
    await put(log, "a", "short/1", "short/2")

    async def left() -> list[int]:
        return await seqs(log)

    while await left() != [1]:
        pass
    assert log.position == 3
    await put(log, "b")
    assert await seqs(log) == [1, 4]


async def test_what_was_taken_is_told_to_those_who_may_have_wanted_it(opened: Open) -> None:
    log = await opened("noise/**=2; runs/**=5")
    await put(log, "quiet", *["noise/1"] * 5, "runs/1")
    taken = {
        pattern: (await log.read(0, log.position, select(pattern), 10)).taken
        for pattern in ("quiet", "runs/*", "noise/1", "noise/**", "*", "**", "*/1")
    }
    assert taken == {"quiet": 0, "runs/*": 0, "noise/1": 4, "noise/**": 4, "*": 0, "**": 4, "*/1": 4}
    assert (await log.read(0, log.position, select(["quiet", "noise/2"]), 10)).taken == 4


async def test_latest_keeps_the_newest_event_of_each_topic_until_a_newer_one_comes(opened: Open) -> None:
    log = await opened("devices/*/state=latest,2")
    await put(log, "devices/1/state", "devices/2/state", "devices/1/state", "a", "devices/3/state", "devices/4/state")
    assert await seqs(log) == [2, 3, 4, 5, 6]
    await put(log, "devices/2/state")
    assert await seqs(log) == [3, 4, 5, 6, 7]
    assert {topic.newest for topic in await log.topics()} == {3, 4, 5, 6, 7}
    assert (await log.read(0, log.position, select("devices/**"), 10)).taken == 2


async def test_a_tombstone_is_kept_for_a_week_where_the_newest_events_are(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened("s/*=latest,1")
    await put(log, "s/1")
    await log.append([deletion("s/1")])
    await put(log, "s/2", "s/3", "s/4")
    assert await seqs(log) == [2, 3, 4, 5]
    assert {topic.name: topic.ended for topic in await log.topics()}["s/1"] is True
    monkeypatch.setattr(lanes, "TOMBSTONE_MS", -1)
    await put(log, "s/4")
    assert await seqs(log) == [3, 4, 6]
    assert {topic.name for topic in await log.topics()} == {"s/2", "s/3", "s/4"}
    assert log.classes.marks[0].ended == 2


async def test_what_its_class_does_not_keep_any_more_has_no_lease_to_renew(opened: Open) -> None:
    log = await opened("s/*=1")
    await log.append([on_terms(text_draft("s/1", "x"), Terms(ttl=3_600_000))])
    await log.renew("s/1", 3_600_000)
    await put(log, "a", "s/2")
    with pytest.raises(NoEvents):
        await log.renew("s/1", 3_600_000)


async def test_the_event_that_has_no_room_is_named_by_its_place_in_the_request(opened: Open) -> None:
    log = await opened("s/*=latest", kept_topics=1)
    await put(log, "gone", "s/1")
    await log.append([deletion("gone")])
    with pytest.raises(InsufficientStorage) as refused:
        await log.append([deletion("gone"), text_draft("a", "x"), text_draft("s/2", "x")])
    assert (refused.value.topic, refused.value.place) == ("s/2", 2)


async def test_a_value_too_many_is_refused_and_a_deletion_never(opened: Open) -> None:
    log = await opened("s/*=latest,1", kept_topics=2)
    await put(log, "s/1", "s/2", "a", "s/1")
    with pytest.raises(InsufficientStorage) as refused:
        await log.append([text_draft("b", "x"), text_draft("s/3", "x")])
    assert (refused.value.topic, refused.value.place, log.position) == ("s/3", 1, 4)
    await log.append([deletion("s/1")])
    await put(log, "s/3")
    with pytest.raises(InsufficientStorage):
        await put(log, "s/1")


async def test_bytes_too_many_are_refused_and_fewer_than_before_are_not(opened: Open) -> None:
    log = await opened("s/*=latest,1", kept_bytes=1_000)
    await log.append([text_draft("s/1", "x" * 400)])
    await log.append([text_draft("s/2", "x" * 300)])
    with pytest.raises(InsufficientStorage):
        await log.append([text_draft("s/2", "x" * 600)])
    await log.append([text_draft("s/1", "x" * 100)])
    await log.append([text_draft("s/2", "x" * 600)])


async def test_classes_are_remembered_and_a_new_one_begins_where_it_was_named(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'feed.db'}"

    async def reopened(retain: str, *topics: str) -> tuple[list[int], list[int]]:
        log = await open_log(url, Retention(classes=tuple(parse_retain(retain).items())))
        try:
            await put(log, *topics)
            return await seqs(log), [mark.taken for mark in log.classes.marks]
        finally:
            await log.close()

    assert await reopened("noise/*=1", "a", "noise/1", "noise/2", "noise/3") == ([1, 4], [3, 0])
    assert await reopened("noise/*=1") == ([1, 4], [3, 0])
    assert await reopened("a=1; noise/*=1", "a", "a") == ([1, 4, 6], [5, 3, 0]), "what was there keeps its class"
    assert await reopened("a=1", "noise/1", "noise/1") == ([1, 4, 6, 7, 8], [5, 3])
    assert await reopened("") == ([1, 4, 6, 7, 8], [5])


async def test_a_file_that_has_lost_old_events_says_so_when_it_gets_classes(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'feed.db'}"
    log = await open_log(url, Retention(events=2))
    await put(log, *"abcde")
    await log.close()
    log = await open_log(url, Retention(events=2, classes=tuple(parse_retain("x=1").items())))
    assert (await log.read(0, 5, EVERYTHING, 10)).taken == 3
    assert await seqs(log) == [4, 5]
    await log.close()


async def test_many_events_of_one_class_do_not_stay_in_the_file(tmp_path: Path) -> None:
    log = await open_log(f"sqlite:{tmp_path / 'feed.db'}", Retention(classes=tuple(parse_retain("noise=10").items())))
    await put(log, "quiet")
    for _ in range(20):
        await log.append([text_draft("noise", "x")] * 200)
    await put(log, "quiet")
    writer: Any = log._writer  # type: ignore[attr-defined]
    assert log.retained.events == 12
    assert len(writer.gone) < 1_000
    await log.close()


# Over the feed.


def options(retain: str, **more: Any) -> FeedOptions:
    return FeedOptions(retain=parse_retain(retain), **more)


async def publish(feed: Feed, *topics: str) -> list[str]:
    ids = [await feed.publish(topic, "x") for topic in topics]
    await until(lambda: feed.running is not None and not feed.running.lag)
    return ids


async def take(feed: Feed, count: int, *patterns: str, **how: Any) -> list[Any]:
    """The first things of a stream: topics and gaps."""
    found: list[Any] = []
    async with feed.subscribe(*patterns, **how) as events:
        while len(found) < count:
            item = await anext(events)
            found.append(item.topic if isinstance(item, Event) else item)
    return found


@pytest.mark.parametrize("window", [10_000, 2])
async def test_noise_in_one_class_is_no_gap_in_another(url: str, window: int) -> None:
    async with Feed(url, options("noise/**=10", window_events=window)) as feed:
        (first,) = await publish(feed, "quiet")
        await publish(feed, *["noise/1"] * 50, "quiet")
        assert await take(feed, 1, "quiet", after=first) == ["quiet"]
        assert await take(feed, 2, "quiet", after=EARLIEST) == ["quiet", "quiet"]


@pytest.mark.parametrize("window", [10_000, 2])
async def test_a_stream_is_told_once_and_goes_on_before_the_next_event_that_it_gets(url: str, window: int) -> None:
    async with Feed(url, options("noise/**=2", window_events=window)) as feed:
        (first,) = await publish(feed, "a")
        ids = await publish(feed, "noise/1", "b", "noise/2", "noise/3", "noise/4", "b")
        gap, *topics = await take(feed, 5, "**", after=first)
        assert isinstance(gap, Gap)
        assert (gap.requested, gap.resumed_from, gap.reason) == (first, ids[0], "expired")
        assert topics == ["b", "noise/3", "noise/4", "b"]
        gap, topic = await take(feed, 2, "noise/3", after=first)
        assert (gap.resumed_from, topic) == (ids[2], "noise/3")


@pytest.mark.parametrize("window", [10_000, 2])
@pytest.mark.parametrize("last", [["z/1"], []])
async def test_what_is_gone_is_told_also_where_many_others_follow_it(url: str, window: int, last: list[str]) -> None:
    async with Feed(url, options("noise/**=2", window_events=window)) as feed:
        (first,) = await publish(feed, "start")
        await publish(feed, "noise/1", *["noise/2"] * 3)
        await feed.publish_batch([draft("other", "x")] * 4_500)
        ids = await publish(feed, *last)
        page = await feed.page("noise/1", "z/*", after=first)
        assert page.gap is not None
        assert [event.topic for event in page.events] == last
        async with feed.subscribe("noise/1", "z/*", after=first) as events, asyncio.timeout(30):
            gap = await anext(events)
            assert isinstance(gap, Gap)
            assert gap.requested == first
            following = ids[0] if ids else await feed.publish("z/1", "x")
            event = await anext(events)
            assert isinstance(event, Event)
            assert event.id == following


async def test_more_that_is_taken_is_told_again(url: str) -> None:
    async with Feed(url, options("noise/**=2", window_events=2)) as feed:
        (first,) = await publish(feed, "a")
        await publish(feed, *["noise/1"] * 4)
        page = await feed.page("**", after=first, limit=1)
        assert page.gap is not None
        following = await feed.page("**", after=page.next, limit=1)
        assert following.gap is None, "what was told is not told again"
        await publish(feed, *["noise/1"] * 4)
        again = await feed.page("**", after=page.next, limit=1)
        assert again.gap is not None


@pytest.mark.parametrize("window", [10_000, 2])
async def test_who_begins_with_the_oldest_is_told_whether_something_was_there_before(url: str, window: int) -> None:
    async with Feed(url, options("noise/**=2", window_events=window)) as feed:
        await publish(feed, "a", "noise/1", "noise/2", "noise/2", "noise/2", "b")
        for pattern, complete, events in (
            ("a", True, 1),
            ("noise/1", True, 0),
            ("noise/2", False, 2),
            ("**", False, 4),
            ("noise/*", False, 2),
            ("*", True, 2),
            ("never", True, 0),
        ):
            page = await feed.page(pattern)
            assert (page.gap, page.complete, len(page.events)) == (None, complete, events), pattern
        page = await feed.page("**", limit=1)
        while page.events:
            page = await feed.page("**", limit=1, after=page.next)
            assert page.gap is None, "or pages that begin anew at a gap would do so for ever"


async def test_state_outlives_noise_and_a_restart(url: str, tmp_path: Path) -> None:
    choice = options("s/**=latest,1; **=5", window_events=2)
    async with Feed(url, choice) as feed:
        ids = await publish(feed, "s/1", "s/2", *["noise"] * 20, "s/3")
        await feed.delete("s/2")
        page = await feed.page("s/*", latest=True)
        assert [event.topic for event in page.events] == ["s/1", "s/3"]
        assert (await feed.page("s/*", latest=True, after=ids[1])).gap is None
    if url != "memory:":
        async with Feed(url, choice) as feed:
            page = await feed.page("s/*", latest=True)
            assert [event.topic for event in page.events] == ["s/1", "s/3"]
            following = await feed.page("s/*", latest=True, after=ids[1])
            assert (following.gap, [event.type for event in following.events]) == (None, ["message", "feed.deleted"])


def test_a_class_that_keeps_nothing_is_refused_at_once() -> None:
    with pytest.raises(Invalid, match="more than 0"):
        Feed("memory:", FeedOptions(retain={"a": Keep(events=0)}))


# The text.


@pytest.mark.parametrize(
    ("text", "retain"),
    [
        ("", {}),
        ("runs/**=1h", {"runs/**": Keep(age=3600)}),
        (
            "runs/**=1h; system/**=10000; devices/*/state=latest; scores/**=latest,1d,100MB",
            {
                "runs/**": Keep(age=3600),
                "system/**": Keep(events=10_000),
                "devices/*/state": Keep(latest=True),
                "scores/**": Keep(age=86400, bytes=100 << 20, latest=True),
            },
        ),
        ("a=b=5 ;", {"a=b": Keep(events=5)}),
    ],
)
def test_classes_are_read_and_written(text: str, retain: dict[str, Keep]) -> None:
    assert parse_retain(text) == retain
    assert parse_retain(retain_text(retain)) == retain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("runs/**", "has to be PATTERN=BOUNDS"),
        ("runs/**=", "is not a bound"),
        ("runs/**=soon", "is not a bound"),
        ("runs/**=100MX", "is not a bound"),
        ("a=1;a=2", "is there twice"),
        ("a=1,2", "second bound of its kind"),
        ("a=0", "has to be more than 0"),
        ("a/**/b=1", "pattern"),
        (";".join(f"a{number}=1" for number in range(33)), "32 classes at most"),
    ],
)
def test_what_is_no_class_is_refused_with_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_retain(text)
