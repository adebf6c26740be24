"""The programs of the pages, each in a process of its own, on a port of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil

from tests.support.redis_server import free_port
from tests.support.streams import eventually

STOP_SECONDS = 20


@contextlib.contextmanager
def serving(folder: Path, *command: str, **environment: str) -> Iterator[str]:
    """Run a module of Python that serves HTTP, by its name and arguments, and give its URL. `{port}` in an argument is
    the port. What the program says is in `output.txt`."""
    named = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")} | environment
    with (folder / "output.txt").open("ab") as output:
        process, port = _started(command, folder, named, output)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)


def _started(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], output: BinaryIO
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the program, on another port if somebody takes the one that was free a moment ago."""
    while True:
        port = free_port()
        process = subprocess.Popen(
            [sys.executable, "-m", *(each.replace("{port}", str(port)) for each in command)],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            eventually(partial(_is_up, process, port))
        except AssertionError:
            process.kill()
            process.wait()
            raise
        if process.returncode is None:
            return process, port
        said = (folder / "output.txt").read_text()
        assert "in use" in said, said


def _is_up(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the program has ended, or it is the one that listens there: another test's server would answer, too."""
    if process.poll() is not None:
        return True
    with contextlib.suppress(psutil.NoSuchProcess):
        program = psutil.Process(process.pid)
        for each in (program, *program.children(recursive=True)):
            for connection in each.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    return _answers(f"http://127.0.0.1:{port}")
    return False


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
