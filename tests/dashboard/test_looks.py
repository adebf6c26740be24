"""What the dashboard looks like: pictures to look at, in `test-artifacts`, and what axe-core says of each."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support import forking
from tests.support.browser import Watched, findings
from tests.support.dashboard import Dashboard
from tests.support.paths import ARTIFACTS
from tests.support.tokens import SECRET

pytestmark = pytest.mark.browser

SCHEMES: list[Literal["light", "dark"]] = ["light", "dark"]
SIZES = [(1440, 900), (375, 812)]


@pytest.fixture
def dashboard(page: Page, serve: Serve, watched: Watched, tmp_path: Path) -> Dashboard:
    """On a server of the test's own."""
    return Dashboard(page, serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2))


@pytest.fixture
def look(page: Page) -> Callable[[str], None]:
    """Takes a picture of each size in each scheme, and asks axe-core about the wide one in the dark and the narrow one
    in the light: what is seen in one size only has the other scheme's colours in another picture."""
    ARTIFACTS.mkdir(exist_ok=True)

    def show(width: int, height: int, scheme: Literal["light", "dark"]) -> None:
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme=scheme)
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def take(name: str) -> None:
        views = [(width, height, scheme) for width, height in SIZES for scheme in SCHEMES]
        for view in views:
            show(*view)
            page.screenshot(path=ARTIFACTS / f"dashboard-{name}-{view[0]}-{view[2]}.png")
        for view in views[1:3]:  # afterwards: it ends what is emulated, as being offline is
            show(*view)
            assert findings(page) == [], f"{name}, {view}"

    return take


@pytest.fixture
def demo() -> Iterator[Callable[[str], None]]:
    """Has `feed demo` publish to a server."""
    with ExitStack() as stack:

        def start(url: str) -> None:
            process = forking.popen(["demo", "--url", url, "--every", "0.2"], os.environ)
            for stream in (process.stdout, process.stderr):
                assert stream is not None
                stack.enter_context(stream)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)

        yield start


def publish_orders(dashboard: Dashboard) -> None:
    kinds = ["created", "paid", "shipped", "returned"]
    batch: list[dict[str, object]] = []
    for number in range(60):
        order = {"order": 1200 + number, "total": number * 3.5 % 90, "customer": {"name": "Ann", "city": "Oslo"}}
        batch.append({"topic": f"orders/{1200 + number % 9}", "type": kinds[number % 4], "data": order})
        if number % 3 == 0:
            batch.append({"topic": "chat/lobby", "data": f"Order {1200 + number} has gone out, thank you all!"})
    assert dashboard.server.http.post(f"{dashboard.server.url}/events", json=batch).status_code == 201


def test_empty(dashboard: Dashboard, look: Callable[[str], None]) -> None:
    dashboard.open()
    look("empty")


def test_busy_with_a_chart_of_the_cpu_at_one_click(
    dashboard: Dashboard, look: Callable[[str], None], demo: Callable[[str], None]
) -> None:
    publish_orders(dashboard)
    dashboard.open()
    demo(dashboard.server.url)
    dashboard.page.set_viewport_size({"width": 1440, "height": 900})
    dashboard.page.get_by_role("button", name="system/cpu · percent").click()
    expect(dashboard.part("field-numbers")).to_have_text(re.compile(r"^[\d.]+ now, [\d.]+ to [\d.]+ "))
    assert dashboard.page.url.endswith("?chart=system/cpu&field=percent")
    expect(dashboard.part("picture-server")).to_have_text(re.compile(r"Events in the log\s*[1-9]"))
    expect(dashboard.part("count")).to_have_text(re.compile(r"^1[2-9]\d kept"))
    look("busy")
    dashboard.page.set_viewport_size({"width": 375, "height": 812})
    dashboard.part("pane-pictures").click()
    look("pictures")
    dashboard.page.set_viewport_size({"width": 375, "height": 812})
    dashboard.part("pane-topics").click()
    look("topics")


def test_an_event_opened_publishing_and_time_travel(dashboard: Dashboard, look: Callable[[str], None]) -> None:
    publish_orders(dashboard)
    dashboard.open()
    dashboard.page.keyboard.press("j")
    dashboard.page.keyboard.press("Enter")
    expect(dashboard.part("inspector")).to_be_visible()
    look("event")
    dashboard.page.keyboard.press("Escape")
    dashboard.page.keyboard.press("p")
    dashboard.part("as-json").check()
    dashboard.part("data").fill('{"broken": ')
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("Not sent")
    look("publish")
    dashboard.page.keyboard.press("Escape")
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-speed").select_option("As fast as possible")
    dashboard.part("replay").click()
    expect(dashboard.part("replay-progress")).to_contain_text("That was all of it.")
    look("travel")
    dashboard.page.keyboard.press("Escape")
    dashboard.page.keyboard.press("?")
    look("help")


def test_gap_and_offline(dashboard: Dashboard, look: Callable[[str], None], tmp_path: Path) -> None:
    publish_orders(dashboard)
    dashboard.open()
    dashboard.server.kill()
    expect(dashboard.state).to_have_text("Reconnecting")
    look("reconnecting")
    for file in tmp_path.glob("feed.db*"):
        file.unlink()
    dashboard.server.start()
    expect(dashboard.part("gap")).to_be_visible(timeout=35_000)
    look("gap")
    dashboard.page.context.set_offline(True)
    dashboard.server.kill()
    expect(dashboard.state).to_have_text("Offline")
    look("offline")


def test_a_token_is_needed(page: Page, serve: Serve, watched: Watched, look: Callable[[str], None]) -> None:
    dashboard = Dashboard(page, serve("--log", "memory:", jwt_secret=SECRET)).open(state="Token needed")
    dashboard.part("token-field").fill("no token")
    dashboard.part("sign-in").click()
    expect(dashboard.part("token-error")).to_be_visible()
    look("token")
