"""The README: its commands, its programs and its page, run as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import ConsoleMessage, Page

from tests.docs.commands import FEED_URL, reading, run
from tests.docs.saved import blocks, save, section
from tests.docs.serving import uvicorn
from tests.support.paths import ROOT
from tests.support.running import RunningServer
from tests.support.streams import eventually

PAGE = "README.md"
STEPS = "Five minutes"


def test_the_two_commands_are_words_of_make() -> None:
    words = re.findall(r"^make (\w+)", blocks(PAGE, "sh", "Two commands")[0], re.MULTILINE)
    assert words == ["serve", "test"]
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        assert re.search(rf"^{word}:", makefile, re.MULTILINE)


def test_what_is_published_in_the_first_step_is_printed(server: RunningServer, curl_program: str) -> None:
    commands = blocks(PAGE, "sh", STEPS)[0].replace(FEED_URL, server.url).replace("curl ", f"{curl_program} -sS ")
    first, *others = commands.splitlines()
    with reading(first) as printed:
        eventually(lambda: "feed.open" in printed())
        assert all('"topic":"orders/42"' in answer for answer in run("\n".join(others)))
        eventually(lambda: 'event: created\ndata: {"total": 3}\n' in printed())
    assert "\ndata: Hello\n" in printed()


@pytest.mark.browser
def test_the_page_of_the_third_step_reads_events(server: RunningServer, page: Page) -> None:
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        said.append(message.text)

    page.on("console", hear)
    id = server.publish("orders/7", "Hello")
    page.goto(f"{server.url}/assets/icon.svg")
    [script] = blocks(PAGE, "js", STEPS)
    page.evaluate(f"() => {{ {script} }}")
    assert server.http.post(f"{server.url}/events/orders/8?type=created", json={"total": 3}).status_code == 201
    eventually(lambda: page.evaluate("1") and len([each for each in said if "total" in each or "Hello" in each]) >= 2)
    assert f"{id} Hello" in said


def test_the_client_of_the_fourth_step_prints_what_it_gets(server: RunningServer, tmp_path: Path) -> None:
    program = blocks(PAGE, "python", STEPS)[0]
    assert FEED_URL in program
    save(tmp_path, {"example.py": program.replace(FEED_URL, server.url)})
    with reading(f"{sys.executable} -u {tmp_path / 'example.py'}") as printed:
        eventually(lambda: " orders/42 created {'total': 3}\n" in printed())
        id = server.publish("orders/43", "Hello")
        eventually(lambda: f"{id} orders/43 message Hello\n" in printed())


def test_the_application_of_the_fifth_step_publishes(tmp_path: Path) -> None:
    save(tmp_path, {"shop.py": blocks(PAGE, "python", STEPS)[1]})
    with uvicorn(tmp_path) as url:
        id = httpx.post(f"{url}/orders/7").json()["event"]
        page = httpx.get(f"{url}/live/events/orders/*", headers={"Accept": "application/json"}).json()
    assert [(event["id"], event["type"], event["data"]) for event in page["events"]] == [(id, "created", {"order": 7})]


def test_it_is_short_and_shows_its_pictures() -> None:
    text = section(PAGE)
    assert len(text.splitlines()) <= 200
    for picture in ("docs/dashboard-light.png", "docs/dashboard-dark.png"):
        assert f"]({picture})" in text
        assert (ROOT / picture).exists()


def test_the_commands_of_the_page_are_there() -> None:
    help = subprocess.run([sys.executable, "-m", "feed", "--help"], capture_output=True, text=True, timeout=60).stdout
    for command in set(re.findall(r"`feed (\w+)`", section(PAGE))):
        assert command in help
