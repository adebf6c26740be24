"""The way of the page about tokens from nothing to a page with a cookie, walked as it stands there: the commands, the
page, a real Chromium; and the example for other people's applications."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.conftest import Serve
from tests.support import forking
from tests.support.browser import chromium, origin, watch
from tests.support.doc_blocks import blocks, section
from tests.support.redis_server import free_port
from tests.support.running import RunningServer
from tests.support.streams import eventually
from tests.support.tokens import SECRET, bearer, token

TOKENS = "guides/tokens.md"
FEED_URL = "http://localhost:8000"  # as the page has it


@pytest.fixture
def shop_port() -> int:
    return free_port()


@pytest.fixture
def feed(serve: Serve, shop_port: int) -> RunningServer:
    """Step 1."""
    return serve("--log", "memory:", jwt_secret=SECRET, origins=f"http://localhost:{shop_port}")


@pytest.fixture
def shop(feed: RunningServer, shop_port: int, tmp_path: Path) -> Iterator[str]:
    """Step 3: the application of the page, but for the ports."""
    source = blocks(TOKENS, "Letting people in")[0]
    assert FEED_URL in source
    (tmp_path / "shop.py").write_text(source.replace(FEED_URL, f"http://localhost:{feed.port}"))
    environment = {**os.environ, "FEED_JWT_SECRET": SECRET}
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(shop_port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as application:
        url = f"http://localhost:{shop_port}"
        try:
            eventually(lambda: answers(url))
            yield url
        finally:
            application.terminate()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.ConnectError:
        return False


def feed_command(*command: str, **environment: str) -> str:
    """What `feed` says with these arguments."""
    named = {name: value for name, value in os.environ.items() if not name.startswith("FEED_")} | environment
    done = forking.run(command, named, timeout=30)
    assert done.returncode == 0, done.stderr
    return str(done.stdout.decode().strip())


@pytest.mark.browser
def test_a_page_of_another_port_reads_with_a_cookie_what_a_backend_publishes_with_a_token(
    feed: RunningServer, shop: str
) -> None:
    made = feed_command(
        "token", "--publish", "orders/**", "--subject", "shop", "--expires", "30d", FEED_JWT_SECRET=SECRET
    )
    client = {"FEED_TOKEN": made, "FEED_URL": f"http://localhost:{feed.port}"}
    feed_command("publish", "orders/42", "before", **client)
    with chromium() as browser:
        page = browser.new_context().new_page()
        watched = watch(page, origin(shop), f"http://localhost:{feed.port}")
        page.goto(shop)
        expect(page.locator("#events li")).to_have_text(["before"])
        answer = httpx.post(f"{feed.url}/events/orders/42", content="Hello", headers=bearer(made))
        assert answer.status_code == 201
        feed_command("publish", "orders/42", "Hello again", **client)
        feed_command("publish", "orders/43", "not for this page", **client)
        feed_command("publish", "orders/42", "the last", **client)
        expect(page.locator("#events li")).to_have_text(["before", "Hello", "Hello again", "the last"])
        assert "feed_token" not in page.evaluate("document.cookie")
        assert watched.faults == []
    assert "valid" in feed_command("token", "--check", made, FEED_JWT_SECRET=SECRET)


def test_every_variable_and_option_of_the_page_is_there() -> None:
    text = section(TOKENS, "Letting people in") + section(TOKENS, "Rules")
    help = feed_command("serve", "--help", COLUMNS="200")
    for name in set(re.findall(r"FEED_[A-Z_]+[A-Z]", text)) - {"FEED_TOKEN"}:
        assert name in help, name
    for option in set(re.findall(r"feed token .*?(--\w+)", text)):
        assert option in feed_command("token", "--help")


def test_an_application_decides_for_itself_who_may_do_what(tmp_path: Path) -> None:
    host, authorize = blocks("guides/embedding.md", "Inside your FastAPI application")[:2]
    source = host.replace("app = FastAPI(", f"{authorize}\n\napp = FastAPI(").replace(
        "feed_router(feed)", "feed_router(feed, authorize=authorize)"
    )
    (tmp_path / "shop.py").write_text(source)
    command = [sys.executable, "-m", "uvicorn", "shop:app", "--port", str(port := free_port())]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL) as application:
        try:
            url = f"http://127.0.0.1:{port}"
            eventually(lambda: answers(f"{url}/docs"))
            alice = {"X-User": "alice"}
            with httpx.Client(base_url=f"{url}/live", headers={"Accept": "application/json"}) as client:
                statuses = [
                    client.post("/events/users/alice/inbox", content="x").status_code,
                    client.post("/events/users/alice/inbox", content="x", headers=alice).status_code,
                    client.post("/events/users/bob/inbox", content="x", headers=alice).status_code,
                    client.get("/events/news/today").status_code,
                    client.get("/events/users/alice/**").status_code,
                    client.get("/events/users/alice/**", headers=alice).status_code,
                    client.get("/events/**", headers=alice).status_code,
                    client.post(
                        "/events/users/alice/x", headers={**alice, "Origin": "https://evil.example"}
                    ).status_code,
                ]
            assert statuses == [401, 201, 403, 200, 401, 200, 403, 403]
        finally:
            application.terminate()


def test_a_token_as_the_page_writes_one_is_what_the_server_reads(feed: RunningServer) -> None:
    found = re.search(r"\| `feed` \| `(\{.*?\})`", section(TOKENS, "Rules"))
    assert found
    claim = json.loads(found[1])
    headers = bearer(token(claim["publish"], claim["subscribe"], admin=claim["admin"]))
    assert feed.http.post(f"{feed.url}/events/orders/1/lines", content="x", headers=headers).status_code == 201
