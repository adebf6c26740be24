"""The rows of the dashboard's list stay what the feed says, once and in order, whatever is done to them meanwhile."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser import Watched
from tests.conftest import Serve
from tests.dashboard import Dashboard

pytestmark = pytest.mark.browser


@pytest.fixture
def alone(page: Page, serve: Serve, watched: Watched) -> Dashboard:
    """On a server of the test's own."""
    return Dashboard(page, serve("--log", "memory:"))


def numbers(first: int, end: int) -> list[str]:
    return [str(number) for number in range(first, end)]


def to_the_top(dashboard: Dashboard) -> None:
    """Scroll there, from wherever it is: also from there."""
    dashboard.part("events").evaluate(
        """async (list) => {
            list.scrollTop = 100;
            await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
            list.scrollTop = 0;
        }"""
    )


def follow(dashboard: Dashboard) -> None:
    """Show the newest again."""
    dashboard.part("pause").click()
    expect(dashboard.part("pause")).to_have_text("Pause")


def test_a_window_of_the_past_that_was_read_to_its_end_leaves_no_hole_in_what_is_followed(alone: Dashboard) -> None:
    alone.publish_many("past", numbers(0, 1_000))
    alone.open()
    expect(alone.part("count")).to_have_text("200 kept")
    alone.page.keyboard.press("t")
    alone.part("travel-place").fill(alone.server.history("past")["events"][300]["id"])
    alone.part("travel-go").click()
    for kept in ("400", "600", "800", "900"):  # 100 to 999
        expect(alone.part("count")).to_have_text(f"{kept} kept")
        with alone.page.expect_response(lambda response: "last_event_id=" in response.url):
            to_the_top(alone)
    alone.part("older").click()
    expect(alone.part("count")).to_have_text("1,000 kept")
    follow(alone)
    shown = alone.data("past")
    assert shown == numbers(int(shown[0]), 1_000)


def test_what_came_after_clear_is_there_once_also_when_older_events_are_loaded(alone: Dashboard) -> None:
    alone.publish_many("past", numbers(0, 20))
    alone.open()
    expect(alone.part("count")).to_have_text("20 kept")
    alone.part("pause").click()
    alone.part("clear").click()
    alone.publish_many("past", numbers(20, 23))
    expect(alone.part("fresh")).to_have_text("3 new")
    alone.page.keyboard.press("o")
    expect(alone.part("count")).to_have_text("23 kept")
    follow(alone)
    alone.wait_for("past", "22")
    assert alone.data("past") == numbers(20, 23)


def test_clear_stops_the_older_events_that_are_being_loaded(alone: Dashboard) -> None:
    alone.publish_many("past", numbers(0, 500))
    alone.open()
    expect(alone.part("count")).to_have_text("200 kept")
    held: list[Route] = []
    alone.page.route("**/events?*before=*", lambda route: held.append(route))
    with alone.page.expect_request("**/events?*before=*"):
        alone.part("older").click()
    alone.part("clear").click()
    expect(alone.part("count")).to_have_text("0 kept")
    held[0].continue_()
    follow(alone)
    alone.server.publish("past", "new")
    alone.wait_for("past", "new")
    assert alone.data("past") == ["new"]


def test_older_events_that_are_large_take_no_room_from_the_newest(alone: Dashboard) -> None:
    alone.open()
    for number in range(100):  # 64 of them are what the page keeps
        alone.server.publish("large", f"{number:04}".ljust(250_000, "x"))
    expect(alone.part("event-data").first).to_contain_text("0099")
    with alone.page.expect_response("**/events?*before=*"):
        alone.part("older").click()
    expect(alone.part("older")).to_have_text("Load older events")
    follow(alone)
    expect(alone.part("event-data").first).to_contain_text("0099")
    shown = [int(data[:4]) for data in alone.data("large")]
    assert shown == list(range(shown[0], 100))
