"""What each process has for itself: a fork copies a client, and not what is at the other end of its sockets.

Two processes that read one connection get a part of its answers each, and two that write to it break its encryption.
So a process that finds itself with another's things leaves them alone, down to not saying goodbye, and makes its own.
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
    """One thing for each process, made at its first use there. Threads may share it.

    No lock: another thread may hold one while the process is forked, and nobody would ever give it back.
    """

    def __init__(self) -> None:
        self._things: dict[int, A] = {}

    def get(self, make: Callable[[], A]) -> A:
        """Return this process's own."""
        thing = self.existing()
        if thing is None:
            thing = self._things.setdefault(os.getpid(), make())  # of two threads at once one is the first
            self._forget_others()
        return thing

    def existing(self) -> A | None:
        """Return this process's own, if it has one yet."""
        return self._things.get(os.getpid())

    def _forget_others(self) -> None:
        # Their sockets are closed here by that, and only here; nothing is sent.
        for pid in list(self._things):
            if pid != os.getpid():
                self._things.pop(pid, None)


class PerLoop(Generic[A]):
    """One thing for each event loop of each process, made at its first use there."""

    def __init__(self) -> None:
        self._things: dict[tuple[int, asyncio.AbstractEventLoop], A] = {}

    def get(self, make: Callable[[], A]) -> A:
        """What is the running loop's own."""
        thing = self.existing()
        if thing is None:
            self._forget_ended()
            thing = self._things[_here()] = make()
        return thing

    def existing(self) -> A | None:
        """What is the running loop's own, if it has one yet."""
        return self._things.get(_here())

    def _forget_ended(self) -> None:
        # Not what another process made: to free it here can take its sockets out of that process's selector, which is
        # shared. It is as much as was open at the fork.
        pid, _ = _here()
        for other in [key for key in self._things if key[0] == pid and key[1].is_closed()]:
            del self._things[other]


def _here() -> tuple[int, asyncio.AbstractEventLoop]:
    return os.getpid(), asyncio.get_running_loop()


class InThisProcess(ExitStack):
    """Leaves what it has entered, but only in the process that entered it: a copy in another one says no goodbyes."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """Leave it all, the last first."""
        if os.getpid() != self._pid:
            self.pop_all()
        return super().__exit__(kind, error, trace)


class AsyncInThisProcess(AsyncExitStack):
    """The same for an event loop, which a copy of the process may still bring to its end."""

    def __init__(self) -> None:
        super().__init__()
        self._pid = os.getpid()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None:
        """Leave it all, the last first."""
        if os.getpid() != self._pid:
            self.pop_all()
        return await super().__aexit__(kind, error, trace)
