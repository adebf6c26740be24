"""`feed.js` in a real Chromium: what a page is told, over each transport and by each way to share."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from tests.conftest import Serve
from tests.support.awkward_texts import AWKWARD
from tests.support.browser import Watched
from tests.support.doc_blocks import blocks
from tests.support.event_stream import parse_event_stream
from tests.support.proxy import Proxy, proxy_to
from tests.support.running import RunningServer, running
from tests.support.streams import eventually, subscribed
from tests.support.tabs import WAYS, OpenTab, Tab, open_tab, shelf, subscriptions
from tests.support.tokens import SECRET, bearer, token

pytestmark = pytest.mark.browser

TRANSPORTS = ["eventsource", "websocket", "fetch"]

NUMBER = '{"n": 123456789012345678901234567890, "n": 1.0, "}": "},{", "time": "\\"}"}'


shelf = pytest.fixture(scope="module", name="shelf")(shelf)
open_tab = pytest.fixture(name="open_tab")(open_tab)


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """For the tests that have topics of their own."""
    with running("--log", "memory:", retry=0.2) as shared:
        yield shared


@pytest.fixture(scope="module")
def patient() -> Iterator[RunningServer]:
    """It asks whoever is sent away to come back so late that nobody does so by himself."""
    with running("--log", "memory:", retry=30, drain=30) as shared:
        yield shared


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with running("--log", "memory:", jwt_secret=SECRET, retry=0.2) as shared:
        yield shared


by_each = pytest.mark.parametrize("way", list(WAYS))


def transports_of(way: str) -> list[str]:
    """All of them where there is a worker: what the ways do differently does not depend on the transport."""
    return TRANSPORTS if way == "worker" else TRANSPORTS[:1]


def published(server: RunningServer, topic: str, texts: list[str]) -> list[str]:
    batch = [{"topic": topic, "data": text} for text in texts]
    answer = server.http.post(f"{server.url}/events", json=batch)
    assert answer.status_code == 201, answer.text
    ids: list[str] = answer.json()["ids"]
    return ids


# The pure parts.

STREAMS = [
    "data: a\n\n",
    "data: a\r\rdata: b\r\r",
    "data: a\r\n\r\ndata: b\r\n\r\n",
    "data: a\rdata: b\r\n\n",
    "\ufeffdata: after a BOM\n\n",
    "data: \ufeffa BOM inside\n\n\ufeffdata: a field of another name\n\n",
    "id: 1\ndata: a\n\ndata: the id stays\n\nid\ndata: until it is taken back\n\n",
    "id: 1\ndata: a\n\nid: with \0 in it\ndata: b\n\n",
    "event: named\ndata: a\n\ndata: b\n\n",
    "event: without data\n\ndata: a\n\n",
    "data\n\ndata:\ndata:\n\n",
    "data:no space\ndata:  two\n\n",
    ": a comment\n:\ndata: a\n\n",
    "unknown: x\nunknown\ndata: a\n\n",
    "data: line\u2028separator\u2029and\u0085next\n\n",
    "data: \U0001f600 é\n\n",
    "data: never ends",
    "data: never dispatched\n",
    "\n\n\ndata: a\n\n",
]


def test_the_parser_reads_what_the_standard_says_wherever_the_bytes_are_split(
    server: RunningServer, open_tab: OpenTab
) -> None:
    page = open_tab(server).page
    read = """async (streams) => {
        const { EventStreamParser } = await import("/assets/feed/sse.js");
        const read = (chunks) => {
            const parser = new EventStreamParser();
            return chunks.flatMap((bytes) => parser.push(bytes))
                .filter(({ event }) => event !== undefined).map(({ id, event, data }) => [id, event, data]);
        };
        return streams.map((stream) => {
            const bytes = new TextEncoder().encode(stream);
            const splits = [...bytes.keys()].map((at) => [bytes.slice(0, at), bytes.slice(at)]);
            const all = [...splits, Array.from(bytes, (byte) => Uint8Array.of(byte)), [bytes]].map(read);
            return [...new Set(all.map((events) => JSON.stringify(events)))].map((events) => JSON.parse(events));
        });
    }"""
    expected = [[list(event) for event in _as_javascript(stream)] for stream in STREAMS]
    assert page.evaluate(read, STREAMS) == [[events] for events in expected]


def _as_javascript(stream: str) -> list[tuple[str, str, str]]:
    # `data` alone is an event with empty data, which the oracle takes for none.
    if stream.startswith("data\n\n"):
        return [("", "message", ""), ("", "message", "\n")]
    return parse_event_stream(stream.encode())


def test_the_parser_tells_comments_and_the_reconnection_time(server: RunningServer, open_tab: OpenTab) -> None:
    page = open_tab(server).page
    frames = page.evaluate(
        """async (stream) => {
            const { EventStreamParser } = await import("/assets/feed/sse.js");
            return new EventStreamParser().push(new TextEncoder().encode(stream));
        }""",
        "retry: 250\nretry: 1s\nretry:\n: alive\ndata: a\n\n",
    )
    assert frames == [{"retry": 250}, {"comment": "alive"}, {"event": "message", "data": "a", "id": ""}]


CUT_OUT = [
    NUMBER,
    "[]",
    "1",
    "null",
    '[{"id":"x","topic":"y","type":"z","data":1,"time":"t"},{"id":"]"}]',
    '"te\\"xt\\u0041"',
]


def test_data_is_cut_out_of_envelopes_and_pages_as_it_was_published(server: RunningServer, open_tab: OpenTab) -> None:
    page = open_tab(server).page
    other = '{"time":"t","type":"t","topic":"t","id":"e-2","data": {"a":1.10,"a":123456789012345678901}}'
    for data in CUT_OUT:
        envelope = f'{{"id":"e-1","topic":"a/\\"b","type":"t\\\\","data":{data},"time":"2026-11-21T03:05:00.123Z"}}'
        found = page.evaluate(
            """async ([envelope, other]) => {
                const { eventOf, idOf, pageOf } = await import("/assets/feed/event.js");
                const { id, topic, type, json, text, time } = eventOf(envelope, true);
                const page = pageOf(`{"events":[${envelope},${envelope},${other}],"next":"e-3","gap":{"reason":"x"}}`);
                const turned = pageOf(`{"next":"e-3", "gap":{"reason":"x"}, "events": [ ${envelope} ,${other}]}`);
                return { id, topic, type, json, text, time, page, turned, empty: pageOf('{"events":[],"next":"e-0"}'),
                    ids: [envelope, other, "nonsense"].map(idOf), other: eventOf(other, false).text };
            }""",
            [envelope, other],
        )
        is_text = data.startswith('"')
        assert (found["id"], found["topic"], found["type"]) == ("e-1", 'a/"b', "t\\")
        assert (found["json"], found["text"]) == (not is_text, json.loads(data) if is_text else data)
        assert found["page"] == {"envelopes": [envelope, envelope, other], "next": "e-3", "gap": {"reason": "x"}}
        assert found["empty"] == {"envelopes": [], "next": "e-0"}
        assert found["ids"] == ["e-1", "e-2", ""]
        assert found["turned"] == {"envelopes": [envelope, other], "next": "e-3", "gap": {"reason": "x"}}
        assert found["other"] == '{"a":1.10,"a":123456789012345678901}'


def test_what_a_stream_says_of_itself_and_cannot_be_read_is_taken_for_the_least_that_it_can_mean(
    server: RunningServer, open_tab: OpenTab
) -> None:
    page = open_tab(server).page
    controls = ("open", "gap", "live", "closing")
    stream = "".join(f"event: feed.{name}\nid: e-{number}\ndata: oops\n\n" for number, name in enumerate(controls))
    page.route("**/events?*", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
    told = page.evaluate(
        """async () => {
            const { connect } = await import("/assets/feed.js");
            const feed = connect({ transport: "fetch", shared: false, after: "e-9" });
            const told = [];
            for (const type of ["gap", "state", "closing"])
                feed.addEventListener(type, ({ detail }) => told.push([type, detail]));
            while (feed.state.name !== "waiting") await new Promise((resolve) => setTimeout(resolve, 10));
            feed.close();
            return told;
        }"""
    )
    assert ["gap", {"requested": "e-0", "resumedFrom": "e-1", "reason": "unknown"}] in told
    assert ["state", {"name": "live", "resumed": {"after": "e-1", "replayed": 0}}] in told
    assert [state["reason"] for type, state in told if type == "state" and state["name"] == "waiting"] == ["ended"]
    assert [detail for type, detail in told if type == "closing"] == []


# What is the same over every transport, shared or not.


@by_each
def test_the_same_events_come_over_every_transport_by_every_way(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    texts = [*AWKWARD, "plain"]
    tab = open_tab(server)
    for transport in TRANSPORTS:
        topic = f"same/{transport}/{way}"
        before = published(server, topic, texts)
        tab.connect(topics=[topic], transport=transport, last=len(texts)).live()
        tab.wait_for(*texts)
        after = published(server, topic, texts)
        json_id = server.publish(f"{topic}?type=typed", NUMBER, **{"Content-Type": "application/json"})
        tab.wait_for(*texts, *texts, NUMBER)
        events = tab.events
        assert [event["id"] for event in events] == [*before, *after, json_id]
        assert [event["live"] for event in events] == [False] * len(before) + [True] * (len(after) + 1)
        assert {(event["topic"], event["json"]) for event in events[:-1]} == {(topic, False)}
        assert (events[-1]["type"], events[-1]["json"]) == ("typed", True)
        history = {event["id"]: event["time"] for event in server.history(topic)["events"]}
        assert [event["time"] for event in events] == [history[event["id"]] for event in events]
        assert tab.page.evaluate("[feed.lastEventId, feed.state]") == [json_id, {"name": "live", "resumed": None}]


@by_each
def test_nothing_is_missed_or_doubled_when_the_server_is_killed_and_comes_back(
    serve: Serve, open_tab: OpenTab, way: str, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    with proxy_to(server.port) as proxy:
        tab = open_tab(f"http://127.0.0.1:{proxy.port}/healthz")
        for transport in transports_of(way):
            tab.connect(topics=[f"kill/{transport}"], transport=transport).live()
            last = server.publish(f"kill/{transport}", "0")
            tab.wait_for("0")
            server.kill()
            tab.until("waiting")
            state = next(state for state in tab.all("state") if state["name"] == "waiting")
            assert state["reason"] == "ended"
            proxy.cut()  # it must not come back before there is something that it has missed
            eventually(lambda: "unreachable" in [state.get("reason") for state in tab.all("state")])
            now = tab.page.evaluate("Date.now()")
            waits = [state["retryAt"] for state in tab.all("state") if state["name"] == "waiting"]
            assert all(now - 15_000 < retry_at < now + 30_000 for retry_at in waits)
            server.start()
            published(server, f"kill/{transport}", [str(number) for number in range(1, 21)])
            proxy.heal()
            tab.page.evaluate("feed.retry()")
            tab.live()
            server.publish(f"kill/{transport}", "21")
            tab.wait_for(*[str(number) for number in range(22)])
            assert [state["resumed"] for state in tab.all("state") if state["name"] == "live"][1] == {
                "after": last,
                "replayed": 20,
            }
            assert [event["live"] for event in tab.events] == [True] + [False] * 20 + [True]
            assert tab.all("gap") == []


@by_each
def test_a_log_that_is_gone_is_told_as_a_gap_before_what_it_holds_now(
    serve: Serve, open_tab: OpenTab, way: str
) -> None:
    server = serve("--log", "memory:", retry=0.2)
    tab = open_tab(server)
    for transport in transports_of(way):
        tab.connect(transport=transport).live()
        last = server.publish("gap", "before")
        tab.wait_for("before")
        server.kill()
        server.start()
        server.publish("gap", "after")
        tab.page.evaluate("feed.retry()")
        tab.wait_for("before", "after")
        assert [(name, count) for name, _, count in tab.told if name == "gap"] == [("gap", 1)]
        [gap] = tab.all("gap")
        assert gap == {"requested": last, "resumedFrom": gap["resumedFrom"], "reason": "unknown"}


@by_each
def test_beginning_after_an_id_and_with_the_oldest_and_with_nothing(
    server: RunningServer, open_tab: OpenTab, way: str
) -> None:
    topic = f"begin/{way}"
    ids = published(server, topic, ["1", "2", "3"])
    after = open_tab(server).connect(topics=[topic], after=ids[0]).live()
    after.wait_for("2", "3")
    assert after.state["resumed"] == {"after": ids[0], "replayed": 2}
    oldest = open_tab(server).connect(topics=[topic], after="earliest").live()
    oldest.wait_for("1", "2", "3")
    now = open_tab(server).connect(topics=[topic]).live()
    assert now.last_event_id != ""
    server.publish(topic, "4")
    now.wait_for("4")
    after.wait_for("2", "3", "4")
    oldest.wait_for("1", "2", "3", "4")
    assert now.states == ["live"] or now.states == ["connecting", "live"]


@by_each
def test_an_id_that_the_log_does_not_know_is_told_as_a_gap(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    topic = f"unknown/{way}"
    server.publish(topic, "1")
    open_tab(server).connect(topics=[topic]).live()
    tab = open_tab(server).connect(topics=[topic], after="nonsense-1").live()
    tab.wait_for("1")
    [gap] = tab.all("gap")
    assert (gap["requested"], gap["reason"]) == ("nonsense-1", "unknown")
    server.publish(topic, "2")
    tab.wait_for("1", "2")


@by_each
def test_whoever_closes_it_while_being_told_is_told_no_more(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    topic = f"told/{way}"
    published(server, topic, ["1", "2", "3"])
    open_tab(server).connect(topics=[topic]).live()
    tab = open_tab(server)
    tab.page.evaluate(
        """async (topic) => {
            const { connect } = await import("/assets/feed.js");
            window.told = [];
            window.feed = connect({ topics: [topic], after: "earliest" });
            for (const type of ["event", "state"]) {
                feed.addEventListener(type, () => told.push(type === "event" ? type : feed.state.name));
            }
            feed.addEventListener("event", () => feed.close(), { once: true });
        }""",
        topic,
    )
    tab.until("closed")
    server.publish(topic, "4")
    tab.page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert tab.page.evaluate("told.slice(-2)") == ["event", "closed"]
    assert tab.page.evaluate("told").count("event") == 1


@by_each
def test_retry_while_being_told_keeps_the_states_in_order(patient: RunningServer, open_tab: OpenTab, way: str) -> None:
    tab = open_tab(patient).connect().live()
    tab.page.evaluate(
        "feed.addEventListener('state', () => { if (feed.state.name === 'waiting') feed.retry(); }, { once: true })"
    )
    eventually(lambda: subscriptions(patient) == 1)
    [subscription] = patient.http.get(f"{patient.url}/subscriptions").json()["subscriptions"]
    patient.http.delete(f"{patient.url}/subscriptions/{subscription['id']}")
    eventually(lambda: tab.states.count("live") >= 2)
    assert tab.states[tab.states.index("waiting") :] == ["waiting", "connecting", "replaying", "live"]


def test_only_the_types_and_topics_that_were_asked_for_come(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server).connect(topics=["asked/a", "asked/b/*"], types=["x", "message"]).live()
    for path in ("asked/a", "asked/c", "asked/b/1?type=x", "asked/b/1?type=y", "asked/b/1"):
        server.publish(path, path)
    tab.wait_for("asked/a", "asked/b/1?type=x", "asked/b/1")


def test_single_events_come_after_their_batch_with_their_data_as_a_value(
    server: RunningServer, open_tab: OpenTab
) -> None:
    tab = open_tab(server).connect(topics=["single"]).live()
    tab.page.evaluate(
        """() => {
            window.order = [];
            feed.addEventListener("events", ({ detail }) => order.push(detail.length));
            feed.addEventListener("event", ({ detail }) => order.push([detail.data, detail.data === detail.data]));
        }"""
    )
    server.publish("single", '{"a": [1]}', **{"Content-Type": "application/json"})
    server.publish("single", "text")
    eventually(lambda: len(tab.page.evaluate("order.flat(2)")) >= 5)
    order = tab.page.evaluate("order.filter((one) => typeof one !== 'number')")
    assert order == [[{"a": [1]}, True], ["text", True]]
    assert isinstance(tab.page.evaluate("order[0]"), int)


def test_options_that_mean_nothing_are_a_type_error(server: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(server)
    senseless: list[dict[str, Any]] = [
        {"transport": "pigeon"},
        {"topics": "orders/*"},
        {"topics": []},
        {"last": 1001},
        {"quiet": 0},
        {"topic": "orders/*"},
    ]
    for options in senseless:
        said = tab.page.evaluate(
            """async (options) => {
                const { connect } = await import("/assets/feed.js");
                try { connect(options); return "nothing"; } catch (error) { return error.name; }
            }""",
            options,
        )
        assert said == "TypeError", options


# What the server says, and what it refuses.


@pytest.mark.parametrize("way", ["worker", "alone"])
def test_a_kicked_stream_says_so_and_comes_back(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    tab = open_tab(server)
    for transport in transports_of(way):
        topic = f"kicked/{way}/{transport}"
        tab.connect(transport=transport, topics=[topic]).live()
        eventually(lambda: subscriptions(server) == 1)
        [subscription] = server.http.get(f"{server.url}/subscriptions").json()["subscriptions"]
        assert server.http.delete(f"{server.url}/subscriptions/{subscription['id']}").status_code == 204
        eventually(lambda: "waiting" in tab.states)
        tab.live()
        server.publish(topic, "after")
        tab.wait_for("after")
        [closing] = tab.all("closing")
        assert closing["reason"] == "kicked"
        assert 100 <= closing["retry"] <= 300
        assert [state["reason"] for state in tab.all("state") if state["name"] == "waiting"] == ["kicked"]


def test_a_server_that_stops_is_named_as_the_reason(patient: RunningServer, open_tab: OpenTab) -> None:
    tab = open_tab(patient)
    for transport in TRANSPORTS:
        tab.connect(transport=transport).live()
        patient.stop()
        tab.until("waiting")
        state = tab.state
        assert state["reason"] == "shutdown"
        assert 2_000 < state["retryAt"] - tab.page.evaluate("Date.now()") <= 30_000
        patient.start()
        tab.page.evaluate("feed.retry()")
        tab.live()


def test_a_server_without_room_is_waited_for(serve: Serve, open_tab: OpenTab) -> None:
    server = serve("--log", "memory:", retry=0.2, max_subscribers=1)
    tab = open_tab(server)
    for transport in TRANSPORTS:
        with subscribed(f"{server.url}/events/other"):
            tab.connect(transport=transport)
            tab.until("waiting")
            busy = [state for state in tab.all("state") if state["name"] == "waiting"]
            assert busy[0]["reason"] == ("unreachable" if transport == "websocket" else "busy")
        tab.live()
        tab.page.evaluate("feed.close()")
        eventually(lambda: subscriptions(server) == 0)


@by_each
def test_without_a_right_it_is_refused_until_there_is_one(keyed: RunningServer, open_tab: OpenTab, way: str) -> None:
    tab = open_tab(keyed)
    for transport in transports_of(way):
        tab.page.context.clear_cookies()
        tab.connect(transport=transport, topics=["mine/*"]).until("refused")
        assert tab.state == {
            "name": "refused",
            "status": 401,
            "reason": "unauthenticated",
            "detail": tab.state["detail"],
        }
        assert "token" in tab.state["detail"]
        log_in(tab.page, token(subscribe=["other/*"]))
        tab.page.evaluate("feed.retry()")
        eventually(lambda: tab.state.get("status") == 403)
        assert tab.state["reason"] == "forbidden"
        log_in(tab.page, token(subscribe=["mine/*"]))
        tab.page.evaluate("feed.retry()")
        tab.live()
        answer = httpx.post(f"{keyed.url}/events/mine/1", content="x", headers=bearer(token(publish=["**"])))
        assert answer.status_code == 201
        tab.wait_for("x")


def test_a_token_that_expires_is_told_as_such_and_a_new_one_misses_nothing(
    keyed: RunningServer, open_tab: OpenTab
) -> None:
    tabs = {transport: open_tab(keyed) for transport in TRANSPORTS}
    log_in(tabs["fetch"].page, token(subscribe=["**"], seconds=3))
    for transport, tab in tabs.items():
        tab.connect(transport=transport)
    for tab in tabs.values():
        tab.live()
    for tab in tabs.values():
        tab.until("refused")
        assert (tab.state["status"], tab.state["reason"]) == (401, "expired")
        assert [closing["reason"] for closing in tab.all("closing")] == ["token-expired"]
    answer = httpx.post(f"{keyed.url}/events/a", content="meanwhile", headers=bearer(token(publish=["**"])))
    assert answer.status_code == 201
    log_in(tabs["fetch"].page, token(subscribe=["**"]))
    for tab in tabs.values():
        tab.page.evaluate("feed.retry()")
        tab.wait_for("meanwhile")


def test_a_pattern_that_is_none_is_refused_with_the_servers_words(server: RunningServer, open_tab: OpenTab) -> None:
    said = server.http.get(f"{server.url}/events", params={"topic": "a//b"}).json()["detail"]
    tab = open_tab(server)
    for transport in TRANSPORTS:
        tab.connect(transport=transport, topics=["a//b"]).until("refused")
        assert tab.state == {"name": "refused", "status": 422, "reason": "invalid", "detail": said}, transport


class Ingress:
    """A server of somebody else's: `answer` is what it says to everything, and `asked` how often it was."""

    def __init__(self) -> None:
        self.answer = ("", "")
        self.asked = 0
        ingress = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                ingress.asked += 1
                head, body = ingress.answer
                head = f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                self.wfile.write(f"{head}{body}".encode())
                self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()


