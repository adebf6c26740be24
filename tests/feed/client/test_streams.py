"""Both clients over both transports: what they get, when they come back, what they give up on, and what they leave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import json
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from feed import Invalid, TooLarge
from feed.client import (
    AsyncClient,
    Client,
    Event,
    Gap,
    GaveUp,
    Item,
    Notice,
    Reconnecting,
    Refused,
    Subscription,
    Transport,
)
from feed.wire import message
from tests.conftest import Serve
from tests.support.certificate import certified
from tests.support.clients import BOTH, AnyClient
from tests.support.proxy import proxy_to
from tests.support.running import RunningServer, running
from tests.support.scripted import OPEN, accepting, answer, event, playing, problem, silence, stream
from tests.support.streams import eventually
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.anyio

TRANSPORTS: list[Transport] = ["sse", "websocket"]
SECONDS = 20.0
CREATED = answer("201 Created", '{"id":"e-1"}')


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """A test that takes it holds for both."""
    return str(request.param)


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of the test's own on the server that the module shares."""
    return f"streams/{abs(hash(request.node.name))}"


async def upto(items: AsyncIterator[Item], wanted: Callable[[Item], bool]) -> list[Item]:
    """All up to and with the first item that is wanted."""
    found = []
    async with asyncio.timeout(SECONDS):
        async for item in items:
            found.append(item)
            if wanted(item):
                break
    return found


def is_message(item: Item) -> bool:
    return isinstance(item, Event)


async def first_message(items: AsyncIterator[Item]) -> Event:
    """What comes before it is passed over."""
    message = (await upto(items, is_message))[-1]
    assert isinstance(message, Event)
    return message


def is_reconnecting(item: Item) -> bool:
    return isinstance(item, Reconnecting)


# What comes.


class FourReaders:
    """Both clients over both transports, each read by a task: the ids that each got."""

    def __init__(self) -> None:
        self.got: dict[str, list[str]] = {}
        self.reconnected: dict[str, int] = {}

    async def start(self, stack: contextlib.AsyncExitStack, url: str, pattern: str, server: RunningServer) -> None:
        """Have all of them listen, until the stack is left."""
        for kind, client_to in BOTH.items():
            client = await stack.enter_async_context(client_to(url))
            for transport in TRANSPORTS:
                items = await stack.enter_async_context(client.subscribe(pattern, transport=transport))
                reader = asyncio.create_task(self._read(f"{kind} {transport}", items))
                stack.callback(reader.cancel)
        await asyncio.to_thread(eventually, lambda: self._listening(server, pattern))

    async def _read(self, name: str, items: AsyncIterator[Item]) -> None:
        self.got[name], self.reconnected[name] = [], 0
        async for item in items:
            if isinstance(item, Event):
                self.got[name].append(item.id)
            self.reconnected[name] += isinstance(item, Reconnecting)

    def _listening(self, server: RunningServer, pattern: str) -> bool:
        subscriptions = server.http.get(f"{server.url}/subscriptions").json()["subscriptions"]
        return [each["patterns"] for each in subscriptions].count([pattern]) == 4

    async def have(self, published: list[str]) -> None:
        """All of them have these, or more."""
        enough = len(published)
        await asyncio.to_thread(eventually, lambda: all(len(ids) >= enough for ids in self.got.values()), SECONDS)


async def test_over_a_restart_and_a_crash_each_event_comes_once(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.client.reading.COME_BACK", 0.2)
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2, drain=0.5)
    readers = FourReaders()
    async with contextlib.AsyncExitStack() as stack:
        await readers.start(stack, server.url, "a/*", server)
        published: list[str] = []
        for end in (server.stop, server.kill, None):
            published += [await asyncio.to_thread(server.publish, "a/b", f"{number}\n") for number in range(20)]
            if end is not None:
                await asyncio.to_thread(end)
                await asyncio.to_thread(server.start)
        await readers.have(published)
    assert readers.got == dict.fromkeys(readers.got, published)


