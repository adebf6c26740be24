"""`feed serve` for a soak: the same program, that says how many tasks it has when it is asked by SIGUSR1.

Its first argument is the file to say it in. A figure of `/metrics` it is not: to count them takes up to ten
milliseconds where there are ten thousand streams.
"""

from __future__ import annotations

import asyncio
import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import orjson


def tell_tasks(file: Path) -> None:
    """Count the tasks by name in this file whenever SIGUSR1 comes."""

    def count(number: int, frame: FrameType | None) -> None:
        try:
            names = Counter(task.get_coro().__qualname__ for task in asyncio.all_tasks())  # type: ignore[union-attr]
        except RuntimeError:  # it comes between two loops
            names = Counter()
        fresh = file.with_suffix(".new")
        fresh.write_bytes(orjson.dumps(names))
        fresh.replace(file)  # so that it is there in full, or not at all

    signal.signal(signal.SIGUSR1, count)


if __name__ == "__main__":
    tell_tasks(Path(sys.argv[1]))
    del sys.argv[1]
    # By name, as anybody starts it: an import of the command line, which imports all of this, would be a circle.
    runpy.run_module("feed", run_name="__main__", alter_sys=True)
