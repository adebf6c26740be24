"""What is around the feed: health, readiness, documentation, files."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.support.running import FEED, GREETING, RunningServer
from tests.support.tokens import SECRET


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


@pytest.mark.parametrize(
    ("settings", "lines"),
    [
        ({}, ["  access      everyone on this machine (no key)"]),
        ({"insecure": 1}, ["  access      EVERYONE who reaches it (no key, --insecure)"]),
        (
            {"jwt_secret": SECRET, "public": "news/**"},
            [
                "  access      tokens (FEED_JWT_SECRET); everyone may subscribe to news/**",
                "  token       export TOKEN=$(feed token --publish '**' --subscribe '**')",
            ],
        ),
        (
            {"publisher_jwt_secret": SECRET, "subscriber_jwt_secret": SECRET + "s"},
            [
                "  access      tokens (FEED_PUBLISHER_JWT_SECRET, FEED_SUBSCRIBER_JWT_SECRET)",
                "  token       TOKEN can be for publishing or for subscribing: see feed token --help",
            ],
        ),
    ],
)
def test_the_greeting_says_who_may_do_what(serve: Serve, settings: dict[str, object], lines: list[str]) -> None:
    said = serve("--log", "memory:", **settings).output.splitlines()
    assert said[2:-2] == lines
    assert ("$TOKEN" in said[-1]) == ("$TOKEN" in said[-2]) == ("jwt" in "".join(settings))


def test_the_curl_lines_of_a_server_with_a_key_work_with_the_token_it_names(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    *_, token, _, publish = server.output.splitlines()
    script = f"{token.split(None, 1)[1]}; {publish.split(None, 1)[1]} -sS"
    environment = {"PATH": f"{Path(FEED).parent}:{os.environ['PATH']}", "FEED_JWT_SECRET": SECRET}
    done = subprocess.run(["sh", "-ec", script], env=environment, capture_output=True, text=True, timeout=30)
    assert done.stderr == ""
    assert set(json.loads(done.stdout)) == {"id", "topic"}


def test_a_variable_that_is_no_setting_is_warned_of_and_its_value_not_shown(serve: Serve) -> None:
    server = serve("--log", "memory:", jwt_secrt=SECRET, url="http://localhost", zzz="x")
    first, second, *rest = server.output.splitlines()
    assert first == "feed serve: FEED_JWT_SECRT is not a setting: did you mean FEED_JWT_SECRET?"
    assert second == "feed serve: FEED_ZZZ is not a setting"
    assert len(rest) == GREETING


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
        ("/events/a/b", "DELETE, GET, HEAD, POST"),
        ("/healthz", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
        ("/session", "DELETE, POST"),
        ("/subscriptions", "DELETE, GET"),
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
    schemes: list[dict[str, list[str]]] = [{name: []} for name in document["components"]["securitySchemes"]]
    assert schemes == [{"bearer": []}, {"query": []}, {"cookie": []}]
    assert document["paths"]["/events"]["post"]["security"] == schemes
    assert document["paths"]["/events"]["get"]["security"] == [{}, *schemes]
    assert document["paths"]["/session"]["post"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]


def test_an_error_of_ours_tells_no_secrets(serve: Serve) -> None:
    server = serve("--log", "memory:")
    answer = server.http.post(f"{server.url}/events/a", content=b"\xff")
    assert set(answer.json()) == {"type", "title", "status", "detail"}
    assert "feed_server" not in answer.text
    assert server.remarks == "", "a bad request is nothing for the log"


def test_an_error_says_what_would_be_right(server: RunningServer) -> None:
    for method, path, detail in (
        ("GET", "/nowhere", "there is nothing at this path: see /docs"),
        ("PUT", "/events", "this path accepts only GET, HEAD, POST"),
        (
            "GET",
            "/events?pattern=a",
            "pattern: is missing: name a topic, or ** for everything, in the path or with ?topic=",
        ),
    ):
        assert server.http.request(method, f"{server.url}{path}").json()["detail"] == detail
