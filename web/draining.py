"""A feed that opens and closes with an application, whatever server that is on, and drains with a uvicorn.

Servers wait for open streams and long polls when they are told to stop, and tell neither them nor the application. What
every server can do is to have `feed.drain()` called, or `feed.from_thread.drain()`: the README shows it for each. Only
uvicorn's own command line, and gunicorn's with its worker, need no help. They answer SIGTERM by a method of the server,
and that is what is looked at here: a wire into somebody else's program, but one that changes nothing in it, is in no
other place, and does nothing where it finds something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

from feed import Feed, LogRefused

_LOOK_SECONDS = 0.5


@contextlib.asynccontextmanager
async def open_with_application(feed: Feed) -> AsyncIterator[None]:
    """Holds the feed open for as long as the block lasts, and lets it drain when the server does. Our own server sees
    to that itself."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(feed)
        except LogRefused as error:
            # Servers show the whole way to an error of the start, and an operator is to see what to do.
            raise LogRefused(str(error)) from None
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
