"""nginx, Caddy and HAProxy, each as the page about proxies configures it, in front of two nodes on one Redis."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, cast

import httpx
import psutil
import pytest
from playwright.sync_api import Browser
from websockets.sync.client import ClientConnection, connect

from feed.client.tls import Context
from tests.support.certificate import Certificate, certificate
from tests.support.doc_blocks import blocks
from tests.support.hostile import raw
from tests.support.proxies import running_caddy, running_haproxy, running_nginx
from tests.support.redis_server import RedisServer, free_port
from tests.support.running import FEED, RunningServer, running
from tests.support.streams import Stream, eventually
from tests.support.tokens import SECRET, bearer, token

PAGE = ("operations/proxies.md", "Behind a proxy")
DOCTOR = ("operations/doctor.md", "What is wrong on the way: `feed doctor`")
RUNNING = {"nginx": running_nginx, "caddy": running_caddy, "haproxy": running_haproxy}
HEARTBEAT = 0.4
TIMEOUT = 75.0  # seconds, what the configurations give a quiet stream …
SCALED = 2.0  # … and what it is here; the heartbeat is scaled down further, as it may be half a second late
URL = "https://feed.example.org"
ORIGIN = "https://app.example.org"  # as the page has it
EVERYTHING = bearer(token(["**"], ["**"], admin=True))


@dataclass(frozen=True)
class Front:
    """A proxy of the page."""

    name: str
    port: int
    tls: ssl.SSLContext

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ws(self) -> str:
        return f"wss://localhost:{self.port}"

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=self.tls, timeout=10, headers=EVERYTHING)

    def socket(self, path: str) -> ClientConnection:
        """A WebSocket, which `ssl.SSLContext` itself would leave standing now and then (`feed.client.tls`)."""
        return connect(f"{self.ws}{path}", ssl=cast("ssl.SSLContext", Context(self.tls)), additional_headers=EVERYTHING)


@pytest.fixture(scope="module")
def nodes(shared_redis: RedisServer) -> Iterator[list[RunningServer]]:
    """Two that share a stream, and believe their proxy."""
    settings = {
        "heartbeat": HEARTBEAT,
        "head_timeout": "2s",
        "jwt_secret": SECRET,
        "proxies": "127.0.0.0/8",
        "origins": ORIGIN,
    }
    with ExitStack() as stack:
        yield [
            stack.enter_context(running("--log", shared_redis.url("behind"), retry="300ms", **settings))
            for _ in range(2)
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def fronts(
    nodes: list[RunningServer], made: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Front]]:
    """All three."""
    tls = ssl.create_default_context(cafile=str(made.chain))
    with ExitStack() as stack:
        fronts = {}
        for name, run in RUNNING.items():
            front = Front(name, free_port(), tls)
            config = configured(name, front.port, [node.port for node in nodes], made)
            stack.enter_context(run(tmp_path_factory.mktemp(name), config, f"{front.url}/readyz"))
            fronts[name] = front
        yield fronts


@pytest.fixture(params=RUNNING)
def front(fronts: dict[str, Front], request: pytest.FixtureRequest) -> Front:
    """One of them."""
    return fronts[request.param]


def configured(name: str, port: int, nodes: list[int], made: Certificate) -> str:
    """The page's configuration, but for ports, places and the seconds of quiet that it allows."""
    [text] = blocks(*PAGE, name)
    for theirs, ours in {
        "127.0.0.1:8001": f"127.0.0.1:{nodes[0]}",
        "127.0.0.1:8002": f"127.0.0.1:{nodes[1]}",
        **{
            "nginx": {
                "listen 443": f"listen 127.0.0.1:{port}",
                "feed.example.org": "localhost",
                "/etc/ssl/feed.pem": str(made.chain),
                "/etc/ssl/feed.key": str(made.key),
                "proxy_read_timeout 75s": f"proxy_read_timeout {SCALED:.0f}s",
            },
            "caddy": {
                "feed.example.org {": f"https://localhost:{port} {{\n\ttls {made.chain} {made.key}",
                "health_interval 2s": "health_interval 200ms",
            },
            "haproxy": {
                "bind :443": f"bind 127.0.0.1:{port}",
                "/etc/ssl/feed.pem": str(made.both),
                "timeout client 75s": f"timeout client {SCALED:.0f}s",
                "timeout server 75s": f"timeout server {SCALED:.0f}s",
                "timeout tunnel 75s": f"timeout tunnel {SCALED:.0f}s",
                "inter 2s": "inter 200ms",
            },
        }[name],
    }.items():
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    return text


