"""The Python client: against a real server where one can be made to do it, else against one that plays a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import feed.client
from feed import Invalid, Malformed
from feed.client import AsyncClient, Client, Event, GaveUp, Item, Notice, Reconnecting, Refused, checked_url, draft
from feed.client.waits import Waits
from tests.conftest import Serve
from tests.support.clients import AnyClient
from tests.support.running import RunningServer
from tests.support.scripted import OPEN, accepting, answer, copy, event, hang_up, playing, problem, silence, stream

pytestmark = pytest.mark.anyio


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own on the server that the module shares."""
    return "client/" + re.sub(r"\W+", "-", request.node.name)


SECONDS = 20.0
CREATED = answer("201 Created", '{"id":"e-1","ids":["e-1"],"topic":"a"}')


# What can be sent.


async def test_text_is_published_as_text_and_any_other_value_as_json(
    client_to: AnyClient, topic: str, server: RunningServer
) -> None:
    async with client_to(server.url) as client:
        for data in ("plain", '{"not": "parsed"}', {"a": [1, None]}, 5, None):
            await client.publish(topic, data)
        for data in ("plain", '{"not": "parsed"}'):
            await client.publish(topic, data, type="named")
    published = events(server, topic)
    assert [event["data"] for event in published] == [
        "plain", '{"not": "parsed"}', {"a": [1, None]}, 5, None, "plain", '{"not": "parsed"}'
    ]  # fmt: skip
    assert [event["type"] for event in published] == ["message"] * 5 + ["named"] * 2


async def test_bytes_are_json_that_stays_as_it_is(client_to: AnyClient, topic: str, server: RunningServer) -> None:
    raw = b'{"n": 123456789012345678901234567890,\n "n": 1.10}'
    async with client_to(server.url) as client, contextlib.aclosing(client.subscribe(topic, last=1)) as items:
        await client.publish(topic, raw)
        message = await anext(item async for item in items if isinstance(item, Event))
    assert message.text == '{"n": 123456789012345678901234567890,  "n": 1.10}'
    assert message.data == {"n": 1.1}


async def test_a_batch_keeps_its_order_and_gives_an_id_for_each(
    client_to: AnyClient, topic: str, server: RunningServer
) -> None:
    async with client_to(server.url) as client:
        ids = await client.publish_batch([draft(topic, number) for number in range(1_000)])
    published = events(server, topic)
    assert [(event["id"], event["data"]) for event in published] == list(zip(ids, range(1_000), strict=True))


NO_FORM = "data: cannot be published as JSON"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "data: not JSON: it breaks off before its end"),
        (b"", "data: not JSON: it is empty"),
        (b'1,"topic":"other"', "data: not JSON: line 1, column 2: JSON does not allow what begins there"),
        (b'"a\nb"', "data: not JSON: line 1, column 3: JSON does not allow what begins there"),
        (b"\xff", "data: not JSON: not UTF-8: byte 0 is 0xff"),
        (
            float("nan"),
            f"{NO_FORM}: a number that is not finite, or a value that contains itself",
        ),
        ("\ud800", "data: cannot be encoded as UTF-8: a lone surrogate at character 0"),
        (["\ud800"], f"{NO_FORM}: a lone surrogate: half of a pair such as \\ud83d\\ude00"),
    ],
)
async def test_data_that_is_no_json_is_refused_before_it_is_sent_in_words_of_our_own(
    client_to: AnyClient, data: object, words: str
) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        with pytest.raises(Malformed) as raised:
            await client.publish("a", data)
    assert str(raised.value) == words
    assert script.heads == []


@pytest.mark.parametrize("key", ["", "a b", "é", "line\nbreak", "x" * 256])
async def test_a_key_that_is_none_is_refused_before_it_is_sent(client_to: AnyClient, key: str) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        with pytest.raises(Invalid, match=r"^key: must be 1 to 255 visible ASCII characters$"):
            await client.publish("a", "x", key=key)
        with pytest.raises(TypeError, match=r"^key has to be a str, not int: write str"):
            await client.publish_batch([draft("a", "x")], key=5)
    assert script.heads == []


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host", "http://", "http://a:port", "http://\x00"])
def test_a_url_that_leads_nowhere_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        checked_url(url)


