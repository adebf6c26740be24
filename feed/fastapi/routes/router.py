"""The feed's routes, for our own application and for anybody's: `app.include_router(feed_router(feed))`."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from inspect import Parameter, Signature
from types import GenericAlias
from typing import Annotated, Any, TypeVar, Union, cast

from fastapi import APIRouter, Body, Depends, Request, WebSocket
from fastapi.sse import EventSourceResponse
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Lifespan, Receive, Scope, Send

from feed import Feed, FeedUnavailable, Invalid
from feed.fastapi.auth.access import allow_everything
from feed.fastapi.auth.dependency import Dependency, dependency
from feed.fastapi.auth.grants import NOTHING
from feed.fastapi.auth.origins import Headers, Origins
from feed.fastapi.describe import asyncapi, openapi
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import SAFE, FeedRoute, Problem, problems_answered
from feed.fastapi.http.request import accepted, forget_query, last_event_id, path_parameter, place_of, query_of
from feed.fastapi.logging.requests import answered
from feed.fastapi.routes.draining import open_with_application
from feed.fastapi.routes.gate import Gate, peer
from feed.fastapi.routes.history import history_page
from feed.fastapi.routes.publish import JSON, publish_batch, publish_to_topic
from feed.fastapi.routes.refusals import reads_counted
from feed.fastapi.routes.sse import NDJSON, SSE, StreamResponse
from feed.fastapi.routes.websocket import serve_websocket
from feed.fastapi.topics import Topic, Topics
from feed.history import MAX_LAST

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
    feed: Feed,
    *,
    authorize: Callable[..., object] | None = None,
    topics: Iterable[Topic[Any]] = (),
    strict_topics: bool = False,
    origins: Iterable[str] = (),
    max_body: int = 16 << 20,
    farewell: float = 5.0,
    parameters: Iterable[str] = (),
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

    Pages of an origin other than the application's
    own may not publish nor open a WebSocket, unless it is one of `origins`; what else they may, CORS, is the
    application's business. `max_body` bounds a request's body, in bytes. `farewell` is how long an SSE stream may take
    to say `feed.closing` when the server around it stops, in seconds.

    A query parameter that looks like one of the feed's, and is none, is `422`: `parameters` are the application's own.
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

    return gated_router(gate, lifespan=lifespan, provide=provide)


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
        return await _subscribe(gate, request)

    @route("/events", "HEAD", None)
    @route("/events", "GET", openapi.SUBSCRIBE)
    async def subscribe(request: Request) -> Response:
        """The same with the patterns in the query."""
        return await _subscribe(gate, request)

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

    _describe_streams(router, gate.topics, key=key)
    _document_topics(documented, gate.topics)
    router.include_router(documented)
    return router


def _describe_streams(router: APIRouter, topics: Topics, *, key: bool) -> None:
    """The AsyncAPI document."""
    descriptions: dict[str, Any] = {}

    @router.get("/asyncapi.json", include_in_schema=False)
    async def describe_streams(request: Request) -> Response:
        """It is there where the application shows its OpenAPI document."""
        app = request.app
        if getattr(app, "openapi_url", None) is None:
            raise HTTPException(404)
        if not descriptions:
            title, version = app.title, app.version
            descriptions.update(asyncapi.describe(topics, title=title, version=version, key=key))
        document = asyncapi.document(place_of(request, "/asyncapi.json"), descriptions)
        response = JsonResponse(document, headers={"Cache-Control": "no-store"})
        response.raw_headers += SAFE
        return response


def _document_topics(router: APIRouter, topics: Topics) -> None:
    """Typed topics, with their models."""
    by_address: dict[str, list[Topic[Any]]] = {}
    for topic in topics.topics:
        by_address.setdefault(topic.address, []).append(topic)
    for address, kinds in by_address.items():
        model: Any = Union.__getitem__(tuple(kind.model for kind in kinds))
        names = kinds[0].parameters
        types = {kind.type for kind in kinds}
        refusals: dict[int | str, dict[str, Any]] = {422: {}}
        router.add_api_route(
            f"/events/{address}",
            _documented(names, body=model),
            methods=["POST"],
            status_code=201,
            response_class=Response,
            response_model=None,
            responses=refusals,
            summary=f"Publish to {address}",
            openapi_extra=openapi.publish_typed(kinds[0].type if len(types) == 1 else None),
        )
        router.add_api_route(
            f"/events/{address}",
            _documented(names, gives=GenericAlias(AsyncIterable, (model,))),
            methods=["GET"],
            response_class=EventSourceResponse,
            responses=refusals,
            summary=f"Subscribe to {address}",
            openapi_extra=openapi.SUBSCRIBE_TYPED,
        )


def _documented(names: Iterable[str], *, body: Any = None, gives: Any = None) -> Callable[..., Any]:
    """What FastAPI takes for a route's function, with these parameters in the path, this body, and this stream."""

    async def publish(**_: object) -> None:
        raise AssertionError("another route answers")

    async def subscribe(**_: object) -> AsyncIterator[None]:
        yield

    parameters = [Parameter(name, Parameter.KEYWORD_ONLY, annotation=str) for name in names]
    if body is not None:
        own = "data" if "data" not in names else max(names, key=len) + "_data"
        parameters.append(Parameter(own, Parameter.KEYWORD_ONLY, annotation=Annotated[body, Body()]))
    function: Any = publish if gives is None else subscribe
    function.__signature__ = Signature(parameters, return_annotation=Signature.empty if gives is None else gives)
    return cast("Callable[..., Any]", function)


