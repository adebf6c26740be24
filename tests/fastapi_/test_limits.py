"""The limits that are not about connections: subscribers by address, patterns, and how much may be published."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from functools import partial

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect

from feed import EARLIEST, Feed, FeedOptions, FeedUnavailable, Invalid, Overloaded, Subscription, select
from feed.fastapi.auth.rate_limit import Rate
from feed.peer import Peer
from feed_server.bench.soak.streams import Form, Item
from tests.support.crowd import Crowd, until
from tests.support.inside import serving

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
        assert feed.statistics().subscribers == 5


async def test_a_crowd_that_comes_at_once_does_not_slip_past_the_limit() -> None:
    async with Feed("memory:", FeedOptions(max_subscribers_per_address=7)) as feed:
        await feed.publish("a", "x")
        coming = [attached(feed, "192.0.2.1", EARLIEST if number % 2 else None) for number in range(300)]
        outcomes = await asyncio.gather(*coming, return_exceptions=True)
        assert Counter(map(type, outcomes)) == {Subscription: 7, FeedUnavailable: 293}
        assert feed.statistics().subscribers == 7


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
        running = feed.running
        assert running is not None
        for subscription in list(running.broadcaster):
            feed.detach(subscription)  # of those that were cancelled while they read
        assert (running.broadcaster._by_address, feed.statistics().subscribers) == ({}, 0)


async def test_beyond_the_limit_each_transport_is_refused_in_its_own_way() -> None:
    async with serving(max_subscribers_per_address=1) as inside, Crowd(inside.port) as crowd:
        kept = await crowd.reader(Form.SSE, "/a", lambda _: None)
        items: list[Item] = []
        refused = await crowd.reader(Form.SSE, "/a", items.append)
        await until(lambda: refused.parser.finished)
        assert [item.type for item in items] == ["feed.closing"]
        assert items[0].json["reason"] == "busy"
        assert refused.parser.retry is not None
        for form in (Form.NDJSON, Form.WS):
            refused = await crowd.reader(form, "/a", items.append)
            assert refused.status == 503
            assert "retry-after: 1" in refused.parser.head
            await until(lambda: b"this address has as many" in refused.parser.refusal)
        async with httpx.AsyncClient(verify=False) as http:
            url = f"{inside.url}/events/a?wait=30"
            answer = await http.get(url, headers={"Accept": "application/json"})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
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
        for form in (Form.SSE, Form.NDJSON, Form.WS):
            assert (await crowd.reader(form, "?topic=a&topic=b", lambda _: None)).status in (101, 200)
            refused = await crowd.reader(form, "?topic=a&topic=b&topic=c", lambda _: None)
            assert refused.status == 422
            await until(lambda: b"at most 2" in refused.parser.refusal)
        http = crowd.http()
        answer = await http.request("GET", "/events?topic=a&topic=b&topic=c", Accept="application/json")
        assert answer.status == 422


# How much may be published.


class Clock:
    """Goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rate_of(per_second: float, most: int = 100) -> tuple[Rate, Clock]:
    clock = Clock()
    return Rate(per_second, clock=clock, most=most), clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """That of the rates of all servers: a slow machine fills no bucket."""
    clock = Clock()
    monkeypatch.setattr("feed_server.app.Rate", partial(Rate, clock=clock))
    return clock


def refusal(rate: Rate, name: str = "a") -> int:
    with pytest.raises(Overloaded) as raised:
        rate.take(name)
    return raised.value.retry_after


def test_a_seconds_worth_passes_at_once_and_then_one_by_one() -> None:
    rate, clock = rate_of(5)
    for _ in range(5):
        rate.take("a")
    assert refusal(rate) == 1
    rate.take("b")
    clock.now += 0.2
    rate.take("a")
    refusal(rate)
    clock.now += 100
    for _ in range(5):
        rate.take("a")
    refusal(rate)


def test_a_rate_below_one_lets_one_through_at_a_time() -> None:
    rate, clock = rate_of(0.1)
    rate.take("a")
    assert refusal(rate) == 10
    clock.now += 9.5
    assert refusal(rate) == 1
    clock.now += 0.5
    rate.take("a")


def test_a_batch_larger_than_the_bucket_passes_and_leaves_a_debt_that_time_pays_off() -> None:
    rate, clock = rate_of(10)
    rate.take("a")
    rate.take_more("a", 99)
    seconds = refusal(rate)
    assert seconds == 10  # 90 of debt, and one event's worth
    clock.now += seconds - 1
    refusal(rate)
    clock.now += 1
    rate.take("a")


def test_batches_that_began_together_do_not_all_get_into_debt() -> None:
    rate, _ = rate_of(10)
    for _ in range(3):
        rate.take("a")
    rate.take_more("a", 1_000)
    for _ in range(2):
        with pytest.raises(Overloaded):
            rate.take_more("a", 1_000)
    rate.take_more("a", 0)


@given(
    per_second=st.floats(0.01, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 10_000)), min_size=1, max_size=50),
)
def test_the_average_holds_and_whoever_waits_as_told_is_let_through(
    per_second: float, steps: list[tuple[float, int]]
) -> None:
    rate, clock = rate_of(per_second)
    began, passed, last = clock.now, 0, 0
    for pause, events in steps:
        clock.now += pause
        try:
            rate.take("a")
        except Overloaded as error:
            clock.now += error.retry_after
            rate.take("a")
        passed += last
        assert passed <= (clock.now - began) * per_second * 1.000001 + max(1.0, per_second) + 1
        rate.take_more("a", events - 1)
        last = events


