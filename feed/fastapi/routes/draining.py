"""A feed that opens and closes with an application, whatever server that is on, and drains with a uvicorn.

Servers wait for open streams and long polls when they are told to stop, and tell neither them nor the application. The
way out is `feed.drain()`, and the README shows for each server who calls it. Only uvicorn's own command line, and
gunicorn with uvicorn's worker, need no help: they answer SIGTERM by a method of the server, and that is looked at here.
It is a wire into somebody else's program, which is why it is in this one place, changes nothing there, and does nothing
where it finds something else.
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
            # Servers show the whole way to an error of the start, and an operator is to see what to do.
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
    """For as long as the block lasts, in a lifespan, the feed drains when SIGINT or SIGTERM comes, and then the server
    does what it would have done. For servers that tell an application only when all streams have ended.

    Where the server does not answer a signal here, or is in a thread, nothing is changed.
    """
    with contextlib.ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                stack.enter_context(_drained_by(number, feed))
        yield


@contextlib.contextmanager
def _drained_by(number: signal.Signals, feed: Feed) -> Iterator[None]:
    answer = signal.getsignal(number)
    if not callable(answer):  # the system's own answer, which would be lost
        yield
        return

    def drain_and_answer(received: int, frame: FrameType | None) -> None:
        feed.from_thread.drain()
        answer(received, frame)

    signal.signal(number, drain_and_answer)
    try:
        yield
    finally:
        if signal.getsignal(number) is drain_and_answer:  # else somebody has taken it over since
            signal.signal(number, answer)
