"""The command line: real `feed` processes, what they print, what they end with, and what they survive."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from feed_server.cli.main import run
from feed_server.cli.publish import dashed_data_last
from feed_server.cli.terminal import escaped, escaped_json
from feed_server.settings import Settings, is_secret, option, variable
from tests.conftest import Serve
from tests.server.conftest import Start
from tests.support.commands import ENVIRONMENT, SECONDS, Command, feed, one_line
from tests.support.running import FEED, RunningServer

COMMANDS = [
    "serve",
    "publish",
    "tail",
    "history",
    "topics",
    "subscriptions",
    "kick",
    "demo",
    "token",
    "bench",
    "doctor",
]


def events(server: RunningServer, pattern: str, **parameters: object) -> Any:
    """What the server keeps, oldest first, page by page."""
    found: list[Any] = []
    while (page := server.history(pattern, **parameters))["events"]:
        found += page["events"]
        parameters = {"last_event_id": page["next"]}
    return found


def free_port() -> int:
    """A port on which nothing listens, and nothing began to between now and its use, with luck."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


# The command line itself.


def test_without_a_command_it_shows_what_there_is() -> None:
    result = feed()
    assert result.returncode == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", result.stdout.decode(), re.MULTILINE)


def test_it_says_its_version() -> None:
    result = feed("--version")
    assert (result.returncode, result.stderr) == (0, b"")
    assert re.fullmatch(r"feed \d+\.\d+\.\d+\n", result.stdout.decode())


def test_the_help_of_serve_shows_every_setting_with_its_variable_default_and_description() -> None:
    result = feed("serve", "--help", max_data="1")
    text = " ".join(result.stdout.decode().split())
    assert result.returncode == 0
    for name, field in Settings.model_fields.items():
        if is_secret(name):
            continue
        value = "" if field.annotation is bool else " VALUE"
        assert f"--{name.replace('_', '-')}{value} " in text
        assert f"env var: FEED_{name.upper()}" in text
        assert field.description
        assert " ".join(field.description.split()) in text
    for default in ("127.0.0.1", "8000", "256K", "16M", "7d", "15s", "sqlite:feed.db"):
        assert f"default: {default}]" in text


def test_serve_has_no_option_for_a_secret_and_says_where_it_is_read() -> None:
    text = feed("serve", "--help").stdout.decode()
    for name in filter(is_secret, Settings.model_fields):
        assert f"FEED_{name.upper()}" in text
        assert f"--{name.replace('_', '-')}" not in text


@pytest.mark.parametrize("secret", [name for name in Settings.model_fields if is_secret(name)])
def test_a_secret_on_the_command_line_is_sent_to_the_environment_and_not_shown(secret: str) -> None:
    for arguments in ([option(secret), "x" * 32], [f"{option(secret)}={'x' * 32}"]):
        line = one_line(feed("serve", *arguments))
        assert line.endswith(f"{option(secret)}: secrets are read from the environment only: {variable(secret)}")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    result = feed(command, "--help")
    assert (result.returncode, result.stderr) == (0, b"")
    assert re.search(rf"^  Example: .*feed {command}", result.stdout.decode(), re.MULTILINE)
    assert feed(command, "-h").stdout == result.stdout


@pytest.mark.parametrize("command", ["publish", "tail", "history", "topics", "subscriptions", "kick", "demo"])
def test_what_talks_to_a_server_says_where_and_as_whom(command: str) -> None:
    text = feed(command, "--help").stdout.decode()
    assert "--url" in text
    assert "FEED_URL" in text
    assert "FEED_TOKEN" in text


def test_python_m_feed_is_the_command() -> None:
    result = subprocess.run([sys.executable, "-m", "feed", "-h"], env=ENVIRONMENT, capture_output=True, timeout=SECONDS)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == feed("-h").stdout


