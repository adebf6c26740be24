"""State on the command line: `feed topics`, `feed tail --latest`, and the conditions, leases and deletes of
`feed publish`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.server.conftest import Start
from tests.support.commands import feed, on_a_terminal, one_line
from tests.support.running import RunningServer
from tests.support.scripted import OPEN, answer, playing, stream

LIVE = 'id: e-0\nevent: feed.live\ndata: {"replayed":0}\n\n'


def published(server: RunningServer, topic: str, data: str, *options: str) -> str:
    """Publish with the command, and give the id that it prints."""
    result = feed("publish", topic, data, *options, "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout.decode().strip()


# feed publish


def test_a_topic_is_deleted_and_the_tombstones_id_is_printed(server: RunningServer) -> None:
    server.publish("delete/a")
    result = feed("publish", "--delete", "delete/a", "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    newest = server.history("delete/a")["events"][-1]
    assert (newest["type"], newest["id"]) == ("feed.deleted", result.stdout.decode().strip())
    assert feed("publish", "delete/a", "--delete", "--url", server.url).stdout == result.stdout
    result = feed("publish", "--delete", "delete/never", "--url", server.url)
    assert (result.returncode, one_line(result)) == (1, "feed: 'delete/never' has no event")


def test_a_condition_that_does_not_hold_publishes_nothing_and_says_what_is_newest(server: RunningServer) -> None:
    first = published(server, "if/a", "1", "--if-none-match")
    second = published(server, "if/a", "2", "--if-match", first)
    for options in (["--if-match", first], ["--if-none-match"], ["--delete", "--if-match", first]):
        data = [] if "--delete" in options else ["3"]
        result = feed("publish", "if/a", *data, *options, "--url", server.url)
        said = "feed: 'if/a' has changed: read its newest event, and try again with that id: "
        assert (result.returncode, one_line(result)) == (1, said + second)
    assert [event["data"] for event in server.history("if/a")["events"]] == ["1", "2"]
    published(server, "if/a", "3", "--if-match", "*")


@pytest.mark.anyio
async def test_a_lease_goes_with_each_event() -> None:
    async with playing(answer("201 Created", '{"id":"e-1","ids":["e-1","e-2"]}')) as script:
        url = ("--url", script.url)
        result = await asyncio.to_thread(feed, "publish", "a", "x", "--ttl", "90s", *url)
        assert (result.returncode, result.stdout) == (0, b"e-1\n")
        result = await asyncio.to_thread(feed, "publish", "a", "--json", "--ttl", "5m", *url, stdin=b"1\n2\n")
        assert result.returncode == 0
        result = await asyncio.to_thread(feed, "publish", "a", "x", "--ttl", "500ms", *url)
        assert (result.returncode, one_line(result)) == (1, "feed: ttl: has to be from 1 second to 7 days: 30s, 5m, 1d")
    [single, lines] = script.bodies
    assert json.loads(single) == {"topic": "a", "type": "message", "data": "x", "ttl": "90s"}
    assert [(event["data"], event["ttl"]) for event in map(json.loads, lines.splitlines())] == [(1, "5m"), (2, "5m")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "a", "x", "--delete"], "feed publish: --delete and DATA: give one of them"),
        (["publish", "a", "--delete", "--json"], "feed publish: --delete and --json: give one of them"),
        (["publish", "a", "--delete", "--ttl", "5s"], "feed publish: --delete and --ttl: give one of them"),
        (["publish", "a", "--if-match", "e-1"], "feed publish: --if-match is for a single event: give DATA"),
        (["publish", "a", "--if-none-match"], "feed publish: --if-none-match is for a single event: give DATA"),
        (["publish", "a", "x", "--ttl", "soon"], "feed publish: --ttl: a duration is a number of seconds, or one with"),
        (["tail", "a", "--every", "1s"], "feed tail: --every is for --latest"),
        (["tail", "a", "--latest", "--every", "often"], "feed tail: --every: a duration is a number of seconds"),
        (["tail", "a", "--latest", "--last", "3"], "feed tail: --latest and --last: give one of them"),
        (["tail", "a", "--latest", "--type", "t"], "feed tail: --latest and --type: give one of them"),
    ],
)
def test_what_contradicts_itself_is_a_wrong_command_line(arguments: list[str], said: str) -> None:
    result = feed(*arguments)
    assert result.returncode == 2
    assert one_line(result).startswith(said)


# feed tail --latest


@pytest.mark.parametrize("transport", ["sse", "websocket"])
def test_tail_prints_what_is_and_then_what_changes(server: RunningServer, start: Start, transport: str) -> None:
    topics = f"tail/{transport}"
    for topic, data in (("a", "old"), ("b", "1"), ("a", "2")):
        server.publish(f"{topics}/{topic}", data)
    options = ["--latest", "--json", "--transport", transport, "--url", server.url]
    result = feed("tail", f"{topics}/*", *options, "--until-live")
    assert (result.returncode, result.stderr) == (0, b"")
    assert [json.loads(line)["data"] for line in result.stdout.splitlines()] == ["1", "2"]
    tail = start("tail", f"{topics}/*", *options)
    tail.until_lines(2)
    server.publish(f"{topics}/b", "3")
    tombstone = published(server, f"{topics}/a", "-", "--delete")
    tail.until_lines(4)
    changes = [json.loads(line) for line in tail.lines[2:]]
    assert [(event["topic"], event["type"]) for event in changes] == [
        (f"{topics}/b", "message"),
        (f"{topics}/a", "feed.deleted"),
    ]
    assert changes[1]["id"] == tombstone
    assert tail.errors == []


@pytest.mark.anyio
@pytest.mark.parametrize("every", ["500ms", "0.5"])
async def test_tail_asks_for_state_as_often_as_it_was_told(every: str) -> None:
    async with playing(stream(OPEN + LIVE)) as script:
        options = ["--latest", "--every", every, "--until-live", "--url", script.url]
        result = await asyncio.to_thread(feed, "tail", "a", *options)
    assert (result.returncode, result.stderr) == (0, b"")
    [head] = script.heads
    assert "&latest=1&every=0.5s" in head.splitlines()[0]


# feed topics


def test_topics_are_json_lines_in_a_pipe(server: RunningServer) -> None:
    ids = {topic: server.publish(topic) for topic in ("names/b", "names/a", "names/c/d")}
    result = feed("topics", "names/*", "--url", server.url)
    assert (result.returncode, result.stderr) == (0, b"")
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["topic"], line["last_id"]) for line in lines] == [
        (name, ids[name]) for name in ("names/a", "names/b")
    ]
    listed = server.http.get(f"{server.url}/events?list=topics&topic=names/*").json()["topics"]
    assert lines == listed
    result = feed("topics", "names/**", "--after", "names/a", "--url", server.url)
    assert [json.loads(line)["topic"] for line in result.stdout.splitlines()] == ["names/b", "names/c/d"]


def test_without_a_pattern_all_topics_are_listed(server: RunningServer) -> None:
    server.publish("everything/is/listed")
    result = feed("topics", "--url", server.url)
    assert b'"everything/is/listed"' in result.stdout


def test_a_terminal_gets_a_table(server: RunningServer) -> None:
    id = server.publish("table/a")
    server.publish("table/b")
    published(server, "table/b", "-", "--delete")
    text = on_a_terminal("topics", "table/*", "--url", server.url)
    [titles, first, second] = [line.split() for line in text.splitlines()]
    assert titles == ["TOPIC", "TYPE", "LAST", "ID", "LAST", "TIME"]
    assert first[:3] == ["table/a", "message", id]
    assert second[:2] == ["table/b", "feed.deleted"]
    assert on_a_terminal("topics", "table/none", "--url", server.url) == "there are no topics with retained events\r\n"
    assert json.loads(on_a_terminal("topics", "table/a", "--json", "--url", server.url))["last_id"] == id


def test_a_list_that_cannot_be_is_one_line_and_exit_code_1(server: RunningServer) -> None:
    result = feed("topics", "a/**/b", "--url", server.url)
    assert result.returncode == 1
    assert one_line(result).startswith("feed: pattern: ")
