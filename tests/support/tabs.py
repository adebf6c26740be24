"""Tabs of a real Chromium that use `feed.js`, each with everything that it has told them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from tests.support.browser import Watched, watch
from tests.support.running import RunningServer
from tests.support.streams import eventually

WAYS = {
    "worker": "",
    "elected": "delete window.SharedWorker",
    "alone": "delete window.SharedWorker; delete window.BroadcastChannel",
}
"""What a browser has to lack for each way to share a connection; `alone` shares none."""

_CONNECT = """async ([module, options]) => {
    const { connect } = await import(module);
    window.feed?.close();
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
    window.idsOfState = () => Object.fromEntries([...feed.state].map(([topic, { id }]) => [topic, id]));
    window.lives = [];
    feed.addEventListener("live", () => lives.push([feed.lastEventId, idsOfState()]));
}"""


class Tab:
    """One page. `state`, `texts` and the rest are as of now."""

    def __init__(self, page: Page, watched: Watched) -> None:
        self.page = page
        self.watched = watched

    def connect(self, module: str = "/assets/feed.js", **options: Any) -> Tab:
        """Begin, with the options of `connect`, in place of what was before. Does not wait."""
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
        """What the connection is doing."""
        return self.page.evaluate("feed.connection")

    @property
    def held(self) -> dict[str, str]:
        """With `latest`, what `feed.state` has: the topics with the ids of their events."""
        held: dict[str, str] = self.page.evaluate("idsOfState()")
        return held

    @property
    def lives(self) -> list[tuple[str, dict[str, str]]]:
        """With `latest`, what it had each time that it was whole, and the feed's position then."""
        return [(id, held) for id, held in self.page.evaluate("lives")]

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


class Tabs:
    """The tabs of a browser that lacks what it must lack to share a connection in one way. It is there for a module:
    the first tab of each test is the one that the test before has left."""

    def __init__(self, context: BrowserContext, way: str = "worker") -> None:
        context.set_default_timeout(15_000)
        if WAYS[way]:
            context.add_init_script(WAYS[way])
        self._context = context
        self._first = context.new_page()
        self._watched = watch(self._first)

    @contextlib.contextmanager
    def of_a_test(self) -> Iterator[OpenTab]:
        """Opens tabs on a small page of a server, `/healthz`; at the end they must have done nothing wrong."""
        if self._first.is_closed():
            self._first = self._context.new_page()
        self._context.set_offline(False)
        self._context.clear_cookies()
        self._watched.forget()
        given: list[Page] = []

        def open_tab(at: RunningServer | str) -> Tab:
            given.append(self._context.new_page() if given else self._first)
            given[-1].goto(at if isinstance(at, str) else f"{at.url}/healthz")
            return Tab(given[-1], self._watched)

        yield open_tab
        assert self._watched.faults == []
        for page in given[1:]:
            page.close()
        if not self._first.is_closed():
            self._first.unroute_all()
            self._first.goto("about:blank")
        self._watched.forget()


@dataclass
class Shelf:
    """A browser's `Tabs` for each way to share, made when a test first wants them."""

    browser: Browser
    made: dict[str, Tabs] = field(default_factory=dict)

    def tabs(self, way: str) -> Tabs:
        """Those that share in this way."""
        if way not in self.made:
            self.made[way] = Tabs(self.browser.new_context(), way)
        return self.made[way]


def shelf(browser: Browser) -> Shelf:
    """For a fixture of a module."""
    return Shelf(browser)


def open_tab(request: pytest.FixtureRequest, shelf: Shelf) -> Iterator[OpenTab]:
    """For a fixture: in a test with the parameter `way` tabs share by that way."""
    called = getattr(request.node, "callspec", None)
    way = "worker" if called is None else called.params.get("way", "worker")
    with shelf.tabs(way).of_a_test() as opened:
        yield opened


def subscriptions(server: RunningServer) -> int:
    """How many streams the server has."""
    return len(server.http.get(f"{server.url}/subscriptions").json()["subscriptions"])
