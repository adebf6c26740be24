"""The application: a feed's routes, the dashboard, the documentation, and the health checks of load balancers."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from feed import Feed, Forbidden, LogRefused
from feed.fastapi.auth.access import Access, allow_everything
from feed.fastapi.auth.origins import Headers, Hosts, Origins
from feed.fastapi.auth.rate_limit import Rate
from feed.fastapi.describe import openapi
from feed.fastapi.http.bodies import Bodies
from feed.fastapi.http.problems import SAFE, answer_http_exception, deny, problem_of
from feed.fastapi.logging.requests import RequestLog, begin_request_log, record_answer
from feed.fastapi.metrics.prometheus import metrics_of
from feed.fastapi.pages import pages_router
from feed.fastapi.routes.draining import open_with_application
from feed.fastapi.routes.endpoints import FeedEndpoints
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.health import health_router
from feed.fastapi.routes.metrics import metrics_router
from feed.fastapi.routes.router import gated_router
from feed.fastapi.routes.session import session_router
from feed.fastapi.routes.subscriptions import subscriptions_router
from feed.log import is_shared
from feed_server.logging.stderr import dropped_lines
from feed_server.publishing import Publishing
from feed_server.settings import Settings, only_one_process

if TYPE_CHECKING:
    from feed_server.auth.tokens import Tokens


class App(FastAPI):
    """FastAPI, with the feed's own routes answered before FastAPI's. FastAPI knows these routes too: for the
    documentation, for the methods that they do not have, and for added middleware, which must not be bypassed.

    Every request is checked first: its Host must be one of `hosts`, where these are given, and its Origin must be
    allowed.
    """

    def __init__(
        self,
        gate: Gate,
        origins: Origins,
        hosts: Hosts | None,
        publishing: Publishing,
        describe: Callable[[dict[str, Any]], dict[str, Any]],
        **options: Any,
    ) -> None:
        """`publishing` is for a server that publishes by itself. `describe` turns the OpenAPI document that FastAPI
        makes of its routes into this server's."""
        super().__init__(**options)
        self.publishing = publishing
        self._describe = describe
        self._endpoints = FeedEndpoints(gate)
        self._origins = origins
        self._hosts = hosts

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document. Overrides FastAPI's."""
        if self.openapi_schema is None:
            self.openapi_schema = self._describe(super().openapi())
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, and answer it."""
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        log = begin_request_log(scope)
        try:
            headers = self._origins.answer_headers(scope)
            if (answer := self._answer_at_once(scope)) is not None:
                answer.raw_headers += headers
                record_answer(scope, answer)
                if scope["type"] == "websocket":
                    await deny(WebSocket(scope, receive, send), answer)
                else:
                    await answer(scope, receive, send)
            elif self.user_middleware or not await self._endpoints.answer(scope, receive, send, headers):
                await super().__call__(scope, receive, _with_headers(send, [*headers, *SAFE], log))
        finally:
            if log is not None:
                log.write(scope)

    def _answer_at_once(self, scope: Scope) -> Response | None:
        try:
            if self._hosts is not None:
                self._hosts.check(scope)
            if (allowed := self._origins.preflight_headers(scope)) is not None:
                answer = Response(status_code=204)
                answer.raw_headers += [*SAFE, *allowed]
                return answer
            self._origins.check(scope)
        except Forbidden as error:
            return problem_of(error)
        return None


def _with_headers(send: Send, headers: Headers, log: RequestLog | None) -> Send:
    async def send_with_headers(message: Message) -> None:
        if log is not None:
            log.status = message.get("status", log.status)
            log.bytes_out += len(message.get("body", b""))
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            there = {name for name, _ in message.get("headers", ())}
            missing = [header for header in headers if header[0] not in there]
            message = {**message, "headers": [*message.get("headers", ()), *missing]}
        await send(message)

    return send_with_headers


def create_app(settings: Settings | None = None, feed: Feed | None = None) -> FastAPI:
    """Make the server's application, for any ASGI server. The application opens and closes the feed.

    Its start fails where WEB_CONCURRENCY asks for several processes and the log is one that they cannot share.
    """
    settings = settings or Settings()
    return application(settings, feed or Feed(settings.log, settings.options), processes=_processes())


def application(
    settings: Settings,
    feed: Feed,
    *,
    bodies: Bodies | None = None,
    processes: int = 1,
    server_drains: bool = False,
) -> App:
    """Make the application for `feed serve`, which knows the number of `processes`, counts the unread bytes of its
    connections in `bodies` too, and drains the feed itself (`server_drains`)."""
    metrics = metrics_of(feed, settings.node_name, dropped_lines=dropped_lines)
    tokens = _tokens(settings)
    bodies = bodies or Bodies(settings.max_bodies, settings.body_timeout)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if processes > 1 and not is_shared(feed.log):
            # Not earlier: uvicorn would start workers that fail while they are loaded again and again.
            raise LogRefused(f"WEB_CONCURRENCY is {processes}, and {only_one_process(feed.log)}, or one process")
        async with open_with_application(feed, server_drains=server_drains):
            sharing = asyncio.create_task(metrics.keep(), name="feed-metrics")
            try:
                yield
            finally:
                sharing.cancel()
                if tokens is not None:
                    await tokens.aclose()
        metrics.share()

    shutdown_grace = settings.drain + 5  # our own drain cuts streams; sse-starlette must not do so before
    authorize = allow_everything if tokens is None else Access(tokens, settings.public)
    gate = Gate(
        feed,
        authorize,
        None,
        bodies=bodies,
        max_body=settings.max_body,
        shutdown_grace=shutdown_grace,
        rate=None if settings.publish_rate is None else Rate(settings.publish_rate),
    )
    origins = Origins(settings.origins)
    hosts = None if settings.has_key else Hosts(settings.hosts, exposed=settings.insecure)
    app = App(
        gate,
        origins,
        hosts,
        Publishing(gate, origins, hosts, tokens, settings.proxies),
        partial(
            openapi.of_server,
            key=settings.has_key,
            public=bool(settings.public),
            metrics_public=settings.metrics_public,
        ),
        title="feed",
        version=version("feed"),
        description="A live-update feed: publish by POST, subscribe over Server-Sent Events or WebSocket.",
        lifespan=lifespan,
        servers=[{"url": "./"}],  # relative to the document: a path prefix that a proxy removes is not known here
        root_path_in_servers=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: answer_http_exception, 500: answer_http_exception},
    )
    app.include_router(gated_router(gate, key=settings.has_key))
    app.include_router(session_router(authorize))
    app.include_router(subscriptions_router(feed, authorize))
    app.include_router(health_router(feed))
    app.include_router(metrics_router(metrics, allow_everything if settings.metrics_public else authorize))
    app.include_router(pages_router(dashboard=True, docs=True))
    return app


def _tokens(settings: Settings) -> Tokens | None:
    if not settings.has_key:
        return None
    from feed_server.verifier import verifier_of  # PyJWT and cryptography take a tenth of a second

    return verifier_of(settings)


def _processes() -> int:
    """Return the number of processes that uvicorn and gunicorn start, unless told otherwise."""
    value = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(value) if value.isdecimal() else 1
