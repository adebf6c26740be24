"""Commands of the command line, run as processes of their own."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO

from tests.support import forking
from tests.support.forking import FEED

SECONDS = 30.0

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")} | {"COLUMNS": "80"}


def feed(*arguments: str, stdin: bytes | None = None, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    environment = ENVIRONMENT | {f"FEED_{name.upper()}": value for name, value in settings.items()}
    return forking.run(arguments, environment, input=stdin, timeout=SECONDS)


class Command:
    """A command that runs while the test does other things. `lines` and `errors` are what it has printed so far."""

    def __init__(self, *arguments: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE) -> None:
        self.process = forking.popen(arguments, ENVIRONMENT, stdin=stdin, stderr=stderr)
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._collect, args=(source, into), daemon=True)
            for source, into in ((self.process.stdout, self.lines), (self.process.stderr, self.errors))
            if source is not None
        ]
        for reader in self._readers:
            reader.start()

    def _collect(self, source: IO[bytes], into: list[str]) -> None:
        for line in source:
            with self._news:
                into.append(line.decode().removesuffix("\n"))
                self._news.notify_all()

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until what it has printed makes `condition` true."""
        with self._news:
            assert self._news.wait_for(condition, SECONDS), (self.lines[-5:], "\n".join(self.errors))

    def until_lines(self, count: int) -> None:
        """Wait until it has printed `count` lines."""
        self.until(lambda: len(self.lines) >= count)

    def write(self, text: bytes) -> None:
        """To its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def wait(self) -> int:
        """Wait for its end and for the last it printed, and give the exit code."""
        code = self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return code

    def interrupt(self) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()


def on_a_terminal(*arguments: str) -> str:
    """What a command shows there."""
    ours, its = pty.openpty()
    shown = b""
    environment = ENVIRONMENT | {"COLUMNS": "200", "TERM": "dumb"}
    with subprocess.Popen([FEED, *arguments], env=environment, stdin=subprocess.DEVNULL, stdout=its, stderr=its) as run:
        os.close(its)
        with contextlib.suppress(OSError):  # Linux says so that nobody has the other end any more
            while chunk := os.read(ours, 4096):
                shown += chunk
        os.close(ours)
        assert run.wait(SECONDS) == 0
    return shown.decode()


def one_line(result: subprocess.CompletedProcess[bytes]) -> str:
    """The one line that an error is."""
    assert result.stdout == b""
    (line,) = result.stderr.decode().splitlines()
    return line
