"""Other processes that answer at the same address: the workers of one server.

With a log of one process, each worker would have a feed of its own, and a reader would get only the events that are
published to the same worker. Servers (uvicorn, gunicorn, hypercorn, granian) bind a socket and hand it to all workers
that they start. So workers have one parent and hold one socket. That tells them from processes that are alike and do no
harm: a reloader with its one process, tests in several processes, the workers of a task queue. Linux shows both in
`/proc`. Elsewhere only the supervisor can be seen, not how many workers it has started.
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
_REPLACED = 20.0  # seconds in which a process that is being replaced has to end: gunicorn gives a new one 30
_LOOK = 0.1
_LINGER = 1.0  # seconds for which a process that is refused stays, for those that start a little later to see it

_WHY = {
    "sqlite": "only one process can use the file",
    "memory": "each worker would have a feed of its own, and its readers would miss what is published to another one",
}
_CURE = "start one worker (--workers 1, WEB_CONCURRENCY=1), or share a log, redis://HOST:PORT/DB?stream=NAME"


class _Sibling(NamedTuple):
    pid: int
    address: str
    started: float  # seconds after the machine's own start


async def check_alone(kind: str, processes: Path = Path("/proc")) -> None:
    """Raise `LogRefused` if another process answers at the same address as this one, and so would have a log of its
    own.

    A process that is a good deal older may be about to be replaced by this one, and gets some time to end. `kind` is
    the scheme of the log, for the message. `processes` is the folder in which the system shows the processes.
    """
    if not (processes / "self/fd").is_dir():
        _judge_by_supervisor(kind)
        return
    addresses = _addresses(processes)
    if not addresses:
        return  # there is no socket that several could hold
    deadline = time.monotonic() + _REPLACED
    while siblings := await asyncio.to_thread(_siblings, kind, processes, addresses):
        own = _parent_and_start(processes / str(os.getpid()))[1]
        if time.monotonic() > deadline or any(abs(sibling.started - own) < _TOGETHER for sibling in siblings):
            pids = ", ".join(str(sibling.pid) for sibling in siblings)
            await asyncio.sleep(_LINGER)
            raise LogRefused(
                f"{kind}: is a log of one process, and process {pids} answers at {siblings[0].address} too: "
                f"{_WHY[kind]}: {_CURE}"
            )
        await asyncio.sleep(_LOOK)


def _judge_by_supervisor(kind: str) -> None:
    if multiprocessing.parent_process() is None and "gunicorn.arbiter" not in sys.modules:
        return
    count = os.environ.get("WEB_CONCURRENCY", "").strip()
    if count.isdecimal() and int(count) > 1:
        raise LogRefused(f"{kind}: is a log of one process, and WEB_CONCURRENCY is {count}: {_WHY[kind]}: {_CURE}")
    logger.warning(
        "%s: is a log of one process; if there are more workers than this one, %s: %s", kind, _WHY[kind], _CURE
    )


def _addresses(processes: Path) -> Mapping[str, str]:
    """Return the addresses at which this process answers, or soon will, by the names of its sockets in `/proc`."""
    found: dict[str, str] = {}
    for number, name in _sockets(processes / "self"):
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(number)) as held:
            if held.type == socket.SOCK_STREAM and (address := _bound_address(held)) is not None:
                found[name] = address
    return found


def _bound_address(held: socket.socket) -> str | None:
    """Return the address at which a socket takes connections, or soon will. None for a connection, and for a socket
    that is not bound."""
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
    """Return the other children of this process's parent that hold one of this process's sockets."""
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
    """Return a process's parent, and when the process started. In proc(5) its name, in brackets, may be anything."""
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _sockets(folder: Path) -> Iterator[tuple[int, str]]:
    """Yield the descriptors of a process that are sockets, each with its name, which is the same in all processes."""
    for link in (folder / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            name = str(link.readlink())
            if name.startswith("socket:"):
                yield int(link.name), name
