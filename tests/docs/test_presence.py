"""The recipe for presence: who is here and who is typing, in real Chromiums; streams; a program that is alive."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from feed.testing import AppServer
from tests.docs.commands import FEED_URL, run
from tests.docs.saved import blocks, save, saved
from tests.support.running import RunningServer
from tests.support.streams import eventually, subscribed

PAGE = "docs/recipes/presence.md"
QUICK = {"HERE = 30.0": "HERE = 2.0", "TYPING = 5.0": "TYPING = 3.0", "here, 10_000": "here, 500", "< 2_000": "< 200"}
NEVER = {"HERE = 30.0": "HERE = 3600.0"}


def quickened(text: str, changes: dict[str, str]) -> str:
    """Return a program with other times than the page has."""
    for old, new in changes.items():
        text = text.replace(old, new)
    return text


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(tmp_path)
    found = saved(PAGE)
    save(tmp_path, found)
    text = "".join(found.values())
    assert all(old in text for old in QUICK)
    return found


def imported(name: str, source: str) -> dict[str, Any]:
    """Run a program as the module that others import."""
    module = ModuleType(name)
    exec(compile(source, f"{name}.py", "exec", dont_inherit=True), module.__dict__)
    return module.__dict__


@pytest.fixture
def room(files: dict[str, str]) -> Iterator[AppServer]:
    Path("room.html").write_text(quickened(files["room.html"], QUICK), encoding="utf-8")
    names = imported("room", quickened(files["room.py"], QUICK))
    with AppServer(names["app"], names["feed"]) as server:
        yield server


def visit(server: AppServer, browser: Browser, stack: ExitStack, user: str) -> Page:
    context = stack.enter_context(browser.new_context())
    context.add_cookies([{"name": "user", "value": user, "url": server.url}])
    page = context.new_page()
    page.goto(server.url)
    return page


@pytest.mark.browser
def test_a_page_shows_who_is_here_and_who_is_not_any_more(room: AppServer, browser: Browser) -> None:
    with ExitStack() as stack:
        ann = visit(room, browser, stack, "ann")
        expect(ann.locator("#here")).to_have_text("here: ann")
        bob = visit(room, browser, stack, "bob")
        for page in (ann, bob):
            expect(page.locator("#here")).to_have_text("here: ann, bob")
        other = ann.context.new_page()
        other.goto(room.url)
        expect(other.locator("#here")).to_have_text("here: ann, bob")
        ann.goto("about:blank")  # she has another tab
        other.context.set_offline(True)  # as a laptop that is closed: it cannot say anything
        expect(bob.locator("#here")).to_have_text("here: bob", timeout=15_000)
        other.context.set_offline(False)
        for page in (other, bob):
            expect(page.locator("#here")).to_have_text("here: ann, bob", timeout=30_000)


@pytest.mark.browser
def test_a_page_shows_who_is_typing_until_it_is_sent_or_nobody_types(room: AppServer, browser: Browser) -> None:
    with ExitStack() as stack:
        ann, bob = (visit(room, browser, stack, user) for user in ("ann", "bob"))
        typing = bob.locator("#typing")
        expect(bob.locator("#here")).to_have_text("here: ann, bob")
        ann.locator("input").press_sequentially("Hel")
        expect(typing).to_have_text("typing: ann")
        expect(typing).to_have_text("typing: ")  # three seconds without a key
        ann.locator("input").press_sequentially("lo")
        expect(typing).to_have_text("typing: ann")
        with ann.expect_response(lambda answer: answer.request.method == "DELETE") as deleted:
            ann.locator("button").click()
        assert deleted.value.ok
        expect(typing).to_have_text("typing: ")


def test_a_renewal_is_not_an_event_and_a_restart_forgets_nobody(files: dict[str, str]) -> None:
    names = imported("room", quickened(files["room.py"], NEVER))
    with (
        AppServer(names["app"], names["feed"]) as server,
        httpx.Client(base_url=server.url, headers={"Cookie": "user=ann", "Accept": "application/json"}) as ann,
    ):
        assert [ann.put(f"/here/{tab}").status_code for tab in (1, 1, 1, 2)] == [200] * 4
        events = ann.get("/live/events/room/**").json()["events"]
        assert [event["topic"] for event in events] == ["room/here/ann/1", "room/here/ann/2"]
        assert [ann.post(f"/gone/{tab}").status_code for tab in (1, 1, 7)] == [200] * 3
        server.restart()
        state = ann.get("/live/events/room/**?latest=1").json()
        assert [event["topic"] for event in state["events"]] == ["room/here/ann/2"]
        ann.put("/here/2")
        events = ann.get("/live/events/room/**").json()["events"]
        assert [event["type"] for event in events] == ["message", "message", "feed.deleted"]
        assert ann.post("/live/events/room/here/bob/1", content="x").status_code == 403
        assert httpx.put(f"{server.url}/here/1").status_code == 401


def test_whoever_has_a_stream_open_is_here_until_the_last_one_is_closed(
    files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    room = ModuleType("room")
    exec(compile(files["room.py"], "room.py", "exec", dont_inherit=True), room.__dict__)
    monkeypatch.setitem(sys.modules, "room", room)
    source = files["streams.py"].replace("SECONDS = 3.0", "SECONDS = 0.4")
    assert source != files["streams.py"]
    names = imported("streams", source)
    with AppServer(names["app"], names["feed"]) as server, ExitStack() as stack:

        def users() -> list[str]:
            headers = {"Accept": "application/json", "Cookie": "user=eve"}
            page = httpx.get(f"{server.url}/live/events/room/here/*/*?latest=1", headers=headers).json()
            return sorted(event["topic"].split("/")[2] for event in page["events"])

        streams = []
        for user in ("ann", "bob", "ann"):
            opened = stack.enter_context(ExitStack())
            opened.enter_context(
                httpx.stream("GET", f"{server.url}/live/events/room/chat", headers={"Cookie": f"user={user}"})
            )
            streams.append(opened)
        eventually(lambda: users() == ["ann", "bob"])
        streams[0].close()  # ann has another tab
        streams[1].close()
        eventually(lambda: users() == ["ann"])
        streams[2].close()
        eventually(lambda: users() == [])


# Tests that run in the background of a shell ignore Ctrl-C, and what they start inherits that.
_INTERRUPTIBLE = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_path('alive.py', run_name='__main__')"
)


def test_a_program_is_alive_until_it_ends_or_is_killed(server: RunningServer, files: dict[str, str]) -> None:
    source = files["alive.py"].replace(FEED_URL, server.url).replace("15.0", "3.0")
    Path("alive.py").write_text(source, encoding="utf-8")
    with subscribed(f"{server.url}/events/workers/1?latest=1&envelope=1") as stream:
        stream.until("feed.live")
        for how in (signal.SIGINT, signal.SIGKILL):
            with subprocess.Popen([sys.executable, "-c", _INTERRUPTIBLE], stderr=subprocess.DEVNULL) as process:
                assert stream.frame().json["data"] == {"state": "working"}
                process.send_signal(how)
            assert stream.frame().event == "feed.deleted"


def test_curl_says_that_it_is_alive_and_that_it_is_not(server: RunningServer, curl_program: str) -> None:
    [commands] = blocks(PAGE, "sh", "A program that is alive")
    begun, renewed, ended = run(commands.replace(FEED_URL, server.url).replace("curl ", f"{curl_program} -sS "))
    assert '"id":' in begun
    assert renewed.strip() == '{"topic":"workers/2"}'
    assert '"id":' in ended
    assert [event["type"] for event in server.history("workers/2")["events"]] == ["message", "feed.deleted"]