@pytest.fixture(scope="module")
def ingress() -> Iterator[Ingress]:
    running = Ingress()
    yield running
    running.close()


HTML = "Content-Type: text/html"
NOT_THE_FEED = [
    (f"404 Not Found\r\n{HTML}", "<h1>404</h1>"),
    (f"403 Forbidden\r\n{HTML}\r\nRetry-After: 0", "<h1>403</h1>"),
    (f"401 Unauthorized\r\n{HTML}\r\nWWW-Authenticate: Bearer", "<h1>sign in</h1>"),
    (f"200 OK\r\n{HTML}", "<h1>welcome</h1>"),
    (f"302 Found\r\n{HTML}\r\nLocation: /elsewhere", ""),
    ("422 Unprocessable Content\r\nContent-Type: application/json", '{"detail": "no"}'),
    ("403 Forbidden\r\nContent-Type: application/problem+json", '{"status": 404, "detail": "another one"}'),
    ("404 Not Found\r\nContent-Type: application/problem+json", "<h1>404</h1>"),
    ("200 OK\r\nContent-Type: application/json", '{"events":[{"id":"x-1"}],"gap":{}}'),
    ("200 OK\r\nContent-Type: text/event-stream", "data: of another stream\n\n"),
]


def answered_instead(tab: Tab, proxy: Proxy, ingress: Ingress, answer: tuple[str, str]) -> None:
    """Until the tab has met this answer, and waits."""
    ingress.answer = answer
    asked, waited = ingress.asked, tab.states.count("waiting")
    proxy.reset()
    tab.page.evaluate("feed.retry()")
    eventually(
        lambda: ingress.asked > asked and tab.states.count("waiting") > waited and tab.state["name"] == "waiting"
    )


