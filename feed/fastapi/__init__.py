"""The feed in a FastAPI application: `app.include_router(feed_router(feed))`.

`routes` answers requests, and `http` reads them. `auth` decides who may do what. `describe` writes OpenAPI and
AsyncAPI, `metrics` the page for Prometheus, `logging` a line for each request. `outlet` writes a stream's bytes.
The server, `feed_server`, is built from the same parts. The names below are public and need the extra `fastapi`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feed.fastapi.auth.grants import Grants
    from feed.fastapi.routes.admin import admin_router
    from feed.fastapi.routes.draining import drained_by_signals
    from feed.fastapi.routes.router import feed_router
    from feed.fastapi.topics import Topic

__all__ = ["Grants", "Topic", "admin_router", "drained_by_signals", "feed_router"]

_MODULES = {
    "Grants": "feed.fastapi.auth.grants",
    "Topic": "feed.fastapi.topics",
    "admin_router": "feed.fastapi.routes.admin",
    "drained_by_signals": "feed.fastapi.routes.draining",
    "feed_router": "feed.fastapi.routes.router",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use: FastAPI takes a third of a second, and `feed tail` does not need it."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
