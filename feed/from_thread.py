"""Publishing, and the end of all streams, from code that is not on the feed's event loop: `def` routes, worker threads,
threads of any library, signal handlers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from feed.errors import FeedUnavailable, Indeterminate
from feed.event import DEFAULT_TYPE, Draft

T = TypeVar("T")

TIMEOUT = 30.0


class OnLoop(Protocol):
    """What belongs to an event loop and is used from other threads here: a `Feed`."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """See `Feed.loop`."""

    def check_process(self) -> None:
        """See `Feed.check_process`."""

    def publish(self, topic: str, data: object, *, type: str, key: str | None) -> Coroutine[Any, Any, str]:
        """See `Feed.publish`."""

    def publish_batch(self, drafts: Sequence[Draft], *, key: str | None) -> Coroutine[Any, Any, list[str]]:
        """See `Feed.publish_batch`."""

    def drain(self) -> None:
        """See `Feed.drain`."""

    def turn_away(self) -> None:
        """See `Feed.turn_away`."""


class FromThread:
    """What a feed offers to other threads: `feed.from_thread.publish("orders/1", {"total": 3})`.

    Publishing blocks its thread until the event is committed, and raises what the same call on the loop raises, and
    `RuntimeError` where it is called on the feed's own loop, which it would wait for while it holds it up, and in a
    fork of the process that has opened the feed; `FeedUnavailable` while the feed is not open: nothing was published
    then; `Indeterminate` when `timeout` seconds are over, or the loop has ended meanwhile: then it may have been
    published, and the same call with the same `key` makes sure. A thread that is interrupted while it waits
    (`KeyboardInterrupt`) leaves it open in the same way.
    """

    def __init__(self, feed: OnLoop) -> None:
        self._feed = feed

    def publish(
        self,
        topic: str,
        data: object,
        *,
        type: str = DEFAULT_TYPE,
        key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> str:
        """`Feed.publish`."""
        return self._do(self._feed.publish(topic, data, type=type, key=key), timeout)

    def publish_batch(self, drafts: Sequence[Draft], *, key: str | None = None, timeout: float = TIMEOUT) -> list[str]:
        """`Feed.publish_batch`."""
        return self._do(self._feed.publish_batch(drafts, key=key), timeout)

    def drain(self) -> None:
        """`Feed.drain`, from any thread, a signal handler, or the loop itself. New streams are refused at once; those
        that are open end when the loop turns, and nobody waits for it here. A feed that is not open has none, and
        nothing is done."""
        loop = self._feed.loop
        if loop is not None and not loop.is_closed():
            self._feed.turn_away()
            with contextlib.suppress(RuntimeError):  # closed meanwhile, and its streams with it
                loop.call_soon_threadsafe(self._feed.drain)

    def _do(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        try:
            loop = self._loop()
            waiting = asyncio.run_coroutine_threadsafe(work, loop)
        except BaseException:
            work.close()
            raise
        try:
            return waiting.result(timeout)
        except concurrent.futures.CancelledError:
            raise Indeterminate("the feed's event loop ended before it was known whether it was published") from None
        except TimeoutError as error:
            if waiting.done():
                raise  # its own
            raise Indeterminate(f"it is not known after {timeout:g} s whether it was published") from error
        finally:
            waiting.cancel()  # whoever waited has gone: nothing to do where it is done

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = self._feed.loop
        self._feed.check_process()
        if loop is None or loop.is_closed() or not loop.is_running():
            raise FeedUnavailable("the feed is not open: open it (`async with feed`) before threads publish")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError("this is the feed's own event loop: `await feed.publish(…)` here")
        return loop
