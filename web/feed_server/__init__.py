"""The feed over HTTP: the server, its routes for anybody's application, the command line and the dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feed.fastapi.auth.grants import Grants
    from feed.fastapi.routes.draining import drained_by_signals
    from feed.fastapi.routes.router import feed_router
    from feed.fastapi.topics import Topic
    from feed_server.app import create_app
    from feed_server.settings import Settings

__all__ = ["Grants", "Settings", "Topic", "create_app", "drained_by_signals", "feed_router"]


def __getattr__(name: str) -> Any:
    """The public names, imported when they are asked for: FastAPI takes a third of a second, and `feed tail` does
    without it."""
    if name == "Grants":
        from feed.fastapi.auth.grants import Grants

        return Grants
    if name == "Settings":
        from feed_server.settings import Settings

        return Settings
    if name == "Topic":
        from feed.fastapi.topics import Topic

        return Topic
    if name == "create_app":
        from feed_server.app import create_app

        return create_app
    if name == "drained_by_signals":
        from feed.fastapi.routes.draining import drained_by_signals

        return drained_by_signals
    if name == "feed_router":
        from feed.fastapi.routes.router import feed_router

        return feed_router
    raise AttributeError(f"module 'feed_server' has no attribute {name!r}")
