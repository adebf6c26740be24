"""The application: a feed's routes, the dashboard, the documentation, and what a load balancer asks for."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from importlib import resources
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from feed import Feed, FeedUnavailable, Forbidden, LogRefused
from feed.fastapi.auth.access import Access, Authorize, allow_everything
from feed.fastapi.auth.origins import Headers, Hosts, Origins
from feed.fastapi.auth.rate_limit import Rate
from feed.fastapi.describe import openapi
from feed.fastapi.http.bodies import Bodies
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.problems import SAFE, FeedRoute, Problem, answer_http_exception, deny, problem_of
from feed.fastapi.logging.requests import Exchange, answered, begin
from feed.fastapi.metrics.prometheus import Metrics, metrics_of
from feed.fastapi.routes.draining import open_with_application
from feed.fastapi.routes.gate import Gate
from feed.fastapi.routes.router import FeedEndpoints, gated_router
from feed.fastapi.routes.session import session_router
from feed.fastapi.routes.subscriptions import subscriptions_router
from feed.log import is_shared
from feed_server.settings import Settings, only_one_process

if TYPE_CHECKING:
    from feed_server.auth.tokens import Tokens

_DASHBOARD = Path(str(resources.files("feed_dashboard")))
_READY_SECONDS = 2.0  # that the log has for its answer

_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {"Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8"}

# Not left to the machine's own list, which may be odd: no browser runs a script that is sent as plain text.
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

_PACKAGE = frozenset({".py", ".pyc", ".typed"})  # what makes a package of the folder


class _Assets(StaticFiles):
    """Files beside the pages. A browser asks each time whether they have changed, so that an upgrade is seen.

    They have a policy too: a shared worker obeys that of its script, and not the page's.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        if scope["method"] not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if Path(path).suffix in _PACKAGE:
            raise HTTPException(404)
        return await super().get_response(path, scope)

    def file_response(self, full_path: str | os.PathLike[str], *arguments: Any, **options: Any) -> Response:
        response = super().file_response(full_path, *arguments, **options)
        media_type = _MEDIA_TYPES.get(Path(full_path).suffix)
        if media_type is not None and "content-type" in response.headers:  # not in a 304
            response.headers["Content-Type"] = media_type
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = _POLICY
        return response


class _App(FastAPI):
    """FastAPI, with the feed's own routes answered before it. It knows them too, for its documentation, for the methods
    that they do not have, and for whoever adds middleware, which must not be passed by.

    Before anything else a request has to be for a name that is this server's, where `hosts` says so, and from a page
    that may ask.
    """

    def __init__(
        self,
        gate: Gate,
        origins: Origins,
        hosts: Hosts | None,
        describe: Callable[[dict[str, Any]], dict[str, Any]],
        **options: Any,
    ) -> None:
        """`describe` makes the document of this server of the one that FastAPI makes of its routes."""
        super().__init__(**options)
        self._describe = describe
        self._endpoints = FeedEndpoints(gate)
        self._origins = origins
        self._hosts = hosts

    def openapi(self) -> dict[str, Any]:
        """See FastAPI's."""
        if self.openapi_schema is None:
            self.openapi_schema = self._describe(super().openapi())
        return self.openapi_schema

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await super().__call__(scope, receive, send)
            return
        exchange = begin(scope)
        try:
            headers = self._origins.answer_headers(scope)
            if (answer := self._answer_at_once(scope)) is not None:
                answer.raw_headers += headers
                answered(scope, answer)
                if scope["type"] == "websocket":
                    await deny(WebSocket(scope, receive, send), answer)
                else:
                    await answer(scope, receive, send)
            elif self.user_middleware or not await self._endpoints.answer(scope, receive, send, headers):
                await super().__call__(scope, receive, _with_headers(send, [*headers, *SAFE], exchange))
        finally:
            if exchange is not None:
                exchange.end(scope)

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


def _with_headers(send: Send, headers: Headers, exchange: Exchange | None) -> Send:
    async def send_with_headers(message: Message) -> None:
        if exchange is not None:
            exchange.status = message.get("status", exchange.status)
            exchange.bytes_out += len(message.get("body", b""))
        if message["type"] in {"http.response.start", "websocket.http.response.start"}:
            there = {name for name, _ in message.get("headers", ())}
            missing = [header for header in headers if header[0] not in there]
            message = {**message, "headers": [*message.get("headers", ()), *missing]}
        await send(message)

    return send_with_headers


