"""The recipe for login and logout: the program and the page, in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from feed import Feed
from feed.testing import AppServer
from tests.docs.saved import save, saved
from tests.support.streams import eventually

PAGE = "docs/recipes/login-and-logout.md"
ANN = {"name": "ann", "password": "apple"}


class Served(NamedTuple):
    """The application in this process."""

    server: AppServer
    feed: Feed
    names: dict[str, Any]


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    files = saved(PAGE)
    save(tmp_path, files)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(files["shop.py"], "shop.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        yield Served(server, names["feed"], names)


@contextmanager
def logged_in(server: AppServer, name: str = "ann", password: str = "apple") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        assert client.post("/login", json={"name": name, "password": password}).json() == {"name": name}
        yield client


def test_a_logout_ends_the_streams_of_the_user_and_of_nobody_else(served: Served) -> None:
    server, feed, _ = served
    with logged_in(server) as ann, logged_in(server, "bob", "banana") as bob, logged_in(server) as leaving:
        with ann.stream("GET", "/live/events/chat") as hers, bob.stream("GET", "/live/events/chat") as his:
            lines, others = hers.iter_lines(), his.iter_lines()
            assert "event: feed.open" in lines
            assert "event: feed.open" in others
            assert leaving.post("/logout").json() == {"ended": 1}
            rest = list(lines)
            assert rest[rest.index("event: feed.closing") + 1].startswith('data: {"reason":"kicked"')
            eventually(lambda: feed.statistics().subscribers == 1)
            assert bob.post("/live/events/chat", content="still here").status_code == 201
            assert "data: still here" in others
        assert leaving.get("/live/events/chat").status_code == 401
        assert leaving.get("/me").status_code == 401
        with ann.stream("GET", "/live/events/chat") as again:  # a session of her own that goes on
            assert again.status_code == 200


def test_the_grants_are_what_the_page_says(served: Served) -> None:
    with logged_in(served.server) as ann:
        statuses = [
            ann.post("/live/events/chat", content="x").status_code,
            ann.post("/live/events/users/ann", content="x").status_code,
            ann.get("/live/events/chat", headers={"Accept": "application/json"}).status_code,
            ann.get("/live/events/users/ann", headers={"Accept": "application/json"}).status_code,
        ]
    assert statuses == [201, 403, 200, 403]
    assert httpx.post(f"{served.server.url}/login", json={**ANN, "password": "x"}).status_code == 401


def log_in(page: Page, name: str, password: str) -> None:
    page.fill("[name=name]", name)
    page.fill("[name=password]", password)
    page.click("#login button")


@pytest.mark.browser
def test_a_logout_in_one_tab_shows_the_login_in_the_other(served: Served, browser: Browser) -> None:
    server, feed, names = served
    with browser.new_context() as context, logged_in(server, "bob", "banana") as bob:
        first, second = context.new_page(), context.new_page()
        first.goto(server.url)
        expect(first.locator("#state")).to_have_text("logged out")
        log_in(first, "ann", "apple")
        expect(first.locator("#state")).to_have_text("live")
        second.goto(server.url)
        expect(second.locator("#state")).to_have_text("live")
        bob.post("/live/events/chat", content="Hello")
        for page in (first, second):
            expect(page.locator("#messages li")).to_have_text(["Hello"])
        first.click("#logout")
        for page in (first, second):
            expect(page.locator("#login")).to_be_visible(timeout=30_000)
            expect(page.locator("#messages li")).to_have_count(0)
        eventually(lambda: feed.statistics().subscribers == 0)
        log_in(second, "bob", "banana")
        expect(second.locator("#state")).to_have_text("live")
        expect(second.locator("#messages li")).to_have_text(["Hello"])
        names[
            "sessions"
        ].clear()  # the server has forgotten everybody, and the streams go on until they are judged anew
        server.kick()
        expect(second.locator("#login")).to_be_visible(timeout=30_000)
