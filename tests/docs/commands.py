"""The commands of the pages, run in a shell."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Callable, Iterator

FEED_URL = "http://127.0.0.1:8000"
"""As the pages have it: a test puts its own server in its place."""


@contextlib.contextmanager
def reading(command: str) -> Iterator[Callable[[], str]]:
    """Run a command that has no end, for as long as the block lasts; give what it has printed."""
    said: list[str] = []
    with subprocess.Popen(["sh", "-c", f"exec {command}"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        collecting = threading.Thread(target=said.extend, args=(iter(process.stdout.readline, ""),))
        collecting.start()
        try:
            yield lambda: "".join(said)
        finally:
            process.kill()
            collecting.join(10)


def run(commands: str) -> list[str]:
    """Run commands one after the other, and return what each line of them printed."""
    return [
        subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=30, check=True).stdout
        for line in commands.splitlines()
    ]
