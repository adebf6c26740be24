"""The tutorial, walked as it stands there: its commands, what it says one sees, its pages in a real Chromium."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import Serve
from tests.docs.commands import FEED_URL, reading, run
from tests.docs.saved import blocks, save, saved, section
from tests.docs.serving import serving, uvicorn
from tests.support.paths import ROOT
from tests.support.running import RunningServer, running
from tests.support.streams import eventually

PAGE = "docs/tutorial.md"


def step(number: int) -> str:
    """Return the title of a step."""
    found = re.search(rf"^## ({number}\. .*)$", section(PAGE), re.MULTILINE)
    assert found
    return found[1]


def shown(number: int, language: str = "text") -> list[str]:
    return blocks(PAGE, language, step(number))


def neutral(text: str) -> str:
    """Return what is the same each time: without the letters of a log, times, and the names of subscriptions."""
    text = re.sub(r"\b[a-z0-9]{8}-(\d+)", r"LOG-\1", text)
    text = re.sub(r"^retry: \d+$", "retry: N", text, flags=re.MULTILINE)
    return re.sub(r'"subscription":"\w+"', '"subscription":"S"', text)


def test_the_first_command_starts_the_server_as_the_makefile_does_it() -> None:
    [command] = shown(1, "sh")
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    words = ["sh", "-c", command.replace("make ", "make -n ")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=30, env=own)
    assert done.stdout.rstrip().endswith("/feed serve --origins http://localhost:3000"), done


def test_the_greeting_is_the_servers(tmp_path: Path) -> None:
    [greeting] = shown(1)
    with running(folder=tmp_path) as server:
        for line in greeting.splitlines():
            assert line.replace(FEED_URL, server.url) in server.output


def test_the_commands_print_what_the_page_shows(serve: Serve, curl_program: str) -> None:
    server = serve("--log", "memory:")

    def here(commands: str) -> str:
        return commands.replace(FEED_URL, server.url).replace("curl ", f"{curl_program} -sS ")

    beginning, (answers, events) = *shown(2), shown(3)
    with reading(here(shown(2, "sh")[0])) as printed:
        eventually(lambda: neutral(printed()) == neutral(beginning))
        answered = run(here(shown(3, "sh")[0]))
        assert neutral("".join(answered)) == neutral(answers)
        eventually(lambda: neutral(printed()) == neutral(beginning + events))
    while_away, back = shown(4, "sh")[:2]
    run(here(while_away))
    [last] = re.findall(r'"id":"(\w+-2)"', "".join(answered))
    with reading(here(re.sub(r"\w+-2\b", last, back))) as printed:
        eventually(lambda: neutral(printed()) == neutral(shown(4)[0]))


@pytest.mark.browser
def test_a_page_of_ones_own_shows_what_was_published_and_comes_back(
    serve: Serve, browser: Browser, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    with serving(folder, "http.server", "{port}") as url:
        origin = url.replace("127.0.0.1", "localhost")
        server: RunningServer = serve("--log", f"sqlite:{tmp_path / 'feed.db'}", origins=origin)
        page_file = saved(PAGE, step(5))["index.html"]
        assert "http://localhost:8000" in page_file
        save(folder, {"index.html": page_file.replace("http://localhost:8000", f"http://localhost:{server.port}")})
        for topic, data in (("orders/42", "Hello"), ("orders/43", "not for you"), ("orders/42", "You were away")):
            server.publish(topic, data)
        with browser.new_context() as context:
            page = context.new_page()
            page.goto(origin)
            expect(page.locator("#state")).to_have_text("live")
            lines = page.locator("#orders li")
            expect(lines).to_have_text(["orders/42: You were away", "orders/43: not for you", "orders/42: Hello"])
            for line in re.findall(r"^- (orders/.*)$", section(PAGE, step(5)), re.MULTILINE):
                assert line in [*lines.all_text_contents(), 'orders/42: {"total": 3}']
            server.stop()
            expect(page.locator("#state")).to_have_text("waiting")
            server.start()
            server.publish("orders/42", "after the restart")
            expect(lines.first).to_have_text("orders/42: after the restart", timeout=30_000)
            expect(page.locator("#state")).to_have_text("live")


@pytest.mark.browser
def test_in_ones_own_application_everybody_sees_their_own_orders(
    browser: Browser, tmp_path: Path, curl_program: str
) -> None:
    save(tmp_path, saved(PAGE, step(6)))
    with uvicorn(tmp_path) as url:
        with contextlib.ExitStack() as stack:
            pages = {}
            for name, password in {"ann": "apple", "bob": "banana"}.items():
                page = pages[name] = stack.enter_context(browser.new_context()).new_page()
                page.goto(url)
                page.fill("[name=name]", name)
                page.fill("[name=password]", password)
                page.click("#login button")
                expect(page.locator("#state")).to_have_text("live")
            for name, page in pages.items():
                page.fill("[name=item]", f"{name}'s bicycle")
                page.click("#order button")
            for name, page in pages.items():
                expect(page.locator("#orders li")).to_have_text([f"{name}'s bicycle"])
        [asked], [refused] = shown(7, "sh"), shown(7)
        [answer] = run(asked.replace("http://localhost:3000", url).replace("curl ", f"{curl_program} -sS "))
        assert answer.startswith("HTTP/1.1 401 Unauthorized")
        assert answer.rstrip().replace("\r\n", "\n").endswith(f"\n\n{refused.rstrip()}")
        [command] = shown(6, "sh")
        assert command.split() == ["uvicorn", "shop:app", "--port", "3000"]
