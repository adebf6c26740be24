"""What the dashboard says of its connection, and what becomes of the events, when it breaks, is refused or moved."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.conftest import Serve
from tests.support.browser import Watched
from tests.support.dashboard import Dashboard
from tests.support.running import RunningServer
from tests.support.tokens import SECRET, token

pytestmark = pytest.mark.browser

EVENTS_URL = re.compile(r"/events\?")


@pytest.fixture
def dashboard(page: Page, watched: Watched, serve: Serve, tmp_path: Path) -> Dashboard:
    """On a server of the test's own, whose log survives it."""
    return Dashboard(page, serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2, drain=2))


@pytest.fixture
def keyed(page: Page, watched: Watched, serve: Serve) -> Dashboard:
    """On a server with a key."""
    return Dashboard(page, serve("--log", "memory:", jwt_secret=SECRET, retry=0.2))


def sign_in(dashboard: Dashboard, presented: str) -> None:
    dashboard.part("token-field").fill(presented)
    dashboard.part("sign-in").click()


@pytest.mark.parametrize(
    "transport",
    [
        "eventsource",
        *(pytest.param(each, marks=pytest.mark.only_soak) for each in ("websocket", "fetch")),  # see test_feed_js
    ],
)
def test_a_killed_server_is_counted_down_to_and_nothing_is_missed(
    dashboard: Dashboard, serve: Serve, tmp_path: Path, transport: str
) -> None:
    server = dashboard.server
    dashboard.open(f"?transport={transport}")
    dashboard.record_states()
    last = server.publish("kill", "0")
    dashboard.wait_for("kill", "0")
    server.kill()
    expect(dashboard.state).to_have_text("Reconnecting")
    expect(dashboard.part("note")).to_have_text(re.compile(r"^in \d+ s\. "))
    # Long enough away for the waiting to grow, so that the numbers can be seen to run down.
    countdown = dashboard.page.evaluate(
        """() => new Promise((resolve) => {
            const note = document.querySelector('[data-testid="note"]');
            const seen = [];
            const look = () => {
                const seconds = Number(/in (\\d+) s/.exec(note.textContent)?.[1] ?? NaN);
                if (!Number.isNaN(seconds) && seen.at(-1) !== seconds) seen.push(seconds);
                const down = seen.some((one, at) => at > 1 && seen[at - 1] === one + 1 && seen[at - 2] === one + 2);
                if (down) resolve(seen);
                else setTimeout(look, 50);
            };
            look();
        })"""
    )
    assert countdown
    # Published to the same log, at a server that the page does not know.
    meanwhile = serve("--log", f"sqlite:{tmp_path / 'feed.db'}")
    for number in range(1, 21):
        meanwhile.publish("kill", str(number))
    meanwhile.stop()
    server.start()
    expect(dashboard.state).to_have_text("Live", timeout=35_000)
    server.publish("kill", "21")
    dashboard.wait_for("kill", "21")
    assert dashboard.data("kill") == [str(number) for number in range(22)]
    expect(dashboard.part("gap")).to_have_count(0)
    expect(dashboard.part("note")).to_have_text(f"resumed after {last}, 20 events replayed")
    states = dashboard.page.evaluate("states")
    assert states[:2] == ["Live", "Reconnecting"]
    assert states[-1] == "Live"


def test_a_server_that_stops_is_named_as_the_reason_and_retry_now_waits_no_longer(
    page: Page, watched: Watched, serve: Serve
) -> None:
    # A reader comes back after a random part of the drain, a tenth at least: here 20 s.
    dashboard = Dashboard(page, serve("--log", "memory:", drain=200)).open()
    dashboard.server.stop()
    expect(dashboard.state).to_have_text("Reconnecting")
    expect(dashboard.part("note")).to_have_text(re.compile(r"^in \d{2,3} s\. The server is stopping"))
    dashboard.server.start()
    dashboard.part("retry").click()
    expect(dashboard.state).to_have_text("Live")


