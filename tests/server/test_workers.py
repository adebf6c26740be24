"""`feed serve --workers N`: several processes behind one port, what ends them, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from feed import LogRefused
from feed_server import Settings, create_app
from feed_server.server.listening import ServeError, listen, url_of
from feed_server.server.worker import Worker
from tests.conftest import Serve, StartRedis
from tests.support.forking import run
from tests.support.judge import Got, judge
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer, running
from tests.support.scraping import client_of_each, scrape, workers
from tests.support.streams import Stream, eventually, subscribed
from tests.support.traffic import Follower, Publisher, threads_stopped

SECONDS = 30.0


@pytest.fixture
def url(shared_redis: RedisServer, request: pytest.FixtureRequest) -> str:
    """A log of the test's own, on Redis."""
    name = "".join(character if character.isalnum() else "-" for character in request.node.name)
    return shared_redis.url(name[:100])


@pytest.fixture(scope="module")
def four(shared_redis: RedisServer) -> Iterator[RunningServer]:
    """Four workers that the tests share which do nothing to them: each uses topics of its own."""
    with running("--workers", "4", "--log", shared_redis.url("four")) as server, client_of_each(server):
        yield server


@pytest.fixture
def pair(serve: Serve, url: str) -> RunningServer:
    """Two workers of the test's own."""
    server = serve("--workers", "2", "--log", url, drain="5s", node="n")
    with client_of_each(server):  # the greeting is that of the first
        return server


def gone(pids: list[int]) -> bool:
    """Whether none of these processes is there any more."""
    return not any(psutil.pid_exists(pid) for pid in pids)


def replaced(server: RunningServer, old: list[int]) -> bool:
    """Whether all of `old` have gone, and others are in their place."""
    now = workers(server)
    return len(now) == 2 and not set(now) & set(old)


