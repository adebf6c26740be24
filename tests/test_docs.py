"""The page at `/docs`, in a real Chromium against a real server: what somebody sees who opens it."""

from __future__ import annotations

import re

import httpx
import pytest
from playwright.sync_api import Error, Locator, Page, expect

from tests.browser import Watched, findings
from tests.running import RunningServer
from tests.streams import eventually
from tests.test_page import DASHBOARD, MARKUP, POLICY

pytestmark = pytest.mark.browser

DARK, LIGHT = "rgb(20, 21, 19)", "rgb(247, 247, 245)"

# Swagger UI's summary of an operation is a button with a link in it.
KNOWN = {"nested-interactive": ".opblock-summary-control"}


def open_docs(page: Page, server: RunningServer) -> Locator:
    """Open it, and give all operations."""
    page.goto(f"{server.url}/docs")
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


def test_it_keeps_a_policy_of_its_own(server: RunningServer, page: Page, watched: Watched) -> None:
    answer = server.http.get(f"{server.url}/docs")
    base = POLICY.partition("; require-trusted-types-for")[0]
    own = f"{base}; require-trusted-types-for 'script'; trusted-types dompurify default"
    assert answer.headers["content-security-policy"] == own
    open_docs(page, server)
    try_out(page)
    assert watched.faults == []


@pytest.mark.parametrize("markup", [MARKUP, "<a href=x>", "<p onclick=alert(1)>", "<p title='", "<", "</p >", "<svg>"])
def test_only_words_are_let_through_as_markup(server: RunningServer, page: Page, watched: Watched, markup: str) -> None:
    open_docs(page, server)
    write = "(markup) => { document.getElementById('docs').innerHTML = markup }"
    with pytest.raises(Error, match="default"):
        page.evaluate(write, markup)
    eventually(lambda: watched.faults)
    watched.violations.clear()
    page.evaluate(write, "<p>words, <code>1 &lt; 2</code><br></p>")
    expect(page.get_by_test_id("docs")).to_have_text("words, 1 < 2")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(server: RunningServer, page: Page, watched: Watched, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    open_docs(page, server)
    assert findings(page, KNOWN) == []
    operation = try_out(page)
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_be_visible()
    show_schemas(page)
    assert findings(page, KNOWN) == []


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
        page.evaluate("window.open('docs')")
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
    for width in (320, 375, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        open_docs(page, server)
        operation = try_out(page)
        operation.locator("tbody input").first.fill("unbroken" * 15)
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table")).to_be_visible()
        show_schemas(page)
        sizes = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert sizes[0] <= sizes[1], f"{width} wide"


def test_it_leads_back_to_the_dashboard(server: RunningServer, page: Page, watched: Watched) -> None:
    for name in ("Dashboard", "feed"):
        open_docs(page, server)
        page.locator("header").get_by_role("link", name=name).click()
        page.wait_for_url(f"{server.url}/")


def test_the_dark_colours_are_the_same_whether_chosen_or_preferred() -> None:
    text = (DASHBOARD / "tokens.css").read_text()
    colours = re.compile(r"--[a-z-]+: #[0-9a-f]+;")
    chosen = text.partition(':root[data-theme="dark"] {')[2].partition("}")[0]
    preferred = text.partition("@media (prefers-color-scheme: dark)")[2]
    light = text.partition(':root[data-theme="light"]')[0]
    assert colours.findall(chosen) == colours.findall(preferred)
    names = [[found.partition(":")[0] for found in colours.findall(block)] for block in (light, chosen)]
    assert names[0] == names[1], "no colour is without its dark one"
