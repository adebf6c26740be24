"""`feed.js` with `latest` and with `load`, in a real Chromium: what a page holds is what the log says."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Serve
from tests.support.proxy import Proxy, proxy_to
from tests.support.running import RunningServer, running
from tests.support.streams import eventually
from tests.support.tabs import OpenTab, Tab, open_tab, shelf, subscriptions
from tests.support.tokens import SECRET

pytestmark = pytest.mark.browser

TOPICS = [f"board/{number:02}" for number in range(30)]
BOARD: dict[str, Any] = {"topics": ["board/*"], "latest": True}

shelf = pytest.fixture(scope="module", name="shelf")(shelf)
open_tab = pytest.fixture(name="open_tab")(open_tab)

by_each = pytest.mark.parametrize(
    ("way", "transport"),
    [
        ("alone", "eventsource"),
        ("alone", "websocket"),
        ("alone", "fetch"),
        ("worker", "eventsource"),
        ("worker", "websocket"),
        ("elected", "eventsource"),
    ],
)
by_way = pytest.mark.parametrize("way", ["alone", "worker", "elected"])


class Board:
    """What was published to the topics of a board: the judge of what pages hold."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server
        self._events: list[tuple[str, str, bool]] = []  # topic, id, whether it was deleted
        self._numbers = itertools.count()

    def update(self, *topics: str, size: int = 0) -> None:
        """Give these topics a new value."""
        events = [{"topic": topic, "data": f"{next(self._numbers)}".ljust(size)} for topic in topics]
        answer = self.server.http.post(f"{self.server.url}/events", json=events)
        assert answer.status_code == 201, answer.text
        ids = answer.json()["ids"]
        self._events += [(topic, id, False) for topic, id in zip(topics, ids, strict=True)]

    def delete(self, topic: str) -> None:
        """Delete its value."""
        answer = self.server.http.delete(f"{self.server.url}/events/{topic}")
        assert answer.status_code == 200, answer.text
        self._events.append((topic, answer.json()["id"], True))

    def fold(self, upto: str = "", since: int = 0) -> dict[str, str]:
        """The fold of the log: the topics that have a value, with the ids of their newest events."""
        state: dict[str, str] = {}
        for topic, id, is_deleted in self._events:
            if (upto and seq(id) > seq(upto)) or seq(id) < since:
                continue
            state.pop(topic, None)
            if not is_deleted:
                state[topic] = id
        return state

    def has_come_to(self, tab: Tab, since: int = 0) -> None:
        """Wait until the tab holds what there is, and check what it held each time that it said that this was whole."""
        expected = self.fold(since=since)
        try:
            eventually(lambda: tab.state["name"] == "live" and tab.held == expected, 20)
        except AssertionError:
            raise AssertionError(f"{tab.held} for {expected}: {tab.told[-8:]}") from None
        for id, held in tab.lives if not since else tab.lives[-1:]:
            assert held == self.fold(id, since), f"at {id}"


