"""A real Chromium for tests: started without a word to the outside, and what its pages do wrong is remembered."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Page, sync_playwright

# Chromium without the frame of a desktop around its pages, which takes a third of the processor's time.
CHROMIUM = Path("/usr/bin/chromium-headless-shell")

MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'&lt;b&gt;"
"""What a page would run that took text for markup."""

_ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Nothing but this machine has an address: a page that needs more fails here, with or without a network.
_NAMES = "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"

_INSIDE = ("data:", "blob:", "about:")

_RUN_AXE = """async (known) => {
    const { violations } = await axe.run(document, { resultTypes: ["violations"], preload: false });
    const lines = [];
    for (const { id, impact, nodes } of violations) {
        for (const { target, failureSummary } of impact === "serious" || impact === "critical" ? nodes : []) {
            const element = typeof target[0] === "string" ? document.querySelector(target[0]) : null;
            if (!(known[id] && element?.matches(known[id]))) {
                lines.push(`${impact} ${id} at ${target.join(" ")}: ${failureSummary.replace(/\\s+/g, " ")}`);
            }
        }
    }
    return lines;
}"""

_REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
    console.error(`policy violation: ${event.violatedDirective} ${event.blockedURI}`))
"""


@contextlib.contextmanager
def chromium(rebound: Collection[str] = ()) -> Iterator[Browser]:
    """A Chromium for as long as the block lasts, for which the names in `rebound` are this machine's. Skips where there
    is none, but in CI it fails."""
    if not CHROMIUM.exists():
        reason = f"needs Chromium at {CHROMIUM}: apt-get install {CHROMIUM.name}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium refuses to root
    with sync_playwright() as playwright:
        rules = ", ".join([*(f"MAP {name} 127.0.0.1" for name in rebound), _NAMES])
        arguments = [*_ARGUMENTS, f"--host-resolver-rules={rules}", *sandbox]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """What the pages of a context do: every address they ask for, and what must never happen."""

    origins: set[str] = field(default_factory=set)
    """Where they may ask: the origin of the first page, and those that a test names."""

    requests: list[str] = field(default_factory=list)
    page_errors: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    settle: Callable[[], object] = field(default=lambda: None)
    """Waits until all is told that has happened so far."""

    let_go: Callable[[], object] = field(default=lambda: None)
    """Listens no longer to the workers there are, so that they end with their pages."""

    def forget(self) -> None:
        """Begin anew, for another test."""
        self.let_go()
        for kept in (self.origins, self.requests, self.page_errors, self.dialogs, self.violations):
            kept.clear()

    @property
    def foreign(self) -> list[str]:
        """Requests to other origins. What a page carries in itself is no request to anybody."""
        own = self.origins or {origin(url) for url in self.requests[:1]}
        return [
            f"foreign request: {url}" for url in self.requests if not url.startswith(_INSIDE) and origin(url) not in own
        ]

    @property
    def faults(self) -> list[str]:
        """Uncaught errors, dialogs, breaches of the content security policy and foreign requests. Empty is good."""
        self.settle()
        return [*self.page_errors, *self.dialogs, *self.violations, *self.foreign]


def origin(url: str) -> str:
    """The origin of an address; a WebSocket's is that of the page that may open it."""
    parts = urlsplit(url)
    return f"{parts.scheme.replace('ws', 'http')}://{parts.netloc}"


