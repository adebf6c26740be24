"""What the tests of commands share."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.support.commands import Command

Start = Callable[..., Command]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands that end with the test."""
    commands: list[Command] = []

    def _start(*arguments: str, stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE) -> Command:
        commands.append(Command(*arguments, stdin=stdin, stderr=stderr))
        return commands[-1]

    yield _start
    for command in commands:
        command.process.kill()
        command.wait()
        for pipe in (command.process.stdin, command.process.stdout, command.process.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
