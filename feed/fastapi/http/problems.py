"""Turn every `FeedError` into a problem document (RFC 9457). Nothing else of the error reaches the client.

This holds on the feed's own routes. The other routes of an application around the feed keep their own format.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Match, Mount
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from feed import (
    Draining,
    FeedError,
    FeedUnavailable,
    Forbidden,
    Indeterminate,
    Invalid,
    Malformed,
    NoEvents,
    Overloaded,
    PreconditionFailed,
    TooLarge,
    Unauthenticated,
)
from feed.errors import InsufficientStorage, TopicRefusal
from feed.fastapi.logging.requests import record_answer
from feed.fastapi.topics import Mismatch
from feed.media_types import PROBLEM

logger = logging.getLogger(__name__)

SAFE = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
"""Headers of every answer. They stop a browser from guessing another media type, and from sending the URL, which may
hold a token, to other sites."""

LINGER_SECONDS = 2.0
"""Seconds for which a refused request is read on, so that the client sees the answer."""

_LINGER_BYTES = 64 << 20

FAULT = "an error of this server, which its log explains"

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class Problem(Response):
    """A problem document, titled with the status's standard phrase."""

    media_type = PROBLEM

    def __init__(
        self,
        status: int,
        detail: str,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        """`members` are extension members of the document (RFC 9457, 3.2)."""
        self.detail = detail
        document = {
            "type": "about:blank",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            **(members or {}),
        }
        # With a line break at its end, like all JSON answers: a terminal's prompt begins on a new line.
        body = orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        super().__init__(body, status, {"Cache-Control": "no-store", **(headers or {})})
        self.raw_headers += SAFE


class UnreadProblem(Problem):
    """A problem that is answered before the request's whole body was read.

    The answer is sent at once, but the connection is closed only after reading on for a moment. Closing it with unread
    bytes makes the kernel reset it, and a client that is still sending would never see the answer.
    """

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, {"Connection": "close", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer, then read on for at most `LINGER_SECONDS`."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = _LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def deny(websocket: WebSocket, response: Response) -> None:
    """Refuse a WebSocket's handshake with this response, or by closing if the server cannot send one."""
    record_answer(websocket.scope, response)
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


class Refused(Exception):
    """Raised for a request that is refused at the level of HTTP. `response` is the whole answer."""

    def __init__(self, response: Problem) -> None:
        super().__init__(response.detail)
        self.response = response


def status_of(error: FeedError) -> int:
    """Return the status for `error`, which says whose fault it is."""
    match error:
        case Malformed():
            return 400
        case Unauthenticated():
            return 401
        case Forbidden():
            return 403
        case NoEvents():
            return 404
        case PreconditionFailed():
            return 412
        case TooLarge():
            return 413
        case Invalid():
            return 422
        case Overloaded():
            return 429
        case InsufficientStorage():
            return 507
        case FeedUnavailable():
            return 503
        case Indeterminate():
            return 504
    return 500


def problem_of(error: FeedError) -> Problem:
    """Return the problem document for `error`."""
    status = status_of(error)
    return Problem(status, str(error) if status != 500 else FAULT, _headers_of(error), _members_of(error))


def failed(method: str, path: str, error: BaseException) -> Problem:
    """Return the problem document for what nobody has foreseen, and log why."""
    logger.error("%s %r failed", method, path, exc_info=error)
    return Problem(500, "this server failed, and its log says why")


def _headers_of(error: FeedError) -> dict[str, str]:
    match error:
        case Draining():  # spread out, so that not all clients come back at once
            return {"Retry-After": str(random.randint(1, error.retry_after))}
        case FeedUnavailable():
            return {"Retry-After": str(error.retry_after)}
        case Unauthenticated():  # RFC 6750, 3
            return {"WWW-Authenticate": 'Bearer error="invalid_token"' if error.invalid else "Bearer"}
    return {}


def _members_of(error: FeedError) -> dict[str, object]:
    match error:
        case Mismatch() if error.errors:
            return {"errors": error.errors}
        case PreconditionFailed() if error.current is not None:
            return {"topic": error.topic, "current": error.current}
        case TopicRefusal():
            return {"topic": error.topic}
    return {}


class FeedRoute(APIRoute):
    """A route whose errors are problem documents, in any application."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler: answer errors as problems, and add the headers `SAFE`."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            response = await problems_answered(handle, request)
            response.raw_headers += [header for header in SAFE if header not in response.raw_headers]
            return response

        return answer


async def problems_answered(handle: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
    """Return what `handle` answers, or a problem for what it raises."""
    try:
        return await handle(request)
    except FeedError as error:
        return problem_of(error)
    except Refused as refused:
        return refused.response
    except ClientDisconnect:
        return Response(status_code=400)  # the client has left and does not read it


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method, or a failure, in our own application."""
    if not isinstance(error, HTTPException):
        return Problem(500, "this server failed, and its log says why")
    headers, detail = dict(error.headers or {}), error.detail
    if error.status_code == 404 and detail == HTTPStatus.NOT_FOUND.phrase:
        detail = "there is nothing at this path: see /docs"
    if error.status_code == 405:
        # A path often has several routes, and the one that refuses knows only its own methods (RFC 9110, 15.5.6).
        allowed = {method for method in _METHODS if _is_routed(request, method)}
        headers["Allow"] = ", ".join(sorted(allowed.union(headers.get("Allow", "").split(", ")) - {""}))
        detail = f"this path accepts only {headers['Allow']}"
    return Problem(error.status_code, detail, headers)


def _is_routed(request: Request, method: str) -> bool:
    routes = request.app.router.routes
    scope = {**request.scope, "method": method}
    return any(not isinstance(route, Mount) and route.matches(scope)[0] is Match.FULL for route in routes)