def test_a_deleted_log_is_told_in_a_banner(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.open()
    last = dashboard.server.publish("gap", "in a log that is deleted")
    expect(dashboard.part("last-id")).to_have_text(last)
    dashboard.server.kill()
    for file in tmp_path.glob("feed.db*"):
        file.unlink()
    dashboard.server.start()
    banner = dashboard.part("gap")
    expect(banner).to_contain_text("Events are gone", timeout=35_000)
    expect(banner).to_contain_text(last)
    banner.get_by_role("button", name="Dismiss").click()
    expect(banner).to_have_count(0)


def test_a_device_without_a_network_is_called_offline(dashboard: Dashboard) -> None:
    dashboard.open()
    dashboard.page.context.set_offline(True)
    dashboard.server.kill()
    expect(dashboard.state).to_have_text("Offline")
    dashboard.server.start()
    dashboard.server.publish("offline", "meanwhile")
    dashboard.page.context.set_offline(False)
    expect(dashboard.state).to_have_text("Live", timeout=35_000)
    dashboard.wait_for("offline", "meanwhile")


def test_a_proxy_that_answers_for_the_server_does_not_end_the_page(dashboard: Dashboard) -> None:
    dashboard.open("?transport=fetch")
    for status in (502, 404):
        dashboard.server.publish("proxy", f"before {status}")
        dashboard.wait_for("proxy", f"before {status}")
        dashboard.server.kill()
        answer = partial(Route.fulfill, status=status, body="<b>bad gateway</b>")
        dashboard.page.context.route(EVENTS_URL, lambda route, answer=answer: answer(route))
        expect(dashboard.state).to_have_text("Reconnecting")
        dashboard.server.start()
        dashboard.server.publish("proxy", f"after {status}")
        dashboard.page.context.unroute(EVENTS_URL)
        expect(dashboard.state).to_have_text("Live", timeout=35_000)
        dashboard.wait_for("proxy", f"after {status}")


def test_the_same_events_are_listed_over_each_transport(page: Page, watched: Watched, serve: Serve) -> None:
    dashboard = Dashboard(page, serve("--log", "memory:"))
    texts = ["plain", "two\nlines", "", " leading", "\U0001f600", "a\rb", "ends\n"]
    dashboard.publish_many("same/before", texts)
    dashboard.open()
    count = len(texts)
    for transport in ("websocket", "fetch", "eventsource"):
        dashboard.part("transport").select_option(transport)
        assert page.url.endswith("/" if transport == "eventsource" else f"/?transport={transport}")
        expect(dashboard.state).to_have_text("Live")
        expect(dashboard.part("count")).to_have_text(f"{count} kept")
        dashboard.publish_many(f"same/{transport}", texts)
        dashboard.server.publish(
            "same/json", '{"n": 123456789012345678901234567890}', **{"Content-Type": "application/json"}
        )
        count += len(texts) + 1
        expect(dashboard.part("count")).to_have_text(f"{count} kept")
        listed = [(row["id"], row["topic"], row["data"]) for row in dashboard.rows()]
        kept = dashboard.server.history("same/*")["events"]
        assert [row[0] for row in listed] == [event["id"] for event in kept]
        assert [row[2] for row in listed if row[1] != "same/json"] == [
            event["data"] for event in kept if event["topic"] != "same/json"
        ]
        assert listed[-1][2] == '{"n": 123456789012345678901234567890}'


def test_tabs_have_one_connection(dashboard: Dashboard) -> None:
    context = dashboard.page.context
    dashboard.open()
    tabs = [
        dashboard,
        *(Dashboard(context.new_page(), dashboard.server).open() for _ in range(2)),
    ]  # ten are in test_feed_js_shared
    listening = dashboard.server.http.get(f"{dashboard.server.url}/subscriptions").json()["subscriptions"]
    assert len(listening) == 1
    dashboard.server.publish("tabs", "for all")
    for tab in tabs:
        tab.page.bring_to_front()
        tab.wait_for("tabs", "for all")
    for tab in tabs[1:]:
        tab.page.close()
    dashboard.server.publish("tabs", "for the last")
    dashboard.page.bring_to_front()
    dashboard.wait_for("tabs", "for the last")


def test_the_last_event_id_is_copied_by_a_click_and_live_says_how_long_events_take(dashboard: Dashboard) -> None:
    dashboard.page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=dashboard.server.url)
    dashboard.open()
    last = dashboard.server.publish("id", "x")
    expect(dashboard.part("last-id")).to_have_text(last)
    dashboard.part("last-id").click()
    assert dashboard.clipboard() == last
    expect(dashboard.part("delay")).to_have_text(re.compile(r"^(< )?\d+(\.\d)? (ms|s)$"))


def test_without_a_token_the_page_asks_for_one_and_keeps_it_nowhere(keyed: Dashboard) -> None:
    keyed.open(state="Token needed")
    expect(keyed.part("token-box")).to_be_visible()
    bearer = token(subscribe=["**"], publish=["**"])
    sign_in(keyed, bearer)
    expect(keyed.state).to_have_text("Live")
    expect(keyed.part("token-box")).to_have_count(0)
    keyed.server.publish("kept/nowhere", "x", Authorization=f"Bearer {bearer}")
    keyed.wait_for("kept/nowhere", "x")
    stored = keyed.page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
    assert bearer not in stored
    assert bearer not in keyed.page.content()
    values = keyed.page.evaluate("Array.from(document.querySelectorAll('input, textarea'), (input) => input.value)")
    assert bearer not in values
    keyed.page.reload()
    expect(keyed.state).to_have_text("Live")