def test_where_a_url_leads_is_said_without_its_password() -> None:
    assert checked_url("https://name:secret@host:9/prefix/") == "https://host:9/prefix"


async def test_a_feed_may_be_below_a_path(client_to: AnyClient) -> None:
    async with playing(CREATED) as script, client_to(script.url + "/live/") as client:
        await client.publish("a", "x")
    assert script.heads[0].startswith("POST /live/events HTTP/1.1")


# The same as in the library.


def test_both_ends_have_the_same_nouns() -> None:
    for name in ("Event", "Draft", "Gap", "Page", "TopicInfo", "EARLIEST", "draft"):
        assert getattr(feed.client, name) is getattr(feed, name)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"topic": "a/*"}, "topic: may not contain"),
        ({"type": "feed.open"}, "type: 'open', 'error' and names that begin with 'feed.' are reserved"),
    ],
)
async def test_a_bad_topic_or_type_is_refused_before_it_is_sent(
    client_to: AnyClient, asked: dict[str, str], words: str
) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        with pytest.raises(Invalid, match=words):
            await client.publish(**{"topic": "a", "data": "x"} | asked)
        with pytest.raises(TypeError, match="has to be a str, not int: write str"):
            await client.publish(**{"topic": "a", "data": "x"} | dict.fromkeys(asked, 5))
    assert script.heads == []


async def test_a_batch_of_what_is_no_draft_is_refused_before_it_is_sent(client_to: AnyClient) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        with pytest.raises(TypeError, match="a batch is made of drafts"):
            await client.publish_batch([{"topic": "a"}])
        with pytest.raises(TypeError, match="this is a single one"):
            await client.publish_batch(draft("a", "x"))
        with pytest.raises(Invalid, match="batch: has no event in it"):
            await client.publish_batch([])
    assert script.heads == []


@pytest.mark.parametrize("client", [AsyncClient("http://feed.example"), Client("http://feed.example")])
@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ((), {}, "pattern: is missing"),
        (("a/**/b",), {}, "only the last one"),
        (("a",), {"types": ["a/b"]}, "type: may not contain '/'"),
        (("a",), {"last": 0}, "last: has to be a whole number from 1 to 1,000"),
    ],
)
def test_a_mistake_raises_at_the_call(client: Any, patterns: Any, asked: dict[str, Any], words: str) -> None:
    for call in (client.subscribe, client.history):
        with pytest.raises(Invalid, match=words):
            call(*patterns, **asked)


@pytest.mark.parametrize("client", [AsyncClient("http://feed.example"), Client("http://feed.example")])
@pytest.mark.parametrize(
    ("patterns", "asked", "words"),
    [
        ((b"a",), {}, "pattern has to be a str, not bytes"),
        (("a",), {"types": 5}, "type has to be a str, not int"),
        (("a",), {"after": 5}, "after has to be an id, which is a str such as event.id, not int"),
        (("a",), {"last": True}, "last has to be a whole number"),
    ],
)
def test_a_value_of_the_wrong_type_raises_at_the_call(
    client: Any, patterns: Any, asked: dict[str, Any], words: str
) -> None:
    for call in (client.subscribe, client.history):
        with pytest.raises(TypeError, match=words):
            call(*patterns, **asked)


async def test_patterns_come_one_by_one_or_as_a_list(client_to: AnyClient, topic: str, server: RunningServer) -> None:
    async with client_to(server.url) as client:
        await client.publish(f"{topic}/a", "a")
        await client.publish(f"{topic}/b", "b")
        for patterns in ([f"{topic}/a", f"{topic}/b"], [[f"{topic}/a", f"{topic}/b"]]):
            assert [event.text for event in (await client.page(*patterns)).events] == ["a", "b"]
            async with contextlib.aclosing(client.subscribe(*patterns, last=2)) as items:
                assert [(await anext(_take(items, f"{topic}/{name}", 1))).text for name in "ab"] == ["a", "b"]


