"""The recipe for state and live updates: the program and the page, and the race that it is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Page, expect

from feed import Feed
from feed.testing import AppServer
from tests.docs.saved import save, saved
from tests.support.browser import Watched

PAGE = "docs/recipes/state-and-live.md"


class Served(NamedTuple):
    """The application in this process, with switches for its network."""

    server: AppServer
    feed: Feed


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.chdir(tmp_path)
    files = saved(PAGE)
    save(tmp_path, files)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(files["shop.py"], "shop.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        yield Served(server, names["feed"])
    names["database"].close()


@pytest.mark.browser
def test_the_page_shows_the_state_and_every_change_also_after_an_outage_and_a_gap(
    served: Served, page: Page, watched: Watched
) -> None:
    server = served.server
    httpx.put(f"{server.url}/orders/1/new")
    page.goto(server.url)
    lines = page.locator("#list li")
    expect(lines).to_have_text(["Order 1 is new"])
    httpx.put(f"{server.url}/orders/2/new")
    httpx.put(f"{server.url}/orders/1/paid")
    expect(lines).to_have_text(["Order 1 is paid", "Order 2 is new"])
    server.restart()
    httpx.put(f"{server.url}/orders/3/new")
    expect(lines).to_have_text(["Order 1 is paid", "Order 2 is new", "Order 3 is new"], timeout=30_000)
    server.gap()
    httpx.put(f"{server.url}/orders/2/paid")
    expect(lines).to_have_text(["Order 1 is paid", "Order 2 is paid", "Order 3 is new"], timeout=30_000)


@pytest.mark.browser
def test_a_change_between_the_answer_and_the_subscription_is_shown_once(served: Served, page: Page) -> None:
    server = served.server
    httpx.put(f"{server.url}/orders/1/new")

    def change_behind(route: Any) -> None:
        answer = route.fetch()
        httpx.put(f"{server.url}/orders/1/paid")
        httpx.put(f"{server.url}/orders/4/new")
        route.fulfill(response=answer)

    page.route("**/state", change_behind)
    page.goto(server.url)
    expect(page.locator("#list li")).to_have_text(["Order 1 is paid", "Order 4 is new"])


def test_what_is_committed_after_the_position_comes_after_it(served: Served) -> None:
    server = served.server
    httpx.put(f"{server.url}/orders/1/new")
    state = httpx.get(f"{server.url}/state").json()
    changed = httpx.put(f"{server.url}/orders/1/paid").json()
    page = httpx.get(
        f"{server.url}/live/events/orders/*",
        params={"after": state["position"]},
        headers={"Accept": "application/json"},
    ).json()
    assert state["orders"] == [{"id": 1, "state": "new", "version": 1}]
    assert [event["data"] for event in page["events"]] == [changed] == [{"id": 1, "state": "paid", "version": 2}]
