"""`feed history`, and `feed tail --until-live`: what there was, and an end."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from tests.conftest import Serve
from tests.server.conftest import Start
from tests.support.commands import ENVIRONMENT, SECONDS, feed, one_line
from tests.support.running import FEED, RunningServer


def data_of(lines: str) -> list[str]:
    """The data of events that were printed."""
    return [line.split()[-1] for line in lines.splitlines()]


def test_history_prints_all_that_is_retained_over_several_pages_and_ends(server: RunningServer) -> None:
    server.publish_numbers("history/pages", 2_500)
    result = feed("history", "history/pages", "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    assert data_of(result.stdout.decode()) == [str(number) for number in range(2_500)]


def test_history_prints_what_tail_prints(server: RunningServer) -> None:
    server.publish("history/same", "Hello,\x1b[31m world")
    server.publish("history/same", "[1, 2]", **{"Content-Type": "application/json"})
    for more in ([], ["--json"]):
        printed = [
            feed(command, "history/same", *more, *ends, "--url", server.url).stdout
            for command, ends in (("history", []), ("tail", ["--until-live", "--after", "earliest"]))
        ]
        assert printed[0] == printed[1]
        assert len(printed[0].splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--limit", "3"], range(3)),
        (["--last", "4"], range(2_096, 2_100)),
        (["--last", "4", "--limit", "2"], range(2_096, 2_098)),
        (["--since", "1970-01-01T00:00:00Z", "--limit", "1500"], range(1_500)),
        (["--after", "{10}"], range(11, 2_100)),
        (["--after", "{10}", "--limit", "5"], range(11, 16)),
        (["--before", "{1500}"], range(1_500)),
        (["--before", "{1500}", "--limit", "1200"], range(300, 1_500)),
        (["--before", "{1500}", "--limit", "2"], range(1_498, 1_500)),
        (["--type", "message", "--type", "other", "--limit", "2"], range(2)),
        (["--type", "other"], range(0)),
    ],
)
def test_history_is_as_much_as_was_asked_for_the_oldest_first(
    serve: Serve, arguments: list[str], expected: range
) -> None:
    server = serve("--log", "memory:")
    ids = server.publish_numbers("a", 2_100)
    arguments = [re.sub(r"\{(\d+)\}", lambda found: ids[int(found[1])], argument) for argument in arguments]
    result = feed("history", "a", *arguments, "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    assert data_of(result.stdout.decode()) == [str(number) for number in expected]


def test_the_newest_events_are_all_printed_though_a_page_ends_at_a_mebibyte(serve: Serve) -> None:
    server = serve("--log", "memory:")
    for number in range(30):
        server.publish("large", f"{number:03}" * 30_000)
    result = feed("history", "large", "--last", "25", "--json", "--url", server.url)
    assert [json.loads(line)["data"][:3] for line in result.stdout.splitlines()] == [f"{n:03}" for n in range(5, 30)]


def test_history_says_where_events_may_be_missing(server: RunningServer) -> None:
    server.publish("history/gap", "here")
    result = feed("history", "history/gap", "--after", "bogus-7", "--url", server.url)
    assert data_of(result.stdout.decode()) == ["here"]
    assert re.fullmatch(
        r"feed: gap: events may be missing: unknown: asked for bogus-7, resumed from \w+-\d+\n", result.stderr.decode()
    )
    assert result.returncode == 0


def test_history_takes_one_place_to_begin_or_end() -> None:
    result = feed("history", "a", "--after", "x", "--last", "1")
    assert one_line(result) == "feed history: --after and --last: give one of them"
    assert result.returncode == 2


def test_a_history_that_cannot_be_is_one_line_and_exit_code_1(server: RunningServer) -> None:
    result = feed("history", "a", "--since", "yesterday", "--url", server.url)
    assert one_line(result).startswith("feed: since: ")
    assert result.returncode == 1


def test_history_ends_quietly_when_nobody_reads_its_output_any_more(server: RunningServer) -> None:
    server.publish_numbers("history/pipe", 3_000)
    command = f'"{FEED}" history history/pipe --url {server.url} | head -n 1'
    result = subprocess.run(["sh", "-c", command], env=ENVIRONMENT, capture_output=True, timeout=SECONDS)
    assert result.stderr == b""
    assert data_of(result.stdout.decode()) == ["0"]


# feed tail --until-live


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_tail_until_live_prints_what_there_was_and_ends(server: RunningServer, transport: str) -> None:
    topic = f"until/{transport}"
    ids = server.publish_numbers(topic, 700)
    for arguments, first in ((["--after", "earliest"], 0), (["--after", ids[9]], 10), (["--last", "3"], 697)):
        more = ["--until-live", "--transport", transport, "--url", server.url]
        result = feed("tail", topic, *arguments, *more)
        assert (result.returncode, result.stderr) == (0, b"")
        assert data_of(result.stdout.decode()) == [str(number) for number in range(first, 700)]


def test_tail_until_live_ends_where_there_is_nothing_to_print(server: RunningServer) -> None:
    for arguments in ([], ["--last", "5"], ["--after", server.publish("until/other")]):
        result = feed("tail", "until/nothing", *arguments, "--until-live", "--url", server.url)
        assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")


def test_tail_until_live_goes_on_over_a_restart_before_it_ends(start: Start, serve: Serve) -> None:
    server = serve("--log", "memory:")
    server.kill()
    tail = start("tail", "a", "--last", "1", "--until-live", "--url", server.url)
    tail.until(lambda: tail.errors)
    server.start()
    assert tail.wait() == 0
    assert tail.errors == [
        f"feed: {server.url}: cannot connect: reconnecting until it answers",
        f"feed: {server.url}: connected",
    ]
