"""The recipe for htmx, with both versions, in a real Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Page, expect

from feed import Feed
from feed.testing import AppServer
from tests.docs.saved import save, saved, section
from tests.docs.serving import uvicorn
from tests.support import npm
from tests.support.browser import Watched
from tests.support.streams import eventually

pytestmark = pytest.mark.browser

PAGE = "docs/recipes/htmx.md"
PACKAGES = Path(__file__).parent / "packages"
SCRIPTS = {
    "htmx 2": ["htmx2/dist/htmx.min.js", "htmx-ext-sse/sse.js"],
    "htmx 4": ["htmx4/dist/htmx.min.js", "htmx4/dist/ext/hx-sse.min.js"],
}


def set_up(folder: Path, version: str) -> dict[str, Any]:
    """Save what the page shows, with the scripts from npm. Returns the names of `shop.py`."""
    npm.install_or_skip(PACKAGES)
    files = saved(PAGE, "The application") | saved(PAGE, version)
    save(folder, files)
    (folder / "static").mkdir()
    for script in SCRIPTS[version]:
        shutil.copy(PACKAGES / "node_modules" / script, folder / "static")
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(files["shop.py"], "shop.py", "exec", dont_inherit=True), names)
    return names


@pytest.fixture(params=SCRIPTS)
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    set_up(tmp_path, request.param)
    with uvicorn(tmp_path) as url:
        yield url


def test_a_page_of_htmx_shows_what_changes_and_what_is_said(shop: str, page: Page, watched: Watched) -> None:
    assert httpx.put(f"{shop}/orders/1/paid").status_code == 200
    page.goto(shop)
    orders, messages = page.locator("#orders li"), page.locator("#messages li")
    expect(orders).to_have_text(["Order 1 is paid"])
    httpx.put(f"{shop}/orders/2/new")
    expect(orders).to_have_text(["Order 1 is paid", "Order 2 is new"])
    for text in ("Hello", "<b>bold</b>"):
        httpx.post(f"{shop}/messages", params={"text": text})
    expect(messages).to_have_text(["Hello", "<b>bold</b>"])
    for number in range(40):
        httpx.put(f"{shop}/orders/2/{number}")
    expect(orders).to_have_text(["Order 1 is paid", "Order 2 is 39"])
    assert httpx.post(f"{shop}/live/events/messages", content="<li>mine</li>").status_code == 403


def test_the_versions_are_those_that_the_page_names() -> None:
    npm.install_or_skip(PACKAGES)
    for name in ("htmx2", "htmx-ext-sse", "htmx4"):
        version = json.loads((PACKAGES / "node_modules" / name / "package.json").read_text())["version"]
        assert f" {version}" in section(PAGE), name


class Served(NamedTuple):
    """The application in this process, with switches for its network."""

    server: AppServer
    feed: Feed
    version: str


@pytest.fixture(params=SCRIPTS)
def served(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    names = set_up(tmp_path, request.param)
    with AppServer(names["app"], names["feed"]) as server:
        yield Served(server, names["feed"], request.param)


STREAM = re.compile("/live/")


def test_each_version_does_what_the_table_says_when_the_stream_breaks(served: Served, page: Page) -> None:
    server, feed, version = served
    page.goto(server.url)
    eventually(lambda: feed.statistics().subscribers == 1)
    orders, messages = page.locator("#orders li"), page.locator("#messages li")
    httpx.put(f"{server.url}/orders/1/new")
    say(feed, "one")
    expect(orders).to_have_text(["Order 1 is new"])
    expect(messages).to_have_text(["one"])

    # The network is away: both resume.
    server.refuse()
    say(feed, "two")
    server.heal()
    expect(messages).to_have_text(["one", "two"], timeout=30_000)

    # A proxy answers with an error.
    page.route(STREAM, lambda route: route.fulfill(status=503))
    with page.expect_response(STREAM, timeout=30_000) as refused:
        server.drop()
    assert refused.value.status == 503
    httpx.put(f"{server.url}/orders/1/paid")
    say(feed, "three")
    page.unroute(STREAM)
    expect(orders).to_have_text(["Order 1 is paid"], timeout=30_000)
    say(feed, "four")
    expect(messages).to_have_text(["one", "two", *(["three"] if version == "htmx 4" else []), "four"], timeout=30_000)


def test_a_first_request_that_fails_is_repeated_by_htmx_2_only(served: Served, page: Page) -> None:
    server, _, version = served
    page.clock.install()
    page.route(STREAM, lambda route: route.fulfill(status=503))
    with page.expect_response(STREAM):
        page.goto(server.url)
    page.unroute(STREAM)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.clock.run_for(120_000)
    page.evaluate("fetch('/orders').then((answer) => answer.text())")  # the page has had time to ask for the stream
    assert any(STREAM.search(url) for url in asked) == (version == "htmx 2")


def test_htmx_4_alone_ends_the_stream_of_a_page_in_the_background(served: Served, page: Page) -> None:
    server, feed, version = served
    page.goto(server.url)
    eventually(lambda: feed.statistics().subscribers == 1)
    messages = page.locator("#messages li")
    say(feed, "before")  # from here on the page has an id to resume after
    expect(messages).to_have_text(["before"])
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    hide += " document.dispatchEvent(new Event('visibilitychange')); }"
    page.evaluate(hide, True)
    if version == "htmx 4":
        eventually(lambda: feed.statistics().subscribers == 0)
    say(feed, "meanwhile")
    page.evaluate(hide, False)
    expect(messages).to_have_text(["before", "meanwhile"], timeout=30_000)


def say(feed: Feed, text: str) -> None:
    """Publish as the application does, past the network."""
    feed.from_thread.publish("messages", f"<li>{text}</li>")
