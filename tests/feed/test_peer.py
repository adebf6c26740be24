"""Who is at the other end: under what name an address is counted, and that a right to read ends on time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from feed import Feed, FeedOptions, FeedUnavailable, Limits, select
from feed.peer import Peer, address_key
from feed.subscription import Subscription
from feed_server.bench.soak.streams import Form, Item
from tests.support.crowd import LEAST_BUFFER, Crowd, until
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.anyio

LATE = 10.0  # seconds after its time at which a stream must have ended: long before anything else would end it


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("no address", "no address"),
    ],
)
def test_an_address_is_counted_by_what_one_client_cannot_change_at_will(address: str, name: str) -> None:
    assert address_key(address) == name


@pytest.fixture
async def inside() -> AsyncIterator[Inside]:
    async with serving() as inside:
        yield inside


def expire(subscription: Subscription, seconds: float) -> float:
    """Let its right to read end so many seconds from now; when that is."""
    expires = time.time() + seconds
    subscription.peer = msgspec.structs.replace(subscription.peer, expires=expires)
    return expires


@pytest.mark.parametrize("form", Form)
async def test_a_stream_ends_when_its_right_to_read_does(inside: Inside, form: Form) -> None:
    items: list[Item] = []
    async with Crowd(inside.port) as crowd:
        reader = await crowd.reader(form, "/a", items.append)
        kept = await crowd.reader(form, "/a", lambda _: None)
        await inside.feed.publish("a", "x")
        await until(lambda: len(items) == 2)
        expires = expire(inside.subscriptions[0], 0.2)
        await until(lambda: reader.parser.finished)
        assert 0 <= time.time() - expires < LATE
        assert [item.type for item in items] == ["feed.open", "message", "feed.closing"]
        assert items[-1].json["reason"] == "token-expired"
        assert not kept.parser.finished
        assert inside.feed.statistics().subscribers == 1


async def test_a_websocket_is_closed_with_1008(inside: Inside) -> None:
    async with connect(f"ws://127.0.0.1:{inside.port}/ws/a") as websocket:
        expires = expire(await inside.only(), 0.2)
        with pytest.raises(ConnectionClosed):
            while True:
                await websocket.recv()
        assert websocket.close_code == 1008
        assert 0 <= time.time() - expires < LATE


async def test_a_long_poll_ends_with_the_right_to_read(inside: Inside) -> None:
    async with httpx.AsyncClient(verify=False) as http:
        url = f"{inside.url}/events/a?wait=30"
        poll = asyncio.create_task(http.get(url, headers={"Accept": "application/json"}, timeout=40))
        subscription = await inside.only()
        assert subscription.peer.transport == "poll"
        expires = expire(subscription, 0.2)
        answer = await poll
        assert 0 <= time.time() - expires < LATE
        assert (answer.status_code, answer.json()["events"]) == (200, [])


async def test_a_reader_in_this_process_is_told_why() -> None:
    async with Feed("memory:") as feed:
        peer = Peer(expires=time.time() + 0.2)
        subscription = await feed.attach(select(["a"]), after=None, last=None, peer=peer)
        with pytest.raises(FeedUnavailable, match="token-expired"):
            await anext(subscription)
        assert 0 <= time.time() - peer.expires < LATE


BEHIND = FeedOptions(window_events=1, limits=Limits(heartbeat=60))


async def test_a_reader_that_is_behind_and_waits_for_the_log_ends_on_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Feed("memory:", BEHIND) as feed:
        first = await feed.publish("a", "x")
        for _ in range(3):
            await feed.publish("a", "x")
        await until(lambda: feed.statistics().lag == 0)
        running = feed.running
        assert running is not None
        monkeypatch.setattr(running.log, "read", lambda *_: asyncio.Event().wait())  # the log is away
        peer = Peer(expires=time.time() + 0.2)
        subscription = await feed.attach(select(["a"]), after=first, last=None, peer=peer)
        with pytest.raises(FeedUnavailable, match="token-expired"):
            await anext(subscription)
        assert 0 <= time.time() - peer.expires < LATE
        assert subscription._reading is None


@pytest.mark.parametrize("form", [Form.SSE, Form.WS])
async def test_a_stream_that_is_behind_ends_on_time(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(window_events=1, heartbeat=60) as inside, Crowd(inside.port) as crowd:
        first = await inside.feed.publish("a", "x")
        for _ in range(3):
            await inside.feed.publish("a", "x")
        await until(lambda: inside.feed.statistics().lag == 0)
        running = inside.feed.running
        assert running is not None
        monkeypatch.setattr(running.log, "read", lambda *_: asyncio.Event().wait())  # the log is away
        items: list[Item] = []
        reader = await crowd.reader(form, "/a", items.append, first)
        expires = expire(await inside.only(lambda subscription: subscription.behind), 0.2)
        await until(lambda: reader.parser.finished)
        assert 0 <= time.time() - expires < LATE
        assert [item.type for item in items] == ["feed.open", "feed.closing"]


@pytest.mark.parametrize("form", [Form.SSE, Form.WS])
async def test_a_stream_that_is_blocked_gets_nothing_that_was_committed_later(form: Form) -> None:
    async with serving(queue_events=4) as inside, Crowd(inside.port) as crowd:
        items: list[Item] = []
        reader = await crowd.reader(form, "/a", items.append, buffer=LEAST_BUFFER)
        subscription = await inside.only()
        reader.stall()
        while not subscription._blocked:
            await inside.feed.publish("a", "x" * 100_000)
            await asyncio.sleep(0)
        early = await inside.feed.publish("b", "x")
        expire(subscription, 0.2)
        await until(lambda: subscription.reason)
        late = [await inside.feed.publish("a", f"late {number}") for number in range(10)]
        reader.go_on()
        await until(lambda: reader.parser.finished)
        assert items[-1].type == "feed.closing"
        ids = [item.id for item in items if item.is_event]
        assert ids
        assert not {early, *late} & set(ids)