def test_a_shell_completes_commands_and_options() -> None:
    asked = {"_FEED_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    for words, number, expected in (
        ("feed s", "1", ["serve", "subscriptions"]),
        ("feed tail --un", "2", ["--until-live"]),
        ("feed tail --transport ", "3", ["sse", "websocket"]),
    ):
        environment = ENVIRONMENT | asked | {"COMP_WORDS": words, "COMP_CWORD": number}
        result = subprocess.run([FEED], env=environment, capture_output=True, timeout=SECONDS)
        assert result.stdout.decode().split() == expected
    script = ENVIRONMENT | {"_FEED_COMPLETE": "source_bash"}  # as --show-completion in a bash
    result = subprocess.run([FEED], env=script, capture_output=True, timeout=SECONDS)
    assert b"complete -o default -F _feed_completion feed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["sevre"], "Did you mean 'serve'?"),
        (["--bogus"], "No such option: --bogus"),
        (["serve", "--bogus", "1"], "No such option: --bogus"),
        (["serve", "extra"], "unexpected extra argument"),
        (["serve", "--port"], "'--port' requires an argument"),
        (["serve", "--port", "x"], "--port (FEED_PORT): must be a whole number, such as 10"),
        (
            ["serve", "--log", "nonsense"],
            "--log (FEED_LOG): 'nonsense' does not name a log: use memory:, sqlite:PATH or redis://",
        ),
        (["serve", "--port", "70000"], "--port (FEED_PORT): must be at most 65,535"),
        (["serve", "--publish-rate", "10/s"], "--publish-rate (FEED_PUBLISH_RATE): must be a number, such as 10"),
        (["serve", "--publish-rate", "0"], "--publish-rate (FEED_PUBLISH_RATE): must be more than 0"),
        (["serve", "--max-patterns", "0"], "--max-patterns (FEED_MAX_PATTERNS): must be at least 1"),
        (["serve", "--node", ""], "--node (FEED_NODE): must not be empty"),
        (["serve", "--node", "x" * 129], "--node (FEED_NODE): must be at most 128 characters long"),
        (["serve", "--max-data", "big"], "--max-data (FEED_MAX_DATA): a size is a number of bytes"),
        (["serve", "--retain-age", "soon"], "--retain-age (FEED_RETAIN_AGE): a duration is a number of seconds"),
        (["tail"], "Missing argument 'PATTERN'"),
        (["tail", "a", "--last", "0"], "--last"),
        (["tail", "a", "--last", "1", "--after", "earliest"], "--last and --after"),
        (["tail", "a", "--url", "localhost:8081"], "'localhost:8081' is not a URL: http:// is missing"),
        (["tail", "a", "--url", "nowhere"], "'nowhere' is not a URL: http:// is missing"),
        (["tail", "a", "--url", "ftp://nowhere"], "'ftp://nowhere' is not a URL such as http://127.0.0.1:8000"),
        (["tail", "a", "--token", "Bearer secret"], "is not a token: give it alone, without Bearer or line breaks"),
        (["publish"], "Missing argument 'TOPIC'"),
        (["publish", "a", "--key", "k"], "--key is for a single event"),
        (["publish", "a", "x", "--patience", "long"], "--patience"),
        (["demo", "--every", "0"], "--every"),
        (["tail", "a", "--token", "a b"], "'--token' (env var: 'FEED_TOKEN'): is not a token: give it alone"),
        (["tail", "line\nbreak", "--bogus\nx"], "No such option"),
        (["tail", os.fsdecode(b"\xff")], "argument 2 is not UTF-8"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments: list[str], said: str) -> None:
    result = feed(*arguments)
    assert said in one_line(result)
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("port", "x", "feed serve: --port (FEED_PORT): must be a whole number, such as 10"),
        (
            "metrics_public",
            "maybe",
            "feed serve: --metrics-public (FEED_METRICS_PUBLIC): must be true or false: 1 or 0",
        ),
        ("drain", "x", "feed serve: --drain (FEED_DRAIN): a duration is"),
        ("retain_bytes", "-1", "feed serve: --retain-bytes (FEED_RETAIN_BYTES): a size is"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_one_line_and_exit_code_2(setting: str, value: str, said: str) -> None:
    given: dict[str, Any] = {setting: value}
    result = feed("serve", **given)
    assert one_line(result).startswith(said)
    assert result.returncode == 2


def test_several_wrong_settings_are_one_line_too() -> None:
    line = one_line(feed("serve", "--port", "x", "--retry", "x", max_body="x"))
    assert re.match(r"feed serve: --port \(.*; --max-body \(.*; --retry \(", line)


def test_an_option_wins_over_the_environment(serve: Serve) -> None:
    server = serve("--log", "memory:", "--max-data", "10", max_data="not even a size")
    server.publish("a", "x" * 10)
    result = feed("publish", "a", "x" * 11, "--url", server.url)
    assert "larger than 10 bytes" in one_line(result)


def test_a_setting_is_read_from_the_environment(serve: Serve) -> None:
    server = serve("--log", "memory:", max_data="1K")
    result = feed("publish", "a", "x" * 1025, url=server.url)
    assert "larger than 1,024 bytes" in one_line(result)
    assert result.returncode == 1


# feed serve


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_0(serve: Serve, start: Start, number: int) -> None:
    server = serve("--log", "memory:")
    tail = start("tail", "a", "--last", "1", "--url", server.url)
    server.publish("a")
    tail.until_lines(1)
    server.signal(number)
    assert server.wait() == 0
    tail.until(lambda: "feed: the server ends the stream: shutdown" in tail.errors)


def test_a_port_in_use_is_one_line_and_exit_code_1(server: RunningServer) -> None:
    result = feed("serve", "--log", "memory:", "--port", str(server.port))
    assert one_line(result).startswith(f"feed: cannot listen on 127.0.0.1:{server.port}: Address already in use")
    assert result.returncode == 1


def test_a_log_that_is_refused_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, and longer than one would be that is just being made" * 99)
    for log in (f"sqlite:{tmp_path / 'text'}", f"sqlite:{tmp_path / 'missing' / 'feed.db'}"):
        result = feed("serve", "--port", "0", "--log", log)
        assert one_line(result).startswith("feed: ")
        assert result.returncode == 1


# Tokens.


class Refusing(http.server.BaseHTTPRequestHandler):
    """Refuses everybody, and remembers their tokens."""

    tokens: ClassVar[list[str | None]] = []

    def do_GET(self) -> None:
        """A stream."""
        self.tokens.append(self.headers["Authorization"])
        self.send_response(403)
        self.send_header("Content-Type", "application/problem+json")
        self.end_headers()
        self.wfile.write(b'{"status": 403, "detail": "this token does not allow to do that"}')

    def do_POST(self) -> None:
        """A publish."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def answering(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server for as long as the block lasts; its URL."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that refuses everybody."""
    Refusing.tokens.clear()
    with answering(Refusing) as url:
        yield url


@pytest.mark.parametrize(
    "command", [["publish", "a", "x"], ["publish", "a", "-"], ["tail", "a"], ["demo", "--every", "0.05"]]
)
def test_a_token_is_sent_and_not_shown_and_a_refusal_is_final(command: list[str], refusing: str) -> None:
    results = [
        feed(*command, "--url", refusing, "--token", "top.secret", stdin=b"line\n"),
        feed(*command, url=refusing, token="top.secret", stdin=b"line\n"),
    ]
    for result in results:
        assert "refused with 403: this token does not allow to do that" in result.stderr.decode()
        assert b"top.secret" not in result.stderr + result.stdout
        assert result.returncode == 1
    assert Refusing.tokens == ["Bearer top.secret"] * 2


@pytest.fixture
def ingress() -> Iterator[str]:
    """The URL of something that knows no feed, and says so to everybody."""
    with answering(NoRoute) as url:
        yield url


class NoRoute(Refusing):
    """An ingress while the feed behind it is away."""

    def do_GET(self) -> None:
        """Its own page."""
        self.send_error(404)


NO_ROUTE = "404: Not Found, which is not an answer of the feed: a proxy gave it, or the URL is wrong"


def test_what_a_proxy_answers_while_the_feed_is_away_is_told_and_waited_for(ingress: str, start: Start) -> None:
    commands = {
        f"feed: {ingress}: {NO_ROUTE}: reconnecting until it answers": start("tail", "a", "--url", ingress),
        f"feed: {ingress}: {NO_ROUTE}: trying again, for 60 s in all": start("publish", "a", "x", "--url", ingress),
        f"feed: {ingress}: {NO_ROUTE}; trying again until it does": start("demo", "--every", "0.1", "--url", ingress),
    }
    for said, command in commands.items():
        command.until(lambda: command.errors)
        assert command.errors == [said]
        assert command.process.poll() is None


# feed publish


def test_data_may_begin_with_a_dash(server: RunningServer) -> None:
    result = feed("publish", "cli/dash", "-5", "--type", "-x", "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    [event] = events(server, "cli/dash")
    assert (event["data"], event["type"]) == ("-5", "-x")


def test_what_looks_like_an_option_is_not_taken_for_data(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["t", "--jsn"], ["t", "x", "-5"], ["-x"]):
        assert run(["publish", *wrong]) == 2
        assert capsys.readouterr().err.startswith(f"feed publish: No such option: {wrong[-1]}")


@pytest.mark.parametrize("data", ["-5", "-0.5e3", "-h", "- item", "---", "--no option", "--5", "-5 -- --json", "-\n"])
def test_where_data_is_to_come_a_dash_is_data(data: str) -> None:
    def sorted_out(*arguments: str) -> list[str]:
        return dashed_data_last(list(arguments), {"--type", "--url"}, {"--json"})

    last = ["--", data]
    assert sorted_out("t", data) == ["t", *last]
    assert sorted_out("--type", data, "t", data, "--json") == ["--type", data, "t", "--json", *last]
    assert sorted_out("--type=x", "t", data, "--url", data) == ["--type=x", "t", "--url", data, *last]
    for left_alone in ([], ["t", "-"], ["t", "--", data], ["t", "x", data], [data], ["t", "--url"], ["t", "--x=1"]):
        assert sorted_out(*left_alone) == left_alone


def test_one_event_is_published_and_its_id_printed(server: RunningServer) -> None:
    result = feed("publish", "cli/one", "two\nlines", "--type", "greeting", "--url", server.url)
    (event,) = events(server, "cli/one")
    assert (event["data"], event["type"]) == ("two\nlines", "greeting")
    assert result.stdout.decode() == event["id"] + "\n"
    assert (result.returncode, result.stderr) == (0, b"")


def test_json_is_published_as_it_is(server: RunningServer) -> None:
    value = '{"n": 123456789012345678901234567890, "n": 1.10}'
    assert feed("publish", "cli/json", value, "--json", "--url", server.url).returncode == 0
    result = start_and_take(server, "cli/json", "--json")
    assert f'"data":{value}' in result


def start_and_take(server: RunningServer, pattern: str, *arguments: str) -> str:
    """The newest event as `feed tail` prints it."""
    command = Command("tail", pattern, "--last", "1", "--url", server.url, *arguments)
    try:
        command.until_lines(1)
    finally:
        command.interrupt()
        for pipe in (command.process.stdout, command.process.stderr):
            if pipe is not None:
                pipe.close()
    return command.lines[0]


@pytest.mark.parametrize("data", ['{"a": 1}', " [1, 2]\n"])
def test_text_that_looks_like_json_is_published_with_a_hint(server: RunningServer, data: str) -> None:
    result = feed("publish", "cli/hint", data, "--url", server.url)
    said = b"feed publish: this looks like JSON and was published as text: publish JSON with --json\n"
    assert (result.returncode, result.stderr) == (0, said)
    assert events(server, "cli/hint", last=1)[0]["data"] == data


def test_lines_that_look_like_json_are_published_with_one_hint(server: RunningServer) -> None:
    result = feed("publish", "cli/hints", "--url", server.url, stdin=b'text\n{"a": 1}\n{"b": 2}\n')
    hint, published = result.stderr.decode().splitlines()
    assert hint == "feed publish: line 2 looks like JSON and is published as text: publish JSON with --json"
    assert published == "published 3 events"


@pytest.mark.parametrize("data", ["5", "true", '"text"', "[x]", "{", "{a: 1}", "[INFO] started"])
def test_text_that_may_be_meant_as_text_is_published_without_a_hint(data: str, server: RunningServer) -> None:
    result = feed("publish", "cli/no-hint", data, "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")


def test_data_that_is_no_json_is_an_error(server: RunningServer) -> None:
    result = feed("publish", "cli/bad", "{", "--json", "--url", server.url)
    assert one_line(result).startswith("feed: data: not JSON: ")
    assert result.returncode == 1


def test_a_key_publishes_once(server: RunningServer) -> None:
    runs = [feed("publish", "cli/key", "x", "--key", "order-7", "--url", server.url) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert len(events(server, "cli/key")) == 1


def test_two_thousand_lines_arrive_in_order(server: RunningServer) -> None:
    lines = [f"line {number} é" for number in range(2_000)]
    result = feed("publish", "cli/many", "--url", server.url, stdin="\n".join(lines).encode())
    assert (result.returncode, result.stdout) == (0, b"")
    assert result.stderr == b"published 2,000 events\n"
    first = events(server, "cli/many")
    rest = events(server, "cli/many", last_event_id=first[-1]["id"])
    assert [event["data"] for event in first + rest] == lines


def test_lines_that_are_large_together_arrive_in_order(server: RunningServer) -> None:
    lines = [f"{number}" * 40_000 for number in range(100, 150)]
    result = feed("publish", "cli/large", "-", "--url", server.url, stdin="\n".join(lines).encode())
    assert result.stderr == b"published 50 events\n"
    assert [event["data"] for event in events(server, "cli/large")] == lines


def test_a_line_is_published_before_the_next_one_comes(server: RunningServer, start: Start) -> None:
    tail = start("tail", "cli/slow", "--after", "earliest", "--url", server.url)
    command = start("publish", "cli/slow", "-", "--url", server.url, stdin=subprocess.PIPE)
    for number in range(3):
        command.write(b"line %d\n" % number)
        tail.until_lines(number + 1)
    assert command.process.stdin is not None
    command.process.stdin.close()
    assert command.wait() == 0
    assert command.errors == ["published 3 events"]


def test_an_empty_line_is_an_event_without_data_and_a_line_end_may_be_crlf(server: RunningServer) -> None:
    feed("publish", "cli/empty", "--url", server.url, stdin=b"a\n\nb\r\n c \n")
    assert [event["data"] for event in events(server, "cli/empty")] == ["a", "", "b", " c "]


def test_an_empty_line_is_skipped_where_lines_are_json(server: RunningServer) -> None:
    result = feed("publish", "cli/jsonl", "--json", "--url", server.url, stdin=b'{"a": 1}\n\n  \n"text"\n')
    assert result.stderr == b"published 2 events\n"
    assert [event["data"] for event in events(server, "cli/jsonl")] == [{"a": 1}, "text"]


def test_no_input_is_no_event(server: RunningServer) -> None:
    result = feed("publish", "cli/none", "--url", server.url, stdin=b"")
    assert (result.returncode, result.stderr) == (0, b"published 0 events\n")


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["--json"], b"1\n2\n\n{x\n5\n", "feed: line 4: data: not JSON: "),
        ([], b"1\n2\nx\xffx\n4\n", "feed: line 3: not UTF-8: byte 1 is 0xff"),
    ],
)
def test_a_bad_line_is_named_and_what_stands_before_it_is_published(
    server: RunningServer, arguments: list[str], stdin: bytes, said: str
) -> None:
    topic = f"cli/bad-line/{len(arguments)}"
    result = feed("publish", topic, *arguments, "--url", server.url, stdin=stdin)
    line = one_line(result)
    assert line.startswith(said)
    assert line.endswith("; 2 events acknowledged before")
    assert result.returncode == 1
    assert len(events(server, topic)) == 2