@contextlib.contextmanager
def reading(front: Front, path: str, **headers: str) -> Iterator[Stream]:
    """A stream through it, after its `feed.open`."""
    with front.client() as client, client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, response.read()
        stream = Stream(response)
        if "ndjson" in response.headers["content-type"]:
            assert stream.object()["type"] == "feed.open"
        else:
            assert stream.frame().event == "feed.open"
        yield stream


def test_events_come_at_once_one_by_one(front: Front, nodes: list[RunningServer]) -> None:
    topic = f"once/{front.name}"
    lines = {"Accept": "application/x-ndjson"}
    with reading(front, f"/events/{topic}") as sse, reading(front, f"/events/{topic}", **lines) as ndjson:
        for node in nodes * 3:
            began = time.monotonic()
            id = node.publish(topic, "x", **EVERYTHING)
            assert sse.frame().id == id
            assert ndjson.object()["id"] == id
            assert time.monotonic() - began < 0.4, "before anything else was written"


def test_a_quiet_stream_and_a_quiet_websocket_outlive_the_proxys_patience(fronts: dict[str, Front]) -> None:
    with ThreadPoolExecutor(len(fronts)) as threads:
        assert list(threads.map(outlives, fronts.values())) == [True] * len(fronts)


def outlives(front: Front) -> bool:
    topic = f"quiet/{front.name}"
    began = time.monotonic()
    with (
        reading(front, f"/events/{topic}") as stream,
        front.socket(f"/ws/{topic}") as socket,
        front.client() as client,
    ):
        while time.monotonic() - began < 2.5 * SCALED:
            stream.line()
        assert client.post(f"/events/{topic}", content="after").status_code == 201
        while stream.frame().data != "after":
            pass
        while json.loads(socket.recv(10))["data"] != "after":
            pass
        return True


def test_the_seconds_of_quiet_that_it_allows_are_several_heartbeats() -> None:
    for name in ("nginx", "haproxy"):
        [text] = blocks(*PAGE, name)
        allowed = re.findall(r"(?:proxy_read_timeout|timeout (?:client|server|tunnel)) (\d+)s", text)
        assert allowed
        assert {float(each) for each in allowed} == {TIMEOUT}
    assert TIMEOUT > 3 * 15
    assert TIMEOUT > 60, "the longest wait of a long poll, which says nothing meanwhile"


def test_http_2_is_spoken_towards_clients(front: Front, made: Certificate, curl_program: str) -> None:
    form = "%{http_version} %{response_code}"
    command = [curl_program, "-sS", "--cacert", str(made.chain), "-o", "/dev/null", "-w", form, f"{front.url}/healthz"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=10).stdout == "2 200"


_TEN = """async (token) => {
    const headers = { Authorization: `Bearer ${token}` };
    await fetch("/session", { method: "POST", headers });
    const sources = [...Array(10).keys()].map((n) => new EventSource(`/events/ten/${n}`));
    const got = sources.map((source) => new Promise((resolve) => {
        source.onmessage = ({ data }) => resolve(data);
    }));
    await Promise.all(sources.map((source) => new Promise((resolve) => source.addEventListener("feed.open", resolve))));
    for (const n of got.keys()) await fetch(`/events/ten/${n}`, { method: "POST", headers, body: `number ${n}` });
    const data = await Promise.all(got);
    sources.forEach((source) => source.close());
    const spoken = performance.getEntriesByType("resource").map((entry) => entry.nextHopProtocol);
    return { data, spoken: [...new Set(spoken)] };
}"""


@pytest.mark.browser
def test_a_browser_has_ten_streams_at_once(front: Front, browser: Browser) -> None:
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.goto(f"{front.url}/healthz")
        found = page.evaluate(_TEN, EVERYTHING["Authorization"].removeprefix("Bearer "))
        assert found["data"] == [f"number {n}" for n in range(10)]
        assert found["spoken"] == ["h2"]
        [cookie] = context.cookies()
        assert cookie["secure"], "it was told that browsers come over TLS"


def subscriptions(node: RunningServer, topic: str) -> list[dict[str, Any]]:
    """Who subscribes to it, on all nodes."""
    listed = node.http.get(f"{node.url}/subscriptions", headers=EVERYTHING).json()["subscriptions"]
    return [each for each in listed if each["patterns"] == [topic]]


def test_pages_are_its_own_and_addresses_are_the_clients_and_not_what_they_claim(
    front: Front, nodes: list[RunningServer]
) -> None:
    topic = f"own/{front.name}"
    with front.client() as client:
        own = client.post(f"/events/{topic}", content="x", headers={"Origin": front.url})
        foreign = client.post(f"/events/{topic}", content="x", headers={"Origin": "https://evil.example"})
        assert (own.status_code, foreign.status_code) == (201, 403)
        with reading(front, f"/events/{topic}", **{"X-Forwarded-For": "203.0.113.7"}):
            [listed] = eventually(lambda: subscriptions(nodes[0], topic))
        assert listed["address"] == "127.0.0.1"


