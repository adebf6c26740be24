"""What a test does to a server: the switches that all servers for tests have."""

from __future__ import annotations

import abc
from pathlib import Path
from types import TracebackType
from typing import Self

from feed.testing.proxy import Proxy


class Server(abc.ABC):
    """A server for tests, behind a proxy that can do to its clients what networks do. It may be entered again.

    `url` is where clients reach it, and stays the same for as long as the block lasts: `with FeedServer() as server`.
    Every switch returns when it is done; what it did to the network lasts until `heal`. To be used from the test's own
    thread.
    """

    def __init__(self) -> None:
        self._proxy: Proxy | None = None

    def __enter__(self) -> Self:
        self._open()
        try:
            self._proxy = Proxy(self._start())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        proxy, self._proxy = self._network, None
        try:
            proxy.close()
        finally:
            self._close()

    @property
    def _network(self) -> Proxy:
        if self._proxy is None:
            raise RuntimeError("the server is not running: `with … as server:`")
        return self._proxy

    @property
    def port(self) -> int:
        """Where clients reach it, on 127.0.0.1."""
        return self._network.port

    @property
    def url(self) -> str:
        """The same as a URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections clients have open now."""
        return self._network.connections

    def drop(self) -> None:
        """Cut all connections now, as a network does: without a word. New ones are taken."""
        self._network.reset()

    def refuse(self) -> None:
        """The same, and no new ones are taken, as if the machine were off."""
        self._network.cut()

    def stall(self) -> None:
        """Hold all that goes either way, and cut nothing: a network that has died silently. With `heal` it passes."""
        self._network.stall()

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way."""
        self._network.delay = seconds

    def throttle(self, rate: float) -> None:
        """Pass at most so many bytes a second to each client: a slow reader. What the kernel holds already, up to a few
        megabytes, the server believes to be sent."""
        self._network.rate = rate

    def heal(self) -> None:
        """A network without faults again. What was held arrives."""
        self._network.delay, self._network.rate = 0.0, None
        self._network.heal()

    def restart(self) -> None:
        """Stop the server as an operator does and start it on the same log: readers are told `feed.closing`, come back
        and get what they missed. On a memory log what it held is gone, as with `gap`."""
        self._stop()
        self._network.target = self._start()

    def gap(self) -> None:
        """The same, and the log is lost meanwhile: who comes back with an id is told `feed.gap`, reason `unknown`."""
        self._stop()
        self._forget_log()
        self._network.target = self._start()

    @abc.abstractmethod
    def kick(self) -> int:
        """End all streams with `feed.closing`, reason `kicked`, and give how many there were. They may come back."""

    @abc.abstractmethod
    def _open(self) -> None:
        """Get what lasts until `_close`."""

    @abc.abstractmethod
    def _start(self) -> int:
        """Start, and give the port."""

    @abc.abstractmethod
    def _stop(self) -> None: ...

    @abc.abstractmethod
    def _forget_log(self) -> None: ...

    @abc.abstractmethod
    def _close(self) -> None:
        """Stop if it runs, and leave nothing behind."""


def delete_log(log: str) -> None:
    """Delete the log that a URL names; the memory's is gone with its feed. Raises `ValueError` for one elsewhere."""
    kind, _, path = log.partition(":")
    if kind == "sqlite":
        for suffix in ("", "-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)
    elif kind != "memory":
        raise ValueError("only the memory's log and an SQLite log can be lost on purpose")