def test_a_refusal_says_which_lines_and_why(serve: Serve) -> None:
    server = serve("--log", "memory:", max_data="10")
    result = feed("publish", "a", "--url", server.url, stdin=b"1\nlonger than that\n")
    assert re.match(r"feed: lines 1 to 2: refused with 413: .*; 0 events acknowledged before$", one_line(result))
    assert result.returncode == 1


def test_what_cannot_be_published_is_given_up_after_the_patience(serve: Serve, start: Start) -> None:
    server = serve("--log", "memory:")
    command = start("publish", "a", "--patience", "3", "--url", server.url, stdin=subprocess.PIPE)
    tail = start("tail", "a", "--after", "earliest", "--url", server.url)
    command.write(b"1\n2\n")
    tail.until_lines(2)
    server.kill()
    command.write(b"3\n")
    assert command.wait() == 1
    *_, error = command.errors  # what was said before is what it waits for
    given_up = (
        rf"feed: lines 3 to 3: given up after 3\.\d s: {server.url}: cannot connect; 2 events acknowledged before"
    )
    assert re.fullmatch(given_up, error)


def test_lines_wait_for_a_server_that_is_being_restarted(serve: Serve, start: Start, tmp_path: Path) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}")
    command = start("publish", "a", "--url", server.url, stdin=subprocess.PIPE)
    tail = start("tail", "a", "--after", "earliest", "--url", server.url)
    command.write(b"before\n")
    tail.until_lines(1)
    server.kill()
    command.write(b"during\n")
    server.start()
    command.write(b"after\n")
    assert command.process.stdin is not None
    command.process.stdin.close()
    assert command.wait() == 0
    assert [event["data"] for event in events(server, "a")] == ["before", "during", "after"]


