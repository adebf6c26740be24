"""Who listens on all nodes, in a process and over HTTP: nodes answer each other, and silent ones are named."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from feed import Feed, FeedOptions, FeedUnavailable, Invalid, select
from feed.fastapi import admin_router
from feed.log.redis.nodes import Nodes
from feed.peer import Peer
from feed.subscription import Subscription
from feed.survey import EndSubscription, ListSubscribers, SilentNodes, Subscribers
from tests.conftest import Serve
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.anyio


@pytest.fixture
async def nodes(shared_redis: RedisServer) -> AsyncIterator[list[Feed]]:
    """Three nodes that know of each other."""
    url = shared_redis.url(secrets.token_hex(8))
    feeds = [Feed(url, FeedOptions(node=f"node-{number}")) for number in range(3)]
    async with contextlib.AsyncExitStack() as stack:
        for feed in feeds:
            await stack.enter_async_context(feed)
        for feed in feeds:
            await known_to_each_other(feed, 3)
        yield feeds


async def known_to_each_other(feed: Feed, count: int) -> None:
    nodes = nodes_of(feed)
    async with asyncio.timeout(10):
        while len(await nodes._speaker.ask("PUBSUB", "NUMSUB", nodes._questions)) < 2:
            await asyncio.sleep(0.01)
        while (await nodes._speaker.ask("PUBSUB", "NUMSUB", nodes._questions))[1] < count:
            await asyncio.sleep(0.01)
        while await nodes._speaker.ask("ZCARD", nodes._nodes) < count:
            await asyncio.sleep(0.01)


def nodes_of(feed: Feed) -> Nodes:
    running = feed.running
    assert running is not None
    nodes = running.log._nodes  # type: ignore[attr-defined]
    assert isinstance(nodes, Nodes)
    return nodes


async def test_one_process_knows_its_own() -> None:
    async with Feed("memory:", FeedOptions(node="alone")) as feed:
        async with feed.subscribe("a/*", "b", types=["created"]) as events:
            found = await feed.subscribers_everywhere()
            (subscriber,) = found.subscribers
            assert (subscriber.id, subscriber.node) == (events.id, "alone")
            assert (list(subscriber.patterns), list(subscriber.types)) == (["a/*", "b"], ["created"])
            assert (subscriber.queued, subscriber.lagging, found.next, found.silent) == (0, False, None, ())
            await feed.publish("b", "x", type="created")
            while not (await feed.subscribers_everywhere()).subscribers[0].queued:
                await asyncio.sleep(0)
        assert (await feed.subscribers_everywhere()).subscribers == []


async def test_every_node_tells_of_all(nodes: list[Feed]) -> None:
    async with nodes[0].subscribe("a") as first, nodes[1].subscribe("b") as second, nodes[1].subscribe("c") as third:
        for feed in nodes:
            found = await feed.subscribers_everywhere()
            told = {subscriber.id: subscriber.node for subscriber in found.subscribers}
            assert told == {first.id: "node-0", second.id: "node-1", third.id: "node-1"}
            assert (found.next, list(found.silent)) == (None, [])


async def test_pages_hold_each_once(nodes: list[Feed]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        ids = {(await stack.enter_async_context(feed.subscribe("a"))).id for feed in nodes for _ in range(7)}
        pages: list[Subscribers] = []
        while not pages or pages[-1].next is not None:
            after = pages[-1].next if pages else ""
            pages.append(await nodes[2].subscribers_everywhere(after=after or "", limit=4))
        assert all(len(page.subscribers) <= 4 for page in pages)
        found = [subscriber.id for page in pages for subscriber in page.subscribers]
        assert found == sorted(ids)


async def test_one_can_be_ended_from_any_node_and_is_told(nodes: list[Feed]) -> None:
    async with nodes[0].subscribe("a") as ended, nodes[0].subscribe("a") as kept:
        assert await nodes[2].kick(ended.id)
        with pytest.raises(FeedUnavailable, match="kicked"):
            await anext(ended)
        assert not await nodes[2].kick("0123456789abcdef")
        found = await nodes[1].subscribers_everywhere()
        assert kept.id in {subscriber.id for subscriber in found.subscribers}


async def test_a_node_that_does_not_answer_is_named(nodes: list[Feed]) -> None:
    nodes_of(nodes[1]).answer = None
    found = await nodes[0].subscribers_everywhere()
    assert list(found.silent) == ["node-1"]
    with pytest.raises(FeedUnavailable, match="node-1"):
        await nodes[0].kick("0123456789abcdef")


@contextlib.asynccontextmanager
async def streams_of(feed: Feed, *subjects: str | None) -> AsyncIterator[list[Subscription]]:
    """A stream for each of them, as the HTTP routes begin it."""
    streams = [
        await feed.attach(select(["a"]), after=None, last=None, peer=Peer("sse", principal=subject))
        for subject in subjects
    ]
    try:
        yield streams
    finally:
        for stream in streams:
            feed.detach(stream)


async def test_all_streams_of_a_subject_are_ended_on_all_nodes_and_no_other(nodes: list[Feed]) -> None:
    async with (
        streams_of(nodes[0], "ann", "bob", None) as here,
        streams_of(nodes[1], "ann", "ann", "Ann") as there,
        streams_of(nodes[2]),
    ):
        listed = (await nodes[2].subscribers_everywhere()).subscribers
        assert sorted(str(each.subject) for each in listed) == ["Ann", "None", "ann", "ann", "ann", "bob"]
        assert await nodes[2].kick(subject="ann") == 3
        reasons = [stream.reason for stream in (*here, *there)]
        assert reasons == ["kicked", None, None, "kicked", "kicked", None]
        assert await nodes[2].kick(subject="ann") == 0, "those that are ending are not ended twice"
        assert await nodes[2].kick(subject="nobody") == 0


async def test_of_a_subject_it_is_said_which_nodes_may_still_have_streams(nodes: list[Feed]) -> None:
    nodes_of(nodes[1]).answer = None
    async with streams_of(nodes[0], "ann", "ann") as streams:
        words = "these nodes did not answer: node-1; streams that were ended on other nodes: 2"
        with pytest.raises(SilentNodes, match=words) as raised:
            await nodes[0].kick(subject="ann")
        assert (raised.value.ended, list(raised.value.nodes)) == (2, ["node-1"])
        assert [stream.reason for stream in streams] == ["kicked", "kicked"]
    with pytest.raises(FeedUnavailable, match=r"these nodes did not answer: node-1$"):
        await nodes[0].kick(subject="ann")


async def test_a_node_that_does_not_know_the_question_is_silent_and_goes_on(nodes: list[Feed]) -> None:
    earlier = msgspec.msgpack.Decoder(ListSubscribers | EndSubscription)
    answer = nodes_of(nodes[1]).answer
    assert answer is not None

    def answered(question: bytes) -> bytes:
        earlier.decode(question)
        return answer(question)

    nodes_of(nodes[1]).answer = answered
    async with streams_of(nodes[1], "ann"):
        with pytest.raises(SilentNodes, match="node-1"):
            await nodes[0].kick(subject="ann")
        assert [each.subject for each in (await nodes[0].subscribers_everywhere()).subscribers] == ["ann"]


async def test_what_is_to_be_kicked_has_to_be_said() -> None:
    feed = Feed("memory:")
    with pytest.raises(TypeError, match="the id of one subscription, or subject="):
        await feed.kick()  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="the id of one subscription, or subject="):
        await feed.kick("0123456789abcdef", subject="ann")  # type: ignore[call-overload]
    with pytest.raises(Invalid, match="subject: is empty"):
        await feed.kick(subject="")


@pytest.mark.parametrize("name", ["id", "subject"])
async def test_a_number_is_nobody_to_kick_and_no_node_is_asked(nodes: list[Feed], name: str) -> None:
    nodes_of(nodes[1]).answer = None
    for value, words in (
        (7, "int: write str(…) around it"),
        (UUID(int=7), "UUID: write str(…) around it"),
        (b"ann", "bytes: write .decode() after it"),
        (["ann"], "list"),
    ):
        kick: Any = nodes[0].kick
        with pytest.raises(TypeError) as raised:
            await kick(**{name: value})
        assert str(raised.value) == f"kick: {name} has to be a str, not {words}"


class EarlierSubscriber(msgspec.Struct):
    """What a node told before there was more to tell."""

    id: str
    node: str
    patterns: Sequence[str]
    types: Sequence[str]
    since: int
    position: str
    queued: int
    lagging: bool


async def test_nodes_of_different_versions_understand_each_other(nodes: list[Feed]) -> None:
    earlier = EarlierSubscriber("0" * 16, "node-1", ["a"], [], 1, "x-1", 0, False)
    nodes_of(nodes[1]).answer = lambda _: msgspec.msgpack.encode([earlier])
    async with nodes[2].subscribe("a") as events:
        found = (await nodes[0].subscribers_everywhere()).subscribers
    assert [(each.id, each.transport, each.address, each.bytes_sent) for each in found if each.id == "0" * 16] == [
        ("0" * 16, "", "", 0)
    ]
    told = msgspec.msgpack.encode([each for each in found if each.id == events.id])
    (understood,) = msgspec.msgpack.decode(told, type=list[EarlierSubscriber])
    assert (understood.id, understood.node) == (events.id, "node-2")


async def test_a_node_that_has_left_is_not_waited_for(nodes: list[Feed]) -> None:
    await nodes[1].close()
    assert list((await nodes[0].subscribers_everywhere()).silent) == []


async def test_questions_under_way_are_bounded(nodes: list[Feed]) -> None:
    nodes_of(nodes[1]).answer = None
    asked = [asyncio.create_task(nodes[0].subscribers_everywhere()) for _ in range(100)]
    outcomes = await asyncio.gather(*asked, return_exceptions=True)
    assert sum(isinstance(outcome, FeedUnavailable) for outcome in outcomes) == 36
    assert not nodes_of(nodes[0])._asked


async def test_a_node_answers_again_after_its_connection_broke(nodes: list[Feed], shared_redis: RedisServer) -> None:
    shared_redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    async with nodes[1].subscribe("a") as events, asyncio.timeout(20):
        while True:
            with contextlib.suppress(FeedUnavailable):
                found = await nodes[0].subscribers_everywhere()
                if [subscriber.id for subscriber in found.subscribers] == [events.id]:
                    break


def test_over_http_they_are_listed_and_ended(serve: Serve, shared_redis: RedisServer) -> None:
    url = shared_redis.url(secrets.token_hex(8))
    here, there = serve("--log", url), serve("--log", url)
    with subscribed(f"{there.url}/events/a/*?type=created") as stream:
        (found,) = eventually(lambda: here.http.get(f"{here.url}/subscriptions").json()["subscriptions"])
        names = {"id", "node", "patterns", "types", "since", "position", "queued", "lagging"}
        assert found.keys() == names | {"transport", "address", "bytes_sent", "subject"}
        assert found["subject"] is None
        assert (found["patterns"], found["types"], found["lagging"]) == (["a/*"], ["created"], False)
        assert (found["transport"], found["address"]) == ("sse", "127.0.0.1")
        answer = here.http.delete(f"{here.url}/subscriptions/{found['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
        closing = stream.until("feed.closing")[-1]
        assert closing.json["reason"] == "kicked"
    answer = here.http.delete(f"{here.url}/subscriptions/{found['id']}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert here.http.get(f"{here.url}/subscriptions?limit=0").status_code == 422


def test_over_http_a_user_who_has_logged_out_is_ended_everywhere(serve: Serve, shared_redis: RedisServer) -> None:
    url = shared_redis.url(secrets.token_hex(8))
    here, there = (serve("--log", url, jwt_secret=SECRET) for _ in range(2))
    admin, ann, bob = (
        {"Authorization": f"Bearer {token(subscribe=['**'], admin=admin, sub=name)}"}
        for name, admin in (("boss", True), ("ann", False), ("bob", False))
    )
    with (
        subscribed(f"{here.url}/events/a", ann) as one,
        subscribed(f"{there.url}/events/a", ann, Accept="application/x-ndjson") as two,
        connect(there.url.replace("http", "ws") + "/ws/a", additional_headers=ann) as three,
        subscribed(f"{there.url}/events/a", bob) as kept,
    ):
        listed = eventually(lambda: len(found := subscriptions(here, admin)) == 4 and found)
        assert sorted(each["subject"] for each in listed) == ["ann", "ann", "ann", "bob"]
        answer = here.http.delete(f"{here.url}/subscriptions?subject=ann", headers=admin)
        assert (answer.status_code, answer.json()) == (200, {"ended": 3, "silent_nodes": []})
        assert one.until("feed.closing")[-1].json["reason"] == "kicked"
        while (line := two.object())["type"] != "feed.closing":
            pass
        assert line["data"]["reason"] == "kicked"
        with pytest.raises(ConnectionClosed):
            while True:
                three.recv(timeout=10)
        assert three.close_code == 1008
        there.publish("a", "x", Authorization=f"Bearer {token(['**'], [])}")
        assert kept.frame().data == "x"
    again = here.http.delete(f"{here.url}/subscriptions?subject=ann", headers=admin)
    assert (again.status_code, again.json()) == (200, {"ended": 0, "silent_nodes": []})
    for query, headers, status in (
        ("?subject=", admin, 422),
        ("", admin, 422),
        ("/0123456789abcdef?subject=ann", admin, 422),
        ("?subject=ann", ann, 403),
        ("?subject=ann", {}, 401),
    ):
        refused = here.http.delete(f"{here.url}/subscriptions{query}", headers=headers)
        assert (refused.status_code, refused.headers["content-type"]) == (status, "application/problem+json"), query


def subscriptions(server: RunningServer, admin: dict[str, str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.http.get(f"{server.url}/subscriptions", headers=admin).json()["subscriptions"]
    return found


@pytest.mark.parametrize("ended", [0, 2])
async def test_over_http_silent_nodes_are_named(nodes: list[Feed], ended: int) -> None:
    nodes_of(nodes[1]).answer = None
    app = FastAPI()
    app.include_router(admin_router(nodes[0], metrics=False))
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
    async with streams_of(nodes[2], *["ann"] * ended), http:
        answer = await http.delete("/subscriptions", params={"subject": "ann"})
    if ended:
        assert (answer.status_code, answer.json()) == (200, {"ended": 2, "silent_nodes": ["node-1"]})
    else:
        assert (answer.status_code, "node-1" in answer.json()["detail"]) == (503, True)
