"""Who listens now, on all nodes, and how to end the stream of one or of all who are one subject."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from feed import Feed, Invalid
from feed.fastapi.auth.access import Authorize
from feed.fastapi.describe import openapi
from feed.fastapi.http.json_response import JsonResponse
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import FeedRoute, Problem
from feed.fastapi.http.request import query_of
from feed.survey import SilentNodes, Subscriber
from feed.wire import rfc3339

_MOST = 1_000


def subscriptions_router(feed: Feed, authorize: Authorize) -> APIRouter:
    """Return the routes for those who manage the feed: they need `admin`."""
    router = APIRouter(route_class=FeedRoute, tags=["operation"])

    @router.get("/subscriptions", openapi_extra=openapi.LIST_SUBSCRIPTIONS)
    async def subscriptions(request: Request) -> Response:
        """List who listens now, in the order of their ids, at most `limit` (by default 100) on a page. To continue,
        give the page's `next` as `after`. `silent` names the nodes that did not answer in time: their subscriptions are
        missing."""
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

    @router.delete("/subscriptions", openapi_extra=openapi.END_SUBSCRIPTIONS)
    async def end_all(request: Request) -> Response:
        """End all streams of a subject, on all nodes, with `feed.closing`, reason `kicked`: the subject has logged out,
        for example. A kick is not a ban: whoever comes back is judged anew."""
        (await authorize(request)).check_admin()
        query = query_of(request)
        query.check(Use.KICK_ALL)
        subjects = query.all("subject")
        if len(subjects) > 1:
            raise Invalid("subject", "may be given only once: ask for each subject by itself")
        if not subjects:
            raise Invalid("subject", "is missing: say whose streams to end, or name one: DELETE /subscriptions/ID")
        silent: tuple[str, ...] = ()
        try:
            ended = await feed.kick(subject=subjects[0])
        except SilentNodes as error:
            if not error.ended:
                raise
            ended, silent = error.ended, tuple(error.nodes)
        return JsonResponse({"ended": ended, "silent_nodes": silent}, headers={"Cache-Control": "no-store"})

    @router.delete("/subscriptions/{id}", status_code=204, openapi_extra=openapi.END_SUBSCRIPTION)
    async def end(request: Request) -> Response:
        """End a subscription, on whichever node it is, with `feed.closing`, reason `kicked`. It may come back."""
        (await authorize(request)).check_admin()
        query_of(request).check(Use.KICK)
        if await feed.kick(request.path_params["id"]):
            return Response(status_code=204)
        return Problem(404, "there is no such subscription: it has ended, or the id is wrong")

    return router


def _described(subscriber: Subscriber) -> dict[str, Any]:
    return {**msgspec.structs.asdict(subscriber), "since": rfc3339(subscriber.since)}
