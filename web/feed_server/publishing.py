"""Publish one event without a task, ASGI's messages or a `Request`: what the routes do with it, step by step.

The rules are those of the routes, and the very same functions. What would be refused is left to the routes, which then
say why. So is all that has to wait before it is known what may be done, such as a token that was not verified yet. Only
what the log says is answered here, be it good or bad.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, cast

import msgspec
from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from feed import FeedError
from feed.fastapi.auth.access import Verifier, token_digest, token_of
from feed.fastapi.auth.grants import EVERYTHING, Grants
from feed.fastapi.auth.origins import Headers, Hosts, Origins
from feed.fastapi.http.problems import failed, problem_of
from feed.fastapi.logging.requests import REQUESTS, is_request_logged, log_request, shown_path
from feed.fastapi.routes.endpoints import feed_path
from feed.fastapi.routes.gate import Gate, principal
from feed.fastapi.routes.publish import (
    EventHead,
    body_limit,
    created_body,
    created_headers,
    event_of,
    form_of,
    granted_topic,
    key_of,
)
from feed.fastapi.routes.refusals import publish_refused
from feed.fastapi.stepping import run_rest, run_stepped
from feed.log.contract import Appended
from feed_server.logging.prepared import PreparedLine, prepared_line
from feed_server.logging.stderr import only_handler

Address = tuple[str, int] | None

_LENGTH = b"\0"  # stands for the length of a body


class Publisher(Protocol):
    """A connection on which a request has come that publishes."""

    client: Address

    def answered(self, status: int, headers: bytes, body: bytes) -> None:
        """Take the answer. `headers` are whole lines."""


class Accepted(msgspec.Struct, frozen=True, eq=False):
    """A head that allows to publish what follows. It is good for any number of requests with the same head.

    `limit` is the most bytes of a body. `token` is the digest of the token, if there is one. `client` is whom a trusted
    proxy speaks for, None if that is the connection's own. `path` and `line` are for the log. `before` and `after` are
    the headers of a 201 around the length of its body, and `added` are those of CORS.
    """

    event: EventHead
    limit: int
    grants: Grants
    token: bytes | None
    client: Address
    path: str
    line: PreparedLine | None
    before: bytes
    after: bytes
    added: bytes

    @property
    def subject(self) -> str | None:
        """Who is named in the log."""
        return None if self.token is None else self.grants.subject


class Publishing:
    """Publishes for the connections of one server."""

    def __init__(
        self,
        gate: Gate,
        origins: Origins,
        hosts: Hosts | None = None,
        tokens: Verifier | None = None,
        proxies: Sequence[str] = (),
    ) -> None:
        self._gate = gate
        self._feed = gate.feed
        self._origins = origins
        self._hosts = hosts
        self._tokens = tokens
        # uvicorn's types of a scope are others than Starlette's.
        self._proxies: Any = ProxyHeadersMiddleware(cast("Any", _nothing), ",".join(proxies)) if proxies else None

    @property
    def believes_proxies(self) -> bool:
        """Whether the client of a request may be another one than that of its connection."""
        return self._proxies is not None

    def accept(self, scope: Scope) -> Accepted | None:
        """Return what a head allows, None if the routes have to answer. `scope` is that of ASGI."""
        client = scope["client"]
        if self._proxies is not None:
            run_stepped(self._proxies(scope, _never, _never), _ignore)
        connection = HTTPConnection(scope)
        try:
            if self._hosts is not None:
                self._hosts.check(scope)
            self._origins.check(scope)
            base, name = feed_path(scope)
            if base != "events" or name is None:
                return None
            scope["path_params"] = {"topic": name}
            token, grants = self._grants(connection)
            if grants is None:
                return None
            grants.check_publishes_at_all()
            topic = granted_topic(connection, grants)
            form = form_of(connection)
            if form != "text" and form != "json":
                return None
            event = event_of(self._gate, connection, topic, form)
            if event.terms is not None:
                return None
        except Exception:  # noqa: BLE001  whatever it is, the routes meet it too, and answer and log it
            return None
        path = shown_path(scope)
        handler = only_handler(REQUESTS)
        subject = None if token is None else grants.subject
        added = _lines(self._origins.answer_headers(scope))
        before, _, after = _lines(created_headers(_LENGTH)).partition(_LENGTH)
        return Accepted(
            event,
            body_limit(self._gate, form),
            grants,
            token,
            None if scope["client"] == client else scope["client"],
            path,
            prepared_line(handler, logging.INFO, "POST", path, 201, subject)
            if handler and is_request_logged(201)
            else None,
            before,
            after + added,
            added,
        )

    def _grants(self, connection: HTTPConnection) -> tuple[bytes | None, Grants | None]:
        """Return the digest of the token, and what it allows, as far as that is known without waiting."""
        if self._tokens is None:
            return None, EVERYTHING
        token = token_of(connection)
        if token is None:
            return None, None
        digest = token_digest(token)
        return digest, self._tokens.remembered(digest)

    def still_allows(self, accepted: Accepted) -> bool:
        """Return whether a head that was accepted is good now: its token may have expired, or the keys have changed."""
        token = accepted.token
        return token is None or (self._tokens is not None and self._tokens.remembered(token) is accepted.grants)

    def publish(
        self, accepted: Accepted, body: bytes, names: Sequence[str], publisher: Publisher, begun: float | None = None
    ) -> bool:
        """Publish an event with this body, and return whether that was begun: else the routes have to answer.

        `names` are the values of `Idempotency-Key`. `begun` is when the head had come, by `time.perf_counter`, if that
        was earlier than now. The publisher gets the answer before this returns, or later if the log has to wait.
        """
        if begun is None:
            begun = time.perf_counter()
        gate, size = self._gate, len(body)
        client = accepted.client or publisher.client
        if size > accepted.limit or not gate.bodies.has_room(size):
            return False
        try:
            draft, key = accepted.event.draft(gate, body), None
            if names:
                owner = principal(accepted.grants, "" if client is None else client[0])
                key = key_of(names, owner, [draft])
            if gate.rate is not None:  # the last check, as the routes would count once more
                gate.count("" if client is None else client[0], accepted.grants)
        except Exception:  # noqa: BLE001  whatever it is, the routes meet it too, and answer and log it
            return False
        appending = self._feed.append((draft,), key)
        try:
            waiting = appending.send(None)
        except StopIteration as end:
            self._answer(accepted, end.value, size, client, publisher, begun)
        except BaseException as error:  # noqa: BLE001  it is answered
            self._refuse(accepted, error, size, client, publisher, begun)
        else:
            gate.bodies.take(size)
            run_rest(appending, waiting, partial(self._done, accepted, size, client, publisher, begun))
        return True

    def _done(
        self,
        accepted: Accepted,
        size: int,
        client: Address,
        publisher: Publisher,
        begun: float,
        outcome: Appended | BaseException,
    ) -> None:
        self._gate.bodies.release(size)
        if isinstance(outcome, BaseException):
            self._refuse(accepted, outcome, size, client, publisher, begun)
        else:
            self._answer(accepted, outcome, size, client, publisher, begun)

    def _answer(
        self, accepted: Accepted, appended: Appended, size: int, client: Address, publisher: Publisher, begun: float
    ) -> None:
        body = created_body(appended, accepted.event.topic)
        answered = len(body)
        publisher.answered(201, b"%b%d%b" % (accepted.before, answered, accepted.after), body)
        line = accepted.line
        if (
            line is not None
            and client is not None
            and line.write(time.perf_counter() - begun, size, answered, client[0])
        ):
            return
        if is_request_logged(201):
            _log(accepted, 201, time.perf_counter() - begun, size, answered, client)

    def _refuse(
        self, accepted: Accepted, error: BaseException, size: int, client: Address, publisher: Publisher, begun: float
    ) -> None:
        publish_refused(self._feed.counters, error)
        response = problem_of(error) if isinstance(error, FeedError) else failed("POST", accepted.path, error)
        body = bytes(response.body)
        publisher.answered(response.status_code, _lines(response.raw_headers) + accepted.added, body)
        if is_request_logged(response.status_code):
            _log(accepted, response.status_code, time.perf_counter() - begun, size, len(body), client)


def _log(accepted: Accepted, status: int, seconds: float, size: int, answered: int, client: Address) -> None:
    log_request(logging.INFO, "POST", accepted.path, status, seconds, size, answered, client, accepted.subject)


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """The application behind uvicorn's middleware, which changes the scope before it calls this."""


async def _never(*_: object) -> Any:
    raise AssertionError("nothing is sent or received")


def _ignore(_: object) -> None: ...
