"""Serve the dashboard, the documentation and their files, with a Content-Security-Policy each.

The files are in the package `feed_dashboard`. Pages refer only to files beside them, so they work below any prefix.
"""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from feed.fastapi.http.problems import FeedRoute

_POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE = {"Cache-Control": "no-store", "Content-Type": "text/html; charset=utf-8"}

# lit-html makes templates with the first policy; the second makes the URL of the worker that all tabs share.
_DASHBOARD_TYPES = "require-trusted-types-for 'script'; trusted-types lit-html feed"
# Swagger UI cleans with the first policy, but writes some markup without one: the second, docs.js's own, checks that.
_DOCS_TYPES = "require-trusted-types-for 'script'; trusted-types dompurify default"

# Not from the system's own list, which may be odd: no browser runs a script that is sent as plain text.
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",  # the types of feed.js, for people to read: by default it is a video
}
_PACKAGE = frozenset({".py", ".pyc", ".typed"})  # files that only make the folder a package

_ROOT = b'<html lang="en"'


def pages_router(*, dashboard: bool = False, docs: bool = False, own_login: bool = False) -> APIRouter:
    """Serve the files of `feed_dashboard` below `/assets`, with `dashboard` the dashboard at `/`, with `docs` Swagger
    UI at `/docs`.

    With `own_login` the dashboard asks for no token: the application around it knows who the user is.
    """
    folder = Path(str(resources.files("feed_dashboard")))
    assets = _Assets(directory=folder)
    router = APIRouter(route_class=FeedRoute)

    @router.api_route("/assets/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(request: Request) -> Response:
        """Answer with the file that the path names."""
        return await assets.answer(request)

    if dashboard:
        page = (folder / "index.html").read_bytes()
        if own_login:
            page = page.replace(_ROOT, _ROOT + b' data-login="own"', 1)

        @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
        async def show_dashboard() -> Response:
            """Answer with the dashboard."""
            return Response(page, headers={**_PAGE, "Content-Security-Policy": f"{_POLICY}; {_DASHBOARD_TYPES}"})

    if docs:

        @router.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
        async def show_docs() -> Response:
            """Answer with Swagger UI."""
            headers = {**_PAGE, "Content-Security-Policy": f"{_POLICY}; {_DOCS_TYPES}"}
            return FileResponse(folder / "docs.html", headers=headers)

    return router


class _Assets(StaticFiles):
    """Serves the pages' files. A browser asks each time whether a file has changed, so that it notices an upgrade.

    The files have a policy too: a shared worker obeys the policy of its script, not that of the page.
    """

    async def answer(self, request: Request) -> Response:
        """Answer with the file that the path names. Raises `HTTPException`."""
        path: str = request.path_params["path"]
        if Path(path).suffix in _PACKAGE:
            raise HTTPException(404)
        return await self.get_response(path, request.scope)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Add the media type, the policy and the caching rule to Starlette's response."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        media_type = _MEDIA_TYPES.get(Path(full_path).suffix)
        if media_type is not None and "content-type" in response.headers:  # not in a 304
            response.headers["Content-Type"] = media_type
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = _POLICY
        return response