@by_each
def test_whatever_a_proxy_answers_in_place_of_the_feed_it_is_tried_again(
    server: RunningServer, open_tab: OpenTab, ingress: Ingress, way: str
) -> None:
    with proxy_to(server.port) as proxy:
        tab = open_tab(f"http://127.0.0.1:{proxy.port}/healthz")
        for transport in transports_of(way):
            topic = f"ingress/{transport}/{way}"
            tab.connect(topics=[topic], transport=transport).live()
            proxy.target = ingress.port
            for answer in NOT_THE_FEED:
                answered_instead(tab, proxy, ingress, answer)
            reasons = {state["reason"] for state in tab.all("state") if state["name"] == "waiting"}
            server.publish(topic, "meanwhile")
            proxy.target = server.port
            proxy.reset()
            tab.page.evaluate("feed.retry()")
            tab.live().wait_for("meanwhile")
            assert reasons <= {"ended", "unreachable"}
            assert "refused" not in tab.states
            assert tab.all("gap") == []


def test_a_proxy_that_answers_for_a_page_of_the_past_does_not_end_it(server: RunningServer, open_tab: OpenTab) -> None:
    server.publish("past", "1")
    open_tab(server).connect(topics=["past"]).live()
    tab = open_tab(server)
    answers = [403, 422, 401, 200]
    tab.page.route(
        "**/events?*limit=*",
        lambda route: route.fulfill(status=answers.pop(), body="<h1>no") if answers else route.continue_(),
    )
    tab.connect(topics=["past"], after="earliest")
    while answers:
        left = len(answers)
        eventually(lambda: tab.states and len(answers) < left)
        tab.page.evaluate("feed.renew()")
    tab.live().wait_for("1")
    assert "refused" not in tab.states


