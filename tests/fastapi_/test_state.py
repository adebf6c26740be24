"""State over HTTP: `latest=1`, deleting, conditions, and the list of topics."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.conftest import Serve
from tests.support.running import RunningServer
from tests.support.streams import subscribed
from tests.support.tokens import SECRET, bearer, token

JSON = {"Accept": "application/json"}
NDJSON = {"Accept": "application/x-ndjson"}


def put(server: RunningServer, topic: str, data: str = "x", **headers: str) -> httpx.Response:
    return server.http.post(f"{server.url}/events/{topic}", content=data, headers=headers)


def delete(server: RunningServer, topic: str, **headers: str) -> httpx.Response:
    return server.http.delete(f"{server.url}/events/{topic}", headers=headers)


def state(server: RunningServer, pattern: str, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/events/{pattern}?latest=1{query}", headers=JSON).json()
    return found


def seq(id: str) -> int:
    return int(id.split("-")[1])


# What is, then what changes.


def test_a_page_has_the_newest_event_of_each_topic_and_says_that_it_is_whole(server: RunningServer) -> None:
    for topic, data in (("a", "1"), ("b", "2"), ("a", "3"), ("c", "4")):
        put(server, f"page/{topic}", data)
    delete(server, "page/c")
    page = state(server, "page/*")
    assert [(event["topic"], event["data"]) for event in page["events"]] == [("page/b", "2"), ("page/a", "3")]
    assert page["live"] is True
    assert state(server, "page/*", f"&after={page['next']}") == {"events": [], "next": page["next"], "live": True}


def test_pages_of_one_go_through_all_topics_and_the_last_is_whole(server: RunningServer) -> None:
    for number in range(5):
        put(server, f"paged/{number}", str(number))
    found: list[str] = []
    page = state(server, "paged/*", "&limit=1")
    while not page.get("live"):
        found += [event["data"] for event in page["events"]]
        page = state(server, "paged/*", f"&limit=1&after={page['next']}")
    assert found + [event["data"] for event in page["events"]] == ["0", "1", "2", "3", "4"]


def test_a_long_poll_waits_for_what_changes(server: RunningServer) -> None:
    put(server, "polled/a", "1")
    page = state(server, "polled/a")
    delete(server, "polled/a")
    page = state(server, "polled/a", f"&wait=10&after={page['next']}")
    assert [event["type"] for event in page["events"]] == ["feed.deleted"]


def test_a_stream_begins_with_the_state_and_says_when_it_is_whole(server: RunningServer) -> None:
    put(server, "stream/a", "1")
    put(server, "stream/a", "2")
    newest = put(server, "stream/b", "3").json()["id"]
    with subscribed(f"{server.url}/events/stream/*?latest=1") as stream:
        frames = [stream.frame() for _ in range(3)]
        assert [frame.json["data"] for frame in frames[:2]] == ["2", "3"]
        assert frames[2].event == "feed.live"
        assert seq(frames[2].id or "") >= seq(newest)
        put(server, "stream/a", "4")
        assert stream.frame().json["data"] == "4"
        delete(server, "stream/a")
        gone = stream.frame()
        assert gone.event == "feed.deleted"
        assert gone.json["topic"] == "stream/a", "as an envelope, and under its name"


def test_one_topic_is_plain_unless_an_envelope_is_asked_for(server: RunningServer) -> None:
    put(server, "plain/a", "hello")
    with subscribed(f"{server.url}/events/plain/a?latest=1") as stream:
        assert stream.frame().data == "hello"
    with subscribed(f"{server.url}/events/plain/a?latest=1&envelope=1") as stream:
        assert stream.frame().json["data"] == "hello"


def test_whoever_drops_at_any_frame_resumes_there(server: RunningServer) -> None:
    for number in range(6):
        put(server, f"drop/{number}", str(number))
    with subscribed(f"{server.url}/events/drop/*?latest=1", opened=False) as stream:
        ids = [frame.id or "" for frame in stream.frames(7)]
    for place, id in enumerate(ids):
        with subscribed(f"{server.url}/events/drop/*?latest=1", Last_Event_ID=id) as stream:
            assert [frame.json["data"] for frame in stream.until("feed.live")[:-1]] == [
                str(number) for number in range(place, 6)
            ]


def test_a_snapshot_has_its_own_ids_beside_those_of_the_events(server: RunningServer) -> None:
    first = put(server, "ids/a").json()["id"]
    put(server, "ids/b")
    with server.http.stream("GET", f"{server.url}/events/ids/*?latest=1", headers=NDJSON) as answer:
        lines = answer.iter_lines()
        opened, event = json.loads(next(lines)), json.loads(next(lines))
    epoch, at, as_of = opened["id"].split("-")
    assert (epoch, at) == (first.split("-")[0], "0")
    assert event["id"] == first
    assert event["resume"] == f"{first}-{as_of}"
    assert put(server, "ids/a", **{"If-Match": event["id"]}).status_code == 201


def test_an_id_that_means_nothing_here_is_a_gap_and_then_the_whole_state(server: RunningServer) -> None:
    put(server, "gap/a", "1")
    for id in ("nothing-1", "nothing-1-2", "x"):
        with subscribed(f"{server.url}/events/gap/a?latest=1", Last_Event_ID=id) as stream:
            gap, event, live = stream.frame(), stream.frame(), stream.frame()
            assert (gap.event, event.data, live.event) == ("feed.gap", "1", "feed.live")
            assert gap.json["requested"] == id
    page = state(server, "gap/a", "&after=nothing-1-2")
    assert (page["gap"]["reason"], page["events"][0]["data"], page["live"]) == ("unknown", "1", True)


def test_a_socket_has_the_state_too_and_deletes(server: RunningServer) -> None:
    put(server, "socket/a", "1")
    with connect(f"{server.url.replace('http', 'ws')}/ws/socket/*?latest=1") as socket:
        opened, event, live = (json.loads(socket.recv()) for _ in range(3))
        assert (opened["type"], event["data"], live["type"]) == ("feed.open", "1", "feed.live")
        socket.send(json.dumps({"topic": "socket/a", "delete": True, "ref": 1}))
        answers = [json.loads(socket.recv()) for _ in range(2)]
        assert {answer["type"] for answer in answers} == {"feed.ack", "feed.deleted"}
        socket.send(json.dumps({"topic": "socket/none", "delete": True}))
        assert json.loads(socket.recv())["data"]["status"] == 404
        socket.send(json.dumps({"topic": "socket/a", "data": 1, "if_match": "*"}))
        refused = json.loads(socket.recv())["data"]
        assert (refused["status"], refused["current"]) == (412, answers[0].get("id") or answers[0]["data"]["id"])


@pytest.mark.parametrize(
    "text",
    [
        '{"topic": "text/a", "delete": false}',
        '{"topic": "text/a", "delete": true, "more": 1}',
        '{"delete": 1}',
        '{"topic": "text/a"}',
        '{"if_match": "*"}',
    ],
)
def test_a_text_on_a_socket_is_a_command_only_if_all_of_it_is_known(server: RunningServer, text: str) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/ws/text/b") as socket:
        json.loads(socket.recv())
        socket.send(text)
        answers = [json.loads(socket.recv()) for _ in range(2)]
        assert text in [answer.get("data") for answer in answers]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("type=a", "type"),
        ("last=3", "last"),
        ("before=a-1", "before"),
        ("since=2026-11-21T03:05:00Z", "since"),
        ("latest=maybe", "latest"),
        ("envelope=0&topic=b", "envelope"),
    ],
)
def test_what_does_not_go_with_the_state_is_422_and_named(server: RunningServer, query: str, named: str) -> None:
    answer = server.http.get(f"{server.url}/events/a?latest=1&{query}", headers=JSON)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(named), answer.text


# Deleting, and conditions.


def test_deleting_answers_with_the_tombstones_id_each_time_and_404_where_nothing_was(server: RunningServer) -> None:
    put(server, "delete/a")
    first, again, never = (delete(server, topic) for topic in ("delete/a", "delete/a", "delete/never"))
    assert (first.status_code, again.json()) == (200, first.json())
    assert first.json()["topic"] == "delete/a"
    assert (never.status_code, never.json()["topic"]) == (404, "delete/never")


def test_a_condition_that_is_not_met_is_412_with_the_newest_id(server: RunningServer) -> None:
    id = put(server, "if/a").json()["id"]
    for headers in ({"If-Match": "other-1"}, {"If-None-Match": "*"}):
        refused = put(server, "if/a", **headers)
        assert (refused.status_code, refused.json()["current"]) == (412, id)
    assert delete(server, "if/a", **{"If-Match": "other-1"}).status_code == 412
    assert put(server, "if/a", **{"If-Match": f'"{id}"'}).status_code == 201
    assert put(server, "if/b", **{"If-None-Match": "*"}).status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        [("If-Match", 'W/"a-1"')],
        [("If-Match", '"a-1", "a-2"')],
        [("If-Match", "")],
        [("If-Match", "a-1"), ("If-Match", "a-2")],
        [("If-None-Match", '"a-1"')],
    ],
)
def test_a_condition_that_cannot_be_meant_is_422(server: RunningServer, headers: list[tuple[str, str]]) -> None:
    answer = server.http.post(f"{server.url}/events/a", content="x", headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(headers[0][0])


def test_a_condition_for_many_topics_belongs_into_the_events(server: RunningServer) -> None:
    events = [{"topic": "many/a", "data": 1}, {"topic": "many/b", "data": 1, "if_match": "*"}]
    answer = server.http.post(f"{server.url}/events", json=events)
    assert (answer.status_code, answer.json()["topic"]) == (412, "many/b")
    assert answer.json()["detail"].startswith("event 1: ")
    assert state(server, "many/*")["events"] == [], "all or nothing"
    answer = server.http.post(f"{server.url}/events", json=events, headers={"If-Match": "*"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("event", "named"),
    [
        ({"topic": "a", "delete": True, "data": 1}, "delete"),
        ({"topic": "a", "delete": True, "type": "t"}, "delete"),
        ({"topic": "a", "delete": 1}, "delete"),
        ({"topic": "a", "data": 1, "if_none_match": "a-1"}, "if_none_match"),
        ({"topic": "a", "data": 1, "if_match": ""}, "if_match"),
        ({"topic": "a", "if_match": "*"}, "data"),
        ({"topic": "a", "data": 1, "type": "feed.deleted"}, "type"),
    ],
)
def test_an_event_that_contradicts_itself_is_422_and_says_where(
    server: RunningServer, event: dict[str, Any], named: str
) -> None:
    answer = server.http.post(f"{server.url}/events", json=event)
    assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (422, named)


def test_the_newest_id_is_told_only_to_who_may_read_it(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    writer, reader = token(["a"]), token(["a"], ["a"])
    id = server.http.post(f"{server.url}/events/a", content="x", headers=bearer(writer)).json()["id"]
    for who, told in ((writer, None), (reader, id)):
        headers = {**bearer(who), "If-None-Match": "*"}
        refused = server.http.post(f"{server.url}/events/a", content="x", headers=headers)
        assert (refused.status_code, refused.json().get("current")) == (412, told)
        events = [{"topic": "a", "data": 1, "if_none_match": "*"}]
        refused = server.http.post(f"{server.url}/events", json=events, headers=bearer(who))
        assert (refused.status_code, refused.json().get("current")) == (412, told)
    assert server.http.delete(f"{server.url}/events/b", headers=bearer(writer)).status_code == 403
    listed = server.http.get(f"{server.url}/events?list=topics&topic=**", headers=bearer(reader))
    assert listed.status_code == 403
    listed = server.http.get(f"{server.url}/events?list=topics&topic=a", headers=bearer(reader))
    assert [topic["topic"] for topic in listed.json()["topics"]] == ["a"]


# The list of topics.


def test_topics_are_listed_by_name_in_pages(server: RunningServer) -> None:
    for name in ("b", "a", "c"):
        put(server, f"list/{name}")
    gone = delete(server, "list/b").json()["id"]
    answer = server.http.get(f"{server.url}/events?list=topics&topic=list/*&limit=2").json()
    assert [topic["topic"] for topic in answer["topics"]] == ["list/a", "list/b"]
    assert (answer["topics"][1]["last_id"], answer["topics"][1]["type"]) == (gone, "feed.deleted")
    rest = server.http.get(f"{server.url}/events?list=topics&topic=list/*&after_topic={answer['next']}").json()
    assert [topic["topic"] for topic in rest["topics"]] == ["list/c"]


def test_a_list_asks_for_what_there_is(server: RunningServer) -> None:
    for query in ("list=events&topic=a", "list=topics", "list=topics&topic=a&last=1"):
        assert server.http.get(f"{server.url}/events?{query}").status_code == 422


# Values that run out.


def test_a_value_with_a_ttl_is_deleted_when_it_runs_out(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/ttl/**?latest=1") as stream:
        assert server.http.post(f"{server.url}/events/ttl/a?ttl=1s", content="x").status_code == 201
        events = [{"topic": "ttl/b", "data": 1, "ttl": "1s"}, {"topic": "ttl/c", "data": 1, "ttl": 1}]
        assert server.http.post(f"{server.url}/events", json=events).status_code == 201
        frames = [stream.frame() for _ in range(7)]
        assert {frame.json["topic"] for frame in frames if frame.event == "feed.deleted"} == {"ttl/a", "ttl/b", "ttl/c"}
    assert state(server, "ttl/**")["events"] == []


def test_a_post_without_a_body_renews_the_lease_and_publishes_nothing(server: RunningServer) -> None:
    id = server.http.post(f"{server.url}/events/renew/a?ttl=1h", content="x").json()["id"]
    answer = server.http.post(f"{server.url}/events/renew/a?ttl=2h")
    assert (answer.status_code, answer.json()) == (200, {"topic": "renew/a"})
    assert state(server, "renew/a")["events"][0]["id"] == id
    assert server.http.post(f"{server.url}/events/renew/none?ttl=2h").status_code == 404
    delete(server, "renew/a")
    assert server.http.post(f"{server.url}/events/renew/a?ttl=2h").status_code == 404


def test_an_empty_value_with_a_type_is_published(server: RunningServer) -> None:
    assert server.http.post(f"{server.url}/events/empty/a?ttl=1h&type=left").status_code == 201
    assert state(server, "empty/a")["events"][0]["type"] == "left"


@pytest.mark.parametrize("ttl", ["", "0", "0.9", "-1", "8d", "nan", "inf", "soon", "1s2"])
def test_a_ttl_is_a_time_from_a_second_to_a_week(server: RunningServer, ttl: str) -> None:
    for content in ("x", ""):
        answer = server.http.post(f"{server.url}/events/a?ttl={ttl}", content=content)
        assert (answer.status_code, answer.json()["detail"]) == (
            422,
            "ttl: has to be from 1 second to 7 days: 30s, 5m, 1d",
        )


def test_a_ttl_is_for_a_value_of_one_topic(server: RunningServer) -> None:
    assert server.http.post(f"{server.url}/events?ttl=1h", json={"topic": "a", "data": 1}).status_code == 422
    assert server.http.delete(f"{server.url}/events/a?ttl=1h").status_code == 422
    for event in ({"topic": "a", "delete": True, "ttl": "1h"}, {"topic": "a", "data": 1, "ttl": True}):
        assert server.http.post(f"{server.url}/events", json=event).status_code == 422
    answer = server.http.post(f"{server.url}/events/a?ttl=1h", headers={"If-Match": "*"})
    assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (422, "ttl")


def test_only_who_may_publish_there_may_renew(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    writer, reader = bearer(token(["a"])), bearer(token([], ["a"]))
    assert server.http.post(f"{server.url}/events/a?ttl=1h", content="x", headers=writer).status_code == 201
    assert server.http.post(f"{server.url}/events/a?ttl=1h", headers=writer).status_code == 200
    assert server.http.post(f"{server.url}/events/a?ttl=1h", headers=reader).status_code == 403


def test_a_websocket_sets_and_renews_leases(server: RunningServer) -> None:
    with connect(f"{server.url.replace('http', 'ws')}/ws/ws-ttl/*?latest=1") as socket:

        def until(type: str) -> dict[str, Any]:
            while (message := json.loads(socket.recv(timeout=20)))["type"] != type:
                pass
            data: dict[str, Any] = message["data"]
            return data

        socket.send(json.dumps({"topic": "ws-ttl/a", "data": 1, "ttl": "1h", "ref": 1}))
        assert until("feed.ack")["ref"] == 1
        socket.send(json.dumps({"topic": "ws-ttl/a", "renew": True, "ttl": 1, "ref": 2}))
        assert until("feed.ack") == {"ref": 2, "topic": "ws-ttl/a"}
        until("feed.deleted")
        socket.send(json.dumps({"topic": "ws-ttl/a", "renew": True, "ttl": "1h", "ref": 3}))
        assert until("feed.error")["status"] == 404
        for wrong in ({"renew": True}, {"renew": True, "ttl": 5, "data": 1}, {"renew": True, "ttl": 5, "type": "x"}):
            socket.send(json.dumps({"topic": "ws-ttl/a", **wrong}))
            assert until("feed.error")["status"] == 422


# What changes, every so often.


def test_what_changes_comes_in_batches_with_each_topic_once(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/every/*?latest=1&every=2") as stream:
        stream.until("feed.live")
        for number in range(20):
            put(server, "every/a", str(number))
            put(server, "every/b", str(number))
        seen: list[tuple[str, str]] = []
        while ("every/b", "19") not in seen:
            frame = stream.frame()
            seen.append((frame.json["topic"], frame.json["data"]))
        assert len(seen) < 40, "most were superseded before their time came"
        assert ("every/a", "19") in seen


@pytest.mark.parametrize("query", ["every=1s", "latest=1&every=99ms", "latest=1&every=61s", "latest=1&every="])
def test_a_time_that_is_none_or_not_for_state_is_422(server: RunningServer, query: str) -> None:
    for headers in ({}, NDJSON):
        answer = server.http.get(f"{server.url}/events/a?{query}", headers=headers)
        assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (422, "every")
    assert server.http.get(f"{server.url}/events/a?latest=1&every=1s", headers=JSON).status_code == 422


def test_a_websocket_is_paced_too(server: RunningServer) -> None:
    url = f"{server.url.replace('http', 'ws')}/ws/paced/*?latest=1&every=100ms"
    with connect(url, subprotocols=[Subprotocol("feed.batch")]) as socket:
        put(server, "paced/a", "1")
        put(server, "paced/a", "2")
        while "paced/a" not in (message := str(socket.recv(timeout=20))):
            pass
        events = [json.loads(line) for line in message.splitlines()]
        assert len([event for event in events if event["type"] == "message"]) == 1


# Retention by pattern.


def test_a_noisy_topic_does_not_push_out_another_and_who_may_miss_something_is_told(serve: Serve) -> None:
    server = serve("--log", "memory:", "--retain", "noise/**=5; s/*=latest,1", "--max-kept", "2,1MB")
    first = put(server, "quiet", "1").json()["id"]
    put(server, "s/1")
    put(server, "s/2")
    assert server.http.post(f"{server.url}/events", json=[{"topic": "noise/1", "data": 1}] * 50).status_code == 201
    put(server, "quiet", "2")
    with subscribed(f"{server.url}/events/quiet", Last_Event_ID=first) as stream:
        assert stream.frame().data == "2"
    with subscribed(f"{server.url}/events?topic=quiet&topic=noise/1", Last_Event_ID=first) as stream:
        gap = stream.frame()
        assert (gap.event, gap.json["requested"], gap.json["reason"]) == ("feed.gap", first, "expired")
        assert gap.id == gap.json["resumed_from"]
        assert len(stream.frames(6)) == 6
    with subscribed(f"{server.url}/events/noise/1?after=earliest", opened=False) as stream:
        assert stream.frame().json["complete"] is False
        assert stream.frame().data == "1"
    with subscribed(f"{server.url}/events/quiet?after=earliest", opened=False) as stream:
        assert "complete" not in stream.frame().json
    page = server.http.get(f"{server.url}/events/noise/*", headers=JSON).json()
    assert (page["complete"], len(page["events"])) == (False, 5)
    assert [event["topic"] for event in state(server, "s/*")["events"]] == ["s/1", "s/2"]
    refused = put(server, "s/3")
    assert (refused.status_code, refused.json()["topic"]) == (507, "s/3")
    assert delete(server, "s/1").status_code == 200
    assert put(server, "s/3").status_code == 201
