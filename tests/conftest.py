"""Fixtures that always clean up after themselves."""

from __future__ import annotations

import fcntl
import gc
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Page

from tests.support.browser import Watched, chromium, watch
from tests.support.clients import BOTH, AnyClient
from tests.support.nodes import HEARTBEAT, Nodes, StartNodes
from tests.support.redis_server import RedisServer, running_redis
from tests.support.running import RunningServer, running

Serve = Callable[..., RunningServer]
StartRedis = Callable[..., RedisServer]


# Time passes in a property's examples as the machine has it: they are judged by what they find.
settings.register_profile("feed", deadline=None)
settings.load_profile("feed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what only repeats or measures to `make soak`; let those come last that have the machine to themselves."""
    if not os.environ.get("FEED_SOAK"):
        left = [item for item in items if item.get_closest_marker("only_soak")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: item.get_closest_marker("alone") is not None)


def pytest_collection_finish() -> None:
    """Spare the garbage collector all that the tests' process holds from now on: it would look through that, for a
    fifth of a second, while a test measures what something computes."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _machine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The machine: what is marked `alone` has it to itself, all others share it. For tests in several processes."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    folder = tmp_path_factory.getbasetemp().parent  # that of all processes
    is_alone = request.node.get_closest_marker("alone") is not None
    with (folder / "next").open("a") as turn, (folder / "machine").open("a") as machine:
        # Who is to be alone keeps the turn while the others end, so that nobody new begins.
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if is_alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """What runs the tests that are coroutines."""
    return "asyncio"


@pytest.fixture(scope="session")
def curl_program() -> str:
    """curl; where it is missing its tests are skipped, and fail in CI."""
    program = shutil.which("curl")
    if program is None and os.environ.get("CI"):
        pytest.fail("curl is missing: apt-get install curl")
    if program is None:
        pytest.skip("curl is missing: apt-get install curl")
    return program


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server of the test's own: `serve("--log", "memory:", retry=1)`."""
    with ExitStack() as stack:
        yield lambda *args, **settings: stack.enter_context(running(*args, **settings))


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """A server on a memory log that the tests of a module share: each uses topics of its own."""
    with running("--log", "memory:") as shared:
        yield shared


@pytest.fixture(params=list(BOTH.values()), ids=list(BOTH))
def client_to(request: pytest.FixtureRequest) -> AnyClient:
    """What makes a client: a test that takes it holds for both of them."""
    made: AnyClient = request.param
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium that the tests of a module share."""
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of the test's own, with a profile of its own."""
    with browser.new_context(locale="en-GB") as context:
        opened = context.new_page()
        opened.set_default_timeout(15_000)
        yield opened


@pytest.fixture
def watched(page: Page) -> Iterator[Watched]:
    """What the page does, and all others of its context; at the end they must have done nothing wrong, and asked nobody
    but the server that the first page came from. A test that needs another one adds it to `watched.origins`."""
    watched = watch(page)
    yield watched
    assert watched.faults == []


@pytest.fixture
def start_nodes() -> Iterator[StartNodes]:
    """Starts a node for each URL of the log, at the same time."""
    with ExitStack() as stack, ThreadPoolExecutor() as pool:

        def start(*urls: str, **given: Any) -> Nodes:
            chosen: dict[str, Any] = {"heartbeat": HEARTBEAT, "retain_events": 10_000_000, **given}
            nodes = [RunningServer("--log", url, **chosen) for url in urls]
            for node in nodes:
                stack.callback(node.close)
            return list(pool.map(RunningServer.start, nodes))

        yield start


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Starts a Redis of the test's own, with options of Redis: `start_redis(maxmemory="10mb")`."""
    with ExitStack() as stack:
        count = itertools.count()
        yield lambda **options: stack.enter_context(running_redis(tmp_path / f"redis{next(count)}", **options))


@pytest.fixture(scope="module")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that the tests of a module share, as it is quick: each uses a stream of its own."""
    with running_redis(tmp_path_factory.mktemp("redis"), appendonly="no") as server:
        yield server
