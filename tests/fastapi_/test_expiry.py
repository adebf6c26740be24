"""Grants that end while a stream is open: it is told so, its client comes back, and `authorize` is asked again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Cookie, FastAPI, Header, HTTPException, Request
from playwright.sync_api import Page
from starlette.responses import HTMLResponse
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from feed import Feed, FeedOptions, Limits
from feed.fastapi import Grants, admin_router, feed_router
from feed.testing import AppServer
from tests.support.clients import AnyClient
from tests.support.streams import eventually, subscribed

pytestmark = pytest.mark.anyio


class Shop:
    """An application with logins, each of which lasts for so long. `asked` counts those who want to read."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.asked = 0
        self.users = {"ann"}
        self.feed = Feed("memory:", FeedOptions(limits=Limits(retry=0.1)))
        self.app = FastAPI()
        self.app.include_router(feed_router(self.feed, authorize=self.authorize), prefix="/live")
        self.app.include_router(admin_router(self.feed, metrics=False), prefix="/admin")
        self.app.get("/page")(lambda: HTMLResponse("<!doctype html><title>Shop</title>"))

    def authorize(
        self, request: Request, user: Annotated[str, Cookie()] = "", authorization: Annotated[str, Header()] = ""
    ) -> Grants:
        self.asked += request.method == "GET"
        user = user or authorization.removeprefix("Bearer ")
        if user not in self.users:
            raise HTTPException(401, "log in first")
        expires = datetime.now(UTC) + timedelta(seconds=self.seconds)
        return Grants(publish=["**"], subscribe=["**"], subject=user, expires=expires)


@pytest.fixture
def shop() -> Shop:
    return Shop(1.0)


@pytest.fixture
def server(shop: Shop) -> Iterator[AppServer]:
    with AppServer(shop.app, shop.feed) as server:
        yield server


ANN = {"Cookie": "user=ann"}


def publish(server: AppServer) -> str:
    answer = httpx.post(f"{server.url}/live/events/a", content="x", headers=ANN)
    return str(answer.json()["id"])


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_stream_ends_when_its_grants_do(server: AppServer, accept: str) -> None:
    begun = time.time()
    with subscribed(f"{server.url}/live/events/a", ANN, Accept=accept) as stream:
        if accept == "text/event-stream":
            closing = stream.until("feed.closing")[-1].json
        else:
            while (line := stream.object())["type"] != "feed.closing":
                pass
            closing = line["data"]
        assert closing["reason"] == "token-expired"
        assert time.time() >= begun + 0.9
        with pytest.raises(EOFError):
            stream.line()


def test_a_websocket_ends_when_its_grants_do(server: AppServer) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/live/ws/a", additional_headers=ANN) as socket:
        said: list[str] = []
        with pytest.raises(ConnectionClosed):
            while True:
                said.append(str(socket.recv(timeout=10)))
    assert '"token-expired"' in said[-1]
    assert socket.close_code == 1008


def test_an_event_source_that_comes_back_misses_nothing_and_is_judged_anew(server: AppServer, shop: Shop) -> None:
    last: dict[str, str] = {}
    for _ in range(2):
        with subscribed(f"{server.url}/live/events/a", {**ANN, **last}) as stream:
            first = publish(server)
            frames = stream.rest()
        assert [frame.id for frame in frames if frame.event is None and frame.data == "x"] == [first]
        between = publish(server)
        last = {"Last-Event-ID": first}
        with subscribed(f"{server.url}/live/events/a", {**ANN, **last}) as stream:
            assert stream.frame().id == between
        last = {"Last-Event-ID": between}
    shop.users.clear()
    with subscribed(f"{server.url}/live/events/a", {**ANN, **last}, opened=False) as stream:
        assert stream.response.status_code == 401


async def test_the_client_comes_back_by_itself(server: AppServer, shop: Shop, client_to: AnyClient) -> None:
    ids: list[str] = []
    found: list[str] = []

    async def read() -> None:
        async with client_to(f"{server.url}/live", "ann") as client, client.subscribe("a") as events:
            async for item in events:
                found.extend([item.id] if hasattr(item, "id") else [])

    reading = asyncio.create_task(read())
    try:
        await wait_for(lambda: shop.asked)
        while shop.asked < 3:
            assert not reading.done(), reading.result()
            ids.append(await asyncio.to_thread(publish, server))
            await wait_for(lambda: not found or found[-1] == ids[-1])
        await wait_for(lambda: found and found[-1] == ids[-1])
        assert found == ids[ids.index(found[0]) :], "nothing was missed in between"
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def test_an_event_source_in_a_browser_comes_back_by_itself(server: AppServer, shop: Shop, page: Page) -> None:
    page.context.add_cookies([{"name": "user", "value": "ann", "url": server.url}])
    page.goto(f"{server.url}/page")
    page.evaluate(
        """() => {
            window.found = [];
            new EventSource("/live/events/a").onmessage = (event) => window.found.push(event.lastEventId);
        }"""
    )
    eventually(lambda: shop.asked)
    ids: list[str] = []
    while shop.asked < 3:
        ids.append(publish(server))
        page.wait_for_function("id => window.found.at(-1) === id", arg=ids[-1])
    assert page.evaluate("window.found") == ids, "nothing was missed in between"


async def wait_for(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_grants_that_have_ended_let_nobody_in(server: AppServer, shop: Shop) -> None:
    shop.seconds = -1
    post = httpx.post(f"{server.url}/live/events/a", content="x", headers=ANN)
    get = httpx.get(f"{server.url}/live/events/a", headers={**ANN, "Accept": "application/json"})
    for answer in (post, get):
        assert answer.status_code == 401
        assert answer.json()["detail"] == "your permission has expired: log in again"


def test_logging_out_ends_the_streams_of_one_user(server: AppServer, shop: Shop) -> None:
    shop.seconds = 600
    shop.users.add("bob")
    with (
        subscribed(f"{server.url}/live/events/a", ANN) as ended,
        subscribed(f"{server.url}/live/events/a", {"Cookie": "user=bob"}) as kept,
    ):
        shop.users.remove("ann")
        answer = httpx.delete(f"{server.url}/admin/subscriptions", params={"subject": "ann"})
        assert answer.json() == {"ended": 1, "silent_nodes": []}
        assert ended.until("feed.closing")[-1].json["reason"] == "kicked"
        listed = httpx.get(f"{server.url}/admin/subscriptions").json()["subscriptions"]
        assert "bob" in [each["subject"] for each in listed]
        shop.users.add("ann")
        publish(server)
        assert kept.frame().data == "x"


def test_unless_it_is_said_a_stream_lasts_for_a_quarter_of_an_hour() -> None:
    app, feed = FastAPI(), Feed("memory:")
    app.include_router(feed_router(feed, authorize=lambda: Grants(subscribe=["**"], subject="ann")))
    with AppServer(app, feed) as server, subscribed(f"{server.url}/events/a"):
        running = feed.running
        assert running is not None
        (stream,) = running.broadcaster
        assert 0 <= time.time() + 900 - stream.peer.expires < 60
