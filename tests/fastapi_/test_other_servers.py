"""A feed inside an application on other people's servers: how they stop, and what their workers may share."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.support.doc_blocks import blocks
from tests.support.redis_server import free_port
from tests.support.running import START_SECONDS
from tests.support.streams import eventually, subscribed

SHOP = """
import os
from fastapi import FastAPI
from feed import Feed
from feed.fastapi import feed_router

feed = Feed("memory:")
app = FastAPI()
app.include_router(feed_router(feed), prefix="/live")

@app.get("/process")
def process() -> int:
    return os.getpid()
"""

# Each is started as `python -m …`, with the module of the application before these.
UVICORN = ("uvicorn", "{app}", "--port", "{port}", "--log-level", "warning")
GUNICORN = ("gunicorn", "{app}", "-b", "127.0.0.1:{port}", "-k", "uvicorn_worker.UvicornWorker", "--no-control-socket")
GRANIAN = ("granian", "--interface", "asgi", "{app}", "--port", "{port}")
HYPERCORN = ("hypercorn", "{app}", "-b", "127.0.0.1:{port}")

Command = Sequence[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the applications are."""
    (tmp_path / "shop.py").write_text(SHOP)
    signals, thread, program = blocks("guides/embedding.md", "When your server stops")
    assert thread
    (tmp_path / "drained.py").write_text(signals)
    bound = program.replace("Config()", "Config.from_mapping(bind=[sys.argv[1]])")
    (tmp_path / "program.py").write_text(f"import sys\n{bound}")
    return tmp_path


class Host:
    """Somebody's server, with all processes that it starts. What it says is in `output`."""

    def __init__(self, folder: Path, command: Command, app: str, **environment: str) -> None:
        module = "hypercorn" if command[0] == "program" else command[0]
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "output"
        with self._log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *(part.format(app=app, port=self.port) for part in command)],
                cwd=folder,
                env={**os.environ, **environment, "HOME": str(folder)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def pid(self) -> int | None:
        """The process that answers; None while none does."""
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{self.url}/process", timeout=5)
            return int(answer.text) if answer.status_code == 200 else 0
        return None

    def close(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


StartHost = Callable[..., Host]


@pytest.fixture
def host(folder: Path) -> Iterator[StartHost]:
    """Starts a server: `host(UVICORN, "shop:app")`."""
    with contextlib.ExitStack() as stack:

        def start(command: Command, app: str = "shop:app", **environment: str) -> Host:
            started = Host(folder, command, app, **environment)
            stack.callback(started.close)
            return started

        yield start


# How they stop.


def streams_end(url: str, stop: Callable[[], object]) -> None:
    """A reader is told when the server is stopped, and its stream ends."""
    with subscribed(f"{url}/live/events/a") as stream:
        assert httpx.post(f"{url}/live/events/a", content="x").status_code == 201
        assert stream.frame().data == "x"
        stop()
        assert (closing := stream.frame()).event == "feed.closing"
        assert closing.json["reason"] == "shutdown"
        with pytest.raises(EOFError):
            stream.frame()


@pytest.mark.parametrize(
    ("command", "app"),
    [
        pytest.param(UVICORN, "shop:app", id="uvicorn"),
        pytest.param(GUNICORN, "shop:app", id="gunicorn with uvicorn's worker"),
        pytest.param((*GUNICORN[:4], "-k", "asgi", "--no-control-socket"), "drained:app", id="gunicorn"),
        pytest.param(GRANIAN, "drained:app", id="granian"),
        pytest.param(("program", "127.0.0.1:{port}"), "", id="hypercorn"),
    ],
)
def test_a_reader_is_told_when_a_server_stops_and_the_server_ends(host: StartHost, command: Command, app: str) -> None:
    started = host(command, app)
    eventually(lambda: started.pid() is not None, START_SECONDS)
    streams_end(started.url, started.process.terminate)
    started.process.wait(10)


def test_a_uvicorn_in_a_thread_is_stopped_as_the_page_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"uvicorn": uvicorn, "threading": threading, "__name__": "embedding"}
    exec(compile(SHOP, "shop.py", "exec", dont_inherit=True), names)
    port = free_port()
    _, program, _ = blocks("guides/embedding.md", "When your server stops")
    start, stop = program.replace("Config(app)", f"Config(app, port={port}, log_config=None)").split("...\n")
    exec(compile(start, "start.py", "exec", dont_inherit=True), names)
    eventually(lambda: names["server"].started, START_SECONDS)
    streams_end(f"http://127.0.0.1:{port}", lambda: exec(compile(stop, "stop.py", "exec", dont_inherit=True), names))
    assert not names["thread"].is_alive()


# Several workers.


@pytest.mark.parametrize(
    ("command", "environment"),
    [
        pytest.param((*UVICORN, "--workers", "2"), {}, id="uvicorn"),
        pytest.param(UVICORN, {"WEB_CONCURRENCY": "2"}, id="WEB_CONCURRENCY"),
        pytest.param((*GUNICORN, "-w", "2"), {}, id="gunicorn"),
        pytest.param((*HYPERCORN, "-w", "2"), {}, id="hypercorn"),
        pytest.param((*GRANIAN, "--workers", "2"), {}, id="granian"),
    ],
)
def test_workers_that_would_each_have_a_log_of_their_own_do_not_start(
    host: StartHost, command: Command, environment: dict[str, str]
) -> None:
    started = host(command, **environment)
    answers = rf"memory: is a log of one process, and process [\d, ]+ answers at 127.0.0.1:{started.port} too: "
    eventually(lambda: re.search(answers + ".*redis://", started.output), START_SECONDS)
    eventually(lambda: started.pid() is None, START_SECONDS)  # one that was faster is stopped with the others


def test_a_reloader_with_its_one_process_is_no_worker_beside_another(host: StartHost, folder: Path) -> None:
    started = host((*UVICORN, "--reload"))
    eventually(started.pid, START_SECONDS)
    before = started.pid()
    (folder / "shop.py").write_text(SHOP + "\n# changed\n")
    eventually(lambda: started.pid() not in {None, before}, START_SECONDS)
    assert httpx.post(f"{started.url}/live/events/a", content="x").status_code == 201


def test_a_worker_that_replaces_another_waits_for_its_end(host: StartHost) -> None:
    started = host((*GUNICORN, "-w", "1"))
    eventually(started.pid, START_SECONDS)
    before = started.pid()
    started.process.send_signal(signal.SIGHUP)
    eventually(lambda: started.pid() not in {None, before}, START_SECONDS)
    assert httpx.post(f"{started.url}/live/events/a", content="x").status_code == 201
