"""`feed subscriptions` and `feed kick`: who reads now, and how to end their streams."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import Serve
from tests.server.conftest import Start
from tests.support.commands import feed, on_a_terminal, one_line
from tests.support.running import RunningServer
from tests.support.streams import eventually


class Scripted(http.server.BaseHTTPRequestHandler):
    """Answers what `answers` holds for a request's method and path with its query, and notes the requests."""

    answers: dict[str, tuple[int, Any]]
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        """Answer."""
        what = f"{self.command} {self.path}"
        self.asked.append((what, self.headers["Authorization"]))
        status, document = self.answers.get(what, (404, {"status": 404, "detail": f"not scripted: {what}"}))
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def do_DELETE(self) -> None:
        """Answer as well."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def answering(answers: dict[str, tuple[int, Any]]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server for as long as the block lasts: its URL, and what it was asked."""
    asked: list[tuple[str, str | None]] = []
    handler = type("Handler", (Scripted,), {"answers": answers, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def subscription(id: str, subject: str | None = None) -> dict[str, Any]:
    """One of a list."""
    return {
        "id": id,
        "subject": subject,
        "node": "n1",
        "patterns": ["orders/*", "news"],
        "types": [],
        "since": "2026-11-21T03:05:00.000Z",
        "position": "abc-7",
        "queued": 0,
        "lagging": False,
        "transport": "sse",
        "address": "127.0.0.1",
        "bytes_sent": 0,
    }


def listed(*subscriptions: dict[str, Any], next: str | None = None, silent: tuple[str, ...] = ()) -> tuple[int, Any]:
    """A page of them."""
    return 200, {"subscriptions": list(subscriptions), "next": next, "silent": list(silent)}


FIRST, SECOND = "GET /subscriptions?limit=1000", "GET /subscriptions?limit=1000&after=b"


# feed subscriptions


def test_the_streams_of_a_server_are_json_lines_in_a_pipe(server: RunningServer, start: Start) -> None:
    server.publish("admin/listed")
    tail = start("tail", "admin/listed", "--last", "1", "--url", server.url)
    tail.until_lines(1)
    result = feed("subscriptions", "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    mine = [each for each in map(json.loads, result.stdout.splitlines()) if each["patterns"] == ["admin/listed"]]
    assert [each["transport"] for each in mine] == ["sse"]


def test_all_pages_are_listed_and_silent_nodes_named_once() -> None:
    pages = {
        FIRST: listed(subscription("a", "alice"), subscription("b", "bob"), next="b", silent=("n2",)),
        SECOND: listed(subscription("c", "alice"), silent=("n2", "n3")),
    }
    with answering(pages) as (url, asked):
        result = feed("subscriptions", "--url", url, "--token", "top.secret")
        of_alice = feed("subscriptions", "--subject", "alice", "--url", url)
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["a", "b", "c"]
    said = "feed: the nodes n2, n3 did not answer in time: the list is without their streams\n"
    assert (result.returncode, result.stderr.decode()) == (0, said)
    assert [json.loads(line)["id"] for line in of_alice.stdout.splitlines()] == ["a", "c"]
    assert asked[:2] == [(FIRST, "Bearer top.secret"), (SECOND, "Bearer top.secret")]


def test_a_terminal_gets_a_table_without_control_characters() -> None:
    with answering({FIRST: listed(subscription("a", "ali\x1b[31mce"), subscription("b"))}) as (url, _):
        head, first, second = on_a_terminal("subscriptions", "--url", url).splitlines()
        as_json = on_a_terminal("subscriptions", "--json", "--url", url).splitlines()
    assert head.split() == ["ID", "SUBJECT", "NODE", "ADDRESS", "TRANSPORT", "SINCE", "QUEUED", "PATTERNS"]
    assert first.split()[:3] == ["a", r"ali\u001b[31mce", "n1"]
    assert second.split() == ["b", "n1", "127.0.0.1", "sse", "2026-11-21T03:05:00.000Z", "0", "orders/*", "news"]
    assert [json.loads(line)["subject"] for line in as_json] == ["ali\x1b[31mce", None]


def test_a_terminal_is_told_that_there_are_no_streams() -> None:
    with answering({FIRST: listed(subscription("a"))}) as (url, _):
        assert (
            on_a_terminal("subscriptions", "--subject", "bob", "--url", url).strip() == "no streams of 'bob' are open"
        )


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((403, {"status": 403, "detail": "the token has no admin"}), "feed: refused with 403: the token has no admin"),
        ((404, b"<h1>nothing"), "404 Not Found: this is not a feed's answer: a proxy's, or the URL is wrong"),
        ((200, b"<h1>Log in"), "200 OK: this is not a feed's answer: a proxy's, or the URL is wrong"),
        ((200, {"other": 1}), "the answer is not a list of subscriptions"),
    ],
)
def test_what_is_no_list_is_one_line_and_exit_code_1(answer: tuple[int, Any], said: str) -> None:
    with answering({FIRST: answer}) as (url, _):
        result = feed("subscriptions", "--url", url)
    assert one_line(result).endswith(said)
    assert result.returncode == 1


def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(serve: Serve) -> None:
    server = serve("--log", "memory:")
    server.kill()
    for command in (["subscriptions"], ["kick", "a"], ["kick", "--subject", "a"]):
        result = feed(*command, "--url", server.url)
        assert one_line(result) == f"feed: {server.url}: cannot connect"
        assert result.returncode == 1


# feed kick


def test_a_stream_is_ended_by_its_id(server: RunningServer, start: Start) -> None:
    server.publish("admin/kicked")
    tail = start("tail", "admin/kicked", "--last", "1", "--url", server.url)
    tail.until_lines(1)
    streams = map(json.loads, feed("subscriptions", "--url", server.url).stdout.splitlines())
    (id,) = [each["id"] for each in streams if each["patterns"] == ["admin/kicked"]]
    result = feed("kick", id, "--url", server.url)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"ended 1 stream\n")
    tail.until(lambda: "feed: the server ends the stream: kicked" in tail.errors)


