"""The guide to state: its commands, programs and page, and what it says about them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.conftest import Serve
from tests.docs.commands import FEED_URL, reading, run
from tests.docs.saved import blocks, saved
from tests.support.browser import Watched
from tests.support.running import RunningServer
from tests.support.streams import eventually

PAGE = "docs/guides/state.md"


@pytest.fixture
def server(serve: Serve) -> RunningServer:
    """A server of the test's own, as on the pages: the log is empty."""
    return serve("--log", "memory:")


def commands(title: str, server: RunningServer, curl_program: str) -> str:
    [shown] = blocks(PAGE, "sh", title)
    return shown.replace(FEED_URL, server.url).replace("curl ", f"{curl_program} -sS ")


def state(server: RunningServer, pattern: str) -> dict[str, object]:
    page = server.history(pattern, latest=1)
    assert page["live"] is True
    return {event["topic"]: event["data"] for event in page["events"]}


def in_python(source: str, server: RunningServer) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", source.replace(FEED_URL, server.url)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_first_stream_is_as_the_page_shows_it(server: RunningServer, curl_program: str) -> None:
    *publishing, subscribing = commands("Try it", server, curl_program).splitlines()
    run("\n".join(publishing))
    with reading(subscribing) as printed:
        eventually(lambda: '"replayed"' in printed())
        found = printed()
    [shown] = blocks(PAGE, "text", "Try it")
    epoch = server.history("orders/1")["next"].split("-")[0]
    shown = shown.replace("k3f9a2xm", epoch)
    for event in server.history("orders/*", latest=1)["events"]:
        shown = shown.replace("…", event["time"], 1)
    assert shown in found


def test_a_reader_that_is_behind_goes_in_rounds_as_the_page_draws_it(server: RunningServer) -> None:
    for number, topic in enumerate("abac", 1):
        server.publish(topic, str(number))
    page = server.history("*", latest=1, limit=1)
    handed = [page["events"][0]["data"]]
    server.publish("c", "5")
    server.publish("b", "6")
    while not page.get("live"):
        page = server.history("*", latest=1, limit=1, after=page["next"])
        handed += [event["data"] for event in page["events"]]
    assert handed == ["2", "3", "5", "6"]


def test_the_board_shows_what_is_and_then_each_change(server: RunningServer, tmp_path: Path) -> None:
    for topic, data in (("orders/1", "new"), ("orders/2", "new"), ("orders/1", "paid")):
        server.publish(topic, data)
    program = tmp_path / "board.py"
    program.write_text(saved(PAGE)["board.py"].replace(FEED_URL, server.url), encoding="utf-8")
    with reading(f"{sys.executable} {program}") as printed:
        eventually(lambda: len(printed().splitlines()) == 1)
        server.publish("orders/3", "new")
        eventually(lambda: len(printed().splitlines()) == 2)
        server.http.delete(f"{server.url}/events/orders/2")
        eventually(lambda: len(printed().splitlines()) == 3)
        server.kill()
        server.start()  # the log was in memory: all is forgotten
        server.publish("orders/9", "new")
        eventually(lambda: "orders/9" in printed())
    first, second, third, *rest = printed().splitlines()
    assert first == "{'orders/2': 'new', 'orders/1': 'paid'}"
    assert second == "{'orders/2': 'new', 'orders/1': 'paid', 'orders/3': 'new'}"
    assert third == "{'orders/1': 'paid', 'orders/3': 'new'}"
    assert rest[-1] == "{'orders/9': 'new'}"


def test_the_library_says_the_same(server: RunningServer) -> None:
    assert in_python(saved(PAGE)["values.py"], server) == [
        "orders/2 new",
        "orders/1 paid",
        "one: paid",
        "names: ['orders/1', 'orders/2']",
    ]


