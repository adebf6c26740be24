"""Streaming over HTTP, as Server-Sent Events or NDJSON: a subscription made into a response."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, cast

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Message, Receive, Scope, Send

from feed import Draining, Feed, FeedUnavailable, Subscription
from feed.batch import Item
from feed.control import Reason, closing
from feed.pattern import Selection
from web.outlet import HTTP, outlet_for
from web.problems import problem_of

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"


class StreamResponse(EventSourceResponse):
    """A stream of events, or of JSON lines.

    Where the server's own `send` is at hand the pump writes it, and one task waits for its end; elsewhere, inside a
    stranger's application, sse-starlette carries it, with tasks of its own.

    The subscription is made and let go in one place, `__call__`, so that none outlives its response. A refusal for
    capacity or while draining is no error on SSE, as an `EventSource` would never come back from one: it is a stream
    that says so and ends.
    """

    def __init__(
        self,
        feed: Feed,
        selection: Selection,
        *,
        after: str | None,
        last: int | None,
        media_type: str,
        envelope: bool,
        farewell: float,
    ) -> None:
        self._feed = feed
        self._selection = selection
        self._after = after
        self._last = last
        self._format = "line" if media_type == NDJSON else "envelope" if envelope else "sse"
        self._chunks = _Chunks(attrgetter(self._format))
        super().__init__(
            self._chunks,
            # Given as a header, for Starlette appends a charset to what it is told otherwise.
            headers={"Content-Type": media_type},
            ping=0,
            sep="\n",
            shutdown_event=cast("anyio.Event", self._chunks),
            shutdown_grace_period=farewell,
        )
        self._refusable = media_type == NDJSON

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await super().__call__(scope, receive, send)
            return
        try:
            subscription = await self._feed.attach(self._selection, after=self._after, last=self._last)
        except FeedUnavailable as error:
            if self._refusable:
                await problem_of(error)(scope, receive, send)
                return
            retry = self._feed.options.limits.jittered_retry()
            self._chunks.refuse(closing("shutdown" if isinstance(error, Draining) else "busy", retry))
            await super().__call__(scope, receive, send)
            return
        try:
            outlet = outlet_for(scope, send, subscription, _last)
            if outlet is None:
                self._chunks.subscription = subscription
                await super().__call__(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            subscription.flow_into(outlet, outlet.wire(HTTP[self._format]))
            try:
                while (await receive())["type"] != "http.disconnect":
                    pass
            finally:
                outlet.close()
        finally:
            self._feed.detach(subscription)


def _last(_: Reason | None) -> Message:
    return {"type": "http.response.body", "body": b"", "more_body": False}


class _Chunks:
    """All that waits for a reader, as one chunk. A class, as an async generator could not be left at any point."""

    def __init__(self, wire: Callable[[Item], bytes]) -> None:
        self.subscription: Subscription | None = None
        self._wire = wire
        self._only: Item | None = None

    def refuse(self, item: Item) -> None:
        """Say just this, and end."""
        self._only = item

    def set(self) -> None:
        """What sse-starlette calls when it sees its server stop. Our own server has ended the feed before."""
        if self.subscription is not None:
            self.subscription.end("shutdown")

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._only is not None:
            item, self._only = self._only, None
            return self._wire(item)
        items: Any = () if self.subscription is None else await self.subscription.take()
        if not items:
            raise StopAsyncIteration
        return b"".join(map(self._wire, items))
