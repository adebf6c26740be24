"""The routes for operators of a feed, for any FastAPI application: `app.include_router(admin_router(feed))`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

from fastapi import APIRouter

from feed import Feed
from feed.fastapi.auth.access import allow_everything
from feed.fastapi.auth.dependency import AuthorizeDependency, solved
from feed.fastapi.routes.health import health_router
from feed.fastapi.routes.subscriptions import subscriptions_router


def admin_router(feed: Feed, *, authorize: AuthorizeDependency | None = None, metrics: bool = True) -> APIRouter:
    """Serve `/subscriptions`, `/metrics`, `/healthz` and `/readyz`.

    `authorize` is any FastAPI dependency that returns the `Grants` of a request, as for `feed_router`. Subscriptions
    and metrics need `admin=True`; the health checks are open to all. Without `authorize` everything is allowed:
    then put the router behind your own login, `include_router(admin_router(feed), prefix="/admin",
    dependencies=[Depends(login)])`.

    `/metrics` shows the metrics of this process, under the node name `FeedOptions.node`, or this host's name. They have
    a registry of their own and do not touch yours. If PROMETHEUS_MULTIPROC_DIR is set, any process answers for all.
    `metrics=False` leaves `/metrics` out, and prometheus-client is then not needed.

    Raises `ImportError` if prometheus-client is needed and missing.
    """
    allowed = allow_everything if authorize is None else solved(authorize)
    if not metrics:
        router = APIRouter()
    else:
        try:
            from feed.fastapi.metrics.prometheus import metrics_of  # an extra of its own
            from feed.fastapi.routes.metrics import metrics_router
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "prometheus_client":
                raise
            message = (
                "admin_router: /metrics needs prometheus-client: pip install 'feed[metrics]', or pass metrics=False"
            )
            raise ImportError(message) from None
        figures = metrics_of(feed, feed.options.node or socket.gethostname())

        @contextlib.asynccontextmanager
        async def lifespan(_: object) -> AsyncIterator[None]:
            keeping = asyncio.create_task(figures.keep(), name="feed-metrics")
            try:
                yield
            finally:
                keeping.cancel()
                figures.share()

        router = APIRouter(lifespan=lifespan)
        router.include_router(metrics_router(figures, allowed))
    router.include_router(subscriptions_router(feed, allowed))
    router.include_router(health_router(feed))
    return router
