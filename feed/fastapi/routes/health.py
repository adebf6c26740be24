"""Health checks for load balancers: is the process alive, and does it accept streams and events?"""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from feed import Feed, FeedUnavailable
from feed.fastapi.describe import openapi
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.problems import FeedRoute, Problem, problem_of

_READY_SECONDS = 2.0  # within which the log has to answer


def health_router(feed: Feed) -> APIRouter:
    """Serve `/healthz` and `/readyz`, without authorization."""
    router = APIRouter(route_class=FeedRoute, tags=["health"])

    @router.head("/healthz", include_in_schema=False)
    @router.get("/healthz", openapi_extra=openapi.HEALTH)
    async def healthz() -> Response:
        """Tell whether the process is alive."""
        return JsonResponse({"status": "alive"})

    @router.head("/readyz", include_in_schema=False)
    @router.get("/readyz", openapi_extra=openapi.READINESS)
    async def readyz() -> Response:
        """Tell whether the log accepts events, and this server new streams."""
        if feed.draining:
            return Problem(503, "this server is being stopped", {"Retry-After": "1"})
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await feed.check()
        except TimeoutError:
            return problem_of(FeedUnavailable("the log does not answer"))
        return JsonResponse({"status": "ready"})

    return router