async def test_a_value_is_the_same_at_the_other_end(client_to: AnyClient, topic: str, server: RunningServer) -> None:
    async with client_to(server.url) as client:
        id = await client.publish(topic, {"at": date(2026, 11, 30), "price": Decimal("1.10")}, type="created")
        [event] = (await client.page(topic)).events
    assert (event.id, event.topic, event.type) == (id, topic, "created")
    assert event.data == {"at": "2026-11-30", "price": "1.10"}
    assert event.text == '{"at":"2026-11-30","price":"1.10"}'
    assert abs(datetime.now(UTC) - event.time) < timedelta(minutes=5)
    assert json.loads(event.message) == events(server, topic)[0]


async def test_a_page_begins_at_a_time(client_to: AnyClient, topic: str, server: RunningServer) -> None:
    async with client_to(server.url) as client:
        id = await client.publish(topic, "x")
        now = datetime.now(UTC)
        for since, ids in ((now - timedelta(hours=1), [id]), (now + timedelta(hours=1), [])):
            assert [event.id for event in (await client.page(topic, since=since)).events] == ids
            assert [event.id for event in (await client.page(topic, since=since.isoformat())).events] == ids


@pytest.mark.parametrize("patterns", [(), ("client/**",), (["client/**", "b"],)])
async def test_what_is_committed_after_now_comes_after_it(
    client_to: AnyClient, topic: str, server: RunningServer, patterns: Any
) -> None:
    async with client_to(server.url) as client:
        await client.publish(topic, "old")
        now = await client.now(*patterns)
        assert (await client.page(topic, after=now)).events == []
        id = await client.publish(topic, "new")
        assert [event.id for event in (await client.page(topic, after=now)).events] == [id]


# What is repeated.


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Oops", "504 Timeout"])
async def test_a_publish_is_repeated_as_it_was_with_the_same_key(client_to: AnyClient, status: str) -> None:
    async with playing(answer(status), hang_up, CREATED) as script, client_to(script.url) as client:
        assert await client.publish("a", "x") == "e-1"
    first, *others = script.header("idempotency-key")
    assert len(first) >= 16
    assert others == [first, first]
    assert script.bodies == [b'{"topic":"a","type":"message","data":"x"}'] * 3


async def test_two_publishes_have_different_keys(client_to: AnyClient) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        await client.publish("a", "x")
        await client.publish("a", "x")
    assert len(set(script.header("idempotency-key"))) == 2


async def test_retry_after_is_obeyed(client_to: AnyClient) -> None:
    busy = answer("503 Unavailable", "", "Retry-After: 1")
    loop = asyncio.get_running_loop()
    async with playing(busy, CREATED) as script, client_to(script.url) as client:
        start = loop.time()
        await client.publish("a", "x")
        assert loop.time() - start >= 1


async def test_a_publish_is_given_up_after_the_patience_with_the_last_reason(client_to: AnyClient) -> None:
    busy = answer("503 Unavailable", '{"detail":"the disk is full"}')
    async with playing(busy) as script, client_to(script.url, patience=0.5) as client:
        with pytest.raises(GaveUp, match=r"given up after 0\.\d s: http://.*: 503: the disk is full"):
            await client.publish("a", "x")
    assert len(script.heads) >= 2