def create_app(settings: Settings | None = None, feed: Feed | None = None) -> FastAPI:
    """The server's application, for any ASGI server. It opens and closes the feed.

    It does not start where WEB_CONCURRENCY makes several processes of it, and the log is one that they cannot share.
    """
    settings = settings or Settings()
    return application(settings, feed or Feed(settings.log, settings.options), processes=_processes())


def application(settings: Settings, feed: Feed, *, bodies: Bodies | None = None, processes: int = 1) -> FastAPI:
    """The same for `feed serve`, which knows how many `processes` it is, and counts more than bodies in `bodies`."""
    metrics = metrics_of(feed, settings.node_name)
    tokens = _tokens(settings)
    bodies = bodies or Bodies(settings.max_bodies, settings.body_timeout)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if processes > 1 and not is_shared(feed.log):
            # Here, and not earlier: uvicorn would start workers again and again that fail while they are loaded.
            raise LogRefused(f"WEB_CONCURRENCY is {processes}, and {only_one_process(feed.log)}, or one process")
        async with open_with_application(feed):
            sharing = asyncio.create_task(metrics.keep(), name="feed-metrics")
            try:
                yield
            finally:
                sharing.cancel()
                if tokens is not None:
                    await tokens.aclose()
        metrics.share()

    farewell = settings.drain + 5  # our own drain decides when a stream is cut, and sse-starlette must not before
    authorize = allow_everything if tokens is None else Access(tokens, settings.public)
    gate = Gate(
        feed,
        authorize,
        None,
        bodies=bodies,
        max_body=settings.max_body,
        farewell=farewell,
        rate=None if settings.publish_rate is None else Rate(settings.publish_rate),
    )
    app = _App(
        gate,
        Origins(settings.origins),
        None if settings.has_key else Hosts(settings.hosts, exposed=settings.insecure),
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
        servers=[{"url": "./"}],  # beside the document: a path that a proxy takes away is known to nobody here
        root_path_in_servers=False,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: answer_http_exception, 500: answer_http_exception},
    )
    app.include_router(gated_router(gate, key=settings.has_key))
    app.include_router(session_router(authorize))
    app.include_router(subscriptions_router(feed, authorize))
    app.include_router(_around(feed, metrics, allow_everything if settings.metrics_public else authorize))
    app.mount("/assets", _Assets(directory=_DASHBOARD), name="assets")
    return app


def _tokens(settings: Settings) -> Tokens | None:
    if not settings.has_key:
        return None
    from feed_server.verifier import verifier_of  # PyJWT and cryptography take a tenth of a second

    return verifier_of(settings)


def _processes() -> int:
    """How many processes uvicorn and gunicorn are, unless told otherwise."""
    value = os.environ.get("WEB_CONCURRENCY", "").strip()
    return int(value) if value.isdecimal() else 1


def _around(feed: Feed, metrics: Metrics, authorize_metrics: Authorize) -> APIRouter:
    router = APIRouter(route_class=FeedRoute)

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def dashboard() -> Response:
        # What lit-html makes templates of, and the address of the worker that holds the connection for all tabs.
        policy = f"{_POLICY}; require-trusted-types-for 'script'; trusted-types lit-html feed"
        return FileResponse(_DASHBOARD / "index.html", headers={**_PAGE, "Content-Security-Policy": policy})

    @router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        # Swagger UI cleans with the first and writes markup without a policy: the second, docs.js's own, looks at it.
        policy = f"{_POLICY}; require-trusted-types-for 'script'; trusted-types dompurify default"
        return FileResponse(_DASHBOARD / "docs.html", headers={**_PAGE, "Content-Security-Policy": policy})

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=["health"], openapi_extra=openapi.HEALTH)
    async def healthz() -> Response:
        """Whether the process lives."""
        return JsonResponse({"status": "alive"})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", tags=["health"], openapi_extra=openapi.READINESS)
    async def readyz() -> Response:
        """The log takes events, and streams are taken on."""
        if feed.draining:
            return Problem(503, "this server is being stopped", {"Retry-After": "1"})
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await feed.check()
        except TimeoutError:
            return problem_of(FeedUnavailable("the log does not answer"))
        return JsonResponse({"status": "ready"})

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", tags=["health"], response_class=PlainTextResponse, openapi_extra=openapi.METRICS)
    async def prometheus(request: Request) -> Response:
        """Figures for Prometheus, each with the `node` that it is of."""
        (await authorize_metrics(request)).check_admin()
        page, media_type = await metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    return router
