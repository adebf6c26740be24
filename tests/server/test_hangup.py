"""SIGHUP: from a terminal that is closed, and from somebody who wants something to be read anew."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
from collections.abc import Iterator, Sequence

import httpx
import psutil
import pytest

from tests.support.redis_server import RedisServer
from tests.support.running import FEED, GREETING, RunningServer
from tests.support.streams import eventually, subscribed


@contextlib.contextmanager
def in_a_terminal(arguments: Sequence[str], *, ignoring: bool = False) -> Iterator[tuple[int, int, str]]:
    """`feed serve` in a terminal of its own, with `ignoring` as `nohup` starts it. Gives the process, the terminal and
    the server's URL."""
    pid, terminal = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignoring else signal.SIG_DFL)
        os.execv(FEED, [FEED, "serve", "--port", "0", "--heartbeat", "300ms", *arguments])
    try:
        said = b""
        while said.count(b"\n") < GREETING:
            said += os.read(terminal, 4096)
        found = re.search(r"dashboard +(http://[^/]+)/", said.decode())
        assert found
        yield pid, terminal, found[1]
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def ended(pid: int) -> int:
    """Its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(params=["one process", "workers"])
def arguments(request: pytest.FixtureRequest, shared_redis: RedisServer) -> list[str]:
    """Both kinds of server."""
    if request.param == "workers":
        return ["--workers", "2", "--log", shared_redis.url("hangup")]
    return ["--log", "memory:"]


def test_a_terminal_that_is_closed_ends_it_after_a_drain(arguments: list[str]) -> None:
    with in_a_terminal(arguments) as (pid, terminal, url), subscribed(f"{url}/events/a") as stream:
        os.close(terminal)
        with contextlib.suppress(ProcessLookupError):  # a shell hands it on: it comes twice
            os.kill(pid, signal.SIGHUP)
        assert "feed.closing" in [frame.event for frame in stream.rest()]
        assert ended(pid) == 0


def test_under_nohup_it_outlives_its_terminal(arguments: list[str]) -> None:
    with in_a_terminal(arguments, ignoring=True) as (pid, terminal, url):
        workers = {child.pid for child in psutil.Process(pid).children()}
        os.close(terminal)
        os.kill(pid, signal.SIGHUP)
        if workers:  # they are replaced, as by any other
            eventually(lambda: len({child.pid for child in psutil.Process(pid).children()} - workers) == 2)
        assert httpx.post(f"{url}/events/a", content="x").status_code == 201
        os.kill(pid, signal.SIGTERM)
        assert ended(pid) == 0


def test_to_a_single_server_it_changes_nothing(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/a") as stream:
        server.signal(signal.SIGHUP)
        server.signal(signal.SIGHUP)
        id = server.publish("a")
        assert stream.frame().id == id
    assert server.alive


def test_it_says_that_it_changes_nothing() -> None:
    with in_a_terminal(["--log", "memory:", "--log-level", "info"]) as (pid, terminal, _):
        os.kill(pid, signal.SIGHUP)
        said = b""
        while b"settings are read when the server starts" not in said:
            said += os.read(terminal, 4096)
