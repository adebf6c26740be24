"""What is around the feed: health, readiness, documentation, files."""

from __future__ import annotations

import pytest

from tests.conftest import Serve
from tests.running import RunningServer


def test_a_living_and_ready_server_says_so(server: RunningServer) -> None:
    for path in ("/healthz", "/readyz"):
        answer = server.http.get(f"{server.url}{path}")
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert server.http.head(f"{server.url}{path}").status_code == 200


def test_the_greeting_names_the_dashboard_and_two_curl_lines_to_try(server: RunningServer) -> None:
    assert f"dashboard   {server.url}/" in server.output
    assert f"curl -N {server.url}/events/hello" in server.output
    assert f"curl -d 'Hello' {server.url}/events/hello" in server.output


@pytest.mark.parametrize("path", ["/", "/docs", "/assets/app.js", "/assets/style.css"])
def test_pages_and_files_come_from_the_package(server: RunningServer, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}")
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] in {"no-store", "no-cache"}
    assert b"//cdn" not in answer.content
    assert server.http.head(f"{server.url}{path}").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../app.py",
        "/assets/..%2fapp.py",
        "/assets/%2e%2e/app.py",
        "/assets/..%5capp.py",
        "/assets//etc/passwd",
        "/assets/%2fetc%2fpasswd",
        "/assets/x%00y",
        "/assets/",
        "/assets",
        "/assets/vendor",
    ],
)
def test_w11_nothing_else_is_served(server: RunningServer, path: str) -> None:
    answer = server.http.get(f"{server.url}{path}")
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_every_route_is_documented(server: RunningServer) -> None:
    document = server.http.get(f"{server.url}/openapi.json").json()
    assert set(document["paths"]) == {
        "/events",
        "/events/{topic}",
        "/subscriptions",
        "/subscriptions/{id}",
        "/session",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    publish = document["paths"]["/events/{topic}"]["post"]
    assert {"201", "400", "413", "415", "422", "429", "503", "504"} <= set(publish["responses"])
    subscribe = document["paths"]["/events/{topic}"]["get"]
    assert set(subscribe["responses"]["200"]["content"]) == {
        "text/event-stream",
        "application/x-ndjson",
        "application/json",
    }
    assert "UserWarning" not in server.output


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/", "GET, HEAD"),
        ("/assets/app.js", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/events", "GET, HEAD, POST"),
        ("/events/a/b", "GET, HEAD, POST"),
        ("/healthz", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/session", "DELETE, POST"),
        ("/subscriptions", "GET"),
        ("/subscriptions/a", "DELETE"),
    ],
)
def test_a_method_that_is_not_there_is_told_which_ones_are(server: RunningServer, path: str, allowed: str) -> None:
    for method in ("OPTIONS", "PUT", "PATCH"):
        answer = server.http.request(method, f"{server.url}{path}")
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_the_documentation_says_where_a_token_may_stand_where_one_is_needed(
    server: RunningServer, serve: Serve
) -> None:
    document = server.http.get(f"{server.url}/openapi.json").json()
    assert "security" not in str(document)
    guarded = serve("--log", "memory:", jwt_secret="x" * 32, public="news/**")
    document = guarded.http.get(f"{guarded.url}/openapi.json").json()
    schemes = [{name: []} for name in document["components"]["securitySchemes"]]
    assert schemes == [{"bearer": []}, {"query": []}, {"cookie": []}]
    assert document["paths"]["/events"]["post"]["security"] == schemes
    assert document["paths"]["/events"]["get"]["security"] == [{}, *schemes]
    assert document["paths"]["/session"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_an_error_of_ours_tells_no_secrets(serve: Serve) -> None:
    server = serve("--log", "memory:")
    answer = server.http.post(f"{server.url}/events/a", content=b"\xff")
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "web/" not in answer.text
    assert server.output.count("\n") == 4, "a bad request is nothing for the log"
