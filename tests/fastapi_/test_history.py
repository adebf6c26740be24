"""History pages and the long poll, over real HTTP."""

from __future__ import annotations

import concurrent.futures
import contextlib
import time
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from tests.conftest import Serve
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed


def page(server: RunningServer, path: str, **parameters: Any) -> Any:
    answer = server.http.get(f"{server.url}/events/{path}", params=parameters, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def ids_of(document: Any) -> list[str]:
    return [event["id"] for event in document["events"]]


def test_a_page_holds_the_oldest_hundred_and_says_where_to_go_on(server: RunningServer) -> None:
    ids = server.publish_numbers("pages", 250)
    first = page(server, "pages")
    assert ids_of(first) == ids[:100]
    assert first["next"] == ids[99]
    assert "gap" not in first
    assert set(first["events"][0]) == {"id", "topic", "type", "data", "time"}
    second = page(server, "pages", last_event_id=first["next"], limit=1000)
    assert ids_of(second) == ids[100:]
    assert ids_of(page(server, "pages", last_event_id=second["next"])) == []


def test_next_moves_over_what_was_not_wanted_also_on_an_empty_page(server: RunningServer) -> None:
    ids = server.publish_numbers("wanted", 2)
    server.publish_numbers("not-wanted", 10)
    empty = page(server, "wanted", last_event_id=ids[1])
    assert empty["events"] == []
    newest = server.publish("not-wanted")
    assert int(empty["next"].split("-")[1]) == int(newest.split("-")[1]) - 1


def test_before_pages_backwards_to_the_very_first(server: RunningServer) -> None:
    ids = server.publish_numbers("back/1", 25)
    before = ids[20]
    got: list[str] = []
    while (document := page(server, "back/*", before=before, limit=7))["events"]:
        assert ids_of(document) == sorted(ids_of(document), key=ids.index)
        got = ids_of(document) + got
        before = document["next"]
    assert got == ids[:20]


def test_last_gives_the_newest(server: RunningServer) -> None:
    ids = server.publish_numbers("newest", 300)
    assert ids_of(page(server, "newest", last=150)) == ids[-150:]
    assert ids_of(page(server, "newest", last=150, limit=10)) == ids[150:160]


def test_since_begins_at_a_time_in_any_offset(server: RunningServer) -> None:
    server.publish_numbers("since", 3)
    edge = datetime.now(UTC) + timedelta(milliseconds=2)
    eventually(lambda: datetime.now(UTC) > edge + timedelta(milliseconds=2))
    after = server.publish_numbers("since", 3)
    for moment in (edge, edge.astimezone(timezone(timedelta(hours=5, minutes=30)))):
        assert ids_of(page(server, "since", since=moment.isoformat())) == after
    assert ids_of(page(server, "since", since=edge.isoformat().replace("+00:00", "Z"))) == after
    raw = httpx.get(f"{server.url}/events/since?since={edge.isoformat()}", headers={"Accept": "application/json"})
    assert ids_of(raw.json()) == after, "a plus that was not percent-encoded"
    assert ids_of(page(server, "since", since="2999-01-01T00:00:00Z")) == []


def test_types_and_several_patterns_select(server: RunningServer) -> None:
    ids = [server.publish(path) for path in ("sel/1?type=a", "sel/2?type=b", "sol?type=a", "sal?type=a")]
    document = page(server, "sel/*", topic="sol", type="a")
    assert ids_of(document) == [ids[0], ids[2]]


@pytest.mark.parametrize("id", ["nonsense", "x-1", "y" * 5_000])
def test_an_id_that_is_not_valid_is_a_gap_in_the_page(server: RunningServer, id: str) -> None:
    ids = server.publish_numbers(f"gap-page-{len(id)}", 3)
    document = page(server, f"gap-page-{len(id)}", last_event_id=id)
    assert document["gap"]["reason"] == "unknown"
    assert id.startswith(document["gap"]["requested"])
    assert ids_of(document) == ids


def test_an_expired_id_is_a_gap_in_the_page(serve: Serve) -> None:
    server = serve("--log", "memory:", retain_events=5)
    ids = server.publish_numbers("a", 20)
    document = page(server, "a", last_event_id=ids[3])
    assert document["gap"] == {"requested": ids[3], "resumed_from": ids[14], "reason": "expired"}
    assert ids_of(document) == ids[15:]


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"limit": "١"}, "limit"),
        ({"wait": 61}, "wait"),
        ({"wait": -1}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"wait": "x"}, "wait"),
        ({"wait": "1_0"}, "wait"),
        ({"wait": "١"}, "wait"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-11-21T03:05:00"}, "since"),
        ({"since": ""}, "since"),
        ({"last": 0}, "last"),
    ],
)
def test_a_bad_parameter_is_422_and_named(server: RunningServer, parameters: dict[str, Any], names: str) -> None:
    answer = server.http.get(f"{server.url}/events/a", params=parameters, headers={"Accept": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{names}: ")


def test_an_empty_page_waits_for_the_first_event(server: RunningServer) -> None:
    start = server.publish("poll", "before")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        polling = threads.submit(page, server, "poll", last_event_id=start, wait=20)
        seen = [server.publish("poll-other", "x")]
        while not polling.done() and len(seen) < 3:
            seen.append(server.publish("poll-other", "x"))
        assert not polling.done()
        id = server.publish("poll", "now")
        document = polling.result(10)
    assert ids_of(document) == [id]
    assert document["next"] == id


def test_a_wait_ends_with_an_empty_page_that_has_moved_on(server: RunningServer) -> None:
    start = server.publish("poll2", "before")
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        began = time.monotonic()
        polling = threads.submit(page, server, "poll2", last_event_id=start, wait=0.5)
        other = server.publish("poll2-other", "x")
        document = polling.result(10)
    assert time.monotonic() - began >= 0.5
    assert document == {"events": [], "next": other}


def test_a_page_that_has_events_does_not_wait(server: RunningServer) -> None:
    server.publish("poll3", "x")
    began = time.monotonic()
    assert len(page(server, "poll3", wait=30)["events"]) == 1
    assert time.monotonic() - began < 10


def test_a_large_page_ends_at_its_bytes_and_goes_on(server: RunningServer) -> None:
    for _ in range(100):
        server.publish("heavy", "x" * 250_000)
    got, after = 0, "earliest"
    while (document := page(server, "heavy", last_event_id=after, limit=1000))["events"]:
        assert len(document["events"]) < 100
        got += len(document["events"])
        after = document["next"]
    assert got == 100


def test_next_of_a_page_before_nonsense_misses_nothing(serve: Serve) -> None:
    server = serve("--log", "memory:")
    position = page(server, "a", before="nonsense")["next"]
    id = server.publish("a")
    assert ids_of(page(server, "a", last_event_id=position)) == [id]


def test_a_long_poll_whose_client_has_left_is_forgotten(serve: Serve) -> None:
    server = serve("--log", "memory:", drain=30)
    with contextlib.suppress(httpx.ReadTimeout):
        httpx.get(f"{server.url}/events/a?wait=60", headers={"Accept": "application/json"}, timeout=0.3)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 10, "a drain would have waited for it"


@pytest.mark.parametrize("since", ["2026-W01-1T00:00:00Z", "20261121T030500Z", "2026-11-21T03:05:00,5Z", "2026-11-21"])
def test_only_rfc_3339_is_a_time(server: RunningServer, since: str) -> None:
    answer = server.http.get(f"{server.url}/events/a", params={"since": since}, headers={"Accept": "application/json"})
    assert answer.status_code == 422


def test_a_long_poll_for_which_there_is_no_room_is_503_and_not_an_empty_page_at_once(serve: Serve) -> None:
    server = serve("--log", "memory:", max_subscribers=1)
    with subscribed(f"{server.url}/events/a"):
        answer = server.http.get(f"{server.url}/events/a?wait=5", headers={"Accept": "application/json"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
