"""Who may do what: every route, with every kind of token, by every way in which a token can come."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.conftest import Serve
from tests.support.running import RunningServer, running
from tests.support.streams import eventually, subscribed
from tests.support.tokens import OTHER_SECRET, SECRET, bearer, token

TOPIC = "orders/42"  # what the matrix publishes to
PATTERN = "orders/*"  # and subscribes to


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    """A server with a key, where anybody may read the news."""
    with running("--log", "memory:", jwt_secret=SECRET, public="news/**", heartbeat=0.5) as server:
        yield server


TOKENS = {
    "no token": None,
    "wrong key": token(["**"], ["**"], admin=True, secret=OTHER_SECRET),
    "expired": token(["**"], ["**"], admin=True, seconds=-1),
    "no grant": token(["other/**"], ["other/**"]),
    "narrower grant": token(["orders/42/lines"], ["orders/42"]),
    "exact grant": token([TOPIC], [PATTERN]),
    "wider grant": token(["orders/**"], ["orders/**"]),
    "admin": token(admin=True),
}

# What each kind of token is answered: 401 says who are you, 403 says not you.
PUBLISH = {
    "no token": 401,
    "wrong key": 401,
    "expired": 401,
    "no grant": 403,
    "narrower grant": 403,
    "exact grant": 201,
}
PUBLISH |= {"wider grant": 201, "admin": 403}
SUBSCRIBE = {**PUBLISH, "exact grant": 200, "wider grant": 200}
PUBLIC = {kind: 401 if kind in ("wrong key", "expired") else 200 for kind in TOKENS}
ADMIN = {kind: 403 if PUBLIC[kind] == 200 else 401 for kind in TOKENS} | {"no token": 401, "admin": 200}
OPEN = dict.fromkeys(TOKENS, 200)

JSON, NDJSON, SSE = "application/json", "application/x-ndjson", "text/event-stream"
_BATCH = json.dumps([{"topic": TOPIC, "data": 1}]).encode()

ROUTES: dict[str, tuple[str, str, dict[str, str], bytes | None, dict[str, int]]] = {
    "publish": ("POST", f"/events/{TOPIC}", {}, b"x", PUBLISH),
    "publish JSON": ("POST", f"/events/{TOPIC}", {"Content-Type": JSON}, b"{}", PUBLISH),
    "publish batch": ("POST", "/events", {"Content-Type": JSON}, _BATCH, PUBLISH),
    "publish lines": ("POST", "/events", {"Content-Type": NDJSON}, _BATCH[1:-1], PUBLISH),
    "stream": ("GET", f"/events/{PATTERN}", {"Accept": SSE}, None, SUBSCRIBE),
    "stream by query": ("GET", f"/events?topic={PATTERN}", {}, None, SUBSCRIBE),
    "stream of two": ("GET", f"/events/{PATTERN}?topic=news/*", {}, None, SUBSCRIBE),
    "lines": ("GET", f"/events/{PATTERN}", {"Accept": NDJSON}, None, SUBSCRIBE),
    "history": ("GET", f"/events/{PATTERN}", {"Accept": JSON}, None, SUBSCRIBE),
    "head": ("HEAD", f"/events/{PATTERN}", {}, None, SUBSCRIBE),
    "public stream": ("GET", "/events/news/**", {}, None, PUBLIC),
    "public history": ("GET", "/events/news/today", {"Accept": JSON}, None, PUBLIC),
    "public and not": (
        "GET",
        "/events/news/**?topic=**",
        {},
        None,
        SUBSCRIBE | {"exact grant": 403, "wider grant": 403},
    ),
    "subscriptions": ("GET", "/subscriptions", {}, None, ADMIN),
    "end one": ("DELETE", "/subscriptions/0123456789abcdef", {}, None, ADMIN | {"admin": 404}),
    "metrics": ("GET", "/metrics", {}, None, ADMIN),
    "dashboard": ("GET", "/", {}, None, OPEN),
    "docs": ("GET", "/docs", {}, None, OPEN),
    "description": ("GET", "/openapi.json", {}, None, OPEN),
    "file": ("GET", "/assets/app.js", {}, None, OPEN),
    "alive": ("GET", "/healthz", {}, None, OPEN),
    "ready": ("GET", "/readyz", {}, None, OPEN),
    "end session": ("DELETE", "/session", {}, None, dict.fromkeys(TOKENS, 204)),
}
WAYS = ("header", "query", "cookie")


def presented(path: str, way: str, token: str | None) -> tuple[str, dict[str, str]]:
    """The path and the headers of a request with the token."""
    if token is None:
        return path, {}
    if way == "header":
        return path, bearer(token)
    if way == "cookie":
        return path, {"Cookie": f"theme=dark; feed_token={token}; other=1"}
    return f"{path}{'&' if '?' in path else '?'}token={token}", {}


def status(
    server: RunningServer, method: str, path: str, headers: dict[str, str], body: bytes | None
) -> httpx.Response:
    with (
        httpx.Client(timeout=10, verify=False) as client,
        client.stream(method, f"{server.url}{path}", headers=headers, content=body) as answer,
    ):
        if answer.status_code >= 400:
            answer.read()
        return answer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize("route", ROUTES)
def test_every_route_answers_each_token_as_it_should(guarded: RunningServer, route: str, kind: str, way: str) -> None:
    method, path, headers, body, expected = ROUTES[route]
    path, credentials = presented(path, way, TOKENS[kind])
    answer = status(guarded, method, path, headers | credentials, body)
    assert answer.status_code == expected[kind]
    if answer.status_code == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert ("invalid_token" in answer.headers["www-authenticate"]) == (kind in ("wrong key", "expired"))
    if answer.status_code >= 400 and method != "HEAD":
        assert answer.headers["content-type"] == "application/problem+json"
        assert not (used := TOKENS[kind]) or used not in answer.text


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", TOKENS)
@pytest.mark.parametrize(
    ("path", "expected"), [(f"/ws/{PATTERN}", SUBSCRIBE), (f"/ws?topic={PATTERN}", SUBSCRIBE), ("/ws/news/x", PUBLIC)]
)
def test_a_websocket_opens_for_each_token_as_it_should(
    guarded: RunningServer, path: str, expected: dict[str, int], kind: str, way: str
) -> None:
    path, headers = presented(path, way, TOKENS[kind])
    try:
        with connect(f"ws{guarded.url[4:]}{path}", additional_headers=headers) as socket:
            assert json.loads(socket.recv(10))["type"] == "feed.open"
            found = 200
    except InvalidStatus as refused:
        found = refused.response.status_code
        assert refused.response.headers["content-type"] == "application/problem+json"
    assert found == expected[kind]


def test_refused_publishes_are_stored_nowhere(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    for kind, credentials in TOKENS.items():
        for way in WAYS:
            for route in ("publish", "publish JSON", "publish batch", "publish lines"):
                method, path, headers, body, expected = ROUTES[route]
                if expected[kind] != 201:
                    path, named = presented(path, way, credentials)
                    assert status(server, method, path, headers | named, body).status_code == expected[kind]
    everything = bearer(token(subscribe=["**"]))
    answer = server.http.get(f"{server.url}/events/**", headers={"Accept": JSON, **everything})
    assert answer.json()["events"] == []


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_key_everything_is_allowed_on_loopback(server: RunningServer, route: str) -> None:
    method, path, headers, body, expected = ROUTES[route]
    best = min(set(expected.values()) - {401, 403}, default=200)
    for way in WAYS:
        for credentials in (None, "whatever", TOKENS["expired"]):
            presented_path, named = presented(path, way, credentials)
            assert status(server, method, presented_path, headers | named, body).status_code == best


def test_the_header_wins_over_the_query_and_the_query_over_the_cookie(guarded: RunningServer) -> None:
    good, bad = TOKENS["exact grant"], TOKENS["expired"]
    assert good is not None
    assert bad is not None

    def found(header: str | None, query: str | None, cookie: str | None) -> int:
        path = f"/events/{PATTERN}" + ("" if query is None else f"?token={query}")
        headers = {**(bearer(header) if header else {}), **({"Cookie": f"feed_token={cookie}"} if cookie else {})}
        return status(guarded, "GET", path, {"Accept": JSON, **headers}, None).status_code

    assert [found(good, bad, bad), found(bad, good, good)] == [200, 401]
    assert [found(None, good, bad), found(None, bad, good)] == [200, 401]
    assert [found(None, None, good), found(None, None, bad)] == [200, 401]


def test_another_scheme_than_bearer_is_not_for_us_and_an_empty_token_is_one(guarded: RunningServer) -> None:
    def found(path: str, **headers: str) -> int:
        return status(guarded, "GET", path, {"Accept": JSON, **headers}, None).status_code

    cookie = f"feed_token={TOKENS['exact grant']}"
    assert found(f"/events/{PATTERN}", Authorization="Basic dXNlcjpwYXNz", Cookie=cookie) == 200
    assert found("/events/news/x", Authorization="Bearer") == 401
    assert found("/events/news/x?token=") == 401
    assert found("/events/news/x", Cookie="feed_token=") == 200  # as a browser may send it after it was cleared


def test_a_batch_with_one_forbidden_event_is_not_published_at_all(guarded: RunningServer) -> None:
    events = [{"topic": "batch/mine", "data": 1}, {"topic": "batch/others", "data": 2}]
    headers = bearer(token(["batch/mine"]))
    answer = guarded.http.post(f"{guarded.url}/events", json=events, headers=headers)
    assert answer.status_code == 403
    assert "batch/others" in answer.json()["detail"]
    read = bearer(token(subscribe=["batch/*"]))
    assert guarded.http.get(f"{guarded.url}/events/batch/*", headers={"Accept": JSON, **read}).json()["events"] == []


def test_w8_a_pattern_wider_than_the_grant_is_403(guarded: RunningServer) -> None:
    headers = {"Accept": JSON, **bearer(token(subscribe=["orders/**"]))}
    for pattern, expected in (("**", 403), ("*/42", 403), ("*/**", 403), ("orders/**", 200), ("orders/*/lines", 200)):
        assert guarded.http.get(f"{guarded.url}/events/{pattern}", headers=headers).status_code == expected


def test_a_websocket_publishes_what_its_token_allows(guarded: RunningServer) -> None:
    headers = bearer(token(["chat/room"], ["chat/*"]))
    with connect(f"ws{guarded.url[4:]}/ws/chat/*", additional_headers=headers) as socket:
        assert json.loads(socket.recv(10))["type"] == "feed.open"
        socket.send(json.dumps({"data": 1, "topic": "chat/other", "ref": 1}))
        error = json.loads(socket.recv(10))
        assert (error["type"], error["data"]["ref"], error["data"]["status"]) == ("feed.error", 1, 403)
        socket.send(json.dumps({"data": 2, "topic": "chat/room", "ref": 2}))
        received = [json.loads(socket.recv(10)) for _ in range(2)]
        assert {each["type"] for each in received} == {"feed.ack", "message"}


def test_a_reader_without_a_token_is_asked_for_one_when_it_publishes(guarded: RunningServer) -> None:
    with connect(f"ws{guarded.url[4:]}/ws/news/x") as socket:
        assert json.loads(socket.recv(10))["type"] == "feed.open"
        socket.send("mine")
        error = json.loads(socket.recv(10))
        assert (error["type"], error["data"]["status"]) == ("feed.error", 401)


def test_keys_of_two_subjects_do_not_meet_and_those_of_one_do(guarded: RunningServer) -> None:
    def publish(subject: str | None, data: str) -> httpx.Response:
        claims: dict[str, Any] = {} if subject is None else {"sub": subject}
        headers = {**bearer(token(["**"], **claims)), "Idempotency-Key": "once"}
        return guarded.http.post(f"{guarded.url}/events/keys", content=data, headers=headers)

    first = publish("alice", "x")
    assert first.status_code == 201
    assert publish("alice", "x").json() == first.json()
    assert publish("alice", "y").status_code == 422
    others = [publish("bob", "x"), publish(None, "x"), publish("127.0.0.1", "x")]
    assert len({answer.json()["id"] for answer in [first, *others]}) == 4


EXPIRES = 2.5  # seconds: it may take a busy machine one to open a stream


def test_w7_a_stream_ends_when_its_token_does_and_a_reconnect_is_401(guarded: RunningServer) -> None:
    ends = time.time() + EXPIRES
    short = token(subscribe=["orders/*"], seconds=EXPIRES)
    with subscribed(f"{guarded.url}/events/orders/*", Authorization=f"Bearer {short}") as stream:
        frames = stream.rest()
    assert ends - 1 <= time.time() <= ends + 2  # fractions of a second are cut off
    assert frames[-1].event == "feed.closing"
    assert frames[-1].json["reason"] == "token-expired"
    assert frames[-1].json["retry"] == int(frames[-1].retry or 0)
    answer = guarded.http.get(f"{guarded.url}/events/orders/*", headers=bearer(short))
    assert (answer.status_code, answer.json()["detail"]) == (401, "the token is not valid: it has expired")


def test_w7_a_websocket_is_closed_with_1008_when_its_token_ends(guarded: RunningServer) -> None:
    ends = time.time() + EXPIRES
    short = token(["orders/*"], ["orders/*"], seconds=EXPIRES)
    messages = []
    url = f"ws{guarded.url[4:]}/ws/orders/*"
    with pytest.raises(ConnectionClosed) as closed, connect(url, additional_headers=bearer(short)) as socket:
        while True:
            messages.append(json.loads(socket.recv(10)))
    assert ends - 1 <= time.time() <= ends + 2  # fractions of a second are cut off
    assert messages[-1] == {
        "type": "feed.closing",
        "data": {"reason": "token-expired", "retry": messages[-1]["data"]["retry"]},
    }
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1008


def test_w7_nobody_waits_in_a_long_poll_for_longer_than_the_token_lasts(guarded: RunningServer) -> None:
    begun = time.monotonic()
    headers = {"Accept": JSON, **bearer(token(subscribe=["quiet"], seconds=EXPIRES))}
    answer = guarded.http.get(f"{guarded.url}/events/quiet?wait=30", headers=headers)
    assert (answer.status_code, answer.json()["events"]) == (200, [])
    assert time.monotonic() - begun < EXPIRES + 2


def test_a_replay_is_judged_by_the_token_of_now(guarded: RunningServer) -> None:
    wide, narrow = bearer(token(["secret/x"], ["secret/*"])), bearer(token(subscribe=["other/*"]))
    last = guarded.http.post(f"{guarded.url}/events/secret/x", content="x", headers=wide).json()["id"]
    for headers in ({"Last-Event-ID": last}, {"Last-Event-ID": "earliest"}, {}):
        answer = guarded.http.get(f"{guarded.url}/events/secret/*", headers={**headers, **narrow})
        assert answer.status_code == 403


# Sessions.


def cookie_of(answer: httpx.Response) -> dict[str, str]:
    """Its attributes, in lower case."""
    parts = [part.strip().partition("=") for part in answer.headers["set-cookie"].split(";")]
    return {name.lower(): value for name, _, value in parts}


def test_a_session_puts_the_token_into_a_cookie_that_scripts_cannot_read(guarded: RunningServer) -> None:
    allowed = token(subscribe=["orders/*"], seconds=100)
    answer = guarded.http.post(f"{guarded.url}/session", headers=bearer(allowed))
    assert answer.status_code == 204
    assert answer.headers["cache-control"] == "no-store"
    cookie = cookie_of(answer)
    assert cookie["feed_token"] == allowed
    assert set(cookie) == {"feed_token", "httponly", "samesite", "path", "max-age"}
    assert (cookie["samesite"].lower(), cookie["path"]) == ("strict", "/")
    assert 90 <= int(cookie["max-age"]) <= 100
    with subscribed(f"{guarded.url}/events/orders/*", Cookie=f"feed_token={cookie['feed_token']}"):
        pass


def test_the_cookie_is_secure_where_a_known_proxy_has_spoken_tls(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, proxies="127.0.0.0/8")
    headers = bearer(token())
    behind = server.http.post(f"{server.url}/session", headers={"X-Forwarded-Proto": "https", **headers})
    assert "secure" in cookie_of(behind)
    assert "secure" not in cookie_of(server.http.post(f"{server.url}/session", headers=headers))


def test_nobody_else_is_believed_about_proxies(serve: Serve) -> None:
    forged = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}
    for settings in ({}, {"proxies": "192.0.2.0/24"}):
        server = serve("--log", "memory:", jwt_secret=SECRET, **settings)
        answer = server.http.post(f"{server.url}/session", headers={**forged, **bearer(token())})
        assert "secure" not in cookie_of(answer)
        reader = {"Authorization": f"Bearer {token(subscribe=['a'])}", **forged}
        with subscribed(f"{server.url}/events/a", reader):
            found = server.http.get(f"{server.url}/subscriptions", headers=bearer(token(admin=True))).json()
        assert found["subscriptions"][0]["address"] == "127.0.0.1"


def test_the_address_is_what_the_nearest_known_proxy_says(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, proxies="127.0.0.1 10.0.0.0/8")
    reader = {
        "Authorization": f"Bearer {token(subscribe=['a'])}",
        "X-Forwarded-For": "203.0.113.7, 198.51.100.9, 10.1.2.3",
    }
    with subscribed(f"{server.url}/events/a", reader):
        found = server.http.get(f"{server.url}/subscriptions", headers=bearer(token(admin=True))).json()
    assert found["subscriptions"][0]["address"] == "198.51.100.9"


@pytest.mark.parametrize("kind", ["no token", "wrong key", "expired"])
def test_a_session_needs_a_valid_token_in_the_header(guarded: RunningServer, kind: str) -> None:
    for way in WAYS:
        path, headers = presented("/session", way, TOKENS[kind])
        answer = guarded.http.post(f"{guarded.url}{path}", headers=headers)
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
    path, _ = presented("/session", "query", TOKENS["exact grant"])
    assert guarded.http.post(f"{guarded.url}{path}").status_code == 401


def test_a_session_is_ended_whatever_its_token_has_become(guarded: RunningServer) -> None:
    answer = guarded.http.delete(f"{guarded.url}/session", headers={"Cookie": "feed_token=rubbish"})
    assert answer.status_code == 204
    cookie = cookie_of(answer)
    assert (cookie["max-age"], cookie["feed_token"].strip('"')) == ("0", "")


def test_a_token_too_long_for_a_cookie_is_refused_in_words(guarded: RunningServer) -> None:
    long = token(subscribe=[f"orders/{'x' * 100}/{number}" for number in range(60)])
    answer = guarded.http.post(f"{guarded.url}/session", headers=bearer(long))
    assert answer.status_code == 422
    assert "cookie" in answer.json()["detail"]


def test_without_a_key_there_is_no_session_and_no_need_of_one(server: RunningServer) -> None:
    for headers in ({}, bearer("whatever")):
        answer = server.http.post(f"{server.url}/session", headers=headers)
        assert answer.status_code == 204
        assert "set-cookie" not in answer.headers


# Around it.


def test_metrics_may_be_made_public(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET, metrics_public="1")
    assert server.http.get(f"{server.url}/metrics").status_code == 200
    assert server.http.get(f"{server.url}/subscriptions").status_code == 401


def test_a_token_is_in_no_log_and_no_answer(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    secret = token(["orders/**"], ["orders/*"])
    bad = token(["**"], secret=OTHER_SECRET)
    answers = []
    for credentials in (secret, bad, "rubbish-rubbish"):
        for way in WAYS:
            for route in ("publish", "public and not", "history", "subscriptions"):
                method, path, headers, body, _ = ROUTES[route]
                path, named = presented(path, way, credentials)
                answer = server.http.request(method, f"{server.url}{path}", headers=headers | named, content=body)
                answers.append(str(answer.headers) + answer.text)
    server.stop()
    for text in [server.output, *answers]:
        assert secret not in text
        assert bad not in text
        assert "rubbish" not in text


def test_an_admin_sees_who_listens_and_may_end_them(guarded: RunningServer) -> None:
    admin = bearer(token(admin=True))
    reader = token(subscribe=["kicked/*"])
    with subscribed(f"{guarded.url}/events/kicked/*", Authorization=f"Bearer {reader}") as stream:

        def mine() -> Any:
            page = guarded.http.get(f"{guarded.url}/subscriptions", headers=admin).json()
            return [each for each in page["subscriptions"] if each["patterns"] == ["kicked/*"]]

        [found] = eventually(mine)
        assert (found["transport"], found["address"], found["lagging"]) == ("sse", "127.0.0.1", False)
        assert reader not in json.dumps(found)
        assert guarded.http.delete(f"{guarded.url}/subscriptions/{found['id']}", headers=admin).status_code == 204
        assert stream.rest()[-1].json["reason"] == "kicked"
    assert eventually(lambda: not mine())


@pytest.mark.parametrize("header", ["Token abc", "bearer:abc", "abc.def.ghi", "Bearer\tabc"])
def test_a_header_that_was_meant_to_bear_a_token_is_told_how(guarded: RunningServer, header: str) -> None:
    said = "the header Authorization has to be `Bearer TOKEN`"
    answer = guarded.http.post(f"{guarded.url}/events/{TOPIC}", content=b"x", headers={"Authorization": header})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"] == f"not allowed to publish: a token is needed: {said}"
    answer = guarded.http.get(f"{guarded.url}/metrics", headers={"Authorization": header})
    assert answer.json()["detail"] == f"not allowed to do this without `admin`: a token is needed: {said}"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": "negotiate x"}])
def test_a_proxys_own_header_is_no_mistake(guarded: RunningServer, headers: dict[str, str]) -> None:
    answer = guarded.http.post(f"{guarded.url}/events/{TOPIC}", content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (401, "not allowed to publish: a token is needed")
    answer = guarded.http.get(f"{guarded.url}/subscriptions", headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (
        401,
        "not allowed to do this without `admin`: a token is needed",
    )


def test_a_strange_header_beside_a_token_elsewhere_is_nothing(guarded: RunningServer) -> None:
    headers = {"Authorization": "Token abc", "Cookie": f"feed_token={token([TOPIC])}"}
    answer = guarded.http.post(f"{guarded.url}/events/{TOPIC}", content=b"x", headers=headers)
    assert answer.status_code == 201
