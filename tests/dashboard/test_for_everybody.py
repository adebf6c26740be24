"""The dashboard by keyboard alone, at any width, in both schemes, for screen readers, and under its strict policy."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.conftest import Serve
from tests.support.browser import MARKUP, Watched
from tests.support.dashboard import Dashboard
from tests.support.running import RunningServer

pytestmark = pytest.mark.browser


@pytest.fixture
def dashboard(page: Page, serve: Serve, watched: Watched) -> Dashboard:
    """On a server of the test's own, with a few events."""
    opened = Dashboard(page, serve("--log", "memory:"))
    opened.publish_many("keys/some", [str(number) for number in range(60)])
    opened.server.publish("keys/other?type=note", '{"n": 1}', **{"Content-Type": "application/json"})
    return opened.open()


def press(dashboard: Dashboard, *keys: str) -> None:
    for key in keys:
        dashboard.page.keyboard.press(key)


def focused(dashboard: Dashboard) -> str:
    return str(dashboard.page.evaluate("document.activeElement.dataset.testid ?? document.activeElement.id"))


def test_rows_are_walked_opened_and_closed_by_keys(dashboard: Dashboard) -> None:
    press(dashboard, "2", "j", "j", "j", "k")
    expect(dashboard.page.locator("[aria-selected=true]")).to_contain_text("59")
    press(dashboard, "Enter")
    expect(dashboard.part("inspector-content")).to_have_text("59")
    press(dashboard, "ArrowDown")
    expect(dashboard.part("inspector-content")).to_have_text("58")
    press(dashboard, *["PageDown"] * 12)
    expect(dashboard.part("inspector-content")).to_have_text("0")
    expect(dashboard.page.locator("[aria-selected=true]")).to_be_in_viewport()
    press(dashboard, "Escape")
    expect(dashboard.part("inspector")).to_have_count(0)
    press(dashboard, "g")
    expect(dashboard.part("event").first).to_contain_text("keys/other")
    expect(dashboard.page.locator("[aria-selected=true]")).to_have_count(0)


def test_filter_pause_clear_publish_travel_and_help_have_keys(dashboard: Dashboard) -> None:
    press(dashboard, "/")
    expect(dashboard.part("filter")).to_be_focused()
    dashboard.page.keyboard.type("type=note j k p")
    expect(dashboard.part("filter")).to_have_value("type=note j k p")
    dashboard.part("filter").fill("type=note")
    expect(dashboard.part("event")).to_have_count(1)
    dashboard.part("filter").fill("")
    press(dashboard, "Escape", "Space")
    expect(dashboard.part("pause")).to_have_text("Resume")
    press(dashboard, "Space")
    expect(dashboard.part("pause")).to_have_text("Pause")
    press(dashboard, "p")
    expect(dashboard.part("topic")).to_be_focused()
    press(dashboard, "Escape")
    expect(dashboard.part("publish-panel")).to_have_count(0)
    press(dashboard, "t")
    expect(dashboard.part("travel-place")).to_be_focused()
    press(dashboard, "Escape")
    expect(dashboard.part("travel")).to_have_count(0)
    press(dashboard, "?")
    expect(dashboard.part("help-dialog")).to_be_visible()
    press(dashboard, "Escape")
    expect(dashboard.part("help-dialog")).to_be_hidden()
    press(dashboard, "c")
    expect(dashboard.part("event")).to_have_count(0)


def test_an_event_is_published_and_a_topic_ticked_by_keyboard_alone(dashboard: Dashboard) -> None:
    press(dashboard, "p")
    expect(dashboard.part("topic")).to_be_focused()
    press(dashboard, "Control+a")
    dashboard.page.keyboard.type("keys/typed")
    press(dashboard, "Tab", "Tab", "Tab")
    dashboard.page.keyboard.type("by hand")
    press(dashboard, "Tab", "Tab", "Enter")
    dashboard.wait_for("keys/typed", "by hand")
    press(dashboard, "Escape", "1", "Tab", "Tab", "Tab")
    assert focused(dashboard) == "tick"
    press(dashboard, "Tab", "Space")
    expect(dashboard.part("show-all")).to_be_visible()
    assert "?show=keys/" in dashboard.page.url


def test_every_control_is_reached_by_tab_and_shows_that_it_is(dashboard: Dashboard) -> None:
    expect(dashboard.part("chart-topic")).to_be_visible()
    press(dashboard, "t")
    expect(dashboard.part("travel-place")).to_be_focused()
    dashboard.part("publish-open").click()
    expect(dashboard.part("topic")).to_be_focused()
    reached: list[str] = []
    for _ in range(80):
        press(dashboard, "Tab")
        reached.append(focused(dashboard))
        outline = dashboard.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none" or reached[-1] in {"", "topics", "pictures"}, reached[-1]
    controls = """
        transport last-id token theme help topic-search tick pattern add-pattern pause clear filter regex type-filter
        travel-open publish-open travel-place travel-go travel-from travel-to travel-speed replay travel-close
        events older topic type key data as-text send publish-close chart-topic chart-field
    """
    for name in controls.split():
        assert name in reached, f"{name} not in {reached}"


