"""The end of the streams where somebody else's uvicorn is told to stop: it waits for them and for long polls, and tells
nobody."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from feed import Feed

_LOOK_SECONDS = 0.5


@contextlib.asynccontextmanager
async def drained_with_server(feed: Feed) -> AsyncIterator[None]:
    """For as long as the block lasts the feed drains when the server does. Our own server sees to that itself."""
    watching = asyncio.create_task(_watch(feed), name="feed-drain")
    try:
        yield
    finally:
        watching.cancel()


async def _watch(feed: Feed) -> None:
    while not feed.draining:
        await asyncio.sleep(_LOOK_SECONDS)
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if getattr(server, "should_exit", False):
            feed.drain()
