"""Servers in the test's own event loop: what their streams are can be looked at, and changed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp

from feed import Feed
from feed.subscription import Subscription
from feed_server.server.listening import BACKLOG
from feed_server.server.server import Server
from feed_server.settings import Settings
from tests.support.crowd import until


class Inside(NamedTuple):
    """A server, as its own process sees it."""

    feed: Feed
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def subscriptions(self) -> list[Subscription]:
        """Its open streams, in the order in which they came."""
        running = self.feed.running
        assert running is not None
        return list(running.broadcaster)

    async def only(self, condition: Callable[[Subscription], object] = bool) -> Subscription:
        """Its one stream, once there is one and `condition` holds for it."""
        await until(lambda: len(self.subscriptions) == 1 and condition(self.subscriptions[0]))
        return self.subscriptions[0]


@contextlib.asynccontextmanager
async def served_by_uvicorn(app: ASGIApp, feed: Feed, **options: Any) -> AsyncIterator[Inside]:
    """An application with this feed on a uvicorn that is not ours, for as long as the block lasts."""
    options = {"log_config": None, "lifespan": "off", "timeout_graceful_shutdown": 1, **options}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, **options))
        async with feed:
            serving = asyncio.create_task(server._serve([listening]))
            try:
                await until(lambda: server.started)
                yield Inside(feed, listening.getsockname()[1])
            finally:
                feed.drain()
                server.should_exit = True
                await serving


@contextlib.asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Inside]:
    """A server for as long as the block lasts."""
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        port: int = listening.getsockname()[1]
        listens = asyncio.Event()
        server = Server(Settings.model_validate({"log": "memory:", "port": port, **settings}), listens.set)
        async with server._feed:
            # Not `serve`: the signals and the garbage collector are the test's.
            serving = asyncio.create_task(server._serve([listening]))
            try:
                await listens.wait()
                yield Inside(server._feed, port)
            finally:
                server.should_exit = True
                await serving
