"""A real `feed serve` in its own process, to talk to, kill and start again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol, Self

START_SECONDS = 30.0
STOP_SECONDS = 20.0
LAST_WORDS_SECONDS = 2.0  # another process may hold its output: a worker that outlives it

# -P: without the current directory on the path, where a file could be mistaken for a library of ours.
COMMAND = (sys.executable, "-P", "-m", "feed")


class Process(Protocol):
    """The part of `subprocess.Popen` that is needed here."""

    pid: int

    @property
    def stdout(self) -> IO[str] | None:
        """See `subprocess.Popen`."""

    def poll(self) -> int | None:
        """See `subprocess.Popen`."""

    def wait(self, timeout: float | None = None) -> int:
        """See `subprocess.Popen`."""


class FeedProcess:
    """One `feed serve`. `url` is where it listens; `start` after `kill` or `stop` starts it again on the same port.

    `settings` become `FEED_…` in its environment: give them without the prefix, in lower case. It gets no `FEED_…` of
    the test's own environment.
    """

    def __init__(
        self,
        *args: str,
        settings: Mapping[str, object] | None = None,
        command: Sequence[str | Path] = COMMAND,
        folder: Path | None = None,
    ) -> None:
        """`command` is the program, and `folder` its working directory: by default this Python's feed, in the current
        directory."""
        self._args = args
        self._command = command
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEED_")},
            **{f"FEED_{name.upper()}": str(value) for name, value in (settings or {}).items()},
        }
        self._process: Process | None = None
        self._lines: list[str] = []
        self.url = ""
        self.port = 0

    @property
    def pid(self) -> int:
        """The id of the process, to send signals to."""
        return self._started.pid

    @property
    def _started(self) -> Process:
        if self._process is None:
            raise RuntimeError("the server was not started: call start() first")
        return self._process

    @property
    def output(self) -> str:
        """What the server has printed since it was started, its errors too."""
        return "".join(self._lines)

    def start(self) -> Self:
        """Start the server, and wait until it listens. Raises `RuntimeError` with the server's output if it does
        not."""
        self._lines = []
        process = self._process = self._run(["serve", "--port", str(self.port), *self._args])
        greeted = threading.Event()
        self._collecting = threading.Thread(target=self._collect, args=(process, self._lines, greeted), daemon=True)
        self._collecting.start()
        greeted.wait(START_SECONDS)
        found = re.search(r"dashboard +(http://\S+:(\d+))/", self.output)
        if found is None:
            raise RuntimeError(f"the server did not start: {self.output}")
        self.url, self.port = found[1], int(found[2])
        return self

    def _run(self, arguments: Sequence[str]) -> Process:
        return subprocess.Popen(  # noqa: S603  our own program
            [*self._command, *arguments],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _collect(self, process: Process, lines: list[str], greeted: threading.Event) -> None:
        if process.stdout is not None:
            with process.stdout:
                for line in process.stdout:
                    lines.append(line)
                    if line.startswith("  publish"):
                        greeted.set()
        greeted.set()

    def signal(self, number: int) -> None:
        """Send a signal, without waiting."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and return the exit code. `output` is complete then."""
        code = self._started.wait(STOP_SECONDS)
        self._collecting.join(LAST_WORDS_SECONDS)
        return code

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Kill the process if it runs."""
        if self.alive:
            self.kill()
