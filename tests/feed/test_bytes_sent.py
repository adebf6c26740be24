"""How many bytes a stream was sent: what the feed counts is what its reader counts, to the byte, on every road."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from feed import Feed
from feed_server.app import create_app
from feed_server.settings import Settings
from tests.support.crowd import until
from tests.support.inside import Inside, served_by_uvicorn, serving

pytestmark = pytest.mark.anyio


def wrapped(app: ASGIApp) -> ASGIApp:
    """The application behind a middleware, which hides the server's own `send`."""

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        async def passed_on(message: Message) -> None:
            await send(message)

        await app(scope, receive, passed_on)

    return around


@pytest.fixture(params=["framed", "stepped", "awaited"])
async def inside(request: pytest.FixtureRequest) -> AsyncIterator[Inside]:
    """The three ways to a socket (see `feed.fastapi.outlet`)."""
    settings = {"queue_events": 20, "heartbeat": 0.3}
    if request.param == "framed":
        async with serving(**settings) as inside:
            yield inside
    else:
        made = Settings.model_validate({"log": "memory:", **settings})
        feed = Feed(made.log, made.options)
        app: ASGIApp = create_app(made, feed)
        async with served_by_uvicorn(wrapped(app) if request.param == "awaited" else app, feed) as inside:
            yield inside


async def publish(feed: Feed) -> None:
    """Single events, bursts that overflow a queue and are read from the log, and one larger than a socket's buffer."""
    for number in range(10):
        await feed.publish("a", f"{number} ä")
        await asyncio.sleep(0)
    await asyncio.gather(*(feed.publish("a", "x" * number) for number in range(100)))
    await feed.publish("a", "x" * 200_000)
    await feed.publish("a", {"n": 1})


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("envelope", ["", "?envelope=1"])
async def test_of_an_http_stream_the_body_is_counted(inside: Inside, accept: str, envelope: str) -> None:
    received = 0
    async with httpx.AsyncClient(verify=False) as http:
        async with http.stream("GET", f"{inside.url}/events/a{envelope}", headers={"Accept": accept}) as response:

            async def receive() -> None:
                nonlocal received
                async for chunk in response.aiter_raw():
                    received += len(chunk)

            receiving = asyncio.create_task(receive())
            subscription = await inside.only()
            await publish(inside.feed)
            await until(lambda: received > 200_000 and not subscription.behind)
            before = received
            await until(lambda: received > before)  # a heartbeat is counted too
            await until(lambda: received == subscription.sent)
            subscription.end("kicked")
            await receiving
            assert received == subscription.sent
        page = (await http.get(f"{inside.url}/subscriptions")).json()
    assert page["subscriptions"] == []


@pytest.mark.parametrize("protocol", [None, "feed.batch"])
async def test_of_a_websocket_the_messages_are_counted_answers_too(inside: Inside, protocol: str | None) -> None:
    received = 0
    wanted = None if protocol is None else [Subprotocol(protocol)]
    async with connect(f"ws://127.0.0.1:{inside.port}/ws/a", subprotocols=wanted) as websocket:

        async def receive() -> None:
            nonlocal received
            with contextlib.suppress(ConnectionClosed):
                async for message in websocket:
                    received += len(message.encode() if isinstance(message, str) else message)

        receiving = asyncio.create_task(receive())
        subscription = await inside.only()
        await websocket.send('{"data": "mine", "ref": "é"}')
        await publish(inside.feed)
        await until(lambda: received > 200_000 and not subscription.behind)
        await until(lambda: received == subscription.sent)
        async with httpx.AsyncClient(verify=False) as http:
            (told,) = (await http.get(f"{inside.url}/subscriptions")).json()["subscriptions"]
        assert (told["bytes_sent"], told["transport"], told["address"]) == (received, "websocket", "127.0.0.1")
        subscription.end("kicked")
        await receiving
        assert received == subscription.sent


async def test_a_reader_in_this_process_is_sent_nothing() -> None:
    async with Feed("memory:") as feed, feed.subscribe("a") as events:
        await feed.publish("a", "x")
        await anext(events)
        (told,) = (await feed.subscribers_everywhere()).subscribers
        assert (told.transport, told.address, told.bytes_sent) == ("library", "", 0)
