"""`feed.js` in several tabs: one connection for all, and each tab sees every event once and in order."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext

from tests.conftest import Serve
from tests.support.other_origins import Pages, pages
from tests.support.proxy import proxy_to
from tests.support.running import RunningServer
from tests.support.streams import eventually
from tests.support.tabs import OpenTab, Tab, Tabs, open_tab, shelf, subscriptions
from tests.support.tokens import SECRET, bearer, token

pytestmark = pytest.mark.browser

TRANSPORT = re.compile(rb"Accept: (text)/event-stream|(?:Upgrade: )(websocket)")
by_each = pytest.mark.parametrize("way", ["worker", "elected"])

other_pages = pytest.fixture(scope="module", name="other_pages")(pages)


shelf = pytest.fixture(scope="module", name="shelf")(shelf)
open_tab = pytest.fixture(name="open_tab")(open_tab)


@pytest.fixture
def server(server: RunningServer) -> RunningServer:
    """The module's, when nobody of the tests before is subscribed to it any more."""
    eventually(lambda: subscriptions(server) == 0)
    return server


@contextlib.contextmanager
def tabs_of(context: BrowserContext) -> Iterator[OpenTab]:
    """Tabs of a browser that is the test's own."""
    with context, Tabs(context).of_a_test() as opened:
        yield opened


class Flow:
    """Publishes numbers, a hundred or so batches a second, until it is stopped."""

    def __init__(self, server: RunningServer, topic: str, *, batch: int = 10) -> None:
        self.count = 0
        self._server, self._topic, self._batch = server, topic, batch
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with httpx.Client(verify=False) as http:
            while not self._stopping.is_set():
                numbers = range(self.count, self.count + self._batch)
                batch = [{"topic": self._topic, "data": str(number)} for number in numbers]
                assert http.post(f"{self._server.url}/events", json=batch).status_code == 201
                self.count += self._batch
                time.sleep(0.01)

    @property
    def texts(self) -> list[str]:
        """All that was published so far."""
        return [str(number) for number in range(self.count)]

    def past(self, more: int) -> None:
        """Wait until so many more have been published."""
        goal = self.count + more
        eventually(lambda: self.count >= goal)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def start(self) -> Flow:
        self._thread.start()
        return self


@contextlib.contextmanager
def flowing(server: RunningServer, topic: str, *, batch: int = 10) -> Iterator[Flow]:
    flow = Flow(server, topic, batch=batch).start()
    try:
        yield flow
    finally:
        flow.stop()


@pytest.mark.parametrize(("way", "count"), [("worker", 10), ("elected", 3)])
def test_ten_tabs_have_one_connection_and_none_is_left_after_them(
    server: RunningServer, open_tab: OpenTab, way: str, count: int
) -> None:
    tabs = [open_tab(server) for _ in range(count)]
    for transport in ("eventsource", "websocket", "fetch"):
        for tab in tabs:
            tab.connect(transport=transport)
        for tab in tabs:
            tab.live()
        eventually(lambda: subscriptions(server) <= 1)  # the one before has gone
        server.publish("shared", transport)
        for tab in tabs:
            tab.wait_for(transport)
        assert subscriptions(server) == 1
    for tab in tabs:
        tab.page.close()
    eventually(lambda: subscriptions(server) == 0)