def test_a_body_as_large_as_the_feed_takes_passes(front: Front) -> None:
    batch = [{"topic": f"large/{front.name}", "data": "x" * 200_000} for _ in range(15)]
    with front.client() as client:
        assert client.post("/events", json=batch).status_code == 201
        refused = client.post("/events/a//b", content="x")
        assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


def test_a_url_of_a_hundred_topics_passes(front: Front) -> None:
    topics = [f"{number:03}/{front.name}/{'x' * 100}" for number in range(100)]
    with front.client() as client:
        answer = client.get("/events", params={"topic": topics}, headers={"Accept": "application/json"})
        assert answer.status_code == 200, answer.text[:200]


def kept_by_nginx(nodes: list[RunningServer]) -> set[int]:
    """The ports of the connections that it has to these."""
    ports = {node.port for node in nodes}
    return {
        each.laddr.port
        for process in psutil.Process().children(recursive=True)
        if process.name() == "nginx"
        for each in process.net_connections("tcp")
        if each.status == "ESTABLISHED" and each.raddr.port in ports
    }


def test_a_connection_that_a_proxy_keeps_is_not_closed_under_it(
    fronts: dict[str, Front], nodes: list[RunningServer]
) -> None:
    assert [posted(front) for front in fronts.values()] == [201] * len(fronts)
    kept = kept_by_nginx(nodes)
    assert kept
    with raw(nodes[0]) as silent:
        assert silent.rest() == b"", "nothing came within FEED_HEAD_TIMEOUT, which is the least that there is"
    assert kept <= kept_by_nginx(nodes)
    assert [posted(front) for front in fronts.values()] == [201] * len(fronts)


def posted(front: Front) -> int:
    """The status of a publish through it."""
    with front.client() as client:
        return client.post(f"/events/posted/{front.name}", content="x").status_code


@dataclass(frozen=True)
class Kept:
    """For how long the proxies and the feed keep a connection: what is added to their configurations, and to the
    feed's. `spaces` are the seconds between two requests, and `rounds` how many there are."""

    proxies: dict[str, tuple[str, str]]
    feed: dict[str, str]
    spaces: list[float]
    rounds: int


