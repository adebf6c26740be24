"""The switches that all servers for tests have."""

from __future__ import annotations

import abc
from pathlib import Path
from types import TracebackType
from typing import Self

from feed.testing.proxy import Proxy


class Server(abc.ABC):
    """A server for tests, behind a proxy that can do to its clients what networks do. It may be entered again.

    Clients reach it at `url`, which stays the same while the block lasts: `with FeedServer() as server`. Every switch
    returns when it is done; faults of the network last until `heal`. Use it from the test's own thread.
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
            raise RuntimeError("the server is not running: enter it with `with … as server:`")
        return self._proxy

    @property
    def port(self) -> int:
        """The port for clients, on 127.0.0.1."""
        return self._network.port

    @property
    def url(self) -> str:
        """The URL for clients, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """How many connections clients have open now."""
        return self._network.connections

    def drop(self) -> None:
        """Cut all connections now, without a word, as a network does. New ones are accepted."""
        self._network.reset()

    def refuse(self) -> None:
        """Cut all connections and accept no new ones, as if the machine were off."""
        self._network.cut()

    def stall(self) -> None:
        """Hold all data in both directions and cut nothing, as a network that died silently. After `heal` the data
        arrives."""
        self._network.stall()

    def delay(self, seconds: float) -> None:
        """Delay everything by this time, each way."""
        self._network.delay = seconds

    def throttle(self, rate: float) -> None:
        """Pass at most `rate` bytes a second to each client, as to a slow reader. What the kernel holds already, up to
        a few megabytes, counts as sent for the server."""
        self._network.rate = rate

    def heal(self) -> None:
        """End all faults of the network. What was held arrives."""
        self._network.delay, self._network.rate = 0.0, None
        self._network.heal()

    def restart(self) -> None:
        """Stop the server as an operator does, and start it on the same log. Readers are told `feed.closing`, come
        back, and receive what they missed. A memory log loses its events, as with `gap`."""
        self._stop()
        self._network.target = self._start()

    def gap(self) -> None:
        """Restart the server and lose its log meanwhile. A reader that comes back with an id is told `feed.gap`, reason
        `unknown`."""
        self._stop()
        self._forget_log()
        self._network.target = self._start()

    @abc.abstractmethod
    def kick(self) -> int:
        """End all streams with `feed.closing`, reason `kicked`, and return how many there were. Their readers may come
        back."""

    @abc.abstractmethod
    def _open(self) -> None:
        """Prepare what lasts until `_close`."""

    @abc.abstractmethod
    def _start(self) -> int:
        """Start the server, and return its port."""

    @abc.abstractmethod
    def _stop(self) -> None: ...

    @abc.abstractmethod
    def _forget_log(self) -> None: ...

    @abc.abstractmethod
    def _close(self) -> None:
        """Stop the server if it runs, and leave nothing behind."""


def delete_log(log: str) -> None:
    """Delete the log that a URL names; a memory log is gone with its feed. Raises `ValueError` for any other log."""
    kind, _, path = log.partition(":")
    if kind == "sqlite":
        for suffix in ("", "-wal", "-shm"):
            Path(path + suffix).unlink(missing_ok=True)
    elif kind != "memory":
        raise ValueError("only a memory log or an SQLite log can be deleted here: use one of these, not a shared log")
