"""The pages at `/` and `/docs`, in a real Chromium against a real server: what somebody sees who opens them."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests import browser as chromium_support
from tests.browser import Watched, chromium, watch
from tests.conftest import Serve
from tests.running import RunningServer
from web import app

pytestmark = pytest.mark.browser

DASHBOARD = Path(app.__file__).parent / "dashboard"
POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types lit-html feed"
)
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&lt;b&gt;"

AWKWARD = [
    "a\rb",
    "a\nb",
    "a\r\nb",
    "\r\n\r\n",
    "\n",
    " leading space",
    "  two",
    ": leading colon",
    "data: id: event:",
    "line\u2028separator\u2029and\u0085next",
    "nul\0inside",
    "\0",
    "\ufeffbom",
    "",
    "ends with\r",
    "\U0001f600 and \u202e",
]

expect.set_options(timeout=15_000)

EVENTS_URL = re.compile(r"/events/\*\*\?")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(locale="en-GB") as context:
        opened = context.new_page()
        opened.set_default_timeout(15_000)
        yield opened


@pytest.fixture
def watched(page: Page) -> Iterator[Watched]:
    """What the page does; at the end it must have done nothing wrong."""
    watched = watch(page)
    yield watched
    assert watched.faults == []


def open_live(page: Page, server: RunningServer) -> None:
    page.goto(f"{server.url}/")
    expect(page.get_by_test_id("state")).to_have_text("Live")


def shown(page: Page, topic: str) -> list[str]:
    """The data of a topic's events as the page shows it, oldest first."""
    rows = page.get_by_test_id("event").filter(has=page.get_by_test_id("event-topic").get_by_text(topic, exact=True))
    return list(reversed(rows.get_by_test_id("event-data").all_text_contents()))


def wait_for(page: Page, topic: str, data: str) -> None:
    row = page.get_by_test_id("event").filter(has=page.get_by_test_id("event-topic").get_by_text(topic, exact=True))
    expect(row.get_by_test_id("event-data").get_by_text(data, exact=True)).to_have_count(1)


def record_states(page: Page) -> None:
    """Keep every state from now on in `states`: what was there only for a moment counts too."""
    page.evaluate(
        """() => {
            const state = document.querySelector('[data-testid="state"]');
            window.states = [state.textContent];
            new MutationObserver(() => window.states.push(state.textContent))
                .observe(state, {childList: true, characterData: true, subtree: true});
        }"""
    )


def test_an_event_published_with_curl_shows_on_the_page(
    server: RunningServer, page: Page, watched: Watched, curl_program: str
) -> None:
    open_live(page, server)
    answer = subprocess.run(
        [curl_program, "-sS", "-d", "from curl", f"{server.url}/events/shown/curl?type=greeting"],
        check=True,
        capture_output=True,
        text=True,
    )
    event = page.get_by_test_id("event").filter(has_text="shown/curl")
    expect(event.get_by_test_id("event-data")).to_have_text("from curl")
    expect(event.get_by_test_id("event-type")).to_have_text("greeting")
    expect(event.get_by_test_id("event-id")).to_have_text(json.loads(answer.stdout)["id"])
    expect(page.get_by_test_id("last-id")).to_have_text(json.loads(answer.stdout)["id"])


