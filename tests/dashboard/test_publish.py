"""The dashboard's form: what it publishes, and what it says became of it."""

from __future__ import annotations

import re
import subprocess

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.support.browser import Watched
from tests.support.dashboard import Dashboard
from tests.support.running import RunningServer

pytestmark = pytest.mark.browser


@pytest.fixture
def dashboard(page: Page, server: RunningServer, watched: Watched) -> Dashboard:
    """With the form open."""
    opened = Dashboard(page, server).open()
    page.keyboard.press("p")
    return opened


def fill(dashboard: Dashboard, topic: str, data: str = "x", *, json: bool = False, **fields: str) -> None:
    for name, value in {"topic": topic, "data": data, **fields}.items():
        dashboard.part(name).fill(value)
    dashboard.part("as-json" if json else "as-text").check()


def test_the_form_publishes_text_and_json(dashboard: Dashboard) -> None:
    fill(dashboard, "form/text", "two\nlines", type="note")
    dashboard.part("send").click()
    expect(dashboard.row("form/text", "two lines")).to_have_count(1)
    [event] = dashboard.server.history("form/text")["events"]
    assert (event["type"], event["data"]) == ("note", "two\nlines")
    expect(dashboard.part("answer")).to_contain_text(f"201: published as {event['id']}")

    fill(dashboard, "form/json", '{"n": 123456789012345678901234567890}', json=True, type="")
    dashboard.part("send").click()
    dashboard.wait_for("form/json", '{"n": 123456789012345678901234567890}')


def test_the_answer_says_how_long_the_event_took_to_come_back(dashboard: Dashboard) -> None:
    fill(dashboard, "form/back")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_have_text(
        re.compile(r"^201: published as [a-z0-9]+-\d+, delivered back in \d+(\.\d)? m?s$")
    )


def test_an_invalid_topic_shows_what_the_server_says(dashboard: Dashboard) -> None:
    for topic in ("", "a//b", "a/../b", "a/*", "$own", "a b"):
        refused = httpx.post(f"{dashboard.server.url}/events", json={"topic": topic, "data": "x"})
        assert refused.status_code == 422
        fill(dashboard, topic)
        with dashboard.page.expect_response(f"{dashboard.server.url}/events"):
            dashboard.part("send").click()
        expect(dashboard.part("answer")).to_have_text(f"422: {refused.json()['detail']}")


def test_data_that_is_not_json_is_marked_while_it_is_written_and_not_sent(dashboard: Dashboard) -> None:
    fill(dashboard, "form/broken", '1,"topic":"elsewhere"', json=True)
    expect(dashboard.part("json-check")).to_contain_text("Not JSON")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("Not sent: the data is not JSON.")
    assert dashboard.server.history("form/broken")["events"] == dashboard.server.history("elsewhere")["events"] == []
    dashboard.part("data").fill('{"now": "it is"}')
    expect(dashboard.part("json-check")).to_have_text("Valid JSON")


def test_an_unanswered_event_can_be_published_again_and_is_there_once(dashboard: Dashboard) -> None:
    fill(dashboard, "form/once", "once")

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    dashboard.page.route(f"{dashboard.server.url}/events", lose_the_answer, times=1)
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("No answer")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("201: published as")
    assert len(dashboard.server.history("form/once")["events"]) == 1


def test_what_a_proxy_answers_in_place_of_the_feed_is_no_answer_to_a_publish(dashboard: Dashboard) -> None:
    fill(dashboard, "form/proxy", "once")
    for status in (200, 404, 201):

        def answer_instead(route: Route, *, status: int = status) -> None:
            route.fetch()
            route.fulfill(status=status, content_type="text/html", body="<h1>welcome</h1>")

        dashboard.page.route(f"{dashboard.server.url}/events", answer_instead, times=1)
        dashboard.part("send").click()
        expect(dashboard.part("answer")).to_contain_text(f"{status}: The answer did not come from the feed. It may")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("201: published as")
    assert len(dashboard.server.history("form/proxy")["events"]) == 1, "with one key, until the feed has answered"


def test_an_idempotency_key_of_ones_own_publishes_once(dashboard: Dashboard) -> None:
    fill(dashboard, "form/key", "once", key="mine")
    for _ in range(2):
        dashboard.part("send").click()
        expect(dashboard.part("answer")).to_contain_text("201: published as")
    assert len(dashboard.server.history("form/key")["events"]) == 1
    expect(dashboard.part("answer")).to_contain_text("it was there already: this key was used")
    fill(dashboard, "form/key", "another", key="mine")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("422: ")


def test_a_key_that_no_header_can_carry_is_said_to_be_not_sent(dashboard: Dashboard) -> None:
    fill(dashboard, "form/unsent", key="✓")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_have_text("Not sent: an idempotency key is of visible ASCII characters.")
    dashboard.part("key").fill("")
    dashboard.part("send").click()
    expect(dashboard.part("answer")).to_contain_text("201: published as")


def test_the_form_is_copied_as_a_command_that_publishes_the_same(dashboard: Dashboard) -> None:
    dashboard.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=dashboard.server.url)
    fill(dashboard, "form/curl", "it's $HOME", type="note")
    dashboard.part("publish-panel").get_by_role("button", name="curl", exact=True).click()
    subprocess.run(["bash", "-c", dashboard.clipboard()], check=True, capture_output=True, timeout=20)
    [event] = dashboard.server.history("form/curl")["events"]
    assert (event["type"], event["data"]) == ("note", "it's $HOME")
