"""The routes as plain ASGI, and the answer to a GET of events in each of its formats."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from fastapi import Request, WebSocket
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from feed.fastapi.auth.origins import Headers
from feed.fastapi.http.problems import failed, problems_answered
from feed.fastapi.http.request import accepted, forget_query, query_of
from feed.fastapi.logging.requests import record_answer
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.history import history_page, list_of_topics
from feed.fastapi.routes.publish import delete_topic, publish_batch, publish_to_topic
from feed.fastapi.routes.refusals import reads_counted
from feed.fastapi.routes.sse import Format, StreamResponse
from feed.fastapi.routes.subscribe import subscribe_request
from feed.fastapi.routes.websocket import serve_websocket
from feed.media_types import JSON, NDJSON, SSE


@reads_counted
async def read_events(gate: Gate, request: Request) -> Response:
    """Answer a GET of events with the format that `Accept` prefers: a page of JSON, NDJSON, or else SSE."""
    if query_of(request).one("list") is not None:
        return await list_of_topics(gate, request)
    kind = accepted(request, (SSE, NDJSON, JSON)) or SSE
    if kind == JSON:
        return await history_page(gate.feed, request, await subscribe_request(gate, request, "poll"))
    if kind == NDJSON:
        wanted = await subscribe_request(gate, request, "ndjson")
        format: Format = "line"
    else:
        wanted = await subscribe_request(gate, request, "sse")
        format = "envelope" if wanted.envelope else "sse"
    forget_query(request)
    return StreamResponse(gate, wanted, format)


def feed_path(scope: Scope) -> tuple[str, str | None]:
    """Return the first segment of the path, and the topic or pattern behind it, None if there is none."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    if root and path.startswith(f"{root}/"):
        path = path[len(root) :]
    base, slash, name = path[1:].partition("/")
    return base, name if slash else None


class FeedEndpoints:
    """The feed's routes as plain ASGI, for our own application.

    FastAPI's routing costs more than a publish, and its middleware would wrap the server's `send`, which the pump needs
    unwrapped.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def answer(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> bool:
        """Answer the request, with these headers added, if it is for one of the routes. Else return `False` and do
        nothing."""
        kind = scope["type"]
        base, name = feed_path(scope)
        if base == "events" and kind == "http":
            method = scope["method"]
            if method == "POST":
                scope["path_params"] = {} if name is None else {"topic": name}
                publish = publish_batch if name is None else publish_to_topic
                await self._respond(publish, scope, receive, send, headers)
                return True
            if method == "DELETE" and name is not None:
                scope["path_params"] = {"topic": name}
                await self._respond(delete_topic, scope, receive, send, headers)
                return True
            if method in ("GET", "HEAD"):
                scope["path_params"] = {} if name is None else {"topic": name}
                await self._respond(read_events, scope, receive, send, headers)
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
        except Exception as error:  # noqa: BLE001  it is logged
            response = failed(scope["method"], scope["path"], error)
        response.raw_headers += headers
        if not isinstance(response, StreamResponse):
            record_answer(scope, response)
        await response(scope, receive, send)
