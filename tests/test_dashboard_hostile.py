"""The dashboard and what strangers publish (FAULTS.md, W9): it is shown as text, nothing of it runs, and the page goes
on working. At the end of each test there was no dialog, no breach of the policy, no error and no foreign request."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.browser import Watched
from tests.conftest import Serve
from tests.dashboard import Dashboard
from tests.streams import eventually

pytestmark = pytest.mark.browser

IMG = "<img src=x onerror=alert(1)>"
HOSTILE = [
    IMG,
    "<script>alert(2)</script>",
    "\"'><svg onload=alert(3)>",
    "${alert(4)}{{alert(5)}}",
    "javascript:alert(6)",
    "&lt;b&gt;&#x3c;img&#x3e;",
    "\u202egnp.exe\u2066\u2069\ufeff",
    "a\0b\x1b[31mred\x07",
    "]]><!--<?lit$0$?-->",
    "NaN",
    "1e999",
    "__proto__",
    "constructor",
]
NAMES = [
    "<img/src=x/onerror=alert(1)>",
    "\"'><svg/onload=alert(3)>",
    "__proto__",
    "constructor",
    "toString",
    "&lt;b&gt;",
]


@pytest.fixture
def dashboard(page: Page, watched: Watched, serve: Serve) -> Dashboard:
    """On a server of the test's own."""
    return Dashboard(page, serve("--log", "memory:"))


def publish(dashboard: Dashboard, events: list[dict[str, object]]) -> None:
    answer = dashboard.server.http.post(f"{dashboard.server.url}/events", json=events)
    assert answer.status_code == 201, answer.text


def assert_usable(dashboard: Dashboard) -> None:
    """An event that is published now is shown, and nothing that strangers wrote has become an element."""
    dashboard.server.publish("usable", "still there")
    eventually(lambda: dashboard.data("usable") == ["still there"], 20)
    assert dashboard.page.locator("img, iframe, object, [onload], [onerror], svg[onload]").count() == 0


@pytest.mark.parametrize("transport", ["eventsource", "websocket", "fetch"])
def test_data_topics_types_and_keys_are_shown_as_text(dashboard: Dashboard, transport: str) -> None:
    dashboard.open(f"?transport={transport}")
    publish(dashboard, [{"topic": "data/text", "data": text} for text in HOSTILE])
    publish(dashboard, [{"topic": "data/json", "data": {text: {text: [text]}}} for text in HOSTILE])
    publish(dashboard, [{"topic": f"{name}/{name}", "type": name.replace("/", "|"), "data": "x"} for name in NAMES])
    dashboard.wait_for(f"{NAMES[-1]}/{NAMES[-1]}", "x")
    rows = dashboard.rows()
    assert {row["topic"] for row in rows} >= {f"{name}/{name}" for name in NAMES}
    assert {row["type"] for row in rows} >= {name.replace("/", "|") for name in NAMES}
    assert IMG in dashboard.data("data/text")
    assert_usable(dashboard)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_shared_view_with_hostile_parameters_is_a_view(dashboard: Dashboard, text: str) -> None:
    value = quote(text.replace("\0", ""))
    names = ("topic", "pattern", "filter", "q", "type", "show", "transport", "regex", "chart", "field", "last_event_id")
    dashboard.page.goto(f"{dashboard.server.url}/?{'&'.join(f'{name}={value}' for name in names)}#{value}")
    expect(dashboard.state).not_to_be_empty()
    assert dashboard.page.locator("img, [onload], [onerror]").count() == 0
    dashboard.open()
    assert_usable(dashboard)
