"""Starts `feed …` by forking a process that has its modules loaded already: most of the half second that a start takes
is importing, and the tests start hundreds of servers.

What is forked runs what the command `feed` runs, in a process of its own, with the arguments, environment and folder
that it is given. The command itself is started by tests/test_cli.py and tests/test_packaging.py.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_MODULES = (
    "feed.log.memory",
    "feed.log.redis",
    "feed.log.sqlite",
    "uvloop",
    "web.app",
    "web.cli",
    "web.protocol",
    "web.supervisor",
    "web.tokens",
)
_MOST = 1 << 17  # bytes of a request
_DESCRIPTORS = 1 << 16


class Forked:
    """A process that was started. It has of `subprocess.Popen` what `tests.running` needs of it; its errors are in
    `stdout`, too."""

    def __init__(self, control: socket.socket, command: Sequence[str], environment: Mapping[str, str], folder: Path):
        output, theirs = os.pipe()
        self.stdout = open(output, encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115  closed by who reads it
        self.args = list(command)
        self.returncode: int | None = None
        self._status, status = socket.socketpair()
        request = json.dumps({"arguments": self.args, "environment": dict(environment), "folder": str(folder)}).encode()
        assert len(request) < _MOST
        try:
            socket.send_fds(control, [request], [theirs, status.fileno()])
        finally:
            os.close(theirs)
            status.close()
        self.pid = int(self._read(None))

    def __del__(self) -> None:
        self._status.close()  # a server that is started anew has not always been waited for

    def _read(self, timeout: float | None) -> bytes:
        """The next thing that is said of it, the empty string if that is nothing."""
        self._status.settimeout(timeout)
        return self._status.recv(64)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            try:
                self._end(self._read(timeout))
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
        return self.returncode or 0

    def _end(self, said: bytes) -> None:
        self.returncode = int(said)  # it says nothing if whoever forks is gone, and then the test may fail
        self._status.close()


def start(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Forked:
    """Run `feed` with these arguments."""
    return Forked(_forking(), command, environment, folder)


@functools.cache
def _forking() -> socket.socket:
    """A line to the process that forks: one for each process of the tests, that ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen([sys.executable, "-m", __name__, str(theirs.fileno())], pass_fds=[theirs.fileno()])
    theirs.close()
    atexit.register(process.wait)
    atexit.register(ours.close)
    return ours


def _fork_on_request(control: socket.socket) -> list[str]:
    """Returns in each process that was forked, with its arguments; the first one exits when nobody can ask any more."""
    children: dict[int, tuple[int, socket.socket]] = {}  # by the descriptor that tells of their end
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is not control:
                    selector.unregister(key.fd)
                    _bury(key.fd, *children.pop(key.fd))
                    continue
                message, descriptors, _, _ = socket.recv_fds(control, _MOST, 2)
                if not message:
                    sys.exit()
                output, status = descriptors
                if (pid := os.fork()) == 0:
                    selector.close()
                    for _, other in children.values():
                        other.detach()
                    control.detach()
                    return _become(json.loads(message), output)
                os.close(output)
                asking = socket.socket(fileno=status)
                with contextlib.suppress(OSError):
                    asking.sendall(str(pid).encode())
                handle = os.pidfd_open(pid)
                selector.register(handle, selectors.EVENT_READ)
                children[handle] = pid, asking


def _bury(handle: int, pid: int, asking: socket.socket) -> None:
    os.close(handle)
    _, code = os.waitpid(pid, 0)
    with contextlib.suppress(OSError), asking:  # whoever asked may have lost interest
        asking.sendall(str(os.waitstatus_to_exitcode(code)).encode())


def _become(request: dict[str, Any], output: int) -> list[str]:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, _DESCRIPTORS)  # those of its siblings
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return list(request["arguments"])


def _load() -> None:
    """What every server needs. The handshake's limits are read when its module is loaded."""
    from web.server import _raise_handshake_limits

    _raise_handshake_limits()
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for whoever runs the tests
    _load()
    sys.argv = ["feed", *_fork_on_request(socket.socket(fileno=int(sys.argv[1])))]
    importlib.import_module("web.cli").main()
