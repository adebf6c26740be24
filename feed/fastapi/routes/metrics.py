"""`/metrics`, for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from feed.fastapi.auth.access import Authorize
from feed.fastapi.describe import openapi
from feed.fastapi.http.problems import FeedRoute
from feed.fastapi.metrics.prometheus import Metrics


def metrics_router(metrics: Metrics, authorize: Authorize) -> APIRouter:
    """Serve `/metrics` to clients with `admin`. The caller keeps `metrics.keep()` running beside the application."""
    router = APIRouter(route_class=FeedRoute, tags=["health"])

    @router.head("/metrics", include_in_schema=False)
    @router.get("/metrics", response_class=PlainTextResponse, openapi_extra=openapi.METRICS)
    async def prometheus(request: Request) -> Response:
        """Show the metrics for Prometheus, each labelled with its `node`."""
        (await authorize(request)).check_admin()
        page, media_type = await metrics.page(request.headers.get("accept", ""))
        return Response(page, headers={"Content-Type": media_type, "Cache-Control": "no-store"})

    return router