def test_the_names_that_are_remembered_are_bounded_and_full_buckets_go_first() -> None:
    rate, clock = rate_of(1, most=3)
    rate.take("debt")
    rate.take_more("debt", 100)
    for name in ("full", "full too"):
        rate.take(name)
    clock.now += 1
    rate.take("new")
    refusal(rate, "debt")
    assert set(rate._full_at) == {"debt", "new"}
    for number in range(50):
        rate.take(str(number))
        assert len(rate._full_at) <= 3
    rate.take("debt")  # the longest unused of those that were not full


async def test_beyond_the_rate_a_publish_is_429_and_says_when_to_go_on(clock: Clock) -> None:
    async with serving(publish_rate=3) as inside, Crowd(inside.port) as crowd:
        http = crowd.http()
        answers = [await http.publish("a", "x") for _ in range(5)]
        assert [answer.status for answer in answers] == [201] * 3 + [429] * 2
        refused = answers[-1]
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["retry-after"] == "1"
        clock.now += int(refused.headers["retry-after"])
        assert (await http.publish("a", "y" * 200_000)).status == 201
        page = await inside.feed.page("**")
        assert len(page.events) == 4


@pytest.mark.usefixtures("clock")
async def test_a_refused_body_is_not_kept_and_the_connection_can_be_used_again() -> None:
    async with serving(publish_rate=0.5) as inside, Crowd(inside.port) as crowd:
        http = crowd.http()
        assert (await http.publish("a", "x")).status == 201
        for _ in range(3):
            assert (await http.publish("a", "x" * 4_000_000)).status == 429
        assert (await http.request("GET", "/healthz")).status == 200


@pytest.mark.usefixtures("clock")
async def test_what_is_invalid_counts_too() -> None:
    async with serving(publish_rate=3) as inside, Crowd(inside.port) as crowd:
        http = crowd.http()
        statuses = [
            (await http.publish("a/../b", "x")).status,
            (await http.request("POST", "/events", b"[", Content_Type="application/json")).status,
            (await http.request("POST", "/events", b"x", Content_Type="text/plain")).status,
            (await http.publish("a", "x")).status,
        ]
        assert statuses == [422, 400, 415, 429]


@pytest.mark.usefixtures("clock")
async def test_an_empty_batch_gives_nothing_back() -> None:
    async with serving(publish_rate=2) as inside, Crowd(inside.port) as crowd:
        http, kinds = crowd.http(), ("application/json", "application/x-ndjson", "application/cloudevents-batch+json")
        statuses = [
            (await http.request("POST", "/events", b"" if "nd" in kind else b"[]", Content_Type=kind)).status
            for kind in kinds
        ]
        assert statuses == [422, 422, 429]


@pytest.mark.usefixtures("clock")
async def test_a_batch_counts_by_its_events() -> None:
    async with serving(publish_rate=50) as inside, Crowd(inside.port) as crowd:
        http = crowd.http()
        lines: list[dict[str, object]] = [{"topic": "a", "data": "x"}] * 500
        assert (await http.publish_lines(lines)).status == 201
        refused = await http.publish("a", "x")
        assert refused.status == 429
        assert 5 < int(refused.headers["retry-after"]) <= 10


async def test_on_a_websocket_the_sender_is_told_and_stays_connected(clock: Clock) -> None:
    async with (
        serving(publish_rate=2) as inside,
        connect(f"ws://127.0.0.1:{inside.port}/ws/a?type=none") as websocket,
    ):
        await websocket.recv()
        for number in range(3):
            await websocket.send(f'{{"data": {number}, "ref": {number}}}')
        answers = [json.loads(await websocket.recv()) for _ in range(3)]
        assert [answer["type"] for answer in answers] == ["feed.ack", "feed.ack", "feed.error"]
        error = answers[-1]["data"]
        assert (error["status"], error["ref"]) == (429, 2)
        assert "try again in 1 s" in error["detail"]
        await websocket.send("text")
        assert json.loads(await websocket.recv())["data"]["status"] == 429
        clock.now += 1
        await websocket.send("text")
        assert json.loads(await websocket.recv())["type"] == "feed.ack"


async def test_l5_of_a_flood_beyond_the_rate_what_was_acknowledged_is_there_and_nothing_else() -> None:
    async with serving(publish_rate=40) as inside, Crowd(inside.port) as crowd:
        got, statuses, acknowledged = list[str | None](), Counter[int](), set[str]()
        await crowd.reader(Form.SSE, "/flood", lambda item: got.append(item.id) if item.is_event else None)
        began = time.monotonic()

        async def flood(number: int) -> None:
            http = crowd.http()
            for _ in range(30):
                lines: list[dict[str, object]] = [{"topic": "flood", "data": str(number)}] * random.choice([1, 5])
                answer = await http.publish_lines(lines)
                statuses[answer.status] += 1
                if answer.status == 201:
                    acknowledged.update(answer.ids)
                else:
                    assert int(answer.headers["retry-after"]) >= 1

        await asyncio.gather(*(flood(number) for number in range(20)))
        seconds = time.monotonic() - began
        await until(lambda: len(got) >= len(acknowledged))
        assert set(got) == acknowledged
        assert len(got) == len(acknowledged)
        assert statuses.keys() == {201, 429}
        assert len(acknowledged) <= 40 * (seconds + 1) + 5
