"""The page at `/docs`, in a real Chromium against a real server: what somebody sees who opens it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Error, Locator, Page, expect

from feed import Feed
from feed.testing import AppServer
from feed_server import create_app
from feed_server.settings import Settings
from tests.support.browser import MARKUP, Watched, findings
from tests.support.paths import DASHBOARD
from tests.support.proxies import nginx_in_front
from tests.support.running import RunningServer
from tests.support.streams import eventually

pytestmark = pytest.mark.browser

DARK, LIGHT = "rgb(20, 21, 19)", "rgb(247, 247, 245)"

POLICY = (
    "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types dompurify default"
)

# Swagger UI's summary of an operation is a button with a link in it.
KNOWN = {"nested-interactive": ".opblock-summary-control"}


def open_docs(page: Page, server: RunningServer | str) -> Locator:
    """Open it, and give all operations."""
    page.goto(f"{server if isinstance(server, str) else server.url}/docs")
    operations = page.locator(".opblock")
    expect(operations.filter(has_text="/events/{topic}").first).to_be_visible()
    return operations


def try_out(page: Page) -> Locator:
    """Unfold what publishes one event, ready to be filled in."""
    page.locator(".opblock-post .opblock-summary-control").first.click()
    operation = page.locator(".opblock.is-open")
    operation.get_by_role("button", name="Try it out").click()
    expect(operation.get_by_role("button", name="Execute")).to_be_visible()
    return operation


def show_schemas(page: Page) -> None:
    """Of whatever is unfolded."""
    schemas = ".tablinks[aria-selected=false]:text-is('Schema')"
    page.locator(schemas).evaluate_all("(tabs) => tabs.forEach((tab) => tab.click())")
    expect(page.locator(schemas)).to_have_count(0)


def ground(page: Page) -> str:
    """The colour behind everything."""
    found: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
    return found


def test_it_shows_every_route(server: RunningServer, page: Page, watched: Watched) -> None:
    operations = open_docs(page, server)
    paths = httpx.get(f"{server.url}/openapi.json").json()["paths"]
    assert operations.count() == sum(len(methods) for methods in paths.values())
    page.locator(".opblock-summary-control").evaluate_all("(all) => all.forEach((each) => each.click())")
    expect(page.locator(".opblock-body")).to_have_count(operations.count())


def test_an_event_can_be_published_from_it(server: RunningServer, page: Page, watched: Watched) -> None:
    open_docs(page, server)
    operation = try_out(page)
    operation.locator("tbody input").first.fill("from-docs")
    operation.get_by_label("Request body", exact=True).fill(f'"{MARKUP[:20]}"')
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text('"topic": "from-docs"')
    assert [event["data"] for event in server.history("from-docs")["events"]] == [MARKUP[:20]]


def test_it_keeps_a_policy_of_its_own(server: RunningServer) -> None:
    answer = server.http.get(f"{server.url}/docs")
    assert answer.headers["content-security-policy"] == POLICY


def test_only_words_are_let_through_as_markup(server: RunningServer, page: Page, watched: Watched) -> None:
    open_docs(page, server)
    write = "(markup) => { document.getElementById('docs').innerHTML = markup }"
    for markup in (MARKUP, "<a href=x>", "<p onclick=alert(1)>", "<p title='", "<", "</p >", "<svg>"):
        with pytest.raises(Error, match="default"):
            page.evaluate(write, markup)
        eventually(lambda: watched.faults)
        watched.violations.clear()
    page.evaluate(write, "<p>words, <code>1 &lt; 2</code><br></p>")
    expect(page.get_by_test_id("docs")).to_have_text("words, 1 < 2")


def test_axe_finds_nothing_serious(server: RunningServer, page: Page, watched: Watched) -> None:
    open_docs(page, server)
    operation = try_out(page)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_be_visible()
    show_schemas(page)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("Promise.allSettled(document.getAnimations().map(({ finished }) => finished))")
        assert findings(page, KNOWN) == [], scheme


def test_it_obeys_the_systems_scheme_unless_another_was_chosen_on_the_dashboard(
    server: RunningServer, page: Page, watched: Watched
) -> None:
    page.emulate_media(color_scheme="dark")
    open_docs(page, server)
    assert ground(page) == DARK
    page.emulate_media(color_scheme="light")
    assert ground(page) == LIGHT
    choose = "(theme) => localStorage.setItem('feed-theme', theme)"
    for theme, colour in (("dark", DARK), ("light", LIGHT), ("nonsense", LIGHT)):
        page.evaluate(choose, theme)
        page.reload()
        assert ground(page) == colour
    page.emulate_media(color_scheme="dark")
    page.evaluate(choose, "light")
    page.reload()
    assert ground(page) == LIGHT
    with page.context.expect_page() as opened:
        page.evaluate("window.open('healthz')")
    opened.value.evaluate(choose, "dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")  # without a reload
    assert ground(page) == DARK


def test_without_storage_it_is_shown_as_the_system_prefers(server: RunningServer, page: Page, watched: Watched) -> None:
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError') } })"
    )
    page.emulate_media(color_scheme="dark")
    open_docs(page, server)
    assert ground(page) == DARK


def test_a_chosen_scheme_is_there_at_the_first_paint(server: RunningServer, page: Page, watched: Watched) -> None:
    page.add_init_script("localStorage.setItem('feed-theme', 'dark')")
    page.route("**/swagger-ui-bundle.js", lambda _: None)  # it never comes
    page.goto(f"{server.url}/docs", wait_until="commit")
    expect(page.get_by_role("link", name="Dashboard")).to_be_visible()
    assert ground(page) == DARK


def test_nothing_scrolls_sideways(server: RunningServer, page: Page, watched: Watched) -> None:
    open_docs(page, server)
    operation = try_out(page)
    operation.locator("tbody input").first.fill("unbroken" * 15)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_be_visible()
    show_schemas(page)
    for width in (320, 375, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], f"{width} wide"


def test_it_leads_back_to_the_dashboard(server: RunningServer, page: Page, watched: Watched) -> None:
    open_docs(page, server)
    for name in ("Dashboard", "feed"):
        link = page.locator("header").get_by_role("link", name=name)
        assert link.evaluate("(link) => link.href") == f"{server.url}/"
    link.click()
    page.wait_for_url(f"{server.url}/")


@pytest.fixture(scope="module")
def prefixed(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An nginx that takes a path away: `/served`, of a server, which is not told; `/told`, of one that is; `/app`, of
    an application that has the server's mounted at `/feed`."""
    feed = Feed("memory:")
    host = FastAPI()
    host.mount("/feed", create_app(Settings(log="memory:"), feed))
    with AppServer(host, feed) as app:
        passed_on = (
            "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; "
            "proxy_set_header Connection upgrade; proxy_buffering off;"
        )
        locations = f"""
            location = /readyz {{ proxy_pass {server.url}; }}
            location /served/ {{ proxy_pass {server.url}/; {passed_on} }}
            location /told/ {{ proxy_pass {server.url}/; {passed_on} proxy_set_header X-Forwarded-Prefix /told/; }}
            location /app/ {{ proxy_pass {app.url}/; {passed_on} proxy_set_header X-Forwarded-Prefix /app; }}
        """
        with nginx_in_front(tmp_path_factory.mktemp("nginx"), locations) as url:
            yield url


