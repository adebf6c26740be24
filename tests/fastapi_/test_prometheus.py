"""`/metrics`: what it says is what was done, of one process and of several, whichever of them answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import REGISTRY

from feed import Feed, FeedOptions, Limits
from feed.fastapi.metrics.prometheus import metrics_of
from feed.fastapi.metrics.table import FIGURES
from feed.statistics import Queues
from feed_server import Settings, create_app
from tests.conftest import Serve, StartRedis
from tests.support.redis_server import RedisServer
from tests.support.running import RunningServer
from tests.support.scraping import Scraped, client_of_each, scrape, scraped, workers
from tests.support.streams import eventually, subscribed

NAMES = {figure.name + ("_total" if getattr(figure, "kind", "") == "counter" else "") for figure in FIGURES}
NAMES -= {"feed_class_events", "feed_class_bytes"}  # where retention has classes


def names(found: Scraped) -> set[str]:
    """What the page is of. The parts of a histogram have its name."""
    return {re.sub(r"(_bucket|_sum|_count)?( .*)?$", "", name) for name in found}


@pytest.fixture
def alone(serve: Serve) -> RunningServer:
    """One process, by the name of `n`."""
    return serve("--log", "memory:", node="n")


def test_it_says_what_was_done(alone: RunningServer) -> None:
    with subscribed(f"{alone.url}/events/a"), subscribed(f"{alone.url}/events/b"):
        for _ in range(5):
            alone.publish("a")
        batch = [{"topic": "b", "data": 1}] * 3
        assert alone.http.post(f"{alone.url}/events", json=batch).status_code == 201
        found = scrape(alone)
        assert names(found) == NAMES
        assert found["feed_subscribers"] == {"n": 2}
        assert found["feed_published_events_total"] == {"n": 8}
        assert found["feed_log_position"] == {"n": 8}
        assert found["feed_log_reconnects_total"] == {"n": 0}
        assert found["feed_log_events"] == {"n": 8}
        eventually(lambda: scrape(alone)["feed_topics"] == {"n": 2})
        assert found["feed_log_bytes"] == {"n": 8 * len("amessagex") + 8 * 64}
        assert abs(found["feed_time_seconds"]["n"] - time.time()) < 5
        eventually(lambda: scrape(alone)["feed_log_lag_events"] == {"n": 0})
    eventually(lambda: scrape(alone)["feed_subscribers"] == {"n": 0})


def test_what_was_refused_is_not_counted(alone: RunningServer) -> None:
    alone.publish("a")
    assert alone.http.post(f"{alone.url}/events/a//b", content="x").status_code == 422
    assert alone.http.get(f"{alone.url}/events/a//b").status_code == 422
    found = scrape(alone)
    assert found["feed_published_events_total"] == {"n": 1}
    assert found["feed_subscribers"] == {"n": 0}


def test_a_node_is_named_after_its_host_and_port_unless_told_otherwise(server: RunningServer) -> None:
    assert set(scrape(server)["feed_subscribers"]) == {f"{os.uname().nodename}:{server.port}"}


def test_the_answer_is_in_the_format_that_was_asked_for(alone: RunningServer) -> None:
    plain = alone.http.get(f"{alone.url}/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert plain.headers["cache-control"] == "no-store"
    assert "# TYPE feed_published_events_total counter" in plain.text
    head = alone.http.head(f"{alone.url}/metrics")
    assert (head.status_code, head.content) == (200, b"")
    asked = {"Accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = alone.http.get(f"{alone.url}/metrics", headers=asked)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    for odd in ("application/openmetrics-text; version=x", "text/plain; version=;q=x", "text/plain; version=1.y"):
        answer = alone.http.get(f"{alone.url}/metrics", headers={"Accept": odd})
        assert (answer.status_code, "# TYPE feed_subscribers gauge" in answer.text) == (200, True)


def test_a_folder_that_somebody_else_shares_is_left_alone(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    server = serve("--log", "memory:", node="n")
    server.publish("a")
    assert scrape(server)["feed_published_events_total"] == {"n": 1}
    assert list(tmp_path.iterdir()) == []


def test_several_feeds_in_one_process_count_each_for_itself() -> None:
    before = {metric.name for metric in REGISTRY.collect()}

    async def publish() -> None:
        async with Feed("memory:") as one, Feed("memory:") as other, one.subscribe("a"):
            pages = [metrics_of(feed, "same") for feed in (one, other)]
            await one.publish("a", "x")
            first, second = [scraped((await page.page(""))[0].decode()) for page in pages]
            assert first["feed_published_events_total"] == {"same": 1}
            assert first["feed_subscribers"] == {"same": 1}
            assert second["feed_published_events_total"] == {"same": 0}
            assert second["feed_subscribers"] == {"same": 0}

    asyncio.run(publish())
    for _ in range(2):
        create_app(Settings(log="memory:"))
    assert {metric.name for metric in REGISTRY.collect()} == before


def test_lines_that_a_log_has_dropped_are_told_of_where_somebody_counts_them() -> None:
    async def page(dropped_lines: Callable[[], int] | None) -> str:
        async with Feed("memory:") as feed:
            return (await metrics_of(feed, "n", dropped_lines=dropped_lines).page(""))[0].decode()

    assert scraped(asyncio.run(page(lambda: 3)))["feed_dropped_log_lines_total"] == {"n": 3}
    assert "feed_dropped_log_lines" not in asyncio.run(page(None))


def test_the_folders_name_is_there_before_the_library_that_looks_for_it() -> None:
    program = "import sys, feed.fastapi.metrics; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def position_and_lag(feed: Feed) -> tuple[int, int]:
    statistics = feed.statistics()
    return statistics.position, statistics.lag


def test_the_lag_is_what_was_not_passed_on_yet() -> None:
    async def publish() -> None:
        async with Feed("memory:") as feed:
            assert position_and_lag(feed) == (0, 0)
            await feed.publish("a", "x")  # which the relay cannot have heard of: nothing has waited
            assert position_and_lag(feed) == (1, 1)
            async with asyncio.timeout(10):
                while feed.statistics().lag:
                    await asyncio.sleep(0)
        assert (*position_and_lag(feed), feed.counters.published) == (0, 0, 1)

    asyncio.run(publish())


def test_what_waits_in_queues_is_summed_up_and_who_cannot_keep_up_is_lagging() -> None:
    async def publish() -> None:
        options = FeedOptions(limits=Limits(queue_events=10))
        async with Feed("memory:", options) as feed, feed.subscribe("a/*") as one, feed.subscribe("a/b"):

            async def after(*topics: str) -> Queues:
                for topic in topics:
                    await feed.publish(topic, "x")
                async with asyncio.timeout(10):
                    while feed.statistics().lag:
                        await asyncio.sleep(0)
                return feed.statistics().queues

            assert feed.statistics().queues == Queues(0, 0, 0)
            assert await after("a/b", "a/c", "a/c", "elsewhere") == Queues(events=4, deepest=3, lagging=0)
            assert await after(*["a/c"] * 8) == Queues(events=1, deepest=1, lagging=1)

            async def read() -> None:
                while await one.take():
                    pass

            reading = asyncio.create_task(read())
            async with asyncio.timeout(10):
                while feed.statistics().queues.lagging:  # it reads the log to its end, and the queue from then on
                    await asyncio.sleep(0)
            reading.cancel()
            assert await after("a/c") == Queues(events=2, deepest=1, lagging=0)
        assert feed.statistics().queues == Queues(0, 0, 0)

    asyncio.run(publish())


def test_a_stalled_reader_is_lagging_until_it_has_read_what_it_missed(alone: RunningServer) -> None:
    def lagging() -> bool:
        return scrape(alone)["feed_lagging_subscribers"] == {"n": 1}

    with subscribed(f"{alone.url}/events/stalled") as stalled, subscribed(f"{alone.url}/events/other"):
        published = 0
        while not lagging():
            alone.publish("stalled", "x" * 200_000)
            published += 1
            assert published < 500, "no connection takes so much that nobody reads"
        for _ in range(published):
            assert stalled.frame().data == "x" * 200_000
        eventually(lambda: not lagging())


def test_the_log_is_said_to_hold_what_retention_keeps(serve: Serve, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", node="n", retain_events=5)
    for _ in range(8):
        server.publish("a", "12345")
    found = scrape(server)
    assert found["feed_log_events"] == {"n": 5}
    assert found["feed_log_bytes"] == {"n": 5 * (len("amessage12345") + 64)}
    assert found["feed_log_position"] == {"n": 8}
    sizes = [(tmp_path / name).stat().st_size for name in ("feed.db", "feed.db-wal")]
    assert found["feed_log_file_bytes"] == {"n": sum(sizes)}
    assert found["feed_log_wal_bytes"] == {"n": sizes[1]}


def test_of_a_log_that_is_not_open_nothing_is_said(serve: Serve, start_redis: StartRedis) -> None:
    redis = start_redis(appendonly="no")
    redis.kill()
    of_log = {
        "feed_topics",
        "feed_log_events",
        "feed_log_bytes",
        "feed_log_oldest_age_seconds",
        "feed_log_file_bytes",
        "feed_log_wal_bytes",
    }
    servers = [serve("--log", redis.url(), *several, node="n") for several in ((), ("--workers", "2"))]
    for server in servers:
        assert NAMES - names(scrape(server)) == of_log
    redis.start()
    for server in servers:
        eventually(lambda: names(scrape(server)) == NAMES, 20)


def test_a_node_knows_what_others_have_brought_to_the_log(
    serve: Serve, shared_redis: RedisServer, request: pytest.FixtureRequest
) -> None:
    url = shared_redis.url(request.node.name[:100])
    one, other = (serve("--log", url, node=node, retain_events=5) for node in "ab")
    for number in range(4):
        one.publish("a", "x" * number)
    eventually(lambda: scrape(other)["feed_log_events"] == {"b": 4})
    eventually(lambda: scrape(other)["feed_log_bytes"] == {"b": 4 * (len("amessage") + 64) + 1 + 2 + 3})
    for number in range(4, 8):
        one.publish("a", "x" * number)
    eventually(lambda: scrape(other)["feed_log_events"] == {"b": 5})
    eventually(lambda: scrape(other)["feed_log_bytes"] == {"b": 5 * (len("amessage") + 64) + 3 + 4 + 5 + 6 + 7})


def test_reconnects_are_counted(serve: Serve, start_redis: StartRedis) -> None:
    redis = start_redis(appendonly="no")
    server = serve("--log", redis.url(), node="n")
    assert scrape(server)["feed_log_reconnects_total"] == {"n": 0}
    with redis.client() as client:

        def following() -> list[str]:
            return [connection["addr"] for connection in client.client_list() if connection["cmd"] == "xread"]

        (address,) = eventually(following)
        client.client_kill(address)
    eventually(lambda: scrape(server)["feed_log_reconnects_total"] == {"n": 1})


def test_the_other_commands_do_without_the_library() -> None:
    code = "import sys, feed_server.cli.main; print([name for name in sys.modules if 'prometheus' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# Several workers.


@pytest.fixture
def several(serve: Serve, shared_redis: RedisServer, request: pytest.FixtureRequest) -> RunningServer:
    """Three workers, by the names of `n/1`, `n/2` and `n/3`."""
    server = serve("--workers", "3", "--log", shared_redis.url(request.node.name[:100]), node="n")
    eventually(lambda: len(scrape(server)["feed_subscribers"]) == 3)
    return server


def test_whichever_worker_answers_it_is_of_all_of_them(several: RunningServer) -> None:
    with client_of_each(several) as clients, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(subscribed(f"{several.url}/events/a"))
        for count, http in enumerate(clients.values(), 1):
            for _ in range(count):
                assert http.post(f"{several.url}/events/a", content="x").status_code == 201
        for http in clients.values():
            eventually(lambda: told(scrape(several, http)))


def told(found: Scraped) -> bool:
    """Whether that is what was done: thirty streams, and one, two and three events through each worker."""
    assert names(found) == NAMES
    return (
        sorted(found["feed_published_events_total"].values()) == [1, 2, 3]
        and sum(found["feed_subscribers"].values()) == 30
        and found["feed_log_position"] == {"n/1": 6, "n/2": 6, "n/3": 6}
        and found["feed_log_lag_events"] == {"n/1": 0, "n/2": 0, "n/3": 0}
        and found["feed_log_events"] == {"n/1": 6, "n/2": 6, "n/3": 6}
        and set(found["feed_log_bytes"].values()) == {6 * (len("amessagex") + 64)}
        and sum(found["feed_queued_events"].values()) == 0
        and sum(found["feed_lagging_subscribers"].values()) == 0
        and sum(found["feed_subscribers_by_transport sse"].values()) == 30
        and sum(found["feed_subscriptions_total sse"].values()) == 30
        and sum(found["feed_delivered_events_total sse"].values()) == 30 * 6
        and sorted(found["feed_publishes_total created"].values()) == [1, 2, 3]
        and found["feed_log_commit_seconds_count"] == found["feed_published_events_total"]
        and found["feed_log_commit_seconds_bucket +Inf"] == found["feed_published_events_total"]
        and all(sum(found[f"feed_{each}_seconds_count"].values()) >= 6 for each in ("fan_out", "delivery_delay"))
        and 0 < sum(found["feed_fan_out_seconds_sum"].values()) < 10
    )


def test_the_latest_clock_is_that_of_the_worker_that_answers(several: RunningServer) -> None:
    with client_of_each(several) as clients:
        for http in clients.values():
            before = time.time()
            clocks = scrape(several, http)["feed_time_seconds"]
            assert set(clocks) == {"n/1", "n/2", "n/3"}
            assert before <= max(clocks.values()) <= time.time()
            assert min(clocks.values()) > before - 10, "they are told each second"


def test_stalled_readers_are_counted_over_all_workers(several: RunningServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(subscribed(f"{several.url}/events/stalled"))
        published = 0
        while sum(scrape(several)["feed_lagging_subscribers"].values()) < 12:
            several.publish("stalled", "x" * 200_000)
            published += 1
            assert published < 500, "no connection takes so much that nobody reads"
        found = scrape(several)
        assert len(set(found["feed_lagging_subscribers"].values()) - {0}) > 0
        assert max(found["feed_log_events"].values()) == published


def test_what_a_dead_worker_has_counted_stays_and_its_streams_go(several: RunningServer) -> None:
    with client_of_each(several) as clients, contextlib.ExitStack() as stack:
        for _ in range(30):
            stack.enter_context(subscribed(f"{several.url}/events/a"))
        for http in clients.values():
            assert http.post(f"{several.url}/events/a", content="x").status_code == 201
        eventually(lambda: sum(scrape(several)["feed_published_events_total"].values()) == 3)
        eventually(lambda: sum(scrape(several)["feed_subscribers"].values()) == 30)
        before = scrape(several)["feed_subscribers"]
        killed = workers(several)[0]
        os.kill(killed, signal.SIGKILL)
        counts = []

        def replaced() -> bool:
            try:
                found = scrape(several)
            except httpx.TransportError:
                return False  # the connection was idle for long, and another one came to the killed worker
            counts.append(sum(found["feed_published_events_total"].values()))
            subscribers = found["feed_subscribers"]
            return killed not in workers(several) and len(subscribers) == 3 and 0 in subscribers.values()

        several.http.close()
        several.http = next(http for pid, http in clients.items() if pid != killed)
        eventually(replaced)
        assert counts == [3] * len(counts), "a counter never goes back"
        left = scrape(several)["feed_subscribers"]
        assert sum(left.values()) == 30 - next(before[node] for node in before if left[node] == 0)


def test_the_folder_that_workers_share_is_theirs_alone_and_gone_at_the_end(
    serve: Serve, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(theirs))
    server = serve("--workers", "2", "--log", shared_redis.url("folder"))
    server.publish("a")
    eventually(lambda: sum(scrape(server)["feed_published_events_total"].values()) == 1)
    (own,) = set(tmp_path.iterdir()) - {theirs}
    assert own.name.startswith("feed-metrics-")
    assert own.stat().st_mode & 0o777 == 0o700
    assert server.stop() == 0
    assert list(tmp_path.iterdir()) == [theirs]
    assert list(theirs.iterdir()) == []


def test_a_file_that_a_worker_has_just_begun_is_passed_over(
    serve: Serve, shared_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = serve("--workers", "2", "--log", shared_redis.url("begun"))
    (folder,) = tmp_path.iterdir()
    for name in ("counter_1.db", "gauge_livesum_1.db", "histogram_1.db"):
        (folder / name).touch()
    server.publish("a")
    eventually(lambda: sum(scrape(server)["feed_published_events_total"].values()) == 1)


def test_each_class_of_retention_has_its_figures(serve: Serve) -> None:
    server = serve("--log", "memory:", "--retain", "noise/**=2; s/*=latest,1", node="n")
    for topic in ("a", "noise/1", "noise/2", "noise/3", "s/1", "s/2"):
        server.http.post(f"{server.url}/events/{topic}", content="x")
    text = server.http.get(f"{server.url}/metrics").text
    found = re.findall(r'^feed_class_events\{class="([^"]+)",node="n"\} (\S+)$', text, re.MULTILINE)
    assert dict(found) == {"noise/**": "2.0", "s/*": "2.0", "default": "1.0"}
