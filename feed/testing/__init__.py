"""Test kit for applications on a feed: real servers on free ports, and switches for what goes wrong in real life.

    from feed.testing import AppServer, FeedServer

`FeedServer` is the feed's own server in a process. `AppServer` is your own application, with a feed in it, in a thread.
Both are context managers; `feed.testing.fixtures` makes pytest fixtures of them. A reader sees each switch as it would
see the fault in production: `drop`, `refuse`, `stall`, `delay`, `throttle`, `heal`, `restart`, `gap`, `kick`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feed.testing.feed_server import FeedServer
from feed.testing.process import FeedProcess
from feed.testing.proxy import Proxy
from feed.testing.server import Server

if TYPE_CHECKING:
    from feed.testing.app_server import AppServer

__all__ = ["AppServer", "FeedProcess", "FeedServer", "Proxy", "Server"]


def __getattr__(name: str) -> Any:
    """Import `AppServer` at its first use: it alone needs uvicorn."""
    if name == "AppServer":
        from feed.testing.app_server import AppServer

        return AppServer
    raise AttributeError(f"module 'feed.testing' has no attribute {name!r}")
