"""Whose pages may use a server, and under which names it answers: pure first, then over real HTTP and WebSocket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from feed import Forbidden
from feed.fastapi.auth.origins import Hosts, Origins, parse_host, parse_origin
from tests.conftest import Serve
from tests.support.hostile import HANDSHAKE
from tests.support.running import RunningServer, running
from tests.support.streams import subscribed

APP = "https://app.example.org"


def scope(method: str = "POST", type: str = "http", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": type, "method": method, "headers": named}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", ("localhost", None)),
        ("LocalHost:8000", ("localhost", "8000")),
        ("[::1]:8000", ("[::1]", "8000")),
        ("", None),
        ("localhost:", None),
        ("localhost:8000:1", None),
        ("localhost:99999999", None),
        ("user@localhost", None),
        ("local host", None),
        ("localhost/x", None),
        ("::1", None),
    ],
)
def test_a_host_has_a_name_and_maybe_a_port(text: str, expected: tuple[str, str | None] | None) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("HTTPS://App.Example.org:443", "https://app.example.org"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://app.example.org:80", "https://app.example.org:80"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("null", None),
        ("*", None),
        ("https://*.example.org", None),
        ("https://app.example.org/", None),
        ("https://app.example.org/path", None),
        ("app.example.org", None),
        ("https://", None),
    ],
)
def test_an_origin_is_written_as_browsers_write_it(text: str, expected: str | None) -> None:
    parsed = parse_origin(text)
    assert (None if parsed is None else str(parsed)) == expected


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://feed.example.org", "feed.example.org"),
        ("https://feed.example.org", "feed.example.org"),
        ("https://feed.example.org", "feed.example.org:443"),
        ("http://feed.example.org", "Feed.Example.org:80"),
        (APP, "feed.example.org"),
    ],
)
def test_its_own_page_and_a_listed_one_may_ask(origin: str, host: str) -> None:
    Origins([APP]).check(scope(host=host, origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost:3000",
        "https://localhost:8001",
        "https://localhost",
        "http://app.example.org",
        "https://app.example.org.evil.example",
        "https://app.example.org:8443",
        "https://evil.example/https://app.example.org",
        "http://localhost:8000.evil.example",
        "http://localhost:8000@evil.example",
        "file://",
    ],
)
def test_a_page_of_a_foreign_origin_may_change_nothing(origin: str) -> None:
    origins = Origins([APP])
    for changing in (scope("POST"), scope("DELETE"), scope("PUT"), {**scope(), "type": "websocket"}):
        changing["headers"] = [(b"host", b"localhost:8000"), (b"origin", origin.encode())]
        with pytest.raises(Forbidden):
            origins.check(changing)
    origins.check(scope("GET", host="localhost:8000", origin=origin))  # what it may read CORS says


def test_two_origins_or_hosts_are_foreign() -> None:
    for headers in (
        [(b"host", b"a"), (b"origin", b"http://a"), (b"origin", b"http://a")],
        [(b"host", b"a"), (b"host", b"a"), (b"origin", b"http://a")],
        [(b"origin", b"http://a")],
    ):
        with pytest.raises(Forbidden):
            Origins().check({"type": "http", "method": "POST", "headers": headers})


def test_a_request_without_an_origin_is_no_page() -> None:
    Origins().check(scope(host="localhost"))


def test_without_a_list_there_is_no_cors() -> None:
    assert Origins().answer_headers(scope(host="a", origin=APP)) == []


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1:8000", "[::1]", "LOCALHOST:8000", "feed.lan:9"]
)
def test_a_server_without_a_key_answers_to_these_names(host: str) -> None:
    Hosts(["feed.lan", "other.lan:8000"]).check(scope(host=host))
    Hosts(["feed.lan", "other.lan:8000"]).check(scope(host="other.lan:8000"))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "",
        "0.0.0.0:8000",
        "localhost:",
        "[::2]",
        "other.lan",
    ],
)
def test_w5_and_to_no_other(host: str) -> None:
    with pytest.raises(Forbidden, match="FEED_HOSTS"):
        Hosts(["other.lan:8000"]).check(scope(host=host))


PATHS = [
    "/",
    "/docs",
    "/openapi.json",
    "/healthz/",
    "/healthz/x",
    "//readyz",
    "/metrics",
    "/subscriptions",
    "/events/a",
    "/assets/app.js",
]


@pytest.mark.parametrize("path", PATHS)
def test_w5_a_name_rebound_to_this_machine_gets_nothing(server: RunningServer, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}", headers={"Host": f"evil.example:{server.port}"})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    assert "FEED_HOSTS" in answer.json()["detail"]


def test_w5_nor_does_it_where_health_is_asked_for_in_another_way(server: RunningServer) -> None:
    answer = server.http.post(f"{server.url}/healthz", headers={"Host": "evil.example"})
    assert answer.status_code == 403


@pytest.fixture(scope="module")
def exposed() -> Iterator[RunningServer]:
    with running("--log", "memory:", "--insecure") as shared:
        yield shared


@pytest.fixture(scope="module")
def keyed() -> Iterator[RunningServer]:
    with running("--log", "memory:", jwt_secret="0" * 32) as shared:
        yield shared


@pytest.mark.parametrize("host", ["10.1.2.3:8000", "pod-7", "feed.namespace.svc.cluster.local", "a b", "user@host"])
def test_a_probe_is_answered_whatever_its_host(
    server: RunningServer, exposed: RunningServer, keyed: RunningServer, host: str
) -> None:
    for each in (server, exposed, keyed):
        for path in ("/healthz", "/readyz"):
            for method in ("GET", "HEAD"):
                answer = each.http.request(method, f"{each.url}{path}", headers={"Host": host})
                assert answer.status_code == 200, (method, path)


@pytest.mark.parametrize(
    ("root", "path", "answered"),
    [
        ("", "/healthz", True),
        ("/feed", "/feed/readyz", True),
        ("/feed/", "/feed/readyz", True),
        ("/feed", "/healthz", True),
        ("/h", "/healthz", True),
        ("/feed", "/feed/events/healthz", False),
        ("/healthz", "/healthz/events/a", False),
    ],
)
def test_a_probe_may_come_through_a_proxy_that_takes_a_path_away(root: str, path: str, answered: bool) -> None:
    asked = {**scope("GET", host="pod-7"), "root_path": root, "path": path}
    if answered:
        Hosts().check(asked)
    else:
        with pytest.raises(Forbidden):
            Hosts().check(asked)


def test_a_probe_over_http_1_0_needs_no_host(server: RunningServer) -> None:
    assert raw(server, b"GET /healthz HTTP/1.0\r\n\r\n").split()[1] == b"200"


def test_an_exposed_server_answers_nothing_else_to_a_name_that_is_not_its_own(exposed: RunningServer) -> None:
    for path in ("/", "/metrics", "/subscriptions", "/events/a?limit=1"):
        answer = exposed.http.get(f"{exposed.url}{path}", headers={"Host": "pod-7", "Accept": "application/json"})
        assert answer.status_code == 403, path


def raw(server: RunningServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(65536)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /docs HTTP/1.0\r\n\r\n",
        b"GET /docs HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        b"GET /docs HTTP/1.1\r\nHost: \r\n\r\n",
    ],
)
def test_no_host_and_two_are_no_name_of_ours(server: RunningServer, request_: bytes) -> None:
    assert raw(server, request_).split()[1] in {b"400", b"403"}


def test_a_listed_host_is_answered(serve: Serve) -> None:
    server = serve("--log", "memory:", hosts="feed.example.org, other.example.org:81")
    statuses = {
        host: server.http.get(f"{server.url}/docs", headers={"Host": host}).status_code
        for host in ("feed.example.org", "feed.example.org:8443", "other.example.org:81", "other.example.org", "x.org")
    }
    assert list(statuses.values()) == [200, 200, 200, 403, 403]


PUBLISH = b"Content-Length: 1\r\nConnection: close\r\n\r\nx"


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        (b"http://evil.example/events/target", b"localhost", b"403"),
        (b"http://evil.example:80/events/target", b"localhost", b"403"),
        (b"HTTPS://evil.example/events/target", b"localhost", b"403"),
        (b"http://localhost.evil.example/events/target", b"localhost", b"403"),
        (b"http://user@localhost/events/target", b"localhost", b"400"),
        (b"http://localhost@evil.example/events/target", b"localhost", b"400"),
        (b"http:///events/target", b"localhost", b"400"),
        (b"ftp://localhost/events/target", b"localhost", b"400"),
        (b"//evil.example/events/target", b"localhost", b"404"),
        (b"*", b"localhost", b"400"),
        (b"http://localhost", b"localhost", b"405"),
        (b"http://localhost/events/target", b"localhost", b"201"),
        (b"http://localhost:1/events/target?type=a", b"evil.example", b"201"),
    ],
)
def test_the_target_s_own_host_counts_where_it_has_one(
    server: RunningServer, target: bytes, host: bytes, status: bytes
) -> None:
    topic = "target"
    before = len(server.history(topic)["events"])
    answer = raw(server, b"POST %b HTTP/1.1\r\nHost: %b\r\n" % (target, host) + PUBLISH)
    assert answer.split()[1] == status, answer
    assert len(server.history(topic)["events"]) == before + (status == b"201")


def test_a_page_of_the_header_s_host_is_foreign_where_the_target_names_another(keyed: RunningServer) -> None:
    ask = b"POST %b HTTP/1.1\r\nHost: feed.example\r\nOrigin: http://feed.example\r\n" + PUBLISH
    assert raw(keyed, ask % b"/events/a").split()[1] == b"401"  # its own page, and no token
    assert raw(keyed, ask % b"http://other.example/events/a").split()[1] == b"403"


def test_a_websocket_s_target_counts_too(server: RunningServer) -> None:
    handshake = HANDSHAKE.replace(b"GET %b", b"GET http://%b/ws/a")
    assert raw(server, handshake % b"evil.example").split()[1] == b"403"
    assert raw(server, handshake.replace(b"Host: localhost", b"Host: evil.example") % b"localhost").split()[1] == b"101"


FOREIGN = ["https://evil.example", "null", "http://localhost:1"]


@pytest.mark.parametrize("origin", FOREIGN)
def test_w5_a_foreign_page_cannot_publish_and_nothing_is_stored(server: RunningServer, origin: str) -> None:
    topic = f"foreign/{FOREIGN.index(origin)}"
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", f"/events/{topic}", {"content": "x"}),
        ("POST", f"/events/{topic}", {"data": {"a": "form"}}),
        ("POST", "/events", {"json": {"topic": topic, "data": 1}}),
        ("POST", "/session", {}),
        ("DELETE", "/session", {}),
        ("DELETE", "/subscriptions/0123456789abcdef", {}),
    ]
    for method, path, content in requests:
        answer = server.http.request(method, f"{server.url}{path}", headers={"Origin": origin}, **content)
        assert answer.status_code == 403, path
        assert answer.headers["content-type"] == "application/problem+json"
    assert server.history(topic)["events"] == []


@pytest.mark.parametrize("origin", FOREIGN)
def test_w5_a_foreign_page_cannot_open_a_websocket(server: RunningServer, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws{server.url[4:]}/ws/a", origin=Origin(origin)):
        pass
    assert refused.value.response.status_code == 403


def test_its_own_page_may_do_all_of_it(server: RunningServer) -> None:
    own = {"Origin": server.url}
    assert server.http.post(f"{server.url}/events/own", content="x", headers=own).status_code == 201
    assert server.http.delete(f"{server.url}/session", headers=own).status_code == 204
    with connect(f"ws{server.url[4:]}/ws/own", origin=Origin(server.url)):
        pass


@pytest.fixture(scope="module")
def listing() -> Iterator[RunningServer]:
    with running("--log", "memory:", origins=f"{APP} http://localhost:3000") as shared:
        yield shared


def test_a_listed_page_may_do_all_of_it_and_read_the_answers(listing: RunningServer) -> None:
    answer = listing.http.post(f"{listing.url}/events/a", content="x", headers={"Origin": APP})
    assert answer.status_code == 201
    assert_cors(answer)
    with subscribed(f"{listing.url}/events/a", Origin=APP) as stream:
        assert_cors(stream.response)
    for path in ("/events/a?limit=1", "/events/a//b", "/healthz", "/nothing"):
        assert_cors(listing.http.get(f"{listing.url}{path}", headers={"Origin": APP, "Accept": "application/json"}))
    with connect(f"ws{listing.url[4:]}/ws/a", origin=Origin(APP)):
        pass


def assert_cors(answer: httpx.Response) -> None:
    assert answer.headers["access-control-allow-origin"] == APP
    assert answer.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in answer.headers["vary"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("origin", [*FOREIGN, "http://app.example.org", None])
def test_others_are_told_nothing_but_that_it_depends_on_them(listing: RunningServer, origin: str | None) -> None:
    headers = {} if origin is None else {"Origin": origin}
    for path in ("/healthz", "/events/a?limit=1"):
        answer = listing.http.get(f"{listing.url}{path}", headers={"Accept": "application/json", **headers})
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["vary"] == "Origin"


ALLOWED = {
    *("last-event-id", "authorization", "content-type", "idempotency-key", "if-match", "if-none-match"),
    *("cache-control", "x-requested-with", "traceparent", "tracestate", "baggage"),
}


def preflight(
    server: RunningServer, origin: str, path: str = "/events/a", names: str = "authorization,content-type"
) -> httpx.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": names}
    return server.http.options(f"{server.url}{path}", headers={"Origin": origin, **asked})


@pytest.mark.parametrize("path", ["/events/a", "/events", "/session", "/subscriptions/x", "/metrics"])
def test_a_preflight_of_a_listed_page_is_answered(listing: RunningServer, path: str) -> None:
    answer = preflight(listing, APP, path)
    assert answer.status_code == 204
    assert_cors(answer)
    assert {"GET", "POST", "DELETE"} <= set(answer.headers["access-control-allow-methods"].split(", "))
    allowed = set(answer.headers["access-control-allow-headers"].lower().split(", "))
    assert allowed == ALLOWED
    assert int(answer.headers["access-control-max-age"]) > 0


@pytest.mark.parametrize(
    ("names", "allowed"),
    [
        (
            "ce-id,ce-source, Ce-Type ,ce-specversion,ce-myextension",
            "ce-id ce-source ce-type ce-specversion ce-myextension",
        ),
        ("content-type,ce-id,x-evil,cookie", "ce-id"),
        ("ce-,ce,ce-a b,ce-a:b,xce-id,ce-" + "x" * 65, ""),
        (",".join(f"ce-n{number}" for number in range(1_000)), " ".join(f"ce-n{number}" for number in range(50))),
        ("x," * 5_000, ""),
    ],
)
def test_the_headers_of_a_cloudevent_are_allowed_by_name(listing: RunningServer, names: str, allowed: str) -> None:
    answer = preflight(listing, APP, names=names)
    assert answer.status_code == 204
    assert set(answer.headers["access-control-allow-headers"].lower().split(", ")) == ALLOWED | set(allowed.split())


def test_a_page_may_read_when_to_come_back(listing: RunningServer) -> None:
    answer = listing.http.get(f"{listing.url}/healthz", headers={"Origin": APP})
    assert "retry-after" in answer.headers["access-control-expose-headers"].lower()


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_preflight_of_another_is_not(listing: RunningServer, origin: str) -> None:
    answer = preflight(listing, origin)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_a_refusal_for_capacity_can_be_read_by_a_listed_page_too(serve: Serve) -> None:
    server = serve("--log", "memory:", origins=APP, max_subscribers=1)
    with subscribed(f"{server.url}/events/a"):
        for accept in ("application/x-ndjson", "text/event-stream"):
            answer = server.http.get(f"{server.url}/events/a", headers={"Origin": APP, "Accept": accept})
            assert_cors(answer)


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/app.js", "/openapi.json", "/healthz", "/nothing", "/metrics"])
def test_every_answer_is_taken_for_what_it_says_and_tells_no_url(server: RunningServer, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}")
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("referrer-policy") == ["no-referrer"]


def test_publishes_streams_and_problems_say_so_too(server: RunningServer) -> None:
    with subscribed(f"{server.url}/events/safe") as stream:
        answers = [
            stream.response,
            server.http.post(f"{server.url}/events/safe", content="x"),
            server.http.post(f"{server.url}/events/safe//x", content="x"),
            server.http.get(f"{server.url}/events/safe", headers={"Accept": "application/json"}),
        ]
    for answer in answers:
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_list("referrer-policy") == ["no-referrer"]


def test_the_dashboard_has_the_strict_policy(server: RunningServer) -> None:
    policy = server.http.get(f"{server.url}/").headers["content-security-policy"]
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "script-src 'self'",
        "worker-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html feed",
    }


@pytest.mark.parametrize("listed", [["*"], "https://app.example.org", ["app.example.org"]])
def test_what_is_no_list_of_origins_is_refused_when_it_is_given(listed: list[str]) -> None:
    with pytest.raises(ValueError, match="is not an origin"):
        Origins(listed)


@pytest.mark.parametrize(
    ("address", "allowed"), [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("0.0.0.0", False)]
)
def test_without_a_key_only_loopback_is_answered_whoever_serves_the_application(address: str, allowed: bool) -> None:
    asked = {**scope(host="localhost"), "server": (address, 8000)}
    Hosts(exposed=True).check(asked)
    if allowed:
        Hosts().check(asked)
    else:
        with pytest.raises(Forbidden, match="loopback only"):
            Hosts().check(asked)
