"""FAULTS.md, P11 and P12: a server that is told to stop, with thousands of streams; and nodes that are started anew one
after the other, under load. `FEED_SOAK` asks for thousands, the default drain, and more readers."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from feed import Draining, Feed
from feed.fastapi.http.problems import problem_of
from feed_server.app import application
from feed_server.bench.soak.streams import Form, Item, Stream
from feed_server.settings import Settings
from tests.conftest import Serve
from tests.support.crowd import Crowd, Http, many_descriptors, until
from tests.support.judge import Got, judge
from tests.support.proxies import nginx_in_front
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.streams import eventually
from tests.support.traffic import Follower, Publisher, WebSocketFollower, data_of, threads_stopped, wait_for_more

pytestmark = pytest.mark.anyio

SOAK = bool(os.environ.get("FEED_SOAK"))
STREAMS = 5_000 if SOAK else 500
AT_ONCE = 250
"""That connect together: the server takes on 50 in a turn of its loop."""


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    with many_descriptors(2 * STREAMS):
        yield


class Story:
    """What one stream has told: the ids of its events, and its end."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.position = ""
        self.closing: dict[str, Any] = {}
        self.reader: Stream | None = None

    def __call__(self, item: Item) -> None:
        assert not self.closing, "nothing comes after feed.closing"
        self.position = item.id or self.position
        if item.type == "feed.closing":
            self.closing = item.json
        elif item.is_event:
            assert item.id is not None
            self.ids.append(item.id)

    @property
    def gone(self) -> bool:
        """Whether its connection is closed."""
        return self.reader is not None and self.reader.gone.is_set()


async def crowded(crowd: Crowd, streams: int, forms: Sequence[Form]) -> list[Story]:
    """Open so many streams, in turn of these forms."""
    stories = [Story() for _ in range(streams)]

    async def open_one(story: Story, form: Form) -> None:
        story.reader = await crowd.reader(form, "/all/**", story)

    for start in range(0, streams, AT_ONCE):
        group = zip(stories[start : start + AT_ONCE], itertools.cycle(forms), strict=False)
        await asyncio.gather(*(open_one(story, form) for story, form in group))
    return stories


class Publishing:
    """Somebody who publishes without end, and notes what was acknowledged, and what was not answered."""

    def __init__(self, http: Http, pause: float) -> None:
        self.ids: list[str] = []
        self._http = http
        self._pause = pause

    async def run(self) -> None:
        """Until nobody is there any more."""
        while True:
            try:
                answer = await self._http.publish("all/a", "x" * 100)
            except (OSError, EOFError):
                return
            assert answer.status == 201, answer
            self.ids += answer.ids
            await asyncio.sleep(self._pause)


def assert_even(retries: Sequence[int], drain: float) -> None:
    """They come back one after the other between a tenth of the drain and its end."""
    first, last = drain * 100, drain * 1000
    step = (last - first) / len(retries)
    for place, retry in enumerate(sorted(retries)):
        assert first + step * place - 1 <= retry <= first + step * (place + 1) + 1, (place, retry)


