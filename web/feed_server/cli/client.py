"""What the commands that talk to a server share: the options for its URL and a token, the messages while they wait, and
an output whose reader may leave first."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from feed import Invalid
from feed.client import checked_token, checked_url
from feed.units import parse_duration
from feed_server.cli.terminal import WrongUse, say


def _check_url(url: str) -> str:
    try:
        checked_url(url)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None
    return url


Url = Annotated[str, typer.Option(envvar="FEED_URL", metavar="URL", help="The server to talk to.", callback=_check_url)]
DEFAULT_URL = "http://127.0.0.1:8000"
UNSAID = 1.0
"""Seconds for which a server may be away before the user is told."""


def _check_token(token: str | None) -> str | None:
    try:
        return checked_token(token)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None


Token = Annotated[
    str | None,
    typer.Option(
        envvar="FEED_TOKEN",
        metavar="TOKEN",
        help="The token that allows it. Set it in the environment: other users of this machine can read command lines.",
        callback=_check_token,
    ),
]


def seconds(option: str, text: str | None) -> float | None:
    """Return a time that was given on the command line in seconds, None if none was. Raises `WrongUse`."""
    try:
        parsed: float | None = parse_duration(text)
    except ValueError as error:
        raise WrongUse(f"{option}: {error}") from None
    return parsed


class Waiting:
    """Says on standard error why a command waits: a line for each reason, not for each try."""

    def __init__(self, url: str, until: str, *, patience: float = 0.0) -> None:
        """`until` says what the command does meanwhile. A wait shorter than `patience` seconds is not reported."""
        self._url = url
        self._until = until
        self._patience = patience
        self._since: float | None = None
        self._told = ""

    def __call__(self, reason: str) -> None:
        """Note that a try has failed for `reason` and will be repeated."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        # A server that is away has many reasons, and one line is enough. An answer that is not the feed's is news.
        is_news = not self._told or (answers(reason) and reason != self._told)
        if is_news and now - self._since >= self._patience:
            say(f"feed: {self._url}: {reason}: {self._until}")
            self._told = reason

    def over(self) -> bool:
        """Note that a try has succeeded. Return whether a wait was reported before."""
        told, self._told, self._since = self._told, "", None
        return told != ""


def answers(reason: str) -> bool:
    """Whether the reason for a wait is an answer: then it begins with the answer's status."""
    return reason[:1].isdigit()


def run_to_end(command: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine whose output may go into a pipe that is closed before the end."""
    try:
        asyncio.run(command)
    except (BrokenPipeError, asyncio.CancelledError):
        # The reader has closed the pipe. Without this, Python would report the same error when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_with_reader() -> None:
    """Cancel the running task when the reader of standard output is gone, which a task only notices when it writes."""
    loop, task, output = asyncio.get_running_loop(), asyncio.current_task(), sys.stdout.fileno()

    def end() -> None:
        loop.remove_reader(output)
        if task is not None:
            task.cancel()

    if stat.S_ISFIFO(os.fstat(output).st_mode):
        loop.add_reader(output, end)