@pytest.mark.parametrize("below", ["served", "app/feed"])
def test_below_a_path_that_a_proxy_takes_away_all_of_it_stays_there(
    prefixed: str, page: Page, watched: Watched, below: str
) -> None:
    place = f"{prefixed}/{below}"
    open_docs(page, place)
    operation = try_out(page)
    operation.locator("tbody input").first.fill(below)
    operation.get_by_label("Request body", exact=True).fill('{"n": 123456789012345678901234567890, "n": 1.10}')
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text(f'"topic": "{below}"')
    links = page.locator(".info a, nav a").evaluate_all("(links) => links.map(({ href }) => href)")
    assert links == [f"{place}/", f"{place}/asyncapi.json", f"{place}/openapi.json"]
    page.get_by_role("link", name="Dashboard").click()
    expect(page.get_by_test_id("state")).to_have_text("Live")
    published = page.get_by_test_id("event").filter(has_text=below).get_by_test_id("event-data")
    expect(published).to_have_text('{"n": 123456789012345678901234567890, "n": 1.10}')
    assert [url for url in watched.requests if not url.startswith((f"{place}/", "data:"))] == []


def test_the_documents_say_where_they_are_below_a_path_that_a_proxy_takes_away(prefixed: str) -> None:
    def servers(below: str, document: str, *said: str) -> object:
        headers = [("X-Forwarded-Prefix", each) for each in said]
        return httpx.get(f"{prefixed}/{below}/{document}", headers=headers).raise_for_status().json()["servers"]

    for below in ("served", "told", "app/feed"):
        assert servers(below, "openapi.json") == [{"url": "./"}], "beside the document, wherever that is"
    paths = {
        ("told", ()): "/told",
        ("app/feed", ()): "/app/feed",
        ("served", ()): "",  # nobody says it
        ("served", ("/served",)): "/served",
        ("served", ("/outer, /served/",)): "/outer/served",
        ("served", ("/outer", "/served")): "/outer/served",
        ("served", ("//evil.example",)): "",
        ("served", ("evil.example",)): "",
        ("served", ("/a?b",)): "",
        ("served", ("/",)): "",
        ("served", ("",)): "",
    }
    for (below, said), path in paths.items():
        described = servers(below, "asyncapi.json", *said)
        assert isinstance(described, dict)
        assert [each["pathname"] for each in described.values()] == [f"{path}/events", f"{path}/ws"], (below, said)


def test_a_path_that_a_proxy_takes_away_is_not_said_twice_where_the_server_was_told_of_it() -> None:
    feed = Feed("memory:")
    with AppServer(create_app(Settings(log="memory:"), feed), feed, root_path="/feed") as server:
        for headers in ({}, {"X-Forwarded-Prefix": "/feed"}):
            described = httpx.get(f"{server.url}/asyncapi.json", headers=headers).json()["servers"]
            assert described["http"]["pathname"] == "/feed/events"
            assert httpx.get(f"{server.url}/openapi.json", headers=headers).json()["servers"] == [{"url": "./"}]


def test_the_dark_colours_are_the_same_whether_chosen_or_preferred() -> None:
    text = (DASHBOARD / "tokens.css").read_text()
    colours = re.compile(r"--[a-z-]+: #[0-9a-f]+;")
    chosen = text.partition(':root[data-theme="dark"] {')[2].partition("}")[0]
    preferred = text.partition("@media (prefers-color-scheme: dark)")[2]
    light = text.partition(':root[data-theme="light"]')[0]
    assert colours.findall(chosen) == colours.findall(preferred)
    names = [[found.partition(":")[0] for found in colours.findall(block)] for block in (light, chosen)]
    assert names[0] == names[1], "no colour is without its dark one"