async def test_a_server_that_never_answers_is_given_up(client_to: AnyClient) -> None:
    async def nothing(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with playing(nothing) as script, client_to(script.url, patience=0.2) as client:
        with pytest.raises(GaveUp, match="no answer"):
            await client.publish("a", "x")


async def test_a_refusal_is_final_and_says_why(client_to: AnyClient, server: RunningServer) -> None:
    async with client_to(server.url) as client:
        with pytest.raises(Refused, match="Idempotency-Key: was used for another request") as raised:
            await client.publish("a", "x", key="once")
            await client.publish("a", "y", key="once")
    assert raised.value.status == 422


# What somebody in front of the feed answers while it is away.

HTML = "Content-Type: text/html"
JSON = "Content-Type: application/json"
PROBLEM = "Content-Type: application/problem+json"

NOT_THE_FEEDS = {
    "a page": answer("200 OK", "<html>", HTML),
    "a page that says it is created": answer("201 Created", "<html>", HTML),
    "nothing": answer("204 No Content"),
    "a login": answer("302 Found", "", "Location: https://login.example/?secret"),
    "a way to nowhere": answer("308 Permanent Redirect", "", "Location: http://["),
    "a bad request": answer("400 Bad Request", "<html>", HTML),
    "nobody known": answer("401 Unauthorized", '{"detail":"Not authenticated"}', JSON),
    "a filter": answer("403 Forbidden", "<html>", HTML),
    "no such route": answer("404 Not Found", "default backend - 404", "Content-Type: text/plain"),
    "the application around it": answer("404 Not Found", '{"detail":"Not Found"}', JSON),
    "a problem of somebody else": answer("404 Not Found", '{"title":"no route"}', PROBLEM),
    "a problem with another status": answer("422 No", '{"status":404,"detail":"x"}', PROBLEM),
    "a problem with no number": answer("409 No", '{"status":true,"detail":"x"}', PROBLEM),
    "half a problem": answer("422 No", '{"status":422,"det', PROBLEM),
    "another protocol": answer("505 HTTP Version Not Supported", ""),
}


async def test_only_what_the_feed_itself_says_is_final(client_to: AnyClient, monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)
    strangers = list(NOT_THE_FEEDS.values())
    async with playing(*strangers, CREATED) as script, client_to(script.url) as client:
        assert await client.publish("a", "x") == "e-1"
    assert len(script.heads) == len(strangers) + 1
    page = answer("200 OK", '{"events":[],"next":"e-1"}', JSON)
    async with playing(*strangers, page) as script, client_to(script.url) as client:
        assert (await client.page("a")).next == "e-1"
    strangers.append(stream("data: <html>\n\n"))
    strangers.append(answer("200 OK", OPEN, "Content-Type: text/event-stream", "Content-Encoding: gzip"))
    async with playing(*strangers, stream(OPEN)) as script, client_to(script.url) as client:
        found = await collect(client, len(strangers) + 1)
    assert [type(item) for item in found] == [Reconnecting] * len(strangers) + [Notice]


async def test_what_is_waited_for_is_told_and_at_last_raised(client_to: AnyClient) -> None:
    told: list[str] = []
    no_route = NOT_THE_FEEDS["no such route"]
    words = "404: Not Found, which is not an answer of the feed: a proxy gave it, or the URL is wrong"
    async with playing(no_route) as script, client_to(script.url, patience=1, on_wait=told.append) as client:
        with pytest.raises(GaveUp) as raised:
            await client.publish("a", "x")
    assert told[0] == words
    # The patience may end while an answer is waited for.
    assert {raised.value.reason, *told} - {"no answer"} == {words}
    moved = answer("301 Moved", "", "Location: https://name:secret@other.example/events?token=secret")
    async with playing(moved) as script, client_to(script.url) as client:
        [waiting] = await collect(client, 1)
    assert isinstance(waiting, Reconnecting)
    assert waiting == Reconnecting(
        waiting.wait,
        "301: Moved, to https://other.example/events; redirects are not followed",
    )


async def test_waits_for_somebody_else_to_go_away_grow(client_to: AnyClient) -> None:
    async with playing(NOT_THE_FEEDS["a filter"]) as script, client_to(script.url, patience=1.2) as client:
        with pytest.raises(GaveUp):
            await client.publish("a", "x")
    assert 3 <= len(script.heads) <= 5  # after 0.2, 0.4 …, and just before the end


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are as short as can be."""
    monkeypatch.setattr("feed.client.waits.Waits.next", lambda _: 0.001)
    monkeypatch.setattr("feed.client.reading.obeyed", lambda _: 0.001)


async def test_a_batch_whose_answer_was_lost_with_the_server_is_published_once(
    client_to: AnyClient, serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}")
    lost = asyncio.Event()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass everything on, but for the first answer: at its first byte the server is killed and started again."""
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", server.port)
        onward = asyncio.create_task(copy(reader, server_writer))
        try:
            chunk = await server_reader.read(1 << 16)
            if not lost.is_set():
                assert chunk.startswith(b"HTTP/1.1 201")
                lost.set()
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                return
            writer.write(chunk)
            await copy(server_reader, writer)
        finally:
            onward.cancel()
            server_writer.close()
            with contextlib.suppress(ConnectionError):
                await server_writer.wait_closed()

    async with accepting(relay) as url, client_to(url) as client:
        ids = await client.publish_batch([draft("once", number) for number in range(100)])
    assert lost.is_set()
    published = events(server, "once")
    assert [(event["id"], event["data"]) for event in published] == list(zip(ids, range(100), strict=True))


# Tokens.


async def test_a_token_goes_with_every_request(client_to: AnyClient) -> None:
    async with playing(CREATED, CREATED, stream(OPEN)) as script, client_to(script.url, "a.b-c_d~e+/==") as client:
        await client.publish("a", "x")
        await client.publish_batch([draft("a", "x")])
        await collect(client, 1)
    assert script.header("authorization") == ["Bearer a.b-c_d~e+/=="] * 3


async def test_without_a_token_none_is_sent(client_to: AnyClient) -> None:
    async with playing(CREATED) as script, client_to(script.url) as client:
        await client.publish("a", "x")
    assert script.header("authorization") == [""]


@pytest.mark.parametrize("token", ["", " ", "a b", "secret\r\nX: y", "secret\0", "sécret", "=", "a=b"])
def test_what_no_header_can_carry_is_no_token_and_is_not_repeated(client_to: AnyClient, token: str) -> None:
    with pytest.raises(Invalid, match="token: is not a token: give it alone, without Bearer or line breaks") as raised:
        client_to("http://127.0.0.1:1", token)
    assert "cret" not in str(raised.value)


def test_a_password_and_a_token_cannot_both_be_sent(client_to: AnyClient) -> None:
    with pytest.raises(Invalid, match="only one of them") as raised:
        client_to("http://name:password@127.0.0.1:1", "token")
    assert "password@" not in str(raised.value)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
async def test_a_token_that_is_not_enough_is_final(client_to: AnyClient, status: str) -> None:
    refusal = problem(status, "a token is needed to publish")
    async with playing(refusal) as script, client_to(script.url, "token") as client:
        for attempt in (client.publish("a", "x"), anext(client.subscribe("a"))):
            with pytest.raises(Refused, match=f"refused with {status[:3]}: a token is needed to publish"):
                await attempt
    assert len(script.heads) == 2


async def test_a_token_does_not_follow_a_redirect(client_to: AnyClient) -> None:
    async with playing(CREATED) as other:
        moved = answer("307 Temporary Redirect", "", f"Location: {other.url}/events")
        async with playing(moved) as script, client_to(script.url, "token", patience=2) as client:
            with pytest.raises(GaveUp, match="307"):
                await client.publish("a", "x")
    assert other.heads == []


# Subscribing.


def events(server: RunningServer, pattern: str) -> Any:
    """What the server keeps, oldest first."""
    return server.history(pattern)["events"]


async def collect(client: Any, count: int, **parameters: str) -> list[Item]:
    """The first `count` items of a subscription."""
    found: list[Item] = []
    async with asyncio.timeout(SECONDS), contextlib.aclosing(client.subscribe("a", **parameters)) as items:
        async for item in items:
            found.append(item)
            if len(found) == count:
                break
    return found


async def test_a_subscription_opens_with_a_notice_and_gives_each_event_once(
    client_to: AnyClient, topic: str, server: RunningServer
) -> None:
    async with client_to(server.url) as client:
        ids = [await client.publish(topic, number) for number in range(3)]
        async with contextlib.aclosing(client.subscribe(topic, "other", after="earliest")) as items:
            opened = await anext(items)
            messages = [item async for item in _take(items, topic, 3)]
    assert isinstance(opened, Notice)
    assert (opened.type, list(opened.data)) == ("feed.open", ["subscription"])
    assert [(message.id, message.data) for message in messages] == list(zip(ids, range(3), strict=True))


async def _take(items: AsyncIterator[object], topic: str, count: int) -> AsyncIterator[Event]:
    async for item in items:
        if isinstance(item, Event) and item.topic == topic:
            yield item
            count -= 1
            if not count:
                return


async def test_text_that_looks_like_json_stays_text(client_to: AnyClient, topic: str, server: RunningServer) -> None:
    async with client_to(server.url) as client:
        await client.publish(topic, '"quoted"')
        async with contextlib.aclosing(client.subscribe(topic, last=1)) as items:
            message = await anext(_take(items, topic, 1))
    assert (message.data, message.text) == ('"quoted"', '"quoted"')


async def test_a_broken_stream_is_resumed_after_the_last_event(client_to: AnyClient) -> None:
    async with (
        playing(stream(OPEN + event("e-1") + event("e-2")), silence) as script,
        client_to(script.url) as client,
    ):
        items = await collect(client, 5)
    assert [type(item) for item in items] == [Notice, Event, Event, Reconnecting, Notice]
    assert script.header("last-event-id") == ["", "e-2"]


async def test_a_server_killed_before_the_first_event_loses_none(
    client_to: AnyClient, serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    server.publish("a", "before")
    async with client_to(server.url) as client, contextlib.aclosing(client.subscribe("a")) as items:
        assert isinstance(await anext(items), Notice)
        await asyncio.to_thread(server.kill)
        assert isinstance(await anext(items), Reconnecting)
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(server.publish, "a", "just after the start")
        async with asyncio.timeout(SECONDS):
            message = await anext(_take(items, "a", 1))
    assert message.data == "just after the start"


@pytest.mark.parametrize("frame", ["", "id: e-9\nevent: feed.position\ndata: {}\n\n"])
async def test_a_stream_that_breaks_before_its_first_event_is_resumed_where_it_stood(
    client_to: AnyClient, frame: str
) -> None:
    async with playing(stream(OPEN + frame), silence) as script, client_to(script.url) as client:
        await collect(client, 4 if frame else 3)
    assert script.header("last-event-id") == ["", "e-9" if frame else "e-0"]


async def test_the_id_to_begin_after_is_only_used_until_the_server_named_one(client_to: AnyClient) -> None:
    async with playing(hang_up, stream(OPEN), silence) as script, client_to(script.url) as client:
        await collect(client, 4, after="earliest")
    assert script.header("last-event-id") == ["", "", "e-0"]
    assert all("after=earliest" in head.partition("\r\n")[0] for head in script.heads)


async def test_half_an_event_is_no_event(client_to: AnyClient) -> None:
    half = event("e-2").removesuffix("\n\n")
    async with playing(stream(OPEN + event("e-1") + half), silence) as script, client_to(script.url) as client:
        items = await collect(client, 4)
    assert [item.id for item in items if isinstance(item, Event)] == ["e-1"]
    assert script.header("last-event-id") == ["", "e-1"]


async def test_comments_and_empty_frames_are_passed_over(client_to: AnyClient) -> None:
    body = OPEN + ":\n" + event("e-1") + ":\n\n\n" + "retry: 60\n\n" + event("e-2")
    async with playing(stream(body), silence) as script, client_to(script.url) as client:
        items = await collect(client, 3)
    assert [type(item) for item in items] == [Notice, Event, Event]


async def test_a_silent_stream_is_opened_anew(client_to: AnyClient) -> None:
    async with playing(silence) as script, client_to(script.url, silence=0.2) as client:
        items = await collect(client, 3)
    assert isinstance(items[1], Reconnecting)
    assert items[1].reason == "it fell silent"


async def test_waits_grow_while_nothing_gets_better_and_begin_anew_when_it_does(client_to: AnyClient) -> None:
    async with (
        playing(stream(OPEN), hang_up, hang_up, stream(OPEN), hang_up) as script,
        client_to(script.url) as client,
    ):
        items = await collect(client, 6)
    waits = [item.wait for item in items if isinstance(item, Reconnecting)]
    assert 0.03 < waits[0] < 0.07  # the 50 ms that the server asked for, spread
    assert 0.07 < waits[1] < 0.13
    assert 0.14 < waits[2] < 0.26
    assert 0.03 < waits[3] < 0.07


async def test_a_stream_that_is_refused_for_capacity_says_when_to_come_back(client_to: AnyClient) -> None:
    busy = 'retry: 1200\nevent: feed.closing\ndata: {"reason":"busy","retry":1200}\n\n'
    async with playing(stream(OPEN), stream(busy), silence) as script, client_to(script.url) as client:
        items = await collect(client, 4)
    assert isinstance(items[2], Notice)
    assert items[2].data["reason"] == "busy"
    assert isinstance(items[3], Reconnecting)
    assert items[3].wait >= 1.2


async def test_a_stream_that_may_open_later_is_tried_again(client_to: AnyClient) -> None:
    again = answer("503 Unavailable", "", "Retry-After: 1")
    async with playing(again, silence) as script, client_to(script.url) as client:
        waiting, opened = await collect(client, 2)
    assert isinstance(waiting, Reconnecting)
    assert waiting.wait >= 1
    assert isinstance(opened, Notice)


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "422 Invalid", "501 No"])
async def test_a_stream_that_will_never_open_is_an_error(client_to: AnyClient, status: str) -> None:
    async with playing(problem(status, "not you")) as script, client_to(script.url) as client:
        with pytest.raises(Refused, match=f"refused with {status[:3]}: not you"):
            await collect(client, 1)
    assert len(script.heads) == 1


