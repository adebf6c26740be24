"""The recipe for a board: the program and the page, as a reader saves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from feed.testing import AppServer
from tests.docs.saved import save, saved
from tests.support.browser import Watched

pytestmark = pytest.mark.browser


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AppServer]:
    monkeypatch.chdir(tmp_path)
    files = saved("docs/recipes/board.md")
    save(tmp_path, files)
    names: dict[str, Any] = {"__name__": "board"}
    exec(compile(files["board.py"], "board.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        yield server


def test_the_board_shows_what_is_also_after_an_outage_and_a_gap(
    server: AppServer, page: Page, watched: Watched
) -> None:
    for score in ("ada/1", "bob/7", "ada/12", "eve/3"):
        httpx.put(f"{server.url}/scores/{score}")
    page.goto(server.url)
    lines = page.locator("#board li")
    expect(lines).to_have_text(["ada: 12", "bob: 7", "eve: 3"])
    httpx.put(f"{server.url}/scores/eve/9")
    httpx.delete(f"{server.url}/scores/bob")
    expect(lines).to_have_text(["ada: 12", "eve: 9"])
    server.refuse()
    server.heal()
    httpx.delete(f"{server.url}/scores/ada")
    httpx.put(f"{server.url}/scores/bob/1")
    expect(lines).to_have_text(["eve: 9", "bob: 1"], timeout=30_000)
    server.restart()
    httpx.put(f"{server.url}/scores/bob/2")
    expect(lines).to_have_text(["eve: 9", "bob: 2"], timeout=30_000)
    server.gap()
    httpx.put(f"{server.url}/scores/kim/4")
    expect(lines).to_have_text(["kim: 4"], timeout=30_000)