class Changes:
    """Changes a board until the block ends."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        chance = random.Random(1)
        while not self._stopping.wait(0.005):
            self._board.update(*chance.sample(TOPICS, 3))
            if chance.random() < 0.2:
                self._board.delete(chance.choice(TOPICS))

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(10)


def lives_again(tab: Tab, times: int) -> None:
    """Wait until it has become live again so many times."""
    eventually(lambda: tab.states.count("live") > times)


def seq(id: str) -> int:
    return int(id.split("-")[1])


def at(proxy: Proxy) -> str:
    return f"http://127.0.0.1:{proxy.port}/healthz"


@pytest.fixture
def server(serve: Serve, tmp_path: Path) -> RunningServer:
    return serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)


@pytest.fixture
def proxy(server: RunningServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as between:
        yield between


# The state.


@by_each
def test_a_board_is_what_is_and_then_what_changes(
    server: RunningServer, open_tab: OpenTab, way: str, transport: str
) -> None:
    board = Board(server)
    board.update(*TOPICS, *TOPICS[:5])
    board.delete(TOPICS[7])
    tab = open_tab(server).connect(**BOARD, transport=transport)
    board.has_come_to(tab)
    assert len(tab.lives) == 1
    assert [event["live"] for event in tab.events] == [False] * 29
    board.update(TOPICS[7], TOPICS[3], "board/new")
    board.delete(TOPICS[4])
    board.has_come_to(tab)
    eventually(lambda: [event["type"] for event in tab.events[29:]] == ["message"] * 3 + ["feed.deleted"])
    assert tab.events[-1]["id"] == server.history("board/*", last=1)["events"][0]["id"], "an event keeps its own id"
    assert tab.page.evaluate("feed.state.get('board/07').text") == "35"


@by_each
def test_a_drop_in_the_middle_of_the_snapshot_goes_on_there(
    server: RunningServer, proxy: Proxy, open_tab: OpenTab, way: str, transport: str
) -> None:
    board = Board(server)
    board.update(*TOPICS, size=40_000)
    tab = open_tab(at(proxy))
    proxy.rate = 400_000
    tab.connect(**BOARD, transport=transport)
    eventually(lambda: len(tab.held) >= 5)
    assert tab.state["name"] == "replaying"
    proxy.reset()
    seen = tab.held
    board.update(TOPICS[0], TOPICS[29])
    board.delete(TOPICS[1])
    board.delete(TOPICS[28])
    proxy.rate = None
    board.has_come_to(tab)
    assert len(seen) < 30
    assert tab.all("gap") == []
    _, place, as_of = [state for state in tab.all("state") if state["name"] == "replaying"][-1]["after"].split("-")
    assert 5 <= int(place) < int(as_of) == 30, "it goes on within the snapshot"
    assert len(tab.events) <= 30 + 4, "none came twice but what has changed"


@by_each
def test_a_board_that_changes_survives_drops_and_a_restart(
    server: RunningServer, proxy: Proxy, open_tab: OpenTab, way: str, transport: str
) -> None:
    board = Board(server)
    board.update(*TOPICS)
    tab = open_tab(at(proxy)).connect(**BOARD, transport=transport).live()
    with Changes(board):
        for drops in range(1, 4):
            proxy.reset()
            lives_again(tab, drops)
    server.kill()
    tab.until("waiting")
    proxy.cut()
    server.start()
    board.update(*TOPICS[:10])
    board.delete(TOPICS[11])
    proxy.heal()
    tab.page.evaluate("feed.retry()")
    board.has_come_to(tab)
    assert tab.all("gap") == []
    assert len(tab.lives) == 5


@by_each
def test_after_a_gap_the_whole_state_comes_again_and_no_page_is_empty_meanwhile(
    serve: Serve, open_tab: OpenTab, way: str, transport: str
) -> None:
    server = serve("--log", "memory:", retain_events=40, retry=0.2)
    board = Board(server)
    board.update(*TOPICS)
    with proxy_to(server.port) as proxy:
        tab = open_tab(at(proxy)).connect(**BOARD, transport=transport).live()
        tab.page.evaluate(
            """() => {
                window.sizes = [];
                feed.addEventListener("gap", () => sizes.push(feed.state.size));
                feed.addEventListener("events", () => sizes.push(feed.state.size));
            }"""
        )
        proxy.cut()
        tab.until("waiting")
        board.update(*TOPICS[10:])  # which it does not learn: retention takes them
        for _ in range(5):
            board.update(*TOPICS[:10])
        proxy.heal()
        tab.page.evaluate("feed.retry()")
        board.has_come_to(tab, since=seq(server.history("board/*", last=1)["events"][0]["id"]) - 39)
        assert [gap["reason"] for gap in tab.all("gap")] == ["expired"]
        assert tab.held.keys() == set(TOPICS[:10])
        assert set(tab.page.evaluate("sizes")) == {30}, "what is gone goes when the state is whole"


@by_way
def test_a_log_that_is_gone_leaves_nothing_of_what_was_held(serve: Serve, open_tab: OpenTab, way: str) -> None:
    server = serve("--log", "memory:", retry=0.2)
    Board(server).update(*TOPICS)
    tab = open_tab(server).connect(**BOARD).live()
    server.kill()
    server.start()
    board = Board(server)
    board.update(*TOPICS[5:8])
    tab.page.evaluate("feed.retry()")
    board_of_now = board.fold()
    eventually(lambda: tab.state["name"] == "live" and tab.held == board_of_now)
    assert [gap["reason"] for gap in tab.all("gap")] == ["unknown"]


@pytest.mark.parametrize("way", ["worker", "elected"])
def test_tabs_share_one_connection_and_each_has_the_whole_state(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    board = Board(server)
    board.update(*TOPICS)
    board.delete(TOPICS[9])
    tabs = [open_tab(server).connect(**BOARD).live()]
    with Changes(board):
        tabs += [open_tab(server).connect(**BOARD).live() for _ in range(2)]
    for tab in tabs:
        board.has_come_to(tab)
    assert subscriptions(server) == 1
    # Whoever runs the connection may leave: the others go on with the state.
    tabs.pop(0).page.close()
    board.update(*TOPICS[:3])
    board.delete(TOPICS[4])
    for tab in tabs:
        board.has_come_to(tab)
    eventually(lambda: subscriptions(server) == 1)


def test_a_tab_that_joins_in_the_middle_of_the_snapshot_is_whole_when_all_are(
    server: RunningServer, proxy: Proxy, open_tab: OpenTab
) -> None:
    board = Board(server)
    board.update(*TOPICS, size=40_000)
    first, second = open_tab(at(proxy)), open_tab(at(proxy))
    proxy.rate = 400_000
    first.connect(**BOARD)
    eventually(lambda: len(first.held) >= 5)
    second.connect(**BOARD)
    eventually(lambda: len(second.held) >= 5)
    assert first.lives == second.lives == []
    proxy.rate = None
    for tab in (first, second):
        board.has_come_to(tab)


def test_a_tab_that_cannot_keep_up_is_given_the_whole_state_and_holds_up_nobody(
    server: RunningServer, open_tab: OpenTab
) -> None:
    board = Board(server)
    board.update(*TOPICS)
    slow, fast = (open_tab(server).connect(**BOARD).live() for _ in range(2))
    # It reads nothing until everything is published, which is more than a tab may have under way.
    slow.page.evaluate(
        """() => feed.addEventListener("events", () => {
            const asked = new XMLHttpRequest(); // which waits, and so does the tab
            do {
                asked.open("GET", "/events?list=topics&topic=done", false);
                asked.send();
            } while (JSON.parse(asked.responseText).topics.length === 0);
        }, { once: true })"""
    )
    for _ in range(25):
        board.update(*TOPICS, size=40_000)
    board.delete(TOPICS[0])
    board.has_come_to(fast)
    server.publish("done")
    board.has_come_to(slow)
    assert len(slow.events) < len(fast.events)
    assert len(slow.lives) > 1, "it was told that it has everything again"


def test_a_page_waits_until_the_state_is_whole(server: RunningServer, open_tab: OpenTab) -> None:
    board = Board(server)
    board.update(*TOPICS)
    tab = open_tab(server).connect(**BOARD)
    assert tab.page.evaluate("feed.whole().then((state) => state.size)") == 30
    assert tab.page.evaluate("feed.whole().then((state) => state === feed.state)")
    closed = "(feed.close(), feed.whole().catch((error) => error.message))"
    assert tab.page.evaluate(closed) == "The feed was closed."
    tab.connect(topics=["a"])
    assert "only with latest" in tab.page.evaluate("feed.whole().catch((error) => error.message)")


def test_a_page_that_is_refused_does_not_wait_for_its_state(open_tab: OpenTab) -> None:
    with running("--log", "memory:", jwt_secret=SECRET) as server:
        tab = open_tab(server).connect(**BOARD)
        assert "token" in tab.page.evaluate("feed.whole().catch((error) => error.message)")


def test_the_time_between_two_values_is_asked_for_of_streams_only(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server)
    asked: list[str] = []
    tab.page.on("request", lambda request: asked.append(request.url))
    tab.connect(**BOARD, every=500, shared=False).live()
    [url] = [url for url in asked if "/events" in url]
    assert "latest=1" in url
    assert "every=500ms" in url


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("{ latest: true, load: async () => 'a' }", "latest and load"),
        ("{ latest: true, types: ['a'] }", "types"),
        ("{ latest: true, after: 'a-1' }", "after and last"),
        ("{ latest: true, last: 3 }", "after and last"),
        ("{ load: async () => 'a', last: 3 }", "after and last"),
        ("{ load: 'a-1' }", "load"),
        ("{ every: 500 }", "every"),
        ("{ latest: true, every: 99 }", "every"),
        ("{ latest: true, every: '500ms' }", "every"),
    ],
)
def test_what_does_not_go_together_is_a_type_error_that_says_what_to_do(
    server: RunningServer, open_tab: OpenTab, options: str, named: str
) -> None:
    said = open_tab(server).page.evaluate(
        f"""async () => {{
            const {{ connect }} = await import("/assets/feed.js");
            try {{ connect({options}); }} catch (error) {{ return [error.name, error.message]; }}
        }}"""
    )
    assert said[0] == "TypeError"
    assert said[1].startswith(f"{named}: ")


# What an application loads.

_LOAD = """async ([options, positions]) => {
    const { connect } = await import("/assets/feed.js");
    window.feed?.close();
    Object.assign(window, { database: new Map(), loads: 0, running: 0, most: 0, told: [], got: [], failing: 0 });
    const page = async (query) => (await fetch(`/events/board/*?${query}`, { headers: { Accept: "application/json" },
        cache: "no-store" })).json();
    const load = async () => {
        loads += 1;
        most = Math.max(most, ++running);
        try {
            if (failing > 0) {
                failing -= 1;
                throw new RangeError("the database is away");
            }
            const { next } = positions ? { next: positions } : await page("last=1");
            await window.between?.();
            const { events } = await page("latest=1&limit=1000");
            database = new Map(events.map(({ topic, id }) => [topic, id]));
            return next;
        } finally {
            running -= 1;
        }
    };
    window.feed = connect({ topics: ["board/*"], load, ...options });
    for (const type of ["state", "gap"]) feed.addEventListener(type, ({ detail }) => told.push([type, detail, loads]));
    feed.addEventListener("error", ({ detail }) => told.push(["error", String(detail), loads]));
    feed.addEventListener("event", ({ detail: { topic, type, id } }) => {
        got.push(id);
        if (type === "feed.deleted") database.delete(topic);
        else database.set(topic, id);
    });
}"""


def load(tab: Tab, positions: str = "", **options: Any) -> Tab:
    """Connect with a `load` that reads the feed's own state, in place of a database. With `positions` it always returns
    this one."""
    tab.page.evaluate(_LOAD, [options, positions])
    return tab


def has_loaded(tab: Tab, board: Board) -> None:
    """Wait until the page's own state is what there is."""
    held = "Object.fromEntries(database)"
    try:
        eventually(lambda: tab.state["name"] == "live" and tab.page.evaluate(held) == board.fold(), 20)
    except AssertionError:
        raise AssertionError(f"{tab.page.evaluate(held)} for {board.fold()}: {tab.told[-8:]}") from None


