"""Ways around the rules for who may do what, tried against a real server with a key: none leads past them, and nothing
is stored."""

from __future__ import annotations

import itertools
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from feed.fastapi.auth.grants import Grants
from feed_server.auth.tokens import issue
from tests.support.running import RunningServer, running

SECRET = "a secret of the tests that is long enough"


def token(**grants: Any) -> str:
    return issue(Grants(**grants, expires=time.time() + 4 * 3600), SECRET, "HS256")


ADMIN = token(publish=["**"], subscribe=["**"], admin=True)
NARROW = token(publish=["a/**"], subscribe=["a/**"], subject="narrow")
OTHER = token(publish=["a/**"], subscribe=["a/**"], subject="other")
NARROWER = token(publish=["a/b"], subscribe=["a/b"], subject="narrow")
NAMELESS = token(publish=["a/**"], subscribe=["a/**"])
INVALID = "not.a.token"

_fresh = itertools.count()


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with running("--log", "memory:", jwt_secret=SECRET, public="news/**") as server:
        yield server


def bearer(presented: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {presented}"}


def stored(server: RunningServer) -> list[str]:
    """The data of everything in the log."""
    answer = server.http.get(
        f"{server.url}/events/**?limit=1000", headers={"Accept": "application/json", **bearer(ADMIN)}
    )
    assert answer.status_code == 200, answer.text
    return [event["data"] for event in answer.json()["events"]]


def raw(server: RunningServer, request: str) -> bytes:
    """The first bytes of the answer to a request as it is, however wrong."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request.encode("latin-1"))
        return connection.recv(65536)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def refused_socket(server: RunningServer, target: str, **headers: str) -> int:
    """The status with which a WebSocket is refused."""
    with pytest.raises(InvalidStatus) as refused, connect(f"ws{server.url[4:]}{target}", additional_headers=headers):
        pass
    return refused.value.response.status_code


# Other ways to a route.


@pytest.mark.parametrize(
    "target",
    [
        "//events/secret",
        "/./events/secret",
        "/x/../events/secret",
        "/events/../events/secret",
        "/events/news/../../secret",
        "/events/news/..%2F..%2Fsecret",
        "/events%2Fsecret",
        "/%65vents/secret",
        "/EVENTS/secret",
        "/events;x/secret",
        "/events/secret;x",
        "/events/secret/",
        "/events//secret",
        "/events/secret%00",
        "/events/news%2F%2E%2E%2Fsecret",
        "/events\\secret",
        "/events/secret#/news/a",
        "/events/secret?/news/a",
        "/events/news/a?topic=secret",
        "/events?topic=news/a&topic=secret",
        "/events/news",
        "/events/n*",
        "/events/*",
        "/events/*/**",
        "/events/**?type=news",
        "http://127.0.0.1/events/secret",
        "http://user@127.0.0.1/events/secret",
        "/assets/../events/secret",
        "/assets/..%2f..%2fevents/secret",
        "//subscriptions",
        "/subscriptions/",
        "/subscriptions%2F",
        "/SUBSCRIPTIONS",
        "/assets/..%2fsubscriptions",
        "/subscriptions?admin=true",
        "/metrics/",
        "//metrics",
        "/metrics%00",
        "/metrics",
        "/ws/secret",
        "*",
    ],
)
def test_no_other_spelling_of_a_path_leads_past_the_check(keyed: RunningServer, target: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        request = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{keyed.port}\r\nContent-Length: 1\r\n\r\nx"
        assert status(raw(keyed, request)) in {400, 401, 404, 405, 422, 426}, method
    assert stored(keyed) == []


@pytest.mark.parametrize("target", ["//ws/a", "/WS/a", "/ws;/a", "/ws%2Fa/..", "/events/a", "/x/../ws/a"])
def test_no_other_spelling_leads_a_websocket_past_it(keyed: RunningServer, target: str) -> None:
    assert refused_socket(keyed, target) in {401, 403, 404, 422}


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "LOCK"])
def test_other_methods_do_nothing(keyed: RunningServer, method: str) -> None:
    for path in ("/events/a", "/events", "/metrics", "/healthz", "/"):
        answer = keyed.http.request(method, f"{keyed.url}{path}", content="x", headers=bearer(ADMIN))
        is_known = (method, path) == ("DELETE", "/events/a")  # which has nothing to delete
        assert answer.status_code == (404 if is_known else 405), path
    assert stored(keyed) == []


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
def test_a_method_is_not_overridden(keyed: RunningServer, name: str) -> None:
    answer = keyed.http.get(
        f"{keyed.url}/events/news/a?_method=POST", headers={name: "POST", "Accept": "application/json"}
    )
    assert answer.status_code == 200
    assert "events" in answer.json()


@pytest.mark.parametrize("name", ["X-Original-URL", "X-Rewrite-URL", "X-Forwarded-Path", "X-Forwarded-Prefix"])
def test_a_path_is_not_overridden(keyed: RunningServer, name: str) -> None:
    answer = keyed.http.get(f"{keyed.url}/healthz", headers={name: "/subscriptions"})
    assert answer.json() == {"status": "alive"}
    answer = keyed.http.get(f"{keyed.url}/subscriptions", headers={name: "/events/news/a"})
    assert answer.status_code == 401


# Several tokens at once.


def asked(server: RunningServer, query: str = "", *headers: tuple[str, str]) -> int:
    accept = ("Accept", "application/json")
    return server.http.get(f"{server.url}/events/a/b{query}", headers=httpx.Headers([accept, *headers])).status_code


def test_the_header_counts_before_the_query_and_the_query_before_the_cookie(keyed: RunningServer) -> None:
    good, bad = ("Authorization", f"Bearer {NARROW}"), ("Authorization", f"Bearer {INVALID}")
    good_cookie, bad_cookie = ("Cookie", f"feed_token={NARROW}"), ("Cookie", f"feed_token={INVALID}")
    assert asked(keyed, f"?token={INVALID}", good, bad_cookie) == 200
    assert asked(keyed, f"?token={NARROW}", bad, good_cookie) == 401
    assert asked(keyed, f"?token={NARROW}", bad_cookie) == 200
    assert asked(keyed, f"?token={INVALID}", good_cookie) == 401
    assert asked(keyed, "?token=", good_cookie) == 401
    assert asked(keyed, "", ("Authorization", "Bearer"), good_cookie) == 401
    # Another scheme is a proxy's own.
    assert asked(keyed, "", ("Authorization", "Basic eDp5"), good_cookie) == 200


@pytest.mark.parametrize("other", [NARROW, ADMIN, INVALID])
def test_two_tokens_in_one_place_are_none(keyed: RunningServer, other: str) -> None:
    for first, second in ((NARROW, other), (other, NARROW)):
        headers = [("Authorization", f"Bearer {first}"), ("Authorization", f"Bearer {second}")]
        assert asked(keyed, "", *headers) == 401
        assert asked(keyed, "", ("Authorization", f"Bearer {first}, Bearer {second}")) == 401
        assert asked(keyed, f"?token={first}&token={second}") == 401


@pytest.mark.parametrize("other", [ADMIN, INVALID])
def test_a_cookie_that_a_neighbour_has_put_beside_ours_is_not_used(keyed: RunningServer, other: str) -> None:
    for first, second in ((NARROW, other), (other, NARROW)):
        assert asked(keyed, "", ("Cookie", f"feed_token={first}; feed_token={second}")) == 401
        assert asked(keyed, "", ("Cookie", f"feed_token={first}"), ("Cookie", f"x=y; feed_token={second}")) == 401
    assert asked(keyed, "", ("Cookie", f"feed_token={NARROW}; feed_token={NARROW}; feed_token=")) == 200
    assert asked(keyed, "", ("Cookie", f'a="; feed_token={NARROW}; b=c; not_feed_token={INVALID}')) == 200


def test_a_token_counts_however_its_name_is_spelt_in_the_query(keyed: RunningServer) -> None:
    assert asked(keyed, f"?%74oken={NARROW}") == 200
    public = f"{keyed.url}/events/news/a?%74oken={INVALID}"
    assert keyed.http.get(public, headers={"Accept": "application/json"}).status_code == 401


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Authorization", "Proxy-Authorization", "X-Token", "Sec-WebSocket-Protocol"]
)
def test_a_token_elsewhere_is_none(keyed: RunningServer, name: str) -> None:
    assert asked(keyed, "", (name, f"Bearer {NARROW}")) == 401
    if name != "Sec-WebSocket-Protocol":
        assert refused_socket(keyed, "/ws/a/b", **{name: f"Bearer {NARROW}"}) == 401


# Reading.

FORMS = list(
    itertools.product(
        ["*/*", "text/event-stream", "application/x-ndjson", "application/json", "application/json;q=0, text/html"],
        [
            "",
            "last=10",
            "last_event_id=earliest",
            "lastEventId=x",
            "before=x-1",
            "since=2026-01-01T00:00:00Z",
            "wait=9",
        ],
    )
)


@pytest.mark.parametrize(("accept", "query"), FORMS)
def test_every_form_of_reading_is_guarded(keyed: RunningServer, accept: str, query: str) -> None:
    for presented, expected in (({}, 401), (bearer(NARROW), 403), ({"Last-Event-ID": "earliest"}, 401)):
        for target in ("/events/secret", "/events?topic=secret", "/events/**", "/events/a/b?topic=secret"):
            url = f"{keyed.url}{target}{'&' if '?' in target else '?'}{query}&type=x"
            for method in ("GET", "HEAD"):
                answer = keyed.http.request(method, url, headers={"Accept": accept, **presented})
                assert answer.status_code == expected, (method, target)


def test_one_pattern_among_a_hundred_that_is_not_granted_is_one_too_many(keyed: RunningServer) -> None:
    granted = [f"a/{number}" for number in range(99)]
    for place in (0, 50, 99):
        patterns = [*granted[:place], "secret", *granted[place:]]
        query = "&".join(f"topic={pattern}" for pattern in patterns)
        for accept in ("text/event-stream", "application/json"):
            answer = keyed.http.get(f"{keyed.url}/events?{query}", headers={"Accept": accept, **bearer(NARROW)})
            assert answer.status_code == 403
        assert refused_socket(keyed, f"/ws?{query}", **bearer(NARROW)) == 403


@pytest.mark.parametrize("pattern", ["**", "*/**", "*/*", "a", "a*", "aa/b", "A/b", "a%2F..%2Fb", "*"])
def test_w8_a_pattern_wider_than_the_grant_or_beside_it_is_refused(keyed: RunningServer, pattern: str) -> None:
    answer = keyed.http.get(f"{keyed.url}/events/{pattern}", headers=bearer(NARROW))
    assert answer.status_code in {403, 422}
    assert refused_socket(keyed, f"/ws/{pattern}", **bearer(NARROW)) == answer.status_code


# Publishing.


def test_a_batch_with_one_topic_that_is_not_granted_publishes_nothing(keyed: RunningServer) -> None:
    before = stored(keyed)
    for place in (0, 500, 999):
        batch = [{"topic": "a/b", "data": "x"} for _ in range(999)]
        batch.insert(place, {"topic": "secret", "data": "x"})
        lines = "\n".join(map(json.dumps, batch))
        for content, kind in ((json.dumps(batch), "application/json"), (lines, "application/x-ndjson")):
            headers = {"Content-Type": kind, "Idempotency-Key": f"batch-{next(_fresh)}", **bearer(NARROW)}
            for _ in range(2):
                answer = keyed.http.post(f"{keyed.url}/events", content=content, headers=headers)
                assert answer.status_code == 403
    assert stored(keyed) == before


def test_the_topic_in_the_query_or_twice_in_the_body_is_no_way_around(keyed: RunningServer) -> None:
    before = stored(keyed)
    headers = {"Content-Type": "application/json", **bearer(NARROW)}
    attempts = {
        "/events": '{"topic": "a/b", "data": "x", "topic": "secret"}',
        "/events?topic=a/b": '{"topic": "secret", "data": "x"}',
        "/events/secret?topic=a/b": '"x"',
        "/events/a/../secret": '"x"',
    }
    for target, body in attempts.items():
        request = f"POST {target} HTTP/1.1\r\nHost: x\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers.items())
        answer = raw(keyed, f"{request}Content-Length: {len(body)}\r\n\r\n{body}")
        assert status(answer) in {403, 422}, target
    assert stored(keyed) == before


def test_a_websocket_publishes_only_where_its_token_may(keyed: RunningServer) -> None:
    before = stored(keyed)
    reader = token(subscribe=["a/**"])
    for presented, messages in (
        (NARROW, ['{"data": 1, "topic": "secret"}', '{"data": 1, "topic": "news/a"}', '{"data": 1, "topic": "a"}']),
        (reader, ["text", '{"data": 1}', '{"data": 1, "topic": "a/b", "key": "k"}']),
    ):
        with connect(f"ws{keyed.url[4:]}/ws/a/b", additional_headers=bearer(presented)) as connection:
            assert json.loads(connection.recv(10))["type"] == "feed.open"
            for message in messages:
                connection.send(message)
                answer = json.loads(connection.recv(10))
                assert (answer["type"], answer["data"]["status"]) == ("feed.error", 403), message
    assert stored(keyed) == before


def test_an_idempotency_key_belongs_to_whoever_used_it(keyed: RunningServer) -> None:
    impostor = token(publish=["a/**"], subject="127.0.0.1")  # as those are called who have no name
    spaced = token(publish=["a/**"], subject="token narrow")
    key = {"Idempotency-Key": "the-same-for-all"}
    ids = set()
    for presented in (NARROW, OTHER, NAMELESS, impostor, spaced):
        answer = keyed.http.post(f"{keyed.url}/events/a/key", content="x", headers={**key, **bearer(presented)})
        assert answer.status_code == 201
        ids.add(answer.json()["id"])
    assert len(ids) == 5


def test_a_key_that_was_used_gives_no_answer_to_a_token_that_may_not_publish_there(keyed: RunningServer) -> None:
    key = {"Idempotency-Key": "first-wide-then-narrow"}
    target = f"{keyed.url}/events/a/narrowed"
    assert keyed.http.post(target, content="x", headers={**key, **bearer(NARROW)}).status_code == 201
    assert keyed.http.post(target, content="x", headers={**key, **bearer(NARROWER)}).status_code == 403


@pytest.mark.parametrize(("presented", "expected"), [(None, 401), (INVALID, 401), (NARROW, 403)])
@pytest.mark.parametrize("length", ["Content-Length: 10000000", "Transfer-Encoding: chunked"])
def test_who_may_not_publish_is_told_before_the_body_comes(
    keyed: RunningServer, presented: str | None, expected: int, length: str
) -> None:
    authorization = "" if presented is None else f"Authorization: Bearer {presented}\r\n"
    head = f"POST /events/secret HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{authorization}{length}\r\n\r\n"
    assert status(raw(keyed, head)) == expected  # and not 100


# Names and origins.


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.",
        "127.0.0.1.",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example@localhost",
        "user:localhost@evil.example",
        "localhost:80@evil.example",
        "localhost/evil.example",
        "localhost#",
        "localhost?",
        "localhost, evil.example",
        "localhost evil.example",
        "localhost\tx",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[0:0:0:0:0:0:0:1]",
        "[::1%25lo]",
        "::1",
        "localhost:",
        "localhost:x",
        "localhost:-1",
        "localhost:999999",
        "\u00b9localhost",
        "a.localhost",
    ],
)
def test_w5_no_other_spelling_of_a_host_is_ours(server: RunningServer, host: str) -> None:
    for more in ("", "X-Forwarded-Host: localhost\r\nForwarded: host=localhost\r\n", "Origin: http://localhost\r\n"):
        for method in ("GET", "POST"):
            request = f"{method} /events/a?limit=1 HTTP/1.1\r\nHost: {host}\r\n{more}Content-Length: 0\r\n\r\n"
            assert status(raw(server, request)) in {400, 403}, (method, more)


def test_w5_of_an_address_in_the_request_line_and_a_host_the_address_counts(server: RunningServer) -> None:
    for host in ("localhost", "127.0.0.1", ""):
        for target in ("http://evil.example/docs", f"http://evil.example:{server.port}/events/a?limit=1"):
            request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\r\n"
            assert status(raw(server, request)) == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://{host}.",
        "http://{host}/",
        "http://{host}@evil.example",
        "http://evil.example@{host}",
        "http://evil.example, http://{host}",
        "http://{host} http://evil.example",
        "http://evil.example#{host}",
        "//{host}",
        "{host}",
        "http:{host}",
        "capacitor://{host}",
        "file://{host}",
        "ws://{host}",
        "http:/{host}",
        "http://{host}\x00",
        "http://127.0.0.1",
        "http://127.0.0.1:0",
        "http://localhost",
        "NULL",
        "null",
        "undefined",
        "http://",
        "*",
    ],
)
def test_w5_no_other_spelling_of_an_origin_is_ours(server: RunningServer, origin: str) -> None:
    before = server.history()["events"]
    host = f"127.0.0.1:{server.port}"
    request = (
        f"POST /events/a HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin.format(host=host)}\r\nContent-Length: 1\r\n\r\nx"
    )
    assert status(raw(server, request)) in {400, 403}
    assert server.history()["events"] == before
