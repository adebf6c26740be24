"""The server: the command `feed`, and the application that it serves.

`settings` are the `FEED_…`, `app` puts the application together, `auth` verifies tokens, `server` is what listens,
`cli` the command line, `logging` what it prints; `doctor` looks at a feed from the outside, `bench` measures one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feed_server.app import create_app
    from feed_server.settings import Settings

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: FastAPI takes a third of a second, and `feed tail` does without."""
    if name == "Settings":
        from feed_server.settings import Settings

        return Settings
    if name == "create_app":
        from feed_server.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
