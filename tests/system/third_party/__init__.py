"""The programs and the page that read a feed with other people's clients, and what starts them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from httpx_sse import ServerSentEvent
from httpx_sse._decoders import SSEDecoder

from tests.support import npm

FOLDER = Path(__file__).parent

Event = dict[str, Any]
"""`id`, `type`, `data`, as a client had them."""


def install() -> None:
    """Have what package-lock.json names; see `npm.install_or_skip`."""
    npm.install_or_skip(FOLDER)


class Program:
    """A reader in a process of its own. It prints a line of JSON for each event, and other lines for what it thinks of
    its connection."""

    def __init__(self, *command: str | Path) -> None:
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self._lines: list[str] = []
        self._collecting = threading.Thread(target=self._collect, daemon=True)
        self._collecting.start()

    def _collect(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout:
            self._lines.extend(self._process.stdout)

    @property
    def events(self) -> list[Event]:
        """What it got so far."""
        return [json.loads(line) for line in list(self._lines) if line.startswith("{")]

    @property
    def remarks(self) -> str:
        """What else it said."""
        return "".join(line for line in list(self._lines) if not line.startswith("{"))

    @property
    def ended(self) -> bool:
        """Whether it has ended by itself, and all it said has been heard."""
        return self._process.poll() is not None and not self._collecting.is_alive()

    def close(self) -> None:
        """End it, and all it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(10)


class Curl(Program):
    """curl, whose bytes somebody else has to read."""

    def __init__(self, folder: Path, url: str, *words: str) -> None:
        folder.mkdir()
        self._folder = folder
        super().__init__(FOLDER / "with_curl.sh", url, str(folder), *words)

    @property
    def events(self) -> list[Event]:
        """What it got so far."""
        frames = [frame for number in range(1, 100) for frame in self._frames(self._folder / str(number))]
        return [
            {"id": frame.id, "type": frame.event, "data": frame.data}
            for frame in frames
            if not frame.event.startswith("feed.")
        ]

    def _frames(self, part: Path) -> Iterator[ServerSentEvent]:
        decoder = SSEDecoder()
        if part.exists():
            lines = part.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]
            yield from filter(None, map(decoder.decode, lines))


def python(name: str, url: str, *words: str) -> Program:
    """One of the programs beside this file."""
    return Program(sys.executable, FOLDER / f"with_{name}.py", url, *words)


def node(url: str, *words: str) -> Program:
    """npm's eventsource in node."""
    return Program(npm.NODE, FOLDER / "eventsource.mjs", url, *words)


class _Files(SimpleHTTPRequestHandler):
    """The page and the packages. Their modules name each other without `.js`, which bundlers put there."""

    def translate_path(self, path: str) -> str:
        found = Path(super().translate_path(path))
        return str(found if found.exists() else found.with_name(f"{found.name}.js"))

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def page_server() -> Iterator[str]:
    """Serves the page for as long as the block lasts; its origin."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(FOLDER))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