def test_forgetting_the_session_ends_what_the_other_tab_gets_too(keyed: Dashboard) -> None:
    keyed.open(state="Token needed")
    sign_in(keyed, token(subscribe=["**"]))
    expect(keyed.state).to_have_text("Live")
    other = Dashboard(keyed.page.context.new_page(), keyed.server).open()
    keyed.page.bring_to_front()
    keyed.part("token").click()
    keyed.part("sign-out").click()
    expect(keyed.state).to_have_text("Token needed")
    expect(other.state).to_have_text("Token needed")
    keyed.server.publish("secret", "x", Authorization=f"Bearer {token(publish=['**'])}")
    sign_in(keyed, token(subscribe=["public/**"]))
    expect(keyed.state).to_have_text("Live")
    expect(other.state).to_have_text("Token needed")
    assert other.data("secret") == keyed.data("secret") == []


def test_a_token_that_is_none_is_refused_in_the_servers_words_and_a_page_of_a_proxys_is_no_session(
    keyed: Dashboard,
) -> None:
    keyed.open(state="Token needed")
    sign_in(keyed, "no token")
    expect(keyed.part("token-error")).to_contain_text("401: ")
    expect(keyed.state).to_have_text("Token needed")
    keyed.page.route("**/session", lambda route: route.fulfill(content_type="text/html", body="<h1>sign in</h1>"))
    sign_in(keyed, token(subscribe=["**"]))
    expect(keyed.part("token-error")).to_have_text("200: The answer did not come from the feed.")
    expect(keyed.part("token-box")).to_be_visible()


def test_a_token_for_some_topics_shows_those_and_a_view_that_it_does_not_cover_is_called_not_allowed(
    keyed: Dashboard,
) -> None:
    keyed.open(state="Token needed")
    sign_in(keyed, token(subscribe=["orders/**"]))
    expect(keyed.state).to_have_text("Live")
    expect(keyed.part("patterns")).to_contain_text("orders/**")
    keyed.server.publish("orders/1", "x", Authorization=f"Bearer {token(publish=['**'])}")
    keyed.wait_for("orders/1", "x")
    keyed.open("?topic=news/*", state="Not allowed")
    expect(keyed.part("note")).to_contain_text("news/*")


def test_a_token_that_ends_is_said_to_have_expired_and_the_next_one_misses_nothing(keyed: Dashboard) -> None:
    publisher = token(publish=["**"])
    keyed.open(state="Token needed")
    sign_in(keyed, token(subscribe=["**"], seconds=4))
    expect(keyed.state).to_have_text("Live")
    keyed.server.publish("expiry", "before", Authorization=f"Bearer {publisher}")
    keyed.wait_for("expiry", "before")
    expect(keyed.state).to_have_text("Token expired", timeout=15_000)
    keyed.server.publish("expiry", "meanwhile", Authorization=f"Bearer {publisher}")
    expect(keyed.part("token-box")).to_be_visible()
    sign_in(keyed, token(subscribe=["**"]))
    expect(keyed.state).to_have_text("Live")
    keyed.wait_for("expiry", "meanwhile")
    assert keyed.data("expiry") == ["before", "meanwhile"]


def test_the_page_stays_below_the_path_it_was_opened_at(server: RunningServer, page: Page, watched: Watched) -> None:
    prefix = f"{server.url}/a/prefix/"

    def proxy(route: Route) -> None:
        route.fulfill(response=route.fetch(url=route.request.url.replace(prefix, f"{server.url}/")))

    page.add_init_script(
        "delete window.SharedWorker; delete window.BroadcastChannel"
    )  # whose requests no test can move
    page.route(f"{prefix}**", proxy)
    page.route(re.compile(r"/a/prefix/events\?"), lambda route: route.abort("connectionrefused"))
    page.goto(prefix)
    expect(page.get_by_test_id("state")).to_have_text("Reconnecting")
    expect(page.get_by_test_id("curl-publish")).to_contain_text(prefix)
    page.get_by_test_id("publish-open").click()
    page.get_by_test_id("topic").fill("prefixed")
    page.get_by_test_id("send").click()
    expect(page.get_by_test_id("answer")).to_contain_text("201")
    page.get_by_role("link", name="API").click()
    expect(page.locator(".opblock").first).to_be_visible()
    assert [url for url in watched.requests if not url.startswith((prefix, "data:"))] == []