def watch(page: Page, *others: str) -> Watched:
    """Watch a page from before it is opened, and every other page of its context, with their frames and workers.

    They may ask the origin of the first page, or instead of it those in `others`. A shared worker belongs to no page:
    its errors are heard of over a connection of its own, and its requests not at all. But it has a content security
    policy of its own, which comes with its script and knows no origin but its own, and each breach is heard of.
    """
    watched = Watched(set(others))
    context = page.context

    def dismiss(dialog: Dialog) -> None:
        watched.dialogs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def hear(message: ConsoleMessage) -> None:
        if "policy violation" in message.text:
            watched.violations.append(message.text)

    def look_at(opened: Page) -> None:
        opened.on("websocket", lambda socket: watched.requests.append(socket.url))

    context.add_init_script(_REPORT_VIOLATIONS)
    context.on("request", lambda request: watched.requests.append(request.url))
    context.on("weberror", lambda error: watched.page_errors.append(f"page error: {error.error}"))
    context.on("dialog", dismiss)
    context.on("console", hear)
    context.on("page", look_at)
    look_at(page)
    workers = _SharedWorkers(page, watched)

    def settle() -> None:
        with contextlib.suppress(Error):  # the browser is closed
            context.cookies()
            workers.settle()

    watched.settle = settle
    watched.let_go = workers.let_go
    return watched


class _SharedWorkers:
    """Those of a page's context. Playwright does not know of them, so their part of the protocol is spoken here."""

    def __init__(self, page: Page, watched: Watched) -> None:
        assert page.context.browser is not None
        self._watched = watched
        target = page.context.new_cdp_session(page)
        self._context = target.send("Target.getTargetInfo")["targetInfo"]["browserContextId"]
        target.detach()
        self._session = page.context.browser.new_browser_cdp_session()
        self._attached: set[str] = set()
        page.context.on("request", lambda request: self.let_go() if request.is_navigation_request() else None)
        self._session.on("Target.targetCreated", self._listen_to)
        self._session.on("Target.receivedMessageFromTarget", self._hear)
        self._session.send("Target.setDiscoverTargets", {"discover": True})

    def settle(self) -> None:
        """Wait until all is told that has happened so far."""
        self._session.send("Target.getTargets")

    def _listen_to(self, created: dict[str, Any]) -> None:
        target = created["targetInfo"]
        # Only to those of one's own pages: Chromium dies of two sessions that listen to the same one.
        if target["type"] in {"shared_worker", "service_worker"} and target.get("browserContextId") == self._context:
            attach = {"targetId": target["targetId"], "flatten": False}
            with contextlib.suppress(Error):  # it has gone already
                session = self._session.send("Target.attachToTarget", attach)["sessionId"]
                self._attached.add(session)
                for number, method in enumerate(("Runtime.enable", "Log.enable")):  # which tell of what was before, too
                    message = json.dumps({"id": number, "method": method})
                    self._session.send("Target.sendMessageToTarget", {"sessionId": session, "message": message})

    def let_go(self) -> None:
        """A worker that is listened to outlives its pages, and would never answer the next one."""
        while self._attached:
            with contextlib.suppress(Error):
                self._session.send("Target.detachFromTarget", {"sessionId": self._attached.pop()})

    def _hear(self, received: dict[str, Any]) -> None:
        message = json.loads(received["message"])
        if message.get("method") == "Runtime.exceptionThrown":
            details = message["params"]["exceptionDetails"]
            said = details.get("exception", {}).get("description", details["text"])
            self._watched.page_errors.append(f"worker error: {said}")
        if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["source"] == "security":
            self._watched.violations.append(f"policy violation in a worker: {message['params']['entry']['text']}")


def findings(page: Page, known: Mapping[str, str] = MappingProxyType({})) -> list[str]:
    """What axe-core finds on a page as it is now that is serious or critical: the rule, where, and why.

    `known` are findings that are not ours to mend: a rule, and a selector of the elements at which it is let pass.
    """
    session = page.context.new_cdp_session(page)  # a script element would need a policy that lets it in
    try:
        axe = (resources.files("axe_playwright_python") / "axe.min.js").read_text()
        for expression in (f"{axe}; null", f"({_RUN_AXE})({json.dumps(dict(known))})"):
            asked = {"expression": expression, "awaitPromise": True, "returnByValue": True}
            answer = session.send("Runtime.evaluate", asked)
            assert "exceptionDetails" not in answer, answer["exceptionDetails"]
    finally:
        session.detach()
    found: list[str] = answer["result"]["value"]
    return found
