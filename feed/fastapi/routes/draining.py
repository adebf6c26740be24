"""Open and close a feed with its application, on any server, and drain it when uvicorn stops.

A server that is told to stop waits for open streams and long polls, but tells neither them nor the application. Call
`feed.drain()` to end them: docs/guides/embedding.md shows where, for each server. Only uvicorn's own command line, and
gunicorn with uvicorn's worker, need no help: they handle SIGTERM with a method of the server object, which this module
looks at. It reads the internals of another program, so it is kept in this one place, changes nothing there, and does
nothing where it finds something else.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from types import FrameType

from feed import Feed, LogRefused

_LOOK_SECONDS = 0.5


@contextlib.asynccontextmanager
async def open_with_application(feed: Feed, *, server_drains: bool = False) -> AsyncIterator[None]:
    """Hold the feed open for as long as the block lasts, and drain it when the server is told to stop.

    `server_drains`: the server around the application drains the feed itself, as ours does once it has told every
    connection that its next answer is the last. Drained before that, a stream would end on a connection that stays.
    """
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(feed)
        except LogRefused as error:
            # Servers show the whole traceback of an error at startup; keep it short, so that operators see what to do.
            raise LogRefused(str(error)) from None
        if not server_drains:
            watching = asyncio.create_task(_watch(feed), name="feed-drain")
            stack.callback(watching.cancel)
        yield


async def _watch(feed: Feed) -> None:
    while not feed.draining:
        await asyncio.sleep(_LOOK_SECONDS)
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if getattr(server, "should_exit", False):
            feed.drain()


@contextlib.contextmanager
def drained_by_signals(feed: Feed) -> Iterator[None]:
    """Drain the feed at SIGINT or SIGTERM, then let the server handle the signal. Use it in a lifespan, on servers that
    tell an application that they stop only when all streams have ended.

    It does nothing for a signal that has no Python handler, or outside the main thread.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.enter_context(_drained_by(number, feed))
        yield


@contextlib.contextmanager
def _drained_by(number: signal.Signals, feed: Feed) -> Iterator[None]:
    answer = signal.getsignal(number)
    if not callable(answer):  # the system's default action, which a handler would replace
        yield
        return

    def drain_and_answer(received: int, frame: FrameType | None) -> None:
        feed.from_thread.drain()
        answer(received, frame)

    signal.signal(number, drain_and_answer)
    try:
        yield
    finally:
        if signal.getsignal(number) is drain_and_answer:  # else other code has replaced the handler since
            signal.signal(number, answer)
