"""`feed.testing`: what a reader sees when each switch is thrown, on the feed's own server and on an application."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from feed import Feed, Invalid
from feed.fastapi import feed_router
from feed.testing import AppServer, FeedServer, Server
from feed.testing.server import delete_log
from tests.support.streams import Frame, Stream, eventually
from tests.support.tokens import SECRET


class Reader:
    """What a page is: it comes back by itself, with the id that it saw last."""

    def __init__(self, url: str, **headers: str) -> None:
        self.url = url
        self.headers = headers
        self.frames: list[Frame] = []
        self.cuts = 0
        self.last: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with httpx.Client(verify=False, timeout=20) as client:  # no TLS here, and loading certificates takes its time
            self._read(client)

    def _read(self, client: httpx.Client) -> None:
        while not self._stopping.is_set():
            headers = {**self.headers, **({} if self.last is None else {"Last-Event-ID": self.last})}
            try:
                with client.stream("GET", self.url, headers=headers) as response:
                    if response.status_code != 200:
                        return
                    stream = Stream(response)
                    while not self._stopping.is_set():
                        frame = stream.frame()
                        self.last = frame.id or self.last
                        self.frames.append(frame)
            except (httpx.HTTPError, EOFError):
                self.cuts += 1
                self._stopping.wait(0.02)

    @property
    def names(self) -> list[str]:
        """What came: the types of control events, and the data of the others."""
        return [frame.event or str(frame.data) for frame in list(self.frames)]

    def wait_for(self, name: str) -> None:
        """Until this has come."""
        eventually(lambda: name in self.names)

    def stop(self) -> None:
        """The test has to end its connection."""
        self._stopping.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


@contextmanager
def reading(server: Server, url: str, **headers: str) -> Iterator[Reader]:
    reader = Reader(url, **headers)
    try:
        reader.wait_for("feed.open")
        yield reader
    finally:
        reader._stopping.set()
        server.drop()
        reader.stop()


Publish = Callable[[str], object]


def throw_every_switch(server: Server, reader: Reader, publish: Publish) -> None:
    publish("first")
    reader.wait_for("first")
    assert server.connections == 1

    server.drop()
    publish("while away")
    reader.wait_for("while away")
    assert reader.cuts == 1
    assert "feed.closing" not in reader.names, "a network says no goodbye"

    server.refuse()
    publish("while refused")
    cuts = reader.cuts
    eventually(lambda: reader.cuts > cuts + 1)
    assert "while refused" not in reader.names
    server.heal()
    reader.wait_for("while refused")

    server.stall()
    cuts = reader.cuts
    publish("while stalled")
    with pytest.raises(httpx.ReadTimeout):
        httpx.get(server.url, timeout=0.2, verify=False)
    assert "while stalled" not in reader.names
    server.heal()
    reader.wait_for("while stalled")
    assert reader.cuts == cuts, "and nothing was cut"

    server.delay(0.3)
    began = time.monotonic()
    publish("delayed")
    reader.wait_for("delayed")
    assert time.monotonic() - began >= 0.3
    server.heal()

    server.throttle(10_000)
    began = time.monotonic()
    publish("x" * 5_000)
    reader.wait_for("x" * 5_000)
    assert time.monotonic() - began >= 0.3
    server.heal()

    url = server.url
    server.restart()
    publish("after a restart")
    reader.wait_for("after a restart")
    assert server.url == url
    closings = [frame.json["reason"] for frame in reader.frames if frame.event == "feed.closing"]
    assert closings[0] == "shutdown"

    assert server.kick() == 1
    publish("after a kick")
    reader.wait_for("after a kick")
    assert [frame.json["reason"] for frame in reader.frames if frame.event == "feed.closing"][-1] == "kicked"
    published = [name for name in reader.names if not name.startswith("feed.")]
    assert published == [
        "first", "while away", "while refused", "while stalled", "delayed", "x" * 5_000, "after a restart",
        "after a kick",
    ], "nothing is lost, nothing comes twice"  # fmt: skip
    assert "feed.gap" not in reader.names

    server.gap()
    reader.wait_for("feed.gap")
    publish("after the gap")
    reader.wait_for("after the gap")


def test_a_reader_of_the_feeds_own_server_sees_what_each_switch_does() -> None:
    with FeedServer() as server, reading(server, f"{server.url}/events/a") as reader:
        throw_every_switch(server, reader, lambda text: server.publish("a", text))
        server.publish("a", {"n": 1}, type="created")
        assert [(event.data, event.type) for event in server.history("a")] == [
            ("after the gap", "message"), ({"n": 1}, "created")
        ]  # fmt: skip


def test_a_reader_of_an_application_sees_the_same(tmp_path: Path) -> None:
    feed = Feed(f"sqlite:{tmp_path / 'shop.db'}")
    app = FastAPI()
    app.include_router(feed_router(feed), prefix="/live")
    with AppServer(app, feed) as server, reading(server, f"{server.url}/live/events/a") as reader:
        throw_every_switch(server, reader, lambda text: feed.from_thread.publish("a", text))


def test_with_a_key_there_are_tokens_and_a_stream_ends_with_its_own() -> None:
    with FeedServer(jwt_secret=SECRET) as server:
        assert (
            httpx.get(f"{server.url}/events/a", headers={"Accept": "application/json"}, verify=False).status_code == 401
        )
        short = {"Authorization": f"Bearer {server.token(subscribe=['a'], seconds=3)}"}
        with reading(server, f"{server.url}/events/a", **short) as reader:
            server.publish("a", "x")
            reader.wait_for("x")
            reader.wait_for("feed.closing")
            assert reader.frames[-1].json["reason"] == "token-expired"
        assert server.kick() == 0
        with pytest.raises(Invalid):
            server.publish("a b", "x")


def test_an_application_without_a_feed_is_cut_instead_of_drained() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("hello")(scope, receive, send)

    with AppServer(app) as server:
        assert httpx.get(server.url, verify=False).text == "hello"
        server.restart()
        assert httpx.get(server.url, verify=False).text == "hello"
        for switch in (server.kick, server.gap):
            with pytest.raises(RuntimeError, match="need the application's feed"):
                switch()


def test_a_server_that_does_not_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with pytest.raises(RuntimeError, match="Is a directory"), FeedServer(f"sqlite:{tmp_path}"):
        pass
    with pytest.raises(RuntimeError, match="FEED_HERBEAT is not a setting: did you mean FEED_HEARTBEAT"):
        FeedServer("memory:", herbeat="1s").__enter__()
    server = AppServer(FastAPI())
    for _ in range(2):
        with server:
            assert httpx.get(server.url, verify=False).status_code == 404
    with pytest.raises(RuntimeError, match="not running"):
        server.drop()
    assert set(threading.enumerate()) <= before


def test_only_a_log_of_ones_own_is_lost_on_purpose() -> None:
    delete_log("memory:")
    with pytest.raises(ValueError, match="SQLite"):
        delete_log("redis://127.0.0.1/0")


CONFTEST = 'pytest_plugins = ["feed.testing.fixtures"]\n'
TESTS = """
import httpx
from fastapi import FastAPI
from feed import Feed
from feed.fastapi import feed_router

def test_the_server(feed_server):
    assert feed_server.publish("a", "x").endswith("-1")

def test_the_application(serve_app):
    feed = Feed("memory:")
    app = FastAPI()
    app.include_router(feed_router(feed))
    server = serve_app(app, feed)
    assert httpx.post(f"{server.url}/events/a", content="x").status_code == 201
"""


def test_pytest_has_fixtures_where_they_are_asked_for_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "test_shop.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those of others
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, cwd=tmp_path, env=quick)
    assert "2 passed" in done.stdout, done.stdout
    assert not [entry for entry in distribution("feed").entry_points if entry.group == "pytest11"]


def test_what_needs_uvicorn_or_pytest_is_imported_by_who_asks_for_it() -> None:
    program = "import sys, json, feed.testing; print(json.dumps([name in sys.modules for name in sys.argv[1:]]))"
    command = [sys.executable, "-c", program, "uvicorn", "pytest", "fastapi", "feed_server"]
    assert json.loads(subprocess.run(command, capture_output=True, check=True).stdout) == [False] * 4
