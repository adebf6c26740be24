"""State with both clients: the newest event of each topic and then what changes, conditions, deleting, leases, and the
list of topics. Against a real server where it knows these things, else what is sent.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import pytest

from feed import Feed, Invalid, NoEvents, PreconditionFailed
from feed.client import AsyncClient, Client, Event, Gap, Item, Notice, Reconnecting, Refused, TopicInfo, draft
from feed.event import deletion, on_terms
from feed.terms import DELETED, terms_of
from tests.conftest import Serve
from tests.support.clients import AnyClient
from tests.support.proxy import proxy_to
from tests.support.running import RunningServer
from tests.support.scripted import accepting, answer, copy, playing, problem

pytestmark = pytest.mark.anyio

SECONDS = 20.0
CREATED = answer("201 Created", '{"id":"e-1","ids":["e-1"],"topic":"a"}')
SNAPSHOT_ID = re.compile(r"\w+-(\d+)-(\d+)")


@pytest.fixture(params=["sse", "websocket"])
def transport(request: pytest.FixtureRequest) -> str:
    """A test that takes it holds for both."""
    return str(request.param)


@pytest.fixture
def base(request: pytest.FixtureRequest) -> str:
    """The first segments of a test's own topics on the server that the module shares."""
    return "state/" + re.sub(r"\W+", "-", request.node.name)


async def upto(items: AsyncIterator[Item], wanted: Callable[[Item], bool]) -> list[Item]:
    """All up to and with the first item that is wanted."""
    found = []
    async with asyncio.timeout(SECONDS):
        async for item in items:
            found.append(item)
            if wanted(item):
                break
    return found


def is_live(item: Item) -> bool:
    return isinstance(item, Notice) and item.type == "feed.live"


def events_of(items: list[Item]) -> list[Event]:
    return [item for item in items if isinstance(item, Event)]


# Conditions, and deleting.


