"""The past in the library: pages, one by one and all of them, and the id from which on everything is new."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from feed import EARLIEST, Feed, FeedOptions, Gap, Invalid, Page, Retention

pytestmark = pytest.mark.anyio


@pytest.fixture
async def feed() -> AsyncIterator[Feed]:
    async with Feed("memory:") as feed:
        yield feed


async def texts(pages: AsyncIterator[Page]) -> list[list[str]]:
    return [[event.text for event in page.events] async for page in pages]


async def test_a_history_before_the_first_publish_has_no_pages(feed: Feed) -> None:
    assert await texts(feed.history("orders/*")) == []
    page = await feed.page("orders/*")
    assert (page.events, page.gap) == ([], None)


async def test_a_history_is_pages_up_to_the_newest_event(feed: Feed) -> None:
    for number in range(5):
        await feed.publish("a", str(number))
        await feed.publish("b", "x")
    assert await texts(feed.history("a", limit=2)) == [["0", "1"], ["2", "3"], ["4"]]
    assert await texts(feed.history(["a", "c"])) == [["0", "1", "2", "3", "4"]]


async def test_a_history_goes_on_after_an_id_and_back_before_one(feed: Feed) -> None:
    ids = [await feed.publish("a", str(number)) for number in range(6)]
    assert await texts(feed.history("a", after=ids[2], limit=2)) == [["3", "4"], ["5"]]
    assert await texts(feed.history("a", before=ids[3], limit=2)) == [["1", "2"], ["0"]]
    assert await texts(feed.history("a", last=4)) == [["2", "3", "4", "5"]]


async def test_a_history_begins_at_a_time(feed: Feed) -> None:
    await feed.publish("a", "x", type="created")
    now = datetime.now(UTC)
    for since in (now - timedelta(hours=1), (now - timedelta(hours=1)).isoformat()):
        assert await texts(feed.history("a", since=since)) == [["x"]]
    assert await texts(feed.history("a", since=now + timedelta(hours=1))) == []


async def test_a_history_is_of_the_types_that_are_asked_for(feed: Feed) -> None:
    await feed.publish("a", "x", type="created")
    await feed.publish("a", "y", type="deleted")
    assert await texts(feed.history("a", types="created")) == [["x"]]
    assert [event.text for event in (await feed.page("a", types=["deleted"])).events] == ["y"]


async def test_a_page_says_where_events_are_missing() -> None:
    async with Feed("memory:", FeedOptions(retention=Retention(events=2))) as feed:
        ids = [await feed.publish("a", str(number)) for number in range(4)]
        page = await feed.page("a", after=ids[0])
        assert isinstance(page.gap, Gap)
        assert (page.gap.requested, page.gap.resumed_from, page.gap.reason) == (ids[0], ids[1], "expired")
        assert ([event.id for event in page.events], page.next) == (ids[2:], ids[3])


@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ([], {}, "pattern: is missing"),
        (["a//b"], {}, "pattern: a segment may not be empty"),
        (["a"], {"types": "feed.x"}, "type: 'open', 'error' and names that begin with 'feed.' are reserved"),
        (["a"], {"last": 0}, "last: has to be a whole number"),
        (["a"], {"since": datetime(2026, 11, 30)}, "since: has no time zone"),  # noqa: DTZ001
    ],
)
async def test_a_mistake_raises_at_the_call(feed: Feed, patterns: list[str], asked: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid, match=words):
        feed.history(*patterns, **asked)
    with pytest.raises(Invalid, match=words):
        await feed.page(*patterns, **asked)


async def test_what_is_committed_after_now_comes_after_it(feed: Feed) -> None:
    for old in ([], ["old"]):
        for text in old:
            await feed.publish("a", text)
        now = await feed.now()
        assert (await feed.page("a", after=now)).events == []
        id = await feed.publish("a", "new")
        async with feed.subscribe("a", after=now) as events:
            event = await anext(events)
        assert (event.id, event.text) == (id, "new")


async def test_a_history_after_the_position_of_a_client_that_has_none_is_the_whole(feed: Feed) -> None:
    await feed.publish("a", "x")
    assert await feed.page("a", after="") == await feed.page("a")
    assert await texts(feed.history("a", after="")) == [["x"]]


async def test_the_earliest_is_the_oldest_retained_event(feed: Feed) -> None:
    await feed.publish("a", "x")
    assert [event.text for event in (await feed.page("a", after=EARLIEST)).events] == ["x"]