def test_ctrl_c_ends_publishing_and_says_how_far_it_came(server: RunningServer, start: Start) -> None:
    tail = start("tail", "cli/interrupted", "--after", "earliest", "--url", server.url)
    command = start("publish", "cli/interrupted", "--url", server.url, stdin=subprocess.PIPE)
    command.write(b"1\n")
    tail.until_lines(1)
    assert command.interrupt() == 130
    assert command.errors in (["published 1 event"], ["published 0 events"])  # its answer may still be on the way


def test_progress_is_shown_on_a_terminal(server: RunningServer, start: Start) -> None:
    ours, its = pty.openpty()
    shown = b""
    try:
        command = start("publish", "cli/shown", "--url", server.url, stdin=subprocess.PIPE, stderr=its)
        os.close(its)
        command.write(b"x\n" * 700)
        while b"700 events" not in shown:
            shown += os.read(ours, 4096)
        assert command.process.stdin is not None
        command.process.stdin.close()
        while b"published 700 events" not in shown:
            shown += os.read(ours, 4096)
        assert command.wait() == 0
    finally:
        os.close(ours)
    assert re.search(rb"[\d,]+/s", shown)


# feed tail


def test_an_event_is_one_line_of_time_topic_type_and_data(server: RunningServer) -> None:
    server.publish("cli/tail/line", "Hello, world")
    line = start_and_take(server, "cli/tail/*")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z cli/tail/line message Hello, world", line)


