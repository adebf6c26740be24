"""The recipe for threads and forks, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import feed as library
from feed.testing import AppServer
from tests.docs.saved import saved, section
from tests.docs.serving import page_of

PAGE = "docs/recipes/threads-and-forks.md"


def test_a_thread_publishes_once_however_often_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "shop"}
    exec(compile(saved(PAGE)["shop.py"], "shop.py", "exec", dont_inherit=True), names)
    with AppServer(names["app"], names["feed"]) as server:
        first, again = (httpx.post(f"{server.url}/import", timeout=20).json() for _ in range(2))
        with httpx.Client(base_url=f"{server.url}/live") as client:
            ids = [event["id"] for number in (1, 2) for event in page_of(client, f"orders/{number}")]
    assert first == again == ids


def test_the_errors_that_the_page_names_are_there() -> None:
    named = re.findall(r"^\| `(?:feed\.)?(\w+)` \|", section(PAGE, "From threads"), re.MULTILINE)
    assert named == ["Indeterminate", "FeedUnavailable", "RuntimeError"]
    assert set(named) - {"RuntimeError"} <= set(library.__all__)
