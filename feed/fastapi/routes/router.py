"""The feed's routes, for any FastAPI application: `app.include_router(feed_router(feed))`."""

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
from feed.fastapi.auth.dependency import AuthorizeDependency, solved
from feed.fastapi.auth.origins import Origins
from feed.fastapi.describe import openapi
from feed.fastapi.describe.topics import describe_streams, document_topics
from feed.fastapi.http.problems import FeedRoute, Problem
from feed.fastapi.pages import pages_router
from feed.fastapi.routes.draining import open_with_application
from feed.fastapi.routes.endpoints import read_events
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.publish import delete_topic, publish_batch, publish_to_topic
from feed.fastapi.routes.websocket import serve_websocket
from feed.fastapi.topics import Topic, Topics

_Endpoint = TypeVar("_Endpoint", bound=Callable[[Request], Awaitable[Response]])


class _Whole(Convertor[str]):
    """Matches the rest of the path, whatever it contains. Starlette's own `path` stops at a line break, and would find
    the topic `a` in `a%0A`."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def feed_router(
    feed: Feed,
    *,
    authorize: AuthorizeDependency | None = None,
    topics: Iterable[Topic[Any]] = (),
    strict_topics: bool = False,
    origins: Iterable[str] = (),
    max_body: int = 16 << 20,
    shutdown_grace: float = 5.0,
    parameters: Iterable[str] = (),
    assets: bool = False,
    dashboard: bool = False,
) -> APIRouter:
    """Return a router that serves publish, subscribe, history and WebSocket under `/events` and `/ws`.

    The feed opens and closes with the application that includes the router. If the application opens the feed itself
    (`async with feed:` in its lifespan), it closes it too. Where no lifespan runs, as in a mounted application, the
    feed opens at its first use, and an application that has a lifespan has to close it.

    Errors on these routes are problem documents, whatever the application around them does.

    `authorize` is any FastAPI dependency that returns the `Grants` of a request or a WebSocket's handshake. Without it
    everything is allowed. Resources that it holds, by `yield` or in its own dependencies, are released before a stream
    begins. It may raise `feed.Unauthenticated` and `feed.Forbidden`; an `HTTPException` is answered as on the
    application's own routes. An open stream ends when its grants do, 15 minutes after they were made unless
    `Grants.expires` says otherwise: then its client comes back, and `authorize` is asked again. Anything that is not
    `Grants` is answered with `500`, and the log of the application names it.

    `topics` give the data of events a type. The first topic in the list that matches an event's topic and type counts.
    With `strict_topics` only events that match one may be published.

    Pages of another origin may not publish or open a WebSocket, unless the origin is one of `origins`; for CORS, set up
    the application. `max_body` bounds a request's body, in bytes. `shutdown_grace` is the time, in seconds, in which an
    SSE stream may send `feed.closing` when the server around it stops.

    An unknown query parameter that looks like one of the feed's is answered with `422`. List the application's own
    query parameters in `parameters`.

    With `assets`, `feed.js` and the files it loads are served below `/assets`. With `dashboard` the dashboard is served
    too, at `/` below the prefix. All may load the page. `authorize` decides what it shows, by what a browser
    sends with each request (a cookie, not a header). The page also reads `metrics` beside it: see `admin_router`.
    """
    allowed = None if authorize is None else solved(authorize)
    gate = Gate(
        feed,
        allowed or allow_everything,
        Origins(origins),
        Topics(topics, strict=strict_topics),
        max_body=max_body,
        shutdown_grace=shutdown_grace,
        parameters=frozenset(parameters),
    )

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        async with open_with_application(feed):
            yield

    router = gated_router(gate, lifespan=lifespan, provide=None if allowed is None else allowed.provide)
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
    """Return the router for an existing gate. The caller, or `lifespan`, opens the feed. Only for the documents:
    `provide` is the dependency that the gate asks, and `key` whether tokens are needed."""
    register_url_convertor("feed_whole", _Whole())
    router = APIRouter(route_class=FeedRoute, tags=["feed"], lifespan=lifespan)

    # Each route exists twice. The second is for OpenAPI only, and never reached, as it comes later: it has the gate's
    # dependency, and the models of typed topics, which FastAPI shall describe but not act on.
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
                    responses={422: {}},  # else FastAPI adds its own description
                    openapi_extra=documentation,
                )
            return endpoint

        return add

    @route("/events/{topic:feed_whole}", "POST", openapi.PUBLISH_TO_TOPIC)
    async def publish_one_event(request: Request) -> Response:
        """Publish one event: the body is the data."""
        return await publish_to_topic(gate, request)

    @route("/events/{topic:feed_whole}", "DELETE", openapi.DELETE_TOPIC)
    async def delete_value(request: Request) -> Response:
        """Delete the value of a topic: a tombstone follows, which readers of state are told of."""
        return await delete_topic(gate, request)

    @route("/events", "POST", openapi.PUBLISH_BATCH)
    async def publish_events(request: Request) -> Response:
        """Publish one event or a batch: the body names the topics. A batch is committed whole, or not at all."""
        return await publish_batch(gate, request)

    @route("/events/{topic:feed_whole}", "HEAD", None)
    @route("/events/{topic:feed_whole}", "GET", openapi.SUBSCRIBE_TO_PATTERN)
    async def subscribe_to_pattern(request: Request) -> Response:
        """Subscribe to a pattern, or page through history with `Accept: application/json`."""
        return await read_events(gate, request)

    @route("/events", "HEAD", None)
    @route("/events", "GET", openapi.SUBSCRIBE)
    async def subscribe(request: Request) -> Response:
        """Subscribe to the patterns in the query, or page through history with `Accept: application/json`."""
        return await read_events(gate, request)

    @route("/ws/{pattern:feed_whole}", "GET", None)
    @route("/ws", "GET", None)
    async def no_websocket(request: Request) -> Response:
        """Answer a WebSocket's handshake whose `Upgrade` a proxy has removed."""
        detail = "this path is a WebSocket: a proxy in front has to pass on Upgrade and Connection, over HTTP/1.1"
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
