"""A real `feed serve` in a process of its own, for tests to talk to, kill and start again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from feed.testing.process import START_SECONDS, STOP_SECONDS, FeedProcess, Process
from tests.support.forking import FEED, is_measured
from tests.support.forking import start as fork

__all__ = ["FEED", "GREETING", "START_SECONDS", "STOP_SECONDS", "RunningServer", "running"]

GREETING = 5
"""Lines that a server without a key says at its start; with one it is another, which says how to make a token."""


class RunningServer(FeedProcess):
    """One `feed serve`. `url` is where it listens; `start` after `kill` or `stop` brings it back on the same port."""

    def __init__(self, *args: str, program: str | Path = FEED, folder: Path | None = None, **settings: object) -> None:
        """`program` is the command, and `folder` where it runs, unless it is the tests' own."""
        # What is logged as a warning is a fault, and many tests look for some.
        settings = {"log_level": "warning", **settings}
        super().__init__(*args, settings=settings, command=[program], folder=folder)
        self.http = httpx.Client(verify=False, timeout=30)  # no TLS here, and loading certificates takes its time

    @property
    def remarks(self) -> str:
        """What it has printed besides its greeting."""
        greeting = re.compile(r"feed is listening|  (dashboard|access|token|subscribe|publish) ")
        return "".join(line for line in list(self._lines) if not greeting.match(line))

    def _run(self, arguments: Sequence[str]) -> Process:
        if self._command == [FEED] and not is_measured():  # coverage begins with a process
            return fork(arguments, self._environment, self._folder or Path.cwd())
        return super()._run(arguments)

    def close(self) -> None:
        """Leave nothing behind."""
        self.http.close()
        if self.alive and is_measured():
            self.stop()  # a process that is killed says nothing of what it has run
        super().close()

    def publish(self, topic: str, data: str | bytes = "x", **headers: str) -> str:
        """Publish text, and give the id."""
        answer = self.http.post(f"{self.url}/events/{topic}", content=data, headers=headers)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def publish_numbers(self, topic: str, count: int) -> list[str]:
        """Publish the numbers below `count` in one batch, and give the ids."""
        answer = self.http.post(
            f"{self.url}/events", json=[{"topic": topic, "data": number} for number in range(count)]
        )
        ids: list[str] = answer.json()["ids"]
        return ids

    def history(self, pattern: str = "**", **parameters: object) -> Any:
        """A page of history."""
        answer = self.http.get(
            f"{self.url}/events/{pattern}",
            params={"limit": "1000", **{name: str(value) for name, value in parameters.items()}},
            headers={"Accept": "application/json"},
        )
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextlib.contextmanager
def running(*args: str, **settings: Any) -> Iterator[RunningServer]:
    """A server for as long as the block lasts."""
    server = RunningServer(*args, **settings)
    try:
        yield server.start()
    finally:
        server.close()