@by_each
def test_tabs_that_ask_for_something_else_have_a_connection_of_their_own(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    asked: list[dict[str, Any]] = [
        {"topics": ["a", "b"], "types": ["x", "y"]},
        {"topics": ["b", "a"], "types": ["y", "x"]},
        {"topics": ["a"], "types": ["x", "y"]},
        {"topics": ["a", "b"], "types": ["x", "y"], "transport": "fetch"},
        {"topics": ["a", "b"], "types": ["x", "y"], "shared": False},
    ]
    for options in asked:
        open_tab(server).connect(**options).live()
    assert subscriptions(server) == 4


@by_each
def test_the_tab_that_leaves_takes_nothing_from_the_others(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    tabs = [open_tab(server).connect().live() for _ in range(4)]
    with flowing(server, "leaving") as flow:
        for leaving in tabs[:2]:
            flow.past(100)
            leaving.page.close()
        flow.past(200)
    for tab in tabs[2:]:
        tab.wait_for(*flow.texts)
        assert tab.all("gap") == []
    assert subscriptions(server) == 1


@by_each
def test_tabs_that_join_while_events_flow_get_each_once_and_in_order(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    topic = f"flow/{way}"
    open_tab(server).connect(topics=[topic]).live()
    tabs: list[Tab] = []
    with flowing(server, topic, batch=50) as flow:
        flow.past(3_000)
        tabs.append(open_tab(server).connect(topics=[topic], after="earliest"))
        tabs.append(open_tab(server).connect(topics=[topic], last=700))
        fifth = server.history(topic, limit=5)["next"]
        tabs.append(open_tab(server).connect(topics=[topic], after=fifth))
        tabs.append(open_tab(server).connect(topics=[topic]))
        for tab in tabs:
            tab.live()
        flow.past(1_000)
    expected = flow.texts
    tabs[0].wait_for(*expected)
    tabs[2].wait_for(*expected[5:])
    for tab in (tabs[1], tabs[3]):
        eventually(lambda: tab.page.evaluate("got.at(-1)?.text") == expected[-1])
        got = tab.texts
        assert got == expected[-len(got) :]
    assert len(tabs[1].texts) >= 1_700
    assert tabs[3].page.evaluate("batches") < len(tabs[3].texts) / 4
    assert tabs[0].state["resumed"]["after"] == "earliest"
    assert tabs[3].state["resumed"] is None
    assert subscriptions(server) == 1


@contextlib.contextmanager
def stopped(tab: Tab, server: RunningServer) -> Iterator[None]:
    """Nothing runs on this tab meanwhile: it waits for an answer, without a processor."""
    tab.page.evaluate(
        """() => setTimeout(() => {
            const request = new XMLHttpRequest();
            request.open("GET", "/events/gate?wait=60&last_event_id=" + feed.lastEventId, false);
            request.setRequestHeader("Accept", "application/json");
            request.send();
        })"""
    )
    try:
        yield
    finally:
        server.publish("gate")


def test_a_tab_that_cannot_keep_up_reads_on_from_the_log(server: RunningServer, open_tab: OpenTab) -> None:
    slow, quick = (open_tab(server).connect(topics=["much"]).live() for _ in range(2))
    with stopped(slow, server):
        total = 0
        for _ in range(3):  # more than the hub lets be under way to one tab
            batch = [{"topic": "much", "data": str(number)} for number in range(total, total + 9_000)]
            assert server.http.post(f"{server.url}/events", json=batch).status_code == 201
            total += 9_000
        eventually(lambda: quick.page.evaluate("got.length") == total, 30)
    expected = [str(number) for number in range(total)]
    for tab in (quick, slow):
        tab.wait_for(*expected, seconds=30)
    assert "replaying" in slow.states
    assert quick.all("gap") == slow.all("gap") == []


def test_more_than_may_wait_while_pages_are_read_is_read_from_pages_too(
    server: RunningServer, open_tab: OpenTab
) -> None:
    open_tab(server).connect(topics=["held"]).live()
    server.publish("held", "first")
    tab = open_tab(server)
    tab.page.evaluate(
        """() => {
            const fetched = window.fetch;
            const opened = new Promise((resolve) => { window.open_gate = resolve; });
            window.held = 0;
            window.fetch = (...request) => { held += 1; return opened.then(() => fetched(...request)); };
        }"""
    )
    tab.connect(topics=["held"], after="earliest")
    eventually(lambda: tab.page.evaluate("held") == 1)
    total = 0
    for _ in range(3):
        batch = [{"topic": "held", "data": str(number)} for number in range(total, total + 9_000)]
        assert server.http.post(f"{server.url}/events", json=batch).status_code == 201
        total += 9_000
    eventually(lambda: tab.page.evaluate("new Promise((resolve) => setTimeout(() => resolve(true)))"))
    tab.page.evaluate("open_gate()")
    tab.wait_for("first", *[str(number) for number in range(total)], seconds=30)


# Where sharing meets trouble.


@pytest.mark.parametrize("way", ["alone"])
def test_without_anything_to_share_with_each_tab_has_its_own(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    tabs = [open_tab(server).connect().live() for _ in range(2)]
    assert subscriptions(server) == 2
    server.publish("alone", "x")
    for tab in tabs:
        tab.wait_for("x")


@pytest.mark.parametrize(
    "worker",
    [
        "class { constructor() { throw new TypeError('refused'); } }",
        "class extends EventTarget { port = new MessageChannel().port1; constructor() { super(); "
        "setTimeout(() => this.onerror(new Event('error', { cancelable: true })), 10); } }",
        "class extends EventTarget { port = new MessageChannel().port1; }",
    ],
    ids=["refused", "failing", "silent"],
)
def test_a_worker_that_cannot_be_had_is_done_without(server: RunningServer, browser: Browser, worker: str) -> None:
    context = browser.new_context()
    context.add_init_script(f"window.SharedWorker = {worker}")
    with tabs_of(context) as open_tab:
        tabs = [open_tab(server).connect() for _ in range(2)]
        for tab in tabs:
            tab.live()
        server.publish("without", "x")
        for tab in tabs:
            tab.wait_for("x")
        assert subscriptions(server) == 1


def test_a_worker_that_dies_is_replaced_and_nothing_is_missed(
    server: RunningServer, browser: Browser, open_tab: OpenTab
) -> None:
    tabs = [open_tab(server).connect().live() for _ in range(2)]
    server.publish("dies", "before")
    for tab in tabs:
        tab.wait_for("before")
    session = browser.new_browser_cdp_session()
    targets = session.send("Target.getTargets", {"filter": [{"type": "shared_worker"}]})["targetInfos"]
    [target] = [target for target in targets if target["url"].startswith(server.url)]
    session.send("Target.closeTarget", {"targetId": target["targetId"]})
    server.publish("dies", "meanwhile")
    for tab in tabs:
        tab.wait_for("before", "meanwhile")
        tab.live()
    server.publish("dies", "after")
    for tab in tabs:
        tab.wait_for("before", "meanwhile", "after")
    assert subscriptions(server) == 1


@pytest.mark.parametrize("way", ["elected"])
def test_a_leader_that_the_browser_has_stopped_is_replaced(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    leader = open_tab(server).connect(topics=["stopped"]).live()
    tab = open_tab(server).connect(topics=["stopped"], quiet=0.5).live()
    with stopped(leader, server):
        server.publish("stopped", "x")
        tab.wait_for("x", seconds=30)
    leader.wait_for("x")
    leader.live()
    eventually(lambda: subscriptions(server) == 1)


@by_each
def test_a_tab_that_is_put_aside_leaves_and_comes_back_to_all_that_it_has_missed(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    tabs = [open_tab(server).connect().live() for _ in range(2)]
    server.publish("aside", "1")
    for tab in tabs:
        tab.wait_for("1")
    away, other = tabs  # where there is a leader, it is this one that goes
    away.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    server.publish("aside", "2")
    other.wait_for("1", "2")
    assert away.texts == ["1"]
    away.page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true }))")
    away.wait_for("1", "2")
    away.live()
    server.publish("aside", "3")
    for tab in tabs:
        tab.wait_for("1", "2", "3")
    assert subscriptions(server) == 1
    for tab in tabs:
        tab.page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', { persisted: true }))")
    eventually(lambda: subscriptions(server) == 0)


@by_each
def test_a_frozen_tab_comes_back_to_all_that_it_has_missed(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    tabs = [open_tab(server).connect().live() for _ in range(2)]
    frozen, other = tabs
    session = frozen.page.context.new_cdp_session(frozen.page)
    session.send("Page.setWebLifecycleState", {"state": "frozen"})
    server.publish("frozen", "1")
    other.wait_for("1")
    session.send("Page.setWebLifecycleState", {"state": "active"})
    frozen.wait_for("1")
    server.publish("frozen", "2")
    for tab in tabs:
        tab.wait_for("1", "2")


@by_each
def test_retry_in_one_tab_is_for_all(serve: Serve, open_tab: OpenTab, way: str) -> None:
    server = serve("--log", "memory:", drain=30)
    tabs = [open_tab(server).connect().live() for _ in range(2)]
    server.stop()
    for tab in tabs:
        tab.until("waiting")
    assert tabs[0].state == tabs[1].state
    server.start()
    tabs[1].page.evaluate("feed.retry()")
    for tab in tabs:
        tab.live()


@by_each
def test_a_new_tab_asks_again_where_the_others_were_refused(serve: Serve, open_tab: OpenTab, way: str) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    first = open_tab(server).connect().until("refused")
    second = open_tab(server)
    status = second.page.evaluate(
        """(token) => fetch("/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } })
            .then(({ status }) => status)""",
        token(subscribe=["**"]),
    )
    assert status == 204
    second.connect().live()
    first.live()
    httpx.post(f"{server.url}/events/a", content="x", headers=bearer(token(publish=["**"])))
    for tab in (first, second):
        tab.wait_for("x")


# Connections that are not what they seem.


def test_a_stream_that_has_gone_silent_is_found_out_and_resumed(server: RunningServer, open_tab: OpenTab) -> None:
    with proxy_to(server.port, TRANSPORT) as proxy:
        tab = open_tab(f"http://127.0.0.1:{proxy.port}/healthz")
        for transport in ("eventsource", "websocket", "fetch"):
            tab.connect(transport=transport, quiet=0.5).live()
            server.publish("silent", "1")
            tab.wait_for("1")
            for purpose in ("text", "websocket"):
                proxy.stall(purpose=purpose, new=False)
            server.publish("silent", "2")
            tab.wait_for("1", "2")
            tab.live()
            assert "waiting" not in tab.states, transport


def test_a_quiet_stream_is_left_as_it_is(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server)
    tab.connect(shared=False, quiet=0.2).live()
    asked = len(tab.watched.requests)
    eventually(lambda: tab.page.evaluate("1") and len(tab.watched.requests) >= asked + 3)
    assert "after=" in tab.watched.requests[-1]
    assert tab.states == ["live"]


@pytest.mark.parametrize("way", ["elected", "alone"])
def test_without_a_network_it_is_offline_and_then_resumes(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    tab = open_tab(server).connect().live()
    context = tab.page.context
    server.publish("offline", "1")
    tab.wait_for("1")
    context.set_offline(True)
    tab.until("offline")
    assert tab.state == {"name": "offline"}
    server.publish("offline", "2")
    context.set_offline(False)
    tab.wait_for("1", "2")
    tab.live()


def test_a_page_of_another_origin_imports_it_and_its_tabs_share_a_connection(
    serve: Serve, open_tab: OpenTab, other_pages: Pages
) -> None:
    server = serve("--log", "memory:", origins=other_pages.same_site)
    for transport in ("eventsource", "websocket", "fetch"):
        tabs = [open_tab(other_pages.same_site) for _ in range(2)]
        for tab in tabs:
            tab.watched.origins |= {other_pages.same_site, server.url}
            tab.connect(f"{server.url}/assets/feed.js", transport=transport, last=1)
        for tab in tabs:
            tab.live()
        assert subscriptions(server) == 1
        server.publish("across", transport)
        for tab in tabs:
            eventually(lambda: tab.texts[-1:] == [transport])
            tab.page.close()
        eventually(lambda: subscriptions(server) == 0)


def test_a_page_of_another_origin_may_use_the_session_of_the_feed(
    serve: Serve, open_tab: OpenTab, other_pages: Pages
) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, origins=other_pages.same_site)
    tab = open_tab(other_pages.same_site)
    tab.watched.origins |= {other_pages.same_site, server.url}
    status = tab.page.evaluate(
        """([url, token]) => fetch(url, {
            method: "POST", credentials: "include", headers: { Authorization: `Bearer ${token}` },
        }).then(({ status }) => status)""",
        [f"{server.url}/session", token(subscribe=["**"])],
    )
    assert status == 204
    tab.connect(f"{server.url}/assets/feed.js", credentials="include").live()
    httpx.post(f"{server.url}/events/a", content="x", headers=bearer(token(publish=["**"])))
    tab.wait_for("x")


def test_it_works_under_the_strict_policy_of_the_dashboard(
    server: RunningServer, open_tab: OpenTab, tmp_path: Path
) -> None:
    policy = server.http.get(f"{server.url}/").headers["content-security-policy"]
    assert "require-trusted-types-for 'script'" in policy
    tab = open_tab(server)
    # A page with that policy and nothing on it, so that only feed.js is looked at.
    tab.page.route(
        f"{server.url}/empty",
        lambda route: route.fulfill(
            body="<!doctype html><title>empty</title>",
            headers={"Content-Type": "text/html", "Content-Security-Policy": policy},
        ),
    )
    tab.page.goto(f"{server.url}/empty")
    for transport in ("eventsource", "websocket", "fetch"):
        tab.connect(transport=transport, topics=[transport]).live()
        server.publish(transport, "x")
        tab.wait_for("x")
    session = tab.page.context.browser
    assert session is not None
    targets = session.new_browser_cdp_session().send("Target.getTargets", {"filter": [{"type": "shared_worker"}]})
    assert [target for target in targets["targetInfos"] if target["url"].startswith(server.url)]
