"""Log a line for each request, and for each stream at its end: what it was, its outcome, and its client.

The lines are ordinary records of the loggers `feed.requests` and `feed.streams`. `feed serve` logs them; any other
application decides by its own configuration. A request's line has the path without the query, and no header, so that no
token is in it. A token in the path, by `&token=` in place of `?token=`, is removed too.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from feed import Subscription
from feed.fastapi.logging.records import FactRecord, without_tokens

REQUESTS = logging.getLogger("feed.requests")
_publishes = logging.getLogger("feed.requests.publishes")  # successful publishes: there may be thousands a second
_streams = logging.getLogger("feed.streams")

_KEY = "feed.request_log"  # in the scope
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # machines ask for these all the time

_MAX_PATH = 512  # characters of the path that a client sent
_MAX_NAME = 128
_MAX_PATTERNS = 10


class RequestLog:
    """Collects the line of a request while the request is under way. A scope has one only if the line is wanted."""

    __slots__ = ("_begun", "_level", "bytes_in", "bytes_out", "principal", "refused", "status", "streamed")

    def __init__(self, level: int) -> None:
        self._begun = time.perf_counter()
        self._level = level
        self.status: int | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.principal: str | None = None
        self.refused: str | None = None  # why there is no stream, if the status does not tell
        self.streamed = False  # then the stream has a line of its own

    def write(self, scope: Scope) -> None:
        """Log the finished request, unless a stream followed, which has a line of its own."""
        if self.streamed or (self.status == 201 and not _publishes.isEnabledFor(self._level)):
            return
        log_request(
            self._level,
            scope.get("method", "GET"),  # a WebSocket's handshake is a GET
            shown_path(scope),
            self.status,
            time.perf_counter() - self._begun,
            self.bytes_in,
            self.bytes_out,
            scope.get("client"),
            self.principal,
            self.refused,
        )


def shown_path(scope: Scope) -> str:
    """Return the path as the lines of its requests have it: without the query, and without a token."""
    raw: bytes = scope.get("raw_path") or b""
    return _shown(raw.decode("latin-1"), _MAX_PATH)


def log_request(
    level: int,
    method: str,
    path: str,
    status: int | None,
    seconds: float,
    bytes_in: int,
    bytes_out: int,
    client: tuple[str, int] | None,
    principal: str | None,
    refused: str | None = None,
) -> None:
    """Log a request that is over. `path` is what `shown_path` returned."""
    facts = request_facts(method, path, status, seconds, bytes_in, bytes_out, client, principal, refused)
    REQUESTS.handle(FactRecord(REQUESTS.name, level, facts))


def request_facts(
    method: str,
    path: str,
    status: int | None,
    seconds: float,
    bytes_in: int,
    bytes_out: int,
    client: tuple[str, int] | None,
    principal: str | None,
    refused: str | None = None,
) -> dict[str, Any]:
    """Return what the line of a request says."""
    facts: dict[str, Any] = {
        "event": "request",
        "method": method,
        "path": path,
        "status": status,
        "ms": milliseconds(seconds),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "client": client[0][:_MAX_NAME] if client else "",
    }
    if principal is not None:
        facts["principal"] = principal[:_MAX_NAME]
    if refused is not None:
        facts["refused"] = refused
    return facts


def milliseconds(seconds: float) -> float:
    """Return a duration as a line says it."""
    return round(seconds * 1000, 2)


def is_request_logged(status: int) -> bool:
    """Return whether a request to the feed's own routes with this outcome is to be logged."""
    return REQUESTS.isEnabledFor(logging.INFO) and (status != 201 or _publishes.isEnabledFor(logging.INFO))


def begin_request_log(scope: Scope) -> RequestLog | None:
    """Put a log for this request into its scope, and return it; None if no line is wanted."""
    level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
    if not REQUESTS.isEnabledFor(level):
        return None
    log = scope[_KEY] = RequestLog(level)
    return log


def request_log_of(scope: Scope) -> RequestLog | None:
    """Return the log of this request, None if no line is wanted."""
    return scope.get(_KEY)


def record_answer(scope: Scope, response: Response) -> None:
    """Record the status and size of an answer that is not a stream."""
    if (log := request_log_of(scope)) is not None:
        log.status = response.status_code
        log.bytes_out = len(response.body)


def record_stream(scope: Scope) -> None:
    """Record that a stream follows, which has a line of its own."""
    if (log := request_log_of(scope)) is not None:
        log.streamed = True


def record_no_stream(scope: Scope, refused: str | None = None) -> None:
    """Record that a stream's headers were sent but no stream follows: for a HEAD, or `refused` for this reason."""
    if (log := request_log_of(scope)) is not None:
        log.status, log.refused = 200, refused


def log_unreadable(client: tuple[str, int] | None, status: int, detail: str) -> None:
    """Log bytes that could not be read as a request."""
    if REQUESTS.isEnabledFor(logging.INFO):
        facts = {"event": "request", "method": None, "path": None, "status": status, "refused": detail}
        facts["client"] = client[0][:_MAX_NAME] if client else ""
        REQUESTS.handle(FactRecord(REQUESTS.name, logging.INFO, facts))


def log_stream(subscription: Subscription) -> None:
    """Log a stream that has ended."""
    if not _streams.isEnabledFor(logging.INFO):
        return
    peer, patterns = subscription.peer, subscription.selection.patterns
    facts: dict[str, Any] = {
        "event": "stream",
        "subscription": subscription.id,
        "transport": peer.transport,
        "patterns": [_shown(pattern, _MAX_NAME) for pattern in patterns[:_MAX_PATTERNS]],
        "ended": subscription.ended,
        "events": subscription.events,
        "bytes_out": subscription.sent,
        "seconds": round(max(0.0, time.time() - subscription.since / 1000), 3),
        "last_id": subscription.told,
        "client": peer.address[:_MAX_NAME],
    }
    if len(patterns) > _MAX_PATTERNS:
        facts["more_patterns"] = len(patterns) - _MAX_PATTERNS
    if peer.principal is not None:
        facts["principal"] = peer.principal[:_MAX_NAME]
    _streams.handle(FactRecord(_streams.name, logging.INFO, facts))


def _shown(text: str, most: int) -> str:
    if (
        "eyJ" in text or "oken=" in text
    ):  # the beginning of a token; searching for whole tokens costs more than the line itself
        text = without_tokens(text)
    return text[:most]
