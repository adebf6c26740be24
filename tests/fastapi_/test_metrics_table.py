"""The figures: what each says is what was done, over real HTTP and WebSocket; and none has a name made by a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator

import httpx
import pytest
from websockets.sync.client import connect

from feed import Feed, FeedOptions, Limits, Retention
from feed.batch import Chunk
from feed.fastapi.metrics.table import LoopDelay
from feed.histogram import Histogram
from feed.peer import Peer
from feed.statistics import Counters, transport_of
from tests.support.hostile import raw
from tests.support.running import RunningServer, running
from tests.support.scraping import Scraped, scrape
from tests.support.streams import eventually, subscribed
from tests.support.tokens import SECRET, bearer, token

STREAMS = 6  # of one address


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """Whose window is short, whose retention is little longer, and who soon cuts off those that take nothing."""
    options = {"retain_events": 40, "window_events": 10, "stall": 1, "max_subscribers_per_address": STREAMS}
    with running("--log", "memory:", node="n", **options) as shared:
        yield shared


class Since:
    """How much the figures have grown since it was made."""

    def __init__(self, server: RunningServer) -> None:
        eventually(lambda: scrape(server)["feed_subscribers"] == {"n": 0})  # what a test before has left behind
        self._server = server
        self._before = scrape(server)

    def of(self, *names: str) -> list[float]:
        """Of each of these."""
        now = scrape(self._server)
        return [now[name]["n"] - self._before[name]["n"] for name in names]

    def growing(self, name: str) -> dict[str, float]:
        """Of a figure that has a label: by its values, those that have grown."""
        now, before = values(self._server, name), by_label(self._before, name)
        return {label: value - before[label] for label, value in now.items() if value > before[label]}


def by_label(found: Scraped, name: str) -> dict[str, float]:
    """A figure that has a label, by its values."""
    return {full.split()[1]: nodes["n"] for full, nodes in found.items() if full.startswith(f"{name} ")}


def values(server: RunningServer, name: str) -> dict[str, float]:
    """The same now, but for zeros."""
    return {label: value for label, value in by_label(scrape(server), name).items() if value}


@pytest.fixture
def since(server: RunningServer) -> Since:
    return Since(server)


# Publishing.


def test_publishes_count_by_what_became_of_them_and_a_batch_is_one(server: RunningServer, since: Since) -> None:
    url, http = server.url, server.http
    server.publish("a", "12345")
    batch = [{"topic": "a", "data": "é"}] * 3
    assert http.post(f"{url}/events", json=batch).status_code == 201
    assert http.post(f"{url}/events/a//b", content="x").status_code == 422
    assert http.post(f"{url}/events", json=[]).status_code == 422
    assert http.post(f"{url}/events", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert http.post(f"{url}/events/a", content="x", headers={"Content-Encoding": "gzip"}).status_code == 415
    assert http.post(f"{url}/events/a", content="x" * 300_000).status_code == 413
    assert http.post(f"{url}/events/a", content="x", headers={"Origin": "http://evil.example"}).status_code == 403
    assert since.growing("feed_publishes_total") == {"created": 2, "invalid": 5}, "what no page may ask is none"
    assert since.of("feed_published_events_total", "feed_published_bytes_total") == [4, 5 + 3 * 2]


def test_a_publish_that_is_repeated_with_its_key_is_no_more_events(server: RunningServer, since: Since) -> None:
    ids = {server.publish("a", "once", **{"Idempotency-Key": "figures"}) for _ in range(3)}
    assert len(ids) == 1
    assert since.growing("feed_publishes_total") == {"created": 1, "repeated": 2}
    assert since.of("feed_published_events_total", "feed_published_bytes_total") == [1, 4]


def test_what_a_websocket_publishes_counts_too(server: RunningServer, since: Since) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/ws/figures") as socket:
        for text in ("text", '{"data": 1, "key": "k"}', '{"data": 1, "key": "k"}', '{"data": 1, "topic": "a//b"}'):
            socket.send(text)
        answers = 0
        while answers < 4:
            answers += json.loads(socket.recv(10))["type"] in ("feed.ack", "feed.error")
    assert since.growing("feed_publishes_total") == {"created": 2, "repeated": 1, "invalid": 1}


def test_publishes_without_a_right_or_beyond_the_rate_count_as_such() -> None:
    with running("--log", "memory:", node="n", jwt_secret=SECRET, metrics_public=1, publish_rate=1) as guarded:
        own = bearer(token(publish=["a"], sub="s"))
        url = f"{guarded.url}/events"
        statuses = [
            guarded.http.post(f"{url}/{topic}", content="x", headers=headers).status_code
            for topic, headers in (("a", {}), ("b", own), ("a", own), ("a", own), ("a", own))
        ]
        assert guarded.http.get(f"{url}/a").status_code == 401
        found = values(guarded, "feed_publishes_total")
        assert found["denied"] == statuses.count(401) + statuses.count(403) == 2
        assert found["overloaded"] == statuses.count(429) >= 1
        assert found.get("created", 0) == statuses.count(201)
        assert values(guarded, "feed_subscriptions_refused_total") == {"denied": 1}


# Reading.


def test_streams_are_counted_by_how_they_read_while_they_are_open_and_for_ever(
    server: RunningServer, since: Since
) -> None:
    url = f"{server.url}/events/by-transport"
    with contextlib.ExitStack() as stack:
        for accept in ("text/event-stream", "text/event-stream", "application/x-ndjson"):
            stack.enter_context(subscribed(url, Accept=accept))
        stack.enter_context(connect(f"{server.url.replace('http', 'ws')}/ws/by-transport"))
        eventually(lambda: values(server, "feed_subscribers_by_transport") == {"sse": 2, "ndjson": 1, "websocket": 1})
        assert scrape(server)["feed_subscribers"] == {"n": 4}
    eventually(lambda: values(server, "feed_subscribers_by_transport") == {})
    poll = {"wait": "0.05", "last_event_id": server.history()["next"]}
    assert server.http.get(url, params=poll, headers={"Accept": "application/json"}).json()["events"] == []
    assert since.growing("feed_subscriptions_total") == {"sse": 2, "ndjson": 1, "websocket": 1, "poll": 1}
    assert since.growing("feed_disconnects_total") == {"client": 5}


def test_what_is_delivered_is_counted_in_events_and_in_the_bytes_that_came(server: RunningServer, since: Since) -> None:
    url = f"{server.url}/events/delivered"
    with httpx.stream("GET", url, timeout=10) as sse, subscribed(url, Accept="application/x-ndjson") as lines:
        eventually(lambda: scrape(server)["feed_subscribers"] == {"n": 2})
        for number in range(3):
            server.publish("delivered", f"{number}")
            lines.object()
        received = b""
        for chunk in sse.iter_raw():
            received += chunk
            if received.count(b"\ndata: ") == 4:
                break
        assert since.growing("feed_delivered_events_total") == {"sse": 3, "ndjson": 3}, "while they are open"
        assert since.growing("feed_delivered_bytes_total")["sse"] == len(received)
    page = server.http.get(url, headers={"Accept": "application/json"})
    assert len(page.json()["events"]) == 3
    eventually(lambda: scrape(server)["feed_subscribers"] == {"n": 0})
    assert since.growing("feed_delivered_events_total") == {"sse": 3, "ndjson": 3, "history": 3}, "and afterwards"
    assert since.growing("feed_delivered_bytes_total")["sse"] == len(received)
    assert since.growing("feed_delivered_bytes_total")["history"] == len(page.content)


def test_readers_that_are_refused_count_by_why(server: RunningServer, since: Since) -> None:
    url = f"{server.url}/events"
    assert server.http.get(f"{url}/a//b").status_code == 422
    assert server.http.get(f"{server.url}/ws?topic=a", headers={"Upgrade": "x"}).status_code == 426
    with contextlib.ExitStack() as stack:
        for _ in range(STREAMS):
            stack.enter_context(subscribed(f"{url}/refused"))
        assert server.http.get(f"{url}/refused", headers={"Accept": "application/x-ndjson"}).status_code == 503
        with subscribed(f"{url}/refused", opened=False) as refused:
            assert refused.frame().event == "feed.closing"
    assert since.growing("feed_subscriptions_refused_total") == {"invalid": 1, "busy": 2}
    assert since.growing("feed_subscriptions_total") == {"sse": STREAMS}


def test_streams_that_end_count_by_why(server: RunningServer, since: Since) -> None:
    url = f"{server.url}/events/ended"
    with subscribed(url), subscribed(url, opened=False) as kicked:
        id = kicked.frame().json["subscription"]
        assert server.http.delete(f"{server.url}/subscriptions/{id}").status_code == 204
        eventually(lambda: since.growing("feed_disconnects_total") == {"kicked": 1})
    eventually(lambda: since.growing("feed_disconnects_total") == {"kicked": 1, "client": 1})


def test_a_reader_that_takes_nothing_overflows_its_queue_and_ends_as_slow(server: RunningServer, since: Since) -> None:
    with subscribed(f"{server.url}/events/slow"):
        while since.of("feed_queue_overflows_total") == [0]:
            server.publish("slow", "x" * 250_000)
        eventually(lambda: since.growing("feed_disconnects_total") == {"slow": 1})
    assert scrape(server)["feed_lagging_subscribers"] == {"n": 0}


# The past.


def replays(since: Since, source: str) -> list[float]:
    """How many there were, and of how many events in sum."""
    return since.of(f"feed_replay_events_count {source}", f"feed_replay_events_sum {source}")


def test_a_replay_counts_with_its_size_by_where_it_came_from(server: RunningServer, since: Since) -> None:
    first = server.publish("replayed", "0")
    for number in range(1, 20):
        server.publish("replayed", str(number))
    with subscribed(f"{server.url}/events/replayed?last=5") as stream:
        assert len(stream.until("feed.live")) == 6
    assert (replays(since, "window"), replays(since, "log")) == ([1, 5], [0, 0])
    with subscribed(f"{server.url}/events/replayed", Last_Event_ID=first) as stream:
        assert len(stream.until("feed.live")) == 20
    assert (replays(since, "window"), replays(since, "log")) == ([1, 5], [1, 19])


def test_a_long_poll_is_no_replay(server: RunningServer, since: Since) -> None:
    position = server.history()["next"]
    assert server.history("nothing", last_event_id=position, wait=0.05)["events"] == []
    assert since.growing("feed_subscriptions_total") == {"poll": 1}
    assert (replays(since, "window"), replays(since, "log")) == ([0, 0], [0, 0])


def test_a_replay_that_its_reader_did_not_wait_for_counts_too() -> None:
    async def leave() -> Counters:
        async with Feed("memory:") as feed:
            for _ in range(1_500):
                await feed.publish("a", "x")
            async with asyncio.timeout(10):
                while feed.statistics().lag:
                    await asyncio.sleep(0)
            async with feed.subscribe("a", last=1_000) as events:
                await anext(events)
            return feed.counters

    counters = asyncio.run(leave())
    assert sum(counters.replays["window"].counts) == 1
    assert 0 < counters.replays["window"].sum < 1_000


def test_gaps_count_by_why(server: RunningServer, since: Since) -> None:
    first = server.publish("gap")
    for _ in range(45):
        server.publish("gap")
    with subscribed(f"{server.url}/events/gap", Last_Event_ID=first) as stream:
        assert stream.frame().event == "feed.gap"
    with subscribed(f"{server.url}/events/gap", Last_Event_ID="nonsense") as stream:
        assert stream.frame().event == "feed.gap"
    assert server.history("gap", last_event_id="nonsense-1")["gap"]["reason"] == "unknown"
    assert since.growing("feed_gaps_total") == {"expired": 1, "unknown": 2}


# How long it takes.


def test_each_fan_out_is_timed_and_so_is_the_delay_of_what_it_brought(server: RunningServer, since: Since) -> None:
    parts = [f"feed_{name}_seconds_{part}" for name in ("fan_out", "delivery_delay") for part in ("count", "sum")]
    with subscribed(f"{server.url}/events/timed") as stream, subscribed(f"{server.url}/events/timed"):
        begun = time.time()
        for _ in range(5):
            server.publish("timed")
            stream.frame()
        fan_outs, fan_out_seconds, delays, delay_seconds = since.of(*parts)
    took = time.time() - begun
    assert fan_outs == delays == 5
    assert 0 < fan_out_seconds < took
    assert 0 <= delay_seconds < took + 5 * 0.001, "times of commits are whole milliseconds"
    eventually(lambda: scrape(server)["feed_subscribers"] == {"n": 0})
    server.publish("timed")
    assert since.of("feed_fan_out_seconds_count") == [5], "nobody listens"


def test_a_reader_that_makes_the_others_wait_shows_in_both() -> None:
    async def slowly() -> Counters:
        class Slow:
            def write(self, chunk: object) -> None:
                time.sleep(0.03)

            def finish(self, reason: object) -> None:
                pass

        async with Feed("memory:") as feed:
            subscriptions = [await feed.attach(feed.select(["a"]), after=None, last=None) for _ in range(3)]
            for subscription in subscriptions:
                subscription.flow_into(Slow(), lambda items: Chunk(b"", 0))
            await feed.publish("a", "x")
            async with asyncio.timeout(10):
                while not sum(feed.counters.fan_outs.counts):
                    await asyncio.sleep(0)
            return feed.counters

    counters = asyncio.run(slowly())
    assert 0.09 <= counters.fan_outs.sum < 5
    assert 0.089 <= counters.delays.sum < 5


def test_a_loop_that_stands_still_shows_in_its_delay() -> None:
    async def stand_still() -> Histogram:
        delay = LoopDelay()
        watching = asyncio.create_task(delay.watch())
        async with asyncio.timeout(10):
            while not sum(delay.seen.counts):
                await asyncio.sleep(0.01)
            time.sleep(0.4)  # noqa: ASYNC251  that is the point
            while sum(delay.seen.counts) < 2:
                await asyncio.sleep(0.01)
        watching.cancel()
        return delay.seen

    seen = asyncio.run(stand_still())
    assert seen.sum >= 0.3
    assert sum(seen.counts[seen.bounds.index(0.25) + 1 :]) == 1


def test_the_loop_is_looked_at_ten_times_a_second(server: RunningServer, since: Since) -> None:
    eventually(lambda: since.of("feed_event_loop_delay_seconds_count")[0] >= 3)


# The log.


def test_the_age_of_the_oldest_event_grows_and_an_empty_log_has_none() -> None:
    with running("--log", "memory:", node="n", retain_events=1) as server:
        assert scrape(server)["feed_log_oldest_age_seconds"] == {"n": 0}
        begun = time.time()
        server.publish("a")
        eventually(lambda: scrape(server)["feed_log_oldest_age_seconds"]["n"] > 0.05)
        age = scrape(server)["feed_log_oldest_age_seconds"]["n"]
        assert age <= time.time() - begun + 0.001
        server.publish("a")
        assert scrape(server)["feed_log_oldest_age_seconds"]["n"] < age


# Names.


HOSTILE = ["evil", 'a"b', "a{b}", "x" * 200, "%0a", "é", "\\", "feed_x 1"]


def series(server: RunningServer) -> set[str]:
    """Each line of the page without its value."""
    return {line.rpartition(" ")[0] for line in server.http.get(f"{server.url}/metrics").text.splitlines()}


def test_nothing_that_a_client_makes_up_is_a_name(server: RunningServer, since: Since) -> None:
    before = series(server)
    assert len(before) > 100
    for number, word in enumerate(HOSTILE):
        quoted = httpx.URL("http://x", params={"x": word}).query.decode().removeprefix("x=")
        headers = {b"Last-Event-ID": word.encode(), b"User-Agent": word.encode(), b"Accept": b"application/%d" % number}
        server.http.post(f"{server.url}/events/{quoted}?type={quoted}", content=word.encode(), headers=headers)
        server.http.post(f"{server.url}/events/ok{number}", content=b"x", headers={"Idempotency-Key": f"{number}"})
        server.http.request("DELETE", f"{server.url}/subscriptions/{quoted}", headers=headers)
        server.http.request(f"EVIL{number}", f"{server.url}/{quoted}", headers=headers)
        server.http.get(f"{server.url}/metrics?{quoted}={quoted}")
        with (
            contextlib.suppress(EOFError),
            subscribed(f"{server.url}/events/{quoted}", headers, opened=False) as told,
        ):
            told.line()
        with connect(f"{server.url.replace('http', 'ws')}/ws?topic=b&x={quoted}", subprotocols=None) as socket:
            socket.send(json.dumps({"data": word, "topic": word, "type": word, "key": word, "ref": word}))
            socket.recv(10)
    with raw(server) as client:
        assert b"400" in client.ask(b"NONSENSE \x00\r\n\r\n")
    assert since.of("feed_subscriptions_total sse")[0] > 0
    assert series(server) == before


def test_a_transport_that_is_not_known_counts_as_the_librarys() -> None:
    assert transport_of("carrier pigeon") == "library"

    async def attach() -> dict[str, int]:
        async with Feed("memory:") as feed:
            selection = feed.select(["a"])
            feed.detach(await feed.attach(selection, after=None, last=None, peer=Peer("carrier pigeon")))
            return feed.counters.subscribed

    assert {name: count for name, count in asyncio.run(attach()).items() if count} == {"library": 1}


# Plain numbers.


def test_a_histogram_counts_a_value_under_the_first_bound_that_it_does_not_exceed() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1, 100.0):
        histogram.observe(value)
    assert (histogram.counts, histogram.sum) == ([2, 2, 2], 106.6)
    histogram.add(histogram)
    assert (histogram.counts, histogram.sum) == ([4, 4, 4], 213.2)


def test_a_feed_that_is_opened_again_goes_on_counting() -> None:
    async def twice() -> None:
        options = FeedOptions(retention=Retention(events=10), limits=Limits(queue_events=4))
        feed = Feed("memory:", options)
        for turn in (1, 2):
            async with feed, feed.subscribe("a") as events:
                await feed.publish("a", "x")
                await anext(events)
                assert feed.statistics().delivered["library"].events == turn
            assert feed.counters.ended["client"] == feed.counters.subscribed["library"] == turn
            assert (feed.counters.published, feed.statistics().delivered["library"].events) == (turn, turn)

    asyncio.run(twice())


def test_a_stream_whose_writing_breaks_ends_with_an_error() -> None:
    async def broken() -> Scraped | dict[str, int]:
        class Broken:
            def write(self, chunk: object) -> None:
                raise ValueError("nobody foresaw this")

            def finish(self, reason: object) -> None:
                pass

        async with Feed("memory:") as feed:
            subscription = await feed.attach(feed.select(["a"]), after=None, last=None)
            with contextlib.suppress(ValueError):
                subscription.flow_into(Broken(), lambda items: Chunk(b"", 0))
            subscription.break_off()
            feed.detach(subscription)
            feed.detach(subscription)
            return feed.counters.ended

    assert {name: count for name, count in asyncio.run(broken()).items() if count} == {"error": 1}
