"""`feed serve`: the uvicorn server around the application, its socket, and how it stops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import socket
from collections.abc import Collection
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from feed import Feed, FeedError
from feed.log import without_password
from web.app import create_app
from web.collector import Collector
from web.settings import Settings
from web.stalled import Connection, Stalled
from web.websocket import max_message

logger = logging.getLogger(__name__)

_FORCED = 3  # seconds for what is left once the drain is over
_BACKLOG = 2048
_OWN_DESCRIPTORS = 64  # the database, the loop, and the files of the dashboard, forty at once
_MANY_DESCRIPTORS = 1 << 20
_UNSENT = 128 << 10  # bytes that wait in the system for one connection, beyond what is under way


class ServeError(FeedError):
    """The server cannot start; the message says why, and what to do."""


class Server(uvicorn.Server):
    """uvicorn's server, but for how it stops: uvicorn waits for open streams before it tells them, and for ever."""

    def __init__(self, config: uvicorn.Config, feed: Feed, settings: Settings) -> None:
        super().__init__(config)
        self._feed = feed
        self._settings = settings
        self._watch: asyncio.Task[None]

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say where."""
        await super().startup(sockets)
        connections = cast("Collection[Connection]", self.server_state.connections)
        self._watch = asyncio.create_task(Stalled(connections, self._settings.stall).watch(), name="feed-stalled")
        for listening in sockets or []:
            print(greeting(_url(listening), without_password(self._settings.log)), flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say goodbye to every stream while publishing goes on, then let uvicorn close what is left."""
        self._watch.cancel()
        self._feed.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.drain
        while self._feed.subscribers and loop.time() < deadline and not self.force_exit:
            await asyncio.sleep(0.05)  # as uvicorn itself waits; an event would have to be set by every stream
        left = self._feed.subscribers
        if left and not self.force_exit:
            # Their clients take nothing any more. Only an abort ends a connection whose buffer never empties.
            logger.warning("%d streams did not end within %g s: cut off", left, self._settings.drain)
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        await super().shutdown(sockets)
        if self.force_exit:
            await self.lifespan.shutdown()  # which uvicorn leaves out then, though it takes no time here

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A first signal begins the drain, a second one ends it. None is raised again afterwards, as uvicorn would
        do: a server that stopped because it was told to has not failed."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(settings: Settings) -> None:
    """Serve until a signal comes. Raises `ServeError` and `LogRefused` if it cannot start."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    descriptors = raise_descriptor_limit()
    _raise_handshake_limits()
    from web.protocol import Handshakes, HttpProtocol, Room, WebSocketProtocol

    if settings.max_subscribers is None:
        settings = settings.model_copy(update={"max_subscribers": max(1, descriptors - max(96, descriptors // 10))})
    room = Room(max(8, descriptors - _OWN_DESCRIPTORS))
    protocol = partial(HttpProtocol, room=room, handshakes=Handshakes(), collector=Collector())
    with _listen(settings.host, settings.port) as listening:
        feed = Feed(settings.log, settings.options)
        config = uvicorn.Config(
            create_app(settings, feed),
            loop="uvloop",
            http=cast("type[asyncio.Protocol]", protocol),
            ws=WebSocketProtocol,
            ws_max_size=max_message(settings.max_data),
            ws_per_message_deflate=False,  # up to hundreds of KiB a connection
            access_log=False,  # uvicorn's prints the query, and with it tokens
            log_config=None,
            proxy_headers=False,  # anybody could claim any address
            server_header=False,
            backlog=_BACKLOG,
            ws_ping_timeout=None,  # a pong waits behind what a slow reader has not read: `Stalled` judges better
            timeout_graceful_shutdown=_FORCED,
        )
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(feed, Server(config, feed, settings), listening))


async def _serve(feed: Feed, server: Server, listening: socket.socket) -> None:
    # Opened before uvicorn starts, so that a refused log is one clear line; closed after it, as a forced exit skips
    # the application's own shutdown.
    async with feed:
        # What is there now stays: the collector need not look at it again and again, while nobody is served.
        gc.collect()
        gc.freeze()
        await server.serve([listening])


def greeting(url: str, log: str) -> str:
    """What a newcomer needs to see first."""
    return (
        f"feed is listening, events are kept in {log}\n"
        f"  dashboard   {url}/\n"
        f"  subscribe   curl -N {url}/events/hello\n"
        f"  publish     curl -d 'Hello' {url}/events/hello"
    )


def raise_descriptor_limit() -> int:
    """Every stream is a descriptor: take as many as the system allows without asking. Gives how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where "unlimited" is not a number that may be asked for
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return _MANY_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def _raise_handshake_limits() -> None:
    """Let a WebSocket's URL hold a hundred topics, as any request's may. The library reads its limits, the bytes of a
    line and the number of headers, from the environment when it is imported, which uvicorn does later."""
    os.environ.setdefault("WEBSOCKETS_MAX_LINE_LENGTH", str(128 << 10))
    os.environ.setdefault("WEBSOCKETS_MAX_NUM_HEADERS", "256")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_ADDRCONFIG
        )[0]
        listening = socket.create_server(address, family=family, backlog=_BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServeError(f"cannot listen on {host}:{port}: {reason}: choose others with --host and --port") from error
    _find_the_vanished(listening)
    return listening


def _find_the_vanished(listening: socket.socket) -> None:
    """Options that every accepted connection inherits: a peer that vanished without a word is found within a minute,
    and what the system keeps for one that is slow is bounded, unsent, to what we would keep ourselves."""
    options = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_NOTSENT_LOWAT": _UNSENT}
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in options.items():
        if hasattr(socket, name):  # not every system has all of them
            listening.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  everywhere is also here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