@pytest.mark.soak
async def test_p11_streams_end_spread_over_the_drain_and_nothing_acknowledged_is_lost(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path}/feed.db", drain=10)
    async with Crowd(server.port) as crowd:
        stories = await crowded(crowd, STREAMS, [Form.SSE, Form.SSE, Form.SSE, Form.WS, Form.NDJSON])
        publishing = Publishing(crowd.http(), 0.1)
        task = crowd.task(publishing.run())
        await until(lambda: len(publishing.ids) > 3)
        server.signal(signal.SIGTERM)
        await until(lambda: all(story.gone for story in stories), what="all streams to end")
        assert await asyncio.to_thread(server.wait) == 0
        await task
    assert {story.closing.get("reason") for story in stories} == {"shutdown"}
    assert_even([story.closing["retry"] for story in stories], 10)
    assert "cut off" not in server.output
    server.start()
    log = [event["id"] for event in server.history("all/**")["events"]]
    assert set(publishing.ids) <= set(log)
    assert len(log) <= len(publishing.ids) + 1, "but for one whose answer may not have come"
    async with Crowd(server.port) as crowd:
        for story in stories:
            assert story.ids == log[: len(story.ids)]
        for story in stories[:: STREAMS // 100]:
            await crowd.reader(Form.SSE, "/all/**", again := Story(), last_id=story.position)
            await until(lambda: story.ids + again.ids == log)


@pytest.mark.soak
async def test_p12_a_second_signal_ends_it_at_once_and_the_log_is_whole(serve: Serve, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path}/feed.db", drain="1m", queue_events=1_000_000, queue_bytes="1G")
    async with Crowd(server.port) as crowd:
        stuck = await crowd.reader(Form.SSE, "/stuck", lambda _: None, buffer=1)
        stuck.stall()
        stories = await crowded(crowd, STREAMS // 5, [Form.SSE])
        http = crowd.http()
        for _ in range(40):  # more than the sockets hold: it keeps the server from ending
            assert (await http.publish("stuck", "x" * 200_000)).status == 201
        publishing = Publishing(crowd.http(), 0.05)
        crowd.task(publishing.run())
        await until(lambda: len(publishing.ids) > 3)
        server.signal(signal.SIGTERM)
        await until(lambda: all(story.gone for story in stories), what="all but one to end")
        count = len(publishing.ids)
        await until(lambda: len(publishing.ids) > count + 3, what="publishing to go on")
        server.signal(signal.SIGTERM)
        assert await asyncio.to_thread(server.wait) == 0, "long before the drain has an end"
    with closing(sqlite3.connect(tmp_path / "feed.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    server.start()
    log = {event["id"] for event in server.history("all/**")["events"]}
    assert set(publishing.ids) <= log


def test_whoever_gets_503_meanwhile_is_not_told_to_come_back_with_all_others() -> None:
    told = {problem_of(Draining("this server is being stopped", 10)).headers["Retry-After"] for _ in range(300)}
    assert told == {str(seconds) for seconds in range(1, 11)}


class Obedient(Follower):
    """One that comes back when it was told to, as an `EventSource` does. `away` are the seconds after which it was to
    come back, each time that it has."""

    def __init__(self, server: Any) -> None:
        super().__init__(server, patience=5)
        self.away: list[float] = []

    def take(self, type: str, id: str | None, data: str) -> None:
        """See `Follower`."""
        super().take(type, id, data)
        if type == "feed.closing":
            self.pause = json.loads(data)["retry"] / 1000
        elif type == "feed.open":
            if self.connections > 1:
                self.away.append(self.pause)
            self.pause = 0.1


class ObedientWebSocket(Obedient, WebSocketFollower):
    """The same over a WebSocket."""


class Nginx:
    """One that listens there."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.mark.soak
def test_a_rolling_restart_behind_nginx_loses_nothing_and_keeps_nobody_away_for_long(
    shared_redis: RedisServer, serve: Serve, tmp_path: Path
) -> None:
    drain = 10 if SOAK else 2
    nodes = [
        serve("--log", shared_redis.url("rolling"), heartbeat=0.5, drain=drain, hosts="feed", max_data="1M")
        for _ in range(2)
    ]
    upstream = " ".join(f"server 127.0.0.1:{node.port} max_fails=0;" for node in nodes)
    location = """location / {
        proxy_pass http://feed;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $connection_upgrade;
    }"""
    around = f"upstream feed {{ {upstream} }} map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}"
    readers: list[Obedient] = []
    with ExitStack() as stack:
        nginx = Nginx(stack.enter_context(nginx_in_front(tmp_path, location, around)))
        readers += [kind(nginx) for kind in (Obedient, Obedient, ObedientWebSocket) for _ in range(50 if SOAK else 4)]
        publishers = [Publisher(nginx, f"p{number}", 0.01, insists=number % 2 == 0) for number in range(4)]
        with threads_stopped(*readers):
            eventually(lambda: all(reader.connections for reader in readers))
            with threads_stopped(*publishers):
                wait_for_more(publishers, 100)
                for node in nodes:
                    before = sum(reader.connections for reader in readers)
                    node.signal(signal.SIGTERM)
                    assert node.wait() == 0
                    node.start()
                    eventually(lambda: node.http.get(f"{node.url}/readyz").status_code == 200)
                    eventually(lambda: sum(r.connections for r in readers) > before)
                    eventually(lambda: all(len(reader.away) == reader.connections - 1 for reader in readers))
                    wait_for_more(publishers, 100)
            last = nodes[0].publish("p/last", "last")
            for reader in readers:
                eventually(lambda: reader.has(last), drain + 5)
    stored = stored_in(nodes[0])
    ids = list(stored)
    assert data_of(stored, *publishers, *readers) == stored
    assert len(set(stored.values())) == len(ids), "what was repeated is there once"
    assert {id for publisher in publishers for id in publisher.acknowledged} <= set(ids)
    for reader in readers:
        assert reader.gaps == []
        verdict = judge(list(enumerate(ids, 1)), [entry for entry in reader.account if isinstance(entry, Got)])
        assert verdict.good, verdict
    away = [seconds for reader in readers for seconds in reader.away]
    assert len(away) >= len(readers), "each was on a node that was stopped, once at least"
    assert max(away) <= drain
    print(f"\n{len(readers)} readers, {len(ids)} events; away {len(away)} times, for at most {max(away):.1f} s")
    assert not [surprise for publisher in publishers for surprise in publisher.surprises]


def stored_in(node: RunningServer) -> dict[str, str]:
    """The data of all events, by id, in their order."""
    events: dict[str, str] = {}
    after = "earliest"
    while (page := node.history(last_event_id=after))["events"]:
        events |= {event["id"]: event["data"] for event in page["events"]}
        after = page["next"]
    return events


@pytest.mark.parametrize("server_drains", [False, True])
async def test_only_a_feed_whose_server_does_not_drain_it_watches_for_the_signal(server_drains: bool) -> None:
    """Drained by the watch, streams of our own server would end before their connections know that they are to close:
    these would stay open, and what a proxy sends on them next could meet their end."""
    feed = Feed("memory:")
    app = application(Settings(log="memory:"), feed, server_drains=server_drains)
    async with app.router.lifespan_context(app):
        names = {task.get_name() for task in asyncio.all_tasks()}
    assert ("feed-drain" in names) is not server_drains
