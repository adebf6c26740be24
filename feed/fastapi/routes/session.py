"""Sessions: a token put into a cookie, for an `EventSource`, which cannot send headers."""

from __future__ import annotations

import math
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from feed import Invalid, Unauthenticated
from feed.fastapi.auth.access import COOKIE, Authorize, bearer_token
from feed.fastapi.describe import openapi
from feed.fastapi.http.parameters import Use
from feed.fastapi.http.problems import FeedRoute
from feed.fastapi.http.request import query_of

_MAX_COOKIE = 4096  # bytes of name and value: more is dropped by browsers without a word (RFC 6265bis, 5.6)


def session_router(authorize: Authorize) -> APIRouter:
    """`POST /session` and `DELETE /session`."""
    router = APIRouter(route_class=FeedRoute, tags=["session"])

    @router.post("/session", status_code=204, response_class=Response, openapi_extra=openapi.BEGIN_SESSION)
    async def begin(request: Request) -> Response:
        """Put the Bearer token into a cookie that scripts cannot read, until it expires."""
        token = bearer_token(request)
        grants = await authorize(request)
        query_of(request).check(Use.SESSION)
        if grants.expires == math.inf and not grants.anonymous:
            return Response(status_code=204)  # there is no key, and so no need
        if token is None:
            raise Unauthenticated("a session begins with a token in the header Authorization: Bearer")
        if len(COOKIE) + len(token) > _MAX_COOKIE:
            raise Invalid("token", f"is longer than a cookie may be, {_MAX_COOKIE:,} bytes: grant less by pattern")
        return _with_cookie(request, token, max(0, int(grants.expires - time.time())))

    @router.delete("/session", status_code=204, response_class=Response, openapi_extra=openapi.END_SESSION)
    async def end(request: Request) -> Response:
        """Take the cookie back. It needs no token: one that has become invalid must not stay for ever."""
        query_of(request).check(Use.SESSION)
        return _with_cookie(request, "", 0)

    return router


def _with_cookie(request: Request, token: str, seconds: int) -> Response:
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.set_cookie(
        COOKIE,
        token,
        max_age=seconds,
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response
