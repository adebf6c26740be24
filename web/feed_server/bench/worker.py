"""Processes that make the load: how they are started, spoken to, and left.

A `Job` is pickled into a fresh Python, where `run` obeys the commands that come through a connection. When the
connection ends, for whatever reason, so does the process: none outlives the bench.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, Protocol

from feed import FeedError

CLOSE_SECONDS = 5.0


class BenchError(FeedError):
    """The bench cannot go on; the message says why, and what to do."""


if TYPE_CHECKING:
    Control = Connection[Any, Any]
else:  # which is not generic when it runs
    Control = Connection


class Job(Protocol):
    """What a worker does."""

    def run(self, control: Control) -> None:
        """Obey commands until there are no more."""


@dataclass(frozen=True)
class Failed:
    """A worker's last words."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """A worker's first words, if it has to connect before it can obey."""


@dataclass(frozen=True)
class Progress:
    """What a worker has done so far."""

    readers: int
    events: int


def now() -> int:
    """Microseconds of the monotonic clock, which all processes share."""
    return time.monotonic_ns() // 1000


class Worker:
    """A process that does a job."""

    def __init__(self, job: Job, cores: Iterable[int]) -> None:
        ours, theirs = socket.socketpair()
        with theirs, on_cores(cores):
            self._process = subprocess.Popen(  # noqa: S603  ourselves
                [sys.executable, "-m", "feed_server.bench.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # so that Ctrl-C comes to the bench alone
            )
        self.connection: Control = Connection(ours.detach())
        self.progress = Progress(0, 0)
        self.send(job)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def send(self, command: object) -> None:
        """Send a command."""
        try:
            self.connection.send(command)
        except OSError:
            raise BenchError(f"a process of the load has died (exit code {self._process.wait()})") from None

    def receive(self) -> Any:
        """What has come: an answer, or None if it only was progress, which is noted."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise BenchError(f"a process of the load has died (exit code {self._process.wait()})") from None
        if isinstance(answer, Failed):
            raise BenchError(answer.reason)
        if isinstance(answer, Progress):
            self.progress = answer
            return None
        return answer

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Whatever is started in the block runs on these cores, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def descriptor_limit() -> int:
    """How many descriptors a process may have, having asked for all there are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def main(arguments: list[str]) -> None:
    """What runs in the process."""
    descriptor_limit()
    control: Control = Connection(int(arguments[0]))
    try:
        control.recv().run(control)
    except EOFError:
        pass
    except BenchError as error:
        _say(control, Failed(str(error)))
    except Exception:  # noqa: BLE001  whatever it was, the bench is to say it
        _say(control, Failed(traceback.format_exc()))


def _say(control: Control, answer: object) -> None:
    with contextlib.suppress(OSError):
        control.send(answer)


if __name__ == "__main__":
    # Under the name that the other modules know it by, or there would be two of each class.
    from feed_server.bench import worker

    worker.main(sys.argv[1:])
