"""A TCP proxy between two programs of a test. It can pass, delay, throttle, stall, cut, and heal."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST, and drops what was not sent
_STEPS = 10  # portions a second, where a rate is set
_PATIENCE = 10.0  # seconds that the proxy's own thread has for a call


class Proxy:
    """Listens on `port` and passes everything to `target`, both on this machine. Use it from the test's thread.

    `port` never changes. `target` may be changed, for new connections. A connection has a purpose, by which `stall`
    chooses connections: what the first group of `purpose` matches in its requests.
    """

    def __init__(self, target: int, purpose: re.Pattern[bytes] | None = None) -> None:
        self.target = target
        self._purpose = purpose
        self.delay = 0.0
        """Seconds by which each chunk is delayed."""
        self.rate: float | None = None
        """Bytes a second of each connection's answers; None: without a limit. What the kernel holds for a socket, up to
        a few megabytes, is on its way already."""
        self.lost_answers = 0
        self._losing: bytes | None = None
        self._stalled = False
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = 0
        self._do(self._listen())

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""

        async def cut() -> None:
            await self._refuse()
            self._reset()

        self._do(cut())

    def reset(self) -> None:
        """Reset all connections. New ones are accepted."""

        async def reset() -> None:
            self._reset()

        self._do(reset())

    def stall(self, *, purpose: str = "", new: bool = True, answers_only: bool = False) -> None:
        """Die silently: hold all data on the existing connections, or those of one purpose, and on new ones unless
        `new` is false. With `answers_only`, what the clients send still arrives."""

        async def stall() -> None:
            self._stalled = new
            for connection in self._connections:
                if purpose.encode() in {b"", connection.purpose}:
                    connection.answers.clear()
                    if not answers_only:
                        connection.requests.clear()

        self._do(stall())

    def lose_answer_to(self, content: bytes) -> None:
        """Pass the next request that contains this, and reset its connection instead of passing the answer."""
        self._losing = content

    def heal(self) -> None:
        """Accept connections and pass data again, including what was held."""

        async def heal() -> None:
            self._stalled = False
            for connection in self._connections:
                connection.requests.set()
                connection.answers.set()
            if self._server is None:
                await self._listen()

        self._do(heal())

    def close(self) -> None:
        """Close all connections, and end the proxy's thread."""
        self.cut()

        async def finish() -> None:
            while len(asyncio.all_tasks()) > 1:  # the tasks of the connections, besides this one
                await asyncio.sleep(0.001)

        self._do(finish())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    def _reset(self) -> None:
        for connection in self._connections:
            connection.ended.set()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            for listening in server.sockets:
                self._loop.remove_reader(listening)
            for _ in range(3):
                await asyncio.sleep(0)  # let connections that are being accepted through: asyncio would lose them
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection()
        if self._stalled:
            connection.requests.clear()
            connection.answers.clear()
        self._connections.add(connection)
        writers, passing = [writer], []
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(server_writer)

            def watch_request(chunk: bytes) -> None:
                if self._purpose is not None and (found := self._purpose.search(chunk)) is not None:
                    connection.purpose = found[1]
                if self._losing is not None and self._losing in chunk:
                    self._losing = None
                    connection.loses_answer = True

            def watch_answer(_: bytes) -> None:
                if connection.loses_answer:
                    self.lost_answers += 1
                    raise ConnectionResetError

            passing = [
                asyncio.create_task(self._pass(reader, server_writer, connection.requests, watch_request)),
                asyncio.create_task(self._pass(server_reader, writer, connection.answers, watch_answer, answers=True)),
                asyncio.create_task(connection.ended.wait()),
            ]
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the target does not listen
        finally:
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
            for each in writers:
                await _reset(each)
            self._connections.discard(connection)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        gate: asyncio.Event,
        watch: Callable[[bytes], None],
        *,
        answers: bool = False,
    ) -> None:
        while chunk := await reader.read(_CHUNK):
            if self.delay:
                await asyncio.sleep(self.delay)
            await gate.wait()
            watch(chunk)
            if not answers:
                writer.write(chunk)
                await writer.drain()
            else:
                await self._pass_at_rate(chunk, writer)

    async def _pass_at_rate(self, chunk: bytes, writer: asyncio.StreamWriter) -> None:
        while chunk:
            rate = self.rate
            step = _CHUNK if rate is None else max(1, int(rate / _STEPS))
            piece, chunk = chunk[:step], chunk[step:]
            writer.write(piece)
            await writer.drain()
            if rate is not None:
                await asyncio.sleep(len(piece) / rate)


class _Connection:
    def __init__(self) -> None:
        self.purpose = b""
        self.loses_answer = False
        self.ended = asyncio.Event()
        self.requests, self.answers = asyncio.Event(), asyncio.Event()  # set while this direction passes
        self.requests.set()
        self.answers.set()


async def _reset(writer: asyncio.StreamWriter) -> None:
    connection: socket.socket = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
