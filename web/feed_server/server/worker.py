"""One worker of `feed serve --workers N`: a server whose parent tells it when to stop.

A terminal or a service manager sends signals to all processes at once. A worker would get such a signal twice:
directly, and through its parent. So the parent alone decides, and tells the workers over a channel. By the same channel
a worker notices that its parent is gone, and the parent notices that a worker is gone, or that its event loop stands
still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import sys
from types import FrameType
from typing import NoReturn

from feed import FeedError
from feed.fastapi.metrics import METRICS_FOLDER
from feed_server.server.server import Server
from feed_server.settings import Settings

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
"""How often a worker sends a sign of life."""

# What a worker sends on the channel, a line each. A failure is followed by its reason as JSON.
ALIVE, LISTENING, LEAVING, FAILED = b"alive", b"listening", b"leaving", b"failed "

# What a worker is told: end with all others, end because another has taken its place, end at once.
DRAIN, RETIRE, END = b"drain", b"retire", b"end"

_LATE_SECONDS = 0.5  # by which the request on a new connection may be late


def work(settings: Settings, listening: socket.socket, channel: socket.socket) -> int:
    """Serve until the parent says to stop, or is gone. Return the exit code."""
    signal.signal(signal.SIGTERM, _leave)  # until the server listens there is nothing to drain
    worker = Worker(settings, channel)
    try:
        worker.run([listening])
    except FeedError as error:
        with contextlib.suppress(OSError):
            channel.setblocking(True)
            channel.sendall(FAILED + json.dumps(str(error)).encode() + b"\n")
        return 1
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:
        logger.exception("a worker has failed")
        return 1
    finally:
        if worker.orphaned:
            shutil.rmtree(os.environ[METRICS_FOLDER], ignore_errors=True)
    return 0


class Worker(Server):
    """The server of a worker. `orphaned` says that its parent is gone."""

    def __init__(self, settings: Settings, channel: socket.socket) -> None:
        super().__init__(settings, lambda: self._tell(LISTENING))
        self.orphaned = False
        self._channel = channel
        self._heard = b""
        self._retiring = False

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """See `Server`."""
        loop = asyncio.get_running_loop()
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._hear)
        beat = asyncio.create_task(self._beat(), name="feed-worker-beat")
        try:
            await super().serve(sockets)
        finally:
            beat.cancel()
            loop.remove_reader(self._channel)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `Server`. A worker that is replaced accepts no more connections first, and answers those it has."""
        if self._retiring:
            self.say_goodbye()
            for server in self.servers:
                server.close()
            await asyncio.sleep(_LATE_SECONDS)
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handle a signal to this worker alone: ask the parent for another one to take its place first."""
        if sig == signal.SIGTERM:
            self._tell(LEAVING)

    async def _beat(self) -> None:
        while True:
            self._tell(ALIVE)
            await asyncio.sleep(BEAT_SECONDS)

    def _tell(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # the parent does not read now, or is gone: `_hear` finds that out
            self._channel.send(word + b"\n")

    def _hear(self) -> None:
        try:
            data = self._channel.recv(4096)
        except BlockingIOError:
            return
        except OSError:  # a reset: the parent has ended without reading all
            data = b""
        if not data:
            self.orphaned = True
            asyncio.get_running_loop().remove_reader(self._channel)
            self._stop()
        *words, self._heard = (self._heard + data).split(b"\n")
        for word in words:
            self._retiring |= word == RETIRE
            self.force_exit |= word == END
            self._stop()

    def _stop(self) -> None:
        if not self.started:
            _leave(signal.SIGTERM, None)
        self.should_exit = True


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
