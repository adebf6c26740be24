"""Your own application, on a real uvicorn in a thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import uvicorn

from feed import Feed
from feed.testing.server import Server, delete_log

T = TypeVar("T")

_START_SECONDS = 30.0
_STOP_SECONDS = 20.0
_FORCED = 2  # seconds that uvicorn waits for streams that were told to end


class AppServer(Server):
    """An ASGI application, such as a FastAPI one with `feed_router`, for as long as the block lasts.

        with AppServer(app, feed) as server:
            page.goto(f"{server.url}/shop")
            server.drop()

    The application runs in this process, so that a test can override parts of it (`app.dependency_overrides`). `feed`
    is the application's feed: `kick` and `gap` need it; without it `restart` cuts streams instead of ending them. All
    starts use one event loop, which is the feed's. `root_path` is what a proxy in front would remove from the path.
    """

    def __init__(self, app: Any, feed: Feed | None = None, *, root_path: str = "") -> None:
        super().__init__()
        self.app = app
        self._feed = feed
        self._root_path = root_path
        self._server: uvicorn.Server | None = None
        self._serving: concurrent.futures.Future[None] | None = None

    def kick(self) -> int:
        """See `Server`."""
        return self._do(self._kick(self._needed()))

    async def _kick(self, feed: Feed) -> int:
        ended, after = 0, ""
        while True:
            page = await feed.subscribers_everywhere(after=after, limit=1_000)
            for subscriber in page.subscribers:
                ended += await feed.kick(subscriber.id)
            if page.next is None:
                return ended
            after = page.next

    def _needed(self) -> Feed:
        if self._feed is None:
            raise RuntimeError("kick and gap need the application's feed: use AppServer(app, feed)")
        return self._feed

    def _open(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="app-server", daemon=True)
        self._thread.start()

    def _start(self) -> int:
        server = self._server = uvicorn.Server(
            uvicorn.Config(
                self.app,
                host="127.0.0.1",
                port=0,
                root_path=self._root_path,
                log_config=None,
                workers=1,
                timeout_graceful_shutdown=_FORCED,
            )
        )
        serving = self._serving = asyncio.run_coroutine_threadsafe(_serve(server), self._loop)
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if serving.done() or time.monotonic() > deadline:
                self._server = None
                raise RuntimeError("the application did not start: see its log") from (
                    serving.exception() if serving.done() else None
                )
            time.sleep(0.005)
        port: int = server.servers[0].sockets[0].getsockname()[1]
        return port

    def _stop(self) -> None:
        server, self._server = self._server, None
        if server is None or self._serving is None:
            return
        if self._feed is not None:
            self._loop.call_soon_threadsafe(self._feed.drain)
        elif self._proxy is not None:
            self._proxy.reset()
        server.should_exit = True
        self._serving.result(_STOP_SECONDS)

    def _forget_log(self) -> None:
        delete_log(self._needed().log)

    def _close(self) -> None:
        try:
            self._stop()
            self._do(_finish())
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_STOP_SECONDS)
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STOP_SECONDS)


async def _serve(server: uvicorn.Server) -> None:
    try:
        await server.serve()
    except SystemExit as error:  # raised on, it would end the loop
        raise RuntimeError("uvicorn could not start the application") from error


async def _finish() -> None:
    """Cancel what still runs and has no owner, such as sse-starlette's watch for the end of the process, and finish the
    loop."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