@pytest.mark.parametrize("data", ["{}", "x", '{"id":1}', "[" * 100_000])
async def test_a_stream_of_something_else_is_not_read_on(client_to: AnyClient, data: str) -> None:
    async with playing(stream(f"data: {data}\n\n"), silence) as script, client_to(script.url) as client:
        waiting, opened = await collect(client, 2)
    assert isinstance(waiting, Reconnecting)
    assert waiting.reason == "the answer is not from a feed"
    assert isinstance(opened, Notice)


# Waiting.


def test_waits_double_up_to_their_bound_and_are_spread() -> None:
    waits = Waits(1.0, 30.0)
    found = [waits.next() for _ in range(2_000)]
    for number, expected in enumerate([1, 2, 4, 8, 16]):
        assert expected * 0.75 <= found[number] <= min(30, expected * 1.25)
    assert 22.5 <= min(found[5:]) < max(found[5:]) <= 30
    waits.begin(2.0)
    assert 1.5 <= waits.next() <= 2.5


def test_a_server_cannot_make_a_client_hurry_without_end() -> None:
    waits = Waits(1.0, 30.0)
    for retry in (0.0, -5.0):
        waits.begin(retry)
        assert waits.next() > 0.03


def test_a_server_that_wants_them_back_late_is_obeyed_within_reason() -> None:
    waits = Waits(1.0, 30.0)
    waits.begin(80.0)
    found = [waits.next() for _ in range(100)]
    assert 60 <= found[0] <= 100
    assert max(found) <= 100
    waits.begin(10**9)
    assert 225 <= waits.next() <= 300