@by_each
def test_load_is_run_at_first_and_after_a_gap_and_nothing_between_is_missed(
    serve: Serve, open_tab: OpenTab, way: str, transport: str
) -> None:
    server = serve("--log", "memory:", retain_events=40, retry=0.2)
    board = Board(server)
    board.update(*TOPICS)
    with proxy_to(server.port) as proxy:
        tab = open_tab(at(proxy))
        # What happens between the position and the data, and after the data, comes as events.
        tab.page.expose_function(f"change_{way}_{transport}", lambda: board.update(TOPICS[0], TOPICS[1]))
        tab.page.evaluate(f"void (window.between = window.change_{way}_{transport})")
        load(tab, transport=transport)
        has_loaded(tab, board)
        assert tab.page.evaluate("loads") == 1
        board.update(*TOPICS[:5])
        board.delete(TOPICS[6])
        has_loaded(tab, board)
        proxy.cut()
        tab.until("waiting")
        board.update(*TOPICS)
        board.update(*TOPICS)
        proxy.heal()
        tab.page.evaluate("feed.retry()")
        has_loaded(tab, board)
        board.update("board/last")
        has_loaded(tab, board)
        assert [(name, loads) for name, _, loads in tab.told if name == "gap"] == [("gap", 1)]
        assert tab.page.evaluate("[loads, most]") == [2, 1]
        ids = tab.page.evaluate("got")
        assert len(set(ids)) == len(ids)


