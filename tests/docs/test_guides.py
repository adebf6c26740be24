"""The examples of the guides that no other test runs: curl, the browser's own classes, a pair of keys, a dashboard."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page

from feed.testing import AppServer
from tests.support.browser import Watched
from tests.support.doc_blocks import blocks
from tests.support.running import FEED, RunningServer
from tests.support.streams import eventually

CURL = "guides/curl.md"
URL = "http://127.0.0.1:8000"  # as the pages have it


def shell(commands: str, server: RunningServer | None = None, folder: Path | None = None) -> str:
    """Run commands as a reader does, on a server of the test's own, with `feed` on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")}
    environment["PATH"] = f"{Path(FEED).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        ["sh", "-e", "-c", commands.replace(URL, server.url) if server else commands],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.usefixtures("curl_program")
def test_curl_publishes_and_subscribes_and_pages_as_its_guide_says(server: RunningServer) -> None:
    [commands] = blocks(CURL, "Publish and subscribe", "sh")
    subscribing = [line for line in commands.splitlines() if line.startswith("curl -N")]
    publishing = "\n".join(line for line in commands.splitlines() if line not in subscribing)
    answers = shell(publishing.replace("curl ", "curl -sS "), server)
    assert re.findall(r'"topic":"(.*?)"', answers) == ["orders/42", "orders/42"]
    assert len(re.findall(r'"ids":\["[^"]+","[^"]+"\]', answers)) == 1
    events = server.history("orders/*")["events"]
    assert [(event["topic"], event["type"], event["data"]) for event in events] == [
        ("orders/42", "message", "Hello"),
        ("orders/42", "created", {"total": 3}),
        ("orders/1", "message", "a"),
        ("orders/2", "message", {"total": 3}),
    ]
    assert [hears(line, server) for line in subscribing] == ["feed.open", "feed.open"]
    [page] = blocks(CURL, "The past", "sh")
    assert '"next":' in shell(page.replace("curl ", "curl -sS "), server)


def hears(command: str, server: RunningServer) -> str:
    """The first control event that a command without an end prints."""
    words = shlex.split(command.replace(URL, server.url), comments=True)
    with subprocess.Popen([*words, "-sS"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            return next(line.split()[1] for line in process.stdout if line.startswith("event: feed."))
        finally:
            process.kill()


@pytest.mark.browser
def test_an_event_source_gets_what_its_guide_says(server: RunningServer, page: Page, watched: Watched) -> None:
    [snippet] = blocks("guides/browser.md", "With `EventSource`", "js")
    page.goto(f"{server.url}/healthz")
    opened = "await new Promise((resolve) => source.addEventListener('feed.open', resolve)); console.log('open')"
    with page.expect_console_message(lambda message: message.text == "open"):
        page.add_script_tag(content=f"{snippet}\n{opened}", type="module")
    with page.expect_console_message(lambda message: message.text.endswith(" from the guide")) as said:
        published = server.publish("orders/77", "from the guide")
    assert said.value.text == f"{published} from the guide"


@pytest.mark.browser
def test_a_websocket_publishes_what_its_guide_says(server: RunningServer, page: Page, watched: Watched) -> None:
    [snippet] = blocks("guides/websocket.md", "Over a WebSocket", "js")
    page.goto(f"{server.url}/healthz")
    page.add_script_tag(content=snippet.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"), type="module")
    events = eventually(lambda: len(found := server.history("chat")["events"]) == 2 and found)
    assert [(event["type"], event["data"]) for event in events] == [("message", "Hello"), ("created", {"total": 3})]


def test_a_pair_of_keys_is_made_as_the_page_about_tokens_says(tmp_path: Path) -> None:
    [commands] = blocks("guides/tokens.md", "4. In production", "sh")
    *making, serving = commands.splitlines()
    token = shell("\n".join(making), folder=tmp_path).strip()
    variable, _, _ = serving.partition(" ")
    assert variable == "FEED_JWT_PUBLIC_KEY=public.pem"
    assert "valid" in shell(f"{variable} feed token --check {token}", folder=tmp_path)


def test_the_dashboard_is_for_whom_the_login_lets_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shop"}
    [block] = blocks("guides/embedding.md", "The dashboard, and what operators want")
    exec(compile(block, "shop.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        paths = ("/", "/assets/feed.js", "/readyz", "/events/a", "/metrics")
        statuses = {
            cookie: [
                httpx.get(
                    f"{server.url}/live{path}", headers={"Accept": "application/json", "Cookie": cookie}
                ).status_code
                for path in paths
            ]
            for cookie in ("", "user=ann", "user=boss")
        }
    assert statuses == {
        "": [200, 200, 200, 401, 401],
        "user=ann": [200, 200, 200, 200, 403],
        "user=boss": [200, 200, 200, 200, 200],
    }
