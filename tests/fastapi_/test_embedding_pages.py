"""The examples of the pages for people who embed the feed, run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from feed import Event
from feed.testing import AppServer, Server
from feed.testing import fixtures as fixtures_module
from tests.support.doc_blocks import blocks, section
from tests.support.running import RunningServer

TESTING = "recipes/testing.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the examples keep their log."""
    before, made = Path.cwd(), tmp_path_factory.mktemp("shop")
    os.chdir(made)
    try:
        yield made
    finally:
        os.chdir(before)


def names_of(page: str, title: str) -> dict[str, Any]:
    """What the program of a page makes."""
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(blocks(page, title)[0], "shop.py", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(scope="module")
def typed(folder: Path) -> Iterator[tuple[AppServer, dict[str, Any]]]:
    """The application of the page about typed topics."""
    names = names_of("recipes/typed-topics.md", "Typed topics")
    with AppServer(names["app"], names["feed"]) as server:
        yield server, names


def test_the_typed_topic_checks_what_is_published_and_gives_it_back(
    typed: tuple[AppServer, dict[str, Any]],
) -> None:
    server, names = typed
    with httpx.Client(base_url=server.url) as client:
        id = client.post("/shop/7", json={"total": 3, "customer": "Ann"}).json()
        refused = client.post("/events/orders/7", json={"total": "x"})
        assert (refused.status_code, [each["pointer"] for each in refused.json()["errors"]]) == (
            422,
            ["/total", "/customer"],
        )
        page = client.get("/events/orders/7", headers={"Accept": "application/json"}).json()
    assert [event["id"] for event in page["events"]] == [id]
    event = Event("e", 1, "orders/7", "message", '{"total": 3, "customer": "Ann"}', True, 0)
    assert names["orders"].parse(event) == names["Order"](total=3, customer="Ann")
    assert names["orders"].pattern == "orders/*"


def test_the_thread_of_the_page_publishes_once_however_often_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = names_of("recipes/threads-and-forks.md", "From threads")
    with AppServer(names["app"], names["feed"]) as server:
        first, again = (httpx.post(f"{server.url}/import", timeout=20).json() for _ in range(2))
    assert len(first) == 2
    assert first == again


def test_the_dashboard_is_for_whom_the_login_lets_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = names_of("guides/embedding.md", "The dashboard, and what operators want")
    with AppServer(names["app"], names["feed"]) as server:
        paths = ("/", "/assets/feed.js", "/readyz", "/events/a", "/metrics")
        statuses = {
            cookie: [
                httpx.get(
                    f"{server.url}/live{path}", headers={"Accept": "application/json", "Cookie": cookie}
                ).status_code
                for path in paths
            ]
            for cookie in ("", "user=ann", "user=boss")
        }
    assert statuses == {
        "": [200, 200, 200, 401, 401],
        "user=ann": [200, 200, 200, 200, 403],
        "user=boss": [200, 200, 200, 200, 200],
    }


def test_the_tests_of_the_page_run_and_pass(tmp_path: Path) -> None:
    conftest = blocks(TESTING, "Testing your application")[0]
    application, test = blocks(TESTING, "Your application")
    (tmp_path / "shop.py").write_text(application)
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_shop.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    quick = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # those of others
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=quick)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_page_names_every_switch_and_fixture_and_no_other() -> None:
    text = section(TESTING, "Testing your application")
    rows = [line for line in section(TESTING, "The switches").splitlines() if line.startswith("| `")]
    table = "".join(line.split("|")[1] for line in rows)
    switches = {name for name in vars(Server) if not name.startswith("_")} - {"url", "port", "connections"}
    assert set(re.findall(r"`(\w+)\(", table)) == switches
    for fixture in ("feed_server", "serve_app"):
        assert hasattr(fixtures_module, fixture)
        assert fixture in text


def test_the_cloudevents_of_the_page_are_published(server: RunningServer) -> None:
    [commands] = blocks("recipes/cloudevents.md", "Publish one", "sh")
    done = subprocess.run(
        ["sh", "-e", "-c", commands.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS ")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.count('"topic":"orders/42"') == 2, done
    events = server.history("orders/42")["events"]
    assert [(event["type"], event["data"]) for event in events] == [
        ("com.example.created", {"total": 3}),
        ("com.example.created", {"total": 4}),
    ]