@by_way
def test_a_log_that_is_gone_is_loaded_anew(serve: Serve, open_tab: OpenTab, way: str) -> None:
    server = serve("--log", "memory:", retry=0.2)
    Board(server).update(*TOPICS)
    tabs = [load(open_tab(server)).live() for _ in range(2)]
    server.kill()
    server.start()
    board = Board(server)
    board.update(*TOPICS[5:8])
    for tab in tabs:
        tab.page.evaluate("feed.retry()")
    for tab in tabs:
        has_loaded(tab, board)
        assert tab.page.evaluate("[loads, most]") == [2, 1]
    board.update("board/last")
    for tab in tabs:
        has_loaded(tab, board)
    eventually(lambda: subscriptions(server) == (2 if way == "alone" else 1))


def test_a_load_that_fails_is_told_and_run_again(server: RunningServer, open_tab: OpenTab) -> None:
    board = Board(server)
    board.update(*TOPICS)
    tab = open_tab(server)
    tab.page.evaluate(_LOAD.replace("failing: 0", "failing: 2"), [{}, ""])
    eventually(lambda: tab.all("error") == ["RangeError: the database is away"])
    tab.until("waiting")
    waiting = tab.all("state")[-1]
    assert (waiting["reason"], waiting["detail"]) == ("load", "the database is away")
    tab.page.evaluate("feed.retry()")
    has_loaded(tab, board)
    assert len(tab.all("error")) == 2
    assert tab.page.evaluate("loads") == 3


