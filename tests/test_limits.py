"""The limits that are not about connections: subscribers by address, patterns, and how much may be published."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import httpx
import pytest

from feed import EARLIEST, Feed, FeedOptions, FeedUnavailable, Invalid, Subscription, select
from feed.peer import Peer
from tests.crowd import Crowd, Form, Item, until
from tests.inside import serving

pytestmark = pytest.mark.anyio

# Subscribers by address.

TWO = FeedOptions(max_subscribers_per_address=2)


async def attached(feed: Feed, address: str, after: str | None = None) -> Subscription:
    return await feed.attach(select(["a"]), after=after, last=None, peer=Peer("sse", address))


async def test_an_address_has_as_many_streams_as_it_may_and_others_have_theirs() -> None:
    async with Feed("memory:", TWO) as feed:
        first, _ = await attached(feed, "192.0.2.1"), await attached(feed, "192.0.2.1")
        with pytest.raises(FeedUnavailable, match="this address has as many subscribers"):
            await attached(feed, "192.0.2.1")
        await attached(feed, "192.0.2.2")
        feed.detach(first)
        feed.detach(first)
        await attached(feed, "192.0.2.1")
        with pytest.raises(FeedUnavailable):
            await attached(feed, "192.0.2.1")


async def test_a_network_of_ipv6_counts_as_one_address() -> None:
    async with Feed("memory:", TWO) as feed:
        await attached(feed, "2001:db8:0:1::1")
        await attached(feed, "2001:db8:0:1::2")
        with pytest.raises(FeedUnavailable):
            await attached(feed, "2001:db8:0:1:ffff::3")
        await attached(feed, "2001:db8:0:2::1")


async def test_subscribers_inside_this_process_are_not_counted() -> None:
    async with Feed("memory:", TWO) as feed:
        for _ in range(5):
            await feed.attach(select(["a"]), after=None, last=None)
        assert feed.subscribers == 5


async def test_a_crowd_that_comes_at_once_does_not_slip_past_the_limit() -> None:
    async with Feed("memory:", FeedOptions(max_subscribers_per_address=7)) as feed:
        await feed.publish("a", "x")
        coming = [attached(feed, "192.0.2.1", EARLIEST if number % 2 else None) for number in range(300)]
        outcomes = await asyncio.gather(*coming, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {Subscription: 7, FeedUnavailable: 293}
        assert feed.subscribers == 7


async def test_nothing_is_left_of_streams_that_came_and_went_or_were_refused() -> None:
    options = FeedOptions(max_subscribers_per_address=3, max_subscribers=12)
    async with Feed("memory:", options) as feed:
        addresses = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "2001:db8::1", "2001:db8::2", ""]
        refused = 0

        async def come_and_go(address: str) -> None:
            nonlocal refused
            try:
                subscription = await attached(feed, address)
            except FeedUnavailable:
                refused += 1
                return
            await asyncio.sleep(random.uniform(0, 0.002))
            feed.detach(subscription)

        tasks = [asyncio.create_task(come_and_go(random.choice(addresses))) for _ in range(2_000)]
        await asyncio.sleep(0)
        for task in tasks[::7]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert refused
        running = feed._running_now()
        assert running is not None
        for subscription in list(running.broadcaster):
            feed.detach(subscription)  # of those that were cancelled while they read
        assert (running.broadcaster._by_address, feed.subscribers) == ({}, 0)


async def test_beyond_the_limit_each_transport_is_refused_in_its_own_way() -> None:
    async with serving(max_subscribers_per_address=1) as inside, Crowd(inside.port) as crowd:
        kept = await crowd.reader(Form.SSE, "/a", lambda _: None)
        items: list[Item] = []
        refused = await crowd.reader(Form.SSE, "/a", items.append)
        await until(lambda: refused.parser.finished)
        assert [item.type for item in items] == ["feed.closing"]
        assert '"busy"' in items[0].data
        assert refused.parser.retry is not None
        for form in (Form.NDJSON, Form.WEBSOCKET):
            refused = await crowd.reader(form, "/a", items.append)
            assert refused.status == 503
            assert "retry-after: 1" in refused.parser.head
            await until(lambda refused=refused: b"this address has as many" in refused.parser.refusal)
        async with httpx.AsyncClient(verify=False) as http:  # a long poll is answered at once instead
            url = f"{inside.url}/events/a?wait=30"
            answer = await http.get(url, headers={"Accept": "application/json"})
            assert (answer.status_code, answer.json()["events"]) == (200, [])
        kept.leave()
        await until(lambda: not inside.subscriptions)
        assert (await crowd.reader(Form.NDJSON, "/a", items.append)).status == 200


# Patterns.


async def test_a_subscription_asks_for_no_more_patterns_than_it_may() -> None:
    async with Feed("memory:", FeedOptions(max_patterns=2)) as feed:
        async with feed.subscribe("a", "b/*"):
            pass
        with pytest.raises(Invalid, match="at most 2"):
            async with feed.subscribe("a", "b/*", "c"):
                pass


async def test_the_limit_on_patterns_holds_over_http_too() -> None:
    async with serving(max_patterns=2) as inside, Crowd(inside.port) as crowd:
        for form in (Form.SSE, Form.NDJSON, Form.WEBSOCKET):
            assert (await crowd.reader(form, "?topic=a&topic=b", lambda _: None)).status in (101, 200)
            refused = await crowd.reader(form, "?topic=a&topic=b&topic=c", lambda _: None)
            assert refused.status == 422
            await until(lambda refused=refused: b"at most 2" in refused.parser.refusal)
        http = crowd.http()
        answer = await http.request("GET", "/events?topic=a&topic=b&topic=c", Accept="application/json")
        assert answer.status == 422
