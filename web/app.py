"""The application: a feed's routes, the dashboard, the documentation, and what a load balancer asks for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from feed import Feed, FeedUnavailable
from web.problems import FeedRoute, Problem, answer_http_exception, problem_of
from web.router import FeedEndpoints, feed_router
from web.settings import Settings
from web.subscriptions import subscriptions_router

_DASHBOARD = Path(__file__).parent / "dashboard"
_LOOK_SECONDS = 0.5
_READY_SECONDS = 2.0  # that the log has for its answer

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


class _Assets(StaticFiles):
    """Files beside the pages. A browser asks each time whether they have changed, so that an upgrade is seen."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


class _App(FastAPI):
    """FastAPI, with the feed's own routes answered before it. It knows them too, for its documentation, for the methods
    that they do not have, and for whoever adds middleware, which must not be passed by."""

    def __init__(self, endpoints: FeedEndpoints, **options: Any) -> None:
        super().__init__(**options)
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.user_middleware or not await self._endpoints.answer(scope, receive, send):
            await super().__call__(scope, receive, send)


def create_app(settings: Settings | None = None, feed: Feed | None = None) -> FastAPI:
    """The server's application, for `feed serve` and for any ASGI server. It opens and closes the feed."""
    settings = settings or Settings()
    feed = feed or Feed(settings.log, settings.options)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with feed:
            watch = asyncio.create_task(_drain_with_server(feed), name="feed-drain")
            try:
                yield
            finally:
                watch.cancel()

    farewell = settings.drain + 5  # our own drain decides when a stream is cut, and sse-starlette must not before
    app = _App(
        FeedEndpoints(feed, max_body=settings.max_body, farewell=farewell),
        title="feed",
        version=version("feed"),
        description="A live-update feed: publish by POST, subscribe over Server-Sent Events or WebSocket.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: answer_http_exception, 500: answer_http_exception},
    )
    app.include_router(feed_router(feed, max_body=settings.max_body, farewell=farewell))
    app.include_router(subscriptions_router(feed))
    app.include_router(_around(feed))
    app.mount("/assets", _Assets(directory=_DASHBOARD), name="assets")
    return app


async def _drain_with_server(feed: Feed) -> None:
    """End the streams when somebody else's uvicorn is told to stop: it would wait for them, and tells nobody. Our own
    server does so itself."""
    while not feed.draining:
        await asyncio.sleep(_LOOK_SECONDS)
        server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if getattr(server, "should_exit", False):
            feed.drain()


def _around(feed: Feed) -> APIRouter:
    router = APIRouter(route_class=FeedRoute)

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def dashboard() -> Response:
        policy = f"{_POLICY}; require-trusted-types-for 'script'"
        return FileResponse(_DASHBOARD / "index.html", headers={**_PAGE, "Content-Security-Policy": policy})

    @router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs() -> Response:
        # Swagger UI writes markup of its own, which trusted types would refuse.
        return FileResponse(_DASHBOARD / "docs.html", headers={**_PAGE, "Content-Security-Policy": _POLICY})

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", tags=["health"])
    async def healthz() -> Response:
        """Whether the process lives."""
        return JSONResponse({"status": "alive"})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", tags=["health"], responses={503: {"description": "Draining, or the log does not answer."}})
    async def readyz() -> Response:
        """The log takes events, and streams are taken on."""
        if feed.draining:
            return Problem(503, "this server is being stopped", {"Retry-After": "1"})
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await feed.check()
        except TimeoutError:
            return problem_of(FeedUnavailable("the log does not answer"))
        return JSONResponse({"status": "ready"})

    return router