SOAK = bool(os.environ.get("FEED_SOAK"))
POSTERS = 10
KEPT = {
    # At five seconds uvicorn's own time is over, long before theirs.
    "as they are": Kept({}, {}, [5.0], 15 if SOAK else 1),
    "scaled down": Kept(
        {
            "nginx": ("keepalive 32;", "keepalive 32; keepalive_timeout 1s;"),
            "caddy": ("health_uri", "transport http {\nkeepalive 1500ms\n}\nhealth_uri"),
            "haproxy": ("default-server check", "default-server pool-purge-delay 1s check"),
        },
        {"idle": "2500ms"},
        [1.0, 1.5, 2.5],
        15 if SOAK else 2,
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("name", KEPT)
def test_of_many_posts_around_every_time_after_which_somebody_closes_not_one_is_lost(
    shared_redis: RedisServer, made: Certificate, tmp_path: Path, name: str
) -> None:
    kept = KEPT[name]
    tls = ssl.create_default_context(cafile=str(made.chain))
    with ExitStack() as stack:
        log = shared_redis.url("kept")
        settings = {"jwt_secret": SECRET, "proxies": "127.0.0.0/8", **kept.feed}
        nodes = [stack.enter_context(running("--log", log, **settings)) for _ in range(2)]
        fronts = []
        for proxy, run in RUNNING.items():
            fronts.append(front := Front(proxy, free_port(), tls))
            (folder := tmp_path / proxy).mkdir()
            config = configured(proxy, front.port, [node.port for node in nodes], made)
            config = config.replace(*kept.proxies.get(proxy, ("", "")))
            stack.enter_context(run(folder, config, f"{front.url}/readyz"))
        threads = stack.enter_context(ThreadPoolExecutor(len(fronts) * POSTERS))
        posting = {front: [threads.submit(post_in_rounds, front, kept) for _ in range(POSTERS)] for front in fronts}
        answers = {
            front.name: Counter(chain(*(each.result() for each in each_of))) for front, each_of in posting.items()
        }
        print(f"\n{answers}")
    assert answers == {proxy: {201: POSTERS * kept.rounds} for proxy in RUNNING}


def post_in_rounds(front: Front, kept: Kept) -> list[int | str]:
    """Publish once in each, at the same times as all others, and give what was answered."""
    answers: list[int | str] = []
    with front.client() as client:
        for number in range(kept.rounds):
            if number > 0:
                # Some milliseconds around it, as answers take some, and timers may be late.
                time.sleep(kept.spaces[number % len(kept.spaces)] + (number % 10 - 6) / 1000)
            try:
                answers.append(client.post(f"/events/kept/{front.name}", content="x").status_code)
            except httpx.TransportError as error:
                answers.append(repr(error))
    return answers


def test_a_reader_that_leaves_is_gone_from_its_node(front: Front, nodes: list[RunningServer]) -> None:
    topic = f"leaves/{front.name}"
    with reading(front, f"/events/{topic}"):
        eventually(lambda: subscriptions(nodes[0], topic))
    eventually(lambda: not subscriptions(nodes[0], topic))


def spread(front: Front, nodes: list[RunningServer]) -> None:
    """Wait until it passes requests to all of them."""
    seen: set[str] = set()

    def all_seen() -> bool:
        with contextlib.suppress(httpx.TransportError), front.client() as client:
            seen.update(re.findall(r'feed_subscribers\{node="[^"]*:(\d+)"', client.get("/metrics").text))
        return seen == {str(node.port) for node in nodes}

    eventually(all_seen)


def publish(client: httpx.Client, front: Front, topic: str, data: str) -> int:
    """The status. Until Caddy knows that a node is away it does not repeat a POST (its issue 7546): whoever publishes
    does."""
    headers = {"Idempotency-Key": f"{topic}-{data}"}

    def status() -> int:
        return client.post(f"/events/{topic}", content=data, headers=headers).status_code

    return status() if front.name != "caddy" else eventually(lambda: (found := status()) != 502 and found)


def test_a_node_that_dies_is_passed_over_and_its_readers_come_back_and_with_none_they_are_told_to(
    front: Front, nodes: list[RunningServer]
) -> None:
    topic = f"dies/{front.name}"
    first = nodes[0].publish(topic, "first", **EVERYTHING)
    spread(front, nodes)
    try:
        nodes[1].kill()
        with front.client() as client:
            for number in range(6):
                assert publish(client, front, topic, str(number)) == 201
                with reading(front, f"/events/{topic}", **{"Last-Event-ID": first}) as stream:
                    assert stream.frame().data == "0"
            nodes[0].kill()
            told = client.get(f"/events/{topic}", headers={"Accept": "text/event-stream"})
            assert told.status_code == 200
            assert told.headers["content-type"] == "text/event-stream"
            assert told.headers["cache-control"] == "no-store"
            frame = re.fullmatch(r"retry: (\d+)\nevent: feed.closing\ndata: (\{.*\})\n\n", told.text)
            assert frame, told.text
            assert json.loads(frame[2]) == {"reason": "busy", "retry": int(frame[1])}
            assert client.post(f"/events/{topic}", content="x").status_code in {502, 503, 504}
            nodes[1].start()
            eventually(lambda: client.get("/readyz").status_code == 200)
            with reading(front, f"/events/{topic}", **{"Last-Event-ID": first}) as stream:
                assert [frame.data for frame in stream.frames(6)] == [str(number) for number in range(6)]
    finally:
        for node in nodes:
            if not node.alive:
                node.start()
        with front.client() as client:
            eventually(lambda: client.get("/readyz").status_code == 200)


def test_the_doctor_finds_nothing_to_complain_about(fronts: dict[str, Front], made: Certificate) -> None:
    # No admin: /subscriptions waits for nodes that other tests have killed, for longer than the scaled patience.
    environment = {**os.environ, "FEED_TOKEN": token(["**"], ["**"]), "SSL_CERT_FILE": str(made.chain)}

    [lines] = blocks(*DOCTOR, "sh")
    [written] = [shlex.split(line, comments=True) for line in lines.splitlines() if line.startswith("feed doctor")]

    def examined(front: Front) -> subprocess.CompletedProcess[str]:
        command = [FEED if word == "feed" else word.replace(URL, front.url) for word in written]
        command += ["--idle", f"{2.5 * SCALED}s", "--json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)

    with ThreadPoolExecutor(len(fronts)) as threads:
        for done in threads.map(examined, fronts.values()):
            findings = json.loads(done.stdout)["findings"]
            assert {each["check"] for each in findings if each["severity"] == "unknown"} == {"addresses"}
            assert [each for each in findings if each["severity"] in {"warn", "fail"}] == []
            assert done.returncode == 0
