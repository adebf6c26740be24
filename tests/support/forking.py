"""Starts `feed …` by forking a process that has its modules loaded already: most of the half second that a start takes
is importing, and the tests start hundreds of servers.

What is forked runs what the command `feed` runs, in a process of its own, with the arguments, environment and folder
that it is given. The command itself is started by tests/system/test_packaging.py, and by some of
tests/server/test_cli.py.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from feed.fastapi.metrics import METRICS_FOLDER

FEED = str(Path(sys.executable).parent / "feed")

_MODULES = (
    "feed.log.memory",
    "feed.log.redis",
    "feed.log.sqlite",
    "uvloop",
    "feed_server.app",
    "feed_server.cli.main",
    "feed_server.server.protocol",
    "feed_server.server.supervisor",
    "feed_server.auth.tokens",
)
_MOST = 1 << 17  # bytes of a request
_DESCRIPTORS = 1 << 16


class Forked:
    """A process that was started. It has of `subprocess.Popen` what the tests need of it."""

    def __init__(
        self,
        control: socket.socket,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        streams: Sequence[int],
    ) -> None:
        """`streams` are the descriptors of its input, output and errors; they stay the caller's to close."""
        self.args = list(command)
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[Any] | None = None
        self.stderr: IO[bytes] | None = None
        self._status, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # its words are kept apart
        request = json.dumps({"arguments": self.args, "environment": dict(environment), "folder": str(folder)}).encode()
        assert len(request) < _MOST
        with status:
            socket.send_fds(control, [request], [*streams, status.fileno()])
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

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def _end(self, said: bytes) -> None:
        self.returncode = int(said)  # it says nothing if whoever forks is gone, and then the test may fail
        self._status.close()


def start(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> Forked:
    """Run `feed` with these arguments; its errors are in `stdout`, too."""
    output, theirs = os.pipe()
    stdout = open(output, encoding="utf-8", errors="replace")  # noqa: PTH123, SIM115  closed by who reads it
    try:
        process = Forked(_forking_for(command, environment), command, environment, folder, [0, theirs, theirs])
    finally:
        os.close(theirs)
    process.stdout = stdout
    return process


def popen(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.PIPE,
) -> Forked | subprocess.Popen[bytes]:
    """Run `feed` with these arguments, as `subprocess.Popen` would, with its output in a pipe."""
    if is_measured():
        return subprocess.Popen([FEED, *command], env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr)
    ours: dict[str, IO[bytes]] = {}
    with ExitStack() as theirs:

        def end(name: str, wanted: int) -> int:
            if wanted == subprocess.DEVNULL:
                descriptor = os.open(os.devnull, os.O_RDWR)
            elif wanted != subprocess.PIPE:
                return wanted
            else:
                readable, writable = os.pipe()
                descriptor, mine = (readable, writable) if name == "stdin" else (writable, readable)
                ours[name] = open(mine, "wb" if name == "stdin" else "rb")  # noqa: PTH123, SIM115
            theirs.callback(os.close, descriptor)
            return descriptor

        streams = [end("stdin", stdin), end("stdout", subprocess.PIPE), end("stderr", stderr)]
        process = Forked(_forking_for(command, environment), command, environment, Path.cwd(), streams)
    process.stdin, process.stdout, process.stderr = (ours.get(name) for name in ("stdin", "stdout", "stderr"))
    return process


def run(
    command: Sequence[str], environment: Mapping[str, str], *, input: bytes | None = None, timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run `feed` with these arguments to its end, as `subprocess.run` would. Raises `subprocess.TimeoutExpired`."""
    process = popen(command, environment, stdin=subprocess.DEVNULL if input is None else subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout, process.stderr, ThreadPoolExecutor(2) as pool:
        said = [pool.submit(stream.read) for stream in (process.stdout, process.stderr)]
        try:
            if process.stdin is not None:
                with contextlib.suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(input or b"")
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess([FEED, *command], code, *(each.result() for each in said))


def is_measured() -> bool:
    """Whether coverage looks on, which begins where a process begins."""
    return any(name.startswith("COVERAGE_PROCESS") for name in os.environ)


def _forking_for(command: Sequence[str], environment: Mapping[str, str]) -> socket.socket:
    return _forking("--workers" in command or "FEED_WORKERS" in environment)


@functools.cache
def _forking(has_workers: bool) -> socket.socket:
    """A line to the process that forks: one for each process of the tests, that ends with it, and one for servers that
    have workers, as prometheus-client looks for their folder when it is loaded."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name != METRICS_FOLDER}
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(theirs.fileno())],
        env={**environment, METRICS_FOLDER: "/nowhere"} if has_workers else environment,
        pass_fds=[theirs.fileno()],
    )
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
                message, descriptors, _, _ = socket.recv_fds(control, _MOST, 4)
                if not message:
                    sys.exit()
                *streams, status = descriptors
                if (pid := os.fork()) == 0:
                    selector.close()
                    for _, other in children.values():
                        other.detach()
                    control.detach()
                    return _become(json.loads(message), streams)
                for stream in streams:
                    os.close(stream)
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


def _become(request: dict[str, Any], streams: Sequence[int]) -> list[str]:
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
    # As an interpreter makes them at its start: those of the first process have looked at what it had there.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    os.closerange(3, _DESCRIPTORS)  # those of its siblings
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return list(request["arguments"])


def _load() -> None:
    """What every server needs. The handshake's limits are read when its module is loaded."""
    from feed_server.server.server import _raise_handshake_limits

    _raise_handshake_limits()
    for module in _MODULES:
        importlib.import_module(module)
    gc.freeze()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for whoever runs the tests
    _load()
    sys.argv = ["feed", *_fork_on_request(socket.socket(fileno=int(sys.argv[1])))]
    importlib.import_module("feed_server.cli.main").main()
