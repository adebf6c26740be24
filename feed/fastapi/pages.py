"""The dashboard, the documentation, and the files beside them, with the policies that browsers hold them to.

The files lie in the package `feed_dashboard`. All that a page names is beside it, so that it works below any prefix.
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

# What lit-html makes templates of, and the address of the worker that holds the connection for all tabs.
_DASHBOARD_TYPES = "require-trusted-types-for 'script'; trusted-types lit-html feed"
# Swagger UI cleans with the first and writes markup without a policy: the second, docs.js's own, looks at it.
_DOCS_TYPES = "require-trusted-types-for 'script'; trusted-types dompurify default"

# Not left to the machine's own list, which may be odd: no browser runs a script that is sent as plain text.
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".ts": "text/plain; charset=utf-8",  # the types of feed.js, to be read: elsewhere it is a video
}
_PACKAGE = frozenset({".py", ".pyc", ".typed"})  # what makes a package of the folder

_ROOT = b'<html lang="en"'


def pages_router(*, dashboard: bool = False, docs: bool = False, own_login: bool = False) -> APIRouter:
    """Serve the files of `feed_dashboard` below `/assets`, with `dashboard` its page at `/`, with `docs` that at
    `/docs`.

    With `own_login` the dashboard asks nobody for a token: the application that it belongs to knows who looks.
    """
    folder = Path(str(resources.files("feed_dashboard")))
    assets = _Assets(directory=folder)
    router = APIRouter(route_class=FeedRoute)

    @router.api_route("/assets/{path:path}", methods=["GET", "HEAD"], include_in_schema=False)
    async def asset(request: Request) -> Response:
        """Answer with a file."""
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
    """Files beside the pages. A browser asks each time whether they have changed, so that an upgrade is seen.

    They have a policy too: a shared worker obeys that of its script, and not the page's.
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
        """Give the file the headers that it needs."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        media_type = _MEDIA_TYPES.get(Path(full_path).suffix)
        if media_type is not None and "content-type" in response.headers:  # not in a 304
            response.headers["Content-Type"] = media_type
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = _POLICY
        return response
