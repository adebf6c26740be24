"""The server: the command `feed`, and the application that it serves.

`settings` reads the `FEED_…` variables, `app` builds the application, `auth` verifies tokens, `server` listens, `cli`
is the command line, and `logging` writes the log. `doctor` checks a feed from outside, `bench` measures one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feed_server.app import create_app
    from feed_server.settings import Settings

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: FastAPI takes a third of a second, and `feed tail` does not need it."""
    if name == "Settings":
        from feed_server.settings import Settings

        return Settings
    if name == "create_app":
        from feed_server.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
