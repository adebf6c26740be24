"""Connections that a client, or a proxy for its clients, keeps between two requests: how long they are kept, and that
none is closed on a request that is under way, which a proxy could only answer with 502."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest

import feed_server.server.server
from feed_server.server.listening import listen
from feed_server.server.server import Server
from feed_server.settings import Settings

pytestmark = pytest.mark.anyio

LONG = 60.0
"""Seconds that nobody waits for: what ends sooner has not waited for them."""

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /events/kept HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
LONG_POLL = b"GET /events/kept?wait=30 HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """The server's own loop, which looks at its timers before it reads."""
    return "asyncio", {"use_uvloop": True}


class Client(NamedTuple):
    """A connection that may be used again and again."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, request: bytes) -> bytes:
        """Send it, and give the head of the answer once all of that has come."""
        self.writer.write(request)
        return await self.answer()

    async def answer(self) -> bytes:
        """The head of the next answer, in lower case; the body is taken off."""
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).lower()
        length = int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await asyncio.wait_for(self.reader.readexactly(length), 10)
        return head

    async def closed(self) -> bool:
        """Wait until the server closes it, with nothing more to say."""
        return await asyncio.wait_for(self.reader.read(), 10) == b""


class Running:
    """A server in this process."""

    def __init__(self, server: Server, port: int, task: asyncio.Task[None]) -> None:
        self.server = server
        self.port = port
        self.task = task
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Client:
        """A connection, which the server knows of."""
        known = len(self.server.server_state.connections)
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._writers.append(client.writer)
        while len(self.server.server_state.connections) == known:
            await asyncio.sleep(0)
        return client

    async def stop(self) -> None:
        """Tell it to, and wait until it takes no more connections."""
        self.server.should_exit = True
        while await self._takes_connections():
            await asyncio.sleep(0.01)

    async def _takes_connections(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        self._writers.append(writer)
        writer.close()
        return True

    async def end(self) -> None:
        """End it at once, and leave nothing behind."""
        self.server.should_exit = self.server.force_exit = True
        await self.task
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Running]:
    """One for as long as the block lasts."""
    [listening] = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    listens = asyncio.Event()
    server = Server(Settings(log="memory:", port=port, **settings), listens.set)
    running = Running(server, port, asyncio.create_task(server.serve([listening])))
    try:
        await asyncio.wait_for(listens.wait(), 10)
        yield running
    finally:
        await running.end()
        gc.unfreeze()


async def test_a_connection_is_closed_after_the_time_for_which_it_is_kept() -> None:
    async with serving(idle=0.1, head_timeout=LONG) as running:
        client = await running.connect()
        assert b" 200 ok\r\n" in await client.ask(HEALTH)
        assert await client.closed()


async def test_that_time_is_longer_than_that_of_any_proxy() -> None:
    """Seconds for which each keeps a connection to what it passes requests to, unless it is told otherwise."""
    theirs = {"nginx": 60, "AWS's": 60, "Go's and Traefik": 90, "Caddy": 120, "Google's": 600, "Envoy": 3600}
    async with serving() as running:
        assert running.server.config.timeout_keep_alive > max(theirs.values())


async def test_a_request_that_has_come_when_the_time_is_over_is_answered() -> None:
    async with serving(idle=0.5) as running:
        client = await running.connect()
        assert b" 200 ok\r\n" in await client.ask(HEALTH)
        # The loop stands still, as it may for moments: then the request comes, and the time is over, before it reads.
        descriptor = client.writer.get_extra_info("socket").fileno()
        asyncio.get_running_loop().call_later(0.01, os.write, descriptor, POST)
        time.sleep(0.6)  # noqa: ASYNC251
        assert b" 201 created\r\n" in await client.answer()


async def test_a_body_that_comes_after_its_answer_leaves_a_connection_that_is_kept() -> None:
    async with serving(head_timeout=0.4) as running:
        client, silent = await running.connect(), await running.connect()
        head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n"
        assert b" 200 ok\r\n" in await client.ask(head)
        client.writer.write(b"x")
        assert await silent.closed()
        assert b" 200 ok\r\n" in await client.ask(HEALTH)


@pytest.mark.parametrize("used", [True, False], ids=["one that was used", "one that is new"])
async def test_what_is_sent_while_a_server_ends_is_answered_and_told_that_it_is_the_last(
    monkeypatch: pytest.MonkeyPatch, used: bool
) -> None:
    monkeypatch.setattr(feed_server.server.server, "_LAST_REQUESTS", LONG)
    async with serving() as running:
        client = await running.connect()
        if used:
            assert b"connection: close" not in await client.ask(POST)
        await running.stop()
        head = await client.ask(POST)
        assert b" 201 created\r\n" in head
        assert b"connection: close\r\n" in head
        assert await client.closed()
        await asyncio.wait_for(running.task, 10)


async def test_what_is_being_answered_when_a_server_ends_is_told_that_it_is_the_last() -> None:
    async with serving() as running:
        client = await running.connect()
        client.writer.write(LONG_POLL)
        while not running.server.server_state.tasks:
            await asyncio.sleep(0.01)
        running.server.should_exit = True
        assert b"connection: close\r\n" in await client.answer()
        assert await client.closed()
