"""What the commands share that talk to a server: which one, as whom, and an output that may end before they do."""

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
from feed_server.cli.terminal import say


def _check_url(url: str) -> str:
    try:
        checked_url(url)
    except Invalid as error:
        raise typer.BadParameter(error.detail) from None
    return url


Url = Annotated[str, typer.Option(envvar="FEED_URL", metavar="URL", help="The server to talk to.", callback=_check_url)]
DEFAULT_URL = "http://127.0.0.1:8000"


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
        help="What says that it is allowed. Better in the environment: others on this machine can read command lines.",
        callback=_check_token,
    ),
]


class Waiting:
    """A line on standard error for each thing that is waited for, not for each try, when it lasts."""

    def __init__(self, url: str, until: str, *, patience: float = 0.0) -> None:
        """`until` is what ends it; for so many seconds of `patience` nothing is said."""
        self._url = url
        self._until = until
        self._patience = patience
        self._since: float | None = None
        self._told = ""

    def __call__(self, reason: str) -> None:
        """It did not work, and is tried again."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        # That nobody is there has many forms, and that somebody is, but not the feed, is news.
        is_news = not self._told or (answers(reason) and reason != self._told)
        if is_news and now - self._since >= self._patience:
            say(f"feed: {self._url}: {reason}: {self._until}")
            self._told = reason

    def over(self) -> bool:
        """It works. Whether anything was told before that."""
        told, self._told, self._since = self._told, "", None
        return told != ""


def answers(reason: str) -> bool:
    """Whether what is waited for is another answer: its status begins the reason."""
    return reason[:1].isdigit()


def run_to_end(command: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine whose output may go into a pipe that is closed before the end."""
    try:
        asyncio.run(command)
    except (BrokenPipeError, asyncio.CancelledError):
        # Nobody is there to read the rest; Python itself must not find that out when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def end_with_reader() -> None:
    """Cancel the running task when nobody reads standard output any more: it may never write again to find out."""
    loop, task, output = asyncio.get_running_loop(), asyncio.current_task(), sys.stdout.fileno()

    def end() -> None:
        loop.remove_reader(output)
        if task is not None:
            task.cancel()

    if stat.S_ISFIFO(os.fstat(output).st_mode):
        loop.add_reader(output, end)