def test_single_keys_can_be_turned_off(dashboard: Dashboard) -> None:
    press(dashboard, "?")
    dashboard.part("single-keys").uncheck()
    press(dashboard, "Escape", "p")
    expect(dashboard.part("publish-panel")).to_have_count(0)
    press(dashboard, "ArrowDown")
    expect(dashboard.page.locator("[aria-selected=true]")).to_have_count(1)


def test_screen_readers_are_told_a_summary_and_not_the_list(dashboard: Dashboard) -> None:
    dashboard.page.clock.install()
    dashboard.open()
    expect(dashboard.part("events")).to_have_attribute("aria-live", "off")
    expect(dashboard.part("count")).to_have_text("61 kept")
    dashboard.page.clock.fast_forward(20_000)
    expect(dashboard.part("summary")).to_have_text("Live. 61 events kept.")
    expect(dashboard.part("summary")).to_have_attribute("role", "status")


def test_the_scheme_is_the_devices_until_it_is_chosen(dashboard: Dashboard) -> None:
    def page_colour() -> str:
        return str(dashboard.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = page_colour()
    dashboard.page.emulate_media(color_scheme="dark")
    dark = page_colour()
    assert light != dark
    dashboard.part("theme").click()
    expect(dashboard.part("theme")).to_contain_text("Light")
    assert page_colour() == light
    press(dashboard, "2", "l")
    expect(dashboard.part("theme")).to_contain_text("Dark")
    dashboard.page.emulate_media(color_scheme="light")
    assert page_colour() == dark
    dashboard.page.reload()
    expect(dashboard.part("theme")).to_contain_text("Dark")
    assert page_colour() == dark


def test_nothing_moves_where_less_motion_is_wanted(dashboard: Dashboard) -> None:
    dashboard.page.emulate_media(reduced_motion="reduce")
    dashboard.server.kill()
    expect(dashboard.state).to_have_text("Reconnecting")
    moving = "Array.from(document.getAnimations(), (one) => one.animationName ?? one.transitionProperty)"
    assert dashboard.page.evaluate(moving) == []
    dashboard.page.emulate_media(reduced_motion="no-preference")
    assert dashboard.page.evaluate(moving) == ["wait"]


def test_nothing_scrolls_sideways(dashboard: Dashboard) -> None:
    unbroken = "unbroken" * 15
    topic = f"wide/{unbroken}"
    dashboard.server.publish(f"{topic}?type={unbroken}", unbroken * 10)

    def check(shown: str) -> None:
        sizes = dashboard.page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], shown

    dashboard.open(f"?filter={unbroken}&show={topic}&topic=**")
    for width in (320, 375, 768, 1440):
        dashboard.page.set_viewport_size({"width": width, "height": 740})
        expect(dashboard.part("event")).to_have_count(1)
        dashboard.part("event").click()
        expect(dashboard.part("inspector")).to_be_visible()
        check(f"an event, {width} wide")
        press(dashboard, "Escape", "t")
        expect(dashboard.part("travel-place")).to_be_visible()
        for pane in ("pictures", "topics", "events"):
            if dashboard.part(f"pane-{pane}").is_visible():
                dashboard.part(f"pane-{pane}").click()
            check(f"{pane}, {width} wide")
        press(dashboard, "Escape", "p")
        expect(dashboard.part("topic")).to_be_visible()
        check(f"publish, {width} wide")
        press(dashboard, "Escape")
        expect(dashboard.part("topic")).to_have_count(0)


def test_the_policy_is_in_force_and_a_breach_of_it_is_noticed(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    dashboard = Dashboard(page, server).open()
    press(dashboard, "p")
    dashboard.part("topic").fill("policy")
    dashboard.part("data").fill(MARKUP)
    dashboard.part("send").click()
    dashboard.wait_for("policy", MARKUP)
    assert watched.faults == []
    with page.expect_console_message(lambda message: "policy violation: style-src" in message.text):
        page.evaluate(
            "() => document.body.append(Object.assign(document.createElement('style'), {textContent: 'p {}'}))"
        )
    with page.expect_console_message(lambda message: "policy violation: require-trusted-types-for" in message.text):
        page.evaluate("() => { try { document.body.innerHTML = '<p>'; } catch {} }")
    watched.violations.clear()
