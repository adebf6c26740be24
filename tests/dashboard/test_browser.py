"""The eyes of the browser tests: what goes wrong on a page is seen, or none of those tests could fail."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route

from tests.support.browser import findings, watch
from tests.support.running import RunningServer
from tests.support.streams import eventually

pytestmark = pytest.mark.browser

SAME = "script-src 'self' 'unsafe-inline'; connect-src 'self'"

Deliver = Callable[..., str]


@pytest.fixture
def deliver(server: RunningServer, page: Page) -> Deliver:
    """Puts a page and scripts beside the server's own, and gives the page's address:
    `deliver(page="<script src=one></script>", one="…")`. What is in `files` may change."""

    def put(policy: str = "", files: dict[str, str] | None = None, **named: str) -> str:
        files = named if files is None else files

        def answer(route: Route) -> None:
            name = route.request.url.rpartition("/")[2]
            kind = "text/html" if name == "page" else "text/javascript"
            route.fulfill(headers={"Content-Type": kind, "Content-Security-Policy": policy}, body=files[name])

        page.context.route(f"{server.url}/own/*", answer)
        return f"{server.url}/own/page"

    return put


WRONG = [
    ("setTimeout(() => { throw new Error('broke') })", "page error: broke"),
    ("Promise.reject(new Error('broke'))", "page error: broke"),
    ("alert('hello')", "dialog: hello"),
    ("fetch('http://127.0.0.1:9/x').catch(() => 0)", "foreign request: http://127.0.0.1:9/x"),
    ("fetch('http://elsewhere.example/x').catch(() => 0)", "foreign request: http://elsewhere.example/x"),
    ("new EventSource('http://127.0.0.1:9/x')", "foreign request: http://127.0.0.1:9/x"),
    ("new WebSocket('ws://127.0.0.1:9/x')", "foreign request: ws://127.0.0.1:9/x"),
    ("new Image().src = 'http://127.0.0.1:9/x'", "foreign request: http://127.0.0.1:9/x"),
    ("navigator.sendBeacon('http://127.0.0.1:9/x')", "foreign request: http://127.0.0.1:9/x"),
    ("window.open('http://127.0.0.1:9/x')", "foreign request: http://127.0.0.1:9/x"),
    ("new Worker('worker')", "foreign request: http://127.0.0.1:9/worker"),
]


def test_what_a_page_does_wrong_is_seen(page: Page, deliver: Deliver) -> None:
    files = {"worker": "fetch('http://127.0.0.1:9/worker').catch(() => 0)"}
    files["page"] = "<title>x</title><script src=script></script>"
    watched = watch(page)
    address = deliver(files=files)
    for script, said in WRONG:
        files["script"] = script
        page.goto(address)
        eventually(lambda: watched.faults)
        assert watched.faults == [said], script
        page.goto("about:blank")
        watched.forget()


def test_a_breach_of_the_policy_is_seen(page: Page, deliver: Deliver) -> None:
    address = deliver(SAME, page="<title>x</title><script>fetch('http://127.0.0.1:9/x').catch(() => 0)</script>")
    watched = watch(page)
    page.goto(address)
    eventually(lambda: watched.faults)
    assert watched.faults == ["policy violation: connect-src http://127.0.0.1:9/x"]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("setTimeout(() => { throw new Error('broke') })", "worker error: Error: broke"),
        ("fetch('http://127.0.0.1:9/x').catch(() => 0)", "policy violation in a worker: Connecting to 'http://127."),
        ("new WebSocket('ws://127.0.0.1:9/x')", "policy violation in a worker: Connecting to 'ws://127."),
        ("importScripts('http://127.0.0.1:9/x')", "policy violation in a worker: Loading the script 'http://127."),
    ],
)
def test_what_a_shared_worker_does_wrong_is_seen(page: Page, deliver: Deliver, script: str, said: str) -> None:
    address = deliver(SAME, page="<title>x</title><script>new SharedWorker('worker')</script>", worker=script)
    watched = watch(page)
    page.goto(address)
    eventually(lambda: any(fault.startswith(said) for fault in watched.faults))


def test_what_is_as_it_should_be_is_no_fault(server: RunningServer, page: Page) -> None:
    watched = watch(page)
    page.goto(f"{server.url}/healthz")
    page.evaluate(
        """() => new Promise((resolve) => {
            document.body.append(Object.assign(new Image(), {src: "data:,"}));
            new Worker(URL.createObjectURL(new Blob([""])));
            new WebSocket(`${location.origin.replace("http", "ws")}/ws/own`).onopen = resolve;
        })"""
    )
    page.context.new_page().goto(f"{server.url}/readyz")
    assert watched.faults == []
    own = {url.partition("://")[2] for url in watched.requests if url.startswith(("http", "ws"))}
    host = f"127.0.0.1:{server.port}"
    assert own >= {f"{host}/healthz", f"{host}/ws/own", f"{host}/readyz"}


def test_a_second_origin_is_no_fault_where_it_is_named(page: Page, deliver: Deliver, server: RunningServer) -> None:
    there = "http://127.0.0.1:9"
    watched = watch(page, server.url, there)
    page.goto(deliver(page=f"<title>x</title><img src={there}/x>"))
    eventually(lambda: f"{there}/x" in watched.requests)
    assert watched.faults == []


# What axe-core finds.


FAULTS = {
    "image-alt": "<img src='data:,' id=here>",
    "color-contrast": "<p id=here class=pale>hardly to be read</p>",
    "label": "<input id=here>",
    "button-name": "<button id=here></button>",
    "nested-interactive": "<button id=here><a href='x'>one</a></button>",
    "aria-required-children": "<div id=here role=listbox aria-label=x><p role=paragraph>x</p></div>",
}


def test_axe_finds_a_fault_and_says_where_and_why_under_a_strict_policy(page: Page, deliver: Deliver) -> None:
    files = {"script": "for (const element of document.querySelectorAll('.pale')) { element.style.color = '#ccc'; }"}
    address = deliver(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
        "require-trusted-types-for 'script'; trusted-types 'none'",
        files,
    )
    for rule, fault in FAULTS.items():
        files["page"] = (
            f"<!doctype html><html lang=en><title>x</title><main><h1>x</h1>{fault}</main><script src=script></script>"
        )
        page.goto(address)
        (line,) = findings(page)
        assert f" {rule} at #here: Fix " in line
        assert findings(page, {rule: "#elsewhere", "another-rule": "#here"}) == [line]
        assert findings(page, {rule: "#here"}) == []


def test_axe_finds_nothing_where_there_is_nothing(page: Page, deliver: Deliver) -> None:
    page.goto(deliver(page="<!doctype html><html lang=en><title>x</title><main><h1>x</h1></main>"))
    assert findings(page) == []
