"""Publishing and draining from code that is not on the feed's event loop: `def` routes, worker threads, threads of any
library, signal handlers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from feed.errors import FeedUnavailable, Indeterminate
from feed.event import DEFAULT_TYPE, Draft, list_of_drafts

T = TypeVar("T")

TIMEOUT = 30.0


class OnLoop(Protocol):
    """An object that belongs to an event loop, and is used from other threads here: a `Feed`."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """See `Feed.loop`."""

    def check_process(self) -> None:
        """See `Feed.check_process`."""

    def publish(self, topic: str, data: object, *, type: str, key: str | None) -> Coroutine[Any, Any, str]:
        """See `Feed.publish`."""

    def publish_batch(self, drafts: Iterable[Draft], *, key: str | None) -> Coroutine[Any, Any, list[str]]:
        """See `Feed.publish_batch`."""

    def drain(self) -> None:
        """See `Feed.drain`."""

    def turn_away(self) -> None:
        """See `Feed.turn_away`."""


class FromThread:
    """A feed's calls for other threads: `feed.from_thread.publish("orders/1", {"total": 3})`.

    Publishing blocks its thread until the event is committed, and raises what the same call on the loop raises. It also
    raises:

    - `FeedUnavailable` while the feed is not open. Nothing was published.
    - `Indeterminate` when `timeout` seconds are over, or when the event loop has ended meanwhile. The event may have
      been published: the same call with the same `key` makes sure. This holds for a thread that is interrupted while it
      waits (`KeyboardInterrupt`), too.
    - `RuntimeError` on the feed's own event loop, which would wait for itself, and in a fork of the process that has
      opened the feed.
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
        """Commit one event, and return its id, as `Feed.publish` does."""
        return self._do(self._feed.publish(topic, data, type=type, key=key), timeout)

    def publish_batch(self, drafts: Iterable[Draft], *, key: str | None = None, timeout: float = TIMEOUT) -> list[str]:
        """Commit events, all of them or none, and return their ids, as `Feed.publish_batch` does."""
        return self._do(self._feed.publish_batch(list_of_drafts(drafts), key=key), timeout)

    def drain(self) -> None:
        """End every stream, as `Feed.drain` does, from any thread, a signal handler, or the event loop itself.

        New streams are refused at once. The open ones end when the event loop gets to it; this call does not wait for
        that. For a feed that is not open it does nothing.
        """
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
            raise Indeterminate("the feed's event loop has ended: the event may have been published") from None
        except TimeoutError as error:
            if waiting.done():
                raise  # its own
            raise Indeterminate(
                f"no answer after {timeout:g} s: the event may have been published; repeat the call with the same key"
            ) from error
        finally:
            waiting.cancel()  # whoever waited has gone: nothing to do where it is done

    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = self._feed.loop
        self._feed.check_process()
        if loop is None or loop.is_closed() or not loop.is_running():
            raise FeedUnavailable("the feed is not open: open it with `async with feed` before threads publish")
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise RuntimeError("this is the feed's own event loop: use `await feed.publish(…)` here")
        return loop
