"""Who listens now, on all nodes, and how to end one."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from feed import Feed
from feed.fastapi.auth.access import Authorize
from feed.fastapi.describe import openapi
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import FeedRoute, Problem
from feed.fastapi.http.request import query_of
from feed.survey import Subscriber
from feed.wire import rfc3339

_MOST = 1_000


def subscriptions_router(feed: Feed, authorize: Authorize) -> APIRouter:
    """The routes for those who run the feed: `admin`."""
    router = APIRouter(route_class=FeedRoute, tags=["operation"])

    @router.get("/subscriptions", openapi_extra=openapi.LIST_SUBSCRIPTIONS)
    async def subscriptions(request: Request) -> Response:
        """Who listens now: a page of at most `limit` (100 unless said), in the order of their ids; go on with `after`
        and what `next` says. `silent` are the nodes that did not answer in time: theirs are missing."""
        (await authorize(request)).check_admin()
        query = query_of(request)
        query.check(Use.SUBSCRIPTIONS)
        found = await feed.subscribers_everywhere(
            after=query.one("after") or "", limit=query.number("limit", least=1, most=_MOST) or 100
        )
        document = {
            "subscriptions": [_described(subscriber) for subscriber in found.subscribers],
            "next": found.next,
            "silent": found.silent,
        }
        return JsonResponse(document, headers={"Cache-Control": "no-store"})

    @router.delete("/subscriptions/{id}", status_code=204, openapi_extra=openapi.END_SUBSCRIPTION)
    async def end(request: Request) -> Response:
        """End a subscription, on whichever node it is: it is told `feed.closing`, reason `kicked`. It may come back."""
        (await authorize(request)).check_admin()
        query_of(request).check(Use.KICK)
        if await feed.kick(request.path_params["id"]):
            return Response(status_code=204)
        return Problem(404, "no such subscription: it has ended, or it never was")

    return router


def _described(subscriber: Subscriber) -> dict[str, Any]:
    return {**msgspec.structs.asdict(subscriber), "since": rfc3339(subscriber.since)}
