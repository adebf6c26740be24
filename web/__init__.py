"""The feed over HTTP: the server, its routes for anybody's application, the command line and the dashboard."""

from web.app import create_app
from web.router import feed_router
from web.settings import Settings

__all__ = ["Settings", "create_app", "feed_router"]
