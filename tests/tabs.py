"""Tabs of a real Chromium that use `feed.js`, each with everything that it has told them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from playwright.sync_api import BrowserContext, Page

from tests.browser import Watched, watch
from tests.running import RunningServer
from tests.streams import eventually

WAYS = {
    "worker": "",
    "elected": "delete window.SharedWorker",
    "alone": "delete window.SharedWorker; delete window.BroadcastChannel",
}
"""What a browser has to lack for each way to share a connection; `alone` shares none."""

_CONNECT = """async ([module, options]) => {
    const { connect } = await import(module);
    window.got = [];
    window.batches = 0;
    window.told = [];
    window.feed = connect(options);
    feed.addEventListener("events", ({ detail }) => {
        batches += 1;
        got.push(...detail.map(({ id, topic, type, time, json, text, live }) =>
            ({ id, topic, type, time, json, text, live })));
    });
    for (const type of ["state", "gap", "closing", "position"]) {
        feed.addEventListener(type, ({ detail }) => told.push([type, detail, got.length]));
    }
}"""


class Tab:
    """One page. `state`, `texts` and the rest are as of now."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.watched: Watched = watch(page)

    def connect(self, module: str = "/assets/feed.js", **options: Any) -> Tab:
        """Begin, with the options of `connect`. Does not wait."""
        self.page.evaluate(_CONNECT, [module, options])
        return self

    def live(self) -> Tab:
        """Wait until it is live."""
        return self.until("live")

    def until(self, name: str, seconds: float = 15) -> Tab:
        """Wait until its state is this."""
        try:
            eventually(lambda: self.state["name"] == name, seconds)
        except AssertionError:
            raise AssertionError(f"not {name}: {self.told}") from None
        return self

    @property
    def state(self) -> Any:
        """What `feed.state` is."""
        return self.page.evaluate("feed.state")

    @property
    def last_event_id(self) -> str:
        """What `feed.lastEventId` is."""
        return str(self.page.evaluate("feed.lastEventId"))

    @property
    def told(self) -> list[Any]:
        """All that was dispatched besides events: its type, its detail, and how many events there were before it."""
        told: list[Any] = self.page.evaluate("told")
        return told

    def all(self, type: str) -> list[Any]:
        """The details of what was dispatched under this name."""
        return [detail for name, detail, _ in self.told if name == type]

    @property
    def states(self) -> list[str]:
        """The names of all states there have been."""
        return [state["name"] for state in self.all("state")]

    @property
    def events(self) -> list[Any]:
        """All events."""
        events: list[Any] = self.page.evaluate("got")
        return events

    @property
    def texts(self) -> list[str]:
        """The data of all events."""
        texts: list[str] = self.page.evaluate("got.map(({ text }) => text)")
        return texts

    def wait_for(self, *texts: str, seconds: float = 15) -> None:
        """Wait until these and no others have come, each once and in this order."""
        expected = list(texts)
        try:
            eventually(lambda: self.page.evaluate("got.length") >= len(expected), seconds)
        except AssertionError:
            raise AssertionError(f"{self.page.evaluate('got.length')} of {len(expected)}: {self.told[-12:]}") from None
        got = self.texts
        wrong = next((place for place, (one, other) in enumerate(zip(got, expected, strict=False)) if one != other), -1)
        assert got == expected, f"{len(got)} for {len(expected)}, other at {wrong}: {got[max(0, wrong - 2) :][:8]}"


OpenTab = Callable[..., Tab]


def tabs_of(context: BrowserContext) -> Iterator[OpenTab]:
    """Opens tabs on a small page of a server, `/healthz`; at the end they must have done nothing wrong."""
    opened: list[Tab] = []

    def open_tab(at: RunningServer | str) -> Tab:
        tab = Tab(context.new_page())
        opened.append(tab)
        tab.page.goto(at if isinstance(at, str) else f"{at.url}/healthz")
        return tab

    yield open_tab
    assert [fault for tab in opened for fault in tab.watched.faults] == []


def subscriptions(server: RunningServer) -> int:
    """How many streams the server has."""
    return len(server.http.get(f"{server.url}/subscriptions").json()["subscriptions"])
