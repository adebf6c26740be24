"""What the commands share that talk to a server: which one, as whom, and an output that may end before they do."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from feed import Invalid
from feed.client import checked_token, checked_url


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