def test_one_that_cannot_be_ended_does_not_keep_the_others_from_it() -> None:
    gone = {"status": 404, "detail": "it has ended"}
    answers = {"DELETE /subscriptions/a": (204, b""), "DELETE /subscriptions/x": (404, gone)}
    with answering({**answers, "DELETE /subscriptions/b%2F..": (204, b"")}) as (url, asked):
        result = feed("kick", "a", "x", "x", "b/..", "--url", url)
    assert result.stderr.decode().splitlines() == ["ended 2 streams", "feed: x: refused with 404: it has ended"]
    assert result.returncode == 1
    assert [what for what, _ in asked] == [
        "DELETE /subscriptions/a",
        "DELETE /subscriptions/x",
        "DELETE /subscriptions/b%2F..",
    ]


def test_a_user_is_logged_out_with_a_token_for_admins(serve: Serve, start: Start) -> None:
    server = serve("--log", "memory:", jwt_secret=SECRET)
    admin = token_of("--admin")
    tails = {
        name: start("tail", "a", "--url", server.url, "--token", token_of("--subscribe", "a", "--subject", name))
        for name in ("alice", "bob")
    }
    eventually(lambda: len(subjects(server, admin)) == 2)
    assert subjects(server, admin, "--subject", "alice") == ["alice"]
    result = feed("kick", "--subject", "alice", "--url", server.url, "--token", admin)
    assert (result.returncode, result.stderr) == (0, b"ended 1 stream\n")
    tails["alice"].until(lambda: "feed: the server ends the stream: kicked" in tails["alice"].errors)
    refused = feed("kick", "--subject", "bob", "--url", server.url, "--token", token_of("--subscribe", "a"))
    assert one_line(refused).startswith("feed: refused with 403: ")
    assert tails["bob"].errors == []


SECRET = "a secret of the tests, and of nobody else"


def token_of(*arguments: str) -> str:
    """A token for it."""
    return feed("token", *arguments, jwt_secret=SECRET).stdout.decode().strip()


def subjects(server: RunningServer, token: str, *arguments: str) -> list[str]:
    """Whose streams are open."""
    result = feed("subscriptions", *arguments, "--url", server.url, "--token", token)
    return [json.loads(line)["subject"] for line in result.stdout.splitlines()]


def test_all_streams_of_a_subject_are_ended() -> None:
    what = "DELETE /subscriptions?subject=alice%2B1%40example.org"
    with answering({what: (200, {"ended": 3, "silent_nodes": []})}) as (url, asked):
        result = feed("kick", "--subject", "alice+1@example.org", url=url, token="top.secret")
    assert (result.returncode, result.stderr) == (0, b"ended 3 streams\n")
    ((path, token),) = asked
    assert parse_qs(urlsplit(path.split()[1]).query) == {"subject": ["alice+1@example.org"]}
    assert token == "Bearer top.secret"


def test_nodes_that_did_not_answer_are_a_failure() -> None:
    answers = {
        "DELETE /subscriptions?subject=a": (200, {"ended": 1, "silent_nodes": ["n2"]}),
        "DELETE /subscriptions?subject=b": (503, {"status": 503, "detail": "node n2 did not answer"}),
    }
    with answering(answers) as (url, _):
        some, none = (feed("kick", "--subject", subject, "--url", url) for subject in "ab")
    assert some.stderr.decode().splitlines() == [
        "ended 1 stream",
        "feed: node n2 did not answer in time: streams there may still be open: try again",
    ]
    assert one_line(none) == "feed: refused with 503: node n2 did not answer"
    assert (some.returncode, none.returncode) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "feed kick: which streams: give their ids, or --subject"),
        (["a", "--subject", "b"], "feed kick: give the ids of streams, or --subject"),
        (["--subject", ""], "feed kick: --subject: must not be empty"),
        ([".."], "feed kick: '..' is not the id of a stream: see feed subscriptions"),
    ],
)
def test_a_wrong_kick_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    result = feed("kick", *arguments)
    assert one_line(result) == said
    assert result.returncode == 2