def log_in(page: Any, token: str) -> None:
    status = page.evaluate(
        """(token) => fetch("/session", { method: "POST", headers: { Authorization: `Bearer ${token}` } })
            .then(({ status }) => status)""",
        token,
    )
    assert status == 204


# The end.


@by_each
def test_closed_it_says_so_and_nothing_more(server: RunningServer, open_tab: OpenTab, way: str) -> None:
    tab = open_tab(server).connect(topics=[f"closed/{way}"]).live()
    tab.page.evaluate("feed.close()")
    assert tab.state == {"name": "closed"}
    count = len(tab.told)
    server.publish(f"closed/{way}", "x")
    eventually(lambda: subscriptions(server) == 0)
    tab.page.evaluate("feed.retry(); feed.close()")
    assert (tab.texts, len(tab.told)) == ([], count)


def test_what_the_page_about_browsers_shows_works(server: RunningServer, page: Page, watched: Watched) -> None:
    [snippet] = blocks("guides/browser.md", "With `feed.js`", "js")
    page.goto(f"{server.url}/healthz")
    with page.expect_console_message(lambda message: message.text == "live"):
        page.add_script_tag(content=snippet, type="module")
    with page.expect_console_message(lambda message: message.text.endswith(" orders/42 from the guide")) as said:
        published = server.publish("orders/42", "from the guide")
    assert said.value.text.startswith(f"{published} ")
    [snippet] = blocks("guides/browser.md", "The state, with `feed.js`", "js")
    server.publish("scores/ada", "12")
    with page.expect_console_message(lambda message: message.text == "whole: 1"):
        page.add_script_tag(content=snippet, type="module")