def test_a_load_that_returns_no_position_is_an_error(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server)
    tab.page.evaluate(_LOAD.replace("return next;", "return;"), [{}, ""])
    [error] = eventually(lambda: tab.all("error"))
    assert error.startswith("TypeError: load: has to return the position")
    tab.page.evaluate("feed.close()")
    assert tab.state == {"name": "closed"}


def test_a_position_that_is_never_there_is_not_loaded_without_a_pause(server: RunningServer, open_tab: OpenTab) -> None:
    Board(server).update(*TOPICS)
    tab = load(open_tab(server), positions="nonsense-1")
    eventually(lambda: len(tab.all("gap")) == 3)
    names = [state["reason"] if state["name"] == "waiting" else state["name"] for state in tab.all("state")]
    assert names.count("load") >= 2
    assert "live" not in names, "it has loaded nothing that it could go on from"


def test_whoever_closes_while_it_loads_is_told_no_more(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server)
    tab.page.evaluate("void (window.between = () => new Promise((resolve) => (window.go = resolve)))")
    load(tab)
    eventually(lambda: tab.page.evaluate("window.go !== undefined"))
    tab.page.evaluate("feed.close()")
    tab.page.evaluate("go()")
    eventually(lambda: tab.page.evaluate("database.size === 0 && running === 0"))
    assert tab.states[-1] == "closed"
    assert subscriptions(server) == 0
