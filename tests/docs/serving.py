"""The programs of the pages, each in a process of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx

from tests.support.redis_server import free_port
from tests.support.streams import eventually

STOP_SECONDS = 20


@contextlib.contextmanager
def serving(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """Run a module of Python that serves HTTP, by its name and arguments, and give its URL. `{port}` in an argument is
    the port. What the program says is in `output.txt`."""
    port = str(free_port())
    arguments = [each.replace("{port}", port) for each in command]
    named = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")} | environment
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], cwd=folder, env=named, stdout=output, stderr=subprocess.STDOUT
        )
        url = f"http://127.0.0.1:{port}"
        try:
            eventually(lambda: process.poll() is not None or _answers(url))
            assert process.poll() is None, (folder / "output.txt").read_text()
            yield url
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def uvicorn(folder: Path, module: str = "shop") -> contextlib.AbstractContextManager[str]:
    """Run the application of a page as the page says."""
    return serving(folder, "uvicorn", f"{module}:app", "--port", "{port}")


def _answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True


def page_of(client: httpx.Client, topic: str) -> list[dict[str, object]]:
    """Return the events of a topic, below the client's base URL."""
    answer = client.get(f"/events/{topic}", headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    events: list[dict[str, object]] = answer.json()["events"]
    return events