def refused(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of a `feed serve` that does not start, and the one line that it says."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    result = run(["serve", "--port", "0", *arguments], {**clean, **environment}, timeout=SECONDS)
    assert result.stdout == b""
    (line,) = result.stderr.decode().splitlines()
    return result.returncode, line


# Which logs may be shared.


@pytest.mark.parametrize("log", ["memory:", "sqlite:feed.db"])
def test_a_log_of_one_process_is_refused_with_what_to_use_instead(log: str, tmp_path: Path) -> None:
    for arguments, environment in ((["--workers", "2"], {}), ([], {"FEED_WORKERS": "2"})):
        code, line = refused("--log", log, *arguments, **environment, TMPDIR=str(tmp_path))
        assert code == 2
        assert line.startswith(
            f"feed serve: --workers (FEED_WORKERS): {log.partition(':')[0]}: is a log of one process"
        )
        assert "--log redis://" in line
        assert "--workers 1" in line
    assert list(tmp_path.iterdir()) == []


def test_web_concurrency_is_ignored_by_feed_serve(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("4", "nonsense"):
        monkeypatch.setenv("WEB_CONCURRENCY", value)
        server = serve("--log", "memory:")
        server.publish("a")
        assert workers(server) == []


@contextlib.contextmanager
def on_uvicorn(port: int, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The application on uvicorn's own command line."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "--factory", "feed_server:create_app", "--port", str(port)],
        env={**clean, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)


def free_port() -> int:
    """A port on which nobody listens now."""
    (listening,) = listen("127.0.0.1", 0)
    with listening:
        return int(listening.getsockname()[1])


def test_web_concurrency_on_anybodys_server_is_refused_for_a_log_of_one_process() -> None:
    with on_uvicorn(free_port(), FEED_LOG="memory:", WEB_CONCURRENCY="2") as process:
        output, _ = process.communicate(timeout=SECONDS)
        assert "WEB_CONCURRENCY is 2, and memory: is a log of one process" in output
        assert "--log redis://" in output


async def opens(log: str) -> None:
    """Start the application as any server does, and end it."""
    app = create_app(Settings(log=log))
    async with app.router.lifespan_context(app):
        pass


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_web_concurrency_is_refused_for_every_log_of_one_process(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "memory:" if kind == "memory" else f"sqlite:{tmp_path / 'feed.db'}"
    monkeypatch.setenv("WEB_CONCURRENCY", "1")
    asyncio.run(opens(log))
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    with pytest.raises(LogRefused, match=rf"WEB_CONCURRENCY is 2, and {kind}: is a log of one process.*--log redis://"):
        asyncio.run(opens(log))


def test_web_concurrency_is_taken_where_the_log_is_shared(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "2")
    asyncio.run(opens(url))


# The port, and who takes what comes to it.


def test_they_share_one_port_and_greet_once(four: RunningServer) -> None:
    assert four.output.count("feed is listening") == 1
    assert four.port > 0
    assert len(workers(four)) == 4
    with client_of_each(four) as clients:  # which fails unless each takes connections
        assert len(clients) == 4


def test_what_one_publishes_readers_of_all_get_in_one_order(four: RunningServer) -> None:
    with client_of_each(four) as clients, contextlib.ExitStack() as stack:
        streams = [Stream(stack.enter_context(http.stream("GET", f"{four.url}/events/a"))) for http in clients.values()]
        with client_of_each(four) as publishers:
            ids = [
                http.post(f"{four.url}/events/a", content="x").json()["id"]
                for _ in range(5)
                for http in publishers.values()
            ]
        for stream in streams:
            assert [frame.id for frame in stream.frames(21)[1:]] == ids


def test_long_lived_connections_are_spread_over_all(four: RunningServer) -> None:
    def counts() -> dict[str, float]:
        return scrape(four)["feed_subscribers"]

    eventually(lambda: not any(counts().values()))
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(subscribed(f"{four.url}/events/spread"))
        eventually(lambda: sum(counts().values()) == 200)
        spread = counts().values()
    assert len(spread) == 4
    assert min(spread) >= 20, "five standard deviations below the mean of chance"


def test_every_socket_has_the_same_port_and_options_and_nobody_else_may_join() -> None:
    sockets = listen("127.0.0.1", 0, 3)
    with contextlib.ExitStack() as stack:
        for each in sockets:
            stack.enter_context(each)
        assert len({each.getsockname() for each in sockets}) == 1
        assert len({each.fileno() for each in sockets}) == 3
        for each in sockets:
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
            assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 << 10
        port = sockets[0].getsockname()[1]
        for count in (1, 3):
            with pytest.raises(ServeError, match="Address already in use"):
                listen("127.0.0.1", port, count)


def test_it_listens_on_ipv6_too(serve: Serve, url: str) -> None:
    server = serve("--workers", "2", "--host", "::1", "--log", url)
    assert server.url == f"http://[::1]:{server.port}"
    server.publish("a")


def test_the_url_is_one_that_can_be_clicked() -> None:
    (listening,) = listen("0.0.0.0", 0)
    with listening:
        assert url_of(listening) == f"http://127.0.0.1:{listening.getsockname()[1]}"


# How it stops.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True])
def test_a_signal_drains_all_and_ends_with_0(pair: RunningServer, number: int, to_all: bool) -> None:
    """To all: as Ctrl-C on a terminal goes to the whole process group, and a service manager's SIGTERM too."""
    pids = workers(pair)
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(subscribed(f"{pair.url}/events/a")) for _ in range(4)]
        slow = [stack.enter_context(publishing(pair.url)) for _ in range(4)]
        while not all(scrape(pair)["feed_subscribers"].values()):  # until each of the two has one
            streams.append(stack.enter_context(subscribed(f"{pair.url}/events/a")))
        for pid in (pair.pid, *pids) if to_all else (pair.pid,):
            os.kill(pid, number)
        for stream in streams:
            (frame,) = stream.rest()
            assert (frame.event, frame.json["reason"]) == ("feed.closing", "shutdown")
        for finish in slow:
            assert finish() == 201, "a request that was under way is answered: this was no second signal"
    assert pair.wait() == 0
    assert gone(pids)
    assert "Traceback" not in pair.output
    assert "ended" not in pair.output
    with pytest.raises(httpx.ConnectError):
        pair.http.get(f"{pair.url}/healthz")


@contextlib.contextmanager
def publishing(url: str) -> Iterator[Callable[[], int]]:
    """A publish whose body has begun; what is given sends the rest, and gives the status of the answer."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /events/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nx")

        def finish() -> int:
            connection.sendall(b"y")
            return int(connection.recv(4096).split()[1])

        yield finish


@contextlib.contextmanager
def stuck_reader(server: RunningServer) -> Iterator[None]:
    """A stream whose client takes nothing, and so cannot be told goodbye."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /events/stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        eventually(lambda: sum(scrape(server)["feed_subscribers"].values()) == 1)
        for _ in range(40):
            server.publish("stuck", "x" * 200_000)
        yield


def test_the_drain_has_an_end(serve: Serve, url: str) -> None:
    server = serve("--workers", "2", "--log", url, drain="500ms")
    pids = workers(server)
    with stuck_reader(server):
        begun = time.monotonic()
        assert server.stop() == 0, "and not only when the reader goes"
        assert time.monotonic() - begun >= 0.5
    assert gone(pids)


@pytest.mark.parametrize(("count", "to_all"), [(1, False), (2, False), (2, True)])
def test_p12_a_second_signal_ends_all_at_once(serve: Serve, url: str, count: int, to_all: bool) -> None:
    server = serve("--workers", str(count), "--log", url, drain="1m")
    pids = workers(server)
    processes = (server.pid, *pids) if to_all else (server.pid,)
    with stuck_reader(server), subscribed(f"{server.url}/events/a") as stream:
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        assert [frame.event for frame in stream.rest()] == ["feed.closing"]
        assert server.alive, "there is one left to wait for"
        for pid in processes:
            os.kill(pid, signal.SIGINT)
        assert server.wait() == 0, "long before the drain has an end"
    assert gone(pids)
    assert "Traceback" not in server.output


def test_a_worker_that_hangs_is_killed_at_the_end_of_the_drain(serve: Serve, url: str) -> None:
    server = serve("--workers", "2", "--log", url, drain="500ms")
    pids = workers(server)
    os.kill(pids[0], signal.SIGSTOP)
    assert server.stop() == 0
    assert gone(pids)
    assert "did not end in time: killed" in server.output


def test_a_log_that_is_refused_is_one_line_and_exit_code_1(start_redis: StartRedis, tmp_path: Path) -> None:
    redis = start_redis(maxmemory_policy="allkeys-lru", maxmemory="100mb")
    (folder := tmp_path / "temporary").mkdir()
    code, line = refused("--workers", "3", "--log", redis.url(), TMPDIR=str(folder))
    assert code == 1
    assert line.startswith("feed: this Redis may evict the feed's events (maxmemory-policy is allkeys-lru)")
    assert list(folder.iterdir()) == []


def test_a_port_in_use_is_one_line_and_exit_code_1(four: RunningServer, url: str) -> None:
    for count in ("1", "2"):
        code, line = refused("--workers", count, "--port", str(four.port), "--log", url)
        assert code == 1
        assert line.startswith(f"feed: cannot listen on 127.0.0.1:{four.port}: Address already in use")


def test_a_redis_that_is_not_there_yet_is_waited_for(serve: Serve, start_redis: StartRedis) -> None:
    redis = start_redis()
    redis.kill()
    server = serve("--workers", "2", "--log", redis.url())
    assert server.http.get(f"{server.url}/readyz").status_code == 503
    redis.start()
    eventually(lambda: server.http.get(f"{server.url}/readyz").status_code == 200)


# What workers die of.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_is_ended_is_replaced_and_its_readers_miss_nothing(pair: RunningServer, number: int) -> None:
    publishers = [Publisher(pair, f"p{count}") for count in range(2)]
    followers = [Follower(pair) for _ in range(4)]
    with threads_stopped(*publishers, *followers):
        eventually(lambda: all(follower.connections for follower in followers))
        for _ in range(3):
            old = workers(pair)
            victims = old[:1]
            for pid in victims:
                os.kill(pid, number)
            eventually(lambda: gone(victims) and len(workers(pair)) == 2)
            count = len(publishers[0].acknowledged)
            eventually(lambda: len(publishers[0].acknowledged) > count + 20)
        for publisher in publishers:
            publisher.stopping.set()
            publisher.join()
        acknowledged = sorted(
            (int(id.rpartition("-")[2]), id) for publisher in publishers for id in publisher.acknowledged
        )
        eventually(lambda: all(follower.has(acknowledged[-1][1]) for follower in followers))
    unanswered = {data for publisher in publishers for data in publisher.unanswered}
    assert any(follower.connections > 1 for follower in followers), "some were on the workers that ended"
    for follower in followers:
        indeterminate = {id for id, data in follower.got.items() if data in unanswered}
        assert follower.gaps == []
        got = [entry for entry in follower.account if isinstance(entry, Got)]
        verdict = judge(acknowledged, got, indeterminate)
        assert verdict.good, verdict


def test_a_worker_whose_loop_stands_still_is_replaced(serve: Serve, url: str, tmp_path: Path) -> None:
    program = tmp_path / "feed"  # the same, but less patient
    program.write_text(
        f"#!{sys.executable}\n"
        "import os\n"
        "os.environ['PROMETHEUS_MULTIPROC_DIR'] = '/nowhere'  # as it is imported here already\n"
        "import feed_server.cli.main, feed_server.server.supervisor\n"
        "feed_server.server.supervisor._HUNG_SECONDS = 3.0\n"
        "feed_server.cli.main.main()\n"
    )
    program.chmod(0o755)
    server = serve("--workers", "2", "--log", url, program=program)
    stopped = workers(server)[:1]
    os.kill(stopped[0], signal.SIGSTOP)
    eventually(lambda: gone(stopped), 20)
    eventually(lambda: len(workers(server)) == 2)
    eventually(lambda: "gave no sign of life for 3 s" in server.output)


def test_workers_do_not_outlive_a_parent_that_is_killed(
    serve: Serve, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = serve("--workers", "2", "--log", url)
    pids = workers(server)
    with subscribed(f"{server.url}/events/a") as stream:
        server.kill()
        assert [frame.event for frame in stream.rest()] == ["feed.closing"]
    eventually(lambda: gone(pids))
    assert list(tmp_path.iterdir()) == []
    server.start()  # the port is free again
    server.publish("a")


def test_a_parent_that_died_with_news_unread_is_found_out_too() -> None:
    """Its end of the channel is reset then, and not just closed."""

    async def hear() -> None:
        parents, own = socket.socketpair()
        with own:
            worker = Worker(Settings(log="memory:"), own)
            worker.started = True
            own.send(b"alive\n")
            parents.close()
            worker._hear()
            assert worker.orphaned
            assert worker.should_exit

    asyncio.run(hear())


@pytest.mark.parametrize("to_workers", [False, True])
def test_sighup_replaces_all_and_nobody_is_refused(pair: RunningServer, to_workers: bool) -> None:
    """So does a SIGTERM to the workers themselves."""
    old = workers(pair)
    answers: list[int] = []
    stopping = threading.Event()

    def ask() -> None:
        while not stopping.is_set():
            with httpx.Client(verify=False, timeout=SECONDS) as http:  # a connection each time
                try:
                    answers.append(http.get(f"{pair.url}/healthz").status_code)
                except httpx.HTTPError:
                    answers.append(0)
            stopping.wait(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with subscribed(f"{pair.url}/events/a") as stream:
            if to_workers:
                for pid in old:
                    os.kill(pid, signal.SIGTERM)
            else:
                pair.signal(signal.SIGHUP)
            eventually(lambda: replaced(pair, old), 20)
            assert [frame.event for frame in stream.rest()] == ["feed.closing"]
    finally:
        stopping.set()
        asking.join()
    assert set(answers) == {200}
    assert len(answers) > 10
    assert pair.remarks == "", "nothing but the greeting"
    assert pair.stop() == 0


def test_where_new_workers_cannot_start_the_old_ones_go_on_and_dead_ones_are_tried_again(
    serve: Serve, start_redis: StartRedis
) -> None:
    redis = start_redis(maxmemory="100mb")
    server = serve("--workers", "2", "--log", redis.url())
    with client_of_each(server):
        old = workers(server)
    redis.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.signal(signal.SIGHUP)
    eventually(lambda: "worker 1 is not replaced, and the others are not either" in server.output)
    assert "worker 1 has ended: this Redis may evict" in server.output
    assert workers(server) == old
    assert server.http.get(f"{server.url}/healthz").status_code == 200
    os.kill(old[1], signal.SIGKILL)
    eventually(lambda: "worker 2 has ended: this Redis may evict" in server.output)
    redis.command("CONFIG", "SET", "maxmemory-policy", "noeviction")

    def both_serve() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError), client_of_each(server) as clients:
            return len(clients) == 2 and old[0] in clients
        return False

    eventually(both_serve)
    assert "Traceback" not in server.output
    assert server.stop() == 0