def test_the_newest_event_is_on_top_and_what_was_there_before_is_shown_too(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    server.publish("order", "before 1")
    server.publish("order", "before 2")
    open_live(page, server)
    server.publish("order", "after")
    wait_for(page, "order", "after")
    assert shown(page, "order") == ["before 1", "before 2", "after"]


def test_markup_in_data_topic_and_type_is_shown_as_text(server: RunningServer, page: Page, watched: Watched) -> None:
    open_live(page, server)
    hostile = "<b>"
    topic = "hostile/<script>alert(3)<"
    answer = httpx.post(
        f"{server.url}/events",
        json=[{"topic": topic, "type": hostile, "data": MARKUP}, {"topic": topic, "data": {"<i>": MARKUP}}],
    )
    assert answer.status_code == 201, answer.text
    events = page.get_by_test_id("event").filter(has_text="hostile/")
    expect(events).to_have_count(2)
    expect(events.last.get_by_test_id("event-topic")).to_have_text(topic)
    expect(events.last.get_by_test_id("event-type")).to_have_text(hostile)
    assert events.last.get_by_test_id("event-data").text_content() == MARKUP
    assert json.loads(events.first.get_by_test_id("event-data").text_content() or "") == {"<i>": MARKUP}
    assert events.locator("img, script, b, i").count() == 0


def test_json_is_shown_as_it_was_published(server: RunningServer, page: Page, watched: Watched) -> None:
    raw = '{"z": 123456789012345678901234567890, "a": 1.0, "a": 1E2, "data":"}", "time":"x"}'
    open_live(page, server)
    server.publish("exact", raw, **{"Content-Type": "application/json"})
    wait_for(page, "exact", raw)


def test_long_data_is_cut_and_says_so(server: RunningServer, page: Page, watched: Watched) -> None:
    open_live(page, server)
    server.publish("long", "x" * 200_000)
    expect(page.get_by_test_id("event-cut").filter(has_text="196,000 more characters")).to_be_visible()


def test_no_more_than_500_events_stay_on_the_page(serve: Serve, page: Page, watched: Watched) -> None:
    server = serve("--log", "memory:")
    open_live(page, server)
    batch = [{"topic": "many", "data": str(number)} for number in range(1200)]
    assert httpx.post(f"{server.url}/events", json=batch).status_code == 201
    expect(page.get_by_test_id("count")).to_have_text("the newest 500 shown")
    wait_for(page, "many", "1199")
    assert shown(page, "many") == [str(number) for number in range(700, 1200)]


def test_the_page_misses_nothing_when_the_server_is_killed_and_comes_back(
    serve: Serve, page: Page, watched: Watched, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    open_live(page, server)
    record_states(page)
    server.publish("kill", "0")
    wait_for(page, "kill", "0")
    server.kill()
    expect(page.get_by_test_id("state")).to_have_text("Reconnecting")
    # Held off while it would come back too soon, so that what follows is published while the page is away.
    page.route(EVENTS_URL, lambda route: route.abort("connectionrefused"))
    server.start()
    for number in range(1, 21):
        server.publish("kill", str(number))
    page.unroute(EVENTS_URL)
    expect(page.get_by_test_id("state")).to_have_text("Live")
    server.publish("kill", "21")
    wait_for(page, "kill", "21")
    assert shown(page, "kill") == [str(number) for number in range(22)]
    assert page.evaluate("states") == ["Live", "Reconnecting", "Live"]
    expect(page.get_by_test_id("gap")).to_be_hidden()


def test_a_stream_that_the_browser_gave_up_is_called_closed_and_resumes_by_hand(
    serve: Serve, page: Page, watched: Watched, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    open_live(page, server)
    last = server.publish("closed", "0")
    wait_for(page, "closed", "0")
    server.kill()
    # Any status but 200 ends an EventSource for ever.
    page.route(EVENTS_URL, lambda route: route.fulfill(status=502, body="bad gateway"))
    expect(page.get_by_test_id("state")).to_have_text("Closed")
    server.start()
    for number in range(1, 6):
        server.publish("closed", str(number))
    page.unroute(EVENTS_URL)
    with page.expect_request(EVENTS_URL) as request:
        page.get_by_role("button", name="Connect again").click()
    assert f"last_event_id={last}" in request.value.url
    expect(page.get_by_test_id("state")).to_have_text("Live")
    wait_for(page, "closed", "5")
    assert shown(page, "closed") == [str(number) for number in range(6)]
    expect(page.get_by_test_id("connect")).to_be_hidden()


def test_a_server_that_stops_is_named_as_the_reason(serve: Serve, page: Page, watched: Watched, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    open_live(page, server)
    server.stop()
    expect(page.get_by_test_id("state")).to_have_text("Reconnecting")
    expect(page.get_by_test_id("note")).to_have_text("The server is stopping.")
    server.start()
    expect(page.get_by_test_id("state")).to_have_text("Live")
    expect(page.get_by_test_id("note")).to_have_text("")


def test_a_gap_is_told_in_a_banner(serve: Serve, page: Page, watched: Watched) -> None:
    server = serve("--log", "memory:", retry=0.2)
    open_live(page, server)
    last = server.publish("gap", "in a log that ends with its process")
    expect(page.get_by_test_id("last-id")).to_have_text(last)
    server.kill()
    server.start()
    banner = page.get_by_test_id("gap")
    expect(banner).to_contain_text("Events may be missing")
    expect(banner).to_contain_text(last)
    banner.get_by_role("button", name="Dismiss").click()
    expect(banner).to_be_hidden()


def test_the_form_publishes_text_and_json(server: RunningServer, page: Page, watched: Watched) -> None:
    open_live(page, server)
    page.get_by_label("Topic").fill("form/text")
    page.get_by_label("Type").fill("note")
    page.get_by_label("Data", exact=True).fill("two\nlines")
    page.get_by_role("button", name="Publish").click()
    wait_for(page, "form/text", "two\nlines")
    [event] = server.history("form/text")["events"]
    assert (event["type"], event["data"]) == ("note", "two\nlines")
    expect(page.get_by_test_id("answer")).to_have_text(f"201: published as {event['id']}")

    page.get_by_label("Topic").fill("form/json")
    page.get_by_label("Type").fill("")
    page.get_by_label("Data", exact=True).fill('{"n": 123456789012345678901234567890}')
    page.get_by_label("JSON").check()
    page.get_by_role("button", name="Publish").click()
    wait_for(page, "form/json", '{"n": 123456789012345678901234567890}')


@pytest.mark.parametrize("topic", ["", "a//b", "a/../b", "a/*", "$own", "a b"])
def test_an_invalid_topic_shows_what_the_server_says(
    server: RunningServer, page: Page, watched: Watched, topic: str
) -> None:
    refused = httpx.post(f"{server.url}/events", json={"topic": topic, "data": "x"})
    assert refused.status_code == 422
    open_live(page, server)
    page.get_by_label("Topic").fill(topic)
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_test_id("answer")).to_have_text(f"422: {refused.json()['detail']}")


def test_data_that_is_not_json_is_not_sent(server: RunningServer, page: Page, watched: Watched) -> None:
    open_live(page, server)
    page.get_by_label("Topic").fill("form/broken")
    page.get_by_label("Data", exact=True).fill('1,"topic":"elsewhere"')
    page.get_by_label("JSON").check()
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_test_id("answer")).to_contain_text("Not sent: the data is not JSON.")
    assert server.history("form/broken")["events"] == server.history("elsewhere")["events"] == []


def test_an_unanswered_event_can_be_published_again_and_is_there_once(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    open_live(page, server)
    page.get_by_label("Topic").fill("form/once")
    page.get_by_label("Data", exact=True).fill("once")

    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort("connectionreset")

    page.route(f"{server.url}/events", lose_the_answer, times=1)
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_test_id("answer")).to_contain_text("No answer")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_test_id("answer")).to_contain_text("201: published as")
    assert len(server.history("form/once")["events"]) == 1


def test_an_empty_feed_shows_how_to_begin_with_the_servers_own_address(
    serve: Serve, page: Page, watched: Watched
) -> None:
    server = serve("--log", "memory:")
    open_live(page, server)
    expect(page.get_by_test_id("curl-publish")).to_have_text(f"curl -d 'Hello' {server.url}/events/hello")
    expect(page.get_by_test_id("curl-subscribe")).to_have_text(f"curl -N {server.url}/events/hello")
    server.publish("hello", "Hello")
    wait_for(page, "hello", "Hello")
    expect(page.get_by_test_id("empty")).to_be_hidden()


def test_the_page_asks_only_its_own_server(server: RunningServer, page: Page, watched: Watched) -> None:
    open_live(page, server)
    assert {origin(url) for url in watched.requests} == {server.url}


def test_the_documentation_shows_every_route_and_asks_only_its_own_server(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.goto(f"{server.url}/docs")
    expect(page.locator(".opblock").filter(has_text="/events/{topic}").first).to_be_visible(timeout=15_000)
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert page.locator(".opblock").count() == sum(len(methods) for methods in paths.values())
    page.locator(".opblock-post .opblock-summary-control").first.click()
    expect(page.locator(".opblock-body").first).to_be_visible()
    # What its style sheet carries in itself is no request to anybody.
    assert {origin(url) for url in watched.requests if not url.startswith("data:")} == {server.url}


def test_the_documentation_works_under_a_content_security_policy(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    answer = server.http.get(f"{server.url}/docs")
    assert answer.headers["content-security-policy"] == POLICY.partition("; require-trusted-types-for")[0]
    page.goto(f"{server.url}/docs")
    page.locator(".opblock-post .opblock-summary-control").first.click()
    page.get_by_role("button", name="Try it out").click()
    expect(page.get_by_role("button", name="Execute")).to_be_visible()


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def test_the_page_works_under_a_strict_content_security_policy(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    assert server.http.get(f"{server.url}/").headers["content-security-policy"] == POLICY
    open_live(page, server)
    page.get_by_label("Topic").fill("policy")
    page.get_by_label("Data", exact=True).fill(MARKUP)
    page.get_by_role("button", name="Publish").click()
    wait_for(page, "policy", MARKUP)
    expect(page.get_by_test_id("answer")).to_contain_text("201")
    assert watched.faults == []
    # The policy was in force, and a breach of it is noticed.
    with page.expect_console_message(lambda message: "policy violation: style-src" in message.text):
        page.evaluate(
            "() => document.body.append(Object.assign(document.createElement('style'), {textContent: 'p {}'}))"
        )
    watched.violations.clear()


def test_nothing_scrolls_sideways(server: RunningServer, page: Page, watched: Watched) -> None:
    unbroken = "unbroken" * 15
    topic = f"wide/{unbroken}"
    server.publish(f"{topic}?type={unbroken}", unbroken * 10)
    for width in (320, 375, 768, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        open_live(page, server)
        wait_for(page, topic, unbroken * 10)
        page.get_by_test_id("publish-panel").evaluate("(panel) => { panel.open = true }")
        page.get_by_label("Topic").fill(topic)
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], f"{width} wide"


def test_the_page_stays_below_the_path_it_was_opened_at(server: RunningServer, page: Page, watched: Watched) -> None:
    prefix = f"{server.url}/a/prefix/"

    def proxy(route: Route) -> None:
        if EVENTS_URL.search(route.request.url):
            route.abort("connectionrefused")
        else:
            route.fulfill(response=route.fetch(url=route.request.url.replace(prefix, f"{server.url}/")))

    page.route(f"{prefix}**", proxy)
    page.goto(prefix)
    expect(page.get_by_test_id("state")).to_have_text("Reconnecting")
    expect(page.get_by_test_id("curl-publish")).to_contain_text(prefix)
    page.get_by_label("Topic").fill("prefixed")
    page.get_by_role("button", name="Publish").click()
    expect(page.get_by_test_id("answer")).to_contain_text("201")
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock").first).to_be_visible()
    assert [url for url in watched.requests if not url.startswith((prefix, "data:"))] == []


def test_awkward_texts_reach_a_browsers_event_source_as_they_were_published(
    serve: Serve, page: Page, watched: Watched
) -> None:
    server = serve("--log", "memory:")
    expected = [text.replace("\r\n", "\n").replace("\r", "\n") for text in AWKWARD]
    page.goto(f"{server.url}/healthz")
    page.evaluate(
        """() => new Promise((resolve) => {
            window.texts = [];
            const source = new EventSource("/events/awkward");
            source.onmessage = (event) => texts.push(event.data);
            source.addEventListener("feed.open", resolve);
        })"""
    )
    for text in AWKWARD:
        server.publish("awkward", text.encode())
    page.wait_for_function("(count) => texts.length >= count", arg=len(AWKWARD))
    assert page.evaluate("texts") == expected

    replayed = page.evaluate(
        """() => new Promise((resolve) => {
            const texts = [];
            const source = new EventSource("/events/awkward?last_event_id=earliest");
            source.onmessage = (event) => texts.push(event.data);
            source.addEventListener("feed.live", () => { source.close(); resolve(texts); });
        })"""
    )
    assert replayed == expected


def test_the_vendored_files_are_the_ones_that_are_listed() -> None:
    vendor = DASHBOARD / "vendor"
    listed = dict(line.split("  ")[::-1] for line in (vendor / "SHA256SUMS").read_text().splitlines())
    found = {str(path.relative_to(vendor)) for path in vendor.rglob("*") if path.is_file() and path.parent != vendor}
    assert {name: hashlib.sha256((vendor / name).read_bytes()).hexdigest() for name in found} == listed


def test_no_page_holds_inline_script_or_style() -> None:
    for path in DASHBOARD.glob("*.html"):
        assert not re.search(r"<style|<script(?![^>]*\ssrc=)|\sstyle=|\son\w+=|//", path.read_text()), path.name
    for path in DASHBOARD.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", path.read_text())


def test_without_chromium_the_tests_are_skipped_but_in_ci_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium_support, "CHROMIUM", Path("/nowhere/chromium"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs Chromium"), chromium():
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs Chromium"), chromium():
        pass