def test_no_control_character_reaches_the_terminal(server: RunningServer) -> None:
    server.publish("cli/escapes", "\x1b[31mred\r\nnext\ttab \x9b2J \u2028 \u202e \u061c\u200e\u200f \x00 é".encode())
    line = start_and_take(server, "cli/escapes")
    assert line.endswith(r"\u001b[31mred\r\nnext\ttab \u009b2J \u2028 \u202e \u061c\u200e\u200f \u0000 é")
    assert line.isprintable()


def test_what_is_escaped_in_json_is_still_the_same_json(server: RunningServer) -> None:
    text = "\x1b[31m \x9b2J \u2028 \u202e \u061c\u200e\u200f \x7f é"
    server.publish("cli/escapes/json", text.encode())
    line = start_and_take(server, "cli/escapes/json", "--json")
    assert line.isprintable()
    assert json.loads(line)["data"] == text


def test_a_message_without_anything_special_is_left_as_it_is() -> None:
    assert escaped("plain é 漢 👩‍🚀 \\n") == "plain é 漢 👩‍🚀 \\n"
    assert escaped_json('{"a":"b\\n"}') == '{"a":"b\\n"}'


def test_json_is_the_object_of_the_contract(server: RunningServer) -> None:
    id = server.publish("cli/object", "[1,2]", **{"Content-Type": "application/json"})
    event = json.loads(start_and_take(server, "cli/object", "--json"))
    assert list(event) == ["id", "topic", "type", "data", "time"]
    assert (event["id"], event["topic"], event["type"], event["data"]) == (id, "cli/object", "message", [1, 2])


