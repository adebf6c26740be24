"""Stream a subscription over HTTP, as Server-Sent Events or NDJSON."""

from __future__ import annotations

import random
from collections.abc import Callable
from importlib.metadata import version
from operator import attrgetter
from typing import Literal, cast

import anyio
from sse_starlette import EventSourceResponse
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from feed import Draining, FeedUnavailable, Subscription
from feed.batch import Item
from feed.control import Reason, closing
from feed.fastapi.http.problems import SAFE, problem_of
from feed.fastapi.logging.requests import log_stream, record_answer, record_no_stream, record_stream
from feed.fastapi.outlet import HTTP, FramedOutlet, SteppedOutlet, outlet_for
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.refusals import read_refused
from feed.fastapi.routes.subscribe import SubscribeRequest
from feed.media_types import NDJSON, SSE

# The feed sends its own heartbeats. Before 3.5, sse-starlette takes 0 for an interval and pings without a pause.
_NO_PING = 0 if tuple(map(int, version("sse-starlette").split(".")[:2])) >= (3, 5) else 365 * 86_400

Format = Literal["sse", "envelope", "line"]


_HEADERS = {
    format: [
        (b"content-type", media_type.encode()),
        # A proxy that compresses answers holds a stream back for ever, unless it may not transform (RFC 9111, 5.2.2.6).
        (b"cache-control", b"no-store, no-transform"),
        (b"connection", b"keep-alive"),
        (b"x-accel-buffering", b"no"),
        *SAFE,
    ]
    for format, media_type in (("sse", SSE), ("envelope", SSE), ("line", NDJSON))
}


class StreamResponse(Response):
    """A stream of events, or of JSON lines.

    If the server's own `send` is at hand, the pump writes the stream, and one task waits for its end. Otherwise, as in
    most applications around a feed, sse-starlette writes it, with tasks of its own.

    `__call__` both makes the subscription and lets it go, so that none outlives its response. A refusal for capacity or
    while draining is not an error on SSE, because an `EventSource` would never come back: the stream says so and ends.
    """

    def __init__(self, gate: Gate, wanted: SubscribeRequest, format: Format) -> None:
        self.status_code = 200
        self.raw_headers = list(_HEADERS[format])  # its own: middleware may append to it
        self.background = None
        self._gate = gate
        self._wanted = wanted
        self._format = format

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream, until it ends or the client leaves."""
        feed = self._gate.feed
        if scope["method"] == "HEAD":
            record_no_stream(scope)
            await self._carry(_Chunks(None, self._format), scope, receive, send)
            return
        try:
            subscription = await self._wanted.attach(self._gate)
        except FeedUnavailable as error:
            read_refused(feed.counters, error)
            if self._format == "line":
                problem = problem_of(error)
                # The headers that were added for the page that asks.
                problem.raw_headers += [header for header in self.raw_headers if header not in _HEADERS[self._format]]
                record_answer(scope, problem)
                await problem(scope, receive, send)
                return
            if isinstance(
                error, Draining
            ):  # the client came back too early: wait a part of what others wait, at random
                refusal = closing("shutdown", int(error.retry_after * random.uniform(0.1, 1) * 1000))
            else:
                refusal = closing("busy", feed.options.limits.jittered_retry())
            record_no_stream(scope, "shutdown" if isinstance(error, Draining) else "busy")
            await self._carry(_Chunks(None, self._format, refusal), scope, receive, send)
            return
        del self._wanted  # a stream may live for days and does not need the request any more
        record_stream(scope)
        try:
            outlet = outlet_for(scope, send, subscription, _last)
            if outlet is None:
                await self._carry(_Chunks(subscription, self._format), scope, receive, send)
            else:
                await self._flow(subscription, outlet, receive, send)
        finally:
            feed.detach(subscription)
            log_stream(subscription)

    async def _flow(
        self, subscription: Subscription, outlet: FramedOutlet | SteppedOutlet, receive: Receive, send: Send
    ) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            if outlet.closed:
                return
            if subscription.is_of_state and isinstance(outlet, FramedOutlet):
                outlet.hold_little()
            subscription.flow_into(outlet, outlet.encoder_of(HTTP[self._format]))
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            outlet.close()

    async def _carry(self, chunks: _Chunks, scope: Scope, receive: Receive, send: Send) -> None:
        response = EventSourceResponse(
            chunks,
            ping=_NO_PING,
            sep="\n",
            shutdown_event=cast("anyio.Event", chunks),
            shutdown_grace_period=self._gate.shutdown_grace,
        )
        response.raw_headers = self.raw_headers
        await response(scope, receive, send)


def _last(_: Reason | None) -> Message:
    return {"type": "http.response.body", "body": b"", "more_body": False}


class _Chunks:
    """Iterates over chunks, each of all items that wait. Not an async generator: those cannot be left at any point."""

    def __init__(self, subscription: Subscription | None, format: Format, only: Item | None = None) -> None:
        self._subscription = subscription
        self._wire: Callable[[Item], bytes] = attrgetter(format)
        self._only = only  # the only item, if there is no subscription

    def set(self) -> None:
        """End the stream: sse-starlette calls this when its server stops. Our own server ends the feed before that."""
        if self._subscription is not None:
            self._subscription.end("shutdown")

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        if self._only is not None:
            item, self._only = self._only, None
            return self._wire(item)
        if self._subscription is None or not (items := await self._subscription.take()):
            raise StopAsyncIteration
        chunk = b"".join(map(self._wire, items))
        self._subscription.sent += len(chunk)
        return chunk
