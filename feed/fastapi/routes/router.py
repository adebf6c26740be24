"""The feed's routes, for our own application and for anybody's: `app.include_router(feed_router(feed))`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeVar

from fastapi import APIRouter, Depends, Request, WebSocket
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response
from starlette.types import Lifespan

from feed import Feed
from feed.fastapi.auth.access import allow_everything
from feed.fastapi.auth.dependency import Dependency, dependency
from feed.fastapi.auth.origins import Origins
from feed.fastapi.describe import openapi
from feed.fastapi.describe.topics import describe_streams, document_topics
from feed.fastapi.http.problems import FeedRoute, Problem
from feed.fastapi.pages import pages_router
from feed.fastapi.routes.draining import open_with_application
from feed.fastapi.routes.endpoints import read_events
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.publish import publish_batch, publish_to_topic
from feed.fastapi.routes.websocket import serve_websocket
from feed.fastapi.topics import Topic, Topics

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
    feed: Feed,
    *,
    authorize: Callable[..., object] | None = None,
    topics: Iterable[Topic[Any]] = (),
    strict_topics: bool = False,
    origins: Iterable[str] = (),
    max_body: int = 16 << 20,
    farewell: float = 5.0,
    parameters: Iterable[str] = (),
    assets: bool = False,
    dashboard: bool = False,
) -> APIRouter:
    """Publish, subscribe, history and WebSocket under `/events` and `/ws`.

    The feed opens and closes with the application that the router is included in, unless the application has opened it
    before (`async with feed:` in its lifespan) and so closes it after. Where no lifespan is run, as in an application
    that is mounted in another, the feed opens at its first use, and closing it is the business of whoever has one.

    Errors on these routes are problem documents, whatever the application around them does.

    `authorize` is any FastAPI dependency that gives the `Grants` of a request or a WebSocket's handshake; unless given,
    everything is allowed. What it holds, by `yield` or in its own dependencies, is given back before a stream begins.
    It may raise `feed.Unauthenticated` and `feed.Forbidden`; `HTTPException` is answered as on the application's own
    routes.

    `topics` say what the data of which events is; the first in the list that covers an event's topic and type counts.
    With `strict_topics` nothing else may be published.

    Pages of an origin other than the application's own may not publish nor open a WebSocket, unless it is one of
    `origins`; what else they may, CORS, is the application's business. `max_body` bounds a request's body, in bytes.
    `farewell` is how long an SSE stream may take to say `feed.closing` when the server around it stops, in seconds.

    A query parameter that looks like one of the feed's, and is none, is `422`: `parameters` are the application's own.

    With `assets`, `feed.js` and what it loads are served below `/assets`. With `dashboard` these are, and the dashboard
    at `/`, below the prefix: the page itself is for everybody, what it shows is for whom `authorize` lets see it, by
    what a browser sends along (a cookie, not a header). It asks for `metrics` beside it: see `admin_router`.
    """
    provide = None if authorize is None else dependency(authorize)
    gate = Gate(
        feed,
        allow_everything if provide is None else Dependency(provide),
        Origins(origins),
        Topics(topics, strict=strict_topics),
        max_body=max_body,
        farewell=farewell,
        parameters=frozenset(parameters),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with open_with_application(feed):
            yield

    router = gated_router(gate, lifespan=lifespan, provide=provide)
    if assets or dashboard:
        router.include_router(pages_router(dashboard=dashboard, own_login=True))
    return router


def gated_router(
    gate: Gate,
    *,
    lifespan: Lifespan[Any] | None = None,
    provide: Callable[..., object] | None = None,
    key: bool = False,
) -> APIRouter:
    """The same behind a gate that is there already. Who opens the feed is the caller's business, or the lifespan's.
    `provide` is the dependency that the gate asks, and `key` whether tokens are needed, for the documents."""
    register_url_convertor("feed_whole", _Whole())
    router = APIRouter(route_class=FeedRoute, tags=["feed"], lifespan=lifespan)

    # Beside what is served there are routes for OpenAPI alone, never reached as they come after: they have what the
    # gate asks, and the models of typed topics, which FastAPI is to describe and not to act on.
    documented = APIRouter(dependencies=[] if provide is None else [Depends(provide)])

    def route(path: str, method: str, documentation: dict[str, Any] | None) -> Callable[[_Endpoint], _Endpoint]:
        def add(endpoint: _Endpoint) -> _Endpoint:
            status = 201 if method == "POST" else None
            router.add_api_route(path, endpoint, methods=[method], status_code=status, include_in_schema=False)
            if documentation is not None:
                documented.add_api_route(
                    path,
                    endpoint,
                    methods=[method],
                    status_code=status,
                    response_class=Response,
                    response_model=None,
                    responses={422: {}},  # else FastAPI describes its own
                    openapi_extra=documentation,
                )
            return endpoint

        return add

    @route("/events/{topic:feed_whole}", "POST", openapi.PUBLISH_TO_TOPIC)
    async def publish_one_event(request: Request) -> Response:
        """Publish one event: the body is the data."""
        return await publish_to_topic(gate, request)

    @route("/events", "POST", openapi.PUBLISH_BATCH)
    async def publish_events(request: Request) -> Response:
        """Publish one event or a batch: the body names the topics. A batch is committed whole, or not at all."""
        return await publish_batch(gate, request)

    @route("/events/{topic:feed_whole}", "HEAD", None)
    @route("/events/{topic:feed_whole}", "GET", openapi.SUBSCRIBE_TO_PATTERN)
    async def subscribe_to_pattern(request: Request) -> Response:
        """Subscribe, or page through the past with `Accept: application/json`."""
        return await read_events(gate, request)

    @route("/events", "HEAD", None)
    @route("/events", "GET", openapi.SUBSCRIBE)
    async def subscribe(request: Request) -> Response:
        """The same with the patterns in the query."""
        return await read_events(gate, request)

    @route("/ws/{pattern:feed_whole}", "GET", None)
    @route("/ws", "GET", None)
    async def no_websocket(request: Request) -> Response:
        """What a proxy makes of a WebSocket if it is not told to pass it on."""
        detail = "this is a WebSocket: a proxy in front has to pass Upgrade and Connection on, over HTTP/1.1"
        return Problem(426, detail, {"Upgrade": "websocket"})

    @router.websocket("/ws/{pattern:feed_whole}")
    async def websocket_to_pattern(websocket: WebSocket) -> None:
        await serve_websocket(gate, websocket)

    @router.websocket("/ws")
    async def websocket(websocket: WebSocket) -> None:
        await serve_websocket(gate, websocket)

    describe_streams(router, gate.topics, key=key)
    document_topics(documented, gate.topics)
    router.include_router(documented)
    return router
