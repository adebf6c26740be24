"""A server that plays a script: what a real one can hardly be made to do, or not at the right moment."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

_TURNS = 5
"""Turns of the loop after which `accept` has heard of every connection that asyncio has taken: it has three steps."""

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]

OPEN = "retry: 50\nid: e-0\nevent: feed.open\ndata: {}\n\n"


def answer(status: str, body: str = "", *headers: str) -> Answer:
    """One HTTP answer, after which the connection is closed. Without a body it is left open for the rest of it."""

    async def write(writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", "Connection: close", *headers, "", body]
        writer.write("\r\n".join(lines).encode())
        await writer.drain()

    return write


def problem(status: str, detail: str, *headers: str) -> Answer:
    """A feed's own refusal, such as of `403 Forbidden`."""
    document = json.dumps({"type": "about:blank", "status": int(status[:3]), "detail": detail})
    return answer(status, document, "Content-Type: application/problem+json", *headers)


def stream(body: str) -> Answer:
    """An SSE stream that ends after `body`."""
    return answer("200 OK", body, "Content-Type: text/event-stream")


async def silence(writer: asyncio.StreamWriter) -> None:
    """A stream that opens, and then says nothing for ever."""
    await stream(OPEN)(writer)
    await asyncio.Event().wait()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """No answer."""


def event(id: str) -> str:
    """The frame of an event."""
    return f'id: {id}\ndata: {{"id":"{id}","topic":"a","type":"t","data":"x","time":"2026-11-30T00:00:00.000Z"}}\n\n'


@contextlib.asynccontextmanager
async def accepting(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """A server that has `converse` with each connection; its URL. It leaves no connection open."""
    connections: set[asyncio.Task[None]] = set()
    writers: list[asyncio.StreamWriter] = []

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await converse(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        connections.add(asyncio.create_task(hold(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        # Before that, too: asyncio cannot take a connection whose server was closed since it was accepted, and lets
        # its socket leak.
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        server.close()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        for writer in writers:
            # A connection that was cancelled before it began has closed nothing, and one whose client reads no more
            # would stay open until it does: the next test would be blamed for it.
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, until it ends: a half of a proxy."""
    with contextlib.suppress(ConnectionError):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
            await writer.drain()


class Script:
    """A server that gives each request the next answer, the last one again and again. `heads` and `bodies` are those of
    the requests."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        self.bodies.append(await reader.readexactly(int(length[0].partition(":")[2]) if length else 0))
        self.heads.append(head)
        await self._answers[min(len(self.heads), len(self._answers)) - 1](writer)

    def header(self, name: str) -> list[str]:
        """A header of each request, empty where it was not sent."""
        found = []
        for head in self.heads:
            lines = [line.partition(":") for line in head.split("\r\n")]
            found.append(next((value.strip() for key, _, value in lines if key.lower() == name), ""))
        return found


@contextlib.asynccontextmanager
async def playing(*answers: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Script]:
    """A scripted server for as long as the block lasts."""
    script = Script(*answers)
    async with accepting(script.converse, tls) as script.url:
        yield script
