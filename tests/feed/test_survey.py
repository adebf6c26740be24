"""Who listens on all nodes, in a process and over HTTP: nodes answer each other, and silent ones are named."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from feed import Feed, FeedOptions, FeedUnavailable
from feed.log.redis.nodes import Nodes
from feed.survey import Subscribers
from tests.conftest import Serve
from tests.support.redis_server import RedisServer
from tests.support.streams import eventually, subscribed

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
        assert found.keys() == names | {"transport", "address", "bytes_sent"}
        assert (found["patterns"], found["types"], found["lagging"]) == (["a/*"], ["created"], False)
        assert (found["transport"], found["address"]) == ("sse", "127.0.0.1")
        answer = here.http.delete(f"{here.url}/subscriptions/{found['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
        closing = stream.until("feed.closing")[-1]
        assert closing.json["reason"] == "kicked"
    answer = here.http.delete(f"{here.url}/subscriptions/{found['id']}")
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert here.http.get(f"{here.url}/subscriptions?limit=0").status_code == 422
