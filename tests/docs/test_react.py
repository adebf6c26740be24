"""The recipe for React, built as the page says, under StrictMode in a real Chromium."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from fastapi.staticfiles import StaticFiles
from playwright.sync_api import Page, expect

from feed import Feed
from feed.testing import AppServer
from tests.docs.saved import blocks, save, saved, section
from tests.support import npm
from tests.support.browser import Watched
from tests.support.npm import NODE
from tests.support.streams import eventually

pytestmark = pytest.mark.browser

PAGE = "docs/recipes/react.md"
PACKAGES = Path(__file__).parent / "packages"

OTHER_HOOK = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useEventSource } from "./use-event-source.js";

function Orders() {
  const events = useEventSource("/live/events/orders/*?last=20&envelope=1");
  return <ul>{events.map((event) => <li key={event.id}>{event.topic}: {event.data}</li>)}</ul>;
}

createRoot(document.querySelector("#root")).render(<StrictMode><Orders /></StrictMode>);
"""

STATE_AND_LIVE = """
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useOrders } from "./use-orders.js";

function Orders() {
  const orders = useOrders();
  return <ul>{[...orders.values()].map(({ id, state }) => <li key={id}>{id} {state}</li>)}</ul>;
}

createRoot(document.querySelector("#root")).render(<StrictMode><Orders /></StrictMode>);
"""


class Served(NamedTuple):
    """The application in this process, so that its streams can be counted."""

    server: AppServer
    feed: Feed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    npm.install_or_skip(PACKAGES)
    save(tmp_path, saved(PAGE))
    (tmp_path / "node_modules").symlink_to(PACKAGES / "node_modules")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(folder: Path) -> None:
    """Run the page's own command, in development, where StrictMode mounts everything twice."""
    [command] = blocks(PAGE, "sh", "The hook")
    esbuild = [str(NODE), "node_modules/esbuild/bin/esbuild"]
    words = [word.strip("'") for word in command.split()]
    assert words[:2] == ["npx", "esbuild"]
    done = subprocess.run([*esbuild, *words[2:]], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile((folder / "shop.py").read_text(), "shop.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        yield Served(server, names["feed"])


def test_the_hook_shows_each_event_once_and_leaves_no_stream_behind(
    folder: Path, served: Served, page: Page, watched: Watched
) -> None:
    server, feed = served
    build(folder)
    httpx.post(f"{server.url}/orders/1")
    page.goto(server.url)
    lines = page.locator("#root li")
    expect(lines).to_have_text(["orders/1: order 1"])
    expect(page.locator("#state")).to_have_text("live")
    for number in (2, 3):
        httpx.post(f"{server.url}/orders/{number}")
    expect(lines).to_have_text([f"orders/{number}: order {number}" for number in (1, 2, 3)])
    eventually(lambda: feed.statistics().subscribers == 1)
    server.restart()
    httpx.post(f"{server.url}/orders/4")
    expect(lines).to_have_text([f"orders/{number}: order {number}" for number in (1, 2, 3, 4)], timeout=30_000)
    page.goto("about:blank")
    eventually(lambda: feed.statistics().subscribers == 0)


def test_the_hook_with_an_event_source_does_the_same(folder: Path, served: Served, page: Page) -> None:
    server, feed = served
    [hook] = blocks(PAGE, "js", "Without feed.js")
    save(folder, {"use-event-source.js": hook, "app.jsx": OTHER_HOOK})
    build(folder)
    httpx.post(f"{server.url}/orders/1")
    page.goto(server.url)
    httpx.post(f"{server.url}/orders/2")
    expect(page.locator("#root li")).to_have_text(["orders/1: order 1", "orders/2: order 2"])
    eventually(lambda: feed.statistics().subscribers == 1)


def test_state_and_live_in_a_component_misses_nothing_also_after_a_gap(folder: Path, page: Page) -> None:
    [hook] = blocks(PAGE, "js", "State and live")
    imports = "\n".join(
        line for line in (folder / "use-feed.js").read_text().splitlines() if line.startswith("import ")
    )
    [shop] = [text for name, text in saved("docs/recipes/state-and-live.md").items() if name == "shop.py"]
    html = (folder / "index.html").read_text()
    save(folder, {"use-orders.js": f"{imports}\n{hook}", "app.jsx": STATE_AND_LIVE, "shop.html": html})
    build(folder)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(shop, "shop.py", "exec", dont_inherit=True), names)
    names["app"].mount("/", StaticFiles(directory=folder))
    with AppServer(names["app"], names["feed"]) as server:
        httpx.put(f"{server.url}/orders/1/new")
        page.goto(server.url)
        lines = page.locator("#root li")
        expect(lines).to_have_text(["1 new"])
        httpx.put(f"{server.url}/orders/2/new")
        httpx.put(f"{server.url}/orders/1/paid")
        expect(lines).to_have_text(["1 paid", "2 new"])
        eventually(lambda: names["feed"].statistics().subscribers == 1)
        server.gap()
        httpx.put(f"{server.url}/orders/2/paid")
        expect(lines).to_have_text(["1 paid", "2 paid"], timeout=30_000)


def test_the_versions_are_those_that_the_page_names() -> None:
    npm.install_or_skip(PACKAGES)
    named = dict(re.findall(r"(React|esbuild) (\d+\.\d+\.\d+)", section(PAGE)))
    for name, package in {"React": "react", "esbuild": "esbuild"}.items():
        installed = json.loads((PACKAGES / "node_modules" / package / "package.json").read_text())["version"]
        assert named[name] == installed
