"""The feed's routes, for our own application and for anybody's: `app.include_router(feed_router(feed))`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, Request, WebSocket
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from feed import Feed
from feed.feed import MAX_LAST, select
from web import openapi
from web.bodies import Bodies
from web.history import history_page
from web.problems import FeedRoute, Problem, problems_answered
from web.publish import JSON, publish_batch, publish_to_topic
from web.request import Query, accepted, last_event_id, path_parameter
from web.sse import NDJSON, SSE, StreamResponse
from web.websocket import serve_websocket

logger = logging.getLogger(__name__)

_Endpoint = TypeVar("_Endpoint", bound=Callable[[Request], Awaitable[Response]])


class _Whole(Convertor[str]):
    """The rest of the path, whatever is in it. Starlette's own `path` stops at a line break, and so would take the
    topic `a` out of `a%0A`."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def feed_router(
    feed: Feed, *, max_body: int = 16 << 20, farewell: float = 5.0, bodies: Bodies | None = None
) -> APIRouter:
    """Publish, subscribe, history and WebSocket under `/events` and `/ws`.

    Errors on these routes are problem documents, whatever the application around them does. Who opens and closes the
    feed is the application's business (`async with feed:` in its lifespan); unopened, it opens at its first use.
    `max_body` bounds a request's body, in bytes. `farewell` is how long an SSE stream may take to say `feed.closing`
    when the server around it stops, in seconds. `bodies` is the room for all bodies that are read at once.
    """
    bodies = bodies or Bodies()
    register_url_convertor("feed_whole", _Whole())
    router = APIRouter(route_class=FeedRoute, tags=["feed"])

    def route(path: str, method: str, documentation: dict[str, Any] | None) -> Callable[[_Endpoint], _Endpoint]:
        return router.api_route(
            path,
            methods=[method],
            response_class=Response,
            response_model=None,
            include_in_schema=documentation is not None,
            openapi_extra=documentation,
        )

    @route("/events/{topic:feed_whole}", "POST", openapi.PUBLISH_TO_TOPIC)
    async def publish_one_event(request: Request) -> Response:
        """Publish one event: the body is the data."""
        return await publish_to_topic(feed, request, bodies, max_body)

    @route("/events", "POST", openapi.PUBLISH_BATCH)
    async def publish_events(request: Request) -> Response:
        """Publish one event or a batch: the body names the topics. A batch is committed whole, or not at all."""
        return await publish_batch(feed, request, bodies, max_body)

    @route("/events/{pattern:feed_whole}", "HEAD", None)
    @route("/events/{pattern:feed_whole}", "GET", openapi.SUBSCRIBE_TO_PATTERN)
    async def subscribe_to_pattern(request: Request) -> Response:
        """Subscribe, or page through the past with `Accept: application/json`."""
        return await _subscribe(feed, request, farewell)

    @route("/events", "HEAD", None)
    @route("/events", "GET", openapi.SUBSCRIBE)
    async def subscribe(request: Request) -> Response:
        """The same with the patterns in the query."""
        return await _subscribe(feed, request, farewell)

    @router.websocket("/ws/{pattern:feed_whole}")
    async def websocket_to_pattern(websocket: WebSocket) -> None:
        await serve_websocket(feed, websocket)

    @router.websocket("/ws")
    async def websocket(websocket: WebSocket) -> None:
        await serve_websocket(feed, websocket)

    return router


class FeedEndpoints:
    """The same routes as plain ASGI, for our own application.

    FastAPI's way to a route costs more than publishing does, and its middleware would wrap the server's `send`, which
    the pump needs as it is.
    """

    def __init__(self, feed: Feed, *, max_body: int, farewell: float, bodies: Bodies) -> None:
        self._feed = feed
        self._max_body = max_body
        self._farewell = farewell
        self._bodies = bodies

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Answer the request, if it is for one of the routes; else say so by `False`, with nothing done."""
        kind = scope["type"]
        if kind == "lifespan":
            return False
        path: str = scope["path"]
        root = scope.get("root_path", "").rstrip("/")
        if root and path.startswith(f"{root}/"):
            path = path[len(root) :]
        base, slash, rest = path[1:].partition("/")
        name = rest if slash else None
        if base == "events" and kind == "http":
            method = scope["method"]
            if method == "POST":
                scope["path_params"] = {} if name is None else {"topic": name}
                await self._respond(self._publish if name is None else self._publish_to_topic, scope, receive, send)
                return True
            if method in ("GET", "HEAD"):
                scope["path_params"] = {} if name is None else {"pattern": name}
                await self._respond(self._subscribe, scope, receive, send)
                return True
        elif base == "ws" and kind == "websocket":
            scope["path_params"] = {} if name is None else {"pattern": name}
            await serve_websocket(self._feed, WebSocket(scope, receive, send), send)
            return True
        return False

    async def _respond(
        self, handle: Callable[[Request], Awaitable[Response]], scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            response = await problems_answered(handle, Request(scope, receive))
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            response = Problem(500, "an error of this server, which its log explains")
        await response(scope, receive, send)

    async def _publish_to_topic(self, request: Request) -> Response:
        return await publish_to_topic(self._feed, request, self._bodies, self._max_body)

    async def _publish(self, request: Request) -> Response:
        return await publish_batch(self._feed, request, self._bodies, self._max_body)

    async def _subscribe(self, request: Request) -> Response:
        return await _subscribe(self._feed, request, self._farewell)


async def _subscribe(feed: Feed, request: Request, farewell: float) -> Response:
    query = Query(request)
    pattern = path_parameter(request, "pattern")
    patterns = [*([] if pattern is None else [pattern]), *query.all("topic")]
    selection = select(patterns, query.all("type"))
    kind = accepted(request, (SSE, NDJSON, JSON)) or SSE
    if kind == JSON:
        return await history_page(feed, request, selection, query)
    return StreamResponse(
        feed,
        selection,
        after=last_event_id(request, query),
        last=query.number("last", least=1, most=MAX_LAST),
        media_type=kind,
        farewell=farewell,
        envelope=query.one("envelope") not in (None, "", "0", "false"),
    )
