"""Sessions: a token in a cookie, for `EventSource`, which cannot send headers."""

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

_MAX_COOKIE = 4096  # bytes of name and value: browsers silently drop longer ones (RFC 6265bis, 5.6)


def session_router(authorize: Authorize) -> APIRouter:
    """Serve `POST /session` and `DELETE /session`."""
    router = APIRouter(route_class=FeedRoute, tags=["session"])

    @router.post("/session", status_code=204, response_class=Response, openapi_extra=openapi.BEGIN_SESSION)
    async def begin(request: Request) -> Response:
        """Put the Bearer token into a cookie that scripts cannot read. The cookie expires with the token."""
        token = bearer_token(request)
        grants = await authorize(request)
        query_of(request).check(Use.SESSION)
        if grants.expires == math.inf and not grants.anonymous:
            return Response(status_code=204)  # the server has no key, and so needs no token
        if token is None:
            raise Unauthenticated("no token: to begin a session, send one in the header Authorization: Bearer")
        if len(COOKIE) + len(token) > _MAX_COOKIE:
            raise Invalid("token", f"does not fit into a cookie of {_MAX_COOKIE:,} bytes: grant fewer patterns")
        return _with_cookie(request, token, max(0, int(grants.expires - time.time())))

    @router.delete("/session", status_code=204, response_class=Response, openapi_extra=openapi.END_SESSION)
    async def end(request: Request) -> Response:
        """Clear the cookie. No token is needed, so that an invalid one can be removed too."""
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
