"""Count refused requests by the kind of refusal (see `feed.counters`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from feed import Draining, FeedError
from feed.fastapi.http.problems import Refused, status_of
from feed.fastapi.routes.gate import Gate
from feed.statistics import Counters, Outcome, Refusal

_OUTCOMES: dict[int, Outcome] = {
    401: "denied",
    403: "denied",
    429: "overloaded",
    503: "unavailable",
    504: "indeterminate",
}

_Handle = Callable[[Gate, Request], Awaitable[Response]]


def publishes_counted(handle: _Handle) -> _Handle:
    """Decorate a handler that publishes: count its refusals. The feed itself counts what is published."""

    @wraps(handle)
    async def counted(gate: Gate, request: Request) -> Response:
        try:
            return await handle(gate, request)
        except Exception as error:
            publish_refused(gate.feed.counters, error)
            raise

    return counted


def reads_counted(handle: _Handle) -> _Handle:
    """Decorate a handler for readers: count its refusals."""

    @wraps(handle)
    async def counted(gate: Gate, request: Request) -> Response:
        try:
            return await handle(gate, request)
        except Exception as error:
            read_refused(gate.feed.counters, error)
            raise

    return counted


def publish_refused(counters: Counters, error: BaseException) -> None:
    """Count a refused publish under the kind of its error."""
    counters.publishes[_outcome(error)] += 1


def read_refused(counters: Counters, error: Exception) -> None:
    """Count a reader that got neither a stream nor a page, under the kind of the error."""
    outcome = _outcome(error)
    reason: Refusal
    if isinstance(error, Draining):
        reason = "shutdown"
    elif outcome in ("unavailable", "overloaded", "indeterminate"):
        reason = "busy"
    else:
        reason = "denied" if outcome == "denied" else "invalid" if outcome == "invalid" else "failed"
    counters.refused[reason] += 1


def _outcome(error: BaseException) -> Outcome:
    match error:
        case FeedError():
            status = status_of(error)
        case HTTPException():  # of the application around the feed, as is the next case
            status = error.status_code
        case RequestValidationError():
            status = 422
        case Refused():
            status = error.response.status_code
        case ClientDisconnect():  # before its whole request had arrived
            status = 400
        case _:
            status = 500
    return _OUTCOMES.get(status, "invalid" if status < 500 else "failed")