def test_it_begins_where_it_is_told_to(server: RunningServer, start: Start) -> None:
    ids = [server.publish("cli/begin", str(number)) for number in range(5)]
    for arguments, expected in (
        (["--last", "2"], ["3", "4"]),
        (["--after", ids[0]], ["1", "2", "3", "4"]),
        (["--after", "earliest"], ["0", "1", "2", "3", "4"]),
    ):
        tail = start("tail", "cli/begin", *arguments, "--url", server.url)
        tail.until_lines(len(expected))
        assert [line.split()[-1] for line in tail.lines] == expected


def test_it_listens_over_a_websocket_where_it_is_told_to(server: RunningServer, start: Start) -> None:
    server.publish("cli/socket", "before")
    tail = start("tail", "cli/socket", "--transport", "websocket", "--last", "1", "--url", server.url)
    tail.until_lines(1)
    listening = server.http.get(f"{server.url}/subscriptions").json()["subscriptions"]
    assert [each["transport"] for each in listening if each["patterns"] == ["cli/socket"]] == ["websocket"]
    server.publish("cli/socket", "live")
    tail.until_lines(2)
    assert [line.split()[-1] for line in tail.lines] == ["before", "live"]


def test_it_takes_several_patterns_and_types(server: RunningServer, start: Start) -> None:
    for topic, type in (("a", "x"), ("b", "y"), ("b", "z"), ("c", "x"), ("a", "y")):
        assert feed("publish", f"cli/select/{topic}", type, "--type", type, "--url", server.url).returncode == 0
    arguments = ["cli/select/a", "cli/select/b", "--type", "x", "--type", "y"]
    tail = start("tail", *arguments, "--after", "earliest", "--url", server.url)
    tail.until_lines(3)
    assert [line.split()[1:3] for line in tail.lines] == [
        ["cli/select/a", "x"],
        ["cli/select/b", "y"],
        ["cli/select/a", "y"],
    ]