@pytest.mark.browser
def test_a_page_holds_the_state_and_what_changes(server: RunningServer, page: Page, watched: Watched) -> None:
    server.publish("orders/1", "new")
    server.publish("orders/2", "new")
    first = blocks(PAGE, "js", "In a page")[0]
    page.goto(f"{server.url}/healthz")
    with page.expect_console_message(lambda message: message.text.startswith("whole")) as said:
        page.add_script_tag(content=f"{first}\nglobalThis.held = () => JSON.stringify([...orders]);", type="module")
    assert "orders/1" in said.value.text
    server.publish("orders/1", "paid")
    server.http.delete(f"{server.url}/events/orders/2")
    server.publish("orders/3", "new")
    held = [["orders/1", "paid"], ["orders/3", "new"]]
    eventually(lambda: json.loads(page.evaluate("held()")) == held)


def test_a_value_is_deleted_once(server: RunningServer, curl_program: str) -> None:
    server.publish("orders/2", "new")
    deleting = commands("Delete a value", server, curl_program)
    first, again = run(deleting)[0], run(deleting)[0]
    assert json.loads(first) == json.loads(again)
    assert [event["type"] for event in server.history("orders/2")["events"]] == ["message", "feed.deleted"]
    assert state(server, "orders/*") == {}


def test_two_writers_lose_no_step(server: RunningServer) -> None:
    assert in_python(saved(PAGE)["steps.py"], server) == ["20"]
    assert [event["data"] for event in server.history("steps")["events"]] == list(range(1, 21))


def test_the_second_of_two_writers_is_told_of_the_first(server: RunningServer) -> None:
    """As the page draws it."""
    seventh = server.publish("steps", "5")
    eighth = server.publish("steps", "6", **{"If-Match": seventh})
    refused = server.http.post(f"{server.url}/events/steps", content="6", headers={"If-Match": seventh})
    assert (refused.status_code, refused.json()["current"]) == (412, eighth)
    server.publish("steps", "7", **{"If-Match": eighth})
    assert state(server, "steps") == {"steps": "7"}


def test_a_value_is_renewed_without_an_event(server: RunningServer, curl_program: str) -> None:
    published, renewed = run(commands("Let a value run out", server, curl_program))
    assert json.loads(renewed) == {"topic": "room/ann"}
    assert [event["id"] for event in server.history("room/ann")["events"]] == [json.loads(published)["id"]]


def test_what_changes_less_often_is_the_newest(server: RunningServer, curl_program: str) -> None:
    server.publish("prices/1", "0")
    with reading(commands("Less often", server, curl_program).strip()) as printed:
        eventually(lambda: "feed.live" in printed())
        for number in range(1, 41):
            server.publish("prices/1", str(number))
        eventually(lambda: '"data":"40"' in printed())
    assert printed().count('"data":') < 40


def test_the_names_of_topics_are_listed(server: RunningServer, curl_program: str) -> None:
    server.publish("orders/2")
    server.publish("orders/1")
    server.http.delete(f"{server.url}/events/orders/2")
    [answer] = run(commands("The names of all topics", server, curl_program))
    listed = json.loads(answer)
    assert [(topic["topic"], topic["type"]) for topic in listed["topics"]] == [
        ("orders/1", "message"),
        ("orders/2", "feed.deleted"),
    ]
    assert listed["next"] is None


def test_a_value_that_is_not_retained_is_a_gap_for_whoever_may_have_missed_it(serve: Serve) -> None:
    """As the limits say."""
    server = serve("--log", "memory:", retain_events=10)
    before = server.publish("noise", "0")
    quiet = server.publish("quiet", "1")
    eventually(lambda: server.publish_numbers("noise", 10) and "quiet" not in state(server, "*"))
    missed, known = (server.history("*", latest=1, after=id) for id in (before, quiet))
    assert missed["gap"]["reason"] == "expired"
    assert [event["topic"] for event in missed["events"]] == ["noise"]
    assert "gap" not in known, "who holds the value goes on holding it"
