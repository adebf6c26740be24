"""Other processes that answer at the same address: the workers of one server.

A log of one process would be another one in each of them, and a reader would get what happens to reach the same worker.
Servers (uvicorn, gunicorn, hypercorn, granian) bind a socket and hand it to all workers that they start: those have one
parent, and hold one socket. That tells them from what is alike and does no harm, such as a reloader with its one
process, tests in several processes, or the workers of a task queue. Linux shows both in `/proc`. Elsewhere it can only
be seen that there is a supervisor, and not how many it has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from feed.errors import LogRefused

logger = logging.getLogger(__name__)

_TOGETHER = 5.0  # seconds between the starts of workers that are to stay beside each other
_REPLACED = 20.0  # seconds that a process which is being replaced has for its end: gunicorn gives a new one 30
_LOOK = 0.1
_LINGER = 1.0  # seconds for which one that is refused can be seen by those that come a little later

_HELP = (
    "each of them would have a feed of its own, and its readers would miss what reaches another: start one process "
    "(--workers 1, WEB_CONCURRENCY=1), or share a log, redis://HOST:PORT/DB?stream=NAME"
)


class _Sibling(NamedTuple):
    pid: int
    address: str
    started: float  # seconds after the machine's own start


async def check_alone(kind: str, processes: Path = Path("/proc")) -> None:
    """Raises `LogRefused` if another process answers where this one does, and so would have such a log of its own.

    One that is a good deal older may be about to be replaced by this one, and has some time to end. `kind` is what the
    log is called in the message, and `processes` is where the system shows what runs.
    """
    if not (processes / "self/fd").is_dir():
        _judge_by_supervisor(kind)
        return
    addresses = _addresses(processes)
    if not addresses:
        return  # nobody can have been handed them
    deadline = time.monotonic() + _REPLACED
    while siblings := await asyncio.to_thread(_siblings, kind, processes, addresses):
        own = _parent_and_start(processes / str(os.getpid()))[1]
        if time.monotonic() > deadline or any(abs(sibling.started - own) < _TOGETHER for sibling in siblings):
            pids = ", ".join(str(sibling.pid) for sibling in siblings)
            await asyncio.sleep(_LINGER)
            raise LogRefused(
                f"{kind}: is a log of one process, and process {pids} answers at {siblings[0].address} too: {_HELP}"
            )
        await asyncio.sleep(_LOOK)


def _judge_by_supervisor(kind: str) -> None:
    if multiprocessing.parent_process() is None and "gunicorn.arbiter" not in sys.modules:
        return
    count = os.environ.get("WEB_CONCURRENCY", "").strip()
    if count.isdecimal() and int(count) > 1:
        raise LogRefused(f"{kind}: is a log of one process, and WEB_CONCURRENCY is {count}: {_HELP}")
    logger.warning("%s: is a log of one process; if there are more workers than this one, %s", kind, _HELP)


def _addresses(processes: Path) -> Mapping[str, str]:
    """Where this process answers, or is about to, by the names that its sockets have among the descriptors."""
    found: dict[str, str] = {}
    for number, name in _sockets(processes / "self"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as held:
            if held.type == socket.SOCK_STREAM and (address := _bound_address(held)) is not None:
                found[name] = address
    return found


def _bound_address(held: socket.socket) -> str | None:
    """Where a socket takes connections, or will; None for a connection, and for what was not bound."""
    try:
        held.getpeername()
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            return None
    else:
        return None
    address = held.getsockname()
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}" if address[1] else None
    return os.fsdecode(address) or None


def _siblings(kind: str, processes: Path, addresses: Mapping[str, str]) -> list[_Sibling]:
    """All other children of this process's parent that hold one of its sockets."""
    found: list[_Sibling] = []
    hidden = False
    for folder in processes.iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            parent, started = _parent_and_start(folder)
            if parent != os.getppid():
                continue
            try:
                shared = [addresses[name] for _, name in _sockets(folder) if name in addresses]
            except PermissionError:  # it has given up rights, as gunicorn's workers do with --user
                hidden = True
                continue
            if shared:
                found.append(_Sibling(int(folder.name), shared[0], started))
    if hidden and not found:
        _judge_by_supervisor(kind)
    return found


def _parent_and_start(folder: Path) -> tuple[int, float]:
    """A process's parent, and when it started. See proc(5): its name, in brackets, may hold anything."""
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _sockets(folder: Path) -> Iterator[tuple[int, str]]:
    """The descriptors of a process that are sockets, with the name of each, which is the same in all processes."""
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            name = str(link.readlink())
            if name.startswith("socket:"):
                yield int(link.name), name
