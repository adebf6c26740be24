"""The examples of the pages for people who embed the feed, run as they stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from feed.testing import AppServer
from tests.support.doc_blocks import blocks


def names_of(page: str, title: str) -> dict[str, Any]:
    """What the program of a page makes."""
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(blocks(page, title)[0], "shop.py", "exec", dont_inherit=True), names)
    return names


def test_the_dashboard_is_for_whom_the_login_lets_see_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = names_of("guides/embedding.md", "The dashboard, and what operators want")
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
