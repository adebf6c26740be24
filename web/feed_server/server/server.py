"""`feed serve`: a uvicorn server around the application, which stops in its own way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import threading
from collections.abc import Callable, Collection, Generator
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from feed import Feed
from feed.fastapi.http.bodies import Bodies
from feed.fastapi.routes.websocket import max_message
from feed.log import without_password
from feed_server.app import application
from feed_server.logging.stderr import logging_to_stderr
from feed_server.server.deadlines import Deadline
from feed_server.server.hangup import Hangups
from feed_server.server.listening import BACKLOG, check_private, listen, url_of
from feed_server.server.stalled import Connection, Stalled
from feed_server.settings import Settings, variable

logger = logging.getLogger(__name__)

FORCED = 3
"""Seconds for the requests that are left when the drain is over."""

_LAST_REQUESTS = 0.1  # seconds for requests that are under way when the last stream has ended
_OWN_DESCRIPTORS = 64  # the database, the loop, and the files of the dashboard, forty at once
_MANY_DESCRIPTORS = 1 << 20


class Server(uvicorn.Server):
    """uvicorn's server with another way to stop: uvicorn waits for open streams, for ever, before it tells them."""

    def __init__(self, settings: Settings, on_listening: Callable[[], None]) -> None:
        """`on_listening` is called when the server accepts connections."""
        from feed_server.server.protocol import (
            ConnectionLimit,
            HttpProtocol,
            PublishHeads,
            ServerLimits,
            WebSocketProtocol,
        )

        self._http = HttpProtocol
        descriptors = descriptor_limit()
        if settings.max_subscribers is None:
            settings = settings.model_copy(update={"max_subscribers": max(1, descriptors - max(96, descriptors // 10))})
        self._settings = settings
        self._feed = Feed(settings.log, settings.options)
        self._on_listening = on_listening
        self._watches: list[asyncio.Task[None]] = []
        bodies = Bodies(settings.max_bodies, settings.body_timeout)
        app = application(settings, self._feed, bodies=bodies, server_drains=True)
        self._connections = ConnectionLimit(max(8, descriptors - _OWN_DESCRIPTORS))
        limits = ServerLimits(
            self._connections,
            bodies,
            settings.max_head,
            Deadline(settings.head_timeout),
            Deadline(settings.body_timeout),
            PublishHeads(app.publishing, settings.max_head),
        )
        self._deadlines = (limits.heads, limits.messages, limits.begun)
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=cast("type[asyncio.Protocol]", partial(HttpProtocol, limits=limits)),
                ws=cast("type[asyncio.Protocol]", partial(WebSocketProtocol, limits=limits)),
                ws_max_size=max_message(settings.max_data),
                ws_per_message_deflate=False,  # up to hundreds of KiB a connection
                access_log=False,  # uvicorn's prints queries, which may hold tokens
                log_config=None,
                # X-Forwarded-For counts only from known proxies: else anyone could claim any address.
                proxy_headers=bool(settings.proxies),
                forwarded_allow_ips=",".join(settings.proxies),
                server_header=False,
                backlog=BACKLOG,
                # A proxy must close first: it cannot tell whether a request that it sent meanwhile was handled.
                timeout_keep_alive=cast("int", settings.idle),
                workers=1,  # else uvicorn reads WEB_CONCURRENCY
                ws_ping_interval=settings.heartbeat,  # the heartbeat of a WebSocket: proxies cut quiet ones
                ws_ping_timeout=None,  # a pong waits behind all that a slow reader has not read: see `Stalled`
                timeout_graceful_shutdown=FORCED,
            )
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the log, and serve until told to stop. Raises `LogRefused`."""
        # Opened before uvicorn starts, so that a refused log is one clear line; closed after it, as a forced exit skips
        # the application's own shutdown.
        async with self._feed:
            # The objects of now stay: the garbage collector need not look at them again in each full collection.
            gc.collect()
            gc.freeze()
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening."""
        await super().startup(sockets)
        connections = cast("Collection[Connection]", self.server_state.connections)
        watches = (Stalled(connections, self._settings.stall), *self._deadlines)
        self._watches = [asyncio.create_task(each.watch(), name="feed-watch") for each in watches]
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End every stream while publishing goes on, then let uvicorn close the other connections."""
        for watch in self._watches:
            watch.cancel()
        self.say_goodbye()
        self._feed.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain
        while self._streams and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)  # as uvicorn itself waits; every stream would have to set an event
        if left := self._streams:
            # Their clients read nothing any more. Only an abort ends a connection whose buffer never empties.
            if not self.force_exit:
                logger.warning("%d streams did not end within %g s: cut off", left, self._settings.drain)
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await self._answer_last_requests()
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()  # uvicorn leaves it out then, though it takes no time here

    @property
    def _streams(self) -> int:
        """The number of open streams. `Feed.statistics` would look at each of them, twenty times a second."""
        running = self._feed.running
        return 0 if running is None else len(running.broadcaster)

    def say_goodbye(self) -> None:
        """Make every answer from now on the last one on its connection."""
        self._connections.closing = True
        for connection in self.server_state.connections:
            if isinstance(connection, self._http):
                connection.last_answer()

    async def _answer_last_requests(self) -> None:
        """Accept no more connections, and answer the requests that proxies have sent meanwhile. If a connection is
        closed on a request, a proxy can only answer 502."""
        await asyncio.sleep(0)  # connections that wait in the system are accepted
        for server in self.servers:
            server.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _LAST_REQUESTS
        while self._connections.idle and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.01)

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle SIGHUP too, as uvicorn does not: the signal would end the process at once. Where SIGHUP is ignored, as
        under `nohup` and in a worker, it stays ignored."""
        with super().capture_signals():
            is_main = threading.current_thread() is threading.main_thread()
            if not is_main or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
                yield
                return
            before = signal.signal(signal.SIGHUP, partial(self._hang_up, Hangups()))
            try:
                yield
            finally:
                signal.signal(signal.SIGHUP, before)

    def _hang_up(self, hangups: Hangups, number: int, frame: FrameType | None) -> None:
        if hangups.is_end():
            self.should_exit = True  # not `handle_exit`: a shell sends SIGHUP twice, which must not end the drain
        else:
            logger.info("SIGHUP has no effect: settings are read when the server starts")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain at a first signal, end it at a second one. The signal is not raised again afterwards, as
        uvicorn would do: a server that stops as it was told to has not failed."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serve until a signal comes. Raises `ServeError` and `LogRefused` if it cannot start."""
    prepare(settings)
    [listening] = listen(settings.host, settings.port)
    with (
        listening,
        logging_to_stderr(settings.log_format, settings.log_level, quiet_publishes=settings.quiet_publishes),
    ):
        url = url_of(listening)
        Server(on_port(settings, listening), lambda: greet(url, settings)).run([listening])


def prepare(settings: Settings) -> None:
    """Prepare the process for serving. Raises `ServeError` for a server that would be open to everyone."""
    if not (settings.has_key or settings.insecure):
        check_private(settings.host)
    raise_descriptor_limit()
    _raise_handshake_limits()


def on_port(settings: Settings, listening: socket.socket) -> Settings:
    """Return the settings with the port of the socket."""
    return settings.model_copy(update={"port": listening.getsockname()[1]})


def greet(url: str, settings: Settings) -> None:
    """Print that the server listens, and where."""
    print(greeting(url, settings), flush=True)


def greeting(url: str, settings: Settings) -> str:
    """Return what a new user needs first, and an operator too: the URLs, and who may do what."""
    bearing = '-H "Authorization: Bearer $TOKEN" ' if settings.has_key else ""
    lines = [
        f"feed is listening, events are kept in {without_password(settings.log)}",
        f"  dashboard   {url}/",
        f"  access      {access(settings)}",
        *([f"  token       {_token(settings)}"] if settings.has_key else []),
        f"  subscribe   curl -N {bearing}{url}/events/hello",
        f"  publish     curl {bearing}-d 'Hello' {url}/events/hello",
    ]
    return "\n".join(lines)


def access(settings: Settings) -> str:
    """Return who may do what, in a few words."""
    if settings.has_key:
        public = f"; everyone may subscribe to {', '.join(settings.public)}" if settings.public else ""
        return f"tokens ({', '.join(map(variable, settings.keys))}){public}"
    if settings.insecure:
        return "EVERYONE who reaches it (no key, --insecure)"
    return "everyone on this machine (no key)"


def _token(settings: Settings) -> str:
    """Say how to get $TOKEN."""
    if settings.jwt_secret is not None:
        return "export TOKEN=$(feed token --publish '**' --subscribe '**')"
    if settings.jwt_public_key is not None:
        return "export TOKEN=$(feed token --publish '**' --subscribe '**' --private-key FILE)"
    if settings.jwks_url is not None:
        return "get TOKEN from the service that holds the private keys"
    return "TOKEN can be for publishing or for subscribing: see feed token --help"


def raise_descriptor_limit() -> None:
    """Raise the limit of file descriptors to what the system allows: every stream takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # on systems where "unlimited" cannot be set
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many file descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _raise_handshake_limits() -> None:
    """Let a WebSocket's URL hold a hundred topics, as any request's may. The library `websockets` reads its limits, the
    bytes of a line and the number of headers, from the environment when it is imported, which uvicorn does later."""
    os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", str(1 << 20))
    os.environ.setdefault("WEBSOCKETS_MAX_NUM_HEADERS", "256")
