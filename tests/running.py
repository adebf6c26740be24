"""A real `feed serve` in a process of its own, for tests to talk to, kill and start again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.forking import Forked
from tests.forking import start as fork

FEED = str(Path(sys.executable).parent / "feed")
START_SECONDS = 30.0
STOP_SECONDS = 20.0
GREETING = 5
"""Lines that a server without a key says at its start; with one it is another, which says how to make a token."""


class RunningServer:
    """One `feed serve`. `url` is where it listens; `start` after `kill` or `stop` brings it back on the same port."""

    def __init__(self, *args: str, program: str | Path = FEED, folder: Path | None = None, **settings: object) -> None:
        """`program` is the command, and `folder` where it runs, unless it is the tests' own."""
        self._args = args
        self._program = program
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FEED_")},
            "FEED_LOG_LEVEL": "warning",  # what is logged then is a fault, and many tests look for some
            **{f"FEED_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: subprocess.Popen[str] | Forked | None = None
        self._lines: list[str] = []
        self.http = httpx.Client(verify=False, timeout=30)  # no TLS here, and loading certificates takes its time
        self.url = ""
        self.port = 0

    @property
    def pid(self) -> int:
        """The process to send signals to."""
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far, its errors too."""
        return "".join(self._lines)

    @property
    def remarks(self) -> str:
        """What it has printed besides its greeting."""
        greeting = re.compile(r"feed is listening|  (dashboard|access|token|subscribe|publish) ")
        return "".join(line for line in list(self._lines) if not greeting.match(line))

    def start(self) -> RunningServer:
        """Start it, and wait until it listens."""
        self._lines = []
        process = self._process = self._run(["serve", "--port", str(self.port), *self._args])
        greeted = threading.Event()
        threading.Thread(target=self._collect, args=(process, greeted), daemon=True).start()
        assert greeted.wait(START_SECONDS), f"no greeting: {self.output}"
        found = re.search(r"dashboard +(http://\S+:(\d+))/", self.output)
        assert found, f"did not start: {self.output}"
        self.url, self.port = found[1], int(found[2])
        return self

    def _run(self, arguments: list[str]) -> subprocess.Popen[str] | Forked:
        # prometheus-client looks for the workers' folder when it is loaded, and coverage begins with a process.
        has_workers = "--workers" in arguments or "FEED_WORKERS" in self._environment
        if self._program == FEED and not has_workers and not _is_measured():
            return fork(arguments, self._environment, self._folder or Path.cwd())
        return subprocess.Popen(
            [self._program, *arguments],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _collect(self, process: subprocess.Popen[str] | Forked, greeted: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._lines.append(line)
                if line.startswith("  publish"):
                    greeted.set()
        greeted.set()

    def signal(self, number: int) -> None:
        """Send a signal, and do not wait."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end, and give the exit code."""
        assert self._process is not None
        return self._process.wait(STOP_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Leave nothing behind."""
        self.http.close()
        if self.alive and _is_measured():
            self.stop()  # a process that is killed says nothing of what it has run
        if self.alive:
            self.kill()

    def publish(self, topic: str, data: str | bytes = "x", **headers: str) -> str:
        """Publish text, and give the id."""
        answer = self.http.post(f"{self.url}/events/{topic}", content=data, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def history(self, pattern: str = "**", **parameters: object) -> Any:
        """A page of history."""
        answer = self.http.get(
            f"{self.url}/events/{pattern}",
            params={"limit": "1000", **{name: str(value) for name, value in parameters.items()}},
            headers={"Accept": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


def _is_measured() -> bool:
    """Whether coverage looks on, which begins where a process begins."""
    return any(name.startswith("COVERAGE_PROCESS") for name in os.environ)


@contextlib.contextmanager
def running(*args: str, **settings: object) -> Iterator[RunningServer]:
    """A server for as long as the block lasts."""
    server = RunningServer(*args, **settings)
    try:
        yield server.start()
    finally:
        server.close()
