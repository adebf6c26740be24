"""Programs that the bench starts to measure them: watched while they run, and ended with all that they have started."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from feed_server.bench.worker import BenchError, on_cores

START_SECONDS = 30.0
STOP_SECONDS = 3.0


@dataclass(frozen=True)
class Usage:
    """What processes have used so far."""

    cpu: float
    """Seconds."""
    memory: int
    """Resident bytes."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.cpu + other.cpu, self.memory + other.memory)


@dataclass(frozen=True)
class Child:
    """A program that runs, with its output in a file."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """Raises `BenchError` if it has died."""
        if (code := self.process.poll()) is not None:
            raise BenchError(f"{self.name} has died (exit code {code}): {self._said or 'without any output'}")

    def usage(self) -> Usage:
        """What it and its children have used."""
        used = Usage(0.0, 0)
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in _tree(self.process.pid):
                with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                    times = process.cpu_times()
                    used += Usage(times.user + times.system, process.memory_info().rss)
        return used

    def announced_port(self, pattern: bytes) -> int:
        """The port that it says it listens on, once it has said so."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if (found := re.search(pattern, self.output.read_bytes())) is not None:
                return int(found[1])
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{self.name} did not start: {self._said}")
            time.sleep(0.02)

    def wait_until_listening(self, port: int) -> None:
        """Wait until it takes connections on this port."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            self.check()
            try:
                socket.create_connection(("127.0.0.1", port), START_SECONDS).close()
            except OSError as error:
                if time.monotonic() > deadline:
                    raise BenchError(f"{self.name} does not listen: {error.strerror or error}") from None
                time.sleep(0.02)
            else:
                return

    @property
    def _said(self) -> str:
        return self.output.read_text(errors="replace")[-2000:].strip()


def _tree(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


@contextlib.contextmanager
def a_folder() -> Iterator[Path]:
    """A directory that is gone after the block."""
    with tempfile.TemporaryDirectory(prefix="feed-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def child(
    name: str, command: Sequence[str], folder: Path, cores: Iterable[int], environment: Mapping[str, str]
) -> Iterator[Child]:
    """A program that works in this directory, on these cores; ended when the block is, with all its children."""
    output = folder / "output"
    with output.open("wb") as file, on_cores(cores):
        process = subprocess.Popen(  # noqa: S603  the servers that were asked for
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=folder,
            process_group=0,  # so that Ctrl-C comes to the bench alone, which ends it
        )
    try:
        yield Child(name, process, output)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        tree = _tree(process.pid)
    except psutil.NoSuchProcess:
        tree = []
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for descendant in tree[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            descendant.kill()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])