def test_it_goes_on_over_a_killed_server_with_nothing_lost_or_doubled(
    serve: Serve, start: Start, tmp_path: Path
) -> None:
    server = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", retry=0.2)
    tail = start("tail", "a", "--after", "earliest", "--url", server.url)
    published = 0
    for _ in range(3):
        for _ in range(20):
            server.publish("a", str(published))
            published += 1
        tail.until_lines(published - 19)  # it is connected, and may have more to come
        server.kill()
        server.start()
        for _ in range(20):
            server.publish("a", str(published))
            published += 1
        tail.until_lines(published)
    server.publish("a", "end")
    tail.until(lambda: tail.lines[-1].endswith(" end"))
    assert [line.split()[-1] for line in tail.lines] == [*map(str, range(published)), "end"]
    breaks = [
        f"feed: {server.url}: the connection broke: reconnecting until it answers",
        f"feed: {server.url}: connected",
    ]
    tail.until(lambda: len(tail.errors) == 6)
    assert tail.errors == breaks * 3


def test_a_server_that_is_not_there_yet_is_waited_for_and_said_once(serve: Serve, start: Start) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    tail = start("tail", "a", "--last", "1", "--url", url)
    tail.until(lambda: tail.errors)
    server = RunningServer("--log", "memory:")
    server.port = port
    try:
        server.start()
        server.publish("a", "here")
        tail.until_lines(1)
    finally:
        server.close()
    assert tail.errors[:2] == [f"feed: {url}: cannot connect: reconnecting until it answers", f"feed: {url}: connected"]


def test_a_gap_is_reported_with_its_reason_and_ids(server: RunningServer, start: Start) -> None:
    server.publish("cli/gap")
    tail = start("tail", "cli/gap", "--after", "bogus\x1b-7", "--url", server.url)
    tail.until(lambda: tail.errors and tail.lines)
    assert re.fullmatch(
        r"feed: gap: events may be missing: unknown: asked for bogus\\u001b-7, resumed from \w+-0", tail.errors[0]
    )


