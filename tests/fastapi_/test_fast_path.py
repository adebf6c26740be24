"""Which of the three ways to a socket a stream takes (see `feed.fastapi.outlet`).

A stream that misses the fast way works as well, and costs several times as much: no other test would notice.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from feed import Feed
from feed.fastapi.outlet import UVICORN, FramedOutlet, SteppedOutlet
from feed.fastapi.routes.router import feed_router
from feed_server.app import create_app
from feed_server.settings import Settings
from tests.support.inside import Inside, served_by_uvicorn, serving

pytestmark = pytest.mark.anyio

STREAMS = ["sse", "envelope", "ndjson", "websocket", "batch"]
FRAMED: list[type] = [FramedOutlet, SteppedOutlet]  # it holds the other one, for its end
STEPPED: list[type] = [SteppedOutlet]
AWAITED: list[type] = []


@contextlib.asynccontextmanager
async def stream(url: str, kind: str) -> AsyncIterator[None]:
    """A stream that is open for as long as the block lasts."""
    if kind in {"websocket", "batch"}:
        protocols = [Subprotocol("feed.batch")] if kind == "batch" else None
        async with connect(f"{url.replace('http', 'ws')}/ws/a", subprotocols=protocols) as socket:
            await socket.recv()
            yield
    else:
        accept = "application/x-ndjson" if kind == "ndjson" else "text/event-stream"
        async with (
            httpx.AsyncClient() as http,
            http.stream(
                "GET", f"{url}/events/a{'?envelope=1' * (kind == 'envelope')}", headers={"Accept": accept}
            ) as it,
        ):
            await anext(it.aiter_raw())
            yield


async def way(inside: Inside) -> list[type]:
    """The classes of the outlets that there are while one stream is open."""
    await inside.only()
    gc.collect()  # of the streams before
    return sorted((type(each) for each in gc.get_objects() if type(each) in FRAMED), key=FRAMED.index)


@pytest.mark.parametrize("kind", STREAMS)
async def test_our_own_server_takes_framed_bytes(kind: str) -> None:
    async with serving() as inside, stream(inside.url, kind):
        assert await way(inside) == FRAMED


async def test_to_an_http_1_0_client_our_own_server_is_stepped() -> None:
    async with serving() as inside:
        reader, writer = await asyncio.open_connection("127.0.0.1", inside.port)
        writer.write(b"GET /events/a HTTP/1.0\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"feed.open")
        assert await way(inside) == STEPPED
        writer.close()
        await writer.wait_closed()


PROTOCOLS = [
    *(("httptools", "websockets-sansio", kind) for kind in STREAMS),
    ("h11", "websockets-sansio", "sse"),
    ("h11", "wsproto", "websocket"),
    ("h11", "websockets", "websocket"),
]


@pytest.mark.parametrize(("http", "ws", "kind"), PROTOCOLS, ids=map(" ".join, PROTOCOLS))
async def test_our_application_is_stepped_on_a_uvicorn_that_is_not_ours(http: str, ws: str, kind: str) -> None:
    settings = Settings(log="memory:")
    feed = Feed(settings.log, settings.options)
    with warnings.catch_warnings(action="ignore"):  # of one of the protocols, which is old
        async with (
            served_by_uvicorn(create_app(settings, feed), feed, http=http, ws=ws) as inside,
            stream(inside.url, kind),
        ):
            assert await way(inside) == STEPPED


@pytest.mark.parametrize("kind", STREAMS)
async def test_what_middleware_wraps_is_awaited(kind: str) -> None:
    feed = Feed("memory:")
    app = FastAPI()  # which has some of its own
    app.include_router(feed_router(feed))
    async with served_by_uvicorn(app, feed) as inside, stream(inside.url, kind):
        assert await way(inside) == AWAITED


def test_every_class_of_uvicorns_that_has_a_send_is_known() -> None:
    """Otherwise streams on a newer uvicorn would miss the fast way without a word."""
    folder = Path(uvicorn.__file__).parent
    found = {
        (".".join(file.relative_to(folder.parent).with_suffix("").parts), owner.name)
        for file in folder.glob("protocols/**/*.py")
        for owner in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(owner, ast.ClassDef)
        and any(isinstance(each, ast.AsyncFunctionDef) and _is_send(each) for each in owner.body)
    }
    assert found == set(UVICORN.items())


def _is_send(function: ast.AsyncFunctionDef) -> bool:
    return any(ast.unparse(each.annotation) == "ASGISendEvent" for each in function.args.args if each.annotation)
