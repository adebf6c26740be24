"""Objects that each process needs for itself: a fork copies a client, but not the other end of its sockets.

If two processes read one connection, each gets a part of the answers; if two write to it, they break its encryption. So
a process that finds connections of another process does not touch them, not even to close them, and makes its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from types import TracebackType
from typing import Generic, TypeVar

A = TypeVar("A")


class PerProcess(Generic[A]):
    """One object for each process, made at its first use there. Threads may share it.

    There is no lock: another thread could hold it while the process is forked, and the fork could never release it.
    """

    def __init__(self) -> None:
        self._things: dict[int, A] = {}

    def get(self, make: Callable[[], A]) -> A:
        """Return this process's own."""
        thing = self.existing()
        if thing is None:
            thing = self._things.setdefault(os.getpid(), make())  # of two threads at once, one wins
            self._forget_others()
        return thing

    def existing(self) -> A | None:
        """Return this process's own, if it has one yet."""
        return self._things.get(os.getpid())

    def _forget_others(self) -> None:
        # This closes their sockets in this process only, and sends nothing.
        for pid in list(self._things):
            if pid != os.getpid():
                self._things.pop(pid, None)


class PerLoop(Generic[A]):
    """One object for each event loop of each process, made at its first use there."""

    def __init__(self) -> None:
        self._things: dict[tuple[int, asyncio.AbstractEventLoop], A] = {}

    def get(self, make: Callable[[], A]) -> A:
        """Return the running loop's own."""
        thing = self.existing()
        if thing is None:
            self._forget_ended()
            thing = self._things[_here()] = make()
        return thing

    def existing(self) -> A | None:
        """Return the running loop's own, if it has one yet."""
        return self._things.get(_here())

    def _forget_ended(self) -> None:
        # Objects of another process are kept: to free them here can take their sockets out of that process's selector,
        # which is shared. They are only as many as were open at the fork.
        pid, _ = _here()
        for other in [key for key in self._things if key[0] == pid and key[1].is_closed()]:
            del self._things[other]


def _here() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()


class InThisProcess(ExitStack):
    """An `ExitStack` that exits only in the process that has entered it: a copy in a fork must not say goodbye."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """Exit all of it, the last first."""
        if os.getpid() != self._pid:
            self.pop_all()
        return super().__exit__(kind, error, trace)


class AsyncInThisProcess(AsyncExitStack):
    """An `AsyncExitStack` that exits only in the process that has entered it, as a fork may end the event loop too."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """Exit all of it, the last first."""
        if os.getpid() != self._pid:
            self.pop_all()
        return await super().__aexit__(kind, error, trace)