class FeedEndpoints:
    """The same routes as plain ASGI, for our own application.

    FastAPI's way to a route costs more than publishing does, and its middleware would wrap the server's `send`, which
    the pump needs as it is.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> bool:
        """Answer the request, with these headers too, if it is for one of the routes; else say so by `False`, with
        nothing done."""
        kind = scope["type"]
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
                publish = publish_batch if name is None else publish_to_topic
                await self._respond(publish, scope, receive, send, headers)
                return True
            if method in ("GET", "HEAD"):
                scope["path_params"] = {} if name is None else {"topic": name}
                await self._respond(_subscribe, scope, receive, send, headers)
                return True
        elif base == "ws" and kind == "websocket":
            scope["path_params"] = {} if name is None else {"pattern": name}
            await serve_websocket(self._gate, WebSocket(scope, receive, send), send)
            return True
        return False

    async def _respond(
        self,
        handle: Callable[[Gate, Request], Awaitable[Response]],
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Headers,
    ) -> None:
        try:
            response = await problems_answered(partial(handle, self._gate), Request(scope, receive))
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            response = Problem(500, "an error of this server, which its log explains")
        response.raw_headers += headers
        if not isinstance(response, StreamResponse):
            answered(scope, response)
        await response(scope, receive, send)


@reads_counted
async def _subscribe(gate: Gate, request: Request) -> Response:
    query = query_of(request)
    pattern = path_parameter(request, "topic", "pattern")
    patterns = [*([] if pattern is None else [pattern]), *query.all("topic")]
    if not patterns:
        raise Invalid("pattern", "is missing: name a topic, or ** for everything, in the path or with ?topic=")
    kind = accepted(request, (SSE, NDJSON, JSON)) or SSE
    selection = gate.feed.select(patterns, query.all("type"))
    grants, refused = NOTHING, None
    try:
        grants = await gate.subscriber(request, selection.patterns)
    except FeedUnavailable as error:
        if kind == JSON:
            raise
        refused = error
    query.check(Use.PAGE if kind == JSON else Use.STREAM, gate.parameters)
    if kind == JSON:
        return await history_page(gate.feed, request, selection, query, grants)
    forget_query(request)
    return StreamResponse(
        gate.feed,
        selection,
        after=last_event_id(request, query),
        last=query.number("last", least=1, most=MAX_LAST),
        peer=peer(request, "ndjson" if kind == NDJSON else "sse", grants),
        media_type=kind,
        farewell=gate.farewell,
        refused=refused,
        envelope=query.one("envelope") not in (None, "", "0", "false"),
    )