async def test_of_two_writers_who_know_the_same_event_one_wins_and_the_other_learns_of_it(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    async with client_to(server.url) as client:
        first = await client.publish(base, 1, if_none_match="*")
        second = await client.publish(base, 2, if_match=first)
        assert await client.publish(base, 3, if_match="*") != second
        newest = await client.publish(base, 4)
        for condition in ({"if_match": second}, {"if_none_match": "*"}):
            with pytest.raises(PreconditionFailed) as raised:
                await client.publish(base, 5, **condition)
            assert (raised.value.topic, raised.value.current, raised.value.place) == (base, newest, None)
        with pytest.raises(PreconditionFailed):
            await client.delete(base, if_match=first)


async def test_a_topic_is_deleted_once_and_what_was_never_there_cannot_be(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    async with client_to(server.url) as client:
        id = await client.publish(base, 1)
        tombstone = await client.delete(base, if_match=id)
        assert await client.delete(base) == tombstone
        assert (await client.page(base, last=1)).events[0].id == tombstone
        with pytest.raises(NoEvents) as raised:
            await client.delete(f"{base}/never")
        assert raised.value.topic == f"{base}/never"
        assert await client.publish(base, 2, if_none_match="*")


async def test_the_clients_raise_what_the_library_raises(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    batch = [draft(f"{base}/new", 1), on_terms(draft(base, 2), terms_of("e-1", None))]
    calls: list[Callable[[Any], Any]] = [
        lambda feed: feed.publish(base, 2, if_match="e-1"),
        lambda feed: feed.publish(base, 2, if_none_match="*"),
        lambda feed: feed.delete(f"{base}/never"),
        lambda feed: feed.publish_batch(batch),
        lambda feed: feed.publish_batch([batch[0], deletion(f"{base}/never")]),
        lambda feed: feed.publish(base, 2, if_match=""),
        lambda feed: feed.publish(base, 2, if_none_match="e-1"),
        lambda feed: feed.delete("a/*"),
        lambda feed: feed.latest("a/*"),
    ]
    async with Feed("memory:") as feed, client_to(server.url) as client:
        newest = {feed: await feed.publish(base, 1), client: await client.publish(base, 1)}
        for call in calls:
            told = []
            for each in (feed, client):
                with pytest.raises((PreconditionFailed, NoEvents, Invalid)) as raised:
                    await call(each)
                facts = vars(raised.value)
                assert facts.pop("current", newest[each]) == newest[each]
                told.append((type(raised.value), str(raised.value), facts))
            assert told[0] == told[1]


async def test_a_publish_whose_answer_was_lost_does_not_fail_by_its_own_condition(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    with proxy_to(server.port) as proxy:
        async with client_to(f"http://127.0.0.1:{proxy.port}") as client:
            first = await client.publish(base, 1)
            calls: list[Callable[[], Any]] = [
                lambda: client.publish(base, "second", if_match=first),
                lambda: client.delete(base, if_match="*"),
            ]
            for call in calls:
                await asyncio.to_thread(proxy.lose_answer_to, b'"if_match"')
                id = await call()
                assert (await client.page(base, last=1)).events[0].id == id


async def test_a_refusal_for_another_reason_is_refused(client_to: AnyClient) -> None:
    refused = problem("404 Not Found", "there is nothing at this path")
    async with playing(refused) as script, client_to(script.url) as client:
        with pytest.raises(Refused, match="refused with 404: there is nothing"):
            await client.delete("a")


# What is.


async def test_the_newest_event_of_a_topic_is_read_alone(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    async with client_to(server.url) as client:
        assert await client.latest(base) is None
        await client.publish(base, 1)
        id = await client.publish(base, {"n": 2}, type="named")
        await client.publish(f"{base}/below", 3)
        newest = await client.latest(base)
        assert (newest.id, newest.topic, newest.type, newest.data) == (id, base, "named", {"n": 2})
        await client.delete(base)
        assert await client.latest(base) is None


async def test_topics_are_iterated_over_by_name_over_pages(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    names = [f"{base}/{name}" for name in ("a", "b", "c", "d", "é")]
    async with client_to(server.url) as client:
        ids = {name: await client.publish(name, 1) for name in reversed(names)}
        ids[names[1]] = await client.delete(names[1])
        for limit in (2, 5, 1_000):
            found = [topic async for topic in client.topics(f"{base}/*", limit=limit)]
            assert [topic.name for topic in found] == names
            assert {topic.name: topic.last_id for topic in found} == ids
        newest = await client.latest(names[0])
        assert found[0] == TopicInfo(names[0], ids[names[0]], newest.time_ms, "message")
        assert found[1].type == DELETED
        assert [topic.name async for topic in client.topics([f"{base}/*"], after=names[2])] == names[3:]
        assert [topic async for topic in client.topics(f"{base}/none")] == []


async def test_pages_of_state_have_of_each_topic_the_newest_event_and_then_what_has_changed(
    client_to: AnyClient, server: RunningServer, base: str
) -> None:
    pattern = f"{base}/*"
    async with client_to(server.url) as client:
        for number in range(5):
            await client.publish(f"{base}/{number}", "old")
        ids = [await client.publish(f"{base}/{number}", number) for number in range(5)]
        pages = [page async for page in client.history(pattern, latest=True, limit=2)]
        assert [[event.id for event in page.events] for page in pages] == [ids[:2], ids[2:4], ids[4:]]
        assert [page.live for page in pages] == [False, False, True]
        assert all(SNAPSHOT_ID.fullmatch(page.next) for page in pages[:2])
        first = await client.page(pattern, latest=True)
        assert ([event.id for event in first.events], first.live, first.gap) == (ids, True, None)
        for number, resume in enumerate(first.resumes[:4]):
            page = await client.page(pattern, latest=True, after=resume)
            assert [event.id for event in page.events] == ids[number + 1 :]
        deleted = await client.delete(f"{base}/0")
        page = await client.page(pattern, latest=True, after=first.next)
        assert [(event.id, event.type, event.data) for event in page.events] == [(deleted, DELETED, {})]
        page = await client.page(pattern, latest=True, after="no-1-2")
        assert (page.gap.reason, [event.id for event in page.events]) == ("unknown", ids[1:])


async def test_a_subscription_to_state_begins_with_it_and_goes_on_with_what_changes(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    async with client_to(server.url) as client:
        for topic in ("a", "b", "gone", "a"):
            last = await client.publish(f"{base}/{topic}", topic)
        await client.delete(f"{base}/gone")
        async with client.subscribe(f"{base}/*", latest=True, transport=transport) as items:
            found = await upto(items, is_live)
            assert [(event.topic, event.data) for event in events_of(found)] == [
                (f"{base}/b", "b"), (f"{base}/a", "a")
            ]  # fmt: skip
            assert events_of(found)[-1].id == last
            changed = await client.publish(f"{base}/b", "new", if_match=events_of(found)[0].id)
            deleted = await client.delete(f"{base}/a")
            end = await client.publish(f"{base}/end", "end")
            found = await upto(items, lambda item: end in [event.id for event in events_of([item])])
            assert [(event.id, event.type) for event in events_of(found)] == [
                (changed, "message"), (deleted, DELETED), (end, "message")
            ]  # fmt: skip
            assert events_of(found)[1].topic == f"{base}/a"
            assert items.position == end


async def test_a_deleted_topic_is_an_event_for_readers_of_all_events_too(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    async with client_to(server.url) as client:
        ids = [await client.publish(base, 1), await client.delete(base), await client.publish(base, 2)]
        async with client.subscribe(base, after="earliest", transport=transport) as items:
            found = events_of(await upto(items, is_live))
    assert [(event.id, event.type, event.data) for event in found] == [
        (ids[0], "message", 1), (ids[1], DELETED, {}), (ids[2], "message", 2)
    ]  # fmt: skip


async def test_who_leaves_in_the_middle_of_a_snapshot_goes_on_there(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    async with client_to(server.url) as client:
        ids = [await client.publish(f"{base}/{number}", number) for number in range(4)]
        found, position = [], None
        for id in ids:
            wanted = {"latest": True, "after": position, "transport": transport}
            async with client.subscribe(f"{base}/*", **wanted) as items:
                [event] = events_of(await upto(items, lambda item: isinstance(item, Event)))
                found.append(event.id)
                position = items.position
            assert id == ids[3] or SNAPSHOT_ID.fullmatch(position)
    assert found == ids


async def test_an_id_of_another_log_is_a_gap_and_then_the_whole_state(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    async with client_to(server.url) as client:
        await client.publish(base, 1)
        async with client.subscribe(base, latest=True, after="no-1-2", transport=transport) as items:
            found = await upto(items, is_live)
    assert [type(item) for item in found if isinstance(item, Event | Gap)] == [Gap, Event]


# A line that breaks in the middle.


class BreakingLine:
    """A line to a server, each connection of which breaks after so many bytes of its answer. `resumed` are the ids with
    which the connections began."""

    def __init__(self, port: int, most: int) -> None:
        self._port = port
        self._most = most
        self.resumed: list[str] = []

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        head = await reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"\r\nlast-event-id: *(\S+)", head, re.IGNORECASE)
        self.resumed.append(found[1].decode() if found else "")
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        requests.write(head)
        passing = asyncio.create_task(copy(reader, requests))
        try:
            left = self._most
            while left and (chunk := await answers.read(left)):
                writer.write(chunk)
                await writer.drain()
                left -= len(chunk)
        finally:
            passing.cancel()
            requests.close()
            with suppress(ConnectionError):
                await requests.wait_closed()


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was cut off comes back at once."""
    monkeypatch.setattr("feed.client.waits.Waits.next", lambda _: 0.01)


@pytest.mark.usefixtures("_at_once")
async def test_a_snapshot_over_a_line_that_breaks_comes_once_and_is_never_begun_anew(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    ids = [
        await asyncio.to_thread(server.publish, f"{base}/{number}", f"{number} {'x' * 1000}") for number in range(100)
    ]
    line = BreakingLine(server.port, 20_000)
    async with (
        accepting(line.converse) as url,
        client_to(url) as client,
        client.subscribe(f"{base}/*", latest=True, transport=transport) as items,
    ):
        found = await upto(items, is_live)
    assert [event.id for event in events_of(found)] == ids
    assert sum(isinstance(item, Reconnecting) for item in found) >= 5
    first, *others = line.resumed
    assert first == ""
    places = [tuple(map(int, match.groups())) for id in others if (match := SNAPSHOT_ID.fullmatch(id))]
    assert len(places) == len(others), "each goes on in the middle"
    assert places == sorted(set(places)), "each is further than the one before"
    assert len({as_of for _, as_of in places}) == 1
    assert not any(isinstance(item, Gap) for item in found)


@pytest.mark.usefixtures("_at_once")
async def test_what_changes_while_the_line_breaks_is_neither_missed_nor_comes_back_to_life(
    client_to: AnyClient, server: RunningServer, base: str, transport: str
) -> None:
    topics = [f"{base}/{number}" for number in range(60)]
    for topic in topics:
        await asyncio.to_thread(server.publish, topic, "x" * 1000)
    line = BreakingLine(server.port, 16_000)
    held: dict[str, str] = {}
    rest = iter(range(0, 60, 7))
    async with accepting(line.converse) as url, client_to(url) as client, AsyncClient(server.url) as writer:
        async with client.subscribe(f"{base}/*", latest=True, transport=transport) as items:
            async with asyncio.timeout(SECONDS):
                async for item in items:
                    if isinstance(item, Event) and item.type == DELETED:
                        held.pop(item.topic, None)
                    elif isinstance(item, Event):
                        held[item.topic] = item.id
                    elif isinstance(item, Reconnecting) and (number := next(rest, None)) is not None:
                        await writer.delete(topics[number])
                        await writer.publish(topics[number - 1], "y" * 1000)
                    elif is_live(item):
                        break
        state = {
            event.topic: event.id async for page in writer.history(f"{base}/*", latest=True) for event in page.events
        }
    assert held == state
    assert 50 < len(state) < 60


# What is sent. The server of this test's side answers what it was told to.


async def test_a_lease_goes_with_the_event_as_a_time(client_to: AnyClient) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        await client.publish("a", 1, ttl=30)
        await client.publish("a", "x", type="t", ttl=1.5, if_none_match="*")
        await client.publish("a", 1, if_match='"e-1"')
        await client.delete("a", if_match="e-1")
        await client.publish_batch([on_terms(draft("a", 1), terms_of(None, None, 60)), deletion("b"), draft("c", 2)])
        await client.publish("a", 1)
    [*single, batch, plain] = [body.decode() for body in script.bodies]
    assert [json.loads(body) for body in single] == [
        {"topic": "a", "type": "message", "data": 1, "ttl": "30s"},
        {"topic": "a", "type": "t", "data": "x", "ttl": "1.5s", "if_none_match": "*"},
        {"topic": "a", "type": "message", "data": 1, "if_match": "e-1"},
        {"topic": "a", "delete": True, "if_match": "e-1"},
    ]
    assert [json.loads(line) for line in batch.splitlines()] == [
        {"topic": "a", "type": "message", "data": 1, "ttl": "1m"},
        {"topic": "b", "delete": True},
        {"topic": "c", "type": "message", "data": 2},
    ]
    assert plain == '{"topic":"a","type":"message","data":1}'


@pytest.mark.parametrize("topic", ["presence/alice", "a/é", "a/100%", "a/b?c#d", "a/%2F/+&="])
async def test_a_renewal_is_a_post_of_nothing_to_the_topic(client_to: AnyClient, topic: str) -> None:
    async with playing(answer("200 OK", json.dumps({"topic": topic}))) as script, client_to(script.url) as client:
        assert await client.renew(topic, ttl=90) is None
    method, target, _ = script.heads[0].splitlines()[0].split(" ")
    path, _, query = target.partition("?")
    assert (method, unquote(path), query) == ("POST", f"/events/{topic}", "ttl=90s")
    assert script.bodies == [b""]
    assert script.header("content-length") == ["0"]
    assert script.header("content-type") == [""]


async def test_a_lease_on_nothing_cannot_be_renewed(client_to: AnyClient) -> None:
    document = json.dumps({"status": 404, "detail": "'a' has no event", "topic": "a"})
    refused = answer("404 Not Found", document, "Content-Type: application/problem+json")
    async with playing(refused) as script, client_to(script.url) as client:
        with pytest.raises(NoEvents, match=r"^'a' has no event$") as raised:
            await client.renew("a", ttl=30)
    assert (raised.value.topic, len(script.heads)) == ("a", 1)


@pytest.mark.parametrize(
    ("ttl", "error", "words"),
    [
        (0.5, Invalid, "ttl: has to be from 1 second to 7 days"),
        (604_801, Invalid, "ttl: has to be from 1 second to 7 days"),
        (float("nan"), Invalid, "ttl: has to be from 1 second to 7 days"),
        (True, TypeError, "ttl has to be a number of seconds"),
    ],
)
async def test_a_lease_that_cannot_be_is_refused_before_it_is_sent(
    client_to: AnyClient, ttl: Any, error: type[Exception], words: str
) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        calls: list[Callable[[], Any]] = [
            lambda: client.publish("a", 1, ttl=ttl),
            lambda: client.renew("a", ttl=ttl),
        ]
        for call in calls:
            with pytest.raises(error, match=words):
                await call()
    assert script.heads == []


@pytest.mark.parametrize("client", [AsyncClient("http://feed.example"), Client("http://feed.example")])
@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"latest": True, "types": ["t"]}, "types: cannot be combined with latest"),
        ({"latest": True, "last": 3}, "last: cannot be combined with latest"),
    ],
)
def test_what_does_not_go_with_the_state_raises_at_the_call(client: Any, asked: dict[str, Any], words: str) -> None:
    for call in (client.subscribe, client.history):
        with pytest.raises(Invalid, match=words):
            call("a", **asked)


@pytest.mark.parametrize("client", [AsyncClient("http://feed.example"), Client("http://feed.example")])
@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ((), {}, "pattern: is missing"),
        (("a/**/b",), {}, "only the last one"),
        (("a",), {"limit": 0}, "limit: has to be a whole number from 1 to 1,000"),
    ],
)
def test_a_list_of_topics_that_cannot_be_raises_at_the_call(
    client: Any, patterns: Any, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        client.topics(*patterns, **asked)
    with pytest.raises(TypeError, match="after has to be a str, not NoneType"):
        client.topics("a", after=None)


async def test_a_page_says_whether_older_events_are_gone(client_to: AnyClient, serve: Serve) -> None:
    server = serve("--log", "memory:", "--retain", "noise=2")
    async with client_to(server.url) as client:
        for _ in range(3):
            await client.publish("noise", 1)
        await client.publish("quiet", 1)
        assert [(await client.page(topic)).complete for topic in ("noise", "quiet", "**")] == [False, True, False]
        pages = [page async for page in client.history("**", limit=1)]
        assert [page.gap for page in pages] == [None] * 3
