"""Time travel in the dashboard: older events, an id or a time gone to, a range that happens again."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support.browser import Watched
from tests.support.dashboard import Dashboard
from tests.support.running import RunningServer

pytestmark = pytest.mark.browser


@pytest.fixture
def dashboard(page: Page, serve: Serve, watched: Watched) -> Dashboard:
    """On a server with 1,000 events, of which the page shows the newest 200 at first."""
    opened = Dashboard(page, serve("--log", "memory:"))
    opened.publish_many("past", [str(number) for number in range(1_000)])
    opened.open()
    expect(opened.part("count")).to_have_text("200 kept")
    return opened


def numbers(first: int, end: int) -> list[str]:
    return [str(number) for number in range(first, end)]


def ids(server: RunningServer) -> list[str]:
    return [event["id"] for event in server.history("past", limit=1_000)["events"]]


def to_the_end(dashboard: Dashboard) -> None:
    dashboard.part("events").evaluate("(list) => { list.scrollTop = list.scrollHeight }")


def test_older_events_are_loaded_as_one_scrolls_back(dashboard: Dashboard) -> None:
    for kept in ("400", "600", "800", "1,000"):
        to_the_end(dashboard)
        expect(dashboard.part("count")).to_have_text(f"{kept} kept")
    to_the_end(dashboard)
    expect(dashboard.part("no-older")).to_be_visible()
    assert dashboard.data("past") == numbers(0, 1_000)
    dashboard.server.publish("past", "1000")
    expect(dashboard.part("fresh")).to_have_text("1 new")
    dashboard.part("fresh").click()
    dashboard.wait_for("past", "1000")
    assert dashboard.data("past") == numbers(0, 1_001)


def test_older_events_are_searched_for_what_passes_the_filter(dashboard: Dashboard) -> None:
    dashboard.part("filter").fill("^1?7$")
    dashboard.part("regex").click()
    expect(dashboard.part("nothing-passes")).to_be_visible()
    dashboard.part("older").click()
    expect(dashboard.part("event-data")).to_have_text(["17", "7"])


def test_an_id_is_gone_to_and_from_there_both_ways(dashboard: Dashboard) -> None:
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-place").fill(ids(dashboard.server)[500])
    dashboard.part("travel-go").click()
    selected = dashboard.page.locator("[aria-selected=true]")
    expect(selected.get_by_test_id("event-data")).to_have_text("500")
    # It is the oldest of its page, and so what came before it is loaded too.
    expect(dashboard.part("count")).to_have_text("400 kept")
    expect(selected).to_be_in_viewport()
    for kept in ("600 kept", "700 kept"):
        dashboard.part("events").evaluate("(list) => { list.scrollTop = 0 }")
        expect(dashboard.part("count")).to_have_text(kept)
    assert dashboard.data("past") == numbers(300, 1_000)
    dashboard.part("pause").click()
    dashboard.wait_for("past", "999")


def test_reading_on_forwards_from_an_id_passes_over_nothing_up_to_what_came_since(dashboard: Dashboard) -> None:
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-place").fill(ids(dashboard.server)[500])
    dashboard.part("travel-go").click()
    expect(dashboard.part("count")).to_have_text("400 kept")
    dashboard.publish_many("past", ["1000", "1001"])
    expect(dashboard.part("fresh")).to_have_text("2 new")
    seen: set[int] = set()
    while 1001 not in seen:
        texts = dashboard.part("events").evaluate(
            """async (list) => {
                list.scrollTop -= 200;
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                return Array.from(list.querySelectorAll("[data-testid=event-data]"), (cell) => cell.textContent);
            }"""
        )
        seen |= {int(text) for text in texts}
    assert sorted(seen) == list(range(min(seen), 1002))


def test_older_events_stay_for_later_only_where_they_are_next_to_what_is_there(dashboard: Dashboard) -> None:
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-place").fill(ids(dashboard.server)[500])
    dashboard.part("travel-go").click()
    expect(dashboard.part("count")).to_have_text("400 kept")
    for kept in ("600 kept", "700 kept"):
        dashboard.part("events").evaluate("(list) => { list.scrollTop = 0 }")
        expect(dashboard.part("count")).to_have_text(kept)
    with dashboard.page.expect_response(lambda response: "after=" in response.url):  # the end
        dashboard.part("events").evaluate("(list) => { list.scrollTop = 0 }")
    dashboard.part("events").focus()
    dashboard.page.keyboard.press("o")
    expect(dashboard.part("count")).to_have_text("900 kept")
    dashboard.part("pause").click()
    expect(dashboard.part("count")).to_have_text("200 kept")
    assert dashboard.data("past") == numbers(800, 1_000)


def test_a_time_is_gone_to(dashboard: Dashboard) -> None:
    now = datetime.now(UTC)
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-place").fill((now - timedelta(hours=1)).isoformat())
    dashboard.part("travel-go").click()
    expect(dashboard.page.locator("[aria-selected=true]").get_by_test_id("event-data")).to_have_text("0")
    dashboard.part("travel-place").fill((now + timedelta(hours=1)).isoformat())
    dashboard.part("travel-go").click()
    expect(dashboard.part("travel-error")).to_have_text("There are no events from there on.")
    for never in ("whenever", "25:99"):
        dashboard.part("travel-place").fill("9999-01-01")
        dashboard.part("travel-go").click()
        expect(dashboard.part("travel-error")).to_have_text("There are no events from there on.")
        dashboard.part("travel-place").fill(never)
        dashboard.part("travel-go").click()
        expect(dashboard.part("travel-error")).to_contain_text("an id, a time such as 14:05")


def test_an_id_that_is_no_more_is_told_as_a_gap(dashboard: Dashboard) -> None:
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-place").fill("nosuchlog-7")
    dashboard.part("travel-go").click()
    expect(dashboard.part("gap")).to_contain_text("the log here does not know it")


def test_what_is_left_of_another_log_is_not_continued_with_this_one(
    page: Page, serve: Serve, watched: Watched, tmp_path: Path
) -> None:
    dashboard = Dashboard(page, serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2))
    dashboard.publish_many("old", numbers(0, 30))
    dashboard.open()
    dashboard.server.kill()
    for file in tmp_path.glob("feed.db*"):
        file.unlink()
    dashboard.server.start()
    expect(dashboard.part("gap")).to_be_visible(timeout=35_000)
    dashboard.publish_many("new", numbers(0, 30))
    dashboard.wait_for("new", "29")
    dashboard.part("gap-dismiss").click()
    dashboard.part("older").click()
    expect(dashboard.part("no-older")).to_be_visible()
    expect(dashboard.part("gap")).to_be_visible()
    assert [row["topic"] for row in dashboard.rows()] == ["old"] * 30 + ["new"] * 30


def test_a_range_happens_again_in_the_same_list_once_and_in_order(dashboard: Dashboard) -> None:
    known = ids(dashboard.server)
    dashboard.page.keyboard.press("t")
    dashboard.part("travel-from").fill(known[100])
    dashboard.part("travel-to").fill(known[899])
    dashboard.part("travel-speed").select_option("As fast as possible")
    dashboard.part("replay").click()
    expect(dashboard.part("replay-progress")).to_have_text("800 events replayed. That was all of it.")
    dashboard.server.publish("past", "new")
    expect(dashboard.part("fresh")).to_have_text("1 new")
    assert dashboard.data("past") == numbers(100, 900)
    dashboard.page.keyboard.press("Escape")
    dashboard.wait_for("past", "new")
    assert dashboard.data("past") == [*numbers(800, 1_000), "new"]


def test_a_replay_is_held_goes_on_and_is_stopped(page: Page, serve: Serve, watched: Watched) -> None:
    dashboard = Dashboard(page, serve("--log", "memory:")).open()
    for number in range(20):
        dashboard.server.publish("slow", str(number))
        page.wait_for_timeout(100)
    page.keyboard.press("t")
    dashboard.part("replay").click()
    expect(dashboard.part("replay-progress")).to_have_text(re.compile(r"^Replaying: [3-9] events replayed"))
    dashboard.part("replay-pause").click()
    expect(dashboard.part("replay-progress")).to_have_text(re.compile("^Held: "))
    held = dashboard.data("slow")
    assert held == numbers(0, len(held))
    assert 3 <= len(held) < 20
    dashboard.part("replay-pause").click()
    dashboard.wait_for("slow", str(len(held)))
    dashboard.part("replay-stop").click()
    expect(dashboard.part("replay-progress")).to_contain_text("Stopped.")
    stopped = dashboard.data("slow")
    assert stopped == numbers(0, len(stopped))
    dashboard.part("travel-speed").select_option("As fast as possible")
    dashboard.part("replay").click()
    expect(dashboard.part("replay-progress")).to_have_text("20 events replayed. That was all of it.")
    assert dashboard.data("slow") == numbers(0, 20)
