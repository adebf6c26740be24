"""The rows of the dashboard's list stay what the feed says, once and in order, whatever is done to them meanwhile."""

from __future__ import annotations

import json
import shlex

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import Serve
from tests.support.browser import Watched
from tests.support.dashboard import Dashboard
from tests.support.modules import outputs
from tests.support.streams import eventually

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
        with alone.page.expect_response(lambda response: "after=" in response.url):
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


def test_reading_back_beyond_what_is_kept_leaves_what_is_in_view_in_view(alone: Dashboard) -> None:
    alone.publish_many("past", numbers(0, 600))
    alone.open()
    alone.publish_many("past", numbers(600, 5_600))
    expect(alone.part("count")).to_have_text("the newest 5,000 kept")
    alone.part("events").evaluate("(list) => { list.scrollTop = list.scrollHeight - list.clientHeight - 100 }")
    expect(alone.row("past", "610")).to_be_in_viewport()
    alone.part("older").click()
    expect(alone.row("past", "599")).to_have_count(1)  # below, a little out of view
    expect(alone.row("past", "610")).to_be_in_viewport()


def test_the_tick_in_focus_stays_that_of_its_topic(alone: Dashboard) -> None:
    alone.server.publish("first", "1")
    alone.server.publish("second", "1")
    alone.open()
    alone.page.get_by_label("first", exact=True).focus()
    alone.publish_many("second", numbers(0, 10))
    alone.wait_for("second", "9")
    alone.page.keyboard.press("Space")
    expect(alone.page.get_by_label("first", exact=True)).to_be_checked()


def test_the_keys_that_scroll_do_so_where_the_focus_is(alone: Dashboard) -> None:
    alone.page.set_viewport_size({"width": 1_440, "height": 400})
    alone.server.publish("scrolled", "x")
    alone.open()
    alone.page.keyboard.press("3")
    expect(alone.part("picture-server").locator("dd")).to_have_count(8)
    expect(alone.page.locator("#pictures")).to_be_focused()
    expect(alone.part("picture-server").locator("dd").last).not_to_be_in_viewport()
    alone.page.evaluate("() => document.addEventListener('scrollend', () => { window.rests = true }, true)")
    alone.page.keyboard.press("End")
    expect(alone.part("picture-server").locator("dd").last).to_be_in_viewport()
    eventually(lambda: alone.page.evaluate("window.rests"))  # or the next key is lost in what End still moves
    alone.page.keyboard.press("PageUp")
    expect(alone.part("picture-rate")).to_be_in_viewport()
    expect(alone.page.locator("[aria-selected=true]")).to_have_count(0)


def test_a_key_that_was_used_before_is_not_said_to_have_brought_the_event_back(alone: Dashboard) -> None:
    alone.open()
    alone.page.keyboard.press("p")
    alone.part("key").fill("the same")
    alone.part("send").click()
    expect(alone.part("answer")).to_contain_text("422")  # no spaces in it
    alone.part("key").fill("same")
    alone.part("send").click()
    expect(alone.part("answer")).to_contain_text("delivered back in")
    alone.part("send").click()
    expect(alone.part("answer")).to_contain_text("it was there already")
    expect(alone.part("answer")).not_to_contain_text("delivered")
    assert len(alone.server.history("hello")["events"]) == 1


def test_what_the_browser_did_not_send_is_not_said_to_be_published_perhaps(alone: Dashboard) -> None:
    alone.open()
    alone.page.keyboard.press("p")
    alone.part("key").fill("\N{KEY}")
    alone.part("send").click()
    expect(alone.part("answer")).to_have_text("Not sent: an idempotency key is of visible ASCII characters.")


def test_large_data_is_laid_out_once_and_not_with_each_painting(alone: Dashboard) -> None:
    alone.open()
    alone.server.http.post(f"{alone.server.url}/events/large", json=[[1] * 100_000]).raise_for_status()
    alone.part("event").click()
    expect(alone.part("inspector-content")).to_be_visible()
    # How often the data is looked through while something else is painted.
    alone.page.evaluate(
        """() => {
            window.looks = 0;
            const { matchAll } = String.prototype;
            String.prototype.matchAll = function (...args) {
                window.looks += 1;
                return matchAll.apply(this, args);
            };
        }"""
    )
    for number in numbers(0, 3):
        alone.server.publish("small", number)
        expect(alone.part("fresh")).to_have_text(f"{int(number) + 1} new")
    assert alone.page.evaluate("window.looks") == 0
    alone.part("show-frame").click()
    expect(alone.part("inspector-content")).to_contain_text("data: [[1,1")
    alone.part("show-data").click()
    expect(alone.part("inspector-content")).not_to_contain_text("data:")
    assert alone.page.evaluate("window.looks") == 1


def test_a_shared_view_keeps_the_chart_of_a_number_that_is_in_no_field(alone: Dashboard) -> None:
    alone.open()
    alone.server.http.post(f"{alone.server.url}/events/bare", content="5", headers={"Content-Type": "application/json"})
    alone.part("chart-chip").click()
    expect(alone.part("field-numbers")).to_contain_text("5 now")
    alone.open(f"?{alone.page.url.partition('?')[2]}")
    expect(alone.part("chart-topic")).to_have_value("bare")
    expect(alone.part("field-numbers")).to_contain_text("5 now")


def test_json_with_tabs_is_copied_as_json(alone: Dashboard) -> None:
    alone.page.goto(f"{alone.server.url}/healthz")
    event = {"topic": "tabs", "type": "message", "json": True, "text": '{"a":\t"\\t\u200b"}'}
    [command] = outputs(alone.page, alone.server, "app/commands.js", "curlPublish", [["http://localhost/", event]])
    [data] = [word for word in shlex.split(command) if word.startswith("{")]
    assert json.loads(data) == {"a": "\t\u200b"}
    assert "\t" not in command


def test_a_place_in_time_is_a_time_and_not_what_a_browser_makes_of_any_number(alone: Dashboard) -> None:
    alone.page.goto(f"{alone.server.url}/healthz")
    nothing = [
        "7",
        "42",
        "order 42",
        "hello 5",
        "184467",
        "25:00",
        "12:60",
        "99:99",
        "2026-13",
        "2026-02-31x",
        f"{'9' * 400} d",
    ]
    places = [
        "2026-11-21T14:05Z",
        "2026-11-21 14:05",
        "21 Nov 2026 14:05",
        "2026-11-21",
        "2026-11",
        "14:05",
        "7:05:09.5",
        "10 min",
    ]
    given = outputs(alone.page, alone.server, "app/travel.js", "placeOf", [[text] for text in [*nothing, *places]])
    assert given[: len(nothing)] == [None] * len(nothing)
    assert all("time" in place for place in given[len(nothing) :])
    assert outputs(alone.page, alone.server, "app/travel.js", "placeOf", [["k3f9a2-184467"]]) == [
        {"id": "k3f9a2-184467"}
    ]


def test_a_day_is_one_of_here(browser: Browser, serve: Serve) -> None:
    server = serve("--log", "memory:")
    with browser.new_context(timezone_id="Asia/Tokyo") as context:
        page = context.new_page()
        page.goto(f"{server.url}/healthz")
        table = [["2026-11-21"], ["2026-11-21 00:00"], ["2026-11"]]
        given = outputs(page, server, "app/travel.js", "placeOf", table)
    assert given == [{"time": f"2026-{day}T15:00:00.000Z"} for day in ("11-20", "11-20", "10-31")]