async def test_over_connections_that_break_in_the_middle_of_events_each_comes_once(
    server: RunningServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.client.reading.COME_BACK", 0.05)
    monkeypatch.setattr("feed.client.waits.Waits.next", lambda _: 0.05)
    readers, published = FourReaders(), list[str]()
    async with contextlib.AsyncExitStack() as stack:
        proxy = stack.enter_context(proxy_to(server.port))
        await readers.start(stack, f"http://127.0.0.1:{proxy.port}", topic, server)
        for _ in range(8):
            before = list(published)
            published += [await asyncio.to_thread(server.publish, topic, "x" * 200_000) for _ in range(4)]
            await readers.have([*before, "one more"])  # the others are on their way
            await asyncio.to_thread(proxy.reset)
        await readers.have(published)
    assert readers.got == dict.fromkeys(readers.got, published)
    assert min(readers.reconnected.values()) >= 5


async def test_a_gap_is_told_as_one(client_to: AnyClient, server: RunningServer, topic: str, transport: str) -> None:
    id = await asyncio.to_thread(server.publish, topic)
    async with client_to(server.url) as client, client.subscribe(topic, after="no-1", transport=transport) as items:
        found = await upto(items, is_message)
    [gap] = [item for item in found if isinstance(item, Gap)]
    assert (gap.requested, gap.reason) == ("no-1", "unknown")
    [message] = [item for item in found if isinstance(item, Event)]
    assert message.id == id


async def test_a_position_is_where_another_subscription_goes_on(
    client_to: AnyClient, server: RunningServer, topic: str, transport: str
) -> None:
    async with client_to(server.url) as client:
        async with client.subscribe(topic, transport=transport) as items:
            assert items.position == ""
            await upto(items, lambda item: isinstance(item, Notice))
            before_any = items.position
        ids = [await asyncio.to_thread(server.publish, topic) for _ in range(2)]
        async with client.subscribe(topic, after=before_any, transport=transport) as items:
            assert (await first_message(items)).id == ids[0]
            assert items.position == ids[0]
        async with client.subscribe(topic, after=ids[0], transport=transport) as items:
            assert (await first_message(items)).id == ids[1]


async def test_what_was_read_ahead_and_not_handed_out_comes_again(
    client_to: AnyClient, server: RunningServer, topic: str
) -> None:
    """Several frames come in one piece; who leaves in the middle is not past the rest."""
    ids = [await asyncio.to_thread(server.publish, topic) for _ in range(5)]
    position, found = "earliest", []
    async with client_to(server.url) as client:
        for _ in ids:
            async with client.subscribe(topic, after=position) as items:
                found.append((await first_message(items)).id)
                position = items.position
    assert found == ids


# A WebSocket that plays a script.


@contextlib.asynccontextmanager
async def socket_server(
    converse: Callable[[ServerConnection], Awaitable[object]],
    refuse: Callable[[ServerConnection, Request], Response | None] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """A WebSocket server for as long as the block lasts; its URL, as one of HTTP."""

    async def handle(connection: ServerConnection) -> None:
        await converse(connection)

    async with serve(handle, "127.0.0.1", 0, process_request=refuse, close_timeout=0.2, ssl=tls) as server:
        [listening] = server.sockets
        yield f"http{'s' if tls else ''}://127.0.0.1:{listening.getsockname()[1]}"


async def open_and_wait(connection: ServerConnection) -> None:
    await connection.send(said("feed.open", "e-1"))
    await connection.wait_closed()


def said(type: str, id: str | None = None, **data: Any) -> str:
    return json.dumps({"type": type, "data": data} | ({"id": id} if id else {}))


async def test_a_websocket_is_left_and_opened_when_the_server_says_so(client_to: AnyClient) -> None:
    asked = []

    async def converse(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append(connection.request.headers.get("Last-Event-ID"))
        await connection.send(said("feed.open", f"e-{len(asked)}"))
        if len(asked) == 1:
            await connection.send(said("feed.closing", reason="shutdown", retry=123))
            await connection.close(1001)
        await connection.wait_closed()

    async with (
        socket_server(converse) as url,
        client_to(url) as client,
        client.subscribe("a", transport="websocket") as items,
    ):
        found = await upto(items, lambda item: len(asked) == 2 and isinstance(item, Notice))
    assert found[2] == Reconnecting(0.123, "the stream ended")
    assert asked == [None, "e-1"]


def refusing(
    status: int, reason: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> Callable[..., Response]:
    return lambda connection, request: Response(
        status, reason, Headers({"Content-Length": str(len(body)), **(headers or {})}), body
    )


def of_the_feed(status: int, detail: str) -> tuple[bytes, dict[str, str]]:
    """The body and headers of a problem document."""
    return json.dumps({"status": status, "detail": detail}).encode(), {"Content-Type": "application/problem+json"}


async def nobody(connection: ServerConnection) -> None:
    raise AssertionError


@pytest.mark.parametrize("status", [401, 403, 404, 422])
async def test_a_websocket_that_will_never_open_is_an_error_in_the_servers_words(
    client_to: AnyClient, status: int
) -> None:
    asked = []

    def refuse(connection: ServerConnection, request: Request) -> Response:
        asked.append(request)
        return refusing(status, "No", *of_the_feed(status, "not you"))(connection, request)

    async with socket_server(nobody, refuse) as url, client_to(url, "token") as client:
        with pytest.raises(Refused, match=f"refused with {status}: not you"):
            await anext(client.subscribe("a", transport="websocket"))
    assert len(asked) == 1


async def test_a_websocket_that_may_open_later_is_tried_again(client_to: AnyClient) -> None:
    refuse = refusing(503, "Busy", b'{"detail":"full"}', {"Retry-After": "7"})
    async with (
        socket_server(nobody, refuse) as url,
        client_to(url) as client,
        client.subscribe("a", transport="websocket") as items,
    ):
        assert await anext(items) == Reconnecting(7, "503: full")


@pytest.mark.parametrize("message", ["{}", "x", b'{"type":"feed.open","data":{}}'])
async def test_a_websocket_of_something_else_is_tried_again(client_to: AnyClient, message: str | bytes) -> None:
    async with (
        socket_server(lambda connection: connection.send(message)) as url,
        client_to(url) as client,
        client.subscribe("a", transport="websocket") as items,
    ):
        waiting = await anext(items)
    assert (type(waiting), waiting.reason) == (Reconnecting, "the answer is not from a feed")


async def test_a_websocket_is_not_given_up_for_what_somebody_in_front_of_the_feed_answers(
    client_to: AnyClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feed.client.waits.Waits.next", lambda _: 0.001)
    monkeypatch.setattr("feed.client.reading.obeyed", lambda _: 0.001)
    html = {"Content-Type": "text/html", "Location": "https://login.example/"}
    strangers = [refusing(status, "No", b"<html>", html) for status in (200, 204, 302, 307, 400, 401, 403, 404, 501)]

    def refuse(connection: ServerConnection, request: Request) -> Response | None:
        return strangers.pop()(connection, request) if strangers else None

    async with (
        socket_server(open_and_wait, refuse) as url,
        client_to(url) as client,
        client.subscribe("a", transport="websocket") as items,
    ):
        found = await upto(items, lambda item: isinstance(item, Notice))
    assert [type(item) for item in found] == [Reconnecting] * 9 + [Notice]


async def test_a_websocket_whose_other_end_is_dead_is_opened_anew(client_to: AnyClient) -> None:
    async def open_and_die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        key = next(line for line in head.split("\r\n") if line.lower().startswith("sec-websocket-key:"))
        proof = hashlib.sha1(f"{key.split()[1]}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(proof) + b"\r\n\r\n"
        )
        await asyncio.Event().wait()  # and no ping is answered

    async with (
        accepting(open_and_die) as url,
        client_to(url, silence=0.4) as client,
        client.subscribe("a", transport="websocket") as items,
    ):
        found = await anext(items)
    assert isinstance(found, Reconnecting)
    assert found.reason == "it fell silent"


# Bounds.


async def test_an_event_without_an_end_is_an_error_and_not_memory(client_to: AnyClient, transport: str) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        await stream(OPEN + event("e-1") + "data: ")(writer)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def large(connection: ServerConnection) -> None:
        await connection.send(said("feed.open", "e-1"))
        await connection.send(message("e-1", "a", "t", "x", is_json=False, time_ms=0).decode())
        await connection.send("x" * 1_000_001)

    async with contextlib.AsyncExitStack() as stack:
        if transport == "sse":
            url = (await stack.enter_async_context(playing(endless))).url
        else:
            url = await stack.enter_async_context(socket_server(large))
        client = await stack.enter_async_context(client_to(url, max_event=1_000_000))
        items = await stack.enter_async_context(client.subscribe("a", transport=transport))
        await upto(items, is_message)
        with pytest.raises(TooLarge, match="an event is larger than 1,000,000 bytes"):
            await upto(items, lambda _: False)


async def test_an_answer_without_an_end_is_an_error_and_not_memory(client_to: AnyClient) -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        await answer("422 No", '{"detail":"', "Content-Type: application/problem+json")(writer)
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async with playing(endless) as script, client_to(script.url, patience=0.5) as client:
        with pytest.raises(GaveUp, match="422: No"):
            await client.publish("a", "x")
        async with client.subscribe("a") as items:
            assert (await anext(items)).reason.startswith("422: No")


async def test_more_streams_than_a_pool_has_connections_leave_room_for_a_publish(server: RunningServer) -> None:
    async with AsyncClient(server.url, patience=5) as client, contextlib.AsyncExitStack() as stack:
        for _ in range(120):
            items = await stack.enter_async_context(client.subscribe("many"))
            await anext(items)
        await client.publish("many", "x")


# Tokens.


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    with running("--log", "memory:", jwt_secret=SECRET, retry=0.1) as shared:
        yield shared


async def test_a_reader_outlives_its_tokens(client_to: AnyClient, guarded: RunningServer, transport: str) -> None:
    given: list[str] = []

    def fresh() -> str:
        given.append(token([], ["a"], exp=time.time() + (1.2 if not given else 600)))
        return given[-1]

    async with client_to(guarded.url, fresh) as client, client.subscribe("a", transport=transport) as items:
        found = await upto(items, lambda item: len(given) == 2 and isinstance(item, Notice))
    assert [type(item) for item in found] == [Notice, Notice, Reconnecting, Notice]
    closing = found[1]
    assert isinstance(closing, Notice)
    assert closing.data["reason"] == "token-expired"


async def test_a_coroutine_function_may_give_the_token(guarded: RunningServer) -> None:
    async def fresh() -> str:
        await asyncio.sleep(0)
        return token(["a"], ["a"])

    async with AsyncClient(guarded.url, fresh) as client:
        id = await client.publish("a", "x")
        assert [message.id for message in (await client.page("a", last=1)).events] == [id]


async def test_a_token_that_was_stale_is_asked_anew_once(client_to: AnyClient) -> None:
    tokens = iter("abcdef")
    stale = problem("401 No", "expired")
    async with (
        playing(stale, CREATED, stale) as script,
        client_to(script.url, lambda: next(tokens)) as client,
    ):
        assert await client.publish("a", "x") == "e-1"
        with pytest.raises(Refused, match="401: expired"):
            await client.publish("a", "x")
    assert script.header("authorization") == ["Bearer a", "Bearer b", "Bearer c", "Bearer d"]


async def test_who_gives_the_token_may_be_away(client_to: AnyClient) -> None:
    failures: list[Exception] = [ConnectionRefusedError("refused"), httpx.ConnectError("no login service")]

    def give() -> str:
        if failures:
            raise failures.pop(0)
        return "a"

    async with playing(CREATED, silence) as script, client_to(script.url, give) as client:
        assert await client.publish("a", "x") == "e-1"
        failures.append(httpx.ConnectError("no login service"))
        async with client.subscribe("a") as items:
            assert (await anext(items)).reason == "no token: no login service"
            assert isinstance(await anext(items), Notice)


@pytest.mark.parametrize(("given", "raised"), [("a b", Invalid), (None, None), (KeyError("x"), KeyError)])
async def test_what_else_goes_wrong_with_a_token_is_raised(
    client_to: AnyClient, given: object, raised: type[Exception] | None
) -> None:
    def give() -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    async with playing(CREATED) as script, client_to(script.url, give) as client:
        with pytest.raises(raised) if raised else contextlib.nullcontext():
            await client.publish("a", "x")


# The way there.


async def test_certificates_of_ones_own_are_trusted_where_they_are_named(
    client_to: AnyClient, tmp_path: Path, transport: str
) -> None:
    for_server, for_client = certified(tmp_path)
    async with contextlib.AsyncExitStack() as stack:
        if transport == "sse":
            url = (await stack.enter_async_context(playing(silence, tls=for_server))).url
        else:
            url = await stack.enter_async_context(socket_server(open_and_wait, tls=for_server))
        client = await stack.enter_async_context(client_to(url, ssl=for_client))
        items = await stack.enter_async_context(client.subscribe("a", transport=transport))
        assert isinstance(await anext(items), Notice)
        wary = await stack.enter_async_context(client_to(url))
        items = await stack.enter_async_context(wary.subscribe("a", transport=transport))
        with_reason = "cannot connect: the server's certificate is not trusted: self-signed certificate"
        assert (await anext(items)).reason == with_reason


async def test_a_password_of_the_url_goes_with_the_request_and_not_into_words(client_to: AnyClient) -> None:
    asked = []

    def refuse(connection: ServerConnection, request: Request) -> Response:
        asked.append((request.headers["Authorization"], request.path))
        return refusing(401, "No", *of_the_feed(401, "not you"))(connection, request)

    async with socket_server(nobody, refuse) as url, client_to(url.replace("//", "//na%20me:se%3Acret@")) as client:
        for transport in TRANSPORTS:
            with pytest.raises(Refused) as raised:
                await anext(client.subscribe("a", transport=transport))
            assert "cret" not in str(raised.value) + client.url
    expected = "Basic " + base64.b64encode(b"na me:se:cret").decode()
    assert asked == [(expected, "/events?envelope=1&topic=a"), (expected, "/ws?topic=a")]


async def test_a_proxy_that_is_none_is_refused(
    client_to: AnyClient, server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ws_proxy", "nonsense://secret@127.0.0.1:1")
    async with client_to(server.url) as client:
        with pytest.raises(Invalid, match="proxy") as raised:
            await anext(client.subscribe("a", transport="websocket"))
    assert "secret" not in str(raised.value)


async def test_a_proxy_of_the_environment_is_taken_unless_that_is_not_trusted(
    client_to: AnyClient, server: RunningServer, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # where nobody is
    monkeypatch.setenv("no_proxy", "")
    async with client_to(server.url) as client, client.subscribe("a", transport=transport) as items:
        assert (await anext(items)).reason == "cannot connect"
    async with client_to(server.url, trust_env=False) as client, client.subscribe("a", transport=transport) as items:
        assert isinstance(await anext(items), Notice)


# The past.


async def test_a_history_is_page_after_page_in_either_direction(
    client_to: AnyClient, server: RunningServer, topic: str
) -> None:
    ids = [await asyncio.to_thread(server.publish, topic, str(number)) for number in range(5)]
    async with client_to(server.url) as client:

        async def pages(**options: Any) -> list[list[int]]:
            found = client.history(topic, **options)
            return [[ids.index(message.id) for message in page.events] async for page in found]

        assert await pages() == [[0, 1, 2, 3, 4]]
        assert await pages(limit=2) == [[0, 1], [2, 3], [4]]
        assert await pages(limit=2, after=ids[1]) == [[2, 3], [4]]
        assert await pages(limit=2, before=ids[4]) == [[2, 3], [0, 1]]
        assert await pages(last=3) == [[2, 3, 4]]
        assert await pages(since="2026-01-01T00:00:00Z", limit=4) == [[0, 1, 2, 3], [4]]
        assert await pages(since="2999-01-01T00:00:00+01:00") == []
        assert await pages(types=["other"]) == []


async def test_one_page_says_where_the_next_begins_and_what_is_gone(
    client_to: AnyClient, server: RunningServer, topic: str
) -> None:
    id = await asyncio.to_thread(server.publish, topic)
    async with client_to(server.url) as client:
        page = await client.page(topic, limit=1)
        assert ([message.id for message in page.events], page.gap) == ([id], None)
        assert (await client.page(topic, after=page.next)).events == []
        gone = await client.page(topic, after="no-1")
        assert gone.gap is not None
        assert (gone.gap.requested, gone.gap.reason) == ("no-1", "unknown")
        with pytest.raises(Invalid, match="since"):
            await client.page(topic, since="yesterday")


# How it ends.


def descriptors() -> set[str]:
    """The sockets that this process has open."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(each.readlink()))
    return {name for name in found if name.startswith("socket:")}


@pytest.mark.parametrize("ends", ["block", "break", "close", "exception"])
def test_a_subscription_that_ends_leaves_no_socket(server: RunningServer, transport: Transport, ends: str) -> None:
    with Client(server.url) as client:
        gc.collect()
        gc.disable()  # what would only be found by it is not released at once
        try:
            before = descriptors()
            if ends == "block":
                with client.subscribe("a", transport=transport) as items:
                    next(items)
            elif ends == "break":
                for _ in client.subscribe("a", transport=transport):
                    assert descriptors() > before
                    break
            elif ends == "close":
                items = client.subscribe("a", transport=transport)
                next(items)
                items.close()
                assert list(items) == []
            else:
                with pytest.raises(KeyError), client.subscribe("a", transport=transport) as items:
                    next(items)
                    raise KeyError
            assert descriptors() == before
        finally:
            gc.enable()


async def test_a_subscription_that_is_cancelled_leaves_no_socket(server: RunningServer, transport: Transport) -> None:
    before = descriptors()
    opened = asyncio.Event()

    async def read() -> None:
        async with AsyncClient(server.url) as client, client.subscribe("a", transport=transport) as items:
            async for _ in items:
                opened.set()

    for wait in (opened.wait(), asyncio.sleep(0), asyncio.sleep(0.002)):
        reader = asyncio.create_task(read())
        await wait
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
    await asyncio.sleep(0)
    assert descriptors() == before


async def test_a_wait_that_is_given_up_loses_nothing(server: RunningServer, transport: Transport, topic: str) -> None:
    async with AsyncClient(server.url) as client, client.subscribe(topic, transport=transport) as items:
        await anext(items)
        for number in range(2):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(upto(items, is_message), 0.05)
            id = await client.publish(topic, number)
            found = await upto(items, is_message)
            assert [item.id for item in found if isinstance(item, Event)] == [id]


async def test_a_wait_that_is_given_up_does_not_bring_it_back_earlier_than_the_server_wants() -> None:
    away = stream(OPEN + 'event: feed.closing\ndata: {"reason":"shutdown","retry":400}\n\n')
    async with playing(away, stream(OPEN + event("e-1"))) as script, AsyncClient(script.url) as client:
        items = client.subscribe("a")
        await upto(items, is_reconnecting)
        told = time.monotonic()
        while len(script.heads) == 1:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(anext(items), 0.05)
        assert time.monotonic() - told > 0.35
        await items.aclose()


class Reader:
    """A thread that reads a subscription until it ends."""

    def __init__(self, items: Subscription) -> None:
        self.found: list[Item] = []
        self._items = items
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for item in self._items:
            self.found.append(item)

    def closes_in(self) -> float:
        """End it from here: how long the thread takes to find out, in seconds."""
        start = time.monotonic()
        self._items.close()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return time.monotonic() - start


async def test_another_task_ends_a_subscription_and_not_the_task_that_reads_it(
    server: RunningServer, transport: Transport
) -> None:
    before, found = descriptors(), asyncio.Event()

    async def read() -> str:
        async for _ in items:
            found.set()
        await asyncio.sleep(0)
        return "its loop ended"

    async with AsyncClient(server.url) as client:
        items = client.subscribe("a", transport=transport)
        reader = asyncio.create_task(read())
        await found.wait()
        await items.aclose()
        assert descriptors() == before
        assert await reader == "its loop ended"
        assert [item async for item in items] == []


async def test_a_task_that_is_cancelled_while_another_ends_its_subscription_stays_cancelled(
    server: RunningServer,
) -> None:
    async with AsyncClient(server.url) as client:
        items = client.subscribe("a")
        await anext(items)
        reader = asyncio.create_task(upto(items, lambda _: False))
        await asyncio.sleep(0)
        reader.cancel()
        await items.aclose()
        with pytest.raises(asyncio.CancelledError):
            await reader


async def test_another_thread_ends_a_subscription_that_waits_for_events(
    server: RunningServer, transport: Transport
) -> None:
    with Client(server.url) as client:
        reader = Reader(client.subscribe("a", transport=transport))
        await asyncio.to_thread(eventually, lambda: reader.found)
        assert await asyncio.to_thread(reader.closes_in) < 1


async def test_another_thread_ends_a_subscription_that_waits_to_come_back(transport: Transport) -> None:
    with Client("http://127.0.0.1:1") as client:
        reader = Reader(client.subscribe("a", transport=transport))
        await asyncio.to_thread(eventually, lambda: reader.found)
        assert await asyncio.to_thread(reader.closes_in) < 0.5
        assert [type(item) for item in reader.found] == [Reconnecting]


async def test_another_thread_ends_a_subscription_that_waits_for_an_answer() -> None:
    asked = asyncio.Event()

    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await asyncio.Event().wait()

    async with accepting(nothing) as url:
        with Client(url) as client:
            reader = Reader(client.subscribe("a"))
            await asked.wait()
            assert await asyncio.to_thread(reader.closes_in) < 1
            assert reader.found == []
