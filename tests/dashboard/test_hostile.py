"""The dashboard and what strangers publish (FAULTS.md, W9): it is shown as text, nothing of it runs, and the page goes
on working. At the end of each test there was no dialog, no breach of the policy, no error and no foreign request."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support.browser import Watched
from tests.support.dashboard import Dashboard

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
    dashboard.part("filter").fill("topic=usable")
    dashboard.wait_for("usable", "still there")
    assert dashboard.page.locator("img, iframe, object, [onload], [onerror], svg[onload]").count() == 0


@pytest.mark.parametrize(
    "transport",
    ["eventsource", *(pytest.param(each, marks=pytest.mark.only_soak) for each in ("websocket", "fetch"))],
)
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


def test_a_shared_view_with_hostile_parameters_is_a_view(dashboard: Dashboard) -> None:
    names = ("topic", "pattern", "filter", "q", "type", "show", "transport", "regex", "chart", "field", "last_event_id")
    for text in HOSTILE:
        value = quote(text.replace("\0", ""))
        dashboard.page.goto(f"{dashboard.server.url}/?{'&'.join(f'{name}={value}' for name in names)}#{value}")
        expect(dashboard.state).not_to_be_empty()
        assert dashboard.page.locator("img, [onload], [onerror]").count() == 0, text
    dashboard.open()
    assert_usable(dashboard)


def test_what_is_opened_is_shown_as_text(dashboard: Dashboard) -> None:
    events: list[dict[str, object]] = [
        {"topic": f"opened/{number}", "type": f"x{number}", "data": {text: [text, {text: text}]}}
        for number, text in enumerate(HOSTILE)
    ]
    publish(dashboard, events)
    dashboard.open()
    for number, text in enumerate(HOSTILE):
        dashboard.part("filter").fill(f"topic=opened/{number}")
        expect(dashboard.part("event")).to_have_count(1)
        dashboard.part("event").click()
        assert json.loads(dashboard.part("inspector-content").text_content() or "") == {text: [text, {text: text}]}
        dashboard.part("show-frame").click()
        expect(dashboard.part("inspector-content")).to_contain_text(f"event: x{number}")
        dashboard.part("show-data").click()
        dashboard.part("inspector-close").click()
    dashboard.part("filter").fill("")
    assert_usable(dashboard)


def test_what_a_server_says_to_a_publish_is_shown_as_text(dashboard: Dashboard) -> None:
    dashboard.open()
    problem = {"status": 422, "detail": IMG, "title": IMG}
    dashboard.page.route(
        f"{dashboard.server.url}/events",
        lambda route: route.fulfill(status=422, json=problem, content_type="application/problem+json"),
    )
    dashboard.page.keyboard.press("p")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_have_text(f"422: {IMG}")
    dashboard.page.unroute(f"{dashboard.server.url}/events")
    dashboard.page.keyboard.press("Escape")
    assert_usable(dashboard)


def test_ten_thousand_topics_and_thousands_of_fields_leave_the_page_usable(dashboard: Dashboard) -> None:
    dashboard.open()
    publish(dashboard, [{"topic": f"many/{number}/x", "data": number} for number in range(10_000)])
    publish(dashboard, [{"topic": "wide", "data": {f"field{number}": number for number in range(5_000)}}])
    publish(dashboard, [{"topic": "deep", "data": json.loads("[" * 90 + "]" * 90)}])
    assert_usable(dashboard)
    assert dashboard.page.evaluate("document.querySelectorAll('*').length") < 5_000


def test_the_longest_lines_leave_the_page_usable(dashboard: Dashboard) -> None:
    dashboard.open()
    for number in range(20):
        dashboard.server.publish("long", f"{number}{IMG}".ljust(256 * 1024, "x"))
    dashboard.part("event").first.click()
    expect(dashboard.part("inspector")).to_contain_text("more characters")
    dashboard.page.keyboard.press("Escape")
    assert_usable(dashboard)
    sizes = dashboard.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert sizes[0] <= sizes[1]


def test_numbers_that_are_none_and_strange_fields_do_no_harm_to_the_pictures(dashboard: Dashboard) -> None:
    dashboard.open()
    odd = ["1e308", "-1e308", "-0", "1e-400", "123456789012345678901234567890", "true", "null", '"5"', "[]", "{}"]
    for value in odd:
        raw = f'{{"value": {value}, "__proto__": {value}, "constructor": {value}, "<b>": {value}}}'
        dashboard.server.publish("pictures", raw, **{"Content-Type": "application/json"})
    publish(dashboard, [{"topic": "__proto__", "data": {"__proto__": 1, "constructor": 2}}])
    assert_usable(dashboard)
    assert dashboard.page.evaluate("({}).polluted === undefined && Object.keys(Object.prototype).length === 0")
