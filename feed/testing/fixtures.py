"""pytest fixtures for `feed.testing`.

Ask for them in the `conftest.py` at the root of your tests:

    pytest_plugins = ["feed.testing.fixtures"]

They are not registered by themselves: tests in an environment with a feed may have fixtures of these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from feed import Feed
from feed.testing import AppServer, FeedServer


@pytest.fixture
def feed_server() -> Iterator[FeedServer]:
    """A feed's server for this test, without a key, on an SQLite log."""
    with FeedServer() as server:
        yield server


@pytest.fixture
def serve_app() -> Iterator[Callable[..., AppServer]]:
    """Serves an application until the test ends: `server = serve_app(app, feed)`."""
    with ExitStack() as stack:

        def serve(app: Any, feed: Feed | None = None) -> AppServer:
            return stack.enter_context(AppServer(app, feed))

        yield serve
