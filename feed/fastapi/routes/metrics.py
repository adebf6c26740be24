"""`/metrics`, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from feed.fastapi.auth.access import Authorize
from feed.fastapi.describe import openapi
from feed.fastapi.http.problems import FeedRoute
from feed.fastapi.metrics.prometheus import Metrics


def metrics_router(metrics: Metrics, authorize: Authorize) -> APIRouter:
    """`/metrics`, for those who run the feed: `admin`. Whoever starts the application lets `metrics.keep()` run."""
    router = APIRouter(route_class=FeedRoute, tags=["health"])

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", response_class=PlainTextResponse, openapi_extra=openapi.METRICS)
    async def prometheus(request: Request) -> Response:
        """Figures for Prometheus, each with the `node` that it is of."""
        (await authorize(request)).check_admin()
        page, media_type = await metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    return router
