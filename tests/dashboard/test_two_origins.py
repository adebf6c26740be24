"""Pages of other origins in a real Chromium (FAULTS.md, W5): what a foreign one cannot do, and what a listed one can.

Three pages ask: one on another port of the feed's host, which is the same site, so that its requests carry the user's
cookie; one of another site; and one in a sandbox, whose origin is `null`. What counts is what the server was asked and
answered, which goes through a proxy that keeps it: a page sees of all refusals the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Frame, Page, expect

from feed.fastapi.auth.grants import Grants
from feed_server.auth.tokens import issue
from tests.support.browser import chromium, watch
from tests.support.exchanges import Exchange, Exchanges, exchanges_with
from tests.support.other_origins import Pages, pages
from tests.support.running import RunningServer, running
from tests.support.streams import eventually

pytestmark = pytest.mark.browser

SECRET = "a secret of the tests that is long enough"
REBOUND = "evil.example"

SCRIPT = """
function asked(url, options) {
    const word = (response) => response.type === "opaque" ? "opaque" : response.status;
    return fetch(url, options).then(word, () => "refused");
}
function streamed(url, options) {
    return new Promise((resolve) => {
        const source = new EventSource(url, options);
        const end = (word) => { source.close(); resolve(word); };
        for (const type of ["message", "feed.open", "feed.live", "feed.closing"]) {
            source.addEventListener(type, () => end(type));
        }
        source.onerror = () => end(source.readyState === EventSource.CLOSED ? "refused" : "broken");
    });
}
function socketed(url) {
    return new Promise((resolve) => {
        const socket = new WebSocket(url);
        socket.onopen = () => { socket.send("by WebSocket"); resolve("open"); };
        socket.onclose = () => resolve("refused");
    });
}
function posted(url, enctype) {
    return new Promise((resolve) => {
        const element = (name, properties) => Object.assign(document.createElement(name), properties);
        const frame = element("iframe", {name: "answer"});
        const form = element("form", {method: "POST", action: url, enctype, target: "answer"});
        form.append(element("input", {name: '{"topic": "a", "data": "', value: '"}'}));
        document.body.append(frame, form);
        frame.onload = () => { frame.remove(); form.remove(); resolve("posted"); };
        form.submit();
    });
}
Object.assign(window, {asked, streamed, socketed, posted});
"""


foreign = pytest.fixture(scope="module", name="foreign")(pages)
listed = pytest.fixture(scope="module", name="listed")(pages)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium([REBOUND]) as running:
        yield running


@contextlib.contextmanager
def context_of(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as opened:
        opened.set_default_timeout(15_000)
        opened.add_init_script(SCRIPT)
        yield opened


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with context_of(browser) as opened:
        yield opened


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture(scope="module")
def keyed(listed: Pages) -> Iterator[RunningServer]:
    """A server with a key, for the pages of `listed`."""
    origins = f"{listed.same_site} {listed.other_site}"
    with running("--log", "memory:", jwt_secret=SECRET, origins=origins, retry=0.2) as server:
        yield server


@pytest.fixture
def feed(keyed: RunningServer) -> Iterator[Exchanges]:
    """The same, through a proxy that is the test's own."""
    with exchanges_with(keyed.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def open_feed(server: RunningServer) -> Iterator[Exchanges]:
    """A server on loopback without a key."""
    with exchanges_with(server.port) as proxy:
        yield proxy


def token(*, seconds: float = 600, **grants: Any) -> str:
    everything = {"publish": ["**"], "subscribe": ["**"], "admin": True, "subject": "somebody"}
    return issue(Grants(**{**everything, **grants}, expires=time.time() + seconds), SECRET, "HS256")


def begin_session(page: Page, feed: Exchanges, presented: str) -> None:
    """As a page of the feed's own, or of a listed origin."""
    headers = {"Authorization": f"Bearer {presented}"}
    options = {"method": "POST", "credentials": "include", "headers": headers}
    assert page.evaluate("([url, options]) => asked(url, options)", [f"{feed.url}/session", options]) == 204


def cookies(context: BrowserContext) -> dict[str, str]:
    return {cookie["name"]: cookie["value"] for cookie in context.cookies()}


def stored(feed: Exchanges) -> list[str]:
    """The data of everything that is in the log."""
    headers = {"Accept": "application/json", "Authorization": f"Bearer {token()}"}
    answer = feed.http.get(f"{feed.url}/events/**?limit=1000", headers=headers)
    assert answer.status_code == 200, answer.text
    return [event["data"] for event in answer.json()["events"]]


def publish(feed: Exchanges, topic: str, data: str) -> None:
    answer = feed.http.post(f"{feed.url}/events/{topic}", content=data, headers={"Authorization": f"Bearer {token()}"})
    assert answer.status_code == 201, answer.text


def statuses(exchanges: list[Exchange]) -> list[int | None]:
    return [each.status for each in exchanges]


# A foreign page.

PUBLISHES = {
    "text/plain": """(url) => asked(url + "/events/a", {method: "POST", credentials: "include", body: "x"})""",
    "no-cors": """(url) => asked(url + "/events/a",
        {method: "POST", mode: "no-cors", credentials: "include", body: "x"})""",
    "without cookies": """(url) => asked(url + "/events/a", {method: "POST", credentials: "omit", body: "x"})""",
    "json with a preflight": """(url) => asked(url + "/events", {method: "POST", credentials: "include",
        headers: {"Content-Type": "application/json"}, body: '{"topic": "a", "data": "x"}'})""",
    "a batch as text": """(url) => asked(url + "/events", {method: "POST", mode: "no-cors", credentials: "include",
        body: '[{"topic": "a", "data": "x"}]'})""",
    "without a referrer": """(url) => asked(url + "/events/a", {method: "POST", mode: "no-cors",
        credentials: "include", referrerPolicy: "no-referrer", body: "x"})""",
    "kept alive": """(url) => asked(url + "/events/a",
        {method: "POST", mode: "no-cors", credentials: "include", keepalive: true, body: "x"})""",
    "a beacon": """(url) => navigator.sendBeacon(url + "/events/a", "x")""",
    "a form": """(url) => posted(url + "/events/a", "application/x-www-form-urlencoded")""",
    "a form as text": """(url) => posted(url + "/events/a", "text/plain")""",
    "a form of a batch": """(url) => posted(url + "/events", "text/plain")""",
    "a form with parts": """(url) => posted(url + "/events/a", "multipart/form-data")""",
}

CHANGES = {
    "session": """(url) => asked(url + "/session", {method: "POST", mode: "no-cors", credentials: "include"})""",
    "session with a token": """(url) => asked(url + "/session", {method: "POST", credentials: "include",
        headers: {"Authorization": "Bearer x"}})""",
    "session by a form": """(url) => posted(url + "/session?token=x", "text/plain")""",
    "end of the session": """(url) => asked(url + "/session", {method: "DELETE", credentials: "include"})""",
    "kick": """(url) => asked(url + "/subscriptions/x", {method: "DELETE", credentials: "include"})""",
    "an overridden method": """(url) => posted(url + "/session?_method=DELETE", "application/x-www-form-urlencoded")""",
    "websocket": """(url) => socketed(url.replace("http", "ws") + "/ws/a")""",
    "websocket to all": """(url) => socketed(url.replace("http", "ws") + "/ws?topic=**")""",
}

READS = [
    "/",
    "/docs",
    "/openapi.json",
    "/healthz",
    "/metrics",
    "/subscriptions",
    "/events/a",
    "/events/**?last_event_id=earliest",
    "/events/a?wait=1",
]


PROBE = "/healthz"
"""What is answered whatever the name that was asked: probes know of none, and it says nothing."""


class Attack(NamedTuple):
    """A foreign page, in the browser of somebody who may use the feed: by a cookie, where there is a key."""

    page: Frame
    feed: Exchanges
    context: BrowserContext


@pytest.fixture(scope="module", params=["same site", "other site", "sandbox"])
def asking(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["with a key", "without a key"])
def attack(
    request: pytest.FixtureRequest,
    browser: Browser,
    foreign: Pages,
    keyed: RunningServer,
    open_feed: Exchanges,
    asking: str,
) -> Iterator[Attack]:
    with context_of(browser) as context, exchanges_with(keyed.port) as keyed_feed:
        page = context.new_page()
        feed = open_feed
        if request.param == "with a key":
            feed = keyed_feed
            page.goto(f"{feed.url}/healthz")
            begin_session(page, feed, token())
            assert cookies(context).keys() == {"feed_token"}
        page.goto(
            {"other site": foreign.other_site, "sandbox": f"{foreign.same_site}/framed"}.get(asking, foreign.same_site)
        )
        frame = page.frames[-1]
        assert (frame.evaluate("origin") == "null") is (asking == "sandbox")
        yield Attack(frame, feed, context)


def test_w5_a_foreign_page_cannot_publish(attack: Attack) -> None:
    before = stored(attack.feed)
    for attempt, script in PUBLISHES.items():
        asked = len(attack.feed.all)
        outcome = attack.page.evaluate(script, attack.feed.url)
        refused = eventually(lambda: [each for each in attack.feed.all[asked:] if each.status])
        assert outcome in {"refused", "opaque", "posted", True}, attempt
        assert [(each.method, each.status) for each in refused] == [
            ("OPTIONS" if attempt == "json with a preflight" else "POST", 403)
        ], attempt
    assert stored(attack.feed) == before


def test_the_users_cookie_goes_along_with_what_a_page_of_the_same_site_asks(attack: Attack, asking: str) -> None:
    # So none of the rest is refused merely as there was no token.
    attack.page.evaluate(PUBLISHES["no-cors"], attack.feed.url)
    sent = attack.feed.of("POST")[-1].headers.get("cookie", "")
    assert ("feed_token" in sent) is (asking == "same site" and bool(cookies(attack.context)))


def test_w5_a_foreign_page_cannot_change_anything(attack: Attack) -> None:
    before = stored(attack.feed), cookies(attack.context)
    for attempt, script in CHANGES.items():
        asked = len(attack.feed.all)
        outcome = attack.page.evaluate(script, attack.feed.url)
        refused = eventually(lambda: [each for each in attack.feed.all[asked:] if each.status])
        assert outcome in {"refused", "opaque", "posted"}, attempt
        assert {each.status for each in refused} == {403}, attempt
        assert cookies(attack.context) == before[1], attempt
    assert stored(attack.feed) == before[0]


def test_w5_a_foreign_page_can_read_nothing(attack: Attack) -> None:
    publish(attack.feed, "a", "secret")
    for path in READS:
        for credentials in ("include", "omit"):
            options = {"credentials": credentials, "headers": {"Accept": "application/json"}}
            outcome = attack.page.evaluate("([url, options]) => asked(url, options)", [attack.feed.url + path, options])
            assert outcome == "refused", (path, credentials)
    for header in ("Authorization", "Last-Event-ID", "Idempotency-Key", "X-Requested-With"):
        options = {"headers": {header: "x"}}
        path = "/events/a"
        assert (
            attack.page.evaluate("([url, options]) => asked(url, options)", [attack.feed.url + path, options])
            == "refused"
        )
    assert set(statuses(attack.feed.of("OPTIONS"))) <= {403}


@pytest.mark.parametrize("with_credentials", [True, False])
def test_w5_a_foreign_page_cannot_read_the_stream(attack: Attack, with_credentials: bool) -> None:
    publish(attack.feed, "a", "secret")
    for path in ("/events/a?last=10", "/events/**?last_event_id=earliest", "/events/a?envelope=1&token=x"):
        outcome = attack.page.evaluate(
            "([url, withCredentials]) => streamed(url, {withCredentials})", [attack.feed.url + path, with_credentials]
        )
        assert outcome == "refused", path


def test_w5_what_a_foreign_page_loads_as_a_script_is_none(attack: Attack) -> None:
    publish(attack.feed, "a", "alert(1)")
    for path in READS:
        loaded = """(url) => new Promise((resolve) => {
            const script = Object.assign(document.createElement("script"), {src: url});
            script.onload = () => resolve("loaded");
            script.onerror = () => resolve("refused");
            document.head.append(script);
        })"""
        assert attack.page.evaluate(loaded, attack.feed.url + path) == "refused", path


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_w5_a_foreign_page_cannot_frame_ours(page: Page, foreign: Pages, open_feed: Exchanges, path: str) -> None:
    page.goto(foreign.same_site)
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.evaluate(
            "(url) => document.body.append(Object.assign(document.createElement('iframe'), {src: url}))",
            open_feed.url + path,
        )


# A name of the attacker's, bound anew to this machine.


def test_w5_a_rebound_name_shows_nothing(page: Page, open_feed: Exchanges) -> None:
    for path in ("/", "/docs", "/events/a", "/metrics", "/assets/app.js"):
        answer = page.goto(f"http://{REBOUND}:{open_feed.port}{path}")
        assert answer is not None
        assert answer.status == 403, path


def test_w5_the_scripts_of_a_rebound_name_can_do_nothing(page: Page, open_feed: Exchanges) -> None:
    publish(open_feed, "a", "secret")
    before = stored(open_feed)
    rebound = f"http://{REBOUND}:{open_feed.port}"
    page.goto(rebound)
    assert page.evaluate("origin") == rebound
    asked = len(open_feed.all)
    # To the browser they are requests to the page's own server: it reads the answers, so these have to be refusals.
    for path in READS:
        allowed = 200 if path == PROBE else 403
        seen = page.evaluate("(url) => asked(url, {headers: {Accept: 'application/json'}})", rebound + path)
        assert seen == allowed, path
    assert page.evaluate("(url) => streamed(url)", f"{rebound}/events/a?last=10") == "refused"
    for attempt, script in {**PUBLISHES, **CHANGES}.items():
        assert page.evaluate(script, rebound) in {403, "refused", "posted", True}, attempt
    eventually(lambda: all(open_feed.all[asked:]))
    assert set(statuses([each for each in open_feed.all[asked:] if each.target != PROBE])) == {403}
    # From there to the real name it is a foreign page like any other.
    assert page.evaluate(PUBLISHES["text/plain"], open_feed.url) == "refused"
    assert page.evaluate("(url) => streamed(url)", f"{open_feed.url}/events/a?last=10") == "refused"
    assert stored(open_feed) == before


# A listed page.

FOLLOW = """(url) => new Promise((resolve) => {
    window.received = [];
    window.told = [];
    window.source = new EventSource(url, {withCredentials: true});
    source.onmessage = (event) => received.push(event.data);
    source.addEventListener("feed.open", () => { told.push("open"); resolve(); });
    source.addEventListener("feed.gap", () => told.push("gap"));
    source.addEventListener("feed.closing", (event) => told.push(JSON.parse(event.data).reason));
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) { told.push("closed"); resolve(); } };
})"""


@pytest.fixture
def ours(page: Page, listed: Pages) -> Page:
    """A listed page of the same site."""
    page.goto(listed.same_site)
    return page


def test_a_listed_page_begins_a_session_and_uses_the_feed_with_its_cookie(
    context: BrowserContext, ours: Page, feed: Exchanges
) -> None:
    url = f"{feed.url}/events/listed"
    assert ours.evaluate("(url) => asked(url, {credentials: 'include'})", url) == 401
    begin_session(ours, feed, token())
    [preflight], [began] = feed.of("OPTIONS"), feed.of("POST", "/session")
    assert (preflight.status, began.status) == (204, 204)

    ours.evaluate(FOLLOW, url)
    options = {"method": "POST", "credentials": "include", "body": "by fetch"}
    assert ours.evaluate("([url, options]) => asked(url, options)", [url, options]) == 201
    assert ours.evaluate("(url) => socketed(url)", f"ws{feed.url[4:]}/ws/listed") == "open"
    ours.wait_for_function("received.length >= 2")
    assert ours.evaluate("received") == ["by fetch", "by WebSocket"]
    assert [each.status for each in feed.of("GET", "/ws/")] == [101]
    assert all("authorization" not in each.headers for each in feed.all if each is not began)


def test_the_cookie_is_kept_from_scripts_and_from_other_sites(
    context: BrowserContext, ours: Page, feed: Exchanges
) -> None:
    presented = token(seconds=600)
    begin_session(ours, feed, presented)
    [cookie] = context.cookies()
    assert (cookie["name"], cookie["value"]) == ("feed_token", presented)
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/")
    assert cookie["expires"] == pytest.approx(time.time() + 600, abs=10)
    assert ours.evaluate("document.cookie") == ""
    own = context.new_page()
    own.goto(f"{feed.url}/healthz")
    assert own.evaluate("document.cookie") == ""


def test_the_session_lasts_over_a_reload_and_until_it_is_ended(
    context: BrowserContext, ours: Page, feed: Exchanges
) -> None:
    url = f"{feed.url}/events/reload"
    begin_session(ours, feed, token())
    ours.reload()
    ours.evaluate(FOLLOW, url)
    assert ours.evaluate("told") == ["open"]
    ended = ours.evaluate("(url) => asked(url, {method: 'DELETE', credentials: 'include'})", f"{feed.url}/session")
    assert ended == 204
    assert context.cookies() == []
    assert ours.evaluate("(url) => asked(url, {credentials: 'include'})", url) == 401
    assert ours.evaluate("(url) => streamed(url, {withCredentials: true})", url) == "refused"


def test_a_listed_page_reconnects_with_its_last_event_id_and_misses_nothing(ours: Page, feed: Exchanges) -> None:
    begin_session(ours, feed, token())
    ours.evaluate(FOLLOW, f"{feed.url}/events/cut")
    expected = []
    for turn in range(3):
        for number in range(5):
            expected.append(f"{turn}.{number}")
            publish(feed, "cut", expected[-1])
            if number == 2:
                ours.wait_for_function("(count) => received.length >= count", arg=len(expected))
                feed.cut()
        ours.wait_for_function("(count) => received.length >= count", arg=len(expected))
    publish(feed, "cut", "end")
    ours.wait_for_function("received.includes('end')")
    assert ours.evaluate("received") == [*expected, "end"]
    assert set(ours.evaluate("told")) == {"open"}
    first, *again = feed.of("GET", "/events/cut")
    assert len(again) >= 3
    assert "last-event-id" not in first.headers
    assert all(each.headers["last-event-id"] and "feed_token" in each.headers["cookie"] for each in again)
    assert {(each.status, each.headers["origin"]) for each in again} == {(200, first.headers["origin"])}
    # An id with other characters would make each of them ask for permission first.
    assert [each.target for each in feed.of("OPTIONS")] == ["/session"]


def test_a_listed_page_of_another_site_has_no_cookie_but_may_send_a_token(
    context: BrowserContext, page: Page, listed: Pages, feed: Exchanges
) -> None:
    page.goto(listed.other_site)
    begin_session(page, feed, token())
    url = f"{feed.url}/events/across"
    assert page.evaluate("(url) => asked(url, {credentials: 'include'})", url) == 401
    headers = {"Authorization": f"Bearer {token()}"}
    options = {"method": "POST", "headers": headers, "body": "x"}
    assert page.evaluate("([url, options]) => asked(url, options)", [url, options]) == 201
    assert page.evaluate("(url) => streamed(url)", f"{url}?last=1&token={token()}") == "feed.open"
    assert page.evaluate("(url) => socketed(url)", f"ws{feed.url[4:]}/ws/across?token={token()}") == "open"


def test_w7_a_token_that_ends_ends_what_a_browser_has_open(ours: Page, feed: Exchanges) -> None:
    short = token(seconds=2)
    begin_session(ours, feed, short)
    ours.evaluate(FOLLOW, f"{feed.url}/events/w7?token={short}")
    ours.evaluate(
        """(url) => { new WebSocket(url).onclose = (event) => { window.code = event.code; }; }""",
        f"ws{feed.url[4:]}/ws/w7",
    )
    ours.wait_for_function("told.includes('closed') && window.code")
    assert ours.evaluate("told") == ["open", "token-expired", "closed"]
    assert ours.evaluate("code") == 1008
    assert statuses(feed.of("GET", "/events/w7")) == [200, 401]
    assert ours.evaluate("(url) => asked(url, {credentials: 'include'})", f"{feed.url}/events/w7") == 401


# The feed's own pages.


def complaints(page: Page) -> list[str]:
    """What the console of this page says from now on, and is no mere word."""
    found: list[str] = []

    def keep(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            found.append(message.text)

    page.on("console", keep)
    return found


def test_the_own_page_of_a_server_with_a_key_shows_events_once_there_is_a_session(page: Page, feed: Exchanges) -> None:
    watched = watch(page)
    page.goto(f"{feed.url}/")
    expect(page.get_by_test_id("state")).to_have_text("Token needed")
    assert set(statuses(feed.of("GET", "/events"))) == {401}
    begin_session(page, feed, token())
    page.reload()
    expect(page.get_by_test_id("state")).to_have_text("Live")
    publish(feed, "own", "shown to whoever may see it")
    expect(page.get_by_test_id("event-data").get_by_text("shown to whoever may see it")).to_be_visible()
    assert watched.faults == []


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_own_pages_keep_their_policy_without_a_word_in_the_console(
    page: Page, open_feed: Exchanges, path: str
) -> None:
    watched, said = watch(page), complaints(page)
    page.goto(f"{open_feed.url}{path}")
    if path == "/":
        expect(page.get_by_test_id("state")).to_have_text("Live")
        publish(open_feed, "policy", "<b>shown</b>")
        expect(page.get_by_test_id("event-data").get_by_text("<b>shown</b>")).to_be_visible()
    else:
        page.locator(".opblock-post .opblock-summary-control").first.click()
        page.get_by_role("button", name="Try it out").click()
        expect(page.get_by_role("button", name="Execute")).to_be_visible()
    assert watched.faults == []
    assert said == []