def test_a_refusal_is_its_detail_and_exit_code_1(serve: Serve) -> None:
    server = serve("--log", "memory:", max_patterns=1)
    result = feed("tail", "a", "b", "--url", server.url)
    assert re.match(r"feed: refused with 422: pattern: at most 1 may be given", one_line(result))
    assert result.returncode == 1


@pytest.mark.parametrize("command", ["tail", "history"])
def test_a_bad_pattern_is_named_and_exit_code_1(command: str) -> None:
    result = feed(command, "a/**/b", "--url", f"http://127.0.0.1:{free_port()}")
    assert one_line(result).startswith("feed: pattern: '*' may only be a whole segment")
    assert result.returncode == 1


@pytest.mark.parametrize("arguments", [["tail", "a"], ["demo"]])
def test_ctrl_c_ends_it_quietly(server: RunningServer, start: Start, arguments: list[str]) -> None:
    server.publish("a")
    more = ["--last", "1"] if arguments[0] == "tail" else ["--every", "0.1"]
    command = start(*arguments, *more, "--url", server.url)
    command.until(lambda: command.lines or command.errors)
    before = list(command.errors)
    assert command.interrupt() == 130
    assert command.errors == before


def test_ctrl_c_ends_it_quietly_while_there_is_no_server(start: Start) -> None:
    command = start("tail", "a", "--url", f"http://127.0.0.1:{free_port()}")
    command.until(lambda: command.errors)
    assert command.interrupt() == 130
    assert len(command.errors) == 1


def test_it_ends_quietly_when_nobody_reads_its_output_any_more(server: RunningServer) -> None:
    server.publish("cli/pipe")
    read, write = os.pipe()
    with subprocess.Popen(
        [FEED, "tail", "cli/pipe", "--last", "1", "--url", server.url],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=write,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(write)
        assert b"cli/pipe" in os.read(read, 4096)
        os.close(read)  # and no further event comes that would show it
        _, errors = process.communicate(timeout=SECONDS)
    assert (process.returncode, errors) == (0, b"")


def test_closed_standard_streams_are_no_error(server: RunningServer) -> None:
    command = f'exec "{FEED}" publish cli/closed x --url {server.url} >&- 2>&-'
    assert subprocess.run(["sh", "-c", command], env=ENVIRONMENT, timeout=SECONDS).returncode == 0
    result = subprocess.run(
        ["sh", "-c", f'exec "{FEED}" publish cli/closed --url {server.url} <&-'],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=SECONDS,
    )
    assert one_line(result) == "feed publish: standard input is closed"
    assert result.returncode == 2
    assert len(events(server, "cli/closed")) == 1


# feed demo


def test_the_demo_publishes_its_four_topics_and_says_where_to_look(server: RunningServer, start: Start) -> None:
    tail = start("tail", "system/*", "--json", "--after", "earliest", "--url", server.url)
    demo = start("demo", "--every", "0.1", "--url", server.url)
    tail.until_lines(8)
    readings = [json.loads(line) for line in tail.lines[-8:]]
    assert {event["topic"] for event in readings} == {"system/cpu", "system/memory", "system/network", "system/disk"}
    for event in readings:
        assert event["type"] == "reading"
        assert all(isinstance(value, int | float) for value in event["data"].values())
    demo.until(lambda: demo.errors)
    assert demo.errors == [f"publishing to system/… every 0.1 s; look at {server.url}/ (Ctrl-C ends)"]


def test_the_demo_waits_for_its_server(serve: Serve, start: Start) -> None:
    server = serve("--log", "memory:")
    server.kill()
    demo = start("demo", "--every", "0.1", "--url", server.url)
    demo.until(lambda: demo.errors)
    assert demo.errors == [f"feed: {server.url} does not answer; trying again until it does"]
    server.start()
    demo.until(lambda: len(demo.errors) == 2)
    assert demo.errors[1].startswith("publishing to system/…")
